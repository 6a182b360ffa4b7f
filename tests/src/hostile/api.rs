//! Requests that are wrong: each is refused whole, with a code, the place and the remedy.

use crate::scene::{Scene, executors};
use anyhow::{Context, Result};
use orchestr8_core::definition::TASKS_MAX;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

#[tokio::test]
async fn wrong_requests_are_refused_whole_with_their_reason() -> Result<()> {
    let scene = Scene::start(executors(0)).await?;
    let too_many: Vec<Value> = (0..1_001).map(|_| json!({"handler": "noop"})).collect();
    let long = "x".repeat(70_000);
    for (path, body, part) in [
        ("/api/v1/tasks", json!({}), "run"),
        ("/api/v1/tasks", json!({"run": "x", "callback_url": "http://x"}), "not yet"),
        ("/api/v1/tasks", json!({"http": {}}), "not yet"),
        ("/api/v1/tasks", json!({"run": "x", "retires": 1}), "retires"),
        ("/api/v1/tasks", json!({"run": "x", "max_retires": 1}), "did you mean `max_retries`?"),
        ("/api/v1/workflows", json!({"definitoin": "w"}), "definition"),
        ("/api/v1/workflows", json!({"definition": "name: w\ntasks:\n- {name: a, run: x}\n", "inputs": {}}), "did you mean `input`?"),
        ("/api/v1/workflows", json!({"definition": "name: w\ntasks:\n- {name: a, run: x, depends_on: []}\n"}), "\"suggestion\":\"needs\""),
        ("/api/v1/tasks", json!([{"run": "x"}, {"run": ""}]), "[1]"),
        ("/api/v1/tasks", json!(too_many), "1000"),
        ("/api/v1/tasks", json!([]), "1 to"),
        ("/api/v1/tasks", json!({"run": "x", "metadata": {"k": long}}), "64 KiB"),
        ("/api/v1/tasks", json!({"run": "x", "timeout": "-1s"}), "timeout"),
        ("/api/v1/workflows", json!({"definition": 5}), "definition"),
        ("/api/v1/workflows", json!({"definition": "name: w\ntasks:\n- {name: a, agent: x}\n"}), "not yet"),
        ("/api/v1/workflows", json!({"definition": {"name": "w", "tasks": []}}), "tasks"),
    ] {
        let answer = scene.api().request(Method::POST, path).json(&body).send().await?;
        let status = answer.status();
        let kind = answer.headers().get(header::CONTENT_TYPE).context("a content type")?.to_str()?.to_owned();
        let problem: Value = answer.json().await?;
        assert!(status.is_client_error() && kind.starts_with("application/problem+json"), "{path} {body}: {status} {kind}");
        assert!(problem["code"].is_string() && problem.to_string().contains(part), "{path} {part}: {problem}");
        let page = scene.api().request(Method::GET, &format!("/problems/{}", problem["code"].as_str().context("a code")?)).send().await?;
        assert_eq!(page.status(), StatusCode::OK, "every code has its page");
    }
    for (method, path, status) in [
        (Method::GET, "/api/v1/tasks?limit=0", StatusCode::BAD_REQUEST),
        (Method::GET, "/api/v1/tasks?status=quued", StatusCode::BAD_REQUEST),
        (Method::GET, "/api/v1/tasks/not-an-id", StatusCode::BAD_REQUEST),
        (Method::GET, "/api/v1/nothing", StatusCode::NOT_FOUND),
        (Method::DELETE, "/api/v1/tasks", StatusCode::METHOD_NOT_ALLOWED),
        (Method::POST, "/api/v1/workflows/0190b2c4-0000-7000-8000-000000000000/cancel", StatusCode::NOT_FOUND),
    ] {
        let (found, problem) = scene.api().answer(scene.api().request(method, path)).await?;
        assert_eq!(found, status, "{path}: {problem}");
    }
    let broken = scene.api().request(Method::POST, "/api/v1/tasks").header(header::CONTENT_TYPE, "application/json").body("{\"run\": }");
    let (status, problem) = scene.api().answer(broken).await?;
    assert!(status == StatusCode::BAD_REQUEST && problem.to_string().contains("line 1"), "{problem}");
    assert_eq!(scene.number("select count(*) from workflow_executions").await?, 0, "nothing is partly accepted");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn ten_thousand_tasks_in_one_definition_are_fine_and_more_are_refused_by_the_limit() -> Result<()> {
    let scene = Scene::start(executors(0)).await?;
    let definition = |tasks: usize| {
        let tasks: Vec<Value> = (0..tasks).map(|number| json!({"name": format!("t{number}"), "handler": "noop"})).collect();
        json!({"definition": {"name": "wide", "tasks": tasks}})
    };
    scene.submit_workflow(&definition(10_000)).await?;
    assert_eq!(scene.number("select count(*) from task_executions").await?, 10_000);
    let tasks = (0..=TASKS_MAX).map(|number| format!("- {{name: t{number}, sleep: 1}}\n")).collect::<Vec<_>>().concat();
    let too_long = format!("name: wide\ntasks:\n{tasks}");
    let request = scene.api().request(Method::POST, "/api/v1/workflows").json(&json!({"definition": too_long}));
    let (status, problem) = scene.api().answer(request).await?;
    assert!(status.is_client_error() && problem.to_string().contains(&TASKS_MAX.to_string()), "{problem}");
    scene.finish().await;
    Ok(())
}
