//! Ids that there are not: each is not found, whatever kind of id it looks like; and one of the other kind is called that.

use crate::happy::cli::orchestr8;
use crate::scene::{Scene, executors, noop};
use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::json;

/// A UUID of nobody whose form is that of a task's.
const LIKE_A_TASK: &str = "0190b2c4-0000-7000-8000-000000000001";
/// The same in the form of a workflow's.
const LIKE_A_WORKFLOW: &str = "0190b2c4-0000-7000-8000-000000000000";
/// Another program's.
const RANDOM: &str = "f47ac10b-58cc-4372-a567-0e02b2c3d479";
const OF_TASKS: [(Method, &str); 5] =
    [(Method::GET, ""), (Method::GET, "/status"), (Method::GET, "/result"), (Method::GET, "/why"), (Method::POST, "/cancel")];
const OF_WORKFLOWS: [(Method, &str); 4] = [(Method::GET, ""), (Method::GET, "/tasks"), (Method::GET, "/events"), (Method::POST, "/cancel")];

async fn check(scene: &Scene, (kind, id): (&str, &str), (method, rest): &(Method, &str), expected: (StatusCode, &str)) -> Result<()> {
    let path = format!("/api/v1/{kind}s/{id}{rest}");
    let (status, problem) = scene.api().answer(scene.api().request(method.clone(), &path)).await?;
    let detail = problem["detail"].as_str().context("a detail")?;
    ensure!(status == expected.0 && detail.contains(expected.1), "{method} {path}: {problem}");
    Ok(())
}

#[tokio::test]
async fn an_id_that_there_is_not_is_not_found_whatever_it_looks_like() -> Result<()> {
    let scene = Scene::start(executors(0)).await?;
    for id in [LIKE_A_TASK, LIKE_A_WORKFLOW, RANDOM] {
        for request in &OF_TASKS {
            check(&scene, ("task", id), request, (StatusCode::NOT_FOUND, "there is no task `")).await?;
        }
        for request in &OF_WORKFLOWS {
            check(&scene, ("workflow", id), request, (StatusCode::NOT_FOUND, "there is no workflow `")).await?;
        }
        for command in ["status", "result", "wait", "logs", "why", "cancel"] {
            let said = orchestr8(&scene, &[command, id]).await?;
            let told = format!("no workflow and no task has the id `{id}`: ");
            ensure!(said.code == Some(1) && said.stderr.contains(&told), "{command} {id}: {said:?}");
        }
    }
    let submitted = scene.api().post("/api/v1/tasks", &noop(&json!(1))).await?;
    let task = submitted["task_id"].as_str().context("a task")?;
    let workflow = submitted["workflow_id"].as_str().context("a workflow")?;
    for request in &OF_TASKS {
        check(&scene, ("task", workflow), request, (StatusCode::BAD_REQUEST, "is the id of a workflow, not of a task")).await?;
    }
    for request in &OF_WORKFLOWS {
        check(&scene, ("workflow", task), request, (StatusCode::BAD_REQUEST, "is the id of a task, not of a workflow")).await?;
    }
    assert_eq!(scene.number("select count(*) from shard_inbox").await?, 0, "nothing lies in an inbox that nobody owns");
    scene.finish().await;
    Ok(())
}
