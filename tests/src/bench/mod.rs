//! `make bench`: three workloads and two idle phases, each beside the floor, the smallest program of the same shape.
//!
//! - [`scale`]: how much of everything one run takes
//! - [`figures`]: named measurements and what several runs make of them
//! - [`meters`]: processor time, statements and write-ahead log between two moments
//! - [`floor`]: the smallest program, and its workloads
//! - [`stage`]: the servers, the coordinator and the executor that are measured, as processes of their own
//! - [`client`], [`ours`]: the workloads through the public API
//! - [`idle`]: what nothing to do costs, and a thousand sleeping tasks
//! - [`peers`]: what a user could take instead, in the same run
//! - [`report`]: the table, the JSON and the requirements
//! - [`last`], [`plot`]: what was measured last and committed, and the picture of it

pub mod client;
pub mod figures;
pub mod floor;
pub mod idle;
pub mod last;
pub mod meters;
pub mod ours;
pub mod peers;
pub mod plot;
pub mod report;
pub mod scale;
pub mod stage;

use anyhow::Result;
use figures::Runs;
use peers::Peers;
use report::Report;
use scale::Scale;
use stage::Stage;

/// Measures floor and orchestr8 in turn, run by run, on the same servers.
///
/// # Errors
/// When a part does not start, a task does not complete, or a count at the end is not what was submitted.
pub async fn measure(scale: &Scale) -> Result<Report> {
    let mut peers = Peers::from_environment()?;
    let stage = Stage::start(scale).await?;
    let mut runs = Runs::default();
    for run in 1..=scale.runs {
        eprintln!("run {run} of {}: the floor", scale.runs);
        let mut floor = floor::workloads(&stage, scale).await?;
        eprintln!("run {run} of {}: orchestr8", scale.runs);
        let mut ours = ours::workloads(&stage, scale).await?;
        idle::phases(&stage, scale, &mut ours, &mut floor).await?;
        runs.push(ours, floor);
        for (peer, figures) in peers.run().await? {
            runs.push_peer(peer, figures);
        }
    }
    let report = Report::new(&runs, scale, stage.counted_by);
    stage.finish().await;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::report::{NAMES, PROCESSES};
    use super::*;
    use anyhow::Context;
    use serde_json::Value;

    fn median(side: &Value, name: &str) -> Option<f64> {
        let figure = name.split('.').fold(side, |value, key| &value[key]);
        let [median, min, max] = ["median", "min", "max"].map(|key| figure[key].as_f64());
        assert!(min <= median && median <= max, "{name}: {figure}");
        median
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_quick_run_gives_every_figure_for_both_sides() -> Result<()> {
        let report = measure(&Scale::quick()).await?;
        let json = report.json();
        for name in NAMES {
            for side in [&json, &json["floor"]] {
                let median = median(side, name).with_context(|| format!("{name} is missing in {json:#}"))?;
                assert!(median > 0.0 || name.starts_with("idle_") || name.starts_with("sleeping_"), "{name} is {median}");
            }
        }
        for process in PROCESSES {
            let name = format!("cpu_us_per_task.{process}");
            median(&json, &name).with_context(|| format!("{name} is missing in {json:#}"))?;
        }
        let table = report.table();
        assert!(table.contains("w1_single_tasks_per_s") && table.contains("one_task_p50_ms"), "{table}");
        Ok(())
    }
}
