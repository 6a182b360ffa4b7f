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
    /// Of its only task.
    pub task: OnlyTask,
}

/// What is told of the only task of an execution.
#[derive(Debug, Clone, PartialEq)]
pub enum OnlyTask {
    /// It has not ended.
    Unfinished,
    /// It has ended: as it would be read.
    Ended(TaskResult),
    /// There are several, or it must be read.
    Untold,
}

/// What is remembered of an execution that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Its state.
    pub status: WorkflowStatus,
    /// Whether it ends with its only task.
    pub has_one_task: bool,
}

impl Standing {
    /// None: it has ended.
    pub(super) fn of(execution: &Execution) -> Option<Self> {
        let standing = Self { status: execution.status, has_one_task: execution.tasks.len() == 1 };
        (!execution.status.is_final()).then_some(standing)
    }
}

impl From<Standing> for News {
    /// An execution of one task ends with it, in one commit.
    fn from(standing: Standing) -> Self {
        Self { status: standing.status, task: if standing.has_one_task { OnlyTask::Unfinished } else { OnlyTask::Untold } }
    }
}

/// The news of an execution after a batch in which these outputs were reported.
pub(super) fn news_of(execution: &Execution, outputs: &HashMap<TaskId, Value>) -> News {
    match Standing::of(execution) {
        Some(standing) => standing.into(),
        None if execution.tasks.len() == 1 => {
            News { status: execution.status, task: result(execution, outputs).map_or(OnlyTask::Untold, OnlyTask::Ended) }
        }
        None => News { status: execution.status, task: OnlyTask::Untold },
    }
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
