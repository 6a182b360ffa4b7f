//! Events that could not be applied: a page, newest first, and one with all that is known of it.

use super::{IdRange, PrefixMatch, ReadError, rfc3339};
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};
use std::fmt;
use std::str::FromStr;
use time::OffsetDateTime;
use uuid::Uuid;

/// One quarantined event, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuarantineRecord {
    /// Of the entry.
    pub id: Uuid,
    /// What it was: `due`, `cancel`, `cancel_task`, `submit`, `outcome`, `claim`, …; `publish` for a dispatch that cannot be built,
    /// `unreadable` for a row of an inbox that says nothing to this version.
    pub kind: String,
    /// Whose lane met it.
    pub shard: i32,
    /// The execution that it was for, if that is known.
    pub workflow_id: Option<Uuid>,
    /// Its name, if it exists.
    pub workflow_name: Option<String>,
    /// The task that it was about, if it was about one.
    pub task_id: Option<Uuid>,
    /// Its name in the definition.
    pub task_name: Option<String>,
    /// Why it could not be applied, the last time.
    pub error: String,
    /// How often it came.
    pub seen_count: i64,
    /// Whether a redrive does something; otherwise it comes again by itself.
    pub redrivable: bool,
    /// When it came first.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it came last.
    #[serde(serialize_with = "rfc3339")]
    pub last_seen_at: OffsetDateTime,
}

/// One quarantined event with its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuarantineDetail {
    /// What lists show.
    #[serde(flatten)]
    pub record: QuarantineRecord,
    /// What is known of it; `inbox` is the whole row where it came from an inbox.
    pub event: Value,
}

/// Where a page ended. It stays valid when the entry is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuarantineCursor {
    /// Of the last entry.
    pub created_at: OffsetDateTime,
    /// Of the last entry.
    pub id: Uuid,
}

macro_rules! columns {
    () => {
        "q.id, coalesce(q.event ->> 'event', 'unknown') as kind, q.shard, q.workflow_id, w.workflow_name, \
         q.task_execution_id, t.task_name, q.error, q.seen_count, \
         coalesce(q.event ? 'inbox' or q.event ->> 'event' = 'due', false) as redrivable, q.created_at, q.last_seen_at"
    };
}

macro_rules! of_entries {
    () => {
        " from quarantined_events q left join workflow_executions w on w.id = q.workflow_id
          left join task_executions t on t.id = q.task_execution_id"
    };
}

const PAGE: &str = concat!(
    "select ",
    columns!(),
    of_entries!(),
    " where $1::timestamptz is null or (q.created_at, q.id) < ($1, $2::uuid) order by q.created_at desc, q.id desc limit $3"
);

const ONE: &str = concat!("select ", columns!(), ", q.event", of_entries!(), " where q.id = $1");

const MATCHING: &str = "select id, coalesce(event ->> 'event', 'unknown') as name, created_at from quarantined_events
where id between $1 and $2 order by created_at desc, id desc limit $3";

pub(super) const STATEMENTS: &[(&str, &str)] = &[("quarantine page", PAGE), ("quarantine one", ONE), ("quarantine matching", MATCHING)];

/// A page after `after`, newest first.
///
/// # Errors
/// [`ReadError`].
pub async fn page(db: impl PgExecutor<'_>, after: Option<QuarantineCursor>, rows: u16) -> Result<Vec<QuarantineRecord>, ReadError> {
    let query = sqlx::query(PAGE).bind(after.map(|after| after.created_at)).bind(after.map(|after| after.id));
    let rows = query.bind(i64::from(rows)).fetch_all(db).await?;
    rows.iter().map(record).collect()
}

/// One entry.
///
/// # Errors
/// [`ReadError`].
pub async fn one(db: impl PgExecutor<'_>, id: Uuid) -> Result<Option<QuarantineDetail>, ReadError> {
    let Some(row) = sqlx::query(ONE).bind(id).fetch_optional(db).await? else { return Ok(None) };
    Ok(Some(QuarantineDetail { record: record(&row)?, event: row.try_get("event")? }))
}

/// Which entry a prefix stands for; a candidate's name is its kind.
///
/// # Errors
/// [`ReadError`].
pub async fn matching(db: impl PgExecutor<'_>, range: IdRange) -> Result<PrefixMatch, ReadError> {
    super::ids_in(db, MATCHING, range).await
}

fn record(row: &PgRow) -> Result<QuarantineRecord, ReadError> {
    Ok(QuarantineRecord {
        id: row.try_get("id")?,
        kind: row.try_get("kind")?,
        shard: row.try_get("shard")?,
        workflow_id: row.try_get("workflow_id")?,
        workflow_name: row.try_get("workflow_name")?,
        task_id: row.try_get("task_execution_id")?,
        task_name: row.try_get("task_name")?,
        error: row.try_get("error")?,
        seen_count: row.try_get("seen_count")?,
        redrivable: row.try_get("redrivable")?,
        created_at: row.try_get("created_at")?,
        last_seen_at: row.try_get("last_seen_at")?,
    })
}

impl From<&QuarantineRecord> for QuarantineCursor {
    fn from(record: &QuarantineRecord) -> Self {
        Self { created_at: record.created_at, id: record.id }
    }
}

/// Microseconds since 1970, as the column keeps them, and the id.
impl fmt::Display for QuarantineCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.created_at.unix_timestamp_nanos() / 1_000, self.id)
    }
}

impl FromStr for QuarantineCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (unix_us, id) = text.split_once('.').ok_or(())?;
        let unix_us: i64 = unix_us.parse().map_err(|_| ())?;
        let created_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_us) * 1_000).map_err(|_| ())?;
        Ok(Self { created_at, id: id.parse().map_err(|_| ())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let cursor = QuarantineCursor { created_at: time::macros::datetime!(2026-01-31 12:00:00.123456 UTC), id: Uuid::from_u128(7) };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for bad in ["", "1", "1.x", "x.00000000-0000-0000-0000-000000000007", "9223372036854775807.00000000-0000-0000-0000-000000000007"] {
            assert_eq!(bad.parse::<QuarantineCursor>(), Err(()), "{bad}");
        }
    }
}
