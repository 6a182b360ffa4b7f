//! Postgres and nats-server that die, JetStream stores that are wiped, streams and consumers that vanish.

use crate::harness::servers::connect_nats;
use crate::harness::wait_for;
use crate::scene::{SOON, Scene, executors, own_postgres, submit_surely};
use anyhow::{Result, ensure};
use orchestr8_proto::names;
use serde_json::{Value, json};

/// Four tasks run and are held, ten more are queued behind them; the ids of the running ones.
async fn busy(scene: &Scene) -> Result<Vec<String>> {
    let running: Vec<Value> = (0..4).map(|_| scene.ledger.gated("go")).collect();
    let answers = scene.api().post("/api/v1/tasks", &json!(running)).await?;
    let ids: Vec<String> =
        answers.as_array().into_iter().flatten().filter_map(|answer| answer["task_id"].as_str().map(str::to_owned)).collect();
    for id in &ids {
        scene.until(id, "running").await?;
    }
    let queued: Vec<Value> = (0..10).map(|_| scene.ledger.task()).collect();
    scene.api().post("/api/v1/tasks", &json!(queued)).await?;
    let tasks = json!([scene.ledger.named("a", "go", &json!({})), scene.ledger.named("b", "", &json!({"needs": ["a"]}))]);
    scene.submit_workflow(&json!({"definition": {"name": "chain", "tasks": tasks}})).await?;
    Ok(ids)
}

/// Lets everything end; 16 tasks completed, and those that were claimed ran once.
async fn ends_well(scene: &Scene, claimed: &[String]) -> Result<()> {
    scene.ledger.open("go")?;
    let rows = scene.all_completed().await?;
    assert_eq!(rows.len(), 16);
    for task in claimed {
        let starts = scene.ledger.starts_of(task)?.len();
        ensure!(starts == 1, "a claimed run was started {starts} times although its executor was there all the time");
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_nats_server_is_no_loss() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let claimed = busy(&scene).await?;
    scene.installation.nats("kill nats").await?;
    scene.installation.nats("start nats").await?;
    ends_well(&scene, &claimed).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn what_ends_while_nats_is_away_counts_later() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let claimed = busy(&scene).await?;
    scene.installation.nats("kill nats").await?;
    scene.ledger.open("go")?;
    wait_for("the claimed runs to end", SOON, async || Ok((scene.ledger.ends()?.len() >= 4).then_some(()))).await?;
    scene.installation.nats("start nats").await?;
    ends_well(&scene, &claimed).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_killed_postgres_is_no_loss() -> Result<()> {
    let scene = Scene::start(own_postgres()).await?;
    let claimed = busy(&scene).await?;
    scene.installation.postgres("kill postgres").await?;
    scene.ledger.open("go")?;
    wait_for("the claimed runs to end", SOON, async || Ok((scene.ledger.ends()?.len() >= 4).then_some(()))).await?;
    scene.installation.postgres("start postgres").await?;
    ends_well(&scene, &claimed).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn both_servers_restarted_in_order() -> Result<()> {
    let scene = Scene::start(own_postgres()).await?;
    let claimed = busy(&scene).await?;
    scene.installation.nats("stop nats").await?;
    scene.installation.postgres("stop postgres").await?;
    scene.installation.postgres("start postgres").await?;
    scene.installation.nats("start nats").await?;
    ends_well(&scene, &claimed).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn everything_killed_at_once() -> Result<()> {
    let mut scene = Scene::start(own_postgres()).await?;
    busy(&scene).await?;
    scene.installation.coordinators[0].kill().await?;
    scene.installation.executors[0].kill().await?;
    scene.installation.nats("kill nats").await?;
    scene.installation.postgres("kill postgres").await?;
    scene.installation.postgres("start postgres").await?;
    scene.installation.nats("start nats").await?;
    scene.installation.executors[0].restart().await?;
    scene.installation.coordinators[0].restart().await?;
    scene.installation.wait_ready(0).await?;
    ends_well(&scene, &[]).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_wiped_store_loses_nothing() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let claimed = busy(&scene).await?;
    // Outcomes that were published, and perhaps not yet read, go with the store.
    let finished: Vec<Value> = (0..4).map(|_| scene.ledger.task()).collect();
    scene.installation.nats("wipe nats").await?;
    scene.ledger.open("go")?;
    wait_for("the claimed runs to end", SOON, async || Ok((scene.ledger.ends()?.len() >= 4).then_some(()))).await?;
    let submitted = submit_surely(scene.api(), "/api/v1/tasks", &json!(finished)).await?;
    assert_eq!(submitted.as_array().map(Vec::len), Some(4), "submissions need no NATS");
    scene.installation.nats("start nats").await?;
    assert_eq!(scene.all_completed().await?.len(), 20);
    for task in &claimed {
        assert_eq!(scene.ledger.starts_of(task)?.len(), 1);
    }
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_store_wiped_while_outcomes_stream_in_loses_nothing() -> Result<()> {
    let scene = Scene::start(executors(2)).await?;
    let tasks: Vec<Value> = (0..60).map(|_| scene.ledger.task()).collect();
    scene.api().post("/api/v1/tasks", &json!(tasks)).await?;
    wait_for("some to have ended", SOON, async || Ok((scene.ledger.ends()?.len() >= 10).then_some(()))).await?;
    scene.installation.nats("wipe nats").await?;
    scene.installation.nats("start nats").await?;
    assert_eq!(scene.all_completed().await?.len(), 60);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn outcomes_that_only_the_wiped_store_had_are_published_again() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let claimed = busy(&scene).await?;
    scene.installation.coordinators[0].pause()?;
    scene.ledger.open("go")?;
    let jetstream = async_nats::jetstream::new(connect_nats(&scene.installation.nats_url).await?);
    let stored = async || {
        let mut stream = jetstream.get_stream(names::OUTCOMES_STREAM).await?;
        let state = stream.info().await?.state.clone();
        Ok((state.messages >= 4).then_some(()))
    };
    wait_for("outcomes in the store", SOON, stored).await?;
    scene.installation.nats("wipe nats").await?;
    scene.installation.coordinators[0].resume()?;
    scene.installation.nats("start nats").await?;
    ends_well(&scene, &claimed).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_store_wiped_with_the_coordinator_away_loses_nothing() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    let claimed = busy(&scene).await?;
    scene.installation.coordinators[0].kill().await?;
    scene.installation.nats("wipe nats").await?;
    scene.installation.nats("start nats").await?;
    scene.installation.coordinators[0].restart().await?;
    scene.installation.wait_ready(0).await?;
    ends_well(&scene, &claimed).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_deleted_stream_is_made_again() -> Result<()> {
    for stream in [names::TASKS_STREAM, names::OUTCOMES_STREAM] {
        let scene = Scene::start(executors(1)).await?;
        let claimed = busy(&scene).await?;
        let nats = connect_nats(&scene.installation.nats_url).await?;
        async_nats::jetstream::new(nats).delete_stream(stream).await?;
        ends_well(&scene, &claimed).await?;
        scene.finish().await;
    }
    Ok(())
}

#[tokio::test]
async fn deleted_consumers_are_made_again() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let claimed = busy(&scene).await?;
    let jetstream = async_nats::jetstream::new(connect_nats(&scene.installation.nats_url).await?);
    jetstream.delete_consumer_from_stream("default-normal", names::TASKS_STREAM).await?;
    let outcomes = jetstream.get_stream(names::OUTCOMES_STREAM).await?;
    let mut readers: Vec<String> = futures::TryStreamExt::try_collect(outcomes.consumer_names()).await?;
    ensure!(!readers.is_empty(), "the coordinator reads by a consumer");
    while let Some(reader) = readers.pop() {
        jetstream.delete_consumer_from_stream(reader, names::OUTCOMES_STREAM).await?;
    }
    ends_well(&scene, &claimed).await?;
    scene.finish().await;
    Ok(())
}
