//! The event stream: complete, in order, and resumed where it broke off.

use super::workflows::MAIN;
use crate::scene::{SOON, Scene, executors};
use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Number and document of every event in a stream's text.
fn read(text: &str) -> Result<Vec<(u64, Value)>> {
    let message = |message: &str| {
        let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let (id, data) = (field("id:")?, field("data:")?);
        Some((id.parse().ok()?, serde_json::from_str(data).ok()?))
    };
    let messages = text.split("\n\n").filter(|part| part.contains("data:"));
    messages.map(|part| message(part).with_context(|| format!("not an event: {part:?}"))).collect()
}

/// Everything after number `after`, until the stream ends.
async fn rest(scene: &Scene, path: &str, after: u64) -> Result<Vec<(u64, Value)>> {
    let request = scene.api().request(Method::GET, path).header("last-event-id", after.to_string());
    let answer = tokio::time::timeout(SOON, request.send()).await??;
    ensure!(answer.status().is_success(), "{}", answer.status());
    read(&tokio::time::timeout(SOON, answer.text()).await??)
}

#[tokio::test]
async fn a_stream_is_complete_in_order_and_resumable() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let id = scene.submit_workflow(&json!({"definition": MAIN, "input": {"who": "you", "count": 1}})).await?;
    let path = format!("/api/v1/workflows/{id}/events");
    // The first reader follows from the beginning and breaks off after a few events, while the workflow runs.
    let mut answer = scene.api().request(Method::GET, &path).send().await?;
    let mut text = String::new();
    while text.matches("data:").count() < 4 || !text.ends_with("\n\n") {
        let chunk = tokio::time::timeout(SOON, answer.chunk()).await??.context("the stream goes on")?;
        text.push_str(std::str::from_utf8(&chunk)?);
    }
    drop(answer);
    let mut seen = read(&text)?;
    let last = seen.last().context("events")?.0;
    seen.extend(rest(&scene, &path, last).await?);
    let numbers: Vec<u64> = seen.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=seen.len() as u64).collect::<Vec<_>>(), "no gap, no repetition");
    assert_eq!(seen.last().map(|(_, event)| &event["type"]), Some(&json!("workflow.completed")), "{seen:?}");
    let completed = seen.iter().filter(|(_, event)| event["type"] == "task.completed").count();
    assert_eq!(completed, 6, "each task once: {seen:?}");
    assert!(seen.iter().any(|(_, event)| event["type"] == "task.retrying" && event["task"] == "right"));
    assert_eq!(rest(&scene, &path, 0).await?, seen, "later readers see the same");
    let over = scene.api().request(Method::GET, &path).header("last-event-id", seen.len().to_string()).send().await?;
    assert_eq!(over.status(), StatusCode::NO_CONTENT);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_reader_who_comes_after_a_restart_goes_on_where_it_was() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    let tasks = json!([scene.ledger.named("a", "go", &json!({})), scene.ledger.named("b", "", &json!({"needs": ["a"]}))]);
    let id = scene.submit_workflow(&json!({"definition": {"name": "w", "tasks": tasks}})).await?;
    let path = format!("/api/v1/workflows/{id}/events");
    scene.installation.coordinators[0].kill().await?;
    scene.installation.coordinators[0].restart().await?;
    scene.installation.wait_ready(0).await?;
    let (opened, events) = tokio::join!(async { scene.ledger.open("go") }, rest(&scene, &path, 1));
    opened?;
    let events = events?;
    assert_eq!(events.first().map(|(number, _)| *number), Some(2));
    assert_eq!(events.last().map(|(_, event)| &event["type"]), Some(&json!("workflow.completed")));
    scene.finish().await;
    Ok(())
}
