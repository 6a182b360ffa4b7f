//! Rolling upgrades: processes of this build and of one that speaks the next schema version work side by side, and are replaced
//! one after the other. Nothing is lost, all counts once, and what may start at most once never starts twice.
//!
//! The binary must be built with the feature `kill-points`, as `make test` does.

use crate::harness::{Installation, InstallationOptions, Process, wait_for};
use crate::scene::{SOON, Scene, submit_surely, text};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const VARIABLE: &str = "ORCHESTR8_TEST_SCHEMA_VERSION";
/// A script that begins so is dispatched as a kind that only the newer build knows.
const NEWER_KIND: &str = "# a newer kind";

const FAILURES: &str = "select coalesce(string_agg(id || ' ' || status || ' ' || coalesce(error, ''), '; '), '')
from task_executions where status <> 'completed'";

/// What has been submitted so far.
#[derive(Default)]
struct Submitted {
    tasks: usize,
    /// Those that may start at most once.
    once: Vec<String>,
}

fn two_of_each() -> InstallationOptions {
    InstallationOptions { coordinators: 2, executors: 2, ..InstallationOptions::default() }
}

/// The process stops in an orderly way and starts as the other build. It alone gets the signal, as from whoever rolls it out.
async fn replace(process: &mut Process, build: &str) -> Result<()> {
    process.ask_to_end().await?;
    let report = process.ended().await?;
    ensure!(report.exit_code == Some(0), "{} did not end in order: {report:?}", process.name());
    process.set_environment(VARIABLE, build);
    process.restart().await
}

async fn replace_coordinator(installation: &mut Installation, number: usize) -> Result<()> {
    replace(&mut installation.coordinators[number], "next").await?;
    installation.wait_ready(number).await
}

/// A batch at each coordinator, one of tasks that start at most once, and a workflow.
async fn submit(scene: &Scene, so_far: &mut Submitted) -> Result<()> {
    let mut once = scene.ledger.task();
    once["at_most_once"] = json!(true);
    for coordinator in 0..scene.installation.coordinators.len() {
        let api = scene.installation.api_of(coordinator);
        submit_surely(&api, "/api/v1/tasks", &json!([scene.ledger.task(), scene.ledger.task(), scene.ledger.task()])).await?;
        so_far.once.push(text(&submit_surely(&api, "/api/v1/tasks", &once).await?, "task_id")?);
        so_far.tasks += 4;
    }
    let more = json!({"needs": ["first"]});
    let tasks = json!([scene.ledger.named("first", "", &json!({})), scene.ledger.named("second", "", &more)]);
    submit_surely(scene.api(), "/api/v1/workflows", &json!({"definition": {"name": "pair", "tasks": tasks}})).await?;
    so_far.tasks += 2;
    Ok(())
}

/// A task of the kind that only the newer build knows.
async fn submit_newer_kind(scene: &Scene, so_far: &mut Submitted) -> Result<String> {
    let mut task = scene.ledger.task();
    task["run"] = json!(format!("{NEWER_KIND}\n{}", task["run"].as_str().context("a script")?));
    so_far.tasks += 1;
    text(&submit_surely(scene.api(), "/api/v1/tasks", &task).await?, "task_id")
}

/// Everything that was submitted completed, and nothing that may start at most once started twice.
async fn check(scene: &Scene, submitted: &Submitted) -> Result<()> {
    scene.settled().await?;
    let failures: String = sqlx::query_scalar(FAILURES).fetch_one(&scene.installation.pool).await?;
    ensure!(failures.is_empty(), "these did not complete: {failures}");
    assert_eq!(scene.all_completed().await?.len(), submitted.tasks);
    for task in &submitted.once {
        assert_eq!(scene.ledger.starts_of(task)?.len(), 1, "{task}");
    }
    Ok(())
}

/// Waits until a task was given back because nobody knew what to do with it.
async fn until_given_back(scene: &Scene, task: &str) -> Result<Value> {
    let path = format!("/api/v1/tasks/{task}");
    let look = async || Ok(Some(scene.api().get(&path).await?).filter(|task| task["error_type"] == "unsupported"));
    wait_for("a task to be given back", SOON, look).await
}

#[tokio::test]
async fn coordinators_first_and_what_runs_on_older_executors_counts() -> Result<()> {
    let mut scene = Scene::start(two_of_each()).await?;
    let mut submitted = Submitted::default();
    let mut long = scene.ledger.gated("go");
    long["at_most_once"] = json!(true);
    let long = scene.submit(&long).await?;
    scene.holder(&long).await?;
    (submitted.tasks, submitted.once) = (1, vec![long.clone()]);
    for coordinator in 0..2 {
        submit(&scene, &mut submitted).await?;
        replace_coordinator(&mut scene.installation, coordinator).await?;
        submit(&scene, &mut submitted).await?;
    }
    let newer = submit_newer_kind(&scene, &mut submitted).await?;
    scene.ledger.open("go")?;
    assert_eq!(scene.result(&long).await?["status"], "completed", "all executors are older than their coordinators");
    ensure!(scene.ledger.starts_of(&newer)?.is_empty(), "no executor knows this kind yet");
    for executor in 0..2 {
        replace(&mut scene.installation.executors[executor], "next").await?;
        submit(&scene, &mut submitted).await?;
    }
    check(&scene, &submitted).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn executors_first_and_their_outcomes_wait_for_a_coordinator_that_reads_them() -> Result<()> {
    let mut scene = Scene::start(two_of_each()).await?;
    let mut submitted = Submitted::default();
    for executor in 0..2 {
        submit(&scene, &mut submitted).await?;
        replace(&mut scene.installation.executors[executor], "next").await?;
        submit(&scene, &mut submitted).await?;
    }
    let task = scene.submit(&scene.ledger.task()).await?;
    let ended = async || Ok(scene.ledger.ends()?.iter().any(|end| end.task == task).then_some(()));
    wait_for("a newer executor to end a run", SOON, ended).await?;
    let long = scene.submit(&scene.ledger.gated("go")).await?;
    scene.until_started(&long, 1).await?;
    submitted.tasks += 2;
    let path = format!("/api/v1/tasks/{task}");
    ensure!(scene.api().get(&path).await?["status"] == "queued", "no coordinator can read that it ended");
    for coordinator in 0..2 {
        replace_coordinator(&mut scene.installation, coordinator).await?;
        submit(&scene, &mut submitted).await?;
    }
    submit_newer_kind(&scene, &mut submitted).await?;
    scene.ledger.open("go")?;
    check(&scene, &submitted).await?;
    for task in [&task, &long] {
        assert_eq!(scene.ledger.starts_of(task)?.len(), 1, "its outcome was not lost: nothing ran again");
    }
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_kind_that_an_executor_does_not_know_waits_for_one_that_does() -> Result<()> {
    let mut scene = Scene::start(InstallationOptions { executors: 1, ..InstallationOptions::default() }).await?;
    let mut submitted = Submitted::default();
    replace(&mut scene.installation.coordinators[0], "kinds").await?;
    scene.installation.wait_ready(0).await?;
    let newer = submit_newer_kind(&scene, &mut submitted).await?;
    let given_back = until_given_back(&scene, &newer).await?;
    assert_eq!((&given_back["status"], &given_back["attempts"]), (&json!("retrying"), &json!(0)), "no failure of the task's: {given_back}");
    submit(&scene, &mut submitted).await?;
    replace(&mut scene.installation.executors[0], "kinds").await?;
    check(&scene, &submitted).await?;
    assert_eq!(scene.ledger.starts_of(&newer)?.len(), 1);
    scene.finish().await;
    Ok(())
}
