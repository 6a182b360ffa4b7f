//! Work through the public API, and what it took.

use crate::bench::client::Client;
use crate::bench::figures::as_f64;
use crate::bench::ours::Watch;
use crate::harness::{Installation, InstallationOptions, PostgresScope};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Tasks in one request, at most: what the API takes.
const BATCH: usize = 1_000;
/// Clients that submit workflows.
const CLIENTS: usize = 16;
/// The longest wait of one request.
const WAIT: &str = "wait=60s";
/// Waits for one execution.
const WAITS_MAX: u32 = 5;

/// Durability on, protocol times as published, a Postgres of its own.
#[must_use]
pub fn published(slots: u16) -> InstallationOptions {
    InstallationOptions { slots, postgres: PostgresScope::Own, time_base: Duration::from_secs(1), ..InstallationOptions::default() }
}

/// A connection to the first coordinator.
///
/// # Errors
/// When it is not there.
pub async fn connected(installation: &Installation) -> Result<Client> {
    Client::connect(&installation.api.url, &installation.api.token).await
}

/// So many tasks of one kind, in arrays; they have all ended when this returns. Microseconds a task.
///
/// # Errors
/// When they are refused or do not end.
pub async fn tasks_us(installation: &Installation, task: &Value, count: usize) -> Result<f64> {
    let mut watch = Watch::at(&installation.database_url).await?;
    let begun = Instant::now();
    submit(installation, task, count).await?;
    watch.until_done().await?;
    Ok(us_each(begun.elapsed(), count))
}

/// Submits so many tasks of one kind, in arrays.
///
/// # Errors
/// When they are refused.
pub async fn submit(installation: &Installation, task: &Value, count: usize) -> Result<()> {
    let mut api = connected(installation).await?;
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        api.post("/api/v1/tasks", body(&Value::Array(vec![task.clone(); batch]))).await?;
        left -= batch;
    }
    Ok(())
}

/// Runs a definition so many times, some at once; all have completed when this returns. Returns what it took.
///
/// # Errors
/// When one does not complete.
pub async fn workflows(installation: &Installation, definition: &Value, count: usize) -> Result<Duration> {
    let name = definition["name"].as_str().context("a definition has a name")?;
    connected(installation).await?.post("/api/v1/definitions", body(&json!({"definition": definition}))).await?;
    let start = body(&json!({"definition": name}));
    let clients = CLIENTS.min(count);
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for number in 0..clients {
        let mut api = connected(installation).await?;
        let (share, start) = ((count + clients - 1 - number) / clients, start.clone());
        running.spawn(async move {
            for _ in 0..share {
                let workflow: Value = serde_json::from_slice(&api.post("/api/v1/workflows", start.clone()).await?)?;
                ended(&mut api, &format!("/api/v1/workflows/{}", text(&workflow, "workflow_id")?)).await?;
            }
            anyhow::Ok(())
        });
    }
    running.join_all().await.into_iter().collect::<Result<()>>()?;
    Ok(begun.elapsed())
}

/// Waits until what lies at `path` has completed.
///
/// # Errors
/// When it ends otherwise, or not within some minutes.
pub async fn ended(api: &mut Client, path: &str) -> Result<()> {
    let mut seen = Value::Null;
    for _ in 0..WAITS_MAX {
        seen = api.get(&format!("{path}?{WAIT}")).await?;
        if seen["status"] != "running" && seen["status"] != "queued" {
            break;
        }
    }
    ensure!(seen["status"] == "completed", "{path} did not complete: {seen}");
    Ok(())
}

/// A text in an answer.
///
/// # Errors
/// When it is not there.
pub fn text<'a>(answer: &'a Value, key: &str) -> Result<&'a str> {
    answer[key].as_str().with_context(|| format!("no {key} in {answer}"))
}

/// The one that the measurements of a flat cost submit.
#[must_use]
pub fn noop() -> Value {
    json!({"handler": "noop"})
}

/// JSON for a request.
#[must_use]
pub fn body(json: &Value) -> Bytes {
    Bytes::from(json.to_string())
}

/// Microseconds for each of so many.
#[must_use]
pub fn us_each(elapsed: Duration, count: usize) -> f64 {
    elapsed.as_secs_f64() * 1e6 / as_f64(count)
}

/// The middle one of some measurements.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
