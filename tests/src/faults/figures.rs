//! The published figures, at full time: a base of one second.

use crate::harness::InstallationOptions;
use crate::scene::{Scene, noop};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

const RUNS_AGAIN_WITHIN: Duration = Duration::from_secs(20);
const SHARDS_TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// One renewal of a lease: it may have been renewed just before the death; and as much for a loaded machine.
const SLACK: Duration = Duration::from_secs(3);

fn full_time() -> InstallationOptions {
    InstallationOptions { executors: 2, time_base: Duration::from_secs(1), ..InstallationOptions::default() }
}

#[tokio::test]
async fn a_killed_executors_task_runs_again_within_20_s() -> Result<()> {
    let mut scene = Scene::start(full_time()).await?;
    let task = scene.submit(&scene.ledger.gated("go")).await?;
    let holder = scene.holder(&task).await?;
    let killed = Instant::now();
    scene.installation.executors[holder].kill().await?;
    scene.until_started(&task, 2).await?;
    ensure!(killed.elapsed() <= RUNS_AGAIN_WITHIN, "it ran again only after {:?}", killed.elapsed());
    scene.ledger.open("go")?;
    scene.all_completed().await?;
    assert_eq!(scene.ledger.starts()?.len(), 2);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_killed_coordinators_shards_are_taken_within_10_s() -> Result<()> {
    let mut scene = Scene::start(full_time()).await?;
    let task = scene.submit(&scene.ledger.gated("go")).await?;
    scene.holder(&task).await?;
    let second = scene.installation.add_coordinator().await?;
    scene.until_shared(&[(0, 8), (second, 8)]).await?;
    let killed = Instant::now();
    scene.installation.coordinators[0].kill().await?;
    scene.until_shared(&[(second, 16)]).await?;
    ensure!(killed.elapsed() <= SHARDS_TAKEN_WITHIN + SLACK, "it took {:?}", killed.elapsed());
    scene.installation.api = scene.installation.api_of(second);
    scene.submit(&noop(&Value::Null)).await?;
    scene.ledger.open("go")?;
    scene.all_completed().await?;
    assert_eq!(scene.ledger.starts()?.len(), 1);
    scene.finish().await;
    Ok(())
}
