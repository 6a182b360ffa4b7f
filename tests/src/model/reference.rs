//! The obvious reference: a ledger of what really started and ended, and what may follow from it. It knows no rule.

use super::database::Database;
use super::messages::{Ending, Told};
use orchestr8_proto::ids::{DispatchId, RunId, TaskId};
use std::collections::{BTreeMap, BTreeSet};

/// Something that must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Violation {
    /// One run's outcome changed a task twice.
    CountedTwice,
    /// An outcome changed a task that was not waiting for its dispatch, or that another run held.
    CountedForAnother,
    /// An outcome counted that no run had.
    CountedWithoutRun,
    /// A task of `at_most_once` started twice although the database lost nothing.
    StartedTwice,
    /// Two runs of one dispatch were made its holder.
    GrantedTwice,
    /// A run was confirmed whose outcome is not decided.
    ConfirmedUndecided,
    /// A verdict went over an outcome that had been published before its evidence.
    VerdictBeforeOutcome,
}

/// One run, as its executor knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LedgerRun {
    pub(super) task: TaskId,
    pub(super) dispatch: DispatchId,
    pub(super) started: bool,
    pub(super) ended: Option<Ending>,
}

/// What really happened, seen from outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Reference {
    pub(super) runs: BTreeMap<RunId, LedgerRun>,
    pub(super) violations: BTreeSet<Violation>,
    /// Commits were lost by the database: `at_most_once` is not promised.
    pub(super) database_lost: bool,
    /// Ids drawn so far, each kind by itself: states that differ in the order of drawing alone are one.
    pub(super) dispatches: u64,
    pub(super) leases: u64,
    pub(super) incarnations: u64,
    pub(super) letters: u64,
}

/// What the database holds of the past. It is lost and restored with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Judged {
    pub(super) decided: BTreeSet<RunId>,
    counted: BTreeSet<RunId>,
    granted: BTreeMap<DispatchId, RunId>,
    /// Found while stepping; it counts if the commit does.
    pub(super) found: BTreeSet<Violation>,
}

impl Reference {
    /// A run exists: its message was taken.
    pub(super) fn received(&mut self, run: RunId, task: TaskId, dispatch: DispatchId) {
        self.runs.entry(run).or_insert(LedgerRun { task, dispatch, started: false, ended: None });
    }

    /// Its command starts. `once`: the task is `at_most_once`.
    pub(super) fn started(&mut self, run: RunId, once: impl Fn(TaskId) -> bool) {
        let Some(known) = self.runs.get_mut(&run) else { return };
        known.started = true;
        let task = known.task;
        let starts = self.runs.values().filter(|other| other.task == task && other.started).count();
        if starts > 1 && once(task) && !self.database_lost {
            self.violations.insert(Violation::StartedTwice);
        }
    }

    /// It ended like this.
    pub(super) fn ended(&mut self, run: RunId, ending: Ending) {
        if let Some(known) = self.runs.get_mut(&run) {
            known.ended = Some(ending);
        }
    }

    /// Its executor says that it never started.
    pub(super) fn never_started(&mut self, run: RunId) {
        if let Some(known) = self.runs.get_mut(&run).filter(|known| !known.started) {
            known.ended = Some(Ending::NeverStarted);
        }
    }

    /// An outcome changed its task, which waited for `current` and was held by `holder`.
    pub(super) fn counted(&self, told: &Told, (current, holder): (Option<DispatchId>, Option<RunId>), judged: &mut Judged) {
        if !judged.counted.insert(told.run) {
            judged.found.insert(Violation::CountedTwice);
        }
        let Some(known) = self.runs.get(&told.run).filter(|known| known.ended == Some(told.ending)) else {
            judged.found.insert(Violation::CountedWithoutRun);
            return;
        };
        if current != Some(known.dispatch) || holder.is_some_and(|holder| holder != told.run) {
            judged.found.insert(Violation::CountedForAnother);
        }
    }

    /// Confirmations were sent.
    pub(super) fn confirmed(&mut self, runs: impl Iterator<Item = RunId>, database: &Database) {
        for run in runs {
            if !database.judged.decided.contains(&run) {
                self.violations.insert(Violation::ConfirmedUndecided);
            }
        }
    }
}

impl Judged {
    /// A run was made the holder of its dispatch.
    pub(super) fn granted(&mut self, dispatch: DispatchId, run: RunId) {
        if self.granted.insert(dispatch, run).is_some_and(|before| before != run) {
            self.found.insert(Violation::GrantedTwice);
        }
    }

    /// A verdict was committed; these runs had published before its evidence, and their outcomes are still there.
    pub(super) fn verdict(&mut self, unread: &[RunId]) {
        if unread.iter().any(|run| !self.decided.contains(run)) {
            self.found.insert(Violation::VerdictBeforeOutcome);
        }
    }
}
