//! When what was done to whom: what the verdict on losses and on restored databases needs.

use super::rows::LossRow;
use std::time::{Duration, SystemTime};

/// Of one run.
#[derive(Debug, Default)]
pub struct History {
    /// Executors that could not be heard alone.
    pub absences: Vec<Absence>,
    /// Databases that went back.
    pub restores: Vec<Restore>,
    /// Processes that ended by themselves and were started again, as an orchestrator of containers does.
    pub exits: Vec<String>,
}

/// An executor that was killed, paused, stopped or cut off alone.
#[derive(Debug, Clone)]
pub struct Absence {
    /// Its name.
    pub executor: String,
    /// From then.
    pub from: SystemTime,
    /// Until then; none: still.
    pub to: Option<SystemTime>,
}

/// A database that went back: what was committed between the two is lost.
#[derive(Debug, Clone, Copy)]
pub struct Restore {
    /// When the copy was begun.
    pub copied: SystemTime,
    /// When the copy was in its place.
    pub restored: SystemTime,
}

/// How long things may take without being wrong.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the end of an executor's absence to the decision on its runs.
    pub verdict: Duration,
    /// From the end of an executor's absence to the grant of what it claimed before.
    pub claim: Duration,
}

impl History {
    /// An executor cannot be heard from now on.
    pub fn leaves(&mut self, executor: String) {
        self.absences.push(Absence { executor, from: SystemTime::now(), to: None });
    }

    /// It can again.
    pub fn returns(&mut self, executor: &str) {
        let open = self.absences.iter_mut().filter(|absence| absence.executor == executor && absence.to.is_none());
        open.for_each(|absence| absence.to = Some(SystemTime::now()));
    }

    /// Whether a loss has a reason: its executor's absence, in which the run had begun already, or a database that went back.
    #[must_use]
    pub fn explains_loss(&self, loss: &LossRow, patience: Patience) -> bool {
        let LossRow { executor, begun, decided, .. } = loss;
        let within = |from: SystemTime, to: SystemTime| from <= *decided && *decided <= to + patience.verdict;
        let absent = |absence: &Absence| {
            let to = absence.to.unwrap_or(*decided);
            absence.executor == *executor && within(absence.from, to) && begun.is_none_or(|begun| begun <= to + patience.claim)
        };
        self.absences.iter().any(absent) || self.restores.iter().any(|restore| within(restore.restored, restore.restored))
    }

    /// Whether what was committed then may have been lost with the database.
    #[must_use]
    pub fn lost_with_database(&self, committed: SystemTime) -> bool {
        self.restores.iter().any(|restore| (restore.copied..=restore.restored).contains(&committed))
    }
}
