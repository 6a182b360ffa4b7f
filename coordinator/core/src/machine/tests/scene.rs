//! One execution on a stage: events in, effects out as words, so that a test reads as a sentence.

use super::rows::Rows;
use crate::execution::{Changes, Execution, Failure, Task, Usage};
use crate::machine::{self, Answer, Circumstances, ClaimRequest, Draws, Effect, Event, Progressed, Report, Reported};
use crate::plan::{Plan, TaskIndex};
use orchestr8_proto::ids::{DispatchId, ExecutionId, Incarnation, RunId};
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::words::TaskStatus;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long a cancel waits for a running task.
pub(super) const PATIENCE: Duration = Duration::from_secs(25);
/// A run this old that is lost starts the count anew.
pub(super) const LOSS_RESET: Duration = Duration::from_mins(10);

/// Numbers instead of randomness.
#[derive(Debug, Clone, Default)]
pub(super) struct Counter(u64);

impl Draws for Counter {
    fn dispatch_id(&mut self) -> DispatchId {
        self.0 += 1;
        DispatchId(Uuid::from_u128(self.0.into()))
    }

    fn unit(&mut self) -> f64 {
        0.5
    }
}

/// What every step in a test is told.
pub(super) fn circumstances(now: Timestamp, draws: &mut Counter) -> Circumstances<'_> {
    Circumstances { now, draws, cancel_patience: PATIENCE, loss_reset: LOSS_RESET }
}

/// A new execution of `plan`, at time zero.
pub(super) fn execution_of(plan: Plan) -> Execution {
    Execution::new(ExecutionId(Uuid::nil()), Arc::new(plan), Arc::new(Value::Null), Timestamp(0))
}

/// The execution, the rows that its commits wrote, and a clock.
pub(super) struct Scene {
    pub(super) execution: Execution,
    /// The changes of the last commit.
    pub(super) changes: Changes,
    rows: Rows,
    now: Timestamp,
    draws: Counter,
    dispatches: BTreeMap<TaskIndex, DispatchId>,
}

impl Scene {
    /// A started execution of `plan`; its first effects must be `effects`.
    pub(super) fn start(plan: Plan, effects: &str) -> Self {
        Self::start_at(plan, None, effects)
    }

    /// The same, not before `run_at`.
    pub(super) fn start_at(plan: Plan, run_at: Option<Timestamp>, effects: &str) -> Self {
        let mut scene = Self {
            execution: execution_of(plan),
            changes: Changes::default(),
            rows: Rows::default(),
            now: Timestamp(0),
            draws: Counter::default(),
            dispatches: BTreeMap::new(),
        };
        let first = machine::start(&mut scene.execution, run_at, circumstances(scene.now, &mut scene.draws));
        assert_eq!(scene.commit(&first), effects);
        scene
    }

    /// Applies `event`: exactly `effects` must follow, and what is in memory must be what the commit wrote.
    pub(super) fn check(&mut self, event: Event, effects: &str) {
        let happened = format!("{event:?}");
        let found = machine::step(&mut self.execution, event, circumstances(self.now, &mut self.draws));
        assert_eq!(self.commit(&found), effects, "after {happened}");
    }

    /// Every task's status, then the execution's, must be as in `expected`.
    pub(super) fn shows(&self, expected: &str) {
        let tasks = self.execution.plan.tasks.iter().zip(&self.execution.tasks);
        let words: Vec<String> = tasks.map(|(planned, task)| format!("{} {}", planned.name, task.status.0)).collect();
        assert_eq!(format!("{}; {}", words.join(", "), self.execution.status), expected);
    }

    /// Lets time go by.
    pub(super) fn wait(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    fn commit(&mut self, effects: &[Effect]) -> String {
        self.changes = self.execution.committed();
        self.rows.commit(&self.execution, &self.changes);
        assert_eq!(self.rows.load(), self.execution, "the rows are not what is in memory");
        for (index, task) in (0..).zip(&self.execution.tasks) {
            if let Some(dispatch) = task.dispatch {
                self.dispatches.insert(index, dispatch.id);
            }
        }
        effects.iter().map(|effect| self.words(effect)).collect::<Vec<_>>().join(", ")
    }

    fn words(&self, effect: &Effect) -> String {
        let name = |index: &TaskIndex| &self.execution.plan.task(*index).name;
        match effect {
            Effect::Publish(index) => format!("publish {}", name(index)),
            Effect::LeftQueue(index, _) => format!("left {}", name(index)),
            Effect::Answer(run, _, answer) => format!("r{} {}", run.0.as_u128(), word(*answer)),
            Effect::Confirm(run, _) => format!("confirm r{}", run.0.as_u128()),
            Effect::Drop(dispatch) => format!("drop d{}", dispatch.0.as_u128()),
            Effect::LeaseStarted(index, run, _) => format!("r{} holds {}", run.0.as_u128(), name(index)),
            Effect::LeaseEnded(run) => format!("r{} holds nothing", run.0.as_u128()),
            Effect::Timer(at) => format!("timer {}s", at.since(self.now).as_secs()),
            Effect::EvaluateOutput => "evaluate".to_owned(),
            Effect::AttemptEnded(traced) => format!("{} {} {}", traced.status, name(&traced.task), traced.attempt),
            Effect::TaskEnded(index, status) => format!("{} {status}", name(index)),
            Effect::Ended => format!("ended {}", self.execution.status),
        }
    }

    /// The task of this name.
    pub(super) fn task(&self, name: &str) -> &Task {
        self.execution.task(self.index(name))
    }

    fn index(&self, name: &str) -> TaskIndex {
        self.execution.plan.task_named(name).expect("the plan has the task")
    }

    /// Run `run` asks for the task's last dispatch.
    pub(super) fn asks(&self, name: &str, run: u64) -> Event {
        Event::Claim(self.index(name), self.request(name, run, None))
    }

    /// Run `run` of the task's last dispatch has been going on for `seconds`, and wants to be the holder.
    pub(super) fn claims(&self, name: &str, run: u64, seconds: u64) -> Event {
        Event::Claim(self.index(name), self.request(name, run, Some(Duration::from_secs(seconds))))
    }

    /// Run `run` checks the task's last dispatch.
    pub(super) fn checks(&self, name: &str, run: u64) -> Event {
        Event::Check(self.index(name), self.request(name, run, None))
    }

    fn request(&self, name: &str, run: u64, running_for: Option<Duration>) -> ClaimRequest {
        let dispatch_id = self.dispatches[&self.index(name)];
        ClaimRequest { dispatch_id, run_id: run_id(run), incarnation: incarnation(run), executor: executor(run), running_for }
    }

    /// Run `run` of the task's last dispatch ended with `result` after a second.
    pub(super) fn reports(&self, name: &str, run: u64, result: Reported) -> Event {
        let dispatch_id = self.dispatches[&self.index(name)];
        Event::Outcome(self.index(name), report(dispatch_id, run, result))
    }

    /// It completed with the output 7.
    pub(super) fn completes(&self, name: &str, run: u64) -> Event {
        self.reports(name, run, Reported::Completed(json!(7)))
    }

    /// It failed with error type `exit`, and trying again may help.
    pub(super) fn fails(&self, name: &str, run: u64) -> Event {
        self.reports(name, run, failed("exit", 0))
    }

    /// Its executor stops.
    pub(super) fn drains(&self, name: &str, run: u64, progressed: Progressed) -> Event {
        self.reports(name, run, Reported::Drained(progressed))
    }

    /// The holder `run` is gone.
    pub(super) fn loses(&self, name: &str, run: u64) -> Event {
        Event::Lost(self.index(name), run_id(run))
    }

    /// The task's timer.
    pub(super) fn due(&self, name: &str) -> Event {
        Event::Due(self.index(name))
    }

    /// Somebody cancels this task only.
    pub(super) fn cancels(&self, name: &str) -> Event {
        Event::CancelTask(self.index(name))
    }

    /// The last dispatch of the task cannot be published.
    pub(super) fn undeliverable(&self, name: &str) -> Event {
        let failure = Failure { error_type: "too_large".into(), message: "the inputs are too large".into() };
        Event::Undeliverable(self.index(name), self.dispatches[&self.index(name)], failure)
    }
}

/// The report of run `run`.
pub(super) fn report(dispatch_id: DispatchId, run: u64, result: Reported) -> Report {
    Report {
        dispatch_id,
        run_id: run_id(run),
        incarnation: incarnation(run),
        executor: executor(run),
        duration: Duration::from_secs(1),
        usage: Usage::default(),
        result,
    }
}

/// A failure of this type that another attempt may heal, after `retry_after_seconds` at the earliest.
pub(super) fn failed(error_type: &str, retry_after_seconds: u64) -> Reported {
    Reported::Failed { failure: ended_with(error_type), retryable: true, retry_after: Duration::from_secs(retry_after_seconds) }
}

/// A failure of this type that no other attempt heals.
pub(super) fn failed_for_good(error_type: &str) -> Reported {
    Reported::Failed { failure: ended_with(error_type), retryable: false, retry_after: Duration::ZERO }
}

fn ended_with(error_type: &str) -> Failure {
    Failure { error_type: error_type.into(), message: format!("it ended with {error_type}") }
}

/// Run number `run`.
pub(super) fn run_id(run: u64) -> RunId {
    RunId(Uuid::from_u128(run.into()))
}

/// The executor process of run number `run`.
pub(super) fn incarnation(run: u64) -> Incarnation {
    Incarnation(Uuid::from_u128(run.into()))
}

/// The executor's name.
pub(super) fn executor(run: u64) -> Arc<str> {
    format!("executor-{run}").into()
}

/// The statuses in which a task has ended, as the tests see it.
pub(super) fn has_ended(status: TaskStatus) -> bool {
    matches!(status, TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Skipped | TaskStatus::Cancelled)
}

fn word(answer: Answer) -> &'static str {
    match answer {
        Answer::Granted => "granted",
        Answer::Refused => "refused",
        Answer::Kill => "killed",
        Answer::Cancel => "cancelled",
        Answer::Current => "current",
    }
}
