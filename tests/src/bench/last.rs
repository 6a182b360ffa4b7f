//! What was measured last and committed, and how a new measurement differs from it.

use crate::harness::binary::workspace;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Less than this is noise between two runs on one machine.
const NOISE: f64 = 0.05;

const TEXT: &str = "writing to text does not fail";

/// The ratios that are kept: ours to the floor's, and to each peer's.
#[must_use]
pub fn kept(latest: &Value) -> Value {
    let part = |key: &str| latest.get(key).cloned().unwrap_or_else(|| json!({}));
    json!({"ratio": part("ratio"), "peer_ratio": part("peer_ratio"), "conditions": part("conditions")})
}

/// Where they are kept.
#[must_use]
pub fn file() -> PathBuf {
    workspace().join("docs/bench/last.json")
}

/// The last ones; none where nothing was kept yet.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read() -> Result<Option<Value>> {
    let file = file();
    if !file.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    Ok(Some(serde_json::from_str(&text).with_context(|| file.display().to_string())?))
}

/// A table of the ratios of both, for people. Machines differ, so it is the ratios that are compared.
#[must_use]
pub fn compared(latest: &Value, last: &Value) -> String {
    let mut table = format!("{:<46}{:>10}{:>10}{:>10}\n", "ratios, and those that were last committed", "last", "now", "");
    let latest = kept(latest);
    let mut add = |title: &str, now: &Value, last: &Value| {
        for (name, now) in now.as_object().unwrap_or(&Map::new()) {
            let (Some(now), Some(last)) = (now.as_f64(), last[name].as_f64()) else { continue };
            writeln!(table, "{:<46}{last:>10.3}{now:>10.3}{:>10}", format!("{name} {title}"), difference(now, last)).expect(TEXT);
        }
    };
    add("to the floor's", &latest["ratio"], &last["ratio"]);
    for (peer, ratios) in latest["peer_ratio"].as_object().unwrap_or(&Map::new()) {
        add(&format!("to {peer}'s"), ratios, &last["peer_ratio"][peer]);
    }
    table.trim_end().to_owned()
}

fn difference(now: f64, last: f64) -> String {
    let change = now / last - 1.0;
    if last <= 0.0 || change.abs() < NOISE { "same".to_owned() } else { format!("{:+.0} %", change * 1e2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_differences_are_those_of_the_ratios() {
        let measured = |ratio: f64, peer: f64| json!({"w3_total_ms": {"median": 80.0}, "ratio": {"w3_total_ms": ratio, "new": 1.0}, "peer_ratio": {"bullmq": {"w3_total_ms": peer}}});
        let table = compared(
            &measured(1.5, 0.25),
            &kept(&json!({"ratio": {"w3_total_ms": 2.0}, "peer_ratio": {"bullmq": {"w3_total_ms": 0.251}}})),
        );
        let lines: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["w3_total_ms", "to", "the", "floor's", "2.000", "1.500", "-25", "%"]);
        assert_eq!(lines[1], ["w3_total_ms", "to", "bullmq's", "0.251", "0.250", "same"]);
        assert_eq!(lines.len(), 2, "what was not measured before is not compared: {table}");
    }

    #[test]
    fn what_is_committed_can_be_read() {
        let last = read().expect("JSON").expect("it is committed");
        assert!(last["ratio"]["w1_single_tasks_per_s"].as_f64().is_some_and(|ratio| ratio > 0.0), "{last}");
    }
}
