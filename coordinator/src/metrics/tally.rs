//! What a batch did to its tasks, told from the rows that it writes: counted only once they are committed.

use orchestr8_core::execution::{AttemptOutcome, AttemptRecord, Changes, HistoryEvent};
use std::collections::BTreeMap;

/// Attempts of one batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Attempts after the first that were queued.
    pub retries: u64,
    /// Attempts that failed or were lost, by error type.
    pub failures: BTreeMap<String, u64>,
}

impl Tally {
    /// Adds what one execution's changes say.
    pub fn see(&mut self, changes: &Changes) {
        let again = |event: &&HistoryEvent| event.kind == "task.queued" && event.attempt.is_some_and(|attempt| attempt > 1);
        self.retries += changes.history.iter().filter(again).count() as u64;
        for failed in changes.attempts.iter().filter(|attempt| is_failure(attempt)) {
            let error_type = failed.failure.as_ref().map_or("unknown", |failure| failure.error_type.as_str());
            *self.failures.entry(error_type.to_owned()).or_default() += 1;
        }
    }
}

fn is_failure(attempt: &AttemptRecord) -> bool {
    match attempt.outcome {
        AttemptOutcome::Failed | AttemptOutcome::Lost => true,
        AttemptOutcome::Completed | AttemptOutcome::Released => false,
    }
}
