//! Executions, plans and outputs for the engine: one query for all that is missing.

use crate::StoreError;
use futures::TryStreamExt;
use orchestr8_core::execution::{Dispatched, Execution, Failure, Holder, Status, Task};
use orchestr8_core::plan::Plan;
use orchestr8_proto::ids::{DispatchId, ExecutionId, Incarnation, RunId, TaskId};
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::traces::TraceParent;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::{Json, Uuid};
use sqlx::{PgConnection, Row};
use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use time::OffsetDateTime;

/// Executions with all their tasks; the wide columns come with the first task only.
pub const LOAD: &str = "
select e.id, e.version, e.status, e.created_at, e.started_at, e.completed_at, e.error, e.cancel_requested_at, e.event_sequence,
  e.traceparent,
  case when t.id = w.first_task then e.plan_hash end as plan_hash, case when t.id = w.first_task then e.input end as input,
  t.id as task_id, t.status as task_status, t.attempt, t.retry_count, t.losses_in_row, t.releases_in_row, t.dispatch_id,
  t.dispatch_sequence, t.run_id, t.incarnation, t.ask_first, t.due_at, t.executor_id, t.queued_at, t.started_at as task_started_at,
  t.completed_at as task_completed_at, t.error as task_error, t.error_type
from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as w (id, first_task, last_task)
join workflow_executions e on e.id = w.id
cross join lateral (select * from task_executions where id >= w.first_task and id <= w.last_task order by id) t";

/// Plans by hash.
pub const PLANS: &str = "select hash, plan from plans where hash = any ($1)";

/// Outputs of completed tasks.
pub const OUTPUTS: &str = "select task_execution_id, result_content from task_results
where task_execution_id = any ($1) and result_type = 'summary'";

/// Which of some executions exist.
pub const EXISTING: &str = "select id from workflow_executions where id = any ($1)";

/// Outputs that one query asks for: what the server has sent of it is read to its end, also where it was too much.
const OUTPUTS_IN_QUERY: usize = 64;

/// Outputs as they were asked for.
#[derive(Debug)]
pub enum Outputs {
    /// All; those of tasks without output are missing.
    All(HashMap<TaskId, Value>),
    /// They have more bytes than may be read together: none.
    TooLarge,
}

/// An execution without its plan.
#[derive(Debug)]
pub struct Loaded {
    /// Where its plan is.
    pub plan_hash: [u8; 32],
    /// What `input` is.
    pub input: Value,
    row: ExecutionRow,
    tasks: Vec<Task>,
}

#[derive(Debug)]
struct ExecutionRow {
    id: ExecutionId,
    version: i64,
    status: String,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
    error: Option<String>,
    cancel_requested_at: Option<Timestamp>,
    event_sequence: i64,
    trace: Option<TraceParent>,
}

impl Loaded {
    /// The execution, walked by its plan.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when rows and plan do not fit.
    pub fn with_plan(self, plan: Arc<Plan>) -> Result<Execution, StoreError> {
        if plan.tasks.len() != self.tasks.len() {
            let (rows, planned) = (self.tasks.len(), plan.tasks.len());
            return Err(StoreError::Unreadable(format!("execution {} has {rows} task rows, its plan {planned}", self.row.id)));
        }
        let mut execution = Execution::new(self.row.id, plan, Arc::new(self.input), self.row.created_at);
        execution.version = self.row.version;
        execution.status = word(&self.row.status)?;
        execution.started_at = self.row.started_at;
        execution.completed_at = self.row.completed_at;
        execution.error = self.row.error;
        execution.cancel_requested_at = self.row.cancel_requested_at;
        execution.event_sequence = self.row.event_sequence;
        execution.trace = self.row.trace;
        execution.tasks = self.tasks;
        execution.derive();
        Ok(execution)
    }
}

/// Loads executions; those that do not exist are missing from the answer.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
///
/// # Panics
/// Never: a row follows its execution.
pub async fn executions(connection: &mut PgConnection, ids: &[ExecutionId]) -> Result<Vec<Loaded>, StoreError> {
    let all: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let first: Vec<Uuid> = ids.iter().map(|id| id.task(0).0).collect();
    let last: Vec<Uuid> = ids.iter().map(|id| id.last_task().0).collect();
    // Row by row: all rows of a large execution would take several times the memory of its tasks.
    let mut rows = sqlx::query(LOAD).bind(all).bind(first).bind(last).fetch(connection);
    let mut loaded: Vec<Loaded> = Vec::new();
    while let Some(row) = rows.try_next().await? {
        let id: Uuid = row.try_get("id")?;
        if loaded.last().is_none_or(|last| last.row.id.0 != id) {
            loaded.push(execution(&row)?);
        }
        loaded.last_mut().expect("pushed above").tasks.push(task(&row)?);
    }
    Ok(loaded)
}

/// Which of these executions exist.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn existing(connection: &mut PgConnection, ids: &[ExecutionId]) -> Result<HashSet<ExecutionId>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let found: Vec<Uuid> = sqlx::query_scalar(EXISTING).bind(ids).fetch_all(connection).await?;
    Ok(found.into_iter().map(ExecutionId).collect())
}

/// Plans by their hashes.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn plans(connection: &mut PgConnection, hashes: &[[u8; 32]]) -> Result<HashMap<[u8; 32], Plan>, StoreError> {
    let hashes: Vec<Vec<u8>> = hashes.iter().map(|hash| hash.to_vec()).collect();
    let rows = sqlx::query(PLANS).bind(hashes).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((hash(row, "hash")?, row.try_get::<Json<Plan>, _>("plan")?.0))).collect()
}

/// Outputs of tasks, one after the other as they come, until they have more than `bytes_max` as JSON.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn outputs(connection: &mut PgConnection, tasks: &[TaskId], bytes_max: usize) -> Result<Outputs, StoreError> {
    let (mut outputs, mut bytes) = (HashMap::new(), 0);
    for asked in tasks.chunks(OUTPUTS_IN_QUERY) {
        let ids: Vec<Uuid> = asked.iter().map(|task| task.0).collect();
        let mut rows = sqlx::query(OUTPUTS).bind(ids).fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            bytes += row.try_get_raw(1)?.as_bytes().map_or(0, <[u8]>::len);
            if bytes > bytes_max {
                return Ok(Outputs::TooLarge);
            }
            outputs.insert(TaskId(row.try_get(0)?), row.try_get::<Json<Value>, _>(1)?.0);
        }
    }
    Ok(Outputs::All(outputs))
}

fn execution(row: &PgRow) -> Result<Loaded, StoreError> {
    let id: Uuid = row.try_get("id")?;
    Ok(Loaded {
        plan_hash: hash(row, "plan_hash")?,
        input: row.try_get::<Json<Value>, _>("input")?.0,
        row: ExecutionRow {
            id: ExecutionId::try_from(id).map_err(unreadable)?,
            version: row.try_get("version")?,
            status: row.try_get("status")?,
            created_at: row.try_get::<OffsetDateTime, _>("created_at")?.into(),
            started_at: time(row, "started_at")?,
            completed_at: time(row, "completed_at")?,
            error: row.try_get("error")?,
            cancel_requested_at: time(row, "cancel_requested_at")?,
            event_sequence: row.try_get("event_sequence")?,
            // Without its trace an execution goes on as well.
            trace: row.try_get::<Option<&str>, _>("traceparent")?.and_then(|text| text.parse().ok()),
        },
        tasks: Vec::new(),
    })
}

fn task(row: &PgRow) -> Result<Task, StoreError> {
    let failure = |error_type: Option<String>, message: Option<String>| {
        error_type.map(|error_type| Arc::new(Failure { error_type, message: message.unwrap_or_default() }))
    };
    Ok(Task {
        status: Status(word(row.try_get("task_status")?)?),
        attempt: count(row, "attempt")?,
        retry_count: count(row, "retry_count")?,
        losses_in_row: count(row, "losses_in_row")?,
        releases_in_row: count(row, "releases_in_row")?,
        dispatch: dispatch(row)?,
        holder: holder(row)?,
        due_at: time(row, "due_at")?,
        executor: row.try_get::<Option<String>, _>("executor_id")?.map(Arc::from),
        queued_at: time(row, "queued_at")?,
        started_at: time(row, "task_started_at")?,
        completed_at: time(row, "task_completed_at")?,
        failure: failure(row.try_get("error_type")?, row.try_get("task_error")?),
        upstreams_remaining: 0,
        changed: false,
    })
}

fn dispatch(row: &PgRow) -> Result<Option<Dispatched>, StoreError> {
    let Some(id) = row.try_get::<Option<Uuid>, _>("dispatch_id")? else { return Ok(None) };
    let sequence = row.try_get::<Option<i64>, _>("dispatch_sequence")?.unwrap_or(0);
    Ok(Some(Dispatched { id: DispatchId(id), sequence, ask_first: row.try_get("ask_first")? }))
}

fn holder(row: &PgRow) -> Result<Option<Holder>, StoreError> {
    let run: Option<Uuid> = row.try_get("run_id")?;
    let incarnation: Option<Uuid> = row.try_get("incarnation")?;
    Ok(run.zip(incarnation).map(|(run, incarnation)| Holder { run_id: RunId(run), incarnation: Incarnation(incarnation) }))
}

fn hash(row: &PgRow, name: &str) -> Result<[u8; 32], StoreError> {
    let bytes: Vec<u8> = row.try_get(name)?;
    bytes.try_into().map_err(|_| StoreError::Unreadable(format!("`{name}` is not a SHA-256")))
}

fn time(row: &PgRow, name: &str) -> Result<Option<Timestamp>, StoreError> {
    Ok(row.try_get::<Option<OffsetDateTime>, _>(name)?.map(Timestamp::from))
}

fn count(row: &PgRow, name: &str) -> Result<u32, StoreError> {
    u32::try_from(row.try_get::<i32, _>(name)?).map_err(unreadable)
}

fn word<W: FromStr<Err: Display>>(text: &str) -> Result<W, StoreError> {
    text.parse().map_err(unreadable)
}

fn unreadable(error: impl Display) -> StoreError {
    StoreError::Unreadable(error.to_string())
}
