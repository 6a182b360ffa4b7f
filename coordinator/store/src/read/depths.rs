//! Queue depths and ages: how many tasks of a queue are in which state, and how long its oldest waits, for the metrics.

use super::{ReadError, word};
use orchestr8_proto::words::{Priority, TaskStatus};
use sqlx::{PgExecutor, Row};
use std::time::Duration;

/// How many tasks of a queue and priority are in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDepth {
    /// The queue.
    pub queue: String,
    /// Within it.
    pub priority: Priority,
    /// `queued`, `running`, `retrying` or `waiting`.
    pub status: TaskStatus,
    /// Tasks.
    pub tasks: i64,
}

/// Each branch is served by one of the partial indexes: what has ended costs nothing. The first, which can be long, names no column
/// that its index lacks.
const DEPTHS: &str =
    "select queue, priority, 'queued' as status, count(*) as tasks from task_executions where status = 'queued' group by queue, priority
    union all
    select queue, priority, status, count(*) from task_executions where status = 'running' group by 1, 2, 3
    union all
    select queue, priority, status, count(*) from task_executions
    where due_at is not null and status in ('retrying', 'waiting') group by 1, 2, 3";

/// The oldest of each shard, queue and priority is the first of its lot in `task_executions_queued`; from one lot the index leads to
/// the next. So it reads one row a lot that has queued tasks, however many they are. A clock that was set back makes nothing negative.
const OLDEST: &str = "with recursive heads as (
    select s.shard, h.queue, h.priority, h.queued_at from shards s cross join lateral (
        select t.queue, t.priority, coalesce(t.queued_at, t.created_at) as queued_at from task_executions t
        where t.shard = s.shard and t.status = 'queued' order by t.queue, t.priority, t.dispatch_sequence limit 1) h
    union all
    select h.shard, n.queue, n.priority, n.queued_at from heads h cross join lateral (
        select t.queue, t.priority, coalesce(t.queued_at, t.created_at) as queued_at from task_executions t
        where t.shard = h.shard and t.status = 'queued' and (t.queue, t.priority) > (h.queue, h.priority)
        order by t.queue, t.priority, t.dispatch_sequence limit 1) n)
    select queue, greatest(0, extract(epoch from clock_timestamp() - min(queued_at)))::float8 as age_s from heads group by queue";

/// Every lot in which something is queued, or was of late, has its marks.
const QUEUES: &str = "select distinct queue from dispatch_marks";

pub(super) const STATEMENTS: &[(&str, &str)] = &[("depths", DEPTHS), ("oldest_queued", OLDEST), ("queues", QUEUES)];

/// How long the oldest queued task of a queue has waited since it was last queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueAge {
    /// The queue.
    pub queue: String,
    /// By the database's clock.
    pub age: Duration,
}

/// The ages of all queues that have queued tasks.
///
/// # Errors
/// [`ReadError`].
pub async fn oldest_queued(db: impl PgExecutor<'_>) -> Result<Vec<QueueAge>, ReadError> {
    let rows = sqlx::query(OLDEST).fetch_all(db).await?;
    let age = |row: &sqlx::postgres::PgRow| {
        Ok(QueueAge { queue: row.try_get("queue")?, age: Duration::try_from_secs_f64(row.try_get("age_s")?).unwrap_or_default() })
    };
    rows.iter().map(age).collect()
}

/// The queues that are in use, or were of late.
///
/// # Errors
/// [`ReadError`].
pub async fn queues(db: impl PgExecutor<'_>) -> Result<Vec<String>, ReadError> {
    Ok(sqlx::query_scalar(QUEUES).fetch_all(db).await?)
}

/// The depths of all queues that have unfinished tasks.
///
/// # Errors
/// [`ReadError`].
pub async fn depths(db: impl PgExecutor<'_>) -> Result<Vec<QueueDepth>, ReadError> {
    let rows = sqlx::query(DEPTHS).fetch_all(db).await?;
    rows.iter()
        .map(|row| {
            Ok(QueueDepth {
                queue: row.try_get("queue")?,
                priority: word(row, "priority")?,
                status: word(row, "status")?,
                tasks: row.try_get("tasks")?,
            })
        })
        .collect()
}
