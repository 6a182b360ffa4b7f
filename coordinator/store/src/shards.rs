//! Leases on shards: taking, renewing, giving back; positions and marks are saved with the renewal.

use crate::StoreError;
use crate::rows::{MarkRow, PositionRow};
use orchestr8_core::shares::Standing;
use orchestr8_proto::ids::LeaseId;
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::words::Priority;
use sqlx::types::{Json, Uuid};
use sqlx::{PgConnection, Row};
use std::time::Duration;
use time::OffsetDateTime;

/// Takes what nobody owns and what has run out.
pub const TAKE_VACANT: &str = "select shard, stream_incarnation, outcome_sequence, outcome_time
from take_vacant($1, $2, $3, $4)";
/// Takes back what is ours.
pub const RETAKE: &str = "select shard, stream_incarnation, outcome_sequence, outcome_time
from retake_shards($1, $2, $3, $4)";
/// Saves positions and marks, renews the leases, and says that the lane lives.
pub const RENEW: &str = "select now, next_due, inbox, lanes, rank, vacant, next_expiry,
array(select queue from paused_queues order by queue) as paused_queues from renew_lane($1, $2, $3, $4, $5, $6, $7)";
/// Gives some shards away.
pub const HAND_OVER: &str = "select hand_over_shards($1, $2)";
/// Gives all shards back; the lane has ended.
pub const LEAVE: &str = "select leave_lane($1, $2)";
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The database's clock.
    pub now: Timestamp,
    /// The next timer of the renewed shards.
    pub next_due: Option<Timestamp>,
    /// Rows wait in the inbox of a renewed shard.
    pub inbox: bool,
    /// This lane among all that are alive.
    pub standing: Standing,
    /// When the first lease of another lane runs out, unless it is renewed.
    pub next_expiry: Option<Timestamp>,
    /// Queues of which nothing new is dispatched, by name.
    pub paused_queues: Vec<String>,
}

/// Who takes shards.
#[derive(Debug, Clone)]
pub struct LaneIdentity {
    /// Drawn by each start of a lane.
    pub lane: Uuid,
    /// Name of the coordinator and number of the lane, a label.
    pub owner: String,
    /// How long a lease lasts without a renewal.
    pub lease_time: Duration,
}

/// Whether a lane hears the coordinators over NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hearing {
    /// It does.
    pub hears: Hears,
    /// Who has heard them for this long shares the shards with the others that have.
    pub settle_time: Duration,
}

/// Whether a lane hears the coordinators over NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hears {
    /// Its own beat, or another's.
    Beats,
    /// For too long nothing: it is cut off.
    Nothing,
}

/// Takes up to `limit` vacant shards under `lease`, a new one for every take. Their old owners' transactions have ended.
///
/// # Errors
/// [`StoreError`]; whether they were taken is unknown, so retake.
pub async fn take_vacant(
    connection: &mut PgConnection,
    limit: u32,
    lease: LeaseId,
    identity: &LaneIdentity,
) -> Result<Vec<Taken>, StoreError> {
    let limit = i32::try_from(limit).unwrap_or(i32::MAX);
    let query = sqlx::query(TAKE_VACANT).bind(limit).bind(lease.0).bind(&identity.owner).bind(millis(identity.lease_time));
    query.fetch_all(connection).await?.iter().map(taken).collect()
}

/// Takes back under `lease`, a new one, what is held under one of `mine`. What was under way there has ended.
///
/// # Errors
/// [`StoreError`]; whether they were taken is unknown, so retake again.
pub async fn retake(
    connection: &mut PgConnection,
    mine: &[LeaseId],
    lease: LeaseId,
    identity: &LaneIdentity,
) -> Result<Vec<Taken>, StoreError> {
    let mine: Vec<Uuid> = mine.iter().map(|lease| lease.0).collect();
    let query = sqlx::query(RETAKE).bind(mine).bind(lease.0).bind(&identity.owner).bind(millis(identity.lease_time));
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

/// Renews leases, those in `positions`; positions and marks are saved with them. Also for a lane without shards.
///
/// # Errors
/// [`StoreError::Fenced`] when one is no longer held: recover.
pub async fn renew(
    connection: &mut PgConnection,
    (identity, hearing): (&LaneIdentity, Hearing),
    positions: &[PositionRow],
    marks: &[MarkRow],
) -> Result<Renewed, StoreError> {
    let query = sqlx::query(RENEW).bind(identity.lane).bind(&identity.owner);
    let query = query.bind(hearing.hears == Hears::Beats).bind(millis(hearing.settle_time)).bind(positions);
    let row = query.bind(millis(identity.lease_time)).bind(marks).fetch_one(connection).await?;
    let count = |column: &str| row.try_get::<i32, _>(column).map(|count| u32::try_from(count).unwrap_or(0));
    Ok(Renewed {
        now: row.try_get::<OffsetDateTime, _>("now")?.into(),
        next_due: row.try_get::<Option<OffsetDateTime>, _>("next_due")?.map(Timestamp::from),
        inbox: row.try_get("inbox")?,
        standing: Standing { lanes: count("lanes")?, rank: count("rank")?, vacant: count("vacant")? },
        next_expiry: row.try_get::<Option<OffsetDateTime>, _>("next_expiry")?.map(Timestamp::from),
        paused_queues: row.try_get("paused_queues")?,
    })
}

/// Gives these shards away at once; others may take them.
///
/// # Errors
/// [`StoreError`]; whether they were given away is unknown.
pub async fn hand_over(connection: &mut PgConnection, held: &[(u16, LeaseId)]) -> Result<(), StoreError> {
    let (shards, leases): (Vec<i32>, Vec<Uuid>) = held.iter().map(|(shard, lease)| (i32::from(*shard), lease.0)).unzip();
    sqlx::query(HAND_OVER).bind(shards).bind(leases).execute(connection).await?;
    Ok(())
}

/// The lane has ended: gives back at once what is held under `leases`.
///
/// # Errors
/// [`StoreError`]; they expire by themselves.
pub async fn leave(connection: &mut PgConnection, lane: Uuid, leases: &[LeaseId]) -> Result<(), StoreError> {
    let leases: Vec<Uuid> = leases.iter().map(|lease| lease.0).collect();
    sqlx::query(LEAVE).bind(lane).bind(leases).execute(connection).await?;
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
