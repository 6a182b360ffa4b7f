//! Several coordinators, and several lanes in one: they share the shards, hand them over between batches, and lose nothing.

use crate::scene::{Scene, coordinator_words, executors, noop, submit_surely};
use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Coordinators that come and go.
const MANY: usize = 8;
/// Rounds of one coordinator that leaves and one that is killed.
const ROUNDS: usize = 4;

/// A chain of three, and a task that sleeps between.
fn chain() -> Value {
    let tasks = json!([
        {"name": "a", "handler": "noop"},
        {"name": "pause", "sleep": "50ms", "needs": ["a"]},
        {"name": "b", "handler": "noop", "needs": ["pause"]},
    ]);
    json!({"definition": {"name": "chain", "tasks": tasks}})
}

#[tokio::test]
async fn one_that_joins_gets_its_share_and_one_that_leaves_gives_it_back_at_once() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    scene.until_shared(&[(0, 16)]).await?;
    scene.installation.add_coordinator().await?;
    scene.until_shared(&[(0, 8), (1, 8)]).await?;
    scene.installation.add_coordinator().await?;
    scene.until_shared(&[(0, 6), (1, 5), (2, 5)]).await?;
    let report = scene.installation.coordinators[0].terminate().await?;
    assert_eq!(report.exit_code, Some(0), "{report:?}");
    scene.until_shared(&[(1, 8), (2, 8)]).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn lanes_of_one_coordinator_share_its_shards() -> Result<()> {
    let scene = Scene::start(coordinator_words(&["--lanes", "3"])).await?;
    scene.until_shared(&[(0, 16)]).await?;
    assert_eq!(scene.number("select count(distinct owner) from shards").await?, 3);
    let tasks: Vec<Value> = (0..30).map(|number| noop(&json!(number))).collect();
    scene.api().post("/api/v1/tasks", &json!(tasks)).await?;
    for _ in 0..6 {
        scene.submit_workflow(&chain()).await?;
    }
    assert_eq!(scene.all_completed().await?.len(), 30 + 6 * 3);
    scene.finish().await;
    Ok(())
}

/// Work is submitted to whoever is there while coordinators join, leave and are killed; all of it ends, once.
#[tokio::test]
async fn eight_that_come_and_go_under_load_lose_nothing() -> Result<()> {
    let mut scene = Scene::start(executors(2)).await?;
    for _ in 1..MANY {
        scene.installation.add_coordinator().await?;
    }
    scene.until_shared(&(0..MANY).map(|coordinator| (coordinator, 2)).collect::<Vec<_>>()).await?;
    for round in 0..ROUNDS {
        let (leaves, dies) = (2 * round % MANY, (2 * round + 1) % MANY);
        let staying = scene.installation.api_of((2 * round + 2) % MANY);
        for _ in 0..5 {
            submit_surely(&staying, "/api/v1/workflows", &chain()).await?;
            submit_surely(&staying, "/api/v1/tasks", &scene.ledger.task()).await?;
        }
        scene.installation.coordinators[leaves].terminate().await.context("one leaves")?;
        scene.installation.coordinators[dies].kill().await.context("one is killed")?;
        scene.installation.coordinators[leaves].restart().await?;
        submit_surely(&staying, "/api/v1/workflows", &chain()).await?;
        scene.installation.coordinators[dies].restart().await?;
    }
    scene.until_shared(&(0..MANY).map(|coordinator| (coordinator, 2)).collect::<Vec<_>>()).await?;
    let last = scene.installation.api_of(MANY - 1);
    submit_surely(&last, "/api/v1/tasks", &scene.ledger.task()).await?;
    assert_eq!(scene.all_completed().await?.len(), ROUNDS * (5 * 4 + 3) + 1);
    scene.finish().await;
    Ok(())
}
