//! What becomes ready, what is skipped, and when an execution ends.

use super::{Effect, Turn};
use crate::execution::{Dispatched, Failure, Status};
use crate::plan::{TaskIndex, TaskKind};
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use serde_json::Value;
use std::sync::Arc;

/// Whether a dispatch is one more try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbering {
    /// The next attempt.
    Next,
    /// The attempt that never started.
    Same,
}

/// Whether the executor must ask before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// A fresh first delivery may start at once.
    Free,
    /// The claim is granted first.
    AskFirst,
}

impl Turn<'_> {
    pub(super) fn start(&mut self, run_at: Option<Timestamp>) {
        self.execution.changes.execution = true;
        let delayed = run_at.filter(|at| *at > self.now);
        let roots: Vec<TaskIndex> =
            (0..).zip(&self.execution.tasks).filter(|(_, task)| task.upstreams_remaining == 0).map(|(index, _)| index).collect();
        for index in 0..self.execution.tasks.len() {
            self.execution.change(u32::try_from(index).expect("TASKS_MAX"));
        }
        if let Some(at) = delayed {
            self.execution.status = WorkflowStatus::Pending;
            self.record_workflow("workflow.pending");
            for index in roots {
                self.wait_until(index, at);
            }
        } else {
            self.begin();
            for index in roots {
                self.ready(index);
            }
        }
    }

    fn begin(&mut self) {
        self.execution.status = WorkflowStatus::Running;
        self.execution.started_at = Some(self.now);
        self.record_workflow("workflow.running");
    }

    fn wait_until(&mut self, index: TaskIndex, at: Timestamp) {
        self.set_status(index, TaskStatus::Waiting);
        self.execution.change(index).due_at = Some(at);
        self.record_task("task.waiting", index);
        self.effects.push(Effect::Timer(at));
    }

    /// The last upstream has ended.
    pub(super) fn ready(&mut self, index: TaskIndex) {
        match self.planned(index).kind {
            TaskKind::Sleep { duration } => {
                let now = self.now;
                let task = self.execution.change(index);
                (task.attempt, task.started_at) = (1, Some(now));
                self.wait_until(index, now.after(duration));
            }
            TaskKind::Run { .. } | TaskKind::Handler { .. } => self.queue(index, Numbering::Next, Start::Free),
        }
    }

    /// Draws a new dispatch: from now on only it counts.
    pub(super) fn queue(&mut self, index: TaskIndex, numbering: Numbering, start: Start) {
        self.end_lease(index);
        let id = self.draws.dispatch_id();
        let ask_first = start == Start::AskFirst || self.planned(index).at_most_once;
        self.set_status(index, TaskStatus::Queued);
        let now = self.now;
        let task = self.execution.change(index);
        if numbering == Numbering::Next {
            task.attempt += 1;
        }
        (task.due_at, task.started_at, task.queued_at) = (None, None, Some(now));
        task.dispatch = Some(Dispatched { id, sequence: 0, ask_first });
        self.record_task("task.queued", index);
        self.effects.push(Effect::Publish(index));
    }

    /// A timer is due: a backoff, a sleep, a start time, or the end of a cancel's patience.
    pub(super) fn due(&mut self, index: TaskIndex) {
        if !self.execution.has_task(index) {
            return;
        }
        let task = self.execution.task(index);
        if task.due_at.is_none_or(|at| at > self.now) {
            return;
        }
        match task.status.0 {
            TaskStatus::Retrying => self.queue(index, Numbering::Next, Start::Free),
            TaskStatus::Waiting if task.attempt == 0 => self.start_time_came(index),
            TaskStatus::Waiting => self.end_task(index, TaskStatus::Completed),
            TaskStatus::Running => self.end_task(index, TaskStatus::Cancelled),
            TaskStatus::Pending
            | TaskStatus::Queued
            | TaskStatus::Completed
            | TaskStatus::Failed
            | TaskStatus::Skipped
            | TaskStatus::Cancelled => {}
        }
    }

    fn start_time_came(&mut self, index: TaskIndex) {
        if self.execution.status == WorkflowStatus::Pending {
            self.begin();
        }
        self.ready(index);
    }

    /// Ends a task with an error of the coordinator's own.
    pub(super) fn fail(&mut self, index: TaskIndex, failure: Failure) {
        self.execution.change(index).failure = Some(Arc::new(failure));
        self.end_task(index, TaskStatus::Failed);
    }

    /// Ends a task, and everything that follows from it.
    pub(super) fn end_task(&mut self, index: TaskIndex, status: TaskStatus) {
        if self.execution.task(index).status.0.is_final() {
            return;
        }
        // What can never run is closed before anything is released: it must not become ready in between.
        for ended in self.close_with_blocked(index, status) {
            self.release_dependents(ended);
            self.leave_phase(ended);
        }
        if self.execution.tasks_remaining == 0 {
            self.finish();
        }
    }

    /// Closes a task and all that can never run now; returns them.
    fn close_with_blocked(&mut self, index: TaskIndex, status: TaskStatus) -> Vec<TaskIndex> {
        let blocked_status = if self.execution.cancel_requested_at.is_some() { TaskStatus::Cancelled } else { TaskStatus::Skipped };
        self.close(index, status);
        let mut closed = vec![index];
        let mut next = 0;
        while let Some(ended) = closed.get(next).copied() {
            next += 1;
            if self.passes(ended) {
                continue;
            }
            for blocked in self.blocked_by(ended) {
                // Blocked through a task and through that task's phase: still closed once.
                if !self.execution.task(blocked).status.0.is_final() {
                    self.close(blocked, blocked_status);
                    closed.push(blocked);
                }
            }
        }
        closed
    }

    fn close(&mut self, index: TaskIndex, status: TaskStatus) {
        self.trace_attempt(index, status.as_str());
        self.end_lease(index);
        self.set_status(index, status);
        let now = self.now;
        let task = self.execution.change(index);
        task.completed_at = Some(now);
        (task.dispatch, task.due_at) = (None, None);
        self.execution.tasks_remaining -= 1;
        self.record_task(event_of(status), index);
        self.effects.push(Effect::TaskEnded(index, status));
        if status == TaskStatus::Failed && !self.planned(index).continue_on_failure && self.execution.error.is_none() {
            let message = self.execution.task(index).failure.as_ref().map_or_else(String::new, |failure| failure.message.clone());
            self.execution.error = Some(format!("task `{}` failed: {message}", self.planned(index).name));
        }
    }

    /// Whether dependents may run.
    fn passes(&self, index: TaskIndex) -> bool {
        match self.execution.task(index).status.0 {
            TaskStatus::Completed => true,
            TaskStatus::Failed => self.planned(index).continue_on_failure,
            TaskStatus::Skipped
            | TaskStatus::Cancelled
            | TaskStatus::Pending
            | TaskStatus::Queued
            | TaskStatus::Running
            | TaskStatus::Retrying
            | TaskStatus::Waiting => false,
        }
    }

    fn release_dependents(&mut self, index: TaskIndex) {
        let plan = self.execution.plan.clone();
        plan.task(index).dependents.iter().for_each(|dependent| self.upstream_ended(*dependent));
    }

    fn upstream_ended(&mut self, index: TaskIndex) {
        let task = &mut self.execution.tasks[index as usize];
        task.upstreams_remaining = task.upstreams_remaining.saturating_sub(1);
        if task.upstreams_remaining == 0 && task.status == Status(TaskStatus::Pending) {
            self.ready(index);
        }
    }

    /// Pending tasks that can never run now.
    fn blocked_by(&self, index: TaskIndex) -> impl Iterator<Item = TaskIndex> + use<> {
        let plan = &self.execution.plan;
        let of_phase = plan.task(index).phase.map(|phase| plan.phases[phase as usize].dependents.as_slice()).unwrap_or_default();
        let pending = |index: &&TaskIndex| self.execution.task(**index).status.0 == TaskStatus::Pending;
        let blocked: Vec<_> = plan.task(index).dependents.iter().chain(of_phase).filter(pending).copied().collect();
        blocked.into_iter()
    }

    fn leave_phase(&mut self, index: TaskIndex) {
        let Some(phase) = self.planned(index).phase else { return };
        let remaining = &mut self.execution.phases_remaining[phase as usize];
        *remaining = remaining.saturating_sub(1);
        if *remaining == 0 {
            let plan = self.execution.plan.clone();
            plan.phases[phase as usize].dependents.iter().for_each(|dependent| self.upstream_ended(*dependent));
        }
    }

    fn finish(&mut self) {
        let status = self.verdict();
        if status == WorkflowStatus::Completed && self.execution.plan.output.is_some() {
            self.effects.push(Effect::EvaluateOutput);
        } else {
            self.end(status);
        }
    }

    fn verdict(&self) -> WorkflowStatus {
        let tasks = || self.execution.tasks.iter().zip(&self.execution.plan.tasks);
        let failed = tasks().any(|(task, planned)| task.status.0 == TaskStatus::Failed && !planned.continue_on_failure);
        let cancelled = tasks().any(|(task, _)| task.status.0 == TaskStatus::Cancelled);
        match (cancelled, failed) {
            (true, _) if self.execution.cancel_requested_at.is_some() => WorkflowStatus::Cancelled,
            (_, true) => WorkflowStatus::Failed,
            (true, false) => WorkflowStatus::Cancelled,
            (false, false) => WorkflowStatus::Completed,
        }
    }

    fn end(&mut self, status: WorkflowStatus) {
        self.execution.status = status;
        self.execution.completed_at = Some(self.now);
        self.record_workflow(match status {
            WorkflowStatus::Failed => "workflow.failed",
            WorkflowStatus::Cancelled => "workflow.cancelled",
            WorkflowStatus::Completed | WorkflowStatus::Pending | WorkflowStatus::Running | WorkflowStatus::Paused => "workflow.completed",
        });
        self.effects.push(Effect::Ended);
    }

    pub(super) fn output_evaluated(&mut self, output: Result<Value, String>) {
        if self.execution.tasks_remaining > 0 || self.execution.status.is_final() {
            return;
        }
        match output {
            Ok(value) => {
                self.execution.output = Some(value);
                self.end(WorkflowStatus::Completed);
            }
            Err(message) => {
                self.execution.error = Some(format!("the workflow's output cannot be evaluated: {message}"));
                self.end(WorkflowStatus::Failed);
            }
        }
    }
}

fn event_of(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Completed => "task.completed",
        TaskStatus::Failed => "task.failed",
        TaskStatus::Skipped => "task.skipped",
        TaskStatus::Cancelled => "task.cancelled",
        TaskStatus::Pending => "task.pending",
        TaskStatus::Queued => "task.queued",
        TaskStatus::Running => "task.running",
        TaskStatus::Retrying => "task.retrying",
        TaskStatus::Waiting => "task.waiting",
    }
}
