//! An execution that is too large to be small: what its lane does for others while it is read again.

use super::load;
use super::report::{Bound, Figure, Section};
use super::scale::Scale;
use crate::bench::client::Client;
use crate::harness::{Installation, wait_for};
use anyhow::Result;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Its lane is everybody's: there is one.
const SLOTS: u16 = 16;
/// The other one goes on, so that nothing of the next phase becomes ready, which would be work of another kind.
const FOREVER: &str = "1h";
/// Far above all of it.
const PATIENCE: Duration = Duration::from_mins(2);
/// A lane that does nothing else for longer than this stalls everybody.
const STALL_MAX_MS: f64 = 1_000.0;

/// Probes one task after another while a new coordinator reads the execution; the slowest probe is the stall.
///
/// # Errors
/// When a part does not start, or a task does not complete.
pub async fn reload(scale: &Scale) -> Result<Vec<Figure>> {
    let mut installation = Installation::start(load::published(SLOTS)).await?;
    let begun = Instant::now();
    let workflow = installation.api.post("/api/v1/workflows", &json!({"definition": definition(scale)})).await?;
    let submitted = begun.elapsed();
    let path = format!("/api/v1/workflows/{}/tasks?limit=2", load::text(&workflow, "workflow_id")?);
    until(&installation, &path, ["running", "running"]).await?;
    installation.coordinators[0].terminate().await?;
    installation.coordinators[0].restart().await?;
    installation.wait_ready(0).await?;
    let over = CancellationToken::new();
    let probing = tokio::spawn(probe(load::connected(&installation).await?, over.clone()));
    until(&installation, &path, ["completed", "running"]).await?;
    over.cancel();
    let mut latencies = probing.await??;
    latencies.sort_unstable();
    let ms = |latency: Option<&Duration>| latency.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3);
    let (median, slowest) = (ms(latencies.get(latencies.len() / 2)), ms(latencies.last()));
    installation.finish().await;
    let tasks = scale.reloaded;
    Ok(vec![
        Section::Reload.shown(format!("{tasks}_tasks_submitted_ms"), submitted.as_secs_f64() * 1e3),
        Section::Reload.shown("probe_p50_ms", median),
        Section::Reload.required(format!("{tasks}_tasks_stall_ms"), slowest, Bound::AtMost(STALL_MAX_MS)),
    ])
}

/// Two tasks that sleep, and after both all the others.
fn definition(scale: &Scale) -> Value {
    let sleep = |name: &str, duration: &str| json!({"name": name, "handler": "sleep", "with": {"duration": duration}});
    let first = [sleep("wakes", &format!("{}s", scale.nap.as_secs())), sleep("sleeps", FOREVER)];
    let others: Vec<Value> = (2..scale.reloaded).map(|number| json!({"name": format!("t{number}"), "handler": "noop"})).collect();
    json!({"name": "large", "phases": [{"name": "a", "tasks": first}, {"name": "b", "tasks": others}]})
}

/// The time of each of many tasks, one after another.
async fn probe(mut api: Client, over: CancellationToken) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    while !over.is_cancelled() {
        let begun = Instant::now();
        let task: Value = serde_json::from_slice(&api.post("/api/v1/tasks", load::body(&load::noop())).await?)?;
        load::ended(&mut api, &format!("/api/v1/tasks/{}/result", load::text(&task, "task_id")?)).await?;
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}

async fn until(installation: &Installation, path: &str, states: [&str; 2]) -> Result<()> {
    let look = async || {
        let page = installation.api.get(path).await?;
        Ok(states.iter().zip(0..).all(|(state, index)| page["tasks"][index]["status"] == **state).then_some(()))
    };
    wait_for(&format!("the first tasks to be {states:?}"), PATIENCE, look).await
}
