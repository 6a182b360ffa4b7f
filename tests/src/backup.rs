//! Backup and restore as docs/operating.md has them: a dump of a running installation, restored into a fresh one.

use crate::harness::{InstallationOptions, Servers, wait_for};
use crate::scene::{SOON, Scene, executors, noop, text};
use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// In the middle at the time of the dump: one task has ended, one sleeps.
const DEFINITION: &str = "name: nightly
tasks:
- {name: first, handler: noop, with: {output: 7}}
- {name: pause, sleep: 3s}
";

/// The folder of Postgres' own programs: a dump of a newer server than the program's is refused. None: they are not there.
async fn programs() -> Result<Option<PathBuf>> {
    let shared = tokio::task::spawn_blocking(Servers::shared_postgres).await??;
    let server = shared.first.postgres_pid.and_then(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok());
    let folder = server.as_deref().and_then(Path::parent).map(Path::to_path_buf);
    Ok(folder.filter(|folder| ["pg_dump", "pg_restore"].iter().all(|name| folder.join(name).exists())))
}

async fn run(program: &Path, words: &[&str]) -> Result<()> {
    let output = Command::new(program).args(words).output().await.with_context(|| program.display().to_string())?;
    ensure!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Submits under a key; the whole answer.
async fn submit(scene: &Scene, key: &str, task: &Value) -> Result<Value> {
    let request = scene.api().request(Method::POST, "/api/v1/tasks").header("idempotency-key", key).json(task);
    let (status, answer) = scene.api().answer(request).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status}: {answer}");
    Ok(answer)
}

/// A new database and a new nats-server with the dump in it, and then a coordinator and an executor.
async fn restored(folder: &Path, dump: &str) -> Result<Scene> {
    let empty = InstallationOptions { coordinators: 0, ..executors(0) };
    let mut scene = Scene::start(empty).await?;
    let words = ["--no-owner", "--exit-on-error", "--dbname", &scene.installation.database_url, dump];
    run(&folder.join("pg_restore"), &words).await?;
    let coordinator = scene.installation.add_coordinator().await?;
    scene.installation.wait_ready(coordinator).await?;
    scene.installation.api = scene.installation.api_of(coordinator);
    scene.installation.add_executor().await?;
    Ok(scene)
}

#[tokio::test]
async fn a_dump_of_a_running_installation_loses_nothing_but_what_came_after_it() -> Result<()> {
    let Some(folder) = programs().await? else {
        eprintln!("SKIPPED: pg_dump and pg_restore are not beside the Postgres that the tests use: install its client programs");
        return Ok(());
    };
    let mut before = Scene::start(executors(1)).await?;
    let done = submit(&before, "done", &noop(&json!("kept"))).await?;
    let done = text(&done, "task_id")?;
    before.result(&done).await?;
    let running = text(&submit(&before, "running", &before.ledger.gated("go")).await?, "task_id")?;
    before.until(&running, "running").await?;
    let queued = text(&submit(&before, "queued", &json!({"handler": "noop", "queue": "later"})).await?, "task_id")?;
    let workflow = before.submit_workflow(&json!({"definition": DEFINITION})).await?;
    let look = async || Ok((before.task_of(&workflow, "first").await?["status"] == "completed").then_some(()));
    wait_for("the workflow to be in the middle", SOON, look).await?;
    before.api().post("/api/v1/queues/later/pause", &json!({})).await?;
    let dump = before.installation.workdir.join("orchestr8.dump").display().to_string();
    let words = ["--format=custom", "--file", &dump, "--dbname", &before.installation.database_url];
    run(&folder.join("pg_dump"), &words).await?;
    let late = text(&submit(&before, "late", &before.ledger.task()).await?, "task_id")?;
    before.result(&late).await?;
    before.installation.executors[0].kill().await?;
    before.installation.coordinators[0].kill().await?;

    let mut after = restored(&folder, &dump).await?;
    let kept = after.api().get(&format!("/api/v1/tasks/{done}/result")).await?;
    assert_eq!((&kept["status"], &kept["result"]), (&json!("completed"), &json!("kept")));
    let again = submit(&after, "running", &before.ledger.gated("go")).await?;
    assert_eq!(text(&again, "task_id")?, running, "a key that is in the dump stands for the same task");
    before.ledger.open("go")?;
    assert_eq!(after.result(&running).await?["status"], "completed", "what ran at the time of the dump runs again");
    assert!(before.ledger.starts_of(&running)?.len() >= 2);
    assert_eq!(after.workflow(&workflow).await?["status"], "completed", "what was in the middle goes on");
    let (status, _) = after.api().answer(after.api().request(Method::GET, &format!("/api/v1/tasks/{late}"))).await?;
    assert_eq!(status, StatusCode::NOT_FOUND, "what came after the dump is not known");
    let anew = text(&submit(&after, "late", &before.ledger.task()).await?, "task_id")?;
    assert_eq!(after.result(&anew).await?["status"], "completed", "its caller's key brings it back");
    after.installation.serve_queues(&["later"]);
    after.installation.add_executor().await?;
    let why = after.api().get(&format!("/api/v1/tasks/{queued}/why")).await?;
    assert_eq!(why["reasons"][0]["reason"], "paused_queue", "{why}");
    after.api().post("/api/v1/queues/later/resume", &json!({})).await?;
    assert_eq!(after.result(&queued).await?["status"], "completed");
    after.settled().await?;
    after.finish().await;
    before.finish().await;
    Ok(())
}
