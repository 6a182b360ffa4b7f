//! From the end of a run to the outcome that tells of it. Pure.

use crate::runs::Fate;
use crate::work::{Retryable, WorkReport, WorkResult};
use bytes::Bytes;
use orchestr8_proto::wire::outcome::Result as Told;
use orchestr8_proto::wire::{Completed, Failed, MESSAGE_BYTES_MAX, Outcome, ReleaseReason, Released};
use prost::Message;
use std::time::Duration;

/// Largest outcome: a message of one, with room for its frame.
const OUTCOME_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64;
/// Longest text of a failure or a release.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Given back without having started.
pub(crate) fn released_unstarted(reason: ReleaseReason, detail: &str) -> Told {
    Told::Released(Released { reason: reason.into(), detail: shortened(detail.to_owned()), never_started: true })
}

/// Writes what a run reports into its outcome.
pub(crate) fn fill(outcome: &mut Outcome, report: WorkReport, fate: Fate) {
    outcome.duration_us = microseconds(report.duration);
    outcome.cpu_time_us = microseconds(report.cpu_time);
    outcome.memory_peak_bytes = report.memory_peak_bytes;
    outcome.stdout_tail = report.stdout_tail;
    outcome.stderr_tail = report.stderr_tail;
    outcome.result = Some(told(report.result, fate));
    fit(outcome);
}

fn told(result: WorkResult, fate: Fate) -> Told {
    match result {
        WorkResult::Completed { output_json } => Told::Completed(Completed { output_json }),
        WorkResult::NeverStarted { detail } => released_unstarted(ReleaseReason::Drained, &detail),
        WorkResult::Unsupported { detail } => released_unstarted(ReleaseReason::Unsupported, &detail),
        // A drain ended it: that is not the task's failure, whatever it made of its end.
        WorkResult::Failed { .. } if fate == Fate::GiveBack => Told::Released(Released {
            reason: ReleaseReason::Drained.into(),
            detail: "the executor was shut down".into(),
            never_started: false,
        }),
        WorkResult::Failed { error_type, message, exit_code, retryable, retry_after } => Told::Failed(Failed {
            error_type: shortened(error_type),
            message: shortened(message),
            exit_code,
            retryable: retryable == Retryable::Yes,
            retry_after_ms: retry_after.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        }),
    }
}

/// Makes sure that the outcome can travel: tails are cut first, then an output that is too large becomes a failure.
fn fit(outcome: &mut Outcome) {
    let over = outcome.encoded_len().saturating_sub(OUTCOME_BYTES_MAX);
    if over == 0 {
        return;
    }
    let tails = outcome.stdout_tail.len() + outcome.stderr_tail.len();
    if tails >= over {
        let kept = (tails - over) / 2;
        outcome.stdout_tail = last(&outcome.stdout_tail, kept);
        outcome.stderr_tail = last(&outcome.stderr_tail, kept);
        return;
    }
    let message = format!("the outcome is {over} bytes over the limit of {OUTCOME_BYTES_MAX}: return less, or write it to a file");
    outcome.result = Some(Told::Failed(Failed { error_type: "output_too_large".into(), message, ..Failed::default() }));
    outcome.stdout_tail = Bytes::new();
    outcome.stderr_tail = Bytes::new();
}

fn last(bytes: &Bytes, count: usize) -> Bytes {
    bytes.slice(bytes.len().saturating_sub(count)..)
}

fn shortened(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(result: WorkResult) -> WorkReport {
        WorkReport {
            result,
            duration: Duration::from_millis(3),
            cpu_time: Duration::from_millis(2),
            memory_peak_bytes: 1,
            stdout_tail: Bytes::from(vec![b'o'; 64 * 1024]),
            stderr_tail: Bytes::from(vec![b'e'; 64 * 1024]),
        }
    }

    fn failed(message: String) -> WorkResult {
        let retry_after = Some(Duration::from_secs(2));
        WorkResult::Failed { error_type: "killed".into(), message, exit_code: Some(-1), retryable: Retryable::Yes, retry_after }
    }

    fn outcome(result: WorkResult, fate: Fate) -> Outcome {
        let mut outcome = Outcome::default();
        fill(&mut outcome, report(result), fate);
        outcome
    }

    #[test]
    fn a_failure_is_told_in_full() {
        let outcome = outcome(failed("m".into()), Fate::Report);
        let expected =
            Failed { error_type: "killed".into(), message: "m".into(), exit_code: Some(-1), retryable: true, retry_after_ms: 2_000 };
        assert_eq!(outcome.result, Some(Told::Failed(expected)));
        assert_eq!((outcome.duration_us, outcome.cpu_time_us, outcome.stdout_tail.len()), (3_000, 2_000, 64 * 1024));
    }

    #[test]
    fn a_drain_gives_back_what_failed_and_reports_what_completed() {
        let given_back = outcome(failed("m".into()), Fate::GiveBack).result;
        assert!(matches!(given_back, Some(Told::Released(Released { reason: 1, never_started: false, .. }))));
        let completed = outcome(WorkResult::Completed { output_json: Bytes::from_static(b"1") }, Fate::GiveBack).result;
        assert!(matches!(completed, Some(Told::Completed(_))));
    }

    #[test]
    fn what_is_unsupported_never_started() {
        let told = outcome(WorkResult::Unsupported { detail: "handler x".into() }, Fate::Report).result;
        assert!(matches!(told, Some(Told::Released(Released { reason: 2, never_started: true, .. }))));
    }

    #[test]
    fn what_was_kept_from_starting_is_given_back() {
        let told = outcome(WorkResult::NeverStarted { detail: "SIGTERM".into() }, Fate::Report).result;
        assert!(matches!(told, Some(Told::Released(Released { reason: 1, never_started: true, .. }))));
    }

    #[test]
    fn the_largest_output_fits_with_both_tails() {
        let output_json = Bytes::from(vec![b'1'; orchestr8_proto::wire::OUTPUT_BYTES_MAX]);
        assert_eq!(outcome(WorkResult::Completed { output_json }, Fate::Report).stderr_tail.len(), 64 * 1024);
    }

    #[test]
    fn tails_are_cut_before_an_output_is_refused() {
        let large = |bytes| outcome(WorkResult::Completed { output_json: Bytes::from(vec![b'1'; bytes]) }, Fate::Report);
        let cut = large(OUTCOME_BYTES_MAX - 100_000);
        assert!(cut.encoded_len() <= OUTCOME_BYTES_MAX && cut.stdout_tail.len() > 10_000, "{}", cut.encoded_len());
        assert!(matches!(cut.result, Some(Told::Completed(_))));
        let refused = large(OUTCOME_BYTES_MAX);
        assert!(matches!(refused.result, Some(Told::Failed(failed)) if failed.error_type == "output_too_large"));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let Some(Told::Failed(failed)) = outcome(failed("é".repeat(TEXT_BYTES_MAX)), Fate::Report).result else { panic!("it failed") };
        assert!(failed.message.len() <= TEXT_BYTES_MAX + 3 && failed.message.ends_with('…'));
    }
}
