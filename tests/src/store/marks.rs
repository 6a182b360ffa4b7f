//! Marks of lots that nobody uses any more are forgotten, and no others.

use super::migrated;
use anyhow::Result;
use orchestr8_proto::ids::LeaseId;
use orchestr8_proto::words::Priority;
use orchestr8_store::queue::{self, Lot};
use sqlx::Connection;
use std::sync::Arc;

#[tokio::test]
async fn only_marks_of_held_shards_without_queued_tasks_are_forgotten() -> Result<()> {
    let mut connection = migrated().await?;
    let lease = LeaseId::random();
    sqlx::query("update shards set lease_id = $1 where shard < 2").bind(lease.0).execute(&mut connection).await?;
    let marks = "insert into dispatch_marks (shard, queue, priority, published_through)
      select s, q, 'normal', 7 from generate_series(1, 2) s, unnest(array['idle', 'used', 'kept']) q";
    sqlx::query(marks).execute(&mut connection).await?;
    let task = "insert into task_executions (id, workflow_id, task_name, agent_name, task_description, status, priority, queue, created_at,
      shard, dispatch_sequence) values (gen_random_uuid(), gen_random_uuid(), 't', 'run', 't', 'queued', 'normal', 'used', now(), 1, 7)";
    sqlx::query(task).execute(&mut connection).await?;
    let lot = |shard: u16, queue: &str| Arc::new(Lot { shard, queue: queue.to_owned(), priority: Priority::Normal });
    let asked = [(lot(1, "idle"), lease), (lot(1, "used"), lease), (lot(2, "idle"), lease), (lot(1, "kept"), LeaseId::random())];
    assert_eq!(queue::forget_marks(&mut connection, &asked).await?, [(*lot(1, "idle")).clone()]);
    let left: Vec<String> = sqlx::query_scalar("select shard || queue from dispatch_marks order by 1").fetch_all(&mut connection).await?;
    assert_eq!(left, ["1kept", "1used", "2idle", "2kept", "2used"]);
    connection.close().await?;
    Ok(())
}
