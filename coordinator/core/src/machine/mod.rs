//! The state machine: one event into one execution, in place. Pure, so that a model can check it.
//!
//! The caller commits the changed rows, and only then carries out the effects (rule R3). What counts is decided
//! by identity (rule R1): an outcome, claim or loss that is not about the current dispatch and its holder changes nothing.

mod advance;
mod cancel;
mod claim;
mod outcome;

use crate::execution::{Execution, Failure, HistoryEvent, Status, TracedAttempt, Usage};
use crate::plan::{TaskIndex, TaskPlan};
use orchestr8_proto::ids::{DispatchId, Incarnation, RunId};
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::traces::TraceParent;
use orchestr8_proto::words::TaskStatus;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Losses in a row after which a task has failed: it may be what kills its executors.
pub const LOSSES_IN_ROW_MAX: u32 = 5;

/// Randomness, from outside.
pub trait Draws {
    /// A new identity for a deliberate dispatch.
    fn dispatch_id(&mut self) -> DispatchId;
    /// From 0 to below 1.
    fn unit(&mut self) -> f64;
}

/// What a step needs to know besides the execution and the event.
pub struct Circumstances<'a> {
    /// The database's clock, never below the execution's last event.
    pub now: Timestamp,
    /// Where new ids and jitter come from.
    pub draws: &'a mut dyn Draws,
    /// How long a cancel waits for the outcome of a running task: grace plus lease.
    pub cancel_patience: Duration,
    /// A run this old that is lost starts the count of losses in a row anew.
    pub loss_reset: Duration,
}

/// Something that happened, or that somebody wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An executor reports how a run ended.
    Outcome(TaskIndex, Report),
    /// An executor asks to be the holder.
    Claim(TaskIndex, ClaimRequest),
    /// An executor asks whether a dispatch is current and free.
    Check(TaskIndex, ClaimRequest),
    /// The holder fell silent, or no longer lists the run; what it published before has been decided (rule R6).
    Lost(TaskIndex, RunId),
    /// The task's timer is due.
    Due(TaskIndex),
    /// Somebody cancels the whole execution.
    Cancel,
    /// Somebody cancels one task.
    CancelTask(TaskIndex),
    /// The dispatch can never be published: its inputs cannot be evaluated, or it is too large.
    Undeliverable(TaskIndex, DispatchId, Failure),
    /// The answer to [`Effect::EvaluateOutput`].
    OutputEvaluated(Result<Value, String>),
}

/// How a run ended, as its executor says. Validated, not trusted.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The publication that was run.
    pub dispatch_id: DispatchId,
    /// The start that ended.
    pub run_id: RunId,
    /// The executor's process.
    pub incarnation: Incarnation,
    /// The executor's name.
    pub executor: Arc<str>,
    /// From start to end.
    pub duration: Duration,
    /// What it used and wrote.
    pub usage: Usage,
    /// How it ended.
    pub result: Reported,
}

/// The result in a [`Report`].
#[derive(Debug, Clone, PartialEq)]
pub enum Reported {
    /// With this output.
    Completed(Value),
    /// With an error of its own.
    Failed {
        /// Stable word and message.
        failure: Failure,
        /// False: trying again is useless.
        retryable: bool,
        /// The earliest next attempt that the failed party asked for.
        retry_after: Duration,
    },
    /// Given back because the executor stops.
    Drained(Progressed),
    /// Given back because the executor does not know the kind or the handler.
    Unsupported(String),
}

/// Whether a run that is given back had begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progressed {
    /// The command may have done something.
    Started,
    /// Only the executor can know that it has not.
    NeverStarted,
}

/// Who asks for a task.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimRequest {
    /// The publication it received.
    pub dispatch_id: DispatchId,
    /// Its start of it.
    pub run_id: RunId,
    /// The executor's process.
    pub incarnation: Incarnation,
    /// The executor's name.
    pub executor: Arc<str>,
    /// How long the run has been going on; none: it waits for the answer.
    pub running_for: Option<Duration>,
}

/// What the owner answers to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// It is the holder.
    Granted,
    /// It must not start.
    Refused,
    /// It must end: its dispatch is not current, or another's.
    Kill,
    /// It must end: its task was cancelled.
    Cancel,
    /// The dispatch is current and free.
    Current,
}

/// What must happen after the commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// A dispatch was drawn: give it a sequence before the commit, publish it after.
    Publish(TaskIndex),
    /// A published or held dispatch, of this sequence, left the queue.
    LeftQueue(TaskIndex, i64),
    /// Answer a run.
    Answer(RunId, Incarnation, Answer),
    /// An outcome is decided, counted or refused: its executor may forget it.
    Confirm(RunId, Incarnation),
    /// A dispatch that nobody claimed was cancelled: executors drop it.
    Drop(DispatchId),
    /// The run is held from now on.
    LeaseStarted(TaskIndex, RunId, Incarnation),
    /// The run is no longer held.
    LeaseEnded(RunId),
    /// A timer was set.
    Timer(Timestamp),
    /// Before the commit: evaluate the plan's output and step again.
    EvaluateOutput,
    /// An attempt of a traced execution ended.
    AttemptEnded(Box<TracedAttempt>),
    /// A task ended in this state.
    TaskEnded(TaskIndex, TaskStatus),
    /// The execution ended.
    Ended,
}

/// Starts a new execution: its first tasks become ready, or wait until `run_at`.
pub fn start<'a>(execution: &'a mut Execution, run_at: Option<Timestamp>, circumstances: Circumstances<'a>) -> Vec<Effect> {
    let mut turn = Turn::new(execution, circumstances);
    turn.start(run_at);
    turn.effects
}

/// Applies one event and says what must happen after the commit.
///
/// Pure: the same execution, event and circumstances give the same result. An event that does not fit the state
/// (a stale outcome, a timer that was overtaken) changes nothing: such events are expected under redelivery.
pub fn step<'a>(execution: &'a mut Execution, event: Event, circumstances: Circumstances<'a>) -> Vec<Effect> {
    let mut turn = Turn::new(execution, circumstances);
    match event {
        Event::Outcome(task, report) => turn.outcome(task, report),
        Event::Claim(task, request) => turn.claim(task, &request),
        Event::Check(task, request) => turn.check(task, &request),
        Event::Lost(task, run) => turn.lost(task, run),
        Event::Due(task) => turn.due(task),
        Event::Cancel => turn.cancel(),
        Event::CancelTask(task) => turn.cancel_one(task),
        Event::Undeliverable(task, dispatch, failure) => turn.undeliverable(task, dispatch, failure),
        Event::OutputEvaluated(output) => turn.output_evaluated(output),
    }
    turn.effects
}

/// One step in progress.
struct Turn<'a> {
    execution: &'a mut Execution,
    now: Timestamp,
    draws: &'a mut dyn Draws,
    cancel_patience: Duration,
    loss_reset: Duration,
    effects: Vec<Effect>,
}

impl<'a> Turn<'a> {
    fn new(execution: &'a mut Execution, circumstances: Circumstances<'a>) -> Self {
        let Circumstances { now, draws, cancel_patience, loss_reset } = circumstances;
        Self { execution, now, draws, cancel_patience, loss_reset, effects: Vec::new() }
    }

    fn planned(&self, index: TaskIndex) -> &TaskPlan {
        self.execution.plan.task(index)
    }

    /// Gives the task a new state; counts it out of the queue where it leaves it.
    fn set_status(&mut self, index: TaskIndex, status: TaskStatus) {
        let task = self.execution.change(index);
        let before = std::mem::replace(&mut task.status, Status(status));
        if before.0 == TaskStatus::Queued
            && let Some(dispatch) = task.dispatch
        {
            self.effects.push(Effect::LeftQueue(index, dispatch.sequence));
        }
    }

    /// Takes the holder away, if there is one.
    fn end_lease(&mut self, index: TaskIndex) {
        if self.execution.task(index).holder.is_some()
            && let Some(holder) = self.execution.change(index).holder.take()
        {
            self.effects.push(Effect::LeaseEnded(holder.run_id));
        }
    }

    /// The attempt that is queued or runs ends like this: a span, where somebody traces the execution.
    fn trace_attempt(&mut self, index: TaskIndex, status: &'static str) {
        let task = self.execution.task(index);
        let is_under_way = match task.status.0 {
            TaskStatus::Queued | TaskStatus::Running => true,
            // A sleep is the attempt; who waits for its start time has made none.
            TaskStatus::Waiting => task.attempt > 0,
            TaskStatus::Pending
            | TaskStatus::Retrying
            | TaskStatus::Completed
            | TaskStatus::Failed
            | TaskStatus::Skipped
            | TaskStatus::Cancelled => false,
        };
        if !is_under_way || !self.execution.trace.is_some_and(TraceParent::is_sampled) {
            return;
        }
        let has_failed = matches!(status, "failed" | "retrying" | "lost");
        let traced = TracedAttempt {
            task: index,
            attempt: task.attempt,
            queued_at: task.queued_at,
            started_at: task.started_at,
            ended_at: self.now,
            executor: task.executor.clone(),
            status,
            // An earlier attempt may have left its own.
            error_type: task.failure.as_ref().filter(|_| has_failed).map(|failure| failure.error_type.clone()),
        };
        self.effects.push(Effect::AttemptEnded(Box::new(traced)));
    }

    fn record_task(&mut self, kind: &'static str, index: TaskIndex) {
        let planned = self.planned(index);
        let phase = planned.phase.map(|phase| self.execution.plan.phases[phase as usize].name.clone());
        let name = planned.name.clone();
        let task = self.execution.task(index);
        let failing = matches!(kind, "task.failed" | "task.retrying" | "task.lost");
        let failure = task.failure.clone().filter(|_| failing);
        // Who ran the attempt before says nothing about one that nobody has taken yet.
        let executor = task.executor.clone().filter(|_| kind != "task.queued");
        self.execution.record(HistoryEvent {
            kind,
            at: self.now,
            task_id: Some(self.execution.id.task(index)),
            task: Some(name),
            phase,
            attempt: (task.attempt > 0).then_some(task.attempt),
            started_at: task.started_at.filter(|_| kind == "task.running"),
            executor,
            error_type: failure.as_ref().map(|failure| failure.error_type.clone()),
            error: failure.map(|failure| failure.message.clone()),
        });
    }

    fn record_workflow(&mut self, kind: &'static str) {
        let error = self.execution.error.clone();
        self.execution.record(HistoryEvent {
            kind,
            at: self.now,
            task_id: None,
            task: None,
            phase: None,
            attempt: None,
            started_at: None,
            executor: None,
            error_type: None,
            error,
        });
    }
}

#[cfg(test)]
#[allow(clippy::fn_params_excessive_bools, reason = "steps of a scene take what the wire message has")]
mod tests;
