//! One trace from a submission to its end, across processes.

use super::collector::{Collector, Gate, Taken};
use super::traced;
use crate::harness::binary;
use crate::scene::{Scene, text};
use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Fails once, then waits for its gate and submits a child with the token that it is given.
fn definition(scene: &Scene) -> Result<Value> {
    let child =
        format!("ORCHESTR8_TOKEN=\"$TOKEN\" {} task --handler noop --agent-name child --url \"$URL\"", binary::orchestr8()?.display());
    let wait = "while [ ! -e \"$GATE\" ]; do sleep 0.02; done";
    let environment = json!({
        "TOKEN": scene.api().token, "URL": scene.api().url, "GATE": scene.installation.workdir.join("gate-open"),
    });
    let retry = json!({"max_attempts": 2, "initial_interval": "10ms"});
    let tasks = json!([
        {"name": "first", "run": "[ \"$ORCHESTR8_ATTEMPT\" = 2 ] || exit 3", "retry": retry},
        {"name": "second", "needs": ["first"], "run": format!("{wait}; {child}"), "env": environment},
    ]);
    Ok(json!({"definition": {"name": "whole", "tasks": tasks}}))
}

async fn submit(scene: &Scene, body: &Value, traceparent: &str) -> Result<String> {
    let request = scene.api().request(Method::POST, "/api/v1/workflows").header("traceparent", traceparent).json(body);
    let (status, answer) = scene.api().answer(request).await?;
    ensure!(status == StatusCode::ACCEPTED, "{answer}");
    text(&answer, "workflow_id")
}

/// The span of an attempt or run.
async fn numbered(collector: &Collector, name: &str, attempt: &str) -> Result<Taken> {
    collector.until(name, |taken| taken.attribute("orchestr8.attempt").as_deref() == Some(attempt)).await
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn is_child(child: &Taken, parent: &Taken) -> Result<()> {
    let (found, wanted) = (hex(&child.span.parent_span_id), hex(&parent.span.span_id));
    ensure!(found == wanted, "`{}` has the parent {found}, not {wanted} of `{}`", child.span.name, parent.span.name);
    Ok(())
}

#[tokio::test]
async fn a_submission_its_retry_and_its_child_are_one_trace_over_the_death_of_a_coordinator() -> Result<()> {
    let collector = Collector::start(Gate::Open).await?;
    let mut scene = Scene::start(traced(&collector.endpoint)).await?;
    let workflow = submit(&scene, &definition(&scene)?, &format!("00-{TRACE}-{CALLER}-01")).await?;
    let submission = collector.until("POST /api/v1/workflows", |_| true).await?;
    let failed = numbered(&collector, "attempt first", "1").await?;
    let retried = numbered(&collector, "attempt first", "2").await?;
    let second = text(&scene.task_of(&workflow, "second").await?, "task_id")?;
    scene.until(&second, "running").await?;
    // What was sent is sent; the rest must be told by one that has only the rows.
    scene.installation.coordinators[0].kill().await?;
    scene.installation.coordinators[0].restart().await?;
    scene.installation.wait_ready(0).await?;
    scene.ledger.open("open")?;
    let ended = scene.workflow(&workflow).await?;
    ensure!(ended["status"] == "completed", "{ended}");

    let execution = collector.until("execution whole", |_| true).await?;
    ensure!(hex(&submission.span.parent_span_id) == CALLER && submission.attribute("orchestr8.workflow_id").as_deref() == Some(&workflow));
    is_child(&execution, &submission)?;
    ensure!(execution.attribute("orchestr8.workflow_id").as_deref() == Some(&workflow), "{execution:?}");
    let last = numbered(&collector, "attempt second", "1").await?;
    for attempt in [&failed, &retried, &last] {
        is_child(attempt, &execution)?;
        check_attempt(&collector, attempt).await?;
    }
    ensure!(failed.attribute("orchestr8.status").as_deref() == Some("retrying"), "{failed:?}");
    ensure!(failed.span.status.as_ref().is_some_and(|status| status.message == "exit"), "{failed:?}");
    ensure!(retried.span.status.as_ref().is_none_or(|status| status.message.is_empty()), "{retried:?}");

    let run = numbered(&collector, "run second", "1").await?;
    let child = collector.until("POST /api/v1/tasks", |_| true).await?;
    is_child(&child, &run).context("a command that a task runs joins its trace")?;
    let of_child = collector.until("execution task", |_| true).await?;
    is_child(&of_child, &child)?;
    is_child(&collector.until("run task", |_| true).await?, &collector.until("attempt task", |_| true).await?)?;
    let all = collector.spans();
    ensure!(all.iter().all(|taken| hex(&taken.span.trace_id) == TRACE), "{:?}", collector.names());
    let mut ids: Vec<&[u8]> = all.iter().map(|taken| taken.span.span_id.as_slice()).collect();
    ids.sort_unstable();
    ids.dedup();
    ensure!(ids.len() == 12 && all.len() == 12, "{:?}", collector.names());
    scene.finish().await;
    Ok(())
}

/// It began in the queue, and an executor's run lies under it.
async fn check_attempt(collector: &Collector, attempt: &Taken) -> Result<()> {
    let number = attempt.attribute("orchestr8.attempt").context("a number")?;
    let run = numbered(collector, &attempt.span.name.replace("attempt", "run"), &number).await?;
    is_child(&run, attempt)?;
    let services = (attempt.service.as_str(), run.service.as_str());
    ensure!(services == ("orchestr8-coordinator", "orchestr8-executor"), "{services:?}");
    ensure!(attempt.span.start_time_unix_nano <= attempt.span.end_time_unix_nano, "{attempt:?}");
    let started = attempt.span.events.iter().find(|event| event.name == "started").context("its start")?;
    ensure!((attempt.span.start_time_unix_nano..=attempt.span.end_time_unix_nano).contains(&started.time_unix_nano), "{attempt:?}");
    for (name, value) in [("orchestr8.executor", "executor-0"), ("orchestr8.kind", "run")] {
        ensure!(attempt.attribute(name).as_deref() == Some(value) && run.attribute(name).as_deref() == Some(value), "{attempt:?} {run:?}");
    }
    ensure!(attempt.attribute("orchestr8.queue").as_deref() == Some("default"), "{attempt:?}");
    Ok(())
}

#[tokio::test]
async fn a_caller_decides_whether_there_are_spans_and_a_broken_parent_is_passed_over() -> Result<()> {
    let collector = Collector::start(Gate::Open).await?;
    let scene = Scene::start(traced(&collector.endpoint)).await?;
    let said = json!({"definition": {"name": "says", "output": "${{ tasks.a.output }}", "tasks": [{"name": "a", "run": "printf %s \"$TRACEPARENT\""}]}});
    let unrecorded = submit(&scene, &said, &format!("00-{TRACE}-{CALLER}-00")).await?;
    let ended = scene.workflow(&unrecorded).await?;
    ensure!(ended["output"] == format!("00-{TRACE}-{CALLER}-00"), "the caller's own goes on: {ended}");
    let broken = submit(&scene, &said, &format!("00-{TRACE}-0000000000000000-01")).await?;
    let ended = scene.workflow(&broken).await?;
    let execution = collector.until("execution says", |_| true).await?;
    ensure!(execution.attribute("orchestr8.workflow_id").as_deref() == Some(&broken), "{:?}", collector.names());
    let run = collector.until("run a", |_| true).await?;
    ensure!(hex(&run.span.trace_id) != TRACE, "{run:?}");
    ensure!(ended["output"] == format!("00-{}-{}-01", hex(&run.span.trace_id), hex(&run.span.span_id)), "{ended}");
    scene.finish().await;
    Ok(())
}
