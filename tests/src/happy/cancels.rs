//! Cancelling what is queued, running or a whole workflow.

use crate::harness::servers::is_alive;
use crate::harness::wait_for;
use crate::scene::{SOON, Scene, executors, text};
use anyhow::Result;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

async fn cancel(scene: &Scene, path: &str) -> Result<(StatusCode, Value)> {
    scene.api().answer(scene.api().request(Method::POST, &format!("{path}/cancel"))).await
}

#[tokio::test]
async fn a_queued_task_ends_at_once_and_never_runs() -> Result<()> {
    let mut scene = Scene::start(executors(0)).await?;
    let task = scene.submit(&scene.ledger.task()).await?;
    let (status, answer) = cancel(&scene, &format!("/api/v1/tasks/{task}")).await?;
    assert_eq!((status, &answer["status"]), (StatusCode::OK, &json!("cancelled")), "{answer}");
    let (status, answer) = cancel(&scene, &format!("/api/v1/tasks/{task}")).await?;
    assert_eq!((status, &answer["status"]), (StatusCode::OK, &json!("cancelled")), "who asks again gets the same: {answer}");
    scene.installation.add_executor().await?;
    // The message is still in the stream: the executor takes it, and what it does must not count.
    let other = scene.submit(&scene.ledger.task()).await?;
    assert_eq!(scene.result(&other).await?["status"], "completed");
    assert_eq!(scene.result(&task).await?["status"], "cancelled");
    let (status, problem) = cancel(&scene, &format!("/api/v1/tasks/{other}")).await?;
    assert_eq!(status, StatusCode::CONFLICT, "what completed cannot be cancelled: {problem}");
    scene.verified().await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_running_task_is_ended_and_its_processes_with_it() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let task = scene.submit(&scene.ledger.gated("never")).await?;
    scene.until(&task, "running").await?;
    scene.until_started(&task, 1).await?;
    let pid = scene.ledger.starts_of(&task)?[0].pid;
    let (status, answer) = cancel(&scene, &format!("/api/v1/tasks/{task}")).await?;
    assert_eq!(status, StatusCode::ACCEPTED, "its run has to end first: {answer}");
    assert_eq!(scene.result(&task).await?["status"], "cancelled");
    wait_for("the end of its processes", SOON, async || Ok((!is_alive(pid)).then_some(()))).await?;
    assert!(scene.ledger.ends()?.is_empty());
    assert_eq!(scene.ledger.starts()?.len(), 1);
    scene.verified().await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_workflow_is_cancelled_with_all_its_tasks() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let tasks = json!([
        scene.ledger.named("done", "", &json!({})),
        scene.ledger.named("runs", "never", &json!({"needs": ["done"]})),
        {"name": "sleeps", "sleep": "1h"},
        scene.ledger.named("waits", "", &json!({"needs": ["runs"]})),
    ]);
    let id = scene.submit_workflow(&json!({"definition": {"name": "long", "tasks": tasks}})).await?;
    let runs = text(&scene.task_of(&id, "runs").await?, "task_id")?;
    scene.until(&runs, "running").await?;
    let (status, _) = cancel(&scene, &format!("/api/v1/workflows/{id}")).await?;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(scene.workflow(&id).await?["status"], "cancelled");
    for (name, expected) in [("done", "completed"), ("runs", "cancelled"), ("sleeps", "cancelled"), ("waits", "cancelled")] {
        assert_eq!(scene.task_of(&id, name).await?["status"], expected, "{name}");
    }
    scene.verified().await?;
    scene.finish().await;
    Ok(())
}
