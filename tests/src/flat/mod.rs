//! Whether the cost of a task stays the same however much there is: asserted in `make test` by what the database counts, measured
//! in time by `make bench-flat`.
//!
//! - [`rows`]: large tables in little time
//! - [`touched`]: statements, rows and pages
//! - [`scale`], [`report`], [`load`]: how much `make bench-flat` takes, what it found, and work through the API
//! - [`sizes`]: tables, executions, fan-outs, executions alive
//! - [`reload`]: a large execution is read again
//! - [`quiet`]: tasks that sleep or lie in the queue
//! - [`submission`], [`executors`], [`commands`]: latency at a fixed rate, more executors, processes

pub mod commands;
pub mod executors;
pub mod load;
pub mod quiet;
pub mod reload;
pub mod report;
pub mod rows;
pub mod scale;
pub mod sizes;
pub mod submission;
pub mod touched;

#[cfg(test)]
mod tests;

use crate::harness::{Api, Installation, wait_for};
use anyhow::Result;
use report::{Bound, Figure, Report, Section};
use scale::Scale;
use std::time::Duration;
use touched::Touched;

/// A coordinator that stops leaves its sessions at once.
const LEFT_MAX: Duration = Duration::from_secs(30);

/// A section that did not come to its end has this figure only: hours of the others are not lost with it.
pub const FAILED: &str = "failed";

/// Measures what the scale names, each section with an installation of its own.
pub async fn measure(scale: &Scale) -> Report {
    let mut report = Report::default();
    for section in &scale.sections {
        eprintln!("{}", section.word());
        match measured(*section, scale).await {
            Ok(figures) => report.extend(figures),
            Err(error) => {
                eprintln!("  {}: {error:#}", section.word());
                report.extend(vec![section.required(FAILED, 1.0, Bound::AtMost(0.0))]);
            }
        }
    }
    report
}

async fn measured(section: Section, scale: &Scale) -> Result<Vec<Figure>> {
    match section {
        Section::Rows => sizes::rows(scale).await,
        Section::Width => sizes::width(scale).await,
        Section::Fan => sizes::fan(scale).await,
        Section::Alive => sizes::alive(scale).await,
        Section::Reload => reload::reload(scale).await,
        Section::Quiet => quiet::quiet(scale).await,
        Section::Queued => quiet::queued(scale).await,
        Section::Submission => submission::submission(scale).await,
        Section::Executors => executors::executors(scale).await,
        Section::Commands => commands::commands(scale).await,
    }
}

/// What work cost the database, done through a coordinator that starts for it and ends after it: its start and its end are in it.
///
/// # Errors
/// When the work fails, or others stay connected to the database.
pub async fn cost(installation: &mut Installation, work: impl AsyncFnOnce(&Api) -> Result<()>) -> Result<Touched> {
    installation.coordinators[0].terminate().await.ok(); // It may have ended before.
    let before = settled(&installation.database_url).await?;
    installation.coordinators[0].restart().await?;
    installation.wait_ready(0).await?;
    work(&installation.api).await?;
    installation.coordinators[0].terminate().await?;
    settled(&installation.database_url).await?.since(&before)
}

async fn settled(url: &str) -> Result<Touched> {
    wait_for("the sessions of the database to end", LEFT_MAX, async || Touched::so_far(url).await).await
}
