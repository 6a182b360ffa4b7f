//! Idempotency keys: reserved with their execution ids before the batch that makes the executions.

use crate::StoreError;
use crate::rows::KeyRow;
use orchestr8_proto::ids::ExecutionId;
use sqlx::types::Uuid;
use sqlx::{PgConnection, Row};
use std::collections::HashMap;

/// All keys of a gather in one statement.
pub const RESERVE: &str = "select key, reserved, body_hash, execution_ids, made from reserve_keys($1)";

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// Ours now, with the given ids.
    Reserved,
    /// Reserved by an earlier request whose executions were never made: make them under these ids.
    Unmade(Vec<ExecutionId>),
    /// The executions exist.
    Made(Vec<ExecutionId>),
    /// It was used with another body.
    OtherBody,
}

/// Reserves keys for their ids; each key once.
///
/// # Errors
/// [`StoreError`]; reserving again is harmless.
pub async fn reserve(connection: &mut PgConnection, keys: &[KeyRow]) -> Result<HashMap<String, Reservation>, StoreError> {
    let given: HashMap<&str, &[u8]> = keys.iter().map(|row| (row.key.as_str(), row.body_hash.as_slice())).collect();
    let rows = sqlx::query(RESERVE).bind(keys).fetch_all(connection).await?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in rows {
        let key: String = row.try_get("key")?;
        let stored: Vec<u8> = row.try_get("body_hash")?;
        let ids = row.try_get::<Vec<Uuid>, _>("execution_ids")?.into_iter().map(ExecutionId).collect();
        let same_body = given.get(key.as_str()).is_some_and(|given| *given == stored);
        let reservation = match (row.try_get("reserved")?, same_body, row.try_get("made")?) {
            (true, _, _) => Reservation::Reserved,
            (false, false, _) => Reservation::OtherBody,
            (false, true, true) => Reservation::Made(ids),
            (false, true, false) => Reservation::Unmade(ids),
        };
        found.insert(key, reservation);
    }
    Ok(found)
}
