//! Reads for the API, and the registration of definitions: the one write outside the engine.
//!
//! - [`executions`]: workflow executions, one or a page
//! - [`inbox`]: whether an event that was sent to another owner is decided
//! - [`tasks`]: tasks, their attempts and results
//! - [`events`]: the history of an execution after a cursor
//! - [`definitions`]: named definitions
//! - [`depths`]: queue depths for the metrics; [`size`]: how large the database is
//! - [`quarantine`]: events that could not be applied
//! - [`why`]: what a task waits for
//! - [`operating`]: shards, lanes, and what an operator can get wrong
//!
//! Records serialize as the JSON of the API: names of fields are those of the columns that users know, times are RFC 3339.

pub mod definitions;
pub mod depths;
pub mod events;
pub mod executions;
pub mod inbox;
pub mod operating;
pub mod quarantine;
pub mod size;
pub mod tasks;
pub mod why;

use serde::{Serialize, Serializer};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{Connection, PgExecutor, PgPool, Row};
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// A statement of a reader is ended by the server after this: a report that scans too much must not hold a connection.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// A request waits this long for a free connection of the pool.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Rows in one page, at most.
pub const PAGE_ROWS_MAX: u16 = 1_000;
/// Candidates that an ambiguous prefix is answered with, at most.
pub const CANDIDATES_MAX: usize = 10;
/// Ids carry the time of the coordinator that drew them and rows that of the database: a scan by id for rows since a time starts this much earlier.
const CLOCK_SLACK: Duration = Duration::from_mins(10);
/// A connection that was idle for longer is pinged before use, so that a restarted server costs no failed request.
const PING_AFTER: Duration = Duration::from_secs(1);

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Postgres cannot be reached, is too busy, or ended the statement: the caller may try again.
    #[error("the database does not answer: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// The statement does not fit the schema: a bug, or a database of another version.
    #[error("the database refused the statement: {0}")]
    Refused(#[source] sqlx::Error),
    /// A row holds what this build cannot read: a database of another version.
    #[error("column `{column}` holds what this version cannot read: {reason}")]
    Unreadable {
        /// Of which column.
        column: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<sqlx::Error> for ReadError {
    fn from(error: sqlx::Error) -> Self {
        if is_transient(&error) { Self::Unavailable(error) } else { Self::Refused(error) }
    }
}

/// A pool for reads, connected when first used: its statements end after [`STATEMENT_TIMEOUT`]; those by primary key are planned once.
#[must_use]
pub fn read_pool(options: PgConnectOptions, connections_max: u32) -> PgPool {
    let timeout_ms = STATEMENT_TIMEOUT.as_millis().to_string();
    // To compile a statement takes longer than any of these runs.
    let session = [("statement_timeout", timeout_ms.as_str()), ("plan_cache_mode", "auto"), ("jit", "off")];
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, metadata| {
            Box::pin(async move {
                if metadata.idle_for > PING_AFTER {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options.options(session).application_name("orchestr8-reads"))
}

/// Whether the database answers at all.
///
/// # Errors
/// [`ReadError`] says why it does not.
pub async fn answers(pool: &PgPool) -> Result<(), ReadError> {
    sqlx::query(ANSWERS).execute(pool).await?;
    Ok(())
}

const ANSWERS: &str = "select 1";

/// Name and text of every statement of this module, so that a test can prepare each against the migrated schema.
#[must_use]
pub fn statements() -> Vec<(&'static str, &'static str)> {
    let modules: [&[(&str, &str)]; 9] = [
        executions::STATEMENTS,
        tasks::STATEMENTS,
        events::STATEMENTS,
        definitions::STATEMENTS,
        depths::STATEMENTS,
        quarantine::STATEMENTS,
        why::STATEMENTS,
        operating::STATEMENTS,
        size::STATEMENTS,
    ];
    [("answers", ANSWERS), ("inbox waits", inbox::WAITS)].into_iter().chain(modules.into_iter().flatten().copied()).collect()
}

/// One of several that start alike: enough to see which is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Of the workflow or task.
    pub id: Uuid,
    /// Of the workflow, or of the task in its definition.
    pub name: String,
    /// When it was accepted.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// What an id or a prefix of one stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrefixMatch {
    /// Nothing.
    None,
    /// Exactly this.
    One(Uuid),
    /// More than one; the newest [`CANDIDATES_MAX`] of them, newest first.
    Many(Vec<Candidate>),
}

impl From<Vec<Candidate>> for PrefixMatch {
    fn from(mut found: Vec<Candidate>) -> Self {
        match found.len() {
            0 => Self::None,
            1 => Self::One(found[0].id),
            _ => {
                found.truncate(CANDIDATES_MAX);
                Self::Many(found)
            }
        }
    }
}

/// First and last id that a prefix can stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The rest is zeros.
    pub first: Uuid,
    /// The rest is ones.
    pub last: Uuid,
}

impl IdRange {
    /// The ids that start with these hex digits (without hyphens); none when there are none, more than 32, or others than hex digits.
    #[must_use]
    pub fn of_prefix(hex_digits: &str) -> Option<Self> {
        let known = u32::try_from(hex_digits.len()).ok().filter(|length| (1..=32).contains(length))? * 4;
        if !hex_digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let free = 128 - known;
        let first = u128::from_str_radix(hex_digits, 16).ok()? << free;
        let last = first | u128::MAX.checked_shr(known).unwrap_or(0);
        Some(Self { first: Uuid::from_u128(first), last: Uuid::from_u128(last) })
    }
}

/// What has an id of a range, one more than are shown.
async fn ids_in(db: impl PgExecutor<'_>, statement: &'static str, range: IdRange) -> Result<PrefixMatch, ReadError> {
    let limit = i64::try_from(CANDIDATES_MAX + 1).expect("a small constant");
    let rows = sqlx::query(statement).bind(range.first).bind(range.last).bind(limit).fetch_all(db).await?;
    let candidate = |row: &PgRow| -> Result<Candidate, ReadError> {
        Ok(Candidate { id: row.try_get("id")?, name: row.try_get("name")?, created_at: row.try_get("created_at")? })
    };
    let found: Vec<Candidate> = rows.iter().map(candidate).collect::<Result<_, _>>()?;
    Ok(found.into())
}

/// An inclusive lower bound of the ids drawn since a time, with slack for clocks that differ.
fn first_id_since(since: Option<OffsetDateTime>) -> Uuid {
    let Some(since) = since else { return Uuid::nil() };
    let unix_ms = (since - CLOCK_SLACK).unix_timestamp_nanos().max(0) / 1_000_000;
    Uuid::from_u128(u128::try_from(unix_ms).expect("not negative") << 80)
}

fn tags_filter(tags: &[String]) -> serde_json::Value {
    serde_json::Value::from(tags.to_vec())
}

/// A word of a column as its type.
fn word<T: FromStr<Err: Display>>(row: &PgRow, column: &'static str) -> Result<T, ReadError> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|error: T::Err| ReadError::Unreadable { column, reason: error.to_string() })
}

/// Connections come and go, and servers restart (SQLSTATE classes 08, 53, 57 and 58); a timeout is one of class 57.
pub(crate) fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(refusal) => refusal.code().is_some_and(|code| {
            ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) || matches!(code.as_ref(), "40001" | "40P01" | "55P03")
        }),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// RFC 3339 in UTC.
///
/// # Errors
/// A year beyond 9999 has no such form.
pub fn rfc3339<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    let text = at.to_offset(time::UtcOffset::UTC).format(&Rfc3339).map_err(serde::ser::Error::custom)?;
    serializer.serialize_str(&text)
}

/// RFC 3339 in UTC, or null.
///
/// # Errors
/// As [`rfc3339`].
#[allow(clippy::ref_option, reason = "the signature that serde calls")]
pub fn rfc3339_or_null<S: Serializer>(at: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => rfc3339(at, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_prefix_is_a_range_of_ids() {
        let range = IdRange::of_prefix("0190ab12").expect("hex");
        assert_eq!(range.first.to_string(), "0190ab12-0000-0000-0000-000000000000");
        assert_eq!(range.last.to_string(), "0190ab12-ffff-ffff-ffff-ffffffffffff");
        let whole = IdRange::of_prefix("0190ab1200007000800000000000abcd").expect("hex");
        assert_eq!(whole.first, whole.last);
        assert_eq!(IdRange::of_prefix("f").map(|range| range.last), Some(Uuid::max()));
        for bad in ["", "xyz", "+190ab12", "0190ab1200007000800000000000abcd0"] {
            assert_eq!(IdRange::of_prefix(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_since_a_time_start_before_it() {
        let since = datetime!(2026-01-01 00:10:00 UTC);
        let drawn_at_ms = 1_767_225_600_000_u128;
        assert_eq!(first_id_since(Some(since)), Uuid::from_u128(drawn_at_ms << 80));
        assert_eq!(first_id_since(None), Uuid::nil());
    }

    #[test]
    fn statements_have_names_of_their_own() {
        let mut names: Vec<_> = statements().into_iter().map(|(name, _)| name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
