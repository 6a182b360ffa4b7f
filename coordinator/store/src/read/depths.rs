//! Queue depths: how many tasks of a queue are in which state, for the metrics.

use super::{ReadError, word};
use orchestr8_proto::words::{Priority, TaskStatus};
use sqlx::{PgExecutor, Row};

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

/// Each branch is served by one of the partial indexes: what has ended costs nothing.
const DEPTHS: &str = "select queue, priority, status, count(*) as tasks from task_executions where status = 'queued' group by 1, 2, 3
    union all
    select queue, priority, status, count(*) from task_executions where status = 'running' group by 1, 2, 3
    union all
    select queue, priority, status, count(*) from task_executions
    where due_at is not null and status in ('retrying', 'waiting') group by 1, 2, 3";

pub(super) const STATEMENTS: &[(&str, &str)] = &[("depths", DEPTHS)];

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
