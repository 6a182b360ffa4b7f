//! Events for a shard from whoever does not own it: stored by the sender, deleted by the commit of the owner that decides them.

use crate::StoreError;
use orchestr8_core::plan::Plan;
use orchestr8_proto::ids::{ExecutionId, TaskId};
use orchestr8_proto::timestamp::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::{Json, Uuid};
use sqlx::{PgConnection, Row};
use std::sync::Arc;

/// Rows that are read at once.
pub const READ_MAX: i64 = 256;
/// Bytes of rows that are read at once; the first row is read whatever its size.
pub const READ_BYTES_MAX: i64 = 8 * 1024 * 1024;
/// Stores events for shards.
pub const SEND: &str = "insert into shard_inbox (shard, id, event) select * from unnest($1::int[], $2::uuid[], $3::jsonb[])";
/// The oldest events of some shards, up to a number of rows and of bytes.
pub const READ: &str = "select shard, id, event from (
    select shard, id, event, created_at, sum(octet_length(event::text)) over (order by created_at, id) as bytes_through,
        row_number() over (order by created_at, id) as number
    from (select * from shard_inbox where shard = any ($1) order by created_at, id limit $2) as oldest
) as counted where bytes_through <= $3 or number = 1 order by created_at, id";

/// What a row of the inbox wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InboxEvent {
    /// Cancel the whole execution.
    Cancel {
        /// Which one.
        workflow_id: ExecutionId,
    },
    /// Cancel one task.
    CancelTask {
        /// Which one.
        task_id: TaskId,
    },
    /// Look at the timer of a task again; its row was changed beside the owner.
    Due {
        /// Which task.
        task_id: TaskId,
    },
    /// Make executions, all or none, under ids that their key stands for.
    Submit {
        /// In the order of the submissions.
        ids: Vec<ExecutionId>,
        /// At least one.
        submissions: Vec<SentSubmission>,
    },
}

/// One execution to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SentSubmission {
    /// The resolved definition.
    pub plan: Arc<Plan>,
    /// SHA-256 of its canonical JSON.
    pub plan_hash: [u8; 32],
    /// What the expressions read as `input`.
    pub input: Arc<Value>,
    /// On whose behalf.
    pub user_id: Option<String>,
    /// The submitter's own, an object.
    pub metadata: Arc<Value>,
    /// The submitter's own.
    pub tags: Vec<String>,
    /// Not before this time.
    pub run_at: Option<Timestamp>,
    /// W3C traceparent of the span that submits it; an older version neither sends nor reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// One row.
#[derive(Debug, Clone)]
pub struct InboxRow {
    /// For whom.
    pub shard: u16,
    /// Its identity.
    pub id: Uuid,
    /// What is wanted; an error: written by another version, or not by us.
    pub event: Result<InboxEvent, String>,
    /// Bytes of `stored` as text.
    pub bytes: usize,
    /// As it stands in the table.
    pub stored: Value,
}

impl InboxEvent {
    /// The execution that it is about; the first of several.
    #[must_use]
    pub fn execution(&self) -> Option<ExecutionId> {
        match self {
            Self::Cancel { workflow_id } => Some(*workflow_id),
            Self::CancelTask { task_id } | Self::Due { task_id } => Some(task_id.execution()),
            Self::Submit { ids, .. } => ids.first().copied(),
        }
    }
}

/// Stores events under new ids, each for a shard.
///
/// # Errors
/// [`StoreError`]; with [`StoreError::Unavailable`] they may be stored.
pub async fn send(connection: &mut PgConnection, events: &[(u16, Uuid, InboxEvent)]) -> Result<(), StoreError> {
    let shards: Vec<i32> = events.iter().map(|(shard, _, _)| i32::from(*shard)).collect();
    let ids: Vec<Uuid> = events.iter().map(|(_, id, _)| *id).collect();
    let events: Vec<Json<&InboxEvent>> = events.iter().map(|(_, _, event)| Json(event)).collect();
    sqlx::query(SEND).bind(shards).bind(ids).bind(events).execute(connection).await?;
    Ok(())
}

/// The oldest events of these shards, at most [`READ_MAX`] and [`READ_BYTES_MAX`].
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn read(connection: &mut PgConnection, shards: &[u16]) -> Result<Vec<InboxRow>, StoreError> {
    let shards: Vec<i32> = shards.iter().map(|shard| i32::from(*shard)).collect();
    let rows = sqlx::query(READ).bind(shards).bind(READ_MAX).bind(READ_BYTES_MAX).fetch_all(connection).await?;
    let row = |row: sqlx::postgres::PgRow| {
        let bytes = row.try_get_raw("event")?.as_bytes().map_or(0, <[u8]>::len);
        let Json(stored) = row.try_get::<Json<Value>, _>("event")?;
        let event = serde_json::from_value(stored.clone()).map_err(|error| error.to_string());
        Ok(InboxRow { shard: crate::shards::shard(row.try_get("shard")?)?, id: row.try_get("id")?, event, bytes, stored })
    };
    rows.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_version_wrote_is_an_error_with_its_words() {
        let id = ExecutionId(Uuid::from_u128(7));
        let cancel = InboxEvent::Cancel { workflow_id: id };
        let stored = serde_json::to_value(&cancel).expect("plain JSON");
        assert_eq!(stored, serde_json::json!({"type": "cancel", "workflow_id": id}));
        let read: InboxEvent = serde_json::from_value(stored).expect("as it was written");
        assert_eq!(read.execution(), Some(id));
        let error = serde_json::from_value::<InboxEvent>(serde_json::json!({"type": "later"})).expect_err("unknown");
        assert!(error.to_string().contains("later"), "{error}");
    }
}
