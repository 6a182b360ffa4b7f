//! What is counted is what happened: a few tasks of each kind, and a coordinator that leaves.

use crate::harness::{InstallationOptions, wait_for};
use crate::scene::{SOON, Scene, noop, text};
use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

/// The sum of a series over coordinators; those that do not have it add nothing.
async fn sum(scene: &Scene, coordinators: &[usize], series: &str) -> Result<f64> {
    let mut sum = 0.0;
    for number in coordinators {
        let text = scene.installation.api_of(*number).request(Method::GET, "/metrics").send().await?.text().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        sum += value.map_or(Ok(0.0), str::parse)?;
    }
    Ok(sum)
}

async fn until(scene: &Scene, coordinators: &[usize], series: &str, expected: f64) -> Result<()> {
    let look = async || {
        let seen = sum(scene, coordinators, series).await?;
        ensure!((seen - expected).abs() < f64::EPSILON, "it is {seen}, not {expected}");
        Ok(Some(()))
    };
    wait_for(series, SOON, look).await
}

/// Twenty that complete, three that fail twice, one that is cancelled while it is queued.
async fn work(scene: &Scene) -> Result<()> {
    let failing =
        json!({"handler": "fail", "with": {"error_type": "planned"}, "max_retries": 1, "retry_backoff": {"initial_interval": "10ms"}});
    let tasks: Vec<Value> = (0..20).map(|number| noop(&json!(number))).chain((0..3).map(|_| failing.clone())).collect();
    let answers = scene.api().post("/api/v1/tasks", &json!(tasks)).await?;
    for answer in answers.as_array().context("an array")? {
        scene.result(&text(answer, "task_id")?).await?;
    }
    let waiting = scene.submit(&json!({"run": "true", "queue": "nobody"})).await?;
    scene.api().post(&format!("/api/v1/tasks/{waiting}/cancel"), &json!({})).await?;
    scene.until(&waiting, "cancelled").await?;
    Ok(())
}

#[tokio::test]
async fn tasks_are_counted_once_whoever_owns_their_shard() -> Result<()> {
    let mut scene = Scene::start(InstallationOptions { coordinators: 2, ..InstallationOptions::default() }).await?;
    scene.until_shared(&[(0, 8), (1, 8)]).await?;
    work(&scene).await?;
    for (series, expected) in [
        ("orchestr8_submissions_total", 24.0),
        ("orchestr8_tasks_ended_total{queue=\"default\",status=\"completed\"}", 20.0),
        ("orchestr8_tasks_ended_total{queue=\"default\",status=\"failed\"}", 3.0),
        ("orchestr8_tasks_ended_total{queue=\"nobody\",status=\"cancelled\"}", 1.0),
        ("orchestr8_outcomes_total{result=\"completed\"}", 20.0),
        ("orchestr8_outcomes_total{result=\"failed\"}", 6.0),
        ("orchestr8_attempt_failures_total{error_type=\"planned\"}", 6.0),
        ("orchestr8_retries_total", 3.0),
        // Each attempt waits once; what was cancelled in the queue never started.
        ("orchestr8_task_queue_wait_seconds_count{queue=\"default\"}", 26.0),
        ("orchestr8_task_queue_wait_seconds_count{queue=\"nobody\"}", 0.0),
        ("orchestr8_task_duration_seconds_count{queue=\"default\"}", 23.0),
        ("orchestr8_workflow_duration_seconds_count{status=\"completed\"}", 20.0),
        ("orchestr8_workflow_duration_seconds_count{status=\"failed\"}", 3.0),
        ("orchestr8_workflow_duration_seconds_count{status=\"cancelled\"}", 1.0),
        ("orchestr8_shards_owned", 16.0),
        ("orchestr8_runs_lost_total", 0.0),
    ] {
        until(&scene, &[0, 1], series, expected).await?;
    }
    let taken_before = sum(&scene, &[1], "orchestr8_shards_taken_total").await?;
    scene.installation.coordinators[0].terminate().await?;
    until(&scene, &[1], "orchestr8_shards_owned", 16.0).await?;
    until(&scene, &[1], "orchestr8_shards_taken_total", taken_before + 8.0).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_dead_executors_run_is_counted_as_lost() -> Result<()> {
    let mut scene = Scene::start(InstallationOptions { executors: 2, ..InstallationOptions::default() }).await?;
    let task = scene.submit(&scene.ledger.gated("end")).await?;
    let holder = scene.holder(&task).await?;
    scene.installation.executors[holder].kill().await?;
    until(&scene, &[0], "orchestr8_runs_lost_total", 1.0).await?;
    until(&scene, &[0], "orchestr8_attempt_failures_total{error_type=\"lost\"}", 1.0).await?;
    until(&scene, &[0], "orchestr8_executors{queue=\"default\"}", 1.0).await?;
    scene.ledger.open("end")?;
    scene.all_completed().await?;
    until(&scene, &[0], "orchestr8_retries_total", 1.0).await?;
    scene.finish().await;
    Ok(())
}
