//! The outputs of upstream tasks for those that read them: no more at a time than memory allows, however many are queued together.

use super::dispatches::Wanted;
use super::lane::Lane;
use orchestr8_core::execution::{Execution, Failure};
use orchestr8_core::expression::{self, TaskView};
use orchestr8_core::plan::{TaskIndex, TaskPlan, Template};
use orchestr8_proto::ids::{ExecutionId, TaskId};
use orchestr8_proto::reference::INPUTS_BYTES_LARGEST;
use orchestr8_store::StoreError;
use orchestr8_store::load::{self, Outputs};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Bytes of the outputs that one task or workflow reads, as JSON in Postgres, at most: as much as the largest inputs.
const READ_BYTES_MAX: usize = INPUTS_BYTES_LARGEST;
/// The same for dispatches that are made together; what reads more is made in smaller groups.
const READ_TOGETHER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Upstream tasks as expressions see them.
pub(super) type Views = BTreeMap<String, TaskView>;
/// The upstream tasks that each task reads.
pub(super) type Reads = HashMap<TaskId, Vec<TaskId>>;

impl Lane {
    /// The outputs that the wanted dispatches read: those just reported, and from their rows the others.
    pub(super) async fn outputs_for(
        &mut self,
        wanted: &[Wanted],
        reads: &Reads,
        known: &HashMap<TaskId, Value>,
    ) -> Result<Outputs, StoreError> {
        let read = wanted.iter().filter_map(|wanted| reads.get(&wanted.task)).flatten().copied().collect();
        let bytes_max = bytes_max(wanted.len());
        let outputs = self.outputs(read, known, bytes_max).await?;
        if wanted.len() > 1 && matches!(outputs, Outputs::TooLarge) {
            tracing::debug!(dispatches = wanted.len(), bytes_max, "these dispatches read too much to be made together");
        }
        Ok(outputs)
    }

    /// The outputs of the given tasks of an execution.
    pub(super) async fn outputs_of(
        &mut self,
        execution: &Execution,
        reads: &[TaskIndex],
        known: &HashMap<TaskId, Value>,
    ) -> Result<Outputs, StoreError> {
        let read = reads.iter().map(|index| execution.id.task(*index)).collect();
        self.outputs(read, known, READ_BYTES_MAX).await
    }

    async fn outputs(&mut self, read: BTreeSet<TaskId>, known: &HashMap<TaskId, Value>, bytes_max: usize) -> Result<Outputs, StoreError> {
        let (have, missing): (Vec<TaskId>, Vec<TaskId>) = read.into_iter().partition(|task| known.contains_key(task));
        let mut loaded = if missing.is_empty() {
            Outputs::All(HashMap::new())
        } else {
            load::outputs(&mut self.parts.connection, &missing, bytes_max).await?
        };
        if let Outputs::All(outputs) = &mut loaded {
            outputs.extend(have.into_iter().filter_map(|task| Some((task, known.get(&task)?.clone()))));
        }
        Ok(loaded)
    }
}

/// Bytes of outputs that so many dispatches, made together, may read.
const fn bytes_max(dispatches: usize) -> usize {
    if dispatches > 1 { READ_TOGETHER_BYTES_MAX } else { READ_BYTES_MAX }
}

/// Some tasks as expressions see them.
pub(super) fn views(execution: &Execution, reads: &[TaskIndex], outputs: &HashMap<TaskId, Value>) -> Views {
    let view = |index: &TaskIndex| {
        let output = outputs.get(&execution.id.task(*index)).cloned().unwrap_or(Value::Null);
        let view = TaskView { status: execution.task(*index).status.0, output: Arc::new(output) };
        (execution.plan.task(*index).name.clone(), view)
    };
    reads.iter().map(view).collect()
}

/// What each of these dispatches reads; expressions are parsed for it, so it is found once, however small the groups become.
pub(super) fn reads_of_all(wanted: &[Wanted], executions: &HashMap<ExecutionId, Execution>) -> Reads {
    let of_one = |wanted: &Wanted| {
        let execution = executions.get(&wanted.task.execution())?;
        let reads = reads_of(execution, wanted.task.index()).into_iter().map(|index| execution.id.task(index)).collect();
        Some((wanted.task, reads))
    };
    wanted.iter().filter_map(of_one).collect()
}

/// The tasks whose outputs a task reads, in order and once each.
pub(super) fn reads_of(execution: &Execution, index: TaskIndex) -> Vec<TaskIndex> {
    let mut reads: Vec<TaskIndex> =
        templates(execution.plan.task(index)).flat_map(|template| expression::reads(template, &execution.plan)).collect();
    reads.sort_unstable();
    reads.dedup();
    reads
}

fn templates(planned: &TaskPlan) -> impl Iterator<Item = &Template> {
    planned.with.values().chain(planned.env.values()).chain(&planned.prompt)
}

/// What is read alone is too much.
pub(super) fn too_much_to_read() -> Failure {
    let message = format!(
        "the outputs that it reads have more than {READ_BYTES_MAX} bytes together: let tasks pass references, such as paths or URLs"
    );
    Failure { error_type: "too_large".into(), message }
}

/// Nobody may go on as if there were no output.
pub(super) fn unreadable(error: &str) -> Failure {
    Failure { error_type: "internal".into(), message: format!("an output that it reads cannot be read: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_together_reads_less_than_what_is_made_alone() {
        assert_eq!([1, 2, 1_000].map(bytes_max), [64 << 20, 16 << 20, 16 << 20]);
    }
}
