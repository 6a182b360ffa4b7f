//! What happens in the middle of a fetch: the executor drains, the task is cancelled, NATS loses everything, the shard goes to another.
//!
//! The binary must be built with the feature `kill-points`, as `make test` does.

use super::{Tap, referring};
use crate::harness::{InstallationOptions, Process, wait_for};
use crate::scene::{SOON, Scene, coordinator_words, executors, noop};
use anyhow::{Result, ensure};
use orchestr8_proto::reference::PART_BYTES;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Above what it takes to restart servers on a loaded machine, as the lease of a run counts it.
const TIME_BASE: Duration = Duration::from_millis(300);
const GIVEN_BACK: &str = "select count(*) from workflow_events where events::text ~ 'task\\.(retrying|released)'";
const VARIABLE: &str = "ORCHESTR8_KILL_POINT";

/// Waits until the process stands still at its point.
async fn stands_still(process: &Process) -> Result<()> {
    let stat = format!("/proc/{}/stat", process.pid());
    let look = async || {
        let text = std::fs::read_to_string(&stat)?;
        Ok(text.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T')).then_some(()))
    };
    wait_for("a process that stands still at its point", SOON, look).await
}

/// The first of these coordinators owns everything and stands still before it serves the second of three parts.
async fn half_served(coordinators: usize) -> Result<Scene> {
    let options = coordinator_words(&["--shard-count", "1"]);
    let mut scene = Scene::start(InstallationOptions { time_base: TIME_BASE, ..options }).await?;
    let first = &mut scene.installation.coordinators[0];
    first.set_environment(VARIABLE, "after_fence_before_inputs_part:2:stop");
    first.restart().await?;
    scene.installation.wait_ready(0).await?;
    let owns = async || Ok((scene.shards_of(0).await? == 1).then_some(()));
    wait_for("the first coordinator to own the shard", SOON, owns).await?;
    for _ in 1..coordinators {
        scene.installation.add_coordinator().await?;
    }
    scene.submit_workflow(&referring(&scene, "")).await?;
    stands_still(&scene.installation.coordinators[0]).await?;
    Ok(scene)
}

/// The run that had begun to fetch is the one that completes.
async fn completed_at_once(scene: Scene) -> Result<()> {
    let rows = scene.all_completed().await?;
    ensure!(rows[0].attempt == 1 && scene.ledger.starts()?.len() == 1, "{rows:?}");
    ensure!(scene.number(GIVEN_BACK).await? == 0, "the run was given back");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn an_executor_that_drains_in_the_middle_of_a_fetch_leaves_the_task_to_another() -> Result<()> {
    let mut scene = half_served(1).await?;
    let report = scene.installation.executors[0].terminate().await?;
    ensure!(report.exit_code == Some(0), "{report:?}");
    scene.installation.coordinators[0].resume()?;
    scene.installation.add_executor().await?;
    let rows = scene.all_completed().await?;
    ensure!(rows[0].retry_count == 0 && scene.ledger.starts()?.len() == 1, "{rows:?}");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_broker_that_lost_everything_in_the_middle_of_a_fetch_is_not_missed() -> Result<()> {
    let scene = half_served(1).await?;
    scene.installation.nats("wipe nats").await?;
    scene.installation.nats("start nats").await?;
    scene.installation.coordinators[0].resume()?;
    completed_at_once(scene).await
}

#[tokio::test]
async fn a_coordinator_that_stops_in_the_middle_of_a_fetch_leaves_the_rest_to_the_next() -> Result<()> {
    let mut scene = half_served(2).await?;
    let mut tap = Tap::on(&scene).await?;
    // It takes the signal as soon as it goes on.
    let (ending, going_on) = scene.installation.coordinators.split_at_mut(1);
    ensure!(going_on.len() == 1, "there is another");
    let began = Instant::now();
    let pid = ending[0].pid();
    let ended = async { ending[0].terminate().await };
    let resumed = async { nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGCONT) };
    let (report, resumed) = tokio::join!(ended, resumed);
    resumed?;
    ensure!(report?.exit_code == Some(0), "it ended in order");
    while tap.part().await?.1.offset != 2 * PART_BYTES as u64 {}
    println!("the last part came {:?} after the signal, at a base of {TIME_BASE:?}", began.elapsed());
    scene.installation.api = scene.installation.api_of(1);
    completed_at_once(scene).await
}

#[tokio::test]
async fn a_cancel_in_the_middle_of_a_fetch_ends_it_and_frees_the_slot() -> Result<()> {
    let options = InstallationOptions { slots: 1, time_base: TIME_BASE, ..executors(0) };
    let mut scene = Scene::start(options).await?;
    scene.installation.set_environment(VARIABLE, "after_inputs_part_before_next:1:stop");
    scene.installation.add_executor().await?;
    let id = scene.submit_workflow(&referring(&scene, "")).await?;
    let executor = &scene.installation.executors[0];
    stands_still(executor).await?;
    scene.api().post(&format!("/api/v1/workflows/{id}/cancel"), &json!({})).await?;
    executor.resume()?;
    let ended = scene.workflow(&id).await?;
    ensure!(ended["status"] == "cancelled", "{ended}");
    let next = scene.result(&scene.submit(&noop(&Value::from("next"))).await?).await?;
    ensure!(next["result"] == "next", "{next}");
    ensure!(scene.ledger.starts()?.is_empty(), "it never started");
    scene.finish().await;
    Ok(())
}
