//! Messages of executors into events. Executors run other people's code: every id, token, size and text is checked here.

use super::input::Addressed;
use super::references::Ask;
use super::work::{ClaimNote, EventWork, Work};
use orchestr8_core::execution::{Failure, Usage};
use orchestr8_core::machine::{ClaimRequest, Event, Progressed, Report, Reported};
use orchestr8_proto::ids::{DispatchId, IdError, Incarnation, RunId, TaskId};
use orchestr8_proto::log_level::LOG_FILTER_BYTES_MAX;
use orchestr8_proto::storable;
use orchestr8_proto::tokens::{Purpose, TokenKeys};
use orchestr8_proto::wire::{
    self, Claim, ClaimBatch, ClaimKind, HeldRun, InputsAsk, Outcome, OutcomeBatch, ReleaseReason, WireError, outcome,
};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Longest name of an executor that is kept, in bytes.
const EXECUTOR_NAME_BYTES_MAX: usize = 255;
/// Longest error message that is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;
/// The longest run that is believed; what is beyond cannot be a column's time.
const DURATION_MAX: Duration = Duration::from_hours(24 * 3_650);
/// The longest lease that an executor may ask for.
const LEASE_MAX: Duration = Duration::from_hours(1);
/// The latest next attempt that an executor may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);
/// Longest error type that is kept, in bytes.
const ERROR_TYPE_BYTES_MAX: usize = 128;

/// Why a part of a message was refused. It counts for nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// An id is not one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A field is not of this version.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The sender did not receive the dispatch that it speaks about.
    #[error("the token does not fit task {0}")]
    Token(TaskId),
    /// It came on the subject of another shard.
    #[error("task {0} is not of the shard of this subject")]
    Shard(TaskId),
}

/// The outcomes in a message of a shard; each that is refused is named and left out.
#[must_use]
pub fn outcomes(batch: OutcomeBatch, shard: u16, keys: &TokenKeys) -> (Vec<Work>, Vec<Refusal>) {
    let (mut works, mut refusals) = (Vec::new(), Vec::new());
    for outcome in batch.outcomes {
        match report(outcome, shard, keys) {
            Ok((task, report)) => works.push(Work::event(task.execution(), Event::Outcome(task.index(), report))),
            Err(refusal) => refusals.push(refusal),
        }
    }
    (works, refusals)
}

fn report(outcome: Outcome, shard: u16, keys: &TokenKeys) -> Result<(TaskId, Report), Refusal> {
    let task = TaskId::try_from(outcome.task_id.as_ref())?;
    let dispatch_id = DispatchId::try_from(outcome.dispatch_id.as_ref())?;
    if task.shard() != shard {
        return Err(Refusal::Shard(task));
    }
    if !keys.verify(&outcome.outcome_token, Purpose::Outcome, task, dispatch_id) {
        return Err(Refusal::Token(task));
    }
    let mut usage = Usage {
        exit_code: None,
        cpu_time_us: i64::try_from(outcome.cpu_time_us).unwrap_or(i64::MAX),
        memory_peak_bytes: i64::try_from(outcome.memory_peak_bytes).unwrap_or(i64::MAX),
        stdout_tail: tail(&outcome.stdout_tail),
        stderr_tail: tail(&outcome.stderr_tail),
    };
    let result = match outcome.result.ok_or(WireError::Missing("result"))? {
        outcome::Result::Completed(completed) => match output(&completed.output_json) {
            Ok(value) => Reported::Completed(value),
            Err(message) => {
                let failure = Failure { error_type: "output".into(), message };
                Reported::Failed { failure, retryable: false, retry_after: Duration::ZERO }
            }
        },
        outcome::Result::Failed(failed) => {
            usage.exit_code = failed.exit_code;
            failure(&failed)
        }
        outcome::Result::Released(released) => release(&released)?,
    };
    let report = Report {
        dispatch_id,
        run_id: RunId::try_from(outcome.run_id.as_ref())?,
        incarnation: Incarnation::try_from(outcome.incarnation.as_ref())?,
        executor: name(&outcome.executor),
        duration: Duration::from_micros(outcome.duration_us).min(DURATION_MAX),
        usage,
        result,
    };
    Ok((task, report))
}

/// One JSON value that Postgres can store.
fn output(json: &[u8]) -> Result<Value, String> {
    if json.is_empty() {
        return Ok(Value::Null);
    }
    if json.len() > wire::OUTPUT_BYTES_MAX {
        return Err(format!("the output has {} bytes, the limit is {}: write it to a file instead", json.len(), wire::OUTPUT_BYTES_MAX));
    }
    let mut value: Value = serde_json::from_slice(json).map_err(|error| format!("the output is not JSON: {error}"))?;
    storable::check(&value).map_err(|error| format!("the output {error}"))?;
    storable::as_read_back(&mut value);
    Ok(value)
}

fn failure(failed: &wire::Failed) -> Reported {
    let error_type = text(&failed.error_type, ERROR_TYPE_BYTES_MAX);
    let failure = Failure {
        error_type: if error_type.is_empty() { "unknown".into() } else { error_type },
        message: text(&failed.message, MESSAGE_BYTES_MAX),
    };
    Reported::Failed {
        failure,
        retryable: failed.retryable,
        retry_after: Duration::from_millis(failed.retry_after_ms).min(RETRY_AFTER_MAX),
    }
}

fn release(released: &wire::Released) -> Result<Reported, Refusal> {
    Ok(match wire::known::<ReleaseReason>("reason", released.reason)? {
        ReleaseReason::Drained if released.never_started => Reported::Drained(Progressed::NeverStarted),
        ReleaseReason::Drained => Reported::Drained(Progressed::Started),
        ReleaseReason::Unsupported | ReleaseReason::Unspecified => Reported::Unsupported(text(&released.detail, MESSAGE_BYTES_MAX)),
    })
}

/// A claim or check as work; second, whether rule R6 wants the outcomes looked through first.
///
/// # Errors
/// [`Refusal`]: the asker gets no answer.
pub fn claim(claim: &Claim, batch: &ClaimBatch, keys: &TokenKeys, tick: Duration) -> Result<(Work, Doubtful), Refusal> {
    let kind = wire::known::<ClaimKind>("kind", claim.kind)?;
    let running_for = (claim.running_for_us > 0).then(|| Duration::from_micros(claim.running_for_us).min(DURATION_MAX));
    let (task, request) = Asker { ids: (&claim.task_id, &claim.dispatch_id, &claim.run_id), token: &claim.outcome_token, running_for }
        .request(&batch.incarnation, &batch.executor, keys)?;
    let event = match kind {
        ClaimKind::Claim => Event::Claim(task.index(), request),
        ClaimKind::Check | ClaimKind::Unspecified => Event::Check(task.index(), request),
    };
    let note = ClaimNote { beat_sequence: batch.beat_sequence, ticks: ticks(claim.lease_ms, tick) };
    let doubtful = if claim.doubtful { Doubtful::Yes } else { Doubtful::No };
    Ok((claim_work(task, event, note), doubtful))
}

/// Whether outcomes must be looked through before the verdict (rule R6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubtful {
    /// Redelivered or published again.
    Yes,
    /// A first delivery.
    No,
}

/// Who listed a run in a heartbeat.
#[derive(Debug, Clone, Copy)]
pub struct BeatOf<'a> {
    /// The process.
    pub incarnation: &'a [u8],
    /// The label.
    pub executor: &'a str,
    /// The heartbeat.
    pub sequence: u64,
}

/// A run in a heartbeat that nobody is known to hold: a claim (rule R4).
///
/// # Errors
/// [`Refusal`]: it is as if it had not been listed.
pub fn listed(run: &HeldRun, beat: BeatOf<'_>, keys: &TokenKeys, tick: Duration) -> Result<Work, Refusal> {
    let running_for = run.started.then(|| Duration::from_micros(run.running_for_us).min(DURATION_MAX));
    let (task, request) = Asker { ids: (&run.task_id, &run.dispatch_id, &run.run_id), token: &run.outcome_token, running_for }.request(
        beat.incarnation,
        beat.executor,
        keys,
    )?;
    let note = ClaimNote { beat_sequence: beat.sequence, ticks: ticks(run.lease_ms, tick) };
    Ok(claim_work(task, Event::Claim(task.index(), request), note))
}

/// What a run wants of its inputs.
///
/// # Errors
/// [`Refusal`]: the asker gets no answer.
pub(super) fn inputs_ask(ask: &InputsAsk, keys: &TokenKeys) -> Result<Ask, Refusal> {
    let task = TaskId::try_from(ask.task_id.as_ref())?;
    let dispatch = DispatchId::try_from(ask.dispatch_id.as_ref())?;
    if !keys.verify(&ask.outcome_token, Purpose::Outcome, task, dispatch) {
        return Err(Refusal::Token(task));
    }
    Ok(Ask { task, dispatch, run: RunId::try_from(ask.run_id.as_ref())?, offset: ask.offset })
}

struct Asker<'a> {
    ids: (&'a [u8], &'a [u8], &'a [u8]),
    token: &'a [u8],
    running_for: Option<Duration>,
}

impl Asker<'_> {
    fn request(&self, incarnation: &[u8], executor: &str, keys: &TokenKeys) -> Result<(TaskId, ClaimRequest), Refusal> {
        let task = TaskId::try_from(self.ids.0)?;
        let dispatch_id = DispatchId::try_from(self.ids.1)?;
        if !keys.verify(self.token, Purpose::Outcome, task, dispatch_id) {
            return Err(Refusal::Token(task));
        }
        let request = ClaimRequest {
            dispatch_id,
            run_id: RunId::try_from(self.ids.2)?,
            incarnation: Incarnation::try_from(incarnation)?,
            executor: name(executor),
            running_for: self.running_for,
        };
        Ok((task, request))
    }
}

fn claim_work(task: TaskId, event: Event, note: ClaimNote) -> Work {
    let addressed = Addressed { execution: task.execution(), event };
    Work::Event(Box::new(EventWork { addressed, claim: Some(note), reply: None, inbox: None }))
}

fn ticks(lease_ms: u64, tick: Duration) -> Option<u32> {
    let tick_ms = u64::try_from(tick.as_millis()).unwrap_or(u64::MAX).max(1);
    let lease_ms = lease_ms.min(u64::try_from(LEASE_MAX.as_millis()).unwrap_or(u64::MAX));
    (lease_ms > 0).then(|| u32::try_from(lease_ms.div_ceil(tick_ms)).unwrap_or(u32::MAX))
}

/// An executor's name as it may be stored, shown and logged.
#[must_use]
pub fn name(executor: &str) -> Arc<str> {
    text(executor, EXECUTOR_NAME_BYTES_MAX).replace(char::is_control, "\u{fffd}").into()
}

/// What an executor says it logs, as it may be shown.
#[must_use]
pub fn log_filter(filter: &str) -> String {
    text(filter, LOG_FILTER_BYTES_MAX).replace(char::is_control, "\u{fffd}")
}

/// Text that Postgres can store, at most so long.
fn text(text: &str, bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}")
}

/// The end of what a command wrote: valid text without NUL, at most [`wire::TAIL_BYTES_MAX`].
fn tail(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(wire::TAIL_BYTES_MAX);
    String::from_utf8_lossy(&bytes[from..]).replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::ids::ExecutionId;
    use orchestr8_proto::wire::Completed;
    use uuid::Uuid;

    fn keys() -> TokenKeys {
        TokenKeys::new(vec![(1, vec![7; 32])]).expect("key")
    }

    fn task() -> TaskId {
        ExecutionId(Uuid::nil()).task(3)
    }

    fn outcome(output: &[u8]) -> Outcome {
        let dispatch = DispatchId::random();
        Outcome {
            task_id: task().to_bytes(),
            dispatch_id: dispatch.to_bytes(),
            run_id: RunId::random().to_bytes(),
            incarnation: Incarnation::random().to_bytes(),
            outcome_token: keys().sign(Purpose::Outcome, task(), dispatch),
            executor: "e\0x".into(),
            stderr_tail: bytes::Bytes::from_static(b"bad \xff and \0"),
            result: Some(outcome::Result::Completed(Completed { output_json: output.to_vec().into() })),
            ..Outcome::default()
        }
    }

    fn result_of(outcome: Outcome) -> Result<Report, Refusal> {
        report(outcome, 0, &keys()).map(|(_, report)| report)
    }

    #[test]
    fn text_is_made_storable() {
        let report = result_of(outcome(b"1")).expect("valid");
        assert_eq!(&*report.executor, "e\u{fffd}x");
        assert_eq!(report.usage.stderr_tail, "bad \u{fffd} and \u{fffd}");
        assert_eq!(report.result, Reported::Completed(Value::from(1)));
    }

    #[test]
    fn an_output_that_cannot_be_stored_is_a_failure_of_its_task() {
        let deep = "[".repeat(100_000);
        let nested = format!("{}{}", "[".repeat(storable::NESTING_MAX + 1), "]".repeat(storable::NESTING_MAX + 1));
        for bad in [
            nested.as_bytes(),
            &b"{"[..],
            b"\"\\u0000\"",
            b"{\"\\u0000\":1}",
            b"1e999999",
            deep.as_bytes(),
            &vec![b'1'; wire::OUTPUT_BYTES_MAX + 1],
        ] {
            let report = result_of(outcome(bad)).expect("decided");
            assert!(matches!(report.result, Reported::Failed { retryable: false, .. }), "{:?}", &bad[..bad.len().min(20)]);
        }
    }

    #[test]
    fn a_forged_token_another_shard_and_bad_ids_are_refused() {
        let forged = Outcome { outcome_token: bytes::Bytes::from_static(&[1; 17]), ..outcome(b"1") };
        assert!(matches!(result_of(forged), Err(Refusal::Token(_))));
        assert!(matches!(report(outcome(b"1"), 5, &keys()), Err(Refusal::Shard(_))));
        assert!(matches!(result_of(Outcome { run_id: bytes::Bytes::new(), ..outcome(b"1") }), Err(Refusal::Id(_))));
        assert!(matches!(result_of(Outcome { result: None, ..outcome(b"1") }), Err(Refusal::Wire(_))));
        let unknown = wire::Released { reason: 77, ..wire::Released::default() };
        let unknown = Outcome { result: Some(outcome::Result::Released(unknown)), ..outcome(b"1") };
        assert!(matches!(result_of(unknown), Err(Refusal::Wire(_))));
    }

    #[test]
    fn inputs_are_given_only_for_the_token_of_their_dispatch() {
        let (dispatch, run) = (DispatchId::random(), RunId::random());
        let ask = InputsAsk {
            task_id: task().to_bytes(),
            dispatch_id: dispatch.to_bytes(),
            run_id: run.to_bytes(),
            outcome_token: keys().sign(Purpose::Outcome, task(), dispatch),
            offset: 7,
        };
        assert_eq!(inputs_ask(&ask, &keys()).ok(), Some(Ask { task: task(), dispatch, run, offset: 7 }));
        let other = task().execution().task(4).to_bytes();
        for foreign in [
            InputsAsk { task_id: other, ..ask.clone() },
            InputsAsk { dispatch_id: DispatchId::random().to_bytes(), ..ask.clone() },
            InputsAsk { outcome_token: bytes::Bytes::from_static(&[1; 17]), ..ask.clone() },
            InputsAsk { outcome_token: bytes::Bytes::new(), ..ask.clone() },
        ] {
            assert!(matches!(inputs_ask(&foreign, &keys()), Err(Refusal::Token(_))), "{foreign:?}");
        }
        assert!(matches!(inputs_ask(&InputsAsk { run_id: bytes::Bytes::new(), ..ask }, &keys()), Err(Refusal::Id(_))));
    }
}
