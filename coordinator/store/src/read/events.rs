//! The history of an execution after a cursor.

use super::{ReadError, word};
use orchestr8_proto::ids::ExecutionId;
use orchestr8_proto::words::WorkflowStatus;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};

/// Rows (commits) read at once; a caller that has taken them in reads on.
const ROWS_MAX: i64 = 256;

/// One event and its number within its execution.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberedEvent {
    /// From 1, without gaps.
    pub sequence: u64,
    /// `{"type", "at", …}`.
    pub event: Value,
}

/// What happened after a cursor.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The execution's state in the same snapshot.
    pub status: WorkflowStatus,
    /// In order; empty when there is nothing after the cursor.
    pub events: Vec<NumberedEvent>,
}

/// A row holds the events of one commit: the first that is wanted may lie in the middle of one.
const AFTER: &str = "select w.status, e.sequence, e.events
    from workflow_executions w left join workflow_events e on e.workflow_id = w.id and e.sequence >= coalesce(
        (select max(f.sequence) from workflow_events f where f.workflow_id = $1 and f.sequence <= $2), 0)
    where w.id = $1 order by e.sequence limit $3";

pub(super) const STATEMENTS: &[(&str, &str)] = &[("events after", AFTER)];

/// The next events after number `after` (0: from the beginning); none: no such execution.
///
/// # Errors
/// [`ReadError`].
pub async fn after(db: impl PgExecutor<'_>, id: ExecutionId, after: u64) -> Result<Option<History>, ReadError> {
    let wanted = i64::try_from(after).unwrap_or(i64::MAX).saturating_add(1);
    let rows = sqlx::query(AFTER).bind(id.0).bind(wanted).bind(ROWS_MAX).fetch_all(db).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let mut history = History { status: word(first, "status")?, events: Vec::new() };
    for row in &rows {
        unpack(row, after, &mut history.events)?;
    }
    Ok(Some(history))
}

fn unpack(row: &PgRow, after: u64, events: &mut Vec<NumberedEvent>) -> Result<(), ReadError> {
    let Some(first) = row.try_get::<Option<i64>, _>("sequence")? else { return Ok(()) };
    let Value::Array(packed) = row.try_get("events")? else {
        return Err(ReadError::Unreadable { column: "events", reason: "not an array".into() });
    };
    let numbered = (first.unsigned_abs()..).zip(packed).map(|(sequence, event)| NumberedEvent { sequence, event });
    events.extend(numbered.filter(|event| event.sequence > after));
    Ok(())
}
