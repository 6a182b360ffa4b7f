//! Leases on shards: taking, renewing, giving back; positions and marks are saved with the renewal.

use crate::StoreError;
use crate::rows::{MarkRow, PositionRow};
use orchestr8_proto::ids::LeaseId;
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::words::Priority;
use sqlx::types::{Json, Uuid};
use sqlx::{PgConnection, Row};
use std::time::Duration;
use time::OffsetDateTime;

/// Takes what nobody owns, what has run out, and what is ours.
pub const TAKE: &str = "select shard, stream_incarnation, outcome_sequence, outcome_time
from take_shards($1, $2, $3, $4, $5)";
/// Saves positions and marks and renews the leases.
pub const RENEW: &str = "select now, next_due, inbox from renew_shards($1, $2, $3)";
/// Gives shards back at once.
pub const RELEASE: &str = "select release_shards($1)";
/// Marks of shards.
pub const MARKS: &str = "select shard, queue, priority, published_through, tried_through, stream_incarnation, checkpoints
from dispatch_marks where shard = any ($1)";
/// Below which the outcome stream may be purged; none while a shard has no position in this stream.
pub const SAFE_POSITION: &str = "select
case when bool_and(stream_incarnation is not distinct from $1 and outcome_sequence_safe is not null)
  then min(outcome_sequence_safe) end as safe,
case when bool_and(stream_incarnation is not distinct from $1 and outcome_sequence is not null)
  then min(outcome_sequence) end as decided
from shards";
/// How many of some shards could be taken.
pub const VACANT: &str = "select count(*) from shards
where shard = any ($1) and (lease_id is null or expires_at <= clock_timestamp())";

/// How far the outcomes of a shard are committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The creation of the stream.
    pub incarnation: String,
    /// Everything up to here is committed or is not this shard's.
    pub sequence: u64,
    /// Timestamp of that message on the server's clock.
    pub time: Timestamp,
}

/// A shard that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Which.
    pub shard: u16,
    /// As saved; none: no outcome was ever read.
    pub position: Option<Position>,
}

/// Saved marks of one shard, queue and priority.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedMarks {
    /// Which shard.
    pub shard: u16,
    /// Which queue.
    pub queue: String,
    /// Which priority.
    pub priority: Priority,
    /// Everything up to here has its PubAck.
    pub published_through: i64,
    /// Nothing above was ever tried.
    pub tried_through: i64,
    /// The task stream that they belong to.
    pub stream_incarnation: Option<String>,
    /// Pairs of (dispatch sequence, stream sequence).
    pub checkpoints: Vec<(i64, u64)>,
}

/// What a renewal returns besides the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    /// The database's clock.
    pub now: Timestamp,
    /// The next timer of the renewed shards.
    pub next_due: Option<Timestamp>,
    /// Rows wait in the inbox of a renewed shard.
    pub inbox: bool,
}

/// Who takes shards, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Taker<'a> {
    /// The coordinator's name.
    pub owner: &'a str,
    /// A new one for every take.
    pub lease: LeaseId,
    /// How long without a renewal.
    pub lease_time: Duration,
}

/// Takes those of `shards` that are vacant or held under one of `mine`. Their old owners' transactions have ended.
///
/// # Errors
/// [`StoreError`]; whether they were taken is unknown, so take again.
pub async fn take(connection: &mut PgConnection, shards: &[u16], mine: &[LeaseId], taker: Taker<'_>) -> Result<Vec<Taken>, StoreError> {
    let wanted: Vec<i32> = shards.iter().map(|shard| i32::from(*shard)).collect();
    let mine: Vec<Uuid> = mine.iter().map(|lease| lease.0).collect();
    let query = sqlx::query(TAKE).bind(wanted).bind(mine).bind(taker.lease.0).bind(taker.owner).bind(millis(taker.lease_time));
    query.fetch_all(connection).await?.iter().map(taken).collect()
}

fn taken(row: &sqlx::postgres::PgRow) -> Result<Taken, StoreError> {
    let incarnation: Option<String> = row.try_get("stream_incarnation")?;
    let sequence: Option<i64> = row.try_get("outcome_sequence")?;
    let time: Option<OffsetDateTime> = row.try_get("outcome_time")?;
    let position = incarnation.zip(sequence).zip(time).map(|((incarnation, sequence), time)| Position {
        incarnation,
        sequence: u64::try_from(sequence).unwrap_or(0),
        time: time.into(),
    });
    Ok(Taken { shard: shard(row.try_get("shard")?)?, position })
}

/// How many of these shards nobody owns.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn vacant(connection: &mut PgConnection, shards: &[u16]) -> Result<i64, StoreError> {
    let wanted: Vec<i32> = shards.iter().map(|shard| i32::from(*shard)).collect();
    Ok(sqlx::query_scalar(VACANT).bind(wanted).fetch_one(connection).await?)
}

/// Renews leases; positions and marks are saved with them.
///
/// # Errors
/// [`StoreError::Fenced`] when one is no longer held: recover.
pub async fn renew(
    connection: &mut PgConnection,
    positions: &[PositionRow],
    lease_time: Duration,
    marks: &[MarkRow],
) -> Result<Renewed, StoreError> {
    let row = sqlx::query(RENEW).bind(positions).bind(millis(lease_time)).bind(marks).fetch_one(connection).await?;
    Ok(Renewed {
        now: row.try_get::<OffsetDateTime, _>("now")?.into(),
        next_due: row.try_get::<Option<OffsetDateTime>, _>("next_due")?.map(Timestamp::from),
        inbox: row.try_get("inbox")?,
    })
}

/// Gives shards back at once.
///
/// # Errors
/// [`StoreError`]; they expire by themselves.
pub async fn release(connection: &mut PgConnection, leases: &[LeaseId]) -> Result<(), StoreError> {
    let leases: Vec<Uuid> = leases.iter().map(|lease| lease.0).collect();
    sqlx::query(RELEASE).bind(leases).execute(connection).await?;
    Ok(())
}

/// The saved marks of shards.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn marks(connection: &mut PgConnection, shards: &[u16]) -> Result<Vec<SavedMarks>, StoreError> {
    let wanted: Vec<i32> = shards.iter().map(|shard| i32::from(*shard)).collect();
    sqlx::query(MARKS).bind(wanted).fetch_all(connection).await?.iter().map(saved_marks).collect()
}

fn saved_marks(row: &sqlx::postgres::PgRow) -> Result<SavedMarks, StoreError> {
    let priority: &str = row.try_get("priority")?;
    Ok(SavedMarks {
        shard: shard(row.try_get("shard")?)?,
        queue: row.try_get("queue")?,
        priority: priority.parse().map_err(|error| StoreError::Unreadable(format!("{error}")))?,
        published_through: row.try_get("published_through")?,
        tried_through: row.try_get("tried_through")?,
        stream_incarnation: row.try_get("stream_incarnation")?,
        checkpoints: row.try_get::<Json<Vec<(i64, u64)>>, _>("checkpoints")?.0,
    })
}

/// Stream sequences below which outcomes may be purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeLimits {
    /// At least ten minutes old: a database that fails over to a replica replays what it missed.
    pub safe: Option<u64>,
    /// Committed by every shard, as saved: for a stream that gets full.
    pub decided: Option<u64>,
}

/// How far the outcome stream may be purged.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn safe_position(connection: &mut PgConnection, incarnation: &str) -> Result<PurgeLimits, StoreError> {
    let row = sqlx::query(SAFE_POSITION).bind(incarnation).fetch_one(connection).await?;
    let sequence = |column: Option<i64>| column.and_then(|sequence| u64::try_from(sequence).ok());
    Ok(PurgeLimits { safe: sequence(row.try_get("safe")?), decided: sequence(row.try_get("decided")?) })
}

pub(crate) fn shard(column: i32) -> Result<u16, StoreError> {
    u16::try_from(column).map_err(|_| StoreError::Unreadable(format!("{column} is not a shard")))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
