//! Postgres, as far as the protocol needs it: rows, one shard's lease, fenced commits with versions.

use super::mail::{Letter, LetterId};
use super::reference::Judged;
use orchestr8_core::execution::{Dispatched, Execution};
use orchestr8_proto::ids::{DispatchId, ExecutionId, TaskId};
use orchestr8_proto::words::TaskStatus;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

/// How far the outcomes are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Position {
    pub(super) incarnation: u64,
    pub(super) sequence: u64,
    pub(super) time_us: i64,
}

/// The row of the marks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct MarkRow {
    pub(super) published_through: i64,
    pub(super) tried_through: i64,
    pub(super) stream: u64,
    pub(super) checkpoints: Vec<(i64, u64)>,
}

/// Why a commit was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The lease is another's.
    Fenced,
    /// A row has another version than was read.
    Version,
}

/// A queued row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct QueuedRow {
    pub(super) task: TaskId,
    pub(super) dispatch: DispatchId,
    pub(super) sequence: i64,
    pub(super) ask_first: bool,
}

/// All that is durable.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Database {
    pub(super) rows: BTreeMap<ExecutionId, Execution>,
    pub(super) lease: u64,
    /// The lease runs out then, microseconds; unused where nothing has a clock.
    pub(super) lease_until_us: i64,
    pub(super) marks: Option<MarkRow>,
    pub(super) position: Option<Position>,
    /// Of the shard; without a fence, anybody may write into it.
    pub(super) inbox: BTreeMap<LetterId, Letter>,
    pub(super) judged: Judged,
}

/// What one commit writes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// With the version that each had when it was read.
    pub(super) executions: Vec<(i64, Execution)>,
    pub(super) marks: Option<MarkRow>,
    /// Letters that are decided with it.
    pub(super) letters: Vec<LetterId>,
    pub(super) judged: Judged,
}

impl Database {
    /// Writes a batch, all or nothing.
    pub(super) fn commit(&mut self, lease: u64, batch: Batch) -> Result<(), Refused> {
        if self.lease != lease {
            return Err(Refused::Fenced);
        }
        let stored = |id: &ExecutionId| self.rows.get(id).map_or(0, |row| row.version);
        if batch.executions.iter().any(|(expected, execution)| stored(&execution.id) != *expected) {
            return Err(Refused::Version);
        }
        self.rows.extend(batch.executions.into_iter().map(|(_, execution)| (execution.id, execution)));
        self.marks = batch.marks.or(self.marks.take());
        self.inbox.retain(|letter, _| !batch.letters.contains(letter));
        self.judged = batch.judged;
        Ok(())
    }

    /// Queued rows whose sequence lies above the first and up to the second, in order.
    pub(super) fn queued(&self, (above, through): (i64, i64)) -> Vec<QueuedRow> {
        let mut rows = Vec::new();
        for execution in self.rows.values() {
            for (index, task) in (0..).zip(&execution.tasks) {
                let Some(dispatch) = task.dispatch.filter(|_| task.status.0 == TaskStatus::Queued) else { continue };
                if dispatch.sequence > above && dispatch.sequence <= through {
                    let Dispatched { id, sequence, ask_first } = dispatch;
                    rows.push(QueuedRow { task: execution.id.task(index), dispatch: id, sequence, ask_first });
                }
            }
        }
        rows.sort_by_key(|row| row.sequence);
        rows
    }

    /// Whether every execution has ended.
    pub(super) fn all_ended(&self) -> bool {
        self.rows.values().all(|row| row.status.is_final())
    }
}

/// Timestamps, history and plan are left out: where a state is hashed there is no clock, and the plan never changes.
pub(super) fn hash_execution(execution: &Execution, hasher: &mut impl Hasher) {
    (execution.id, execution.version, execution.status.as_str(), execution.cancel_requested_at.is_some()).hash(hasher);
    for task in &execution.tasks {
        let dispatch = task.dispatch.map(|dispatch| (dispatch.id, dispatch.sequence, dispatch.ask_first));
        let holder = task.holder.map(|holder| (holder.run_id, holder.incarnation));
        (task.status.0.as_str(), task.attempt, task.retry_count, task.losses_in_row, task.due_at.is_some()).hash(hasher);
        (dispatch, holder, task.executor.as_deref()).hash(hasher);
    }
}

impl Hash for Database {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for execution in self.rows.values() {
            hash_execution(execution, hasher);
        }
        (self.lease, &self.marks, self.position, &self.inbox, &self.judged).hash(hasher);
    }
}
