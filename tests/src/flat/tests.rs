//! From nearly empty tables to large ones, from one execution alive to many, from ten tasks in an execution to ten thousand: by
//! what the database counts, which other load on the machine does not change.

use super::report::{FLAT_RATIO_MAX, Section};
use super::rows::{self, Copies};
use super::scale::Scale;
use super::touched::Touched;
use super::{cost, measure};
use crate::harness::{Api, Installation, InstallationOptions};
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// Of an installation by default.
const SHARDS: u16 = 16;
/// Executions in tables that are nearly empty. Their indexes have two levels; those of the large ones have three.
const SMALL: usize = 1_000;
/// Executions in large tables, with a task each.
const LARGE: usize = 100_000;
/// Executions alive besides.
const ALIVE: usize = 20_000;
/// Tasks of the work that is measured.
const TASKS: usize = 400;
/// Those of them that are claimed: they take longer than a task may without being asked for.
const CLAIMED: usize = 50;
/// Those of them that are read in every way.
const READ: usize = 20;
/// Indexes of a hundred times the rows have a level more, a page for each look-up: a fifth and somewhat more. Three runs saw 54 pages
/// become 64 to 67.
const PAGES_MORE: f64 = 4.0;
/// Requests under way at once.
const CALLERS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_costs_the_same_in_large_tables_and_beside_many_alive() -> Result<()> {
    let mut installation = Installation::start(options()).await?;
    // A command has a row in every table: one that stayed small would rightly be read from end to end.
    let completed = execution(&installation.api, &json!({"run": "echo first"})).await?;
    let alive = execution(&installation.api, &json!({"handler": "noop", "run_at": "2200-01-01T00:00:00Z"})).await?;
    // A coordinator that starts takes in the outcomes of the last two seconds again: those of the work before, which the first would not have.
    cost(&mut installation, async |api| work(api).await).await?;
    let mut costs = Vec::new();
    for (series, (original, count)) in (0..).zip([(completed, SMALL), (completed, LARGE), (alive, ALIVE)]) {
        let fewest = rows::insert(&installation.database_url, Copies { original, count, shards: SHARDS, series }).await?;
        ensure!(original == alive || fewest > 0, "a table has no copies");
        let cost = cost(&mut installation, async |api| work(api).await).await?;
        eprintln!("{count} more: {}", shown(&cost, TASKS));
        costs.push(cost);
    }
    installation.finish().await;
    for (cost, what) in costs[1..].iter().zip(["large tables", "many alive"]) {
        assert_eq!(cost.scanned(), Vec::<&str>::new(), "{what}: read from end to end: {cost:#?}");
        assert_flat(what, (&costs[0], TASKS), (cost, TASKS));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_costs_the_same_in_an_execution_of_ten_thousand() -> Result<()> {
    let mut installation = Installation::start(options()).await?;
    let mut costs = Vec::new();
    for (width, executions) in [(10, 40), (10_000, 1)] {
        let cost = cost(&mut installation, async |api| fans(api, width, executions).await).await?;
        eprintln!("{executions} of {width}: {}", shown(&cost, width * executions));
        costs.push((cost, width * executions));
    }
    installation.finish().await;
    let [(small, few), (large, many)] = costs.as_slice() else { panic!("two sizes") };
    assert_flat("one execution", (small, *few), (large, *many));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_sleep_are_quiet() -> Result<()> {
    let scale = Scale { sleepers: 400, beds: 4, watched: Duration::from_secs(6), sections: vec![Section::Quiet], ..Scale::quick() };
    let report = measure(&scale).await;
    for name in ["statements_per_s", "coordinator_cpu_ms_per_s"] {
        let figure = report.figures().iter().find(|figure| figure.name == name).context(name)?;
        assert!(figure.passed(), "{}", report.table());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quick_run_gives_the_figures_of_every_section() -> Result<()> {
    let sections = [Section::Rows, Section::Fan, Section::Reload, Section::Submission, Section::Executors, Section::Commands];
    let report = measure(&Scale { sections: sections.to_vec(), ..Scale::quick() }).await;
    for section in sections {
        let figures: Vec<_> = report.figures().iter().filter(|figure| figure.section == section).collect();
        assert!(figures.iter().all(|figure| figure.value.is_finite() && figure.value >= 0.0), "{}", report.table());
        assert!(figures.iter().all(|figure| figure.name != super::FAILED), "{}", report.table());
        assert!(figures.iter().any(|figure| figure.value > 0.0), "{section:?}: {}", report.table());
    }
    Ok(())
}

#[test]
fn a_cost_that_grows_is_seen() {
    let cost = |pages: i64, fetched: i64| {
        let table = super::touched::Table { pages, fetched, written: 10, scans: 0 };
        Touched { transactions: 1, tables: [("task_executions".to_owned(), table)].into() }
    };
    assert!(grown((&cost(100_000, 100), 100), (&cost(100_000, 100), 100)).is_empty());
    assert!(!grown((&cost(100_000, 100), 100), (&cost(125_000, 100), 100)).is_empty());
    assert!(grown((&cost(1_000, 100), 100), (&cost(1_500, 115), 100)).is_empty());
    assert!(!grown((&cost(1_000, 100), 100), (&cost(1_700, 100), 100)).is_empty());
    assert!(!grown((&cost(100_000, 100), 100), (&cost(100_000, 125), 100)).is_empty());
}

/// Times as published: the renewals of the leases, which come by time, are few beside the work.
fn options() -> InstallationOptions {
    InstallationOptions { slots: 64, time_base: Duration::from_secs(1), ..InstallationOptions::default() }
}

/// An execution of one task, ended if it can.
async fn execution(api: &Api, task: &Value) -> Result<Uuid> {
    let answer = api.post("/api/v1/tasks", task).await?;
    if task["run_at"].is_null() {
        ended(api, &format!("tasks/{}/result", id(&answer, "task_id")?)).await?;
    }
    Ok(id(&answer, "workflow_id")?.parse()?)
}

/// Submissions, dispatches, claims, outcomes and reads.
async fn work(api: &Api) -> Result<()> {
    let noop = json!({"handler": "noop", "with": {"output": "done"}});
    let claimed = json!({"handler": "sleep", "with": {"duration": "1500ms"}});
    let mut tasks = Vec::new();
    for (task, count) in [(noop, TASKS - CLAIMED), (claimed, CLAIMED)] {
        let batch = api.post("/api/v1/tasks", &Value::Array(vec![task; count])).await?;
        tasks.extend(batch.as_array().context("an answer for each")?.clone());
    }
    // The last ones first: then the others have ended as well, and who waits for them reads once.
    tasks.reverse();
    let waits = futures::stream::iter(&tasks).map(async |task| ended(api, &format!("tasks/{}/result", id(task, "task_id")?)).await);
    waits.buffer_unordered(CALLERS).try_for_each(async |()| Ok(())).await?;
    for task in tasks.iter().take(READ) {
        let (task, workflow) = (id(task, "task_id")?, id(task, "workflow_id")?);
        for path in [format!("tasks/{task}"), format!("tasks/{task}/status"), format!("tasks/{task}/why")] {
            api.get(&format!("/api/v1/{path}")).await?;
        }
        api.get(&format!("/api/v1/workflows/{workflow}")).await?;
        api.get(&format!("/api/v1/workflows/{workflow}/tasks")).await?;
    }
    for path in ["tasks", "workflows"] {
        api.get(&format!("/api/v1/{path}")).await?;
    }
    Ok(())
}

/// Executions of one task, many, and one.
async fn fans(api: &Api, width: usize, executions: usize) -> Result<()> {
    let task = |name: String| json!({"name": name, "handler": "noop"});
    let phase = |name: &str, tasks: Vec<Value>| json!({"name": name, "tasks": tasks});
    let middle = (0..width).map(|number| task(format!("t{number}"))).collect();
    let phases = [phase("a", vec![task("first".to_owned())]), phase("b", middle), phase("c", vec![task("last".to_owned())])];
    let name = format!("fan-{width}");
    api.post("/api/v1/definitions", &json!({"definition": {"name": name, "phases": phases}})).await?;
    let one = async |_| {
        let answer = api.post("/api/v1/workflows", &json!({"definition": name})).await?;
        ended(api, &format!("workflows/{}", id(&answer, "workflow_id")?)).await
    };
    futures::stream::iter(0..executions).map(one).buffer_unordered(CALLERS).try_for_each(async |()| Ok(())).await
}

/// Waits as often as it takes, on a machine that does other things as well.
async fn ended(api: &Api, path: &str) -> Result<()> {
    for _ in 0..10 {
        let answer = api.get(&format!("/api/v1/{path}?wait=60s")).await?;
        if answer["status"] == "completed" {
            return Ok(());
        }
        ensure!(["pending", "queued", "running"].map(Value::from).contains(&answer["status"]), "{answer}");
    }
    anyhow::bail!("{path} does not end")
}

fn id<'a>(answer: &'a Value, key: &str) -> Result<&'a str> {
    answer[key].as_str().with_context(|| format!("no {key} in {answer}"))
}

type Cost<'a> = (&'a Touched, usize);

fn assert_flat(what: &str, small: Cost<'_>, large: Cost<'_>) {
    let grown = grown(small, large);
    assert!(grown.is_empty(), "{what}: a task costs more {grown:?}\nsmall: {small:#?}\nlarge: {large:#?}");
}

/// What costs a task more than a fifth more, beyond a level of the indexes.
fn grown((small, few): Cost<'_>, (large, many): Cost<'_>) -> Vec<String> {
    let each =
        |count: i64, tasks: usize| f64::from(i32::try_from(count).expect("far fewer")) / f64::from(u32::try_from(tasks).expect("few"));
    let costs = [
        ("statements", small.transactions, large.transactions, 0.0),
        ("pages", small.pages(), large.pages(), PAGES_MORE),
        ("rows read", small.fetched(), large.fetched(), 0.0),
        ("rows written", small.written(), large.written(), 0.0),
    ];
    let grows = costs.into_iter().filter_map(|(what, small, large, more)| {
        let (small, large) = (each(small, few), each(large, many));
        (large > small * FLAT_RATIO_MAX + more).then(|| format!("{what}: {large:.2} instead of {small:.2}"))
    });
    grows.collect()
}

fn shown(cost: &Touched, tasks: usize) -> String {
    let each = |count: i64| f64::from(i32::try_from(count).unwrap_or(i32::MAX)) / f64::from(u32::try_from(tasks).unwrap_or(u32::MAX));
    let tables: Vec<String> = cost.tables.iter().map(|(name, table)| format!("{name} {:.1}", each(table.pages))).collect();
    format!(
        "{:.2} statements, {:.1} pages ({}), {:.1} rows read, {:.2} rows written a task; scans of {:?}",
        each(cost.transactions),
        each(cost.pages()),
        tables.join(", "),
        each(cost.fetched()),
        each(cost.written()),
        cost.scanned()
    )
}
