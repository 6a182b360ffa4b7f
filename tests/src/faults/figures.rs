//! The published figures, at full time: a base of one second.

use crate::harness::{InstallationOptions, wait_for};
use crate::scene::{SOON, Scene, noop};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::Value;
use std::time::{Duration, Instant};

const RUNS_AGAIN_WITHIN: Duration = Duration::from_secs(20);
const FROZEN_BROKER_SHOWN_WITHIN: Duration = Duration::from_secs(10);
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

#[tokio::test]
async fn a_frozen_nats_server_shows_within_10_s() -> Result<()> {
    let scene = Scene::start(InstallationOptions { executors: 0, ..full_time() }).await?;
    let broker = Pid::from_raw(scene.installation.server_pids().nats.context("its process")?);
    let frozen = Instant::now();
    kill(broker, Signal::SIGSTOP)?;
    let look = async || Ok((!scene.api().is_ready().await).then_some(()));
    wait_for("the frozen broker to show", SOON, look).await?;
    let shown = frozen.elapsed();
    let parts = scene.api().answer(scene.api().request(Method::GET, "/readyz")).await?.1;
    kill(broker, Signal::SIGCONT)?;
    ensure!(shown <= FROZEN_BROKER_SHOWN_WITHIN + SLACK, "it showed only after {shown:?}");
    ensure!(parts["parts"]["nats"]["ready"] == false, "another part was missing: {parts}");
    scene.installation.wait_ready(0).await?;
    scene.finish().await;
    Ok(())
}
