//! Outcomes, losses and dispatches that cannot be delivered: what each does to its task.

use super::advance::{Numbering, Start};
use super::{Effect, LOSSES_IN_ROW_MAX, Progressed, Report, Reported, Turn};
use crate::execution::{AttemptOutcome, AttemptRecord, Failure, Usage};
use crate::plan::{TaskIndex, TaskKind};
use crate::retry::{self, FailedAttempt};
use orchestr8_proto::ids::{DispatchId, RunId};
use orchestr8_proto::words::TaskStatus;
use std::sync::Arc;
use std::time::Duration;

/// What executors call the end of a run that was told to end.
const KILLED: &str = "killed";

impl Turn<'_> {
    /// Decides an outcome. It counts only for the current dispatch, from its holder where there is one (rule R1).
    pub(super) fn outcome(&mut self, index: TaskIndex, report: Report) {
        self.effects.push(Effect::Confirm(report.run_id, report.incarnation));
        if !self.counts(index, report.dispatch_id, report.run_id) {
            return;
        }
        let now = self.now;
        let task = self.execution.change(index);
        task.executor = Some(report.executor.clone());
        // The claim arrived some time after the start: the duration tells it better, if it tells an earlier one.
        let by_duration = now.before(report.duration);
        task.started_at = Some(task.started_at.map_or(by_duration, |claimed| claimed.min(by_duration)));
        let cancelling = task.cancel_requested();
        match report.result.clone() {
            Reported::Completed(output) => self.completed(index, report, output),
            Reported::Failed { failure, .. } if cancelling => self.cancelled_run(index, report, failure),
            Reported::Failed { failure, retryable, retry_after } => {
                self.failed(index, report, failure, (retryable, retry_after));
            }
            Reported::Drained(_) | Reported::Unsupported(_) if cancelling => {
                self.keep_attempt(index, report, AttemptOutcome::Released, None);
                self.end_task(index, TaskStatus::Cancelled);
            }
            Reported::Drained(progressed) => self.drained(index, report, progressed),
            Reported::Unsupported(detail) => self.unsupported(index, detail),
        }
    }

    pub(super) fn counts(&self, index: TaskIndex, dispatch: DispatchId, run: RunId) -> bool {
        self.execution.has_task(index) && {
            let task = self.execution.task(index);
            task.is_current(dispatch) && task.holder.is_none_or(|holder| holder.run_id == run)
        }
    }

    fn completed(&mut self, index: TaskIndex, mut report: Report, output: serde_json::Value) {
        let claimed = self.execution.task(index).holder.is_some();
        if claimed || report.usage != Usage::default() {
            // A script has completed only if it exited with 0; the message does not repeat it.
            report.usage.exit_code = matches!(self.planned(index).kind, TaskKind::Run { .. }).then_some(0);
            self.keep_attempt(index, report, AttemptOutcome::Completed, None);
        }
        if !output.is_null() {
            self.execution.changes.results.push((index, output));
        }
        let task = self.execution.change(index);
        (task.losses_in_row, task.releases_in_row, task.failure) = (0, 0, None);
        self.end_task(index, TaskStatus::Completed);
    }

    /// The executor knows that it ended the run, and not always why.
    fn cancelled_run(&mut self, index: TaskIndex, report: Report, mut failure: Failure) {
        if failure.error_type == KILLED {
            failure = Failure { error_type: "cancelled".into(), message: "it was cancelled while it ran".into() };
        }
        self.keep_attempt(index, report, AttemptOutcome::Failed, Some(Arc::new(failure)));
        self.end_task(index, TaskStatus::Cancelled);
    }

    fn failed(&mut self, index: TaskIndex, report: Report, failure: Failure, (retryable, retry_after): (bool, Duration)) {
        let failure = Arc::new(failure);
        self.keep_attempt(index, report, AttemptOutcome::Failed, Some(failure.clone()));
        let unit = self.draws.unit();
        let task = self.execution.change(index);
        task.failure = Some(failure.clone());
        (task.losses_in_row, task.releases_in_row) = (0, 0);
        let attempt = FailedAttempt { error_type: &failure.error_type, retryable, retry_after, retry_count: task.retry_count };
        match retry::next_attempt(&self.execution.plan.task(index).retry, attempt, unit) {
            None => self.end_task(index, TaskStatus::Failed),
            Some(wait) => {
                self.trace_attempt(index, TaskStatus::Retrying.as_str());
                self.execution.change(index).retry_count += 1;
                self.retry_after(index, wait);
            }
        }
    }

    /// The next attempt is a timer; a zero wait is queued in the same commit.
    fn retry_after(&mut self, index: TaskIndex, wait: Duration) {
        if wait.is_zero() {
            return self.queue(index, Numbering::Next, Start::Free);
        }
        self.end_lease(index);
        self.set_status(index, TaskStatus::Retrying);
        let due = self.now.after(wait);
        let task = self.execution.change(index);
        (task.due_at, task.dispatch) = (Some(due), None);
        self.record_task("task.retrying", index);
        self.effects.push(Effect::Timer(due));
    }

    /// A drain is not the task's failure and is never counted.
    fn drained(&mut self, index: TaskIndex, report: Report, progressed: Progressed) {
        let started = progressed == Progressed::Started;
        if started {
            self.keep_attempt(index, report, AttemptOutcome::Released, None);
        }
        if started && self.planned(index).at_most_once {
            return self.fail(index, lost("its executor was stopped while it ran"));
        }
        self.record_task("task.released", index);
        if started {
            self.trace_attempt(index, AttemptOutcome::Released.as_str());
            return self.queue(index, Numbering::Next, Start::Free);
        }
        // The attempt is given out again as it was: one that followed a loss still asks first.
        let asked_first = self.execution.task(index).dispatch.is_some_and(|dispatch| dispatch.ask_first);
        self.queue(index, Numbering::Same, if asked_first { Start::AskFirst } else { Start::Free });
    }

    fn unsupported(&mut self, index: TaskIndex, detail: String) {
        let task = self.execution.change(index);
        task.releases_in_row = task.releases_in_row.saturating_add(1);
        task.failure = Some(Arc::new(Failure { error_type: "unsupported".into(), message: detail }));
        // The attempt never began: its number is given out again.
        (task.attempt, task.started_at) = (task.attempt.saturating_sub(1), None);
        let wait = retry::release_wait(task.releases_in_row);
        self.retry_after(index, wait);
    }

    /// The holder is gone. What it published before has been decided already (rule R6).
    pub(super) fn lost(&mut self, index: TaskIndex, run: RunId) {
        if !self.execution.has_task(index) || self.execution.task(index).holder.is_none_or(|holder| holder.run_id != run) {
            return;
        }
        self.keep_lost_attempt(index, run);
        if self.execution.task(index).cancel_requested() {
            return self.end_task(index, TaskStatus::Cancelled);
        }
        if self.planned(index).at_most_once {
            return self.fail(index, lost("its executor fell silent, and at_most_once forbids another start"));
        }
        let losses = self.count_loss(index);
        if losses >= LOSSES_IN_ROW_MAX {
            return self.fail(index, lost(&format!("lost {losses} executors in a row")));
        }
        self.trace_attempt(index, AttemptOutcome::Lost.as_str());
        self.record_task("task.lost", index);
        self.queue(index, Numbering::Next, Start::AskFirst);
    }

    fn count_loss(&mut self, index: TaskIndex) -> u32 {
        let (now, reset) = (self.now, self.loss_reset);
        let task = self.execution.change(index);
        let healthy = task.started_at.is_some_and(|started| now.since(started) >= reset);
        task.losses_in_row = if healthy { 1 } else { task.losses_in_row + 1 };
        task.failure = Some(Arc::new(lost("its executor fell silent")));
        task.losses_in_row
    }

    /// Nothing was published, and never can be. What runs was published after all, whatever happened to a repetition.
    pub(super) fn undeliverable(&mut self, index: TaskIndex, dispatch: DispatchId, failure: Failure) {
        if !self.execution.has_task(index) {
            return;
        }
        let task = self.execution.task(index);
        if task.status.0 == TaskStatus::Queued && task.is_current(dispatch) {
            self.fail(index, failure);
        }
    }

    fn keep_attempt(&mut self, index: TaskIndex, report: Report, outcome: AttemptOutcome, failure: Option<Arc<Failure>>) {
        let task = self.execution.task(index);
        let record = AttemptRecord {
            task: index,
            attempt: task.attempt,
            run_id: report.run_id,
            executor: report.executor,
            started_at: task.started_at,
            ended_at: self.now,
            outcome,
            failure,
            usage: report.usage,
        };
        self.execution.changes.attempts.push(record);
    }

    fn keep_lost_attempt(&mut self, index: TaskIndex, run_id: RunId) {
        let task = self.execution.task(index);
        let record = AttemptRecord {
            task: index,
            attempt: task.attempt,
            run_id,
            executor: task.executor.clone().unwrap_or_else(|| Arc::from("")),
            started_at: task.started_at,
            ended_at: self.now,
            outcome: AttemptOutcome::Lost,
            failure: Some(Arc::new(lost("its executor fell silent"))),
            usage: Usage::default(),
        };
        self.execution.changes.attempts.push(record);
    }
}

fn lost(why: &str) -> Failure {
    Failure { error_type: "lost".into(), message: why.into() }
}
