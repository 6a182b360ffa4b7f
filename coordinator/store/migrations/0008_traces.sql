-- Traces outlive the process that accepted an execution, so what joins one is kept with it. A version without this migration
-- neither writes nor reads the column: what it accepts has no trace, what it works on keeps its own.

alter table workflow_executions add column traceparent text;
comment on column workflow_executions.traceparent is 'W3C traceparent of the span that submitted it: its trace, and the parent of its own span. Null: nobody traces it.';

-- A batch with new executions that somebody traces. Most have none, and pay nothing.
create function commit_batch(
  p_shards int[], p_leases uuid[],
  p_plans plan_row[], p_new_executions execution_static[], p_new_execution_states execution_state[],
  p_new_tasks task_static[], p_new_task_states task_state[],
  p_execution_states execution_state[], p_task_states task_state[],
  p_results result_row[], p_attempts attempt_row[], p_history history_row[], p_marks mark_row[], p_inbox uuid[],
  p_traced uuid[], p_traceparents text[]
) returns timestamptz language plpgsql as $$
declare
  committed timestamptz;
begin
  committed := commit_batch(p_shards, p_leases, p_plans, p_new_executions, p_new_execution_states, p_new_tasks, p_new_task_states,
    p_execution_states, p_task_states, p_results, p_attempts, p_history, p_marks, p_inbox);
  update workflow_executions e set traceparent = t.traceparent
  from unnest(p_traced, p_traceparents) t (id, traceparent) where e.id = t.id;
  return committed;
end $$;
