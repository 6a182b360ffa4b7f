//! The workloads through the public API.

use super::client::Client;
use super::figures::{Figures, as_f64, percentile_ms, rate};
use super::scale::{CHAIN_LENGTH, Scale};
use super::stage::Stage;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Between two looks for the end of a workload, which takes a hundred times as long.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Far above every workload.
const PATIENCE: Duration = Duration::from_mins(2);
/// The longest wait of one request.
const WAIT: &str = "wait=60s";

/// All workloads in turn.
///
/// # Errors
/// When a submission is refused, or a task does not complete.
pub async fn workloads(stage: &Stage, scale: &Scale) -> Result<Figures> {
    let mut watch = Watch::connect(stage).await?;
    let mut figures = w1_single(stage, scale, &mut watch).await?;
    figures.extend(w1_batch(stage, scale, &mut watch).await?);
    figures.extend(one_task(stage, scale).await?);
    figures.extend(w2(stage, scale, &mut watch).await?);
    figures.extend(w3(stage, scale).await?);
    watch.all_completed().await?;
    Ok(figures)
}

async fn w1_single(stage: &Stage, scale: &Scale, watch: &mut Watch) -> Result<Figures> {
    let clients = clients(stage, scale.clients).await?;
    let before = stage.ours.read().await?;
    let begun = Instant::now();
    submit_singly(clients, Submission { path: "/api/v1/tasks", body: noop(), count: scale.tasks }).await?;
    let looks = watch.until_done().await?;
    let elapsed = begun.elapsed();
    let mut figures = stage.ours.read().await?.per_task(&before, as_f64(scale.tasks), looks);
    figures.insert("w1_single_tasks_per_s".to_owned(), rate(scale.tasks, elapsed));
    Ok(figures)
}

async fn w1_batch(stage: &Stage, scale: &Scale, watch: &mut Watch) -> Result<Figures> {
    let mut api = connected(stage).await?;
    let body = bytes(&Value::Array(vec![json!({"handler": "noop"}); scale.batch]));
    let begun = Instant::now();
    for _ in 0..scale.tasks / scale.batch {
        api.post("/api/v1/tasks", body.clone()).await?;
    }
    watch.until_done().await?;
    Ok(Figures::from([("w1_batch_tasks_per_s".to_owned(), rate(scale.tasks, begun.elapsed()))]))
}

async fn one_task(stage: &Stage, scale: &Scale) -> Result<Figures> {
    let mut api = connected(stage).await?;
    let mut samples = Vec::new();
    for _ in 0..scale.warm_up + scale.samples {
        let begun = Instant::now();
        let task: Value = serde_json::from_slice(&api.post("/api/v1/tasks", noop()).await?)?;
        let id = task["task_id"].as_str().context("a submission answers with an id")?;
        let result = api.get(&format!("/api/v1/tasks/{id}/result?{WAIT}")).await?;
        samples.push(begun.elapsed());
        ensure!(result["status"] == "completed", "a task did not complete: {result}");
    }
    let samples = &mut samples[scale.warm_up..];
    Ok(Figures::from([
        ("one_task_p50_ms".to_owned(), percentile_ms(samples, 50)),
        ("one_task_p99_ms".to_owned(), percentile_ms(samples, 99)),
    ]))
}

async fn w2(stage: &Stage, scale: &Scale, watch: &mut Watch) -> Result<Figures> {
    let mut api = connected(stage).await?;
    api.post("/api/v1/definitions", bytes(&json!({"definition": chain()}))).await?;
    let body = bytes(&json!({"definition": "bench-chain"}));
    let clients = clients(stage, scale.clients).await?;
    let begun = Instant::now();
    submit_singly(clients, Submission { path: "/api/v1/workflows", body: body.clone(), count: scale.chains }).await?;
    watch.until_done().await?;
    let elapsed = begun.elapsed();
    let mut samples = Vec::new();
    for _ in 0..scale.chain_samples {
        samples.push(run_workflow(&mut api, &body).await?.div_f64(as_f64(CHAIN_LENGTH)));
    }
    Ok(Figures::from([
        ("w2_steps_per_s".to_owned(), rate(scale.chains * CHAIN_LENGTH, elapsed)),
        ("w2_step_p50_ms".to_owned(), percentile_ms(&mut samples, 50)),
    ]))
}

async fn w3(stage: &Stage, scale: &Scale) -> Result<Figures> {
    let mut api = connected(stage).await?;
    api.post("/api/v1/definitions", bytes(&json!({"definition": fan(scale.fan)}))).await?;
    let elapsed = run_workflow(&mut api, &bytes(&json!({"definition": "bench-fan"}))).await?;
    Ok(Figures::from([("w3_total_ms".to_owned(), elapsed.as_secs_f64() * 1e3)]))
}

/// From the submission to the answer that it has completed.
async fn run_workflow(api: &mut Client, body: &Bytes) -> Result<Duration> {
    let begun = Instant::now();
    let workflow: Value = serde_json::from_slice(&api.post("/api/v1/workflows", body.clone()).await?)?;
    let id = workflow["workflow_id"].as_str().context("a submission answers with an id")?;
    let ended = api.get(&format!("/api/v1/workflows/{id}?{WAIT}")).await?;
    let elapsed = begun.elapsed();
    ensure!(ended["status"] == "completed", "a workflow did not complete: {ended}");
    Ok(elapsed)
}

fn noop() -> Bytes {
    Bytes::from_static(br#"{"handler":"noop"}"#)
}

fn bytes(body: &Value) -> Bytes {
    Bytes::from(body.to_string())
}

fn chain() -> Value {
    let step = |number: usize| match number {
        0 => json!({"name": "step-0", "handler": "noop"}),
        _ => json!({"name": format!("step-{number}"), "handler": "noop", "needs": [format!("step-{}", number - 1)]}),
    };
    json!({"name": "bench-chain", "tasks": (0..CHAIN_LENGTH).map(step).collect::<Vec<_>>()})
}

fn fan(width: usize) -> Value {
    let names: Vec<String> = (0..width).map(|number| format!("middle-{number}")).collect();
    let mut tasks = vec![json!({"name": "first", "handler": "noop"})];
    tasks.extend(names.iter().map(|name| json!({"name": name, "handler": "noop", "needs": ["first"]})));
    tasks.push(json!({"name": "last", "handler": "noop", "needs": names}));
    json!({"name": "bench-fan", "tasks": tasks})
}

/// What every client submits, and how many times all of them together.
struct Submission {
    path: &'static str,
    body: Bytes,
    count: usize,
}

/// Each client sends its next submission when the last one was answered.
async fn submit_singly(clients: Vec<Client>, submission: Submission) -> Result<()> {
    let count = clients.len();
    let mut running = JoinSet::new();
    for (number, mut api) in clients.into_iter().enumerate() {
        let share = (submission.count + count - 1 - number) / count;
        let (path, body) = (submission.path, submission.body.clone());
        running.spawn(async move {
            for _ in 0..share {
                api.post(path, body.clone()).await?;
            }
            Ok(())
        });
    }
    running.join_all().await.into_iter().collect()
}

/// Clients with a connection each.
async fn clients(stage: &Stage, count: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(connected(stage).await?);
    }
    Ok(clients)
}

async fn connected(stage: &Stage) -> Result<Client> {
    ensure!(stage.installation.api.is_ready().await, "the coordinator is not ready");
    Client::connect(&stage.installation.api.url, &stage.installation.api.token).await
}

/// Looks into our database, by the small indexes of what is queued and what runs.
#[derive(Debug)]
pub struct Watch(PgConnection);

impl Watch {
    /// # Errors
    /// When Postgres refuses.
    pub async fn connect(stage: &Stage) -> Result<Self> {
        Self::at(&stage.installation.database_url).await
    }

    /// The same, by the address of our database.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn at(url: &str) -> Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::query("set enable_seqscan = off").execute(&mut connection).await?;
        Ok(Self(connection))
    }

    /// Waits until nothing is queued and nothing runs; every submission must have been answered. How many looks it took.
    ///
    /// # Errors
    /// When it takes too long.
    pub async fn until_done(&mut self) -> Result<i64> {
        let look = "select exists (select from task_executions where status = 'queued') or exists (select from task_executions where status = 'running')";
        let deadline = Instant::now() + PATIENCE;
        let mut looks = 1;
        while sqlx::query_scalar(look).fetch_one(&mut self.0).await? {
            ensure!(Instant::now() < deadline, "tasks were still unfinished after {PATIENCE:?}");
            tokio::time::sleep(LOOK_INTERVAL).await;
            looks += 1;
        }
        Ok(looks)
    }

    /// How many tasks run.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn running(&mut self) -> Result<i64> {
        Ok(sqlx::query_scalar("select count(*) from task_executions where status = 'running'").fetch_one(&mut self.0).await?)
    }

    /// # Errors
    /// When a task is in any other state.
    pub async fn all_completed(&mut self) -> Result<()> {
        let others: i64 =
            sqlx::query_scalar("select count(*) from task_executions where status <> 'completed'").fetch_one(&mut self.0).await?;
        ensure!(others == 0, "{others} tasks did not complete");
        Ok(())
    }
}
