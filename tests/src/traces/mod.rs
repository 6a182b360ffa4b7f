//! What a server tells of itself: one trace across processes, log lines for machines, levels that change, and no secret in any of it.
//!
//! - [`collector`]: takes spans as a collector does
//! - `whole`: one trace from a submission to its end, over the death of a coordinator, with a retry and a child
//! - `away`: a collector that is not there costs spans, never work
//! - `logs`: lines that parse, levels that change, and no secrets

mod away;
mod collector;
mod logs;
mod whole;

use crate::harness::InstallationOptions;
use crate::scene::executors;

/// One coordinator and one executor that send spans to `endpoint`, often.
fn traced(endpoint: &str) -> InstallationOptions {
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let environment = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    InstallationOptions { environment, ..executors(1) }
}
