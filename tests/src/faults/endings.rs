//! Executors that end in an orderly way: what they might have taken goes to the others at once, not after the ack wait.

use crate::harness::{InstallationOptions, Process, wait_for};
use crate::scene::{SOON, Scene, executors, noop, submit_surely};
use anyhow::{Result, ensure};
use futures::future::join_all;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often an executor ends under load. Each has its own moment between its last look and the end of its connection.
const ROUNDS: usize = 10;
/// Tasks that waited for longer than any executor's turn, and far less than the ack wait of 15 s.
const LATE: &str = "select count(*) from task_executions where agent_name = 'noop' and completed_at > created_at + interval '2 seconds'";
/// From the start of the processes to the start of a task that waits for them.
const AFTER_RESTART_MAX: Duration = Duration::from_secs(5);

/// At full time: there an ack wait is no doubt about a loaded machine.
fn at_full_time() -> InstallationOptions {
    let executor_words = ["--drain-timeout", "200ms", "--grace", "1s"].map(str::to_owned).to_vec();
    InstallationOptions { time_base: Duration::from_secs(1), executor_words, ..executors(2) }
}

#[tokio::test]
async fn tasks_published_while_an_executor_ends_go_to_the_other_at_once() -> Result<()> {
    let mut scene = Scene::start(at_full_time()).await?;
    // With these each drain takes its time, during which tasks are published.
    for _ in 0..2 {
        scene.submit(&scene.ledger.gated("go")).await?;
    }
    let (api, over) = (scene.api().clone(), AtomicBool::new(false));
    let publish = async || {
        while !over.load(Ordering::Relaxed) {
            submit_surely(&api, "/api/v1/tasks", &noop(&json!(1))).await?;
        }
        Ok(())
    };
    let end_in_turn = async {
        for round in 0..ROUNDS {
            scene.installation.executors[round % 2].restart().await?;
        }
        over.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    let (published, again, ended) = tokio::join!(publish(), publish(), end_in_turn);
    published.and(again).and(ended)?;
    scene.ledger.open("go")?;
    let rows = scene.all_completed().await?;
    let late = scene.number(LATE).await?;
    ensure!(late == 0 && rows.len() > ROUNDS, "{late} of {} tasks waited for an executor that had ended", rows.len());
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn after_a_stop_and_a_start_of_everything_an_interrupted_task_runs_at_once() -> Result<()> {
    let mut scene = Scene::start(at_full_time()).await?;
    for round in 1..=3 {
        let gate = format!("go-{round}");
        let task = scene.submit(&scene.ledger.gated(&gate)).await?;
        scene.until_started(&task, 1).await?;
        let installation = &mut scene.installation;
        for report in join_all(installation.executors.iter_mut().map(Process::terminate)).await {
            ensure!(report?.exit_code == Some(0), "an orderly end");
        }
        installation.coordinators[0].restart().await?;
        installation.wait_ready(0).await?;
        for executor in &mut scene.installation.executors {
            executor.restart().await?;
        }
        let up = Instant::now();
        wait_for("its next start", SOON, async || Ok((scene.ledger.starts_of(&task)?.len() >= 2).then_some(()))).await?;
        ensure!(up.elapsed() < AFTER_RESTART_MAX, "it ran again only {:?} after the start", up.elapsed());
        scene.ledger.open(&gate)?;
    }
    scene.all_completed().await?;
    scene.finish().await;
    Ok(())
}
