//! The command line: what is data goes to stdout, talk to stderr, and the exit code tells the outcome.

use super::workflows::MAIN;
use crate::harness::binary;
use crate::scene::{Scene, executors};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::PathBuf;
use tokio::process::Command;

/// What a command left.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: Option<i32>,
    /// What is data.
    pub stdout: String,
    /// What is talk.
    pub stderr: String,
}

impl Said {
    /// Its data without the end of the line.
    pub fn line(&self) -> &str {
        self.stdout.trim_end()
    }
}

/// Runs a client command against the scene's first coordinator.
pub async fn orchestr8(scene: &Scene, words: &[&str]) -> Result<Said> {
    let mut command = Command::new(binary::orchestr8()?);
    command.args(words).env("ORCHESTR8_URL", &scene.api().url).env("ORCHESTR8_TOKEN", &scene.api().token);
    let output = command.current_dir(&scene.installation.workdir).output().await?;
    let said = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { code: output.status.code(), stdout: said(output.stdout), stderr: said(output.stderr) })
}

fn file(scene: &Scene, name: &str, text: &str) -> Result<PathBuf> {
    let path = scene.installation.workdir.join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

#[tokio::test]
async fn task_waits_shows_results_and_fails_loudly() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let said = orchestr8(&scene, &["task", "--run", "echo hello", "--wait"]).await?;
    assert_eq!((said.code, said.line()), (Some(0), "hello"), "{said:?}");
    let id = said.stderr.lines().find_map(|line| line.strip_prefix("task ")).with_context(|| format!("no id: {said:?}"))?;
    assert_eq!(orchestr8(&scene, &["result", id]).await?.line(), "hello");
    let said = orchestr8(&scene, &["task", "--run", "echo oh no >&2; exit 3", "--max-retries", "0", "--wait"]).await?;
    assert!(said.code == Some(1) && said.stdout.is_empty() && said.stderr.contains("failed"), "{said:?}");
    let said = orchestr8(&scene, &["task", "--handler", "noop", "--with", "output={\"a\": 1}", "--wait", "-o", "json"]).await?;
    let json: Value = serde_json::from_str(&said.stdout)?;
    assert_eq!(json["result"]["a"], 1);
    assert!(said.stderr.contains(json["task_id"].as_str().context("an id")?), "{said:?}");
    let said = orchestr8(&scene, &["task", "--handler", "sleep", "--with", "duration=\"1h\"", "--wait", "--wait-timeout", "300ms"]).await?;
    assert_eq!(said.code, Some(124), "{said:?}");
    let said = orchestr8(&scene, &["task"]).await?;
    assert!(said.code == Some(2) && said.stdout.is_empty(), "{said:?}");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn run_watch_wait_list_logs_cancel() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let main = file(&scene, "main.yaml", MAIN)?.display().to_string();
    let said = orchestr8(&scene, &["run", &main, "--input", "who=cli", "--input", "count=1", "--watch"]).await?;
    assert!(said.code == Some(0) && said.stdout.contains("hello cli / completed / main"), "{said:?}");
    assert!(said.stderr.contains("report"), "the progress: {said:?}");
    let at_once = orchestr8(&scene, &["run", &main, "--input", "who=x", "--input", "count=2"]).await?;
    let id = at_once.line().to_owned();
    assert_eq!((at_once.code, id.len()), (Some(0), 36), "{at_once:?}");
    let quick = orchestr8(&scene, &["task", "--run", "echo quick; echo aside >&2"]).await?.line().to_owned();
    let slow = orchestr8(&scene, &["task", "--handler", "sleep", "--with", "duration=3600", "--tag", "slow"]).await?.line().to_owned();
    let any = orchestr8(&scene, &["wait", &quick, &slow, "--any"]).await?;
    assert!(any.code == Some(0) && any.stdout.contains(&quick) && !any.stdout.contains(&slow), "{any:?}");
    let any = orchestr8(&scene, &["wait", &quick, &slow, "--any", "-o", "json"]).await?;
    let states: Value = serde_json::from_str(&any.stdout)?;
    assert_eq!((&states[0]["status"], &states[1]["id"]), (&json!("completed"), &json!(slow)), "{any:?}");
    assert!(["queued", "running"].iter().any(|status| states[1]["status"] == *status), "{any:?}");
    let all = orchestr8(&scene, &["wait", &quick, &id, "--all"]).await?;
    assert_eq!((all.code, all.stdout.lines().count()), (Some(0), 2), "{all:?}");
    let late = orchestr8(&scene, &["wait", &quick, &slow, "--all", "--timeout", "300ms"]).await?;
    assert!(late.code == Some(124) && late.stderr.contains(&format!("{slow} has not ended yet")), "{late:?}");
    let silent = orchestr8(&scene, &["logs", &slow]).await?;
    assert!(silent.code == Some(0) && silent.stdout.is_empty() && silent.stderr.contains("output"), "{silent:?}");
    let logs = orchestr8(&scene, &["logs", &quick]).await?;
    assert!(logs.stdout.contains("quick") && logs.stdout.contains("aside"), "{logs:?}");
    let list = orchestr8(&scene, &["list", "--tag", "slow"]).await?;
    assert!(list.stdout.contains(&slow[..8]) && !list.stdout.contains(&quick), "{list:?}");
    assert!(orchestr8(&scene, &["status", &id]).await?.stdout.contains("completed"));
    let whole: Value = serde_json::from_str(&orchestr8(&scene, &["status", &id, "-o", "json"]).await?.stdout)?;
    let tasks = whole["tasks"].as_array().with_context(|| format!("tasks in {whole}"))?;
    assert_eq!((&whole["workflow_id"], tasks.len()), (&json!(id), 6), "{whole}");
    assert!(tasks.iter().all(|task| task["status"] == "completed" && task["name"].is_string()), "{whole}");
    scene.until(&slow, "running").await?;
    let cancel = orchestr8(&scene, &["cancel", &slow]).await?;
    assert_eq!((cancel.code, cancel.line()), (Some(0), format!("{slow} cancelling").as_str()), "{cancel:?}");
    assert_eq!(orchestr8(&scene, &["wait", &slow]).await?.code, Some(1), "cancelled is not completed");
    assert_eq!(orchestr8(&scene, &["cancel", &quick]).await?.code, Some(1), "it has ended already");
    let result = orchestr8(&scene, &["result", &quick]).await?;
    assert_eq!((result.code, result.line()), (Some(0), "quick"), "{result:?}");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn what_goes_wrong_is_said_once() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let failing = "name: failing\ntasks:\n- {name: a, run: 'echo oh no >&2; exit 3', retry: {max_attempts: 1}}\n";
    let failing = file(&scene, "failing.yaml", failing)?.display().to_string();
    let said = orchestr8(&scene, &["run", &failing, "--wait"]).await?;
    assert!(said.code == Some(1) && said.stderr.contains("task a failed: exit code 3: oh no\n"), "{said:?}");
    assert_eq!((said.stderr.matches("oh no").count(), said.stderr.matches(" failed\n").count()), (1, 1), "{said:?}");
    assert!(!said.stderr.contains(" x)"), "one task gains nothing: {said:?}");
    let checking = "name: checking\ntasks:\n- {name: a, run: 'echo \"# A report\"; echo talk >&2; exit 3', retry: {max_attempts: 1}}\n";
    let checking = file(&scene, "checking.yaml", checking)?.display().to_string();
    let said = orchestr8(&scene, &["run", &checking, "--wait"]).await?;
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), "# A report\n"), "{said:?}");
    assert!(!said.stderr.contains("# A report"), "{said:?}");
    let main = file(&scene, "main.yaml", MAIN)?.display().to_string();
    let said = orchestr8(&scene, &["run", &main, "--input", "who=5", "--input", "count=1"]).await?;
    let expected = "error: the input has a mistake (invalid_input)\n  input/who: 5 is not of type \"string\": \
        write it in quotes, \"5\" (on a command line: --input 'who=\"5\"')\n";
    assert_eq!((said.code, said.stderr.as_str()), (Some(1), expected));
    assert_eq!(orchestr8(&scene, &["definitions", "put", &main]).await?.code, Some(0));
    let said = orchestr8(&scene, &["run", "maim"]).await?;
    assert!(said.code == Some(1) && said.stderr.contains("did you mean `main`?"), "{said:?}");
    let said = orchestr8(&scene, &["status", "0190b2c4"]).await?;
    assert!(said.code == Some(1) && said.stderr.contains("`0190b2c4`") && said.stderr.contains("`orchestr8 list`"), "{said:?}");
    let said = orchestr8(&scene, &["task", "--run", "x", "--queue", "A B"]).await?;
    assert_eq!((said.code, said.stderr.matches("is not a queue name").count()), (Some(1), 1), "{said:?}");
    let said = orchestr8(&scene, &["status", "0190b2c4-0000-7000-8000-000000000000"]).await?;
    let expected = "error: no workflow and no task has the id `0190b2c4-0000-7000-8000-000000000000`: it may be of another installation, or gone; `orchestr8 list` and `orchestr8 list --workflows` show what is there\n";
    assert_eq!((said.code, said.stderr.as_str()), (Some(1), expected));
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn an_ambiguous_beginning_of_an_id_lists_what_it_could_mean() -> Result<()> {
    let scene = Scene::start(executors(0)).await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(scene.submit_workflow(&json!({"definition": MAIN, "input": {"who": "x", "count": 1}})).await?);
    }
    // The first eight digits change once in 65 s: at most one of the three has others.
    let said = orchestr8(&scene, &["status", &ids[1][..8]]).await?;
    assert!(said.code == Some(1) && said.stderr.contains("(ambiguous_id)"), "{said:?}");
    let candidates: Vec<&str> = said.stderr.lines().filter(|line| line.starts_with(&format!("  {}", &ids[1][..8]))).collect();
    assert!(candidates.len() >= 2, "{said:?}");
    for candidate in candidates {
        let words: Vec<&str> = candidate.split_whitespace().collect();
        assert!(
            ids.iter().any(|id| id == words[0]) && words[1].starts_with("20") && words[1].ends_with('Z') && words[2] == "main",
            "{said:?}"
        );
    }
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn validate_and_graph_need_no_coordinator() -> Result<()> {
    let scene = Scene::start(executors(0)).await?;
    let bad = "name: release\ntasks:\n  - {name: build, run: make, retries: 3}\n  - {name: test, run: x, needs: [biuld], priority: hihg}\n  \
               - {name: publish, handler: noop, needs: [test], timeout: 2 hours, with: {url: '${{ tasks.bulid.output }}'}}\n";
    let bad = file(&scene, "bad.yaml", bad)?.display().to_string();
    let said = orchestr8(&scene, &["validate", &bad]).await?;
    assert_eq!((said.code, said.stdout.lines().count()), (Some(1), 5), "{said:?}");
    for (line, part) in said.stdout.lines().zip(["`retry`", "`build`", "`high`", "2 hours", "`build`"]) {
        let place = line.strip_prefix(&format!("{bad}:")).with_context(|| format!("no place in {line:?}"))?;
        let mut numbers = place.split([':', ' ']);
        assert!(numbers.next().is_some_and(|line| line.parse::<u32>().is_ok()), "{line}");
        assert!(numbers.next().is_some_and(|column| column.parse::<u32>().is_ok()) && line.contains(part), "{line}");
    }
    let good = file(&scene, "good.yaml", MAIN)?.display().to_string();
    assert_eq!(orchestr8(&scene, &["validate", &good]).await?.code, Some(0));
    let graph = orchestr8(&scene, &["graph", &good]).await?;
    assert!(graph.code == Some(0) && graph.stdout.starts_with("flowchart") && graph.stdout.contains("hello"), "{graph:?}");
    let refused = orchestr8(&scene, &["run", &bad]).await?;
    assert!(refused.code == Some(1) && refused.stdout.is_empty(), "{refused:?}");
    let mut away = Command::new(binary::orchestr8()?);
    away.args(["list", "--url", "http://127.0.0.1:1"]).env("ORCHESTR8_TOKEN", "x".repeat(20));
    assert_eq!(away.output().await?.status.code(), Some(69));
    scene.finish().await;
    Ok(())
}
