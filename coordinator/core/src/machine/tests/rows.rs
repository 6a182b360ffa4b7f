//! A stand-in for the database: it learns only what a commit reports as changed.

use crate::execution::{Changes, Execution, Task};
use crate::plan::TaskIndex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The rows of one execution.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    execution: Option<Execution>,
    tasks: BTreeMap<TaskIndex, Task>,
}

impl Rows {
    /// Writes what `changes` names, and nothing else, from the committed execution.
    pub(super) fn commit(&mut self, committed: &Execution, changes: &Changes) {
        if changes.execution {
            self.execution = Some(Execution { tasks: Vec::new(), phases_remaining: Vec::new(), tasks_remaining: 0, ..committed.clone() });
        }
        for index in &changes.tasks {
            let row = Task { upstreams_remaining: 0, changed: false, ..committed.task(*index).clone() };
            self.tasks.insert(*index, row);
        }
    }

    /// The execution as a coordinator without a cache finds it.
    pub(super) fn load(&self) -> Execution {
        let row = self.execution.as_ref().expect("the first commit writes the execution");
        let mut loaded = Execution::new(row.id, Arc::clone(&row.plan), Arc::clone(&row.input), row.created_at);
        let tasks = (0..).zip(&loaded.tasks).map(|(index, unwritten)| self.tasks.get(&index).unwrap_or(unwritten).clone()).collect();
        loaded = Execution { tasks, ..row.clone() };
        loaded.derive();
        loaded
    }
}
