//! What an operator asks: who owns which shard, who serves, and what of Postgres itself may be wrong.

use super::{ReadError, rfc3339, rfc3339_or_null};
use orchestr8_proto::ids::Incarnation;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// Stuck runs that are read, at most.
pub const STUCK_SHOWN_MAX: usize = 20;

const SHARDS: &str = "select s.shard, s.owner, s.lease_id is not null and s.expires_at > clock_timestamp() as is_owned,
        case when s.lease_id is not null then s.owned_since end as owned_since, s.expires_at, s.stream_incarnation, s.outcome_sequence,
        s.outcome_time, i.inbox, i.inbox_age_s
    from shards s left join (
        select shard, count(*) as inbox, greatest(0, extract(epoch from clock_timestamp() - min(created_at)))::float8 as inbox_age_s
        from shard_inbox group by shard) i on i.shard = s.shard
    order by s.shard";

const POSTGRES: &str = "select current_setting('server_version') as version, clock_timestamp() as now, pg_is_in_recovery() as is_replica,
        current_setting('synchronous_commit') as synchronous_commit, current_setting('fsync') as fsync,
        current_setting('max_connections')::int as connections_max,
        (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections,
        (select max(version) from _sqlx_migrations where success) as migration, (select id from installation) as installation,
        (select count(*) from coordinator_lanes where expires_at > clock_timestamp()) as lanes,
        (select count(*) from quarantined_events) as quarantined";

/// By the index of running tasks.
const STUCK: &str = "select t.id, t.task_name, t.queue, coalesce(t.executor_id, '') as executor_id, t.incarnation from task_executions t
    where t.status = 'running' and t.incarnation is not null and not t.incarnation = any ($1) order by t.id limit $2";

pub(super) const STATEMENTS: &[(&str, &str)] = &[("shards", SHARDS), ("postgres", POSTGRES), ("stuck", STUCK)];

/// One shard, as it was saved last: with each renewal of its lease.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShardRecord {
    /// From 0.
    pub shard: i32,
    /// Name of the coordinator, with the number of the lane where it has several; null: nobody.
    pub owner: Option<String>,
    /// Its lease has not run out.
    pub is_owned: bool,
    /// When the owner took it; null: not known, or nobody.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub owned_since: Option<OffsetDateTime>,
    /// When its lease runs out unless it is renewed.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub expires_at: Option<OffsetDateTime>,
    /// The creation of the outcome stream that its position belongs to.
    pub stream_incarnation: Option<String>,
    /// Every outcome of the shard up to this sequence of the stream is decided.
    pub outcome_sequence: Option<i64>,
    /// When JetStream stored that message.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub outcome_time: Option<OffsetDateTime>,
    /// Commands and submissions that wait for the owner.
    pub inbox: i64,
    /// How long the oldest of them waits, in seconds.
    pub inbox_age_s: f64,
}

/// Postgres, as a session of reads sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PostgresFacts {
    /// Such as 15.18.
    pub version: String,
    /// Its clock.
    #[serde(serialize_with = "rfc3339")]
    pub now: OffsetDateTime,
    /// It takes no writes.
    pub is_replica: bool,
    /// `on` unless commits may be lost.
    pub synchronous_commit: String,
    /// `on` unless a crash may break it.
    pub fsync: String,
    /// Sessions that it takes.
    pub connections_max: i32,
    /// Sessions that it has.
    pub connections: i64,
    /// The newest migration of the schema.
    pub migration: Option<i64>,
    /// What this database is.
    pub installation: Option<Uuid>,
    /// Lanes of all coordinators that are alive.
    pub lanes: i64,
    /// Events that could not be applied.
    pub quarantined: i64,
}

/// A run whose holder is not heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StuckRun {
    /// Its task.
    pub task_id: Uuid,
    /// The task's name.
    pub name: String,
    /// The task's queue.
    pub queue: String,
    /// Name of the executor that held it.
    pub executor_id: String,
    /// The process that held it.
    pub incarnation: Incarnation,
}

/// All shards.
///
/// # Errors
/// [`ReadError`].
pub async fn shards(db: impl PgExecutor<'_>) -> Result<Vec<ShardRecord>, ReadError> {
    sqlx::query(SHARDS).fetch_all(db).await?.iter().map(shard).collect()
}

/// Postgres itself.
///
/// # Errors
/// [`ReadError`].
pub async fn postgres(db: impl PgExecutor<'_>) -> Result<PostgresFacts, ReadError> {
    let row = sqlx::query(POSTGRES).fetch_one(db).await?;
    Ok(PostgresFacts {
        version: row.try_get("version")?,
        now: row.try_get("now")?,
        is_replica: row.try_get("is_replica")?,
        synchronous_commit: row.try_get("synchronous_commit")?,
        fsync: row.try_get("fsync")?,
        connections_max: row.try_get("connections_max")?,
        connections: row.try_get("connections")?,
        migration: row.try_get("migration")?,
        installation: row.try_get("installation")?,
        lanes: row.try_get("lanes")?,
        quarantined: row.try_get("quarantined")?,
    })
}

/// How long one question and its answer take.
///
/// # Errors
/// [`ReadError`].
pub async fn round_trip(db: impl PgExecutor<'_>) -> Result<Duration, ReadError> {
    let asked_at = std::time::Instant::now();
    sqlx::query(super::ANSWERS).execute(db).await?;
    Ok(asked_at.elapsed())
}

/// Runs that are held by other incarnations than these, the oldest first.
///
/// # Errors
/// [`ReadError`].
pub async fn stuck(db: impl PgExecutor<'_>, heard: &[Uuid]) -> Result<Vec<StuckRun>, ReadError> {
    let limit = i64::try_from(STUCK_SHOWN_MAX).unwrap_or(i64::MAX);
    let rows = sqlx::query(STUCK).bind(heard).bind(limit).fetch_all(db).await?;
    let run = |row: &PgRow| {
        let (task_id, name, queue) = (row.try_get("id")?, row.try_get("task_name")?, row.try_get("queue")?);
        let (executor_id, incarnation) = (row.try_get("executor_id")?, Incarnation(row.try_get("incarnation")?));
        Ok(StuckRun { task_id, name, queue, executor_id, incarnation })
    };
    rows.iter().map(run).collect()
}

fn shard(row: &PgRow) -> Result<ShardRecord, ReadError> {
    Ok(ShardRecord {
        shard: row.try_get("shard")?,
        owner: row.try_get("owner")?,
        is_owned: row.try_get("is_owned")?,
        owned_since: row.try_get("owned_since")?,
        expires_at: row.try_get("expires_at")?,
        stream_incarnation: row.try_get("stream_incarnation")?,
        outcome_sequence: row.try_get("outcome_sequence")?,
        outcome_time: row.try_get("outcome_time")?,
        inbox: row.try_get::<Option<i64>, _>("inbox")?.unwrap_or(0),
        inbox_age_s: row.try_get::<Option<f64>, _>("inbox_age_s")?.unwrap_or(0.0),
    })
}
