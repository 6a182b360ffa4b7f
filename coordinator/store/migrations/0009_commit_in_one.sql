-- A commit without functions within: each call of one cost it 30 to 50 us, for one task as much as its rows. What it does is what
-- it did. insert_executions and update_executions stay: a commit that is under way while this is applied still calls them.

create or replace function commit_batch(
  p_shards int[], p_leases uuid[],
  p_plans plan_row[], p_new_executions execution_static[], p_new_execution_states execution_state[],
  p_new_tasks task_static[], p_new_task_states task_state[],
  p_execution_states execution_state[], p_task_states task_state[],
  p_results result_row[], p_attempts attempt_row[], p_history history_row[], p_marks mark_row[]
) returns timestamptz language plpgsql as $$
declare
  touched bigint;
begin
  -- The fence, as check_fence: the rows of the shards are held for key share until the end of the transaction.
  perform 1 from shards s join unnest(p_shards, p_leases) f (shard, lease_id) on s.shard = f.shard and s.lease_id = f.lease_id
    for key share of s;
  get diagnostics touched = row_count;
  if touched <> cardinality(p_shards) then
    raise exception 'the lease of a shard is no longer held' using errcode = 'O8F01';
  end if;
  if cardinality(p_plans) > 0 then
    insert into plans (hash, plan) select p.hash, p.plan from unnest(p_plans) p on conflict do nothing;
  end if;
  if cardinality(p_new_executions) > 0 then
    insert into workflow_executions (
      id, user_id, workflow_name, status, created_at, updated_at, started_at, completed_at, metadata, tags, plan_hash, input, output,
      error, cancel_requested_at, event_sequence, version)
    select n.id, n.user_id, n.workflow_name, n.status, n.created_at, n.created_at, n.started_at, n.completed_at, n.metadata, n.tags,
      n.plan_hash, n.input, n.output, n.error, n.cancel_requested_at, n.event_sequence, 1
    from unnest(p_new_executions, p_new_execution_states) n (
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
    from unnest(p_new_tasks, p_new_task_states) n (
      id, workflow_id, task_name, agent_name, task_description, phase, priority, queue, shard, max_retries, metadata, created_at,
      id_again, status, executor_id, started_at, completed_at, result, error, error_type, retry_count, next_retry_at, attempt,
      losses_in_row, releases_in_row, dispatch_id, dispatch_sequence, run_id, incarnation, ask_first, due_at);
  end if;
  -- Raises O8V01 when an execution has another version than the one that was read.
  if cardinality(p_execution_states) > 0 then
    update workflow_executions e set
      status = s.status, updated_at = clock_timestamp(), started_at = s.started_at, completed_at = s.completed_at,
      output = coalesce(s.output, e.output), error = s.error, cancel_requested_at = s.cancel_requested_at,
      event_sequence = s.event_sequence, version = e.version + 1
    from unnest(p_execution_states) s where e.id = s.id and e.version = s.version;
    get diagnostics touched = row_count;
    if touched <> cardinality(p_execution_states) then
      raise exception 'an execution has another version than expected' using errcode = 'O8V01';
    end if;
  end if;
  if cardinality(p_task_states) > 0 then
    update task_executions t set
      status = s.status, executor_id = s.executor_id, started_at = s.started_at, completed_at = s.completed_at,
      result = coalesce(s.result, t.result), error = s.error, error_type = s.error_type, retry_count = s.retry_count,
      next_retry_at = s.next_retry_at, attempt = s.attempt, losses_in_row = s.losses_in_row, releases_in_row = s.releases_in_row,
      dispatch_id = s.dispatch_id, dispatch_sequence = s.dispatch_sequence, run_id = s.run_id, incarnation = s.incarnation,
      ask_first = s.ask_first, due_at = s.due_at,
      queued_at = case when s.status = 'queued' and s.dispatch_id is distinct from t.dispatch_id then now() else t.queued_at end
    from unnest(p_task_states) s where t.id = s.id;
    get diagnostics touched = row_count;
    if touched <> cardinality(p_task_states) then
      raise exception 'a task is missing' using errcode = 'O8V01';
    end if;
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
    insert into dispatch_marks as m (shard, queue, priority, published_through, tried_through, stream_incarnation, checkpoints)
    select r.shard, r.queue, r.priority, r.published_through, r.tried_through, r.stream_incarnation, r.checkpoints
    from unnest(p_marks) r
    on conflict (shard, queue, priority) do update set
      published_through = excluded.published_through, tried_through = greatest(m.tried_through, excluded.tried_through),
      stream_incarnation = excluded.stream_incarnation, checkpoints = excluded.checkpoints;
  end if;
  return clock_timestamp();
end $$;
