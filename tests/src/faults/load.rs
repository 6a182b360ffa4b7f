//! Under load: more than the broker takes, and a database that ends sessions again and again.

use crate::harness::servers::connect_nats;
use crate::harness::wait_for;
use crate::scene::{SOON, Scene, coordinator_words, executors, noop, submit_surely};
use anyhow::{Result, ensure};
use orchestr8_proto::names;
use serde_json::{Value, json};

/// What one queue and priority may have in JetStream in the test of held tasks.
const ROOM: u64 = 50;
const TERMINATE: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and application_name like 'orchestr8-%'";

#[tokio::test]
async fn tasks_beyond_the_brokers_room_wait_in_postgres_and_all_run() -> Result<()> {
    let mut options = coordinator_words(&["--subject-messages-max", "50"]);
    options.executors = 0;
    let mut scene = Scene::start(options).await?;
    for _ in 0..2 {
        let tasks: Vec<Value> = (0..400).map(|number| noop(&json!(number))).collect();
        scene.api().post("/api/v1/tasks", &json!(tasks)).await?;
    }
    let jetstream = async_nats::jetstream::new(connect_nats(&scene.installation.nats_url).await?);
    let messages = async || {
        let mut stream = jetstream.get_stream(names::TASKS_STREAM).await?;
        Ok::<_, anyhow::Error>(stream.info().await?.state.messages)
    };
    wait_for("the broker's room to be used", SOON, async || Ok((messages().await? >= ROOM - 5).then_some(()))).await?;
    ensure!(messages().await? <= ROOM, "more than the bound");
    let urgent = json!({"handler": "noop", "priority": "critical"});
    let urgent = scene.submit(&urgent).await?;
    scene.installation.add_executor().await?;
    assert_eq!(scene.result(&urgent).await?["status"], "completed");
    assert_eq!(scene.all_completed().await?.len(), 801);
    scene.finish().await;
    Ok(())
}

/// Far more is queued than there is room for, and nobody takes it.
async fn with_backlog() -> Result<Scene> {
    let mut options = coordinator_words(&["--subject-messages-max", "8"]);
    options.executors = 0;
    let scene = Scene::start(options).await?;
    let tasks: Vec<Value> = (0..100).map(|number| if number < 10 { scene.ledger.task() } else { noop(&json!(number)) }).collect();
    scene.api().post("/api/v1/tasks", &json!(tasks)).await?;
    Ok(scene)
}

#[tokio::test]
async fn held_tasks_survive_a_killed_coordinator() -> Result<()> {
    let mut scene = with_backlog().await?;
    for _ in 0..2 {
        scene.installation.coordinators[0].kill().await?;
        scene.installation.coordinators[0].restart().await?;
        scene.installation.wait_ready(0).await?;
    }
    scene.installation.add_executor().await?;
    assert_eq!(scene.all_completed().await?.len(), 100);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_full_store_that_is_wiped_is_filled_again() -> Result<()> {
    let mut scene = with_backlog().await?;
    scene.installation.nats("wipe nats").await?;
    scene.installation.nats("start nats").await?;
    scene.installation.add_executor().await?;
    assert_eq!(scene.all_completed().await?.len(), 100);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn less_room_than_shards_is_enough() -> Result<()> {
    let scene = Scene::start(coordinator_words(&["--subject-messages-max", "2"])).await?;
    for _ in 0..20 {
        let tasks: Vec<Value> = (0..5).map(|number| noop(&json!(number))).collect();
        scene.api().post("/api/v1/tasks", &json!(tasks)).await?;
    }
    assert_eq!(scene.all_completed().await?.len(), 100);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn sessions_that_are_ended_again_and_again_lose_nothing() -> Result<()> {
    let scene = Scene::start(executors(2)).await?;
    for round in 0..8 {
        let batch: Vec<Value> =
            (0..40).map(|number| if number < 4 { scene.ledger.task() } else { noop(&json!([round, number])) }).collect();
        submit_surely(scene.api(), "/api/v1/tasks", &json!(batch)).await?;
        scene.number(TERMINATE).await?;
    }
    assert_eq!(scene.all_completed().await?.len(), 320, "a batch counts once, however often it was sent");
    scene.finish().await;
    Ok(())
}
