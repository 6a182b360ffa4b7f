//! The command line further: keys, later starts, batches, long lists, and what it says of runs that were ended.

use super::cli::{Said, orchestr8};
use super::workflows::MAIN;
use crate::harness::InstallationOptions;
use crate::scene::{SOON, Scene, executors};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// A command that must do what it is asked.
async fn done(scene: &Scene, words: &[&str]) -> Result<Said> {
    let said = orchestr8(scene, words).await?;
    ensure!(said.code == Some(0), "{words:?}: {said:?}");
    Ok(said)
}

/// A file that a command reads; its path.
fn file(scene: &Scene, name: &str, text: &str) -> Result<String> {
    let path = scene.installation.workdir.join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

#[tokio::test]
async fn a_key_makes_a_command_safe_to_repeat() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let task = ["task", "--handler", "noop", "--idempotency-key", "order-7"];
    let first = done(&scene, &task).await?;
    assert!(!first.stderr.contains("submitted before"), "{first:?}");
    let again = done(&scene, &task).await?;
    assert_eq!(again.stdout, first.stdout);
    assert!(again.stderr.contains("submitted before under the same idempotency key"), "{again:?}");
    let other = orchestr8(&scene, &["task", "--handler", "sleep", "--idempotency-key", "order-7"]).await?;
    assert!(other.code == Some(1) && other.stdout.is_empty(), "{other:?}");
    assert!(other.stderr.contains("`order-7` was used before with another body") && other.stderr.contains("(key_reused)"), "{other:?}");
    assert!(!other.stderr.contains("--run-at"), "{other:?}");
    let moving = ["task", "--handler", "noop", "--idempotency-key", "order-8", "--run-at", "+1h"];
    done(&scene, &moving).await?;
    let moved = orchestr8(&scene, &moving).await?;
    assert!(moved.code == Some(1) && moved.stderr.contains("write the time itself"), "{moved:?}");
    let main = file(&scene, "main.yaml", MAIN)?;
    let run = ["run", &main, "--input", "who=x", "--input", "count=1", "--idempotency-key", "order-9"];
    let first = done(&scene, &run).await?;
    let again = done(&scene, &run).await?;
    assert_eq!(again.stdout, first.stdout);
    assert!(again.stderr.contains("submitted before") && !first.stderr.contains("submitted before"), "{again:?}");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn what_is_for_later_says_when_it_starts() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let main = file(&scene, "main.yaml", MAIN)?;
    let run = ["run", &main, "--input", "who=later", "--input", "count=1", "--run-at", "2090-01-31T14:00:00Z"];
    let workflow = done(&scene, &run).await?.line().to_owned();
    let status = done(&scene, &["status", &workflow]).await?;
    assert!(status.stdout.contains(" pending") && status.stdout.contains(", at 2090-01-31T14:00:00Z"), "{status:?}");
    let whole: Value = serde_json::from_str(&done(&scene, &["status", &workflow, "-o", "json"]).await?.stdout)?;
    assert_eq!((&whole["tasks"][0]["due_at"], &whole["tasks"][1]["due_at"]), (&json!("2090-01-31T14:00:00Z"), &Value::Null), "{whole}");
    let task = done(&scene, &["task", "--handler", "noop", "--run-at", "2090-01-31T14:00:00Z"]).await?.line().to_owned();
    let status = done(&scene, &["status", &task]).await?;
    assert!(status.stdout.lines().any(|line| line.starts_with("starts in ") && line.ends_with(", at 2090-01-31T14:00:00Z")), "{status:?}");
    let document = scene.api().get(&format!("/api/v1/tasks/{task}/status")).await?;
    assert_eq!((&document["status"], &document["due_at"]), (&json!("waiting"), &json!("2090-01-31T14:00:00Z")), "{document}");
    let failing = ["task", "--run", "exit 3", "--retry-backoff", r#"{"initial_interval": "1h", "max_interval": "1h"}"#];
    let failing = done(&scene, &failing).await?.line().to_owned();
    let retrying = scene.until(&failing, "retrying").await?;
    assert!(retrying["due_at"].is_string() && retrying["due_at"] == retrying["next_retry_at"], "{retrying}");
    let soon = ["run", &main, "--input", "who=soon", "--input", "count=1", "--run-at", "+1s", "--wait"];
    assert!(done(&scene, &soon).await?.stdout.contains("hello soon"));
    scene.finish().await;
    Ok(())
}

/// So many tasks, one a line; the one at `wrong` has a mistake.
fn lines(count: usize, wrong: Option<usize>) -> String {
    let mut text = String::new();
    for number in 0..count {
        let timeout = if wrong == Some(number) { json!("soon") } else { json!("1m") };
        let task = json!({"handler": "noop", "prompt": format!("the {number}"), "timeout": timeout, "tags": ["batch"]});
        writeln!(text, "{task}").expect("text takes what is written");
    }
    text
}

#[tokio::test]
async fn a_batch_is_submitted_once_and_listed_whole() -> Result<()> {
    let scene = Scene::start(executors(0)).await?;
    let tasks = file(&scene, "tasks.jsonl", &lines(1_200, Some(1_100)))?;
    let refused = orchestr8(&scene, &["task", "--batch", &tasks, "--idempotency-key", "night"]).await?;
    assert_eq!((refused.code, refused.stdout.lines().count()), (Some(1), 1_000), "the first group was accepted: {}", refused.stderr);
    assert!(refused.stderr.contains("error: [1100].timeout: `timeout` must be"), "{}", refused.stderr);
    assert!(refused.stderr.contains("accepted: 1000 tasks; once the file is corrected, "), "{}", refused.stderr);
    file(&scene, "tasks.jsonl", &lines(1_200, None))?;
    let mended = done(&scene, &["task", "--batch", &tasks, "--idempotency-key", "night"]).await?;
    let ids: Vec<&str> = mended.stdout.lines().collect();
    assert_eq!((ids.len(), ids[..1_000].join("\n")), (1_200, refused.line().to_owned()));
    assert!(mended.stderr.contains("not started again: 1000 tasks"), "{}", mended.stderr);
    assert_eq!(scene.number("select count(*) from task_executions").await?, 1_200, "nothing was submitted twice");
    for index in [0, 999, 1_000, 1_199] {
        let task = scene.api().get(&format!("/api/v1/tasks/{}", ids[index])).await?;
        assert_eq!(task["task_description"], format!("the {index}"), "ids are in the order of the file");
    }
    let all: Value = serde_json::from_str(&done(&scene, &["list", "--tag", "batch", "--all", "-o", "json"]).await?.stdout)?;
    let listed: Vec<&str> = all["tasks"].as_array().context("tasks")?.iter().filter_map(|task| task["task_id"].as_str()).collect();
    assert_eq!((listed.len(), &all["next_cursor"]), (1_200, &Value::Null));
    let table = done(&scene, &["list", "--all"]).await?;
    assert_eq!((table.stdout.lines().count(), table.stderr.as_str()), (1_201, ""));
    let first = done(&scene, &["list", "--limit", "2"]).await?;
    let cursor = first.stderr.split('`').nth(1).and_then(|flag| flag.strip_prefix("--cursor ")).context("a cursor")?;
    let next = done(&scene, &["list", "--limit", "1", "--cursor", cursor]).await?;
    assert!(next.stdout.contains(listed[2]) && next.stdout.lines().count() == 2, "{next:?}");
    let array = file(&scene, "two.json", r#"[{"handler": "noop"}, {"handler": "noop", "queue": "A B"}]"#)?;
    let refused = orchestr8(&scene, &["task", "--batch", &array]).await?;
    assert!(refused.code == Some(1) && refused.stdout.is_empty() && refused.stderr.contains("[1].queue: "), "{refused:?}");
    let mixed = orchestr8(&scene, &["task", "--batch", &array, "--queue", "other"]).await?;
    assert!(mixed.code == Some(2) && mixed.stderr.contains("cannot be used with"), "{mixed:?}");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_run_that_was_handed_back_or_cancelled_is_told_as_that() -> Result<()> {
    let executor_words = ["--drain-timeout", "300ms"].map(str::to_owned).to_vec();
    let scene = Scene::start(InstallationOptions { executor_words, ..executors(1) }).await?;
    let task = scene.submit(&json!({"run": "echo begun; exec sleep 1000000"})).await?;
    scene.until(&task, "running").await?;
    let running = done(&scene, &["logs", &task]).await?;
    assert!(running.stderr.starts_with("the task still runs: "), "{running:?}");
    done(&scene, &["executors", "drain", "executor-0"]).await?;
    scene.until(&task, "queued").await?;
    done(&scene, &["executors", "uncordon", "executor-0"]).await?;
    scene.until(&task, "running").await?;
    let logs = done(&scene, &["logs", &task]).await?;
    let given_back = "attempt 1 (released on executor-0): its executor drained and gave it back";
    assert!(logs.stdout.contains(given_back) && logs.stdout.contains("stdout\nbegun\n"), "{logs:?}");
    done(&scene, &["cancel", &task]).await?;
    let ended = orchestr8(&scene, &["wait", &task]).await?;
    assert_eq!((ended.code, ended.line()), (Some(1), format!("{task} cancelled").as_str()), "{ended:?}");
    let logs = done(&scene, &["logs", &task]).await?;
    assert!(logs.stdout.contains("attempt 2 (cancelled on executor-0): cancelled: it was cancelled while it ran"), "{logs:?}");
    let log = std::fs::read_to_string(scene.installation.executors[0].log())?;
    let told: Vec<&str> = log.lines().filter(|line| line.contains("its run is ended") || line.contains("does not want")).collect();
    assert!(told.len() == 1 && told[0].contains("INFO") && told[0].contains("the task was cancelled"), "{told:?}");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn what_is_refused_names_what_the_caller_can_do() -> Result<()> {
    let scene = Scene::start(executors(0)).await?;
    let main = file(&scene, "main.yaml", MAIN)?;
    let number = orchestr8(&scene, &["run", &main, "--input", "who=1", "--input", "count=1"]).await?;
    let hint = r#"input/who: 1 is not of type "string": write it in quotes, "1" (on a command line: --input 'who="1"')"#;
    assert!(number.code == Some(1) && number.stderr.contains(hint), "{number:?}");
    done(&scene, &["run", &main, "--input", "who=\"1\"", "--input", "count=1"]).await?;
    let bad = file(&scene, "bad.yaml", "name: bad\ntasks: [{name: a, rnu: x}]\n")?;
    for (words, consequence) in [
        (&["graph", &bad][..], "nothing was drawn"),
        (&["definitions", "put", &bad], "nothing was registered"),
        (&["run", &bad], "nothing was submitted"),
    ] {
        let said = orchestr8(&scene, words).await?;
        assert!(said.code == Some(1) && said.stderr.contains(consequence), "{words:?}: {said:?}");
    }
    let active = orchestr8(&scene, &["queues", "resume", "default"]).await?;
    assert!(
        active.code == Some(1) && active.stderr.contains("`orchestr8 queues list`") && !active.stderr.contains("/api/v1"),
        "{active:?}"
    );
    let when = orchestr8(&scene, &["task", "--run", "x", "--run-at", "tomorrow"]).await?;
    assert!(when.code == Some(2) && when.stderr.contains("+2h"), "{when:?}");
    let often = orchestr8(&scene, &["task", "--run", "x", "--max-retries", "1000"]).await?;
    assert!(often.code == Some(2) && often.stderr.contains("from 0 to 999"), "{often:?}");
    let look = async || {
        let doctor = orchestr8(&scene, &["doctor"]).await?;
        Ok(doctor.stdout.contains(" 1 lane of coordinators").then_some(()))
    };
    crate::harness::wait_for("the doctor to count one lane", SOON, look).await?;
    scene.finish().await;
    Ok(())
}
