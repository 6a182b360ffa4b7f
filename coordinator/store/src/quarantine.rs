//! Events that could not be applied: kept for people, so that the shard can go on without them, and tried again when asked.

use crate::StoreError;
use crate::read::ReadError;
use orchestr8_proto::ids::{ExecutionId, TaskId};
use serde_json::Value;
use sqlx::types::{Json, Uuid};
use sqlx::{PgConnection, PgExecutor};

/// Keeps one event.
pub const QUARANTINE: &str = "select quarantine_event($1, $2, $3, $4, $5, $6)";
/// Tries one again.
pub const REDRIVE: &str = "select redrive_event($1)";
/// Forgets one.
pub const DISCARD: &str = "delete from quarantined_events where id = $1";

/// Longest reason that is kept, in characters.
const ERROR_CHARS_MAX: usize = 4_096;

/// An event that could not be applied.
#[derive(Debug, Clone)]
pub struct Quarantined<'a> {
    /// Whose lane met it.
    pub shard: u16,
    /// The execution that it was for.
    pub execution: Option<ExecutionId>,
    /// The task that it was about.
    pub task: Option<TaskId>,
    /// `event`, its kind, and what is known of it; `inbox`, the whole row, where it came from one.
    pub event: Value,
    /// Why it could not be applied.
    pub error: &'a str,
    /// The row of the inbox that it came from; it is deleted.
    pub inbox: Option<Uuid>,
}

/// Keeps an event that could not be applied; the same one again is counted.
///
/// # Errors
/// [`StoreError`]: it was not kept.
pub async fn keep(connection: &mut PgConnection, event: Quarantined<'_>) -> Result<(), StoreError> {
    let query = sqlx::query(QUARANTINE).bind(i32::from(event.shard)).bind(event.execution.map(|id| id.0)).bind(event.task.map(|id| id.0));
    query.bind(Json(event.event)).bind(shown(event.error)).bind(event.inbox).execute(connection).await?;
    Ok(())
}

/// What goes wrong may quote what it went wrong over: shortened, and without what a column cannot hold.
fn shown(error: &str) -> String {
    error.chars().filter(|c| *c != '\0').take(ERROR_CHARS_MAX).collect()
}

/// How a redrive went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redrive {
    /// It lies in the inbox of its shard and is quarantined no more; its owner must hear of it.
    Redriven,
    /// There is no such entry.
    NotFound,
    /// There is nothing to send: executors or the coordinator say it again. The entry stays.
    ComesByItself,
}

/// Sends an event that was quarantined to its shard once more.
///
/// # Errors
/// [`ReadError`]; with [`ReadError::Unavailable`] it may be sent.
pub async fn redrive(db: impl PgExecutor<'_>, id: Uuid) -> Result<Redrive, ReadError> {
    let how: String = sqlx::query_scalar(REDRIVE).bind(id).fetch_one(db).await?;
    match how.as_str() {
        "redriven" => Ok(Redrive::Redriven),
        "not_found" => Ok(Redrive::NotFound),
        "comes_by_itself" => Ok(Redrive::ComesByItself),
        other => Err(ReadError::Unreadable { column: "redrive_event", reason: format!("`{other}` is not an answer of it") }),
    }
}

/// Whether there was such an entry to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// It is gone.
    Discarded,
    /// There is no such entry.
    NotFound,
}

/// Forgets an event that was quarantined.
///
/// # Errors
/// [`ReadError`]; with [`ReadError::Unavailable`] it may be gone.
pub async fn discard(db: impl PgExecutor<'_>, id: Uuid) -> Result<Discard, ReadError> {
    let deleted = sqlx::query(DISCARD).bind(id).execute(db).await?;
    Ok(if deleted.rows_affected() > 0 { Discard::Discarded } else { Discard::NotFound })
}
