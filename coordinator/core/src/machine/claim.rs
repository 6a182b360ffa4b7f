//! Claims and checks: who may run a dispatch (rules R1, R4, R5).

use super::{Answer, ClaimRequest, Effect, Turn};
use crate::execution::Holder;
use crate::plan::TaskIndex;
use orchestr8_proto::words::TaskStatus;

impl Turn<'_> {
    /// Grants the claim of a current dispatch that nobody holds. A repeated claim by the holder gets the same grant.
    pub(super) fn claim(&mut self, index: TaskIndex, request: &ClaimRequest) {
        let answer =
            if self.counts(index, request.dispatch_id, request.run_id) { self.grant(index, request) } else { self.refusal(index, request) };
        self.effects.push(Effect::Answer(request.run_id, request.incarnation, answer));
    }

    fn grant(&mut self, index: TaskIndex, request: &ClaimRequest) -> Answer {
        let task = self.execution.task(index);
        if task.cancel_requested() {
            // Only the holder gets here: its end is waited for, and who is refused reports none.
            return Answer::Cancel;
        }
        if task.holder.is_none() {
            self.hold(index, request);
        }
        // Also for a repeated claim: a coordinator that took over learns of the lease again.
        self.effects.push(Effect::LeaseStarted(index, request.run_id, request.incarnation));
        Answer::Granted
    }

    fn hold(&mut self, index: TaskIndex, request: &ClaimRequest) {
        self.set_status(index, TaskStatus::Running);
        let started_at = self.now.before(request.running_for.unwrap_or_default());
        let task = self.execution.change(index);
        task.holder = Some(Holder { run_id: request.run_id, incarnation: request.incarnation });
        task.executor = Some(request.executor.clone());
        task.started_at = Some(started_at);
        self.record_task("task.running", index);
    }

    /// Says whether the dispatch is current and free, or the run's own. Changes nothing.
    pub(super) fn check(&mut self, index: TaskIndex, request: &ClaimRequest) {
        let free = self.counts(index, request.dispatch_id, request.run_id) && !self.execution.task(index).cancel_requested();
        let answer = if free { Answer::Current } else { self.refusal(index, request) };
        self.effects.push(Effect::Answer(request.run_id, request.incarnation, answer));
    }

    /// A run that only asks is answered, one that has started is killed (rule R4).
    fn refusal(&self, index: TaskIndex, request: &ClaimRequest) -> Answer {
        let is_cancelled = || self.execution.has_task(index) && self.execution.task(index).status.0 == TaskStatus::Cancelled;
        match request.running_for {
            None => Answer::Refused,
            Some(_) if is_cancelled() => Answer::Cancel,
            Some(_) => Answer::Kill,
        }
    }
}
