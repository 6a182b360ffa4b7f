//! The cost of a task in time: in small and large tables, executions and fan-outs, and beside few and many executions alive.

use super::load::{self, median, noop, tasks_us, us_each};
use super::report::{Figure, Section, flatness};
use super::rows::{self, Copies};
use super::scale::Scale;
use crate::bench::figures::as_f64;
use crate::harness::Installation;
use anyhow::Result;
use serde_json::{Value, json};

/// Of the executor.
const SLOTS: u16 = 100;
/// Of an installation by default.
const SHARDS: u16 = 16;
/// The unit of all figures here.
const UNIT: &str = "us_per_task";

/// From few executions in the tables to many; they have all completed.
///
/// # Errors
/// When a part does not start, or a task does not complete.
pub async fn rows(scale: &Scale) -> Result<Vec<Figure>> {
    grown(scale, Section::Rows, &noop()).await
}

/// From few executions alive to many; they wait for a time in the far future.
///
/// # Errors
/// As of [`fn@rows`].
pub async fn alive(scale: &Scale) -> Result<Vec<Figure>> {
    grown(scale, Section::Alive, &json!({"handler": "noop", "run_at": "2200-01-01T00:00:00Z"})).await
}

/// The same tasks again and again, while copies of one execution grow in number.
async fn grown(scale: &Scale, section: Section, original: &Value) -> Result<Vec<Figure>> {
    let installation = Installation::start(load::published(SLOTS)).await?;
    let sizes = if section == Section::Rows { &scale.rows } else { &scale.alive };
    // Everything is warm before the first measurement, so that the first size is not the dearest.
    tasks_us(&installation, &noop(), scale.tasks).await?;
    let task = installation.api.post("/api/v1/tasks", original).await?;
    if section == Section::Rows {
        load::ended(&mut load::connected(&installation).await?, &format!("/api/v1/tasks/{}/result", load::text(&task, "task_id")?)).await?;
    }
    let original = load::text(&task, "workflow_id")?.parse()?;
    let (mut costs, mut present) = (Vec::new(), 0);
    for (series, size) in (0..).zip(sizes) {
        rows::insert(&installation.database_url, Copies { original, count: size - present, shards: SHARDS, series }).await?;
        rows::settle(&installation.database_url).await?;
        present = *size;
        let mut repeated = Vec::new();
        for _ in 0..scale.repeats {
            repeated.push(tasks_us(&installation, &noop(), scale.tasks).await?);
        }
        costs.push((*size, median(repeated)));
        eprintln!("  {size} {}: {:.1} us a task", section.word(), costs[costs.len() - 1].1);
    }
    installation.finish().await;
    Ok(flatness(section, UNIT, &costs))
}

/// From few independent tasks in an execution to many.
///
/// # Errors
/// As of [`fn@rows`].
pub async fn width(scale: &Scale) -> Result<Vec<Figure>> {
    let definition = |width: usize| json!({"name": format!("wide-{width}"), "tasks": tasks(width)});
    shaped(scale, Section::Width, definition).await
}

/// From a small fan-out to a large one: one task, then many, then one. By phases, which name no edges.
///
/// # Errors
/// As of [`fn@rows`].
pub async fn fan(scale: &Scale) -> Result<Vec<Figure>> {
    let definition = |width: usize| {
        let phase = |name: &str, tasks: Vec<Value>| json!({"name": name, "tasks": tasks});
        let one = |name: &str| vec![json!({"name": name, "handler": "noop"})];
        json!({"name": format!("fan-{width}"), "phases": [phase("a", one("first")), phase("b", tasks(width)), phase("c", one("last"))]})
    };
    shaped(scale, Section::Fan, definition).await
}

async fn shaped(scale: &Scale, section: Section, definition: impl Fn(usize) -> Value) -> Result<Vec<Figure>> {
    let installation = Installation::start(load::published(SLOTS)).await?;
    tasks_us(&installation, &noop(), scale.tasks).await?;
    let mut costs = Vec::new();
    for width in if section == Section::Fan { &scale.fans } else { &scale.widths } {
        let (definition, count) = (definition(*width), (scale.tasks / width).max(1));
        let mut repeated = Vec::new();
        for _ in 0..scale.repeats {
            repeated.push(us_each(load::workflows(&installation, &definition, count).await?, count * width));
        }
        costs.push((*width, median(repeated)));
        eprintln!("  {} of {width}: {:.1} us a task", section.word(), costs[costs.len() - 1].1);
    }
    installation.finish().await;
    let mut figures = flatness(section, UNIT, &costs);
    figures.extend(costs.iter().map(|(width, us)| section.shown(format!("{width}_at_once_ms"), us * as_f64(*width) / 1e3)));
    Ok(figures)
}

fn tasks(count: usize) -> Vec<Value> {
    (0..count).map(|number| json!({"name": format!("t{number}"), "handler": "noop"})).collect()
}
