//! One installation with a ledger, and the words that the tests are written in.

use crate::harness::{Api, Installation, InstallationOptions, PostgresScope, wait_for};
use crate::ledger::Ledger;
use anyhow::{Context, Result, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::collections::HashSet;
use std::time::Duration;
use uuid::Uuid;

/// Far above what any step takes, also on a loaded machine.
pub const SOON: Duration = Duration::from_secs(45);

/// Every task with what its end left behind.
const TASKS: &str = "select t.id::text as id, t.status, t.result, t.retry_count, t.attempt,
(select count(*) from task_results r where r.task_execution_id = t.id) as results,
(select count(*) from workflow_events e cross join lateral jsonb_array_elements(e.events) x
  where e.workflow_id = t.workflow_id and x ->> 'type' = 'task.completed' and x ->> 'task_id' = t.id::text) as completions
from task_executions t order by t.id";
const UNFINISHED: &str = "select count(*) from task_executions where status not in ('completed', 'failed', 'skipped', 'cancelled')";
const UNFINISHED_WORKFLOWS: &str = "select count(*) from workflow_executions where status not in ('completed', 'failed', 'cancelled')";
/// Histories with a gap, or whose end is not what the execution's row says.
const BROKEN_HISTORIES: &str = "select count(*) from workflow_executions w where w.event_sequence <>
(select coalesce(sum(jsonb_array_length(e.events)), 0) from workflow_events e where e.workflow_id = w.id)
or w.event_sequence <> (select coalesce(max(e.sequence + jsonb_array_length(e.events) - 1), 0) from workflow_events e where e.workflow_id = w.id)";
const QUARANTINED: &str = "select coalesce(string_agg(error, '; '), '') from quarantined_events";

/// A task as the database has it at the end.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRow {
    /// Its id.
    pub id: String,
    /// Its state.
    pub status: String,
    /// Its output.
    pub result: Option<Value>,
    /// Counted retries.
    pub retry_count: i32,
    /// The last attempt's number.
    pub attempt: i32,
    /// Stored results.
    pub results: i64,
    /// How often its history says that it completed.
    pub completions: i64,
}

/// An installation and its ledger.
#[derive(Debug)]
pub struct Scene {
    /// Servers and processes.
    pub installation: Installation,
    /// What really ran.
    pub ledger: Ledger,
}

/// One coordinator, and this many executors.
pub fn executors(executors: usize) -> InstallationOptions {
    InstallationOptions { executors, ..InstallationOptions::default() }
}

/// With a Postgres that the test may stop.
pub fn own_postgres() -> InstallationOptions {
    InstallationOptions { postgres: PostgresScope::Own, ..InstallationOptions::default() }
}

/// With more words for the coordinator.
pub fn coordinator_words(words: &[&str]) -> InstallationOptions {
    let coordinator_words = words.iter().map(|word| (*word).to_owned()).collect();
    InstallationOptions { coordinator_words, ..InstallationOptions::default() }
}

impl Scene {
    /// Starts it.
    pub async fn start(options: InstallationOptions) -> Result<Self> {
        let installation = Installation::start(options).await?;
        let ledger = Ledger::new(&installation.workdir)?;
        Ok(Self { installation, ledger })
    }

    /// The first coordinator's API.
    pub fn api(&self) -> &Api {
        &self.installation.api
    }

    /// Submits one task; its id.
    pub async fn submit(&self, task: &Value) -> Result<String> {
        text(&self.api().post("/api/v1/tasks", task).await?, "task_id")
    }

    /// Submits a workflow; its id.
    pub async fn submit_workflow(&self, body: &Value) -> Result<String> {
        text(&self.api().post("/api/v1/workflows", body).await?, "workflow_id")
    }

    /// Waits for the end of a task through the API; its result document.
    pub async fn result(&self, task: &str) -> Result<Value> {
        let path = format!("/api/v1/tasks/{task}/result?wait=10s");
        let look = async || Ok(Some(self.api().get(&path).await?).filter(is_final));
        wait_for("the end of a task", SOON, look).await
    }

    /// Waits for the end of a workflow through the API; the workflow.
    pub async fn workflow(&self, id: &str) -> Result<Value> {
        let path = format!("/api/v1/workflows/{id}?wait=10s");
        let look = async || Ok(Some(self.api().get(&path).await?).filter(is_final));
        wait_for("the end of a workflow", SOON, look).await
    }

    /// Waits until a task is in this state; the task.
    pub async fn until(&self, task: &str, status: &str) -> Result<Value> {
        let path = format!("/api/v1/tasks/{task}");
        let look = async || Ok(Some(self.api().get(&path).await?).filter(|answer| answer["status"] == status));
        wait_for(&format!("task {task} to be {status}"), SOON, look).await
    }

    /// Waits for so many starts of a task in the ledger.
    pub async fn until_started(&self, task: &str, times: usize) -> Result<()> {
        let look = async || Ok((self.ledger.starts_of(task)?.len() >= times).then_some(()));
        wait_for(&format!("start {times} of task {task}"), SOON, look).await
    }

    /// The tasks of a workflow by name.
    pub async fn task_of(&self, workflow: &str, name: &str) -> Result<Value> {
        let page = self.api().get(&format!("/api/v1/workflows/{workflow}/tasks?limit=1000")).await?;
        let tasks = page["tasks"].as_array().context("tasks")?;
        tasks.iter().find(|task| task["name"] == name).cloned().with_context(|| format!("no task {name} in {page}"))
    }

    /// The first number that a statement gives.
    pub async fn number(&self, sql: &'static str) -> Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.installation.pool).await?)
    }

    /// How many shards a coordinator owns: its name ends with its process's number, and its lanes' with theirs.
    pub async fn shards_of(&self, coordinator: usize) -> Result<i64> {
        let name = format!("-{}(/[0-9]+)?$", self.installation.coordinators[coordinator].pid());
        let owned = "select count(*) from shards where expires_at > clock_timestamp() and owner ~ $1";
        Ok(sqlx::query_scalar(owned).bind(name).fetch_one(&self.installation.pool).await?)
    }

    /// Waits until each of the coordinators owns this many shards.
    pub async fn until_shared(&self, shares: &[(usize, i64)]) -> Result<()> {
        let look = async || {
            for (coordinator, share) in shares {
                let owned = self.shards_of(*coordinator).await?;
                ensure!(owned == *share, "coordinator {coordinator} owns {owned} shards, not {share}");
            }
            Ok(Some(()))
        };
        wait_for("the shards to be shared", SOON, look).await
    }

    /// Waits until every task and workflow has ended.
    pub async fn settled(&self) -> Result<()> {
        let look = async || {
            let unfinished = self.number(UNFINISHED).await? + self.number(UNFINISHED_WORKFLOWS).await?;
            ensure!(unfinished == 0, "{unfinished} tasks and workflows have not ended");
            Ok(Some(()))
        };
        wait_for("everything to end", SOON, look).await
    }

    /// Every task as it ended, after checking that what the database says is what really happened:
    /// a completed task counted once, with the result of a run that reached its end.
    pub async fn verified(&self) -> Result<Vec<TaskRow>> {
        let rows = sqlx::query(TASKS).fetch_all(&self.installation.pool).await?;
        let rows: Vec<TaskRow> = rows.iter().map(task_row).collect::<Result<_>>()?;
        let ends: HashSet<(String, String)> = self.ledger.ends()?.into_iter().map(|end| (end.task, end.run)).collect();
        let known: HashSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        for start in self.ledger.starts()? {
            ensure!(known.contains(start.task.as_str()), "a task ran that nobody stored: {start:?}");
        }
        let started: HashSet<String> = self.ledger.starts()?.into_iter().map(|start| start.task).collect();
        for row in rows.iter().filter(|row| row.status == "completed") {
            // A null leaves no result.
            ensure!(row.completions == 1 && row.results <= 1, "it did not count once: {row:?}");
            if !started.contains(&row.id) {
                continue;
            }
            let Some(Value::String(run)) = &row.result else { bail!("its result is missing: {row:?}") };
            ensure!(ends.contains(&(row.id.clone(), run.clone())), "no run with this result reached its end: {row:?}");
        }
        ensure!(self.number(BROKEN_HISTORIES).await? == 0, "a history has gaps");
        let quarantined: String = sqlx::query_scalar(QUARANTINED).fetch_one(&self.installation.pool).await?;
        ensure!(quarantined.is_empty(), "events were quarantined: {quarantined}");
        Ok(rows)
    }

    /// Waits until everything has ended and checks that all completed, each counted once; the tasks.
    pub async fn all_completed(&self) -> Result<Vec<TaskRow>> {
        self.settled().await?;
        let rows = self.verified().await?;
        let others: Vec<&TaskRow> = rows.iter().filter(|row| row.status != "completed").collect();
        ensure!(others.is_empty(), "these did not complete: {others:?}");
        Ok(rows)
    }

    /// The place of the executor that runs a task.
    pub async fn holder(&self, task: &str) -> Result<usize> {
        let running = self.until(task, "running").await?;
        let name = text(&running, "executor_id")?;
        name.strip_prefix("executor-").and_then(|number| number.parse().ok()).with_context(|| format!("no executor: {name}"))
    }

    /// The test passed.
    pub async fn finish(self) {
        self.installation.finish().await;
    }
}

/// Submits with a key until the answer comes, whatever dies meanwhile; the whole answer.
pub async fn submit_surely(api: &Api, path: &str, body: &Value) -> Result<Value> {
    let key = Uuid::new_v4().to_string();
    let send = async || {
        let request = api.request(Method::POST, path).header("idempotency-key", &key).json(body);
        let (status, answer) = api.answer(request).await?;
        ensure!(status == StatusCode::ACCEPTED, "{status}: {answer}");
        Ok(Some(answer))
    };
    wait_for("a submission to be accepted", SOON, send).await
}

/// A text in an answer.
pub fn text(answer: &Value, key: &str) -> Result<String> {
    answer[key].as_str().map(str::to_owned).with_context(|| format!("no `{key}` in {answer}"))
}

/// `noop`, which returns `output`.
pub fn noop(output: &Value) -> Value {
    json!({"handler": "noop", "with": {"output": output}})
}

fn task_row(row: &PgRow) -> Result<TaskRow> {
    Ok(TaskRow {
        id: row.try_get("id")?,
        status: row.try_get("status")?,
        result: row.try_get("result")?,
        retry_count: row.try_get("retry_count")?,
        attempt: row.try_get("attempt")?,
        results: row.try_get("results")?,
        completions: row.try_get("completions")?,
    })
}

fn is_final(answer: &Value) -> bool {
    answer["status"].as_str().is_some_and(|status| ["completed", "failed", "skipped", "cancelled"].contains(&status))
}
