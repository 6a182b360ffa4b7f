//! Cancel: final at once for what does not run; for what runs, on its outcome, its loss, or when patience ends.

use super::{Answer, Effect, Turn};
use crate::plan::TaskIndex;
use orchestr8_proto::words::TaskStatus;

impl Turn<'_> {
    /// Cancels every task that has not ended. A completion that commits first wins.
    pub(super) fn cancel(&mut self) {
        if self.execution.status.is_final() {
            return;
        }
        self.execution.cancel_requested_at.get_or_insert(self.now);
        self.execution.changes.execution = true;
        for index in 0..u32::try_from(self.execution.tasks.len()).expect("TASKS_MAX") {
            self.cancel_one(index);
        }
    }

    /// Cancels one task; its dependents are skipped.
    pub(super) fn cancel_one(&mut self, index: TaskIndex) {
        if !self.execution.has_task(index) {
            return;
        }
        match self.execution.task(index).status.0 {
            TaskStatus::Running => self.stop_run(index),
            TaskStatus::Queued => self.withdraw(index),
            TaskStatus::Pending | TaskStatus::Retrying | TaskStatus::Waiting => self.end_task(index, TaskStatus::Cancelled),
            TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Skipped | TaskStatus::Cancelled => {}
        }
    }

    fn stop_run(&mut self, index: TaskIndex) {
        let task = self.execution.task(index);
        if let Some(holder) = task.holder {
            self.effects.push(Effect::Answer(holder.run_id, holder.incarnation, Answer::Cancel));
        }
        if !task.cancel_requested() {
            let due = self.now.after(self.cancel_patience);
            self.execution.change(index).due_at = Some(due);
            self.effects.push(Effect::Timer(due));
        }
    }

    fn withdraw(&mut self, index: TaskIndex) {
        if let Some(dispatch) = self.execution.task(index).dispatch {
            self.effects.push(Effect::Drop(dispatch.id));
        }
        self.end_task(index, TaskStatus::Cancelled);
    }
}
