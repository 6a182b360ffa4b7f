//! How far an execution is: ended tasks, weighed by phase.

use orchestr8_store::read::executions::StatusCount;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// How far an execution is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// Share of the ended tasks, each phase by its weight; 0 to 100 with one decimal.
    pub percent: f64,
    /// All tasks.
    pub tasks_total: u64,
    /// Those in a final state.
    pub tasks_ended: u64,
    /// How many are in which state.
    pub tasks: BTreeMap<&'static str, u64>,
    /// In the order of the definition; empty for a flat list of tasks.
    pub phases: Vec<PhaseProgress>,
}

/// How far a phase is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseProgress {
    /// Its name.
    pub name: String,
    /// Its share, relative to the other phases.
    pub weight: f64,
    /// All its tasks.
    pub tasks_total: u64,
    /// Those in a final state.
    pub tasks_ended: u64,
}

/// Weighs the tasks by the plan's `phases` (an array of `{name, weight}`, or null).
#[must_use]
pub fn progress(phases: &Value, counts: &[StatusCount]) -> Progress {
    let phases: Vec<PhaseProgress> = phases.as_array().into_iter().flatten().map(|phase| phase_progress(phase, counts)).collect();
    let (tasks_total, tasks_ended) = totals(counts.iter());
    let mut tasks = BTreeMap::new();
    for count in counts {
        *tasks.entry(count.status.as_str()).or_default() += count.tasks;
    }
    // Sums of fractions stay a hair below 1.
    let is_ended = tasks_total > 0 && tasks_ended == tasks_total;
    let done = if is_ended {
        1.0
    } else if phases.is_empty() {
        share(tasks_ended, tasks_total)
    } else {
        weighted(&phases)
    };
    Progress { percent: (done * 1_000.0 + 1e-6).floor() / 10.0, tasks_total, tasks_ended, tasks, phases }
}

fn phase_progress(phase: &Value, counts: &[StatusCount]) -> PhaseProgress {
    let name = phase["name"].as_str().unwrap_or_default().to_owned();
    let (tasks_total, tasks_ended) = totals(counts.iter().filter(|count| count.phase.as_deref() == Some(&name)));
    PhaseProgress { name, weight: phase["weight"].as_f64().unwrap_or(1.0), tasks_total, tasks_ended }
}

fn totals<'a>(counts: impl Iterator<Item = &'a StatusCount>) -> (u64, u64) {
    counts.fold((0, 0), |(total, ended), count| {
        let ended_here = if count.status.is_final() { count.tasks } else { 0 };
        (total + count.tasks, ended + ended_here)
    })
}

/// All weights zero: every phase counts the same.
fn weighted(phases: &[PhaseProgress]) -> f64 {
    let total: f64 = phases.iter().map(|phase| phase.weight).sum();
    if total <= 0.0 {
        return phases.iter().map(|phase| share(phase.tasks_ended, phase.tasks_total)).sum::<f64>() / share_base(phases.len());
    }
    phases.iter().map(|phase| phase.weight / total * share(phase.tasks_ended, phase.tasks_total)).sum()
}

#[allow(clippy::cast_precision_loss, reason = "counts of tasks are far below 2^52")]
fn share(ended: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { ended as f64 / total as f64 }
}

#[allow(clippy::cast_precision_loss, reason = "the number of phases is far below 2^52")]
fn share_base(phases: usize) -> f64 {
    phases as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::words::TaskStatus;
    use serde_json::json;

    fn count(phase: Option<&str>, status: TaskStatus, tasks: u64) -> StatusCount {
        StatusCount { phase: phase.map(str::to_owned), status, tasks }
    }

    fn check_percent(phases: &Value, counts: &[StatusCount], expected: f64) {
        let percent = progress(phases, counts).percent;
        assert!((percent - expected).abs() < 0.05, "{percent} is not {expected}");
    }

    #[test]
    fn a_flat_list_counts_ended_tasks() {
        let counts = [count(None, TaskStatus::Completed, 1), count(None, TaskStatus::Skipped, 1), count(None, TaskStatus::Queued, 4)];
        check_percent(&Value::Null, &counts, 33.3);
        let progress = progress(&Value::Null, &counts);
        assert_eq!((progress.tasks_total, progress.tasks_ended, progress.tasks["queued"]), (6, 2, 4));
    }

    #[test]
    fn phases_count_by_weight() {
        let phases = json!([{"name": "a", "weight": 1.0}, {"name": "b", "weight": 3.0}]);
        let half_of_b =
            [count(Some("a"), TaskStatus::Completed, 5), count(Some("b"), TaskStatus::Failed, 1), count(Some("b"), TaskStatus::Running, 1)];
        check_percent(&phases, &half_of_b, 62.5);
        let all = [count(Some("a"), TaskStatus::Completed, 5), count(Some("b"), TaskStatus::Completed, 2)];
        check_percent(&phases, &all, 100.0);
        let weightless = json!([{"name": "a", "weight": 0}, {"name": "b", "weight": 0}]);
        check_percent(&weightless, &half_of_b, 75.0);
    }
}
