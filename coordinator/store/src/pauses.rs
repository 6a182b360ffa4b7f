//! Paused queues: nothing new of them is dispatched. Stored by whoever answers the operator, learnt by lanes with their renewal.

use crate::read::{ReadError, rfc3339};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};
use time::OffsetDateTime;

/// Queues that are paused at the same time, at most: every coordinator's beat names them all.
pub const PAUSED_MAX: i32 = 1_000;

/// Pauses one.
pub const PAUSE: &str = "select pause_queue($1, $2, $3)";
/// Resumes one.
pub const RESUME: &str = "delete from paused_queues where queue = $1";
/// All that are paused.
pub const PAUSED: &str = "select queue, reason, paused_at from paused_queues order by queue";

/// One paused queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PausedQueue {
    /// Which.
    pub queue: String,
    /// Why, as the operator said.
    pub reason: Option<String>,
    /// Since when.
    #[serde(serialize_with = "rfc3339")]
    pub paused_at: OffsetDateTime,
}

/// How a pause went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// It is paused now.
    Paused,
    /// It was paused already; a new reason replaced the old one.
    AlreadyPaused,
    /// [`PAUSED_MAX`] others are paused.
    TooMany,
}

/// Pauses a queue, whether it has tasks or not.
///
/// # Errors
/// [`ReadError`]; with [`ReadError::Unavailable`] it may be paused.
pub async fn pause(db: impl PgExecutor<'_>, queue: &str, reason: Option<&str>) -> Result<Pause, ReadError> {
    let how: String = sqlx::query_scalar(PAUSE).bind(queue).bind(reason).bind(PAUSED_MAX).fetch_one(db).await?;
    match how.as_str() {
        "paused" => Ok(Pause::Paused),
        "already_paused" => Ok(Pause::AlreadyPaused),
        "too_many" => Ok(Pause::TooMany),
        other => Err(ReadError::Unreadable { column: "pause_queue", reason: format!("`{other}` is not an answer of it") }),
    }
}

/// How a resumption went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// It is paused no more.
    Resumed,
    /// It was not paused.
    NotPaused,
}

/// Lets a queue go on.
///
/// # Errors
/// [`ReadError`]; with [`ReadError::Unavailable`] it may go on.
pub async fn resume(db: impl PgExecutor<'_>, queue: &str) -> Result<Resume, ReadError> {
    let deleted = sqlx::query(RESUME).bind(queue).execute(db).await?;
    Ok(if deleted.rows_affected() > 0 { Resume::Resumed } else { Resume::NotPaused })
}

/// All paused queues, by name.
///
/// # Errors
/// [`ReadError`].
pub async fn paused(db: impl PgExecutor<'_>) -> Result<Vec<PausedQueue>, ReadError> {
    let row = |row: &PgRow| {
        Ok(PausedQueue { queue: row.try_get("queue")?, reason: row.try_get("reason")?, paused_at: row.try_get("paused_at")? })
    };
    sqlx::query(PAUSED).fetch_all(db).await?.iter().map(row).collect()
}
