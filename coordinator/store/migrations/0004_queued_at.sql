-- Since when a task waits for an executor: for the age of the oldest queued task, and for reports on waiting. The default serves
-- the insert; what is queued later is stamped by the update. A version without this migration writes both without knowing.

alter table task_executions add column queued_at timestamptz;
alter table task_executions alter column queued_at set default now();
comment on column task_executions.queued_at is 'When it was last queued; before that, when it was accepted. Null for tasks older than this column.';

create or replace function update_executions(p_states execution_state[], p_task_states task_state[]) returns void language plpgsql as $$
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
    ask_first = s.ask_first, due_at = s.due_at,
    queued_at = case when s.status = 'queued' and s.dispatch_id is distinct from t.dispatch_id then now() else t.queued_at end
  from unnest(p_task_states) s where t.id = s.id;
  get diagnostics changed = row_count;
  if changed <> cardinality(p_task_states) then
    raise exception 'a task is missing' using errcode = 'O8V01';
  end if;
end $$;
