//! One batch of a lane: fence, rows, versions and marks in one round trip.

use crate::StoreError;
use crate::rows::{
    AttemptRow, ExecutionState, ExecutionStatic, HistoryRow, MarkRow, PlanRow, ResultRow, TaskState, TaskStatic, column, int,
};
use orchestr8_core::execution::{AttemptRecord, Changes, Execution};
use orchestr8_core::plan::TaskIndex;
use orchestr8_proto::ids::LeaseId;
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::words::TaskStatus;
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::{Json, Uuid};
use std::sync::Arc;
use time::OffsetDateTime;

/// Outputs up to this many bytes of JSON are also in `task_executions.result`.
pub const RESULT_COLUMN_BYTES_MAX: usize = 2 * 1024;

/// The statement of every commit.
pub const COMMIT: &str = "select commit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

/// As [`COMMIT`], for a batch with events from the inbox.
pub const COMMIT_WITH_INBOX: &str = "select commit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";

/// As [`COMMIT_WITH_INBOX`], for a batch with new executions that somebody traces.
pub const COMMIT_WITH_TRACES: &str = "select commit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";

/// Every row that one batch writes, and the leases that must still be held.
#[derive(Debug, Default)]
pub struct Batch {
    shards: Vec<i32>,
    leases: Vec<Uuid>,
    plans: Vec<PlanRow>,
    new_executions: Vec<ExecutionStatic>,
    new_execution_states: Vec<ExecutionState>,
    new_tasks: Vec<TaskStatic>,
    new_task_states: Vec<TaskState>,
    execution_states: Vec<ExecutionState>,
    task_states: Vec<TaskState>,
    results: Vec<ResultRow>,
    attempts: Vec<AttemptRow>,
    history: Vec<HistoryRow>,
    marks: Vec<MarkRow>,
    inbox: Vec<Uuid>,
    traced: Vec<Uuid>,
    traceparents: Vec<String>,
}

/// What the engine does not keep of a submission.
#[derive(Debug, Clone)]
pub struct NewExecution {
    /// On whose behalf.
    pub user_id: Option<String>,
    /// The submitter's own, an object.
    pub metadata: Arc<Value>,
    /// The submitter's own.
    pub tags: Vec<String>,
    /// SHA-256 of the plan.
    pub plan_hash: [u8; 32],
    /// The plan itself, where the database may not have it yet.
    pub plan: Option<Value>,
}

impl Batch {
    /// The batch stands or falls with this lease.
    pub fn fence(&mut self, shard: u16, lease: LeaseId) {
        self.shards.push(i32::from(shard));
        self.leases.push(lease.0);
    }

    /// The batch decides this row of the inbox of one of its shards.
    pub fn decides(&mut self, inbox: Uuid) {
        self.inbox.push(inbox);
    }

    /// Marks to save with the batch.
    pub fn mark(&mut self, mark: MarkRow) {
        self.marks.push(mark);
    }

    /// A new execution with all its rows.
    ///
    /// # Panics
    /// When a plan has more tasks than ids: definitions bound them.
    pub fn insert(&mut self, execution: &mut Execution, new: NewExecution) {
        let changes = execution.committed();
        if let Some(plan) = new.plan {
            self.plans.push(PlanRow { hash: new.plan_hash.to_vec(), plan: Json(plan) });
        }
        if let Some(trace) = execution.trace {
            self.traced.push(execution.id.0);
            self.traceparents.push(trace.to_string());
        }
        let plan = execution.plan.clone();
        for index in 0..u32::try_from(plan.tasks.len()).expect("TASKS_MAX") {
            self.new_tasks.push(task_static(execution, index, &new.metadata));
            self.new_task_states.push(task_state(execution, index, &changes));
        }
        self.new_execution_states.push(execution_state(execution));
        self.new_executions.push(ExecutionStatic {
            id: execution.id.0,
            user_id: new.user_id,
            workflow_name: plan.name.clone(),
            created_at: execution.created_at.into(),
            metadata: Json(new.metadata),
            tags: Json(new.tags),
            plan_hash: new.plan_hash.to_vec(),
            input: Json(execution.input.clone()),
        });
        self.records(execution, changes);
    }

    /// What changed in an execution since its last commit.
    pub fn update(&mut self, execution: &mut Execution) {
        let expected = execution.version;
        let changes = execution.committed();
        if !changes.execution {
            return;
        }
        self.task_states.extend(changes.tasks.iter().map(|index| task_state(execution, *index, &changes)));
        self.execution_states.push(ExecutionState { version: expected, ..execution_state(execution) });
        self.records(execution, changes);
    }

    fn records(&mut self, execution: &mut Execution, changes: Changes) {
        let id = execution.id;
        self.attempts.extend(changes.attempts.into_iter().map(|attempt| attempt_row(id.task(attempt.task).0, attempt)));
        let results = changes.results.into_iter();
        self.results.extend(results.map(|(index, output)| ResultRow { task_execution_id: id.task(index).0, result_content: Json(output) }));
        if !changes.history.is_empty() {
            let count = i64::try_from(changes.history.len()).unwrap_or(i64::MAX);
            let sequence = execution.event_sequence - count + 1;
            self.history.push(HistoryRow { workflow_id: id.0, sequence, events: Json(changes.history) });
        }
        // The output is committed once; the row keeps it.
        execution.output = None;
    }

    /// Whether nothing but the fence would be checked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.new_executions.is_empty() && self.execution_states.is_empty() && self.marks.is_empty()
    }

    /// Whether there is not even a fence to check.
    #[must_use]
    pub fn is_unfenced(&self) -> bool {
        self.shards.is_empty()
    }
}

/// Commits the batch; returns the database's clock.
///
/// # Errors
/// [`StoreError::Fenced`] and [`StoreError::Version`]: recover. [`StoreError::Refused`]: nothing was written; bisect.
/// [`StoreError::Unavailable`]: the end is unknown; recover.
pub async fn commit(connection: &mut PgConnection, batch: &Batch) -> Result<Timestamp, StoreError> {
    let statement = match (batch.traced.is_empty(), batch.inbox.is_empty()) {
        (false, _) => COMMIT_WITH_TRACES,
        (true, false) => COMMIT_WITH_INBOX,
        (true, true) => COMMIT,
    };
    let query = sqlx::query_scalar(statement)
        .bind(&batch.shards)
        .bind(&batch.leases)
        .bind(&batch.plans)
        .bind(&batch.new_executions)
        .bind(&batch.new_execution_states)
        .bind(&batch.new_tasks)
        .bind(&batch.new_task_states)
        .bind(&batch.execution_states)
        .bind(&batch.task_states)
        .bind(&batch.results)
        .bind(&batch.attempts)
        .bind(&batch.history)
        .bind(&batch.marks);
    let query = if statement == COMMIT { query } else { query.bind(&batch.inbox) };
    let query = if statement == COMMIT_WITH_TRACES { query.bind(&batch.traced).bind(&batch.traceparents) } else { query };
    let now: OffsetDateTime = query.fetch_one(connection).await?;
    Ok(now.into())
}

fn execution_state(execution: &Execution) -> ExecutionState {
    ExecutionState {
        id: execution.id.0,
        version: execution.version,
        status: execution.status.as_str(),
        started_at: column(execution.started_at),
        completed_at: column(execution.completed_at),
        output: execution.output.clone().map(Json),
        error: execution.error.clone(),
        cancel_requested_at: column(execution.cancel_requested_at),
        event_sequence: execution.event_sequence,
    }
}

fn task_static(execution: &Execution, index: TaskIndex, metadata: &Arc<Value>) -> TaskStatic {
    let plan = &execution.plan;
    let planned = plan.task(index);
    let single = plan.tasks.len() == 1;
    TaskStatic {
        id: execution.id.task(index).0,
        workflow_id: execution.id.0,
        task_name: planned.name.clone(),
        agent_name: planned.agent_name.clone(),
        task_description: description(execution, index),
        phase: planned.phase.map(|phase| plan.phases[phase as usize].name.clone()),
        priority: planned.priority.as_str(),
        queue: planned.queue.clone(),
        shard: i32::from(execution.id.shard()),
        max_retries: int(planned.retry.max_attempts.saturating_sub(1)),
        metadata: Json(if single { metadata.clone() } else { Arc::new(Value::Object(serde_json::Map::new())) }),
        created_at: execution.created_at.into(),
    }
}

/// The prompt, else the task's name. A single task's prompt is in its input.
fn description(execution: &Execution, index: TaskIndex) -> String {
    let planned = execution.plan.task(index);
    let Some(prompt) = &planned.prompt else { return planned.name.clone() };
    let given = if execution.plan.tasks.len() == 1 { execution.input.get("prompt").and_then(Value::as_str) } else { None };
    match (given, &prompt.0) {
        (Some(given), _) => given.to_owned(),
        (None, Value::String(source)) => source.clone(),
        (None, other) => other.to_string(),
    }
}

fn task_state(execution: &Execution, index: TaskIndex, changes: &Changes) -> TaskState {
    let task = execution.task(index);
    let failure = task.failure.as_ref();
    TaskState {
        id: execution.id.task(index).0,
        status: task.status.0.as_str(),
        executor_id: task.executor.clone(),
        started_at: column(task.started_at),
        completed_at: column(task.completed_at),
        result: small_result(index, changes),
        error: failure.map(|failure| failure.message.clone()),
        error_type: failure.map(|failure| failure.error_type.clone()),
        retry_count: int(task.retry_count),
        next_retry_at: column(task.due_at.filter(|_| task.status.0 == TaskStatus::Retrying)),
        attempt: int(task.attempt),
        losses_in_row: int(task.losses_in_row),
        releases_in_row: int(task.releases_in_row),
        dispatch_id: task.dispatch.map(|dispatch| dispatch.id.0),
        dispatch_sequence: task.dispatch.map(|dispatch| dispatch.sequence),
        run_id: task.holder.map(|holder| holder.run_id.0),
        incarnation: task.holder.map(|holder| holder.incarnation.0),
        ask_first: task.dispatch.is_some_and(|dispatch| dispatch.ask_first),
        due_at: column(task.due_at),
    }
}

fn small_result(index: TaskIndex, changes: &Changes) -> Option<Json<Value>> {
    let (_, output) = changes.results.iter().rev().find(|(of, _)| *of == index)?;
    (output.to_string().len() <= RESULT_COLUMN_BYTES_MAX).then(|| Json(output.clone()))
}

fn attempt_row(task: Uuid, attempt: AttemptRecord) -> AttemptRow {
    let tail = |text: String| Some(text).filter(|text| !text.is_empty());
    AttemptRow {
        task_execution_id: task,
        attempt: int(attempt.attempt),
        run_id: attempt.run_id.0,
        executor_id: Arc::clone(&attempt.executor),
        started_at: column(attempt.started_at),
        ended_at: attempt.ended_at.into(),
        outcome: attempt.outcome.as_str(),
        error_type: attempt.failure.as_ref().map(|failure| failure.error_type.clone()),
        error: attempt.failure.as_ref().map(|failure| failure.message.clone()),
        exit_code: attempt.usage.exit_code,
        cpu_time_us: attempt.usage.cpu_time_us,
        memory_peak_bytes: attempt.usage.memory_peak_bytes,
        stdout_tail: tail(attempt.usage.stdout_tail),
        stderr_tail: tail(attempt.usage.stderr_tail),
    }
}
