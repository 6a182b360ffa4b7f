//! Tasks: those of an execution, a page newest first, one with its attempts, its result.

use super::{IdRange, PrefixMatch, ReadError, first_id_since, rfc3339, rfc3339_or_null, tags_filter, word};
use orchestr8_proto::ids::{ExecutionId, TaskId};
use orchestr8_proto::words::{Priority, TaskStatus};
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgExecutor, Row};
use time::OffsetDateTime;
use uuid::Uuid;

/// Attempts shown with one task, at most: the latest, each with up to 128 KiB of its output.
pub const ATTEMPTS_SHOWN_MAX: i64 = 20;

/// One task, as lists show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskRecord {
    /// Its id.
    pub task_id: Uuid,
    /// The execution it belongs to.
    pub workflow_id: Uuid,
    /// Its name in the definition.
    pub name: String,
    /// The agent, else the handler, else the kind.
    pub agent_name: String,
    /// The prompt, else the name.
    pub task_description: String,
    /// The phase it belongs to.
    pub phase: Option<String>,
    /// Its state.
    pub status: TaskStatus,
    /// Within its queue.
    pub priority: Priority,
    /// Which executors may run it.
    pub queue: String,
    /// Name of the executor that ran it last.
    pub executor_id: Option<String>,
    /// When it was accepted.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: OffsetDateTime,
    /// Start of the attempt that counted.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub started_at: Option<OffsetDateTime>,
    /// When its end was committed.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub completed_at: Option<OffsetDateTime>,
    /// When the next attempt is due, while retrying.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub next_retry_at: Option<OffsetDateTime>,
    /// When its timer moves it on, while waiting or retrying: the time that it was submitted for, the end of a sleep, the next attempt.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub due_at: Option<OffsetDateTime>,
    /// Attempts so far, the current one included.
    pub attempts: i32,
    /// Attempts in all that the policy allows.
    pub max_attempts: i32,
    /// Why it failed, or why it is tried again; an earlier attempt's failure is that attempt's alone.
    pub error: Option<String>,
    /// Stable word for it.
    pub error_type: Option<String>,
}

/// One task with everything that belongs to it alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskDetail {
    /// What lists show.
    #[serde(flatten)]
    pub record: TaskRecord,
    /// The name of its workflow; `task` for a single task.
    pub workflow_name: String,
    /// On whose behalf the execution runs.
    pub user_id: Option<String>,
    /// Of the execution, an array.
    pub tags: Value,
    /// Of the execution, an object.
    pub metadata: Value,
    /// The latest attempts that were claimed, failed or wrote something, oldest first.
    pub attempt_history: Vec<AttemptRecord>,
}

/// One attempt that left a trace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttemptRecord {
    /// From 1.
    pub attempt: i32,
    /// The start that it was.
    pub run_id: Uuid,
    /// Where it ran.
    pub executor_id: String,
    /// When the command started, if it did.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub started_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(serialize_with = "rfc3339")]
    pub ended_at: OffsetDateTime,
    /// `completed`, `failed`, `released` or `lost`.
    pub outcome: String,
    /// Stable word for the failure.
    pub error_type: Option<String>,
    /// Message of the failure.
    pub error: Option<String>,
    /// Of the command.
    pub exit_code: Option<i32>,
    /// CPU time of all its processes.
    pub cpu_time_us: i64,
    /// Largest memory.
    pub memory_peak_bytes: i64,
    /// The last 64 KiB.
    pub stdout_tail: Option<String>,
    /// The last 64 KiB.
    pub stderr_tail: Option<String>,
}

/// What a task produced, as far as it got.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskResult {
    /// Whose.
    pub task_id: Uuid,
    /// Its state.
    pub status: TaskStatus,
    /// The output of a completed task, else null.
    pub result: Value,
    /// `summary` for a completed task, else null.
    pub result_type: Option<&'static str>,
    /// The contents of its `file` results, an array.
    pub files_created: Value,
    /// When its end was committed.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub completed_at: Option<OffsetDateTime>,
    /// As in [`TaskRecord::error`].
    pub error: Option<String>,
    /// Stable word for it.
    pub error_type: Option<String>,
}

/// Which tasks a page holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskFilter {
    /// One of these states; empty: any.
    pub statuses: Vec<TaskStatus>,
    /// The execution has all of these tags.
    pub tags: Vec<String>,
    /// The execution runs on this user's behalf.
    pub user_id: Option<String>,
    /// Of this agent.
    pub agent_name: Option<String>,
    /// Accepted at or after this time.
    pub since: Option<OffsetDateTime>,
    /// The last id of the page before.
    pub before: Option<Uuid>,
    /// Rows, 1 to [`super::PAGE_ROWS_MAX`].
    pub rows: u16,
}

/// Which tasks of one execution a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutionPage {
    /// Whose.
    pub execution: ExecutionId,
    /// The last id of the page before.
    pub after: Option<TaskId>,
    /// Rows, 1 to [`super::PAGE_ROWS_MAX`].
    pub rows: u16,
}

macro_rules! record_columns {
    () => {
        "t.id, t.workflow_id, t.task_name, t.agent_name, t.task_description, t.phase, t.status, t.priority, t.queue, \
         t.executor_id, t.created_at, t.started_at, t.completed_at, t.next_retry_at, t.due_at, t.attempt, t.max_retries, t.error, t.error_type"
    };
}

const PAGE: &str = concat!(
    "select ",
    record_columns!(),
    " from task_executions t join workflow_executions w on w.id = t.workflow_id
      where t.id < $1 and t.id >= $2
        and ($3::text[] is null or t.status = any($3))
        and ($4::jsonb is null or w.tags @> $4)
        and ($5::text is null or w.user_id = $5)
        and ($6::text is null or t.agent_name = $6)
        and ($7::timestamptz is null or t.created_at >= $7)
      order by t.id desc limit $8"
);

const OF_EXECUTION: &str =
    concat!("select ", record_columns!(), " from task_executions t where t.id > $1 and t.id <= $2 order by t.id limit $3");

const ONE: &str = concat!(
    "select ",
    record_columns!(),
    ", w.workflow_name, w.user_id, w.tags, w.metadata
      from task_executions t join workflow_executions w on w.id = t.workflow_id where t.id = $1"
);

const ATTEMPTS: &str = "select attempt, run_id, executor_id, started_at, ended_at, outcome, error_type, error, exit_code, \
        cpu_time_us, memory_peak_bytes, stdout_tail, stderr_tail
    from task_attempts where task_execution_id = $1 order by attempt desc, ended_at desc limit $2";

const RESULT: &str = "select t.id, t.status, t.completed_at, t.error, t.error_type,
        coalesce(t.result, (select r.result_content from task_results r
            where r.task_execution_id = t.id and r.result_type = 'summary' order by r.created_at desc limit 1), 'null') as result,
        coalesce((select jsonb_agg(r.result_content order by r.created_at) from task_results r
            where r.task_execution_id = t.id and r.result_type = 'file'), '[]') as files_created
    from task_executions t where t.id = $1";

const MATCHING: &str =
    "select id, task_name as name, created_at from task_executions where id >= $1 and id <= $2 order by id desc limit $3";

pub(super) const STATEMENTS: &[(&str, &str)] = &[
    ("tasks page", PAGE),
    ("tasks of an execution", OF_EXECUTION),
    ("tasks one", ONE),
    ("tasks attempts", ATTEMPTS),
    ("tasks result", RESULT),
    ("tasks matching", MATCHING),
];

/// A page of tasks, newest first.
///
/// # Errors
/// [`ReadError`].
pub async fn page(db: impl PgExecutor<'_>, filter: &TaskFilter) -> Result<Vec<TaskRecord>, ReadError> {
    let statuses: Vec<&str> = filter.statuses.iter().map(|status| status.as_str()).collect();
    let rows = sqlx::query(PAGE)
        .bind(filter.before.unwrap_or(Uuid::max()))
        .bind(first_id_since(filter.since))
        .bind((!statuses.is_empty()).then_some(statuses))
        .bind((!filter.tags.is_empty()).then(|| tags_filter(&filter.tags)))
        .bind(&filter.user_id)
        .bind(&filter.agent_name)
        .bind(filter.since)
        .bind(i64::from(filter.rows))
        .fetch_all(db)
        .await?;
    rows.iter().map(record).collect()
}

/// Tasks of one execution in the order of its definition.
///
/// # Errors
/// [`ReadError`].
pub async fn of_execution(db: impl PgExecutor<'_>, page: ExecutionPage) -> Result<Vec<TaskRecord>, ReadError> {
    let rows = sqlx::query(OF_EXECUTION)
        .bind(page.after.map_or(page.execution.0, |task| task.0))
        .bind(page.execution.last_task().0)
        .bind(i64::from(page.rows))
        .fetch_all(db)
        .await?;
    rows.iter().map(record).collect()
}

/// One task, as lists show it.
///
/// # Errors
/// [`ReadError`].
pub async fn brief(db: impl PgExecutor<'_>, id: TaskId) -> Result<Option<TaskRecord>, ReadError> {
    let row = sqlx::query(ONE).bind(id.0).fetch_optional(db).await?;
    row.as_ref().map(record).transpose()
}

/// One task with its latest attempts.
///
/// # Errors
/// [`ReadError`].
pub async fn one(db: &mut PgConnection, id: TaskId) -> Result<Option<TaskDetail>, ReadError> {
    let Some(row) = sqlx::query(ONE).bind(id.0).fetch_optional(&mut *db).await? else { return Ok(None) };
    let attempts = sqlx::query(ATTEMPTS).bind(id.0).bind(ATTEMPTS_SHOWN_MAX).fetch_all(&mut *db).await?;
    Ok(Some(TaskDetail {
        record: record(&row)?,
        workflow_name: row.try_get("workflow_name")?,
        user_id: row.try_get("user_id")?,
        tags: row.try_get("tags")?,
        metadata: row.try_get("metadata")?,
        attempt_history: attempts.iter().rev().map(attempt).collect::<Result<_, _>>()?,
    }))
}

/// State and output of a task.
///
/// # Errors
/// [`ReadError`].
pub async fn result(db: impl PgExecutor<'_>, id: TaskId) -> Result<Option<TaskResult>, ReadError> {
    let Some(row) = sqlx::query(RESULT).bind(id.0).fetch_optional(db).await? else { return Ok(None) };
    let status: TaskStatus = word(&row, "status")?;
    let is_completed = status == TaskStatus::Completed;
    let (error_type, error) = own_error(&row, status)?;
    Ok(Some(TaskResult {
        task_id: row.try_get("id")?,
        status,
        result: if is_completed { row.try_get("result")? } else { Value::Null },
        result_type: is_completed.then_some("summary"),
        files_created: row.try_get("files_created")?,
        completed_at: row.try_get("completed_at")?,
        error,
        error_type,
    }))
}

/// Which task a prefix stands for.
///
/// # Errors
/// [`ReadError`].
pub async fn matching(db: impl PgExecutor<'_>, range: IdRange) -> Result<PrefixMatch, ReadError> {
    super::ids_in(db, MATCHING, range).await
}

fn record(row: &PgRow) -> Result<TaskRecord, ReadError> {
    let max_retries: i32 = row.try_get("max_retries")?;
    let status = word(row, "status")?;
    let (error_type, error) = own_error(row, status)?;
    Ok(TaskRecord {
        task_id: row.try_get("id")?,
        workflow_id: row.try_get("workflow_id")?,
        name: row.try_get("task_name")?,
        agent_name: row.try_get("agent_name")?,
        task_description: row.try_get("task_description")?,
        phase: row.try_get("phase")?,
        status,
        priority: word(row, "priority")?,
        queue: row.try_get("queue")?,
        executor_id: row.try_get("executor_id")?,
        created_at: row.try_get("created_at")?,
        started_at: row.try_get("started_at")?,
        completed_at: row.try_get("completed_at")?,
        next_retry_at: row.try_get("next_retry_at")?,
        due_at: timer(row, status)?,
        attempts: row.try_get("attempt")?,
        max_attempts: max_retries.saturating_add(1),
        error,
        error_type,
    })
}

/// What the timer of a running task is for, the end of a cancel's patience, is nobody's business.
fn timer(row: &PgRow, status: TaskStatus) -> Result<Option<OffsetDateTime>, ReadError> {
    match status {
        TaskStatus::Waiting | TaskStatus::Retrying => Ok(row.try_get("due_at")?),
        TaskStatus::Pending
        | TaskStatus::Queued
        | TaskStatus::Running
        | TaskStatus::Completed
        | TaskStatus::Failed
        | TaskStatus::Skipped
        | TaskStatus::Cancelled => Ok(None),
    }
}

/// Type and message of the failure that explains the task's state. The row keeps the last one, whatever came after it.
fn own_error(row: &PgRow, status: TaskStatus) -> Result<(Option<String>, Option<String>), ReadError> {
    match status {
        TaskStatus::Failed | TaskStatus::Retrying => Ok((row.try_get("error_type")?, row.try_get("error")?)),
        TaskStatus::Pending
        | TaskStatus::Queued
        | TaskStatus::Running
        | TaskStatus::Waiting
        | TaskStatus::Completed
        | TaskStatus::Skipped
        | TaskStatus::Cancelled => Ok((None, None)),
    }
}

fn attempt(row: &PgRow) -> Result<AttemptRecord, ReadError> {
    Ok(AttemptRecord {
        attempt: row.try_get("attempt")?,
        run_id: row.try_get("run_id")?,
        executor_id: row.try_get("executor_id")?,
        started_at: row.try_get("started_at")?,
        ended_at: row.try_get("ended_at")?,
        outcome: row.try_get("outcome")?,
        error_type: row.try_get("error_type")?,
        error: row.try_get("error")?,
        exit_code: row.try_get("exit_code")?,
        cpu_time_us: row.try_get("cpu_time_us")?,
        memory_peak_bytes: row.try_get("memory_peak_bytes")?,
        stdout_tail: row.try_get("stdout_tail")?,
        stderr_tail: row.try_get("stderr_tail")?,
    })
}
