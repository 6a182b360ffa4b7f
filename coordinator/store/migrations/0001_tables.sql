-- The truth. Users know the tables workflow_executions, task_executions, task_results, notifications,
-- webhook_callbacks and scheduled_tasks by these names and may report over them with plain SQL.
-- Times are the database's own. Status and priority columns hold the words of the API.

create table installation (
  id uuid primary key default gen_random_uuid(),
  shard_count int not null check (shard_count between 1 and 4096),
  created_at timestamptz not null default now()
);
comment on table installation is 'One row: what this database is. Streams and executors are checked against its id.';
comment on column installation.id is 'Drawn when the database is initialised.';
comment on column installation.created_at is 'When the database was initialised.';
comment on column installation.shard_count is 'Fixed for the life of the database: every id carries its shard.';
create unique index installation_is_single on installation ((true));
comment on index installation_is_single is 'Serves no query: it keeps the table at one row.';

create table shards (
  shard int primary key,
  lease_id uuid,
  owner text,
  expires_at timestamptz,
  stream_incarnation text,
  outcome_sequence bigint,
  outcome_time timestamptz,
  outcome_sequence_safe bigint,
  outcome_sequence_aging bigint,
  outcome_aging_since timestamptz
);
comment on table shards is 'Who owns each shard, and how far its outcomes are committed. Every commit of an owner checks its row.';
comment on column shards.shard is 'From 0 to shard_count - 1.';
comment on column shards.lease_id is 'Drawn at random by each ownership and compared by equality; null: nobody owns the shard.';
comment on column shards.owner is 'Name of the coordinator, a label.';
comment on column shards.expires_at is 'On the clock of the database; renewed by the owner.';
comment on column shards.stream_incarnation is 'The creation of the outcome stream that outcome_sequence belongs to.';
comment on column shards.outcome_sequence is 'Every outcome of this shard up to this stream sequence is committed.';
comment on column shards.outcome_time is 'Timestamp of that message on the clock of the NATS server.';
comment on column shards.outcome_sequence_safe is 'A position that is at least ten minutes old: the stream may be purged below it, so that a database that fails over to a replica replays what it missed.';
comment on column shards.outcome_sequence_aging is 'The position that becomes the safe one next.';
comment on column shards.outcome_aging_since is 'When outcome_sequence_aging was taken.';

create table dispatch_marks (
  shard int not null,
  queue text not null,
  priority text not null,
  published_through bigint not null default 0,
  tried_through bigint not null default 0,
  stream_incarnation text,
  checkpoints jsonb not null default '[]',
  primary key (shard, queue, priority)
);
comment on table dispatch_marks is 'How far the queued rows of a shard, queue and priority have been published.';
comment on column dispatch_marks.shard is 'Which shard.';
comment on column dispatch_marks.queue is 'Which queue.';
comment on column dispatch_marks.priority is 'Which priority.';
comment on column dispatch_marks.published_through is 'Every dispatch up to this sequence has its PubAck (or is no longer queued).';
comment on column dispatch_marks.tried_through is 'No dispatch above this sequence was ever tried; saved ahead of the attempts.';
comment on column dispatch_marks.stream_incarnation is 'The creation of the task stream that all this belongs to.';
comment on column dispatch_marks.checkpoints is 'Pairs [dispatch sequence, stream sequence] from PubAcks, sparse, ascending.';

create table plans (
  hash bytea primary key,
  plan jsonb not null,
  created_at timestamptz not null default now()
);
comment on table plans is 'Resolved definitions by the SHA-256 of their content; an execution stays pinned to its own.';
comment on column plans.hash is 'SHA-256 of the plans canonical JSON.';
comment on column plans.plan is 'The resolved definition.';
comment on column plans.created_at is 'When it was first used.';

create table workflow_definitions (
  name text not null,
  version int not null,
  plan_hash bytea not null references plans (hash),
  source text not null,
  created_at timestamptz not null default now(),
  primary key (name, version)
);
comment on table workflow_definitions is 'Named definitions as they were registered; the highest version is the current one.';
comment on column workflow_definitions.name is 'The name in the definition.';
comment on column workflow_definitions.version is 'Counts from 1.';
comment on column workflow_definitions.plan_hash is 'What it resolves to.';
comment on column workflow_definitions.created_at is 'When it was registered.';
comment on column workflow_definitions.source is 'The YAML or JSON text as it was given.';

create table workflow_executions (
  id uuid primary key,
  user_id text,
  workflow_name text not null,
  status text not null,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  started_at timestamptz,
  completed_at timestamptz,
  metadata jsonb not null default '{}',
  tags jsonb not null default '[]',
  plan_hash bytea not null,
  input jsonb not null default 'null',
  output jsonb,
  error text,
  cancel_requested_at timestamptz,
  event_sequence bigint not null default 0,
  version bigint not null default 1
);
comment on table workflow_executions is 'One row per execution of a workflow; a single task is an execution of the workflow named task.';
comment on column workflow_executions.created_at is 'When it was accepted.';
comment on column workflow_executions.cancel_requested_at is 'When somebody cancelled it as a whole.';
comment on column workflow_executions.id is 'Time-ordered (UUIDv7 layout), with the shard in bits 64-75; its tasks have the ids that follow it.';
comment on column workflow_executions.user_id is 'On whose behalf, as the submitter said.';
comment on column workflow_executions.workflow_name is 'The name in the definition.';
comment on column workflow_executions.status is 'pending, running, paused, completed, failed or cancelled.';
comment on column workflow_executions.updated_at is 'Time of the last commit that changed the execution or one of its tasks.';
comment on column workflow_executions.started_at is 'When the first task became ready.';
comment on column workflow_executions.completed_at is 'When the last task ended.';
comment on column workflow_executions.metadata is 'The submitter''s own, an object.';
comment on column workflow_executions.tags is 'The submitter''s own, an array of text.';
comment on column workflow_executions.plan_hash is 'The plan it is pinned to.';
comment on column workflow_executions.input is 'What the expressions read as `input`.';
comment on column workflow_executions.output is 'The evaluated `output` of the definition.';
comment on column workflow_executions.error is 'Why it failed, for people.';
comment on column workflow_executions.event_sequence is 'Last sequence in workflow_events.';
comment on column workflow_executions.version is 'Counts commits; every change expects the version that it read.';

create table task_executions (
  id uuid primary key,
  workflow_id uuid not null,
  task_name text not null,
  agent_name text not null,
  task_description text not null,
  phase text,
  status text not null,
  priority text not null,
  queue text not null,
  executor_id text,
  created_at timestamptz not null,
  started_at timestamptz,
  completed_at timestamptz,
  result jsonb,
  error text,
  error_type text,
  retry_count int not null default 0,
  max_retries int not null default 0,
  next_retry_at timestamptz,
  metadata jsonb not null default '{}',
  shard int not null,
  attempt int not null default 0,
  losses_in_row int not null default 0,
  releases_in_row int not null default 0,
  dispatch_id uuid,
  dispatch_sequence bigint,
  run_id uuid,
  incarnation uuid,
  ask_first boolean not null default false,
  due_at timestamptz
) with (fillfactor = 85);
comment on table task_executions is 'One row per task of an execution, inserted when the execution is submitted.';
comment on column task_executions.workflow_id is 'Its execution.';
comment on column task_executions.task_name is 'Its name in the definition.';
comment on column task_executions.queue is 'Which executors may run it.';
comment on column task_executions.created_at is 'When its execution was accepted.';
comment on column task_executions.metadata is 'The submitters own, for a single task.';
comment on column task_executions.id is 'The execution''s id plus the task''s number in its last 20 bits: the rows of an execution lie together.';
comment on column task_executions.agent_name is 'The agent, else the handler, else the kind of the task.';
comment on column task_executions.task_description is 'The prompt (its source when it holds an expression), else the name of the task.';
comment on column task_executions.phase is 'The phase of the definition, if it has phases.';
comment on column task_executions.status is 'pending, queued, running, retrying, waiting, completed, failed, skipped or cancelled.';
comment on column task_executions.priority is 'critical, high, normal or low.';
comment on column task_executions.executor_id is 'Name of the executor that ran it last.';
comment on column task_executions.started_at is 'Start of the attempt that counted.';
comment on column task_executions.completed_at is 'When its outcome, its skip or its cancel was committed.';
comment on column task_executions.result is 'The output, when it has at most 2 KiB; larger ones are in task_results only.';
comment on column task_executions.error is 'Message of the last failure.';
comment on column task_executions.error_type is 'Stable word for the last failure: exit, signal, timeout, lost, expression and so on.';
comment on column task_executions.retry_count is 'Attempts after the first.';
comment on column task_executions.max_retries is 'Attempts after the first that the policy allows.';
comment on column task_executions.next_retry_at is 'When the next attempt is due, while retrying.';
comment on column task_executions.shard is 'The shard in the id, for the partial indexes.';
comment on column task_executions.attempt is 'Number of the current or last attempt, from 1; 0 before the first.';
comment on column task_executions.losses_in_row is 'Runs lost since the last that did not get lost.';
comment on column task_executions.releases_in_row is 'Releases as unsupported since the last attempt that began.';
comment on column task_executions.dispatch_id is 'The current publication; cleared when its outcome is decided.';
comment on column task_executions.dispatch_sequence is 'Its place within shard, queue and priority.';
comment on column task_executions.run_id is 'The holder: the run whose claim was granted.';
comment on column task_executions.incarnation is 'The executor process that holds it.';
comment on column task_executions.ask_first is 'The executor must have its claim granted before it starts.';
comment on column task_executions.due_at is 'When a timer changes this task: backoff, sleep or run_at.';
create index task_executions_queued on task_executions (shard, queue, priority, dispatch_sequence) where status = 'queued';
comment on index task_executions_queued is 'Recovery, feeding of held tasks, the reconciler, queue depths.';
create index task_executions_running on task_executions (shard, queue) where status = 'running';
comment on index task_executions_running is 'Recovery of leases, demand per queue.';
create index task_executions_due on task_executions (shard, due_at) where due_at is not null;
comment on index task_executions_due is 'Timers.';

create table task_attempts (
  task_execution_id uuid not null,
  attempt int not null,
  run_id uuid not null,
  executor_id text not null,
  started_at timestamptz,
  ended_at timestamptz not null,
  outcome text not null,
  error_type text,
  error text,
  exit_code int,
  cpu_time_us bigint not null default 0,
  memory_peak_bytes bigint not null default 0,
  stdout_tail text,
  stderr_tail text,
  primary key (task_execution_id, run_id)
);
comment on table task_attempts is 'Attempts that were claimed, failed, or wrote something; others leave no row.';
comment on column task_attempts.task_execution_id is 'Of which task.';
comment on column task_attempts.attempt is 'From 1.';
comment on column task_attempts.run_id is 'Which start.';
comment on column task_attempts.executor_id is 'Name of the executor.';
comment on column task_attempts.started_at is 'When the executor began, as far as is known.';
comment on column task_attempts.ended_at is 'When its end was decided.';
comment on column task_attempts.error_type is 'Stable word for what went wrong.';
comment on column task_attempts.error is 'What went wrong, for people.';
comment on column task_attempts.exit_code is 'Of the command.';
comment on column task_attempts.cpu_time_us is 'User and system time.';
comment on column task_attempts.memory_peak_bytes is 'Largest resident size of one process.';
comment on column task_attempts.outcome is 'completed, failed, released or lost.';
comment on column task_attempts.stdout_tail is 'The last 64 KiB.';
comment on column task_attempts.stderr_tail is 'The last 64 KiB.';

create table task_results (
  id uuid not null default gen_random_uuid(),
  task_execution_id uuid not null,
  result_type text not null check (result_type in ('file', 'summary', 'notification')),
  result_content jsonb not null,
  created_at timestamptz not null default now(),
  primary key (task_execution_id, id)
);
comment on table task_results is 'What tasks produced; the output of a completed task is its summary.';
comment on column task_results.id is 'Of this result.';
comment on column task_results.task_execution_id is 'Of which task.';
comment on column task_results.result_type is 'file, summary or notification.';
comment on column task_results.result_content is 'The output as JSON.';
comment on column task_results.created_at is 'When it was committed.';

create table workflow_events (
  workflow_id uuid not null,
  sequence bigint not null,
  events jsonb not null,
  created_at timestamptz not null,
  primary key (workflow_id, sequence)
);
comment on table workflow_events is 'History of an execution: the events of one commit in one row.';
comment on column workflow_events.workflow_id is 'Of which execution.';
comment on column workflow_events.events is 'A JSON array, as the API streams them.';
comment on column workflow_events.created_at is 'When they were committed.';
comment on column workflow_events.sequence is 'Sequence of the first event in the row; each further one counts up.';

create table idempotency_keys (
  key text primary key,
  body_hash bytea not null,
  execution_ids uuid[] not null,
  created_at timestamptz not null default now()
);
comment on table idempotency_keys is 'Idempotency-Key of a submission and the executions that it made.';
comment on column idempotency_keys.key is 'As given in the header.';
comment on column idempotency_keys.body_hash is 'SHA-256 of the request: another body under the same key is refused.';
comment on column idempotency_keys.execution_ids is 'In the order of the submissions.';
comment on column idempotency_keys.created_at is 'When the key was first used.';

create table shard_inbox (
  shard int not null,
  id uuid not null default gen_random_uuid(),
  event jsonb not null,
  created_at timestamptz not null default now(),
  primary key (shard, id)
);
comment on table shard_inbox is 'Events for a shard from elsewhere: written by the sender''s commit, deleted by the receiver''s.';
comment on column shard_inbox.shard is 'For whom.';
comment on column shard_inbox.id is 'Of this entry.';
comment on column shard_inbox.event is 'What happened or is wanted.';
comment on column shard_inbox.created_at is 'When it was sent.';

create table quarantined_events (
  id uuid primary key default gen_random_uuid(),
  shard int not null,
  workflow_id uuid,
  event jsonb not null,
  error text not null,
  created_at timestamptz not null default now()
);
comment on table quarantined_events is 'Events that could not be applied; the shard went on without them.';
comment on column quarantined_events.id is 'Of this entry.';
comment on column quarantined_events.shard is 'Whose lane met it.';
comment on column quarantined_events.workflow_id is 'The execution that it was for.';
comment on column quarantined_events.event is 'What is known of it.';
comment on column quarantined_events.error is 'Why it could not be applied.';
comment on column quarantined_events.created_at is 'When it was set aside.';

create table notifications (
  id uuid primary key default gen_random_uuid(),
  user_id text,
  workflow_id uuid not null,
  notification_type text not null,
  title text not null,
  message text not null,
  priority text not null default 'normal',
  metadata jsonb not null default '{}',
  delivered boolean not null default false,
  delivered_at timestamptz,
  created_at timestamptz not null default now()
);
comment on table notifications is 'Notifications to users about their executions.';
comment on column notifications.id is 'Of this notification.';
comment on column notifications.user_id is 'To whom.';
comment on column notifications.workflow_id is 'About which execution.';
comment on column notifications.notification_type is 'What kind of message.';
comment on column notifications.title is 'One line.';
comment on column notifications.message is 'The text.';
comment on column notifications.priority is 'critical, high, normal or low.';
comment on column notifications.metadata is 'More, an object.';
comment on column notifications.delivered is 'Whether it reached its user.';
comment on column notifications.delivered_at is 'When it did.';
comment on column notifications.created_at is 'When it was made.';

create table webhook_callbacks (
  id uuid primary key default gen_random_uuid(),
  task_execution_id uuid not null,
  callback_url text not null,
  method text not null default 'POST',
  payload jsonb not null default '{}',
  retry_count int not null default 0,
  status text not null default 'pending',
  last_attempt timestamptz
);
comment on table webhook_callbacks is 'Webhooks to be called when a task ends.';
comment on column webhook_callbacks.id is 'Of this call.';
comment on column webhook_callbacks.task_execution_id is 'About which task.';
comment on column webhook_callbacks.callback_url is 'Where to.';
comment on column webhook_callbacks.method is 'HTTP method.';
comment on column webhook_callbacks.payload is 'What is sent.';
comment on column webhook_callbacks.retry_count is 'Calls after the first.';
comment on column webhook_callbacks.status is 'pending, delivered or failed.';
comment on column webhook_callbacks.last_attempt is 'When it was called last.';

create table scheduled_tasks (
  id uuid primary key default gen_random_uuid(),
  agent_name text not null,
  prompt text not null,
  schedule text not null,
  options jsonb not null default '{}',
  active boolean not null default true,
  created_at timestamptz not null default now(),
  last_run timestamptz,
  next_run timestamptz
);
comment on table scheduled_tasks is 'Tasks that are submitted by a schedule.';
comment on column scheduled_tasks.id is 'Of this schedule.';
comment on column scheduled_tasks.agent_name is 'Who is to do it.';
comment on column scheduled_tasks.prompt is 'What is to be done.';
comment on column scheduled_tasks.schedule is 'When, as a cron expression.';
comment on column scheduled_tasks.options is 'How, as for a task.';
comment on column scheduled_tasks.active is 'Whether it is followed.';
comment on column scheduled_tasks.created_at is 'When it was made.';
comment on column scheduled_tasks.last_run is 'When it was followed last.';
comment on column scheduled_tasks.next_run is 'When it is due next.';
