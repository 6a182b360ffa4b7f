//! From one executor to eight: tasks that take time but no processor, in few slots.

use super::load;
use super::report::{Bound, Figure, Section};
use super::scale::Scale;
use crate::bench::figures::{as_f64, rate};
use crate::bench::ours::Watch;
use crate::harness::{Installation, InstallationOptions, wait_for};
use anyhow::{Context, Result};
use serde_json::json;
use std::time::{Duration, Instant};

/// Of each executor: few, so that they are what is scarce.
const SLOTS: u16 = 4;
/// What each task takes.
const TASK: Duration = Duration::from_millis(10);
/// Within 10 % of linear.
const LINEAR_MIN: f64 = 0.9;
/// Busier than this, the cores are full, and more executors are not expected to do more.
const FULL: f64 = 0.85;
/// An executor is heard within a beat or two.
const HEARD_MAX: Duration = Duration::from_secs(30);

/// Tasks a second with each number of executors.
///
/// # Errors
/// When a part does not start, or a task does not end.
pub async fn executors(scale: &Scale) -> Result<Vec<Figure>> {
    let mut installation = Installation::start(InstallationOptions { executors: 0, ..load::published(SLOTS) }).await?;
    let mut figures = Vec::new();
    let mut alone = None;
    for count in &scale.executors {
        while installation.executors.len() < *count {
            installation.add_executor().await?;
        }
        heard(&installation, *count).await?;
        let seen = seconds(&installation, scale, *count).await?;
        eprintln!("  {count} executors: {:.0} tasks/s, cores {:.0} % busy", seen.per_s, seen.busy * 1e2);
        figures.push(Section::Executors.shown(format!("{count}_tasks_per_s"), seen.per_s));
        figures.push(Section::Executors.shown(format!("{count}_cores_busy_percent"), seen.busy * 1e2));
        let linear = seen.per_s / (*alone.get_or_insert(seen.per_s) * as_f64(*count));
        let name = format!("{count}_of_linear");
        figures.push(if seen.busy < FULL {
            Section::Executors.required(name, linear, Bound::AtLeast(LINEAR_MIN))
        } else {
            Section::Executors.shown(format!("{name}_cores_full"), linear)
        });
    }
    installation.finish().await;
    Ok(figures)
}

struct Seen {
    per_s: f64,
    /// Of all cores, from 0 to 1; whoever used them.
    busy: f64,
}

/// As many tasks as they can do in that time.
async fn seconds(installation: &Installation, scale: &Scale, executors: usize) -> Result<Seen> {
    let each = usize::from(SLOTS) * usize::try_from(scale.executors_for.as_millis() / TASK.as_millis())?;
    let task = json!({"handler": "sleep", "with": {"duration": format!("{}ms", TASK.as_millis())}});
    let mut watch = Watch::at(&installation.database_url).await?;
    let (begun, before) = (Instant::now(), Ticks::now()?);
    load::submit(installation, &task, each * executors).await?;
    watch.until_done().await?;
    let per_s = rate(each * executors, begun.elapsed());
    Ok(Seen { per_s, busy: Ticks::now()?.busy_since(&before) })
}

async fn heard(installation: &Installation, count: usize) -> Result<()> {
    let look = async || {
        let answer = installation.api.get("/api/v1/executors").await?;
        let executors = answer["executors"].as_array().context("a list")?;
        Ok((executors.len() >= count).then_some(()))
    };
    wait_for("the executors to be heard", HEARD_MAX, look).await
}

/// Of all cores since the machine's start.
struct Ticks {
    idle: f64,
    all: f64,
}

impl Ticks {
    fn now() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("a line of all cores")?;
        // After the word: user, nice, system, idle, iowait, irq, softirq, steal.
        let ticks: Vec<f64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
        let idle = ticks.get(3..5).context("eight fields")?.iter().sum();
        Ok(Self { idle, all: ticks.iter().sum() })
    }

    fn busy_since(&self, before: &Self) -> f64 {
        let all = (self.all - before.all).max(1.0);
        1.0 - (self.idle - before.idle) / all
    }
}
