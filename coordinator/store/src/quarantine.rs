//! Events that could not be applied: kept for people, so that the shard can go on without them.

use crate::StoreError;
use orchestr8_proto::ids::ExecutionId;
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;

/// Keeps one event.
pub const QUARANTINE: &str = "insert into quarantined_events (shard, workflow_id, event, error) values ($1, $2, $3, $4)";

/// Keeps an event that could not be applied.
///
/// # Errors
/// [`StoreError`]: it was not kept.
pub async fn keep(connection: &mut PgConnection, execution: ExecutionId, event: Value, error: &str) -> Result<(), StoreError> {
    let query = sqlx::query(QUARANTINE).bind(i32::from(execution.shard())).bind(execution.0);
    query.bind(Json(event)).bind(error).execute(connection).await?;
    Ok(())
}
