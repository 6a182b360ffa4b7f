//! `Idempotency-Key`: one submission, however often it is sent.

use crate::scene::{Scene, executors, noop, text};
use anyhow::Result;
use futures::future::try_join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

async fn send(scene: &Scene, key: &str, body: &Value) -> Result<(StatusCode, Value)> {
    scene.api().answer(scene.api().request(Method::POST, "/api/v1/tasks").header("idempotency-key", key).json(body)).await
}

#[tokio::test]
async fn a_key_is_one_submission_however_often_it_is_sent() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let body = noop(&json!(1));
    let (status, first) = send(&scene, "k1", &body).await?;
    assert_eq!(status, StatusCode::ACCEPTED, "{first}");
    scene.result(&text(&first, "task_id")?).await?;
    let (status, again) = send(&scene, "k1", &body).await?;
    assert_eq!((status, &again["task_id"]), (StatusCode::ACCEPTED, &first["task_id"]), "also after its end");
    let (status, other) = send(&scene, "k1", &noop(&json!(2))).await?;
    assert_eq!(status, StatusCode::CONFLICT, "{other}");
    assert!(other["code"].is_string() && other.to_string().contains("k1"), "{other}");
    let rewritten = |text: &str| {
        let request = scene.api().request(Method::POST, "/api/v1/tasks").header("idempotency-key", "a key of words");
        request.header("content-type", "application/json").body(text.to_owned())
    };
    let (status, answer) = scene.api().answer(rewritten(r#"{"handler": "noop", "retry_backoff": "exponential"}"#)).await?;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    let (status, other) = scene.api().answer(rewritten(r#"{"retry_backoff": "exponential", "handler": "noop"}"#)).await?;
    assert!(status == StatusCode::CONFLICT && other.to_string().contains("byte by byte"), "the order of keys counts: {other}");
    let together = try_join_all((0..16).map(|_| send(&scene, "k2", &body))).await?;
    assert!(
        together.iter().all(|(status, answer)| *status == StatusCode::ACCEPTED && answer["task_id"] == together[0].1["task_id"]),
        "{together:?}"
    );
    let batch = json!([noop(&json!(3)), noop(&json!(4))]);
    let (one, two) = (send(&scene, "k3", &batch).await?.1, send(&scene, "k3", &batch).await?.1);
    assert_eq!((&one[0]["task_id"], &one[1]["task_id"]), (&two[0]["task_id"], &two[1]["task_id"]));
    assert_eq!(scene.all_completed().await?.len(), 5);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_key_outlives_a_restart() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    let body = scene.ledger.task();
    let (_, first) = send(&scene, "k", &body).await?;
    scene.installation.coordinators[0].kill().await?;
    scene.installation.coordinators[0].restart().await?;
    scene.installation.wait_ready(0).await?;
    let (status, again) = send(&scene, "k", &body).await?;
    assert_eq!((status, &again["task_id"]), (StatusCode::ACCEPTED, &first["task_id"]));
    assert_eq!(scene.all_completed().await?.len(), 1);
    scene.finish().await;
    Ok(())
}
