//! Whether an event that was sent to another owner has been decided.

use super::ReadError;
use orchestr8_proto::ids::ExecutionId;
use sqlx::PgExecutor;
use uuid::Uuid;

pub(super) const WAITS: &str = "select exists (select 1 from shard_inbox where shard = $1 and id = $2)";

/// Whether the event still lies in the inbox of the execution's shard.
///
/// # Errors
/// [`ReadError`].
pub async fn waits(db: impl PgExecutor<'_>, execution: ExecutionId, event: Uuid) -> Result<bool, ReadError> {
    Ok(sqlx::query_scalar(WAITS).bind(i32::from(execution.shard())).bind(event).fetch_one(db).await?)
}
