//! What operators see: every metric described, every dashboard and alert about metrics that there are, every page about commands
//! that there are.
//!
//! - `exposition`: the text of `/metrics`, taken apart
//! - `files`: dashboards and alerts, taken apart
//! - `tools`: promtool and Prometheus, fetched
//! - `table`: `docs/metrics.md` is made from the code
//! - `names`: dashboards and alerts name metrics and labels that there are
//! - `runbooks`: each alert has a page, and what a page tells to type exists
//! - `rules`: the alerts fire when they should
//! - `counted`: what is counted is what happened
//! - `scraped`: a real installation, scraped by a real Prometheus that answers every panel

mod counted;
mod exposition;
mod files;
mod names;
mod rules;
mod runbooks;
mod scraped;
mod table;
pub mod tools;

use orchestr8_proto::exposition::Described;

/// The metrics of both processes.
fn described() -> Vec<Described> {
    let executor = orchestr8_executor::metrics::METRICS;
    orchestr8_coordinator::metrics::catalogue::ALL.iter().chain(executor).copied().collect()
}
