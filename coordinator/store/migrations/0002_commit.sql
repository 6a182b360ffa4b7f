-- The one way in for changes: every batch of a lane is one call of commit_batch, so fence, rows and versions
-- stand or fall together in one round trip. Composite types carry the rows; a change of a table that the engine
-- writes comes with new types and a new version of the functions, so that two versions of the coordinator can run.

create type plan_row as (hash bytea, plan jsonb);
create type execution_static as (
  id uuid, user_id text, workflow_name text, created_at timestamptz, metadata jsonb, tags jsonb, plan_hash bytea, input jsonb
);
create type execution_state as (
  id uuid, version bigint, status text, started_at timestamptz, completed_at timestamptz, output jsonb, error text,
  cancel_requested_at timestamptz, event_sequence bigint
);
create type task_static as (
  id uuid, workflow_id uuid, task_name text, agent_name text, task_description text, phase text, priority text, queue text,
  shard int, max_retries int, metadata jsonb, created_at timestamptz
);
create type task_state as (
  id uuid, status text, executor_id text, started_at timestamptz, completed_at timestamptz, result jsonb, error text,
  error_type text, retry_count int, next_retry_at timestamptz, attempt int, losses_in_row int, releases_in_row int,
  dispatch_id uuid, dispatch_sequence bigint, run_id uuid, incarnation uuid, ask_first boolean, due_at timestamptz
);
create type result_row as (task_execution_id uuid, result_content jsonb);
create type attempt_row as (
  task_execution_id uuid, attempt int, run_id uuid, executor_id text, started_at timestamptz, ended_at timestamptz, outcome text,
  error_type text, error text, exit_code int, cpu_time_us bigint, memory_peak_bytes bigint, stdout_tail text, stderr_tail text
);
create type history_row as (workflow_id uuid, sequence bigint, events jsonb);
create type mark_row as (
  shard int, queue text, priority text, published_through bigint, tried_through bigint, stream_incarnation text, checkpoints jsonb
);
create type position_row as (
  shard int, lease_id uuid, stream_incarnation text, outcome_sequence bigint, outcome_time timestamptz
);

-- Raises O8F01 unless every given lease is still held. Takes each shard's row for key share until the end of the
-- transaction: a takeover, which takes it for update, waits for us or makes us fail.
create function check_fence(p_shards int[], p_leases uuid[]) returns void language plpgsql as $$
declare
  held bigint;
begin
  select count(*) into held from (
    select 1 from shards s join unnest(p_shards, p_leases) f (shard, lease_id) on s.shard = f.shard and s.lease_id = f.lease_id
    where s.expires_at > clock_timestamp()
    for key share of s
  ) fenced;
  if held <> cardinality(p_shards) then
    raise exception 'the lease of a shard is no longer held' using errcode = 'O8F01';
  end if;
end $$;

create function save_marks(p_marks mark_row[]) returns void language sql as $$
  insert into dispatch_marks as m (shard, queue, priority, published_through, tried_through, stream_incarnation, checkpoints)
  select r.shard, r.queue, r.priority, r.published_through, r.tried_through, r.stream_incarnation, r.checkpoints
  from unnest(p_marks) r
  on conflict (shard, queue, priority) do update set
    published_through = excluded.published_through, tried_through = greatest(m.tried_through, excluded.tried_through),
    stream_incarnation = excluded.stream_incarnation, checkpoints = excluded.checkpoints
$$;

create function insert_executions(
  p_plans plan_row[], p_static execution_static[], p_states execution_state[], p_task_static task_static[], p_task_states task_state[]
) returns void language plpgsql as $$
begin
  if cardinality(p_plans) > 0 then
    insert into plans (hash, plan) select p.hash, p.plan from unnest(p_plans) p on conflict do nothing;
  end if;
  insert into workflow_executions (
    id, user_id, workflow_name, status, created_at, updated_at, started_at, completed_at, metadata, tags, plan_hash, input, output,
    error, cancel_requested_at, event_sequence, version)
  select n.id, n.user_id, n.workflow_name, n.status, n.created_at, n.created_at, n.started_at, n.completed_at, n.metadata, n.tags,
    n.plan_hash, n.input, n.output, n.error, n.cancel_requested_at, n.event_sequence, 1
  from unnest(p_static, p_states) n (
    id, user_id, workflow_name, created_at, metadata, tags, plan_hash, input,
    id_again, version, status, started_at, completed_at, output, error, cancel_requested_at, event_sequence);
  insert into task_executions (
    id, workflow_id, task_name, agent_name, task_description, phase, status, priority, queue, executor_id, created_at, started_at,
    completed_at, result, error, error_type, retry_count, max_retries, next_retry_at, metadata, shard, attempt, losses_in_row,
    releases_in_row, dispatch_id, dispatch_sequence, run_id, incarnation, ask_first, due_at)
  select n.id, n.workflow_id, n.task_name, n.agent_name, n.task_description, n.phase, n.status, n.priority, n.queue, n.executor_id,
    n.created_at, n.started_at, n.completed_at, n.result, n.error, n.error_type, n.retry_count, n.max_retries, n.next_retry_at,
    n.metadata, n.shard, n.attempt, n.losses_in_row, n.releases_in_row, n.dispatch_id, n.dispatch_sequence, n.run_id, n.incarnation,
    n.ask_first, n.due_at
  from unnest(p_task_static, p_task_states) n (
    id, workflow_id, task_name, agent_name, task_description, phase, priority, queue, shard, max_retries, metadata, created_at,
    id_again, status, executor_id, started_at, completed_at, result, error, error_type, retry_count, next_retry_at, attempt,
    losses_in_row, releases_in_row, dispatch_id, dispatch_sequence, run_id, incarnation, ask_first, due_at);
end $$;

-- Raises O8V01 when an execution has another version than the one that was read.
create function update_executions(p_states execution_state[], p_task_states task_state[]) returns void language plpgsql as $$
declare
  changed bigint;
begin
  update workflow_executions e set
    status = s.status, updated_at = clock_timestamp(), started_at = s.started_at, completed_at = s.completed_at,
    output = coalesce(s.output, e.output), error = s.error, cancel_requested_at = s.cancel_requested_at,
    event_sequence = s.event_sequence, version = e.version + 1
  from unnest(p_states) s where e.id = s.id and e.version = s.version;
  get diagnostics changed = row_count;
  if changed <> cardinality(p_states) then
    raise exception 'an execution has another version than expected' using errcode = 'O8V01';
  end if;
  update task_executions t set
    status = s.status, executor_id = s.executor_id, started_at = s.started_at, completed_at = s.completed_at,
    result = coalesce(s.result, t.result), error = s.error, error_type = s.error_type, retry_count = s.retry_count,
    next_retry_at = s.next_retry_at, attempt = s.attempt, losses_in_row = s.losses_in_row, releases_in_row = s.releases_in_row,
    dispatch_id = s.dispatch_id, dispatch_sequence = s.dispatch_sequence, run_id = s.run_id, incarnation = s.incarnation,
    ask_first = s.ask_first, due_at = s.due_at
  from unnest(p_task_states) s where t.id = s.id;
  get diagnostics changed = row_count;
  if changed <> cardinality(p_task_states) then
    raise exception 'a task is missing' using errcode = 'O8V01';
  end if;
end $$;

-- One batch of one lane. Returns the database's clock.
create function commit_batch(
  p_shards int[], p_leases uuid[],
  p_plans plan_row[], p_new_executions execution_static[], p_new_execution_states execution_state[],
  p_new_tasks task_static[], p_new_task_states task_state[],
  p_execution_states execution_state[], p_task_states task_state[],
  p_results result_row[], p_attempts attempt_row[], p_history history_row[], p_marks mark_row[]
) returns timestamptz language plpgsql as $$
begin
  perform check_fence(p_shards, p_leases);
  if cardinality(p_new_executions) > 0 then
    perform insert_executions(p_plans, p_new_executions, p_new_execution_states, p_new_tasks, p_new_task_states);
  end if;
  if cardinality(p_execution_states) > 0 then
    perform update_executions(p_execution_states, p_task_states);
  end if;
  if cardinality(p_results) > 0 then
    insert into task_results (task_execution_id, result_type, result_content)
    select r.task_execution_id, 'summary', r.result_content from unnest(p_results) r;
  end if;
  if cardinality(p_attempts) > 0 then
    insert into task_attempts (
      task_execution_id, attempt, run_id, executor_id, started_at, ended_at, outcome, error_type, error, exit_code, cpu_time_us,
      memory_peak_bytes, stdout_tail, stderr_tail)
    select a.* from unnest(p_attempts) a on conflict do nothing;
  end if;
  if cardinality(p_history) > 0 then
    insert into workflow_events (workflow_id, sequence, events, created_at)
    select h.workflow_id, h.sequence, h.events, clock_timestamp() from unnest(p_history) h;
  end if;
  if cardinality(p_marks) > 0 then
    perform save_marks(p_marks);
  end if;
  return clock_timestamp();
end $$;

-- Renews leases and saves positions and marks with them. Raises O8F01 when a lease is no longer held. One that has run out
-- and was not taken is still its owner's: every take draws a new lease id, under the lock of the row.
create function renew_shards(p_positions position_row[], p_lease_ms bigint, p_marks mark_row[])
returns table (now timestamptz, next_due timestamptz, inbox boolean) language plpgsql as $$
declare
  renewed bigint;
  owned int[];
begin
  select array_agg(p.shard) into owned from unnest(p_positions) p;
  update shards s set
    expires_at = clock_timestamp() + p_lease_ms * interval '1 millisecond',
    stream_incarnation = p.stream_incarnation, outcome_sequence = p.outcome_sequence, outcome_time = p.outcome_time,
    outcome_sequence_safe = case when s.stream_incarnation is distinct from p.stream_incarnation then null
      when s.outcome_aging_since < clock_timestamp() - interval '10 minutes' then s.outcome_sequence_aging
      else s.outcome_sequence_safe end,
    outcome_sequence_aging = case when s.stream_incarnation is distinct from p.stream_incarnation or s.outcome_aging_since is null
      or s.outcome_aging_since < clock_timestamp() - interval '10 minutes' then p.outcome_sequence else s.outcome_sequence_aging end,
    outcome_aging_since = case when s.stream_incarnation is distinct from p.stream_incarnation or s.outcome_aging_since is null
      or s.outcome_aging_since < clock_timestamp() - interval '10 minutes' then clock_timestamp() else s.outcome_aging_since end
  from unnest(p_positions) p
  where s.shard = p.shard and s.lease_id = p.lease_id;
  get diagnostics renewed = row_count;
  if renewed <> cardinality(p_positions) then
    raise exception 'the lease of a shard is no longer held' using errcode = 'O8F01';
  end if;
  if cardinality(p_marks) > 0 then
    perform save_marks(p_marks);
  end if;
  return query select clock_timestamp(),
    (select min(first_due.due_at) from unnest(owned) o (shard) cross join lateral (
      select t.due_at from task_executions t where t.shard = o.shard and t.due_at is not null order by t.due_at limit 1) first_due),
    exists (select 1 from shard_inbox i where i.shard = any (owned));
end $$;

-- Takes shards that nobody owns, whose lease has run out, or that are ours already, under one new lease. The row is
-- taken for update, so whatever the old owner had under way has ended when this returns.
create function take_shards(p_shards int[], p_mine uuid[], p_lease uuid, p_owner text, p_lease_ms bigint)
returns setof shards language plpgsql as $$
begin
  -- Only what can be taken: a healthy owner's row is left alone.
  perform 1 from shards s where s.shard = any (p_shards)
    and (s.lease_id is null or s.expires_at <= clock_timestamp() or s.lease_id = any (p_mine)) order by s.shard for update;
  return query update shards s set
    lease_id = p_lease, owner = p_owner, expires_at = clock_timestamp() + p_lease_ms * interval '1 millisecond'
  where s.shard = any (p_shards)
    and (s.lease_id is null or s.expires_at <= clock_timestamp() or s.lease_id = any (p_mine))
  returning s.*;
end $$;

-- Gives shards back at once, for a coordinator that stops.
create function release_shards(p_leases uuid[]) returns void language sql as $$
  update shards set lease_id = null, owner = null, expires_at = null where lease_id = any (p_leases)
$$;

create type key_row as (key text, body_hash bytea, execution_ids uuid[]);

-- Reserves keys, or says what they stand for, in the order of the keys. The reservation does not wait for the disk: the
-- commit of the batch that makes the executions, later in the log, makes it durable with them.
create function reserve_keys(p_keys key_row[])
returns table (key text, reserved boolean, body_hash bytea, execution_ids uuid[], made boolean) language plpgsql as $$
declare
  ours text[];
begin
  perform set_config('synchronous_commit', 'off', true);
  with inserted as (
    insert into idempotency_keys as k (key, body_hash, execution_ids)
    select n.key, n.body_hash, n.execution_ids from unnest(p_keys) n order by n.key
    on conflict do nothing returning k.key)
  select coalesce(array_agg(i.key), '{}') into ours from inserted i;
  return query select k.key, k.key = any (ours), k.body_hash, k.execution_ids,
    k.key <> all (ours) and exists (select 1 from workflow_executions e where e.id = k.execution_ids[1])
  from idempotency_keys k where k.key in (select n.key from unnest(p_keys) n);
end $$;
