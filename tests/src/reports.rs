//! The reports of docs/reports.md: the SQL as it is written there, on tasks that really ran.

use crate::document::blocks;
use crate::harness::{Installation, InstallationOptions, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row};
use std::time::Duration;

/// Far above what any step takes.
const SOON: Duration = Duration::from_secs(45);
/// A workflow that fails when it is told to.
const GATES: &str =
    "name: gates\ntasks:\n- name: check\n  run: exit $WITH_CODE\n  with: {code: '${{ input.code }}'}\n  retry: 1\n  agent_name: checker\n";

/// What the document's reports say, each as a list of rows with the columns in their order.
async fn reports(installation: &Installation) -> Result<Vec<Vec<Vec<(String, Value)>>>> {
    let mut reports = Vec::new();
    for report in blocks("docs/reports.md", "sql")? {
        let sql = format!("select row_to_json(report)::text from ({}) report", report.trim().trim_end_matches(';'));
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&installation.pool).await.with_context(|| report.clone())?;
        reports.push(rows.iter().map(|row| columns(row.get(0))).collect::<Result<_>>()?);
    }
    Ok(reports)
}

/// The members of a JSON object in the order of the text.
fn columns(text: &str) -> Result<Vec<(String, Value)>> {
    let object: serde_json::Map<String, Value> = serde_json::from_str(text)?;
    let mut columns: Vec<(String, Value)> = object.into_iter().collect();
    columns.sort_by_key(|(name, _)| text.find(&format!("\"{name}\":")));
    Ok(columns)
}

/// The row whose first columns are `key`.
fn row<'a>(report: &'a [Vec<(String, Value)>], key: &[Value]) -> Result<&'a [(String, Value)]> {
    let found = report.iter().find(|row| row.iter().map(|(_, value)| value).take(key.len()).eq(key));
    found.map(Vec::as_slice).with_context(|| format!("no row {key:?} in {report:?}"))
}

fn names(row: &[(String, Value)]) -> Vec<&str> {
    row.iter().map(|(name, _)| name.as_str()).collect()
}

fn values(row: &[(String, Value)]) -> Vec<Value> {
    row.iter().map(|(_, value)| value.clone()).collect()
}

async fn run_the_work(installation: &Installation) -> Result<()> {
    let retry = json!({"initial_interval": "1ms", "max_attempts": 2});
    let failing = json!({"run": "echo 'no access' >&2; exit 3", "agent_name": "reviewer", "retry_backoff": retry});
    let tasks = json!([{"handler": "noop"}, {"handler": "noop"}, {"handler": "sleep", "with": {"duration": 0.5}}, failing]);
    installation.api.post("/api/v1/tasks", &tasks).await?;
    for code in [0, 0, 7] {
        installation.api.post("/api/v1/workflows", &json!({"definition": GATES, "input": {"code": code}})).await?;
    }
    let open = "select count(*) from workflow_executions where status not in ('completed', 'failed')";
    let ended = async || {
        let open: i64 = sqlx::query_scalar(open).fetch_one(&installation.pool).await?;
        Ok((open == 0).then_some(()))
    };
    wait_for("the end of all work", SOON, ended).await
}

#[tokio::test]
async fn the_documented_reports_tell_what_happened() -> Result<()> {
    let installation = Installation::start(InstallationOptions::default()).await?;
    run_the_work(&installation).await?;
    let found = reports(&installation).await?;
    let [by_agent, by_workflow, errors] = found.as_slice() else { anyhow::bail!("{} reports", found.len()) };

    let noop = row(by_agent, &[json!("noop")])?;
    assert_eq!(names(noop), ["agent_name", "tasks", "failures", "average_seconds"]);
    assert_eq!(values(noop)[..3], [json!("noop"), json!(2), json!(0)]);
    assert_eq!(values(row(by_agent, &[json!("reviewer")])?)[1..3], [json!(1), json!(1)]);
    assert_eq!(values(row(by_agent, &[json!("checker")])?)[1..3], [json!(3), json!(1)]);
    let slept = values(row(by_agent, &[json!("sleep")])?)[3].as_f64().context("a number")?;
    // The start of a claimed task is known up to the way of its claim, which takes longer on a loaded machine.
    ensure!((0.2..10.0).contains(&slept), "{slept} s for a sleep of 0.5 s");

    let gates = row(by_workflow, &[json!("gates")])?;
    assert_eq!(names(gates), ["workflow_name", "executions", "completed", "failed", "success_percent"]);
    assert_eq!(values(gates), [json!("gates"), json!(3), json!(2), json!(1), json!(66.7)]);
    assert_eq!(values(row(by_workflow, &[json!("task")])?)[1..], [json!(4), json!(3), json!(1), json!(75.0)]);

    let access = row(errors, &[json!("reviewer")])?;
    assert_eq!(names(access), ["agent_name", "error_type", "error", "occurrences", "last_seen"]);
    assert_eq!(values(access)[1..4], [json!("exit"), json!("exit code 3: no access"), json!(2)]);
    assert_eq!(values(row(errors, &[json!("checker")])?)[1..4], [json!("exit"), json!("exit code 7"), json!(1)]);
    assert_eq!(errors.len(), 2);

    outside_their_windows(&installation).await?;
    installation.finish().await;
    Ok(())
}

/// What ended before the days that a report looks at is not in it.
async fn outside_their_windows(installation: &Installation) -> Result<()> {
    for (days, expected) in [(8, [0, 2, 0]), (31, [0, 0, 0])] {
        for (table, column) in [("task_executions", "completed_at"), ("workflow_executions", "completed_at"), ("task_attempts", "ended_at")]
        {
            let sql = format!("update {table} set {column} = now() - interval '{days} days'");
            sqlx::query(AssertSqlSafe(sql)).execute(&installation.pool).await?;
        }
        let rows: Vec<usize> = reports(installation).await?.iter().map(Vec::len).collect();
        assert_eq!(rows, expected, "{days} days ago");
    }
    Ok(())
}
