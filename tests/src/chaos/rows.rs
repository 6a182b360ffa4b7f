//! What the database and the API say at the end.

use super::load::Client;
use anyhow::{Context, Result};
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::{PgPool, PgRow};
use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

/// Every task with what its history says.
const TASKS: &str =
    "select t.id::text as id, t.workflow_id::text as workflow_id, t.task_name, t.agent_name, t.status, t.executor_id, t.error_type, t.error, t.result,
(select count(*) from task_results r where r.task_execution_id = t.id) as results,
coalesce((select array_agg(x ->> 'type') from workflow_events e cross join lateral jsonb_array_elements(e.events) x
  where e.workflow_id = t.workflow_id and x ->> 'task_id' = t.id::text), '{}') as events
from task_executions t order by t.id";
/// Every execution with its key and the ends in its history.
const EXECUTIONS: &str = "select w.id::text as id, w.status, w.metadata ->> 'key' as key,
(select count(*) from workflow_events e cross join lateral jsonb_array_elements(e.events) x where e.workflow_id = w.id
  and x ->> 'type' in ('workflow.completed', 'workflow.failed', 'workflow.cancelled')) as ends
from workflow_executions w";
const LOSSES: &str =
    "select task_execution_id::text as task, executor_id as executor, started_at, ended_at from task_attempts where outcome = 'lost'";
/// Histories with a gap, or whose end is not what the execution's row says.
const BROKEN_HISTORIES: &str = "select w.id::text from workflow_executions w where w.event_sequence <>
(select coalesce(sum(jsonb_array_length(e.events)), 0) from workflow_events e where e.workflow_id = w.id)
or w.event_sequence <> (select coalesce(max(e.sequence + jsonb_array_length(e.events) - 1), 0) from workflow_events e where e.workflow_id = w.id)";
/// Executions that no coordinator can load.
const WITHOUT_PLAN: &str = "select id::text from workflow_executions w where not exists (select 1 from plans p where p.hash = w.plan_hash)";
/// What no coordinator has taken from its inbox.
pub const INBOX: &str = "select shard || ' since ' || created_at || ': ' || event::text from shard_inbox";
const QUARANTINED: &str = "select error || ': ' || event::text from quarantined_events";
/// States that nothing leaves.
pub const FINAL: [&str; 4] = ["completed", "failed", "skipped", "cancelled"];

/// The database at the end.
#[derive(Debug)]
pub struct Rows {
    /// By id.
    pub tasks: Vec<TaskRow>,
    /// By id.
    pub executions: HashMap<String, ExecutionRow>,
    /// Runs that were declared lost.
    pub losses: Vec<LossRow>,
    /// Executions whose history has a gap.
    pub broken_histories: Vec<String>,
    /// Executions whose plan is not stored.
    pub without_plan: Vec<String>,
    /// Events that could not be applied.
    pub quarantined: Vec<String>,
    /// Events that wait in an inbox.
    pub inbox: Vec<String>,
}

/// A task.
#[derive(Debug)]
pub struct TaskRow {
    /// Its id.
    pub id: String,
    /// Its execution.
    pub workflow_id: String,
    /// Its name.
    pub task_name: String,
    /// Its handler, else `run` or `sleep`.
    pub agent: String,
    /// Its state.
    pub status: String,
    /// Who ran it last.
    pub executor: Option<String>,
    /// Why it failed, as a word.
    pub error_type: Option<String>,
    /// Why it failed, for people.
    pub error: Option<String>,
    /// Its output.
    pub result: Option<Value>,
    /// Stored results.
    pub results: i64,
    /// What its history says, in order.
    pub events: Vec<String>,
}

/// An execution.
#[derive(Debug)]
pub struct ExecutionRow {
    /// Its id.
    pub id: String,
    /// Its state.
    pub status: String,
    /// The key of its submission.
    pub key: Option<String>,
    /// Ends in its history.
    pub ends: i64,
}

/// A run that was declared lost.
#[derive(Debug)]
pub struct LossRow {
    /// Of which task.
    pub task: String,
    /// The executor's name.
    pub executor: String,
    /// When it was granted.
    pub begun: Option<SystemTime>,
    /// When it was declared.
    pub decided: SystemTime,
}

impl Rows {
    /// All of them.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn read(pool: &PgPool) -> Result<Self> {
        let executions = sqlx::query(EXECUTIONS).fetch_all(pool).await?;
        let executions = executions.iter().map(|row| execution(row).map(|row| (row.id.clone(), row)));
        Ok(Self {
            tasks: sqlx::query(TASKS).fetch_all(pool).await?.iter().map(task).collect::<Result<_>>()?,
            executions: executions.collect::<Result<_>>()?,
            losses: sqlx::query(LOSSES).fetch_all(pool).await?.iter().map(loss).collect::<Result<_>>()?,
            broken_histories: sqlx::query_scalar(BROKEN_HISTORIES).fetch_all(pool).await?,
            without_plan: sqlx::query_scalar(WITHOUT_PLAN).fetch_all(pool).await?,
            quarantined: sqlx::query_scalar(QUARANTINED).fetch_all(pool).await?,
            inbox: sqlx::query_scalar(INBOX).fetch_all(pool).await?,
        })
    }
}

fn task(row: &PgRow) -> Result<TaskRow> {
    Ok(TaskRow {
        id: row.try_get("id")?,
        workflow_id: row.try_get("workflow_id")?,
        task_name: row.try_get("task_name")?,
        agent: row.try_get("agent_name")?,
        status: row.try_get("status")?,
        executor: row.try_get("executor_id")?,
        error_type: row.try_get("error_type")?,
        error: row.try_get("error")?,
        result: row.try_get("result")?,
        results: row.try_get("results")?,
        events: row.try_get("events")?,
    })
}

fn execution(row: &PgRow) -> Result<ExecutionRow> {
    Ok(ExecutionRow { id: row.try_get("id")?, status: row.try_get("status")?, key: row.try_get("key")?, ends: row.try_get("ends")? })
}

fn loss(row: &PgRow) -> Result<LossRow> {
    let decided: time::OffsetDateTime = row.try_get("ended_at")?;
    let begun: Option<time::OffsetDateTime> = row.try_get("started_at")?;
    Ok(LossRow {
        task: row.try_get("task")?,
        executor: row.try_get("executor")?,
        begun: begun.map(SystemTime::from),
        decided: decided.into(),
    })
}

/// Status by execution, from the lists of the API.
///
/// # Errors
/// When nobody answers, or with something else.
pub async fn told(client: &Client) -> Result<BTreeMap<String, String>> {
    let mut told = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("/api/v1/workflows?limit=1000{cursor}")).await?;
        for one in page["workflows"].as_array().context("workflows")? {
            let text = |key: &str| one[key].as_str().map(str::to_owned).with_context(|| format!("{key} in {one}"));
            told.insert(text("workflow_id")?, text("status")?);
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(told),
        }
    }
}
