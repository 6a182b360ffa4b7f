//! What is queued, running or due in the shards of a lane.

use crate::StoreError;
use crate::shards::shard;
use orchestr8_proto::ids::{DispatchId, Incarnation, LeaseId, RunId, TaskId};
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::words::Priority;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;
use sqlx::{PgConnection, Row};
use std::sync::Arc;
use time::OffsetDateTime;

/// Queued rows above a mark, in order.
pub const QUEUED_ABOVE: &str = "select id, dispatch_id, dispatch_sequence from task_executions
where shard = $1 and queue = $2 and priority = $3 and status = 'queued' and dispatch_sequence > $4
order by dispatch_sequence limit $5";
/// Queued rows at or below a sequence, in order: those whose message is gone are among them.
pub const QUEUED_THROUGH: &str = "select id, dispatch_id, dispatch_sequence from task_executions
where shard = $1 and queue = $2 and priority = $3 and status = 'queued' and dispatch_sequence > $4 and dispatch_sequence <= $5
order by dispatch_sequence limit $6";
/// Per shard, queue and priority: rows that are in the stream, and the highest sequence. A mark exists for every lot that ever
/// drew one; both counts go by index and the first is bounded by the broker's room.
pub const QUEUED_COUNTS: &str = "select m.shard, m.queue, m.priority,
(select count(*) from task_executions t where t.shard = m.shard and t.queue = m.queue and t.priority = m.priority
  and t.status = 'queued' and t.dispatch_sequence <= m.published_through) as published,
(select t.dispatch_sequence from task_executions t where t.shard = m.shard and t.queue = m.queue and t.priority = m.priority
  and t.status = 'queued' and t.dispatch_sequence is not null order by t.dispatch_sequence desc limit 1) as highest
from dispatch_marks m where m.shard = any ($1)";
/// Forgets the marks of lots in which nothing is queued, as far as their shards are still held: the next dispatch of such a lot
/// begins anew, with a row in its own commit.
pub const FORGET_MARKS: &str = "with held as (
  select r.* from shards s join unnest($1::int[], $2::uuid[], $3::text[], $4::text[]) r (shard, lease_id, queue, priority)
  on s.shard = r.shard and s.lease_id = r.lease_id for key share of s)
delete from dispatch_marks m using held h where m.shard = h.shard and m.queue = h.queue and m.priority = h.priority
and not exists (select 1 from task_executions t where t.shard = m.shard and t.queue = m.queue and t.priority = m.priority
  and t.status = 'queued')
returning m.shard, m.queue, m.priority";
/// Holders.
pub const RUNNING: &str = "select id, dispatch_id, run_id, incarnation, coalesce(executor_id, '') from task_executions
where status = 'running' and shard = any ($1) and dispatch_id is not null and run_id is not null and incarnation is not null";
/// Timers that are due, and the one after them.
pub const DUE: &str = "select d.id, d.due_at from unnest($1::int[]) s (shard) cross join lateral (
select t.id, t.due_at from task_executions t where t.shard = s.shard and t.due_at <= $2 order by t.due_at limit $3) d
order by d.due_at limit $3";
/// The next timer.
pub const NEXT_DUE: &str = "select min(d.due_at) from unnest($1::int[]) s (shard) cross join lateral (
select t.due_at from task_executions t where t.shard = s.shard and t.due_at > $2 order by t.due_at limit 1) d";

/// A queued row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queued {
    /// Which task.
    pub task: TaskId,
    /// Its current publication.
    pub dispatch: DispatchId,
    /// Its place.
    pub sequence: i64,
}

/// Shard, queue and priority.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lot {
    /// Which shard.
    pub shard: u16,
    /// Which queue.
    pub queue: String,
    /// Which priority.
    pub priority: Priority,
}

/// The queued rows of a lot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LotCount {
    /// Of which lot.
    pub lot: Lot,
    /// How many are in the stream.
    pub published: u64,
    /// The newest.
    pub highest: i64,
}

/// A task that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Which task.
    pub task: TaskId,
    /// Its current publication.
    pub dispatch: DispatchId,
    /// The holder's run.
    pub run: RunId,
    /// The holder's process.
    pub incarnation: Incarnation,
    /// The holder's name.
    pub executor: Arc<str>,
}

/// Queued rows above `after`, at most `limit`.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn queued_above(connection: &mut PgConnection, lot: &Lot, after: i64, limit: i64) -> Result<Vec<Queued>, StoreError> {
    let query = sqlx::query(QUEUED_ABOVE).bind(i32::from(lot.shard)).bind(&lot.queue).bind(lot.priority.as_str());
    query.bind(after).bind(limit).fetch_all(connection).await?.iter().map(queued).collect()
}

/// Queued rows above `after` and at or below `through`, at most `limit`.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn queued_through(
    connection: &mut PgConnection,
    lot: &Lot,
    (after, through): (i64, i64),
    limit: i64,
) -> Result<Vec<Queued>, StoreError> {
    let query = sqlx::query(QUEUED_THROUGH).bind(i32::from(lot.shard)).bind(&lot.queue).bind(lot.priority.as_str());
    query.bind(after).bind(through).bind(limit).fetch_all(connection).await?.iter().map(queued).collect()
}

/// Counts per lot.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn queued_counts(connection: &mut PgConnection, shards: &[u16]) -> Result<Vec<LotCount>, StoreError> {
    sqlx::query(QUEUED_COUNTS).bind(columns(shards)).fetch_all(connection).await?.iter().map(lot_count).collect()
}

/// Forgets the marks of these lots where nothing is queued in them and their shard is held under the given lease; gives those that
/// are forgotten.
///
/// # Errors
/// [`StoreError`]; whether they were forgotten is unknown.
pub async fn forget_marks(connection: &mut PgConnection, lots: &[(Arc<Lot>, LeaseId)]) -> Result<Vec<Lot>, StoreError> {
    let shards: Vec<i32> = lots.iter().map(|(lot, _)| i32::from(lot.shard)).collect();
    let leases: Vec<Uuid> = lots.iter().map(|(_, lease)| lease.0).collect();
    let (queues, priorities): (Vec<&str>, Vec<&str>) = lots.iter().map(|(lot, _)| (lot.queue.as_str(), lot.priority.as_str())).unzip();
    let query = sqlx::query(FORGET_MARKS).bind(shards).bind(leases).bind(queues).bind(priorities);
    query.fetch_all(connection).await?.iter().map(lot).collect()
}

/// Who holds what.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn running(connection: &mut PgConnection, shards: &[u16]) -> Result<Vec<Running>, StoreError> {
    let rows = sqlx::query(RUNNING).bind(columns(shards)).fetch_all(connection).await?;
    let row = |row: &PgRow| {
        Ok(Running {
            task: TaskId(row.try_get(0)?),
            dispatch: DispatchId(row.try_get(1)?),
            run: RunId(row.try_get(2)?),
            incarnation: Incarnation(row.try_get(3)?),
            executor: row.try_get::<&str, _>(4)?.into(),
        })
    };
    rows.iter().map(row).collect()
}

/// Tasks whose timer is due at `now`, at most `limit`.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn due(connection: &mut PgConnection, shards: &[u16], now: Timestamp, limit: i64) -> Result<Vec<TaskId>, StoreError> {
    let query = sqlx::query_scalar::<_, Uuid>(DUE).bind(columns(shards)).bind(OffsetDateTime::from(now)).bind(limit);
    Ok(query.fetch_all(connection).await?.into_iter().map(TaskId).collect())
}

/// The first timer after `now`.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn next_due(connection: &mut PgConnection, shards: &[u16], now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
    let query = sqlx::query_scalar::<_, Option<OffsetDateTime>>(NEXT_DUE).bind(columns(shards)).bind(OffsetDateTime::from(now));
    Ok(query.fetch_one(connection).await?.map(Timestamp::from))
}

fn queued(row: &PgRow) -> Result<Queued, StoreError> {
    Ok(Queued { task: TaskId(row.try_get(0)?), dispatch: DispatchId(row.try_get(1)?), sequence: row.try_get(2)? })
}

fn lot(row: &PgRow) -> Result<Lot, StoreError> {
    let priority: &str = row.try_get("priority")?;
    let priority = priority.parse().map_err(|error| StoreError::Unreadable(format!("{error}")))?;
    Ok(Lot { shard: shard(row.try_get("shard")?)?, queue: row.try_get("queue")?, priority })
}

fn lot_count(row: &PgRow) -> Result<LotCount, StoreError> {
    let published = u64::try_from(row.try_get::<i64, _>("published")?).unwrap_or(0);
    Ok(LotCount { lot: lot(row)?, published, highest: row.try_get::<Option<i64>, _>("highest")?.unwrap_or(0) })
}

fn columns(shards: &[u16]) -> Vec<i32> {
    shards.iter().map(|shard| i32::from(*shard)).collect()
}
