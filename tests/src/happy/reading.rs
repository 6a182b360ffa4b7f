//! What the API tells: status, result, lists and their filters, probes, and that nobody gets in without the token.

use crate::harness::wait_for;
use crate::scene::{SOON, Scene, executors, noop, text};
use anyhow::{Context, Result};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};

async fn ids(scene: &Scene, query: &str) -> Result<HashSet<String>> {
    let page = scene.api().get(&format!("/api/v1/tasks?{query}")).await?;
    page["tasks"].as_array().context("tasks")?.iter().map(|task| text(task, "task_id")).collect()
}

async fn tagged(scene: &Scene, user: &str, tags: &[&str], more: Value) -> Result<String> {
    let mut task = more;
    task["user_id"] = json!(user);
    task["tags"] = json!(tags);
    scene.submit(&task).await
}

#[tokio::test]
async fn lists_have_filters_and_pages() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let anna = tagged(&scene, "anna", &["a", "b"], noop(&json!(1))).await?;
    let bert = tagged(&scene, "bert", &["b"], noop(&json!(2))).await?;
    let fails = tagged(&scene, "bert", &[], json!({"handler": "fail", "max_retries": 0})).await?;
    let queued = tagged(&scene, "anna", &["a"], json!({"handler": "noop", "queue": "nobody"})).await?;
    for task in [&anna, &bert, &fails] {
        scene.result(task).await?;
    }
    let set = |ids: &[&String]| ids.iter().map(|id| (*id).clone()).collect::<HashSet<_>>();
    for (query, expected) in [
        ("", set(&[&anna, &bert, &fails, &queued])),
        ("user_id=anna", set(&[&anna, &queued])),
        ("tags=a", set(&[&anna, &queued])),
        ("tags=a,b", set(&[&anna])),
        ("status=failed,queued", set(&[&fails, &queued])),
        ("agent=fail", set(&[&fails])),
        ("since=2099-01-01T00:00:00Z", set(&[])),
        ("since=2020-01-01T00:00:00Z&user_id=bert&status=completed", set(&[&bert])),
    ] {
        assert_eq!(ids(&scene, query).await?, expected, "{query}");
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = scene.api().get(&format!("/api/v1/tasks?limit=3{cursor}")).await?;
        seen.extend(page["tasks"].as_array().context("tasks")?.iter().map(|task| text(task, "task_id")).collect::<Result<Vec<_>>>()?);
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, [queued, fails, bert, anna.clone()], "newest first, each once");
    for (limit, has_more) in [(3, true), (4, false), (5, false)] {
        let page = scene.api().get(&format!("/api/v1/tasks?limit={limit}")).await?;
        assert_eq!(page["next_cursor"].is_string(), has_more, "{limit} of 4: {page}");
    }
    let workflows = scene.api().get("/api/v1/workflows?user_id=anna&status=completed").await?;
    assert_eq!(workflows["workflows"].as_array().map(Vec::len), Some(1), "{workflows}");
    assert_eq!(scene.api().get(&format!("/api/v1/tasks/{}", &anna)).await?["workflow_name"], "task");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn status_and_result_tell_what_is_known_and_wait_ends_with_the_task() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let task = scene.submit(&scene.ledger.gated("go")).await?;
    scene.until(&task, "running").await?;
    let status = scene.api().get(&format!("/api/v1/tasks/{task}/status")).await?;
    for key in ["task_id", "status", "progress", "created_at", "started_at", "estimated_completion"] {
        assert!(status.get(key).is_some(), "{key}: {status}");
    }
    assert_eq!(status["progress"], json!({"percent": null, "current_step": null, "estimated_time_remaining": null}));
    let asked = Instant::now();
    let unfinished = scene.api().get(&format!("/api/v1/tasks/{task}/result?wait=300ms")).await?;
    assert!(asked.elapsed() >= Duration::from_millis(300) && unfinished["status"] == "running", "{unfinished}");
    let path = format!("/api/v1/tasks/{task}/result?wait=30s");
    let waiting = scene.api().get(&path);
    let (opened, result) = tokio::join!(async { scene.ledger.open("go") }, waiting);
    opened?;
    let result = result?;
    assert_eq!((&result["status"], &result["files_created"]), (&json!("completed"), &json!([])), "{result}");
    assert!(result["completed_at"].is_string());
    let last = task.chars().last().context("an id")?;
    let another = format!("{}{}", &task[..task.len() - 1], if last == '1' { '2' } else { '1' });
    let missing = scene.api().request(Method::GET, &format!("/api/v1/tasks/{another}/result"));
    assert_eq!(scene.api().answer(missing).await?.0, StatusCode::NOT_FOUND);
    scene.finish().await;
    Ok(())
}

/// Who waits is told the result with the commit; it must be what everybody reads afterwards.
#[tokio::test]
async fn who_waits_is_told_what_is_read_afterwards() -> Result<()> {
    let scene = Scene::start(executors(3)).await?;
    let until_opened = scene.ledger.gated("go")["env"].clone();
    let gate = |then: &str| {
        let script = format!("until [ -e \"$GATE\" ]; do sleep 0.05; done; {then}");
        json!({"run": script, "max_retries": 0, "env": until_opened})
    };
    let output = r#"printf '%s' '{"b": [1e2, 1.0, -0.0, 12345678901234567890], "a": {"ü": null}}' > "$ORCHESTR8_OUTPUT""#;
    let mut tasks = Vec::new();
    for task in [gate(output), gate("echo why >&2; exit 3"), gate("true"), json!({"handler": "noop", "queue": "nobody"})] {
        tasks.push(scene.submit(&task).await?);
    }
    for task in &tasks[..3] {
        scene.until(task, "running").await?;
    }
    let paths: Vec<String> = tasks.iter().map(|task| format!("/api/v1/tasks/{task}/result")).collect();
    let waits = paths.iter().map(async |path| scene.api().get(&format!("{path}?wait=30s")).await);
    let ended = async {
        for cancelled in &tasks[2..] {
            let path = format!("/api/v1/tasks/{cancelled}/cancel");
            scene.api().answer(scene.api().request(Method::POST, &path)).await?;
        }
        scene.ledger.open("go")
    };
    let (told, ended) = tokio::join!(futures::future::try_join_all(waits), ended);
    ended?;
    for ((path, told), status) in paths.iter().zip(told?).zip(["completed", "failed", "cancelled", "cancelled"]) {
        assert_eq!(told["status"], status, "{told}");
        assert_eq!(told, scene.api().get(path).await?);
    }
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn probes_tell_which_part_is_missing_and_nobody_gets_in_without_the_token() -> Result<()> {
    let scene = Scene::start(executors(0)).await?;
    let bare = crate::harness::api::http_client(Vec::new());
    for path in ["/api/v1/tasks", "/api/v1/workflows", "/api/v1/definitions"] {
        let answer = bare.get(format!("{}{path}", scene.api().url)).send().await?;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
        let answer = bare.get(format!("{}{path}", scene.api().url)).bearer_auth("wrong-wrong-wrong-wrong").send().await?;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    assert!(scene.api().is_ready().await);
    let metrics = scene.api().request(Method::GET, "/metrics").send().await?.text().await?;
    assert!(metrics.contains("orchestr8_"), "{metrics}");
    scene.installation.nats("stop nats").await?;
    let look = async || {
        let (status, parts) = scene.api().answer(scene.api().request(Method::GET, "/readyz")).await?;
        Ok((status == StatusCode::SERVICE_UNAVAILABLE && parts.to_string().contains("nats")).then_some(()))
    };
    wait_for("NATS to be told as missing", SOON, look).await?;
    scene.finish().await;
    Ok(())
}
