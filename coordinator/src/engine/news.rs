//! What a commit tells those who wait for an execution, so that they need not read it.

use orchestr8_core::execution::Execution;
use orchestr8_proto::ids::TaskId;
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use orchestr8_store::read::tasks::TaskResult;
use serde_json::Value;
use std::collections::HashMap;

/// An execution as it is committed.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// Its state.
    pub status: WorkflowStatus,
    /// Of its only task, once that has ended, as it would be read.
    pub result: Option<TaskResult>,
}

/// The news of an execution after a batch in which these outputs were reported.
pub(super) fn news_of(execution: &Execution, outputs: &HashMap<TaskId, Value>) -> News {
    let only = execution.tasks.len() == 1 && execution.task(0).status.0.is_final();
    News { status: execution.status, result: only.then(|| result(execution, outputs)).flatten() }
}

/// None: its output came with an earlier batch.
fn result(execution: &Execution, outputs: &HashMap<TaskId, Value>) -> Option<TaskResult> {
    let (task, id) = (execution.task(0), execution.id.task(0));
    let is_completed = task.status.0 == TaskStatus::Completed;
    let failure = task.failure.as_ref().filter(|_| task.status.0 == TaskStatus::Failed);
    Some(TaskResult {
        task_id: id.0,
        status: task.status.0,
        result: if is_completed { outputs.get(&id)?.clone() } else { Value::Null },
        result_type: is_completed.then_some("summary"),
        files_created: Value::Array(Vec::new()),
        completed_at: task.completed_at.map(Into::into),
        error: failure.map(|failure| failure.message.clone()),
        error_type: failure.map(|failure| failure.error_type.clone()),
    })
}
