//! Workflow executions: one, or a page newest first.

use super::{IdRange, PrefixMatch, ReadError, first_id_since, rfc3339, rfc3339_or_null, tags_filter, word};
use orchestr8_proto::ids::ExecutionId;
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};
use time::OffsetDateTime;
use uuid::Uuid;

/// One execution, as lists show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExecutionRecord {
    /// Its id.
    pub workflow_id: Uuid,
    /// The name in the definition; `task` for a single task.
    pub workflow_name: String,
    /// Its state.
    pub status: WorkflowStatus,
    /// On whose behalf.
    pub user_id: Option<String>,
    /// The submitter's own.
    pub tags: Value,
    /// When it was accepted.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: OffsetDateTime,
    /// The last commit that changed it or one of its tasks.
    #[serde(serialize_with = "rfc3339")]
    pub updated_at: OffsetDateTime,
    /// When the first task became ready.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub started_at: Option<OffsetDateTime>,
    /// When the last task ended.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub completed_at: Option<OffsetDateTime>,
    /// When a cancel was asked for.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub cancel_requested_at: Option<OffsetDateTime>,
    /// Why it failed.
    pub error: Option<String>,
}

/// One execution with everything that belongs to it alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExecutionDetail {
    /// What lists show.
    #[serde(flatten)]
    pub record: ExecutionRecord,
    /// The submitter's own, an object.
    pub metadata: Value,
    /// What the expressions read as `input`.
    pub input: Value,
    /// The evaluated `output` of the definition, null before the end.
    pub output: Value,
    /// Name and weight of each phase, an array; null for a flat list of tasks.
    #[serde(skip)]
    pub phases: Value,
}

/// Which executions a page holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExecutionFilter {
    /// One of these states; empty: any.
    pub statuses: Vec<WorkflowStatus>,
    /// All of these tags.
    pub tags: Vec<String>,
    /// On this user's behalf.
    pub user_id: Option<String>,
    /// Of this workflow.
    pub workflow_name: Option<String>,
    /// Accepted at or after this time.
    pub since: Option<OffsetDateTime>,
    /// The last id of the page before.
    pub before: Option<Uuid>,
    /// Rows, 1 to [`super::PAGE_ROWS_MAX`].
    pub rows: u16,
}

/// How many tasks of a phase are in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusCount {
    /// The phase; none in a flat list.
    pub phase: Option<String>,
    /// The state.
    pub status: TaskStatus,
    /// Tasks.
    pub tasks: u64,
}

macro_rules! record_columns {
    () => {
        "w.id, w.workflow_name, w.status, w.user_id, w.tags, w.created_at, w.updated_at, w.started_at, w.completed_at, \
         w.cancel_requested_at, w.error"
    };
}

const PAGE: &str = concat!(
    "select ",
    record_columns!(),
    " from workflow_executions w
      where w.id < $1 and w.id >= $2
        and ($3::text[] is null or w.status = any($3))
        and ($4::jsonb is null or w.tags @> $4)
        and ($5::text is null or w.user_id = $5)
        and ($6::text is null or w.workflow_name = $6)
        and ($7::timestamptz is null or w.created_at >= $7)
      order by w.id desc limit $8"
);

const ONE: &str = concat!(
    "select ",
    record_columns!(),
    ", w.metadata, w.input, coalesce(w.output, 'null') as output, coalesce(p.plan -> 'phases', 'null') as phases
      from workflow_executions w left join plans p on p.hash = w.plan_hash where w.id = $1"
);

const STATUS: &str = "select status from workflow_executions where id = $1";

const COUNTS: &str = "select phase, status, count(*) as tasks from task_executions where id > $1 and id <= $2 group by phase, status";

const MATCHING: &str =
    "select id, workflow_name as name, created_at from workflow_executions where id >= $1 and id <= $2 order by id desc limit $3";

pub(super) const STATEMENTS: &[(&str, &str)] = &[
    ("executions page", PAGE),
    ("executions one", ONE),
    ("executions status", STATUS),
    ("executions counts", COUNTS),
    ("executions matching", MATCHING),
];

/// A page of executions, newest first.
///
/// # Errors
/// [`ReadError`].
pub async fn page(db: impl PgExecutor<'_>, filter: &ExecutionFilter) -> Result<Vec<ExecutionRecord>, ReadError> {
    let statuses: Vec<&str> = filter.statuses.iter().map(|status| status.as_str()).collect();
    let rows = sqlx::query(PAGE)
        .bind(filter.before.unwrap_or(Uuid::max()))
        .bind(first_id_since(filter.since))
        .bind((!statuses.is_empty()).then_some(statuses))
        .bind((!filter.tags.is_empty()).then(|| tags_filter(&filter.tags)))
        .bind(&filter.user_id)
        .bind(&filter.workflow_name)
        .bind(filter.since)
        .bind(i64::from(filter.rows))
        .fetch_all(db)
        .await?;
    rows.iter().map(record).collect()
}

/// One execution.
///
/// # Errors
/// [`ReadError`].
pub async fn one(db: impl PgExecutor<'_>, id: ExecutionId) -> Result<Option<ExecutionDetail>, ReadError> {
    let Some(row) = sqlx::query(ONE).bind(id.0).fetch_optional(db).await? else { return Ok(None) };
    Ok(Some(ExecutionDetail {
        record: record(&row)?,
        metadata: row.try_get("metadata")?,
        input: row.try_get("input")?,
        output: row.try_get("output")?,
        phases: row.try_get("phases")?,
    }))
}

/// Its state alone: what a waiting caller reads again and again.
///
/// # Errors
/// [`ReadError`].
pub async fn status(db: impl PgExecutor<'_>, id: ExecutionId) -> Result<Option<WorkflowStatus>, ReadError> {
    let row = sqlx::query(STATUS).bind(id.0).fetch_optional(db).await?;
    row.map(|row| word(&row, "status")).transpose()
}

/// How many of its tasks are in which state, by phase.
///
/// # Errors
/// [`ReadError`].
pub async fn status_counts(db: impl PgExecutor<'_>, id: ExecutionId) -> Result<Vec<StatusCount>, ReadError> {
    let rows = sqlx::query(COUNTS).bind(id.0).bind(id.last_task().0).fetch_all(db).await?;
    rows.iter()
        .map(|row| {
            let tasks: i64 = row.try_get("tasks")?;
            Ok(StatusCount { phase: row.try_get("phase")?, status: word(row, "status")?, tasks: tasks.unsigned_abs() })
        })
        .collect()
}

/// Which execution a prefix stands for.
///
/// # Errors
/// [`ReadError`].
pub async fn matching(db: impl PgExecutor<'_>, range: IdRange) -> Result<PrefixMatch, ReadError> {
    super::ids_in(db, MATCHING, range).await
}

fn record(row: &PgRow) -> Result<ExecutionRecord, ReadError> {
    Ok(ExecutionRecord {
        workflow_id: row.try_get("id")?,
        workflow_name: row.try_get("workflow_name")?,
        status: word(row, "status")?,
        user_id: row.try_get("user_id")?,
        tags: row.try_get("tags")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        started_at: row.try_get("started_at")?,
        completed_at: row.try_get("completed_at")?,
        cancel_requested_at: row.try_get("cancel_requested_at")?,
        error: row.try_get("error")?,
    })
}
