//! Events that could not be applied: kept for people, so that the shard can go on without them, and tried again when asked.

use crate::StoreError;
use orchestr8_proto::ids::{ExecutionId, TaskId};
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::{Json, Uuid};

/// Keeps one event.
pub const QUARANTINE: &str = "select quarantine_event($1, $2, $3, $4, $5, $6)";

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
    query.bind(Json(event.event)).bind(event.error).bind(event.inbox).execute(connection).await?;
    Ok(())
}
