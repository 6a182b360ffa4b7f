//! The coordinator's answers, as far as commands read them. `-o json` shows the whole answer instead.

#![allow(clippy::struct_field_names, reason = "the names are those of the API")]

use orchestr8_proto::ids::{ExecutionId, TaskId};
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// `POST /api/v1/tasks`, one element of it for an array.
#[derive(Debug, Clone, Deserialize)]
pub struct TaskAccepted {
    /// The new task.
    pub task_id: TaskId,
    /// What comes with it.
    #[serde(flatten)]
    pub remarks: Remarks,
}

/// `POST /api/v1/workflows`.
#[derive(Debug, Clone, Deserialize)]
pub struct WorkflowAccepted {
    /// The new execution.
    pub workflow_id: ExecutionId,
    /// What comes with it.
    #[serde(flatten)]
    pub remarks: Remarks,
}

/// What an accepted submission should be told with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Remarks {
    /// What is accepted but may not be what the caller expects.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// It was submitted before, under the same idempotency key.
    #[serde(default)]
    pub replayed: bool,
}

/// `GET /api/v1/workflows/{id}`, and an element of `GET /api/v1/workflows`.
#[derive(Debug, Clone, Deserialize)]
pub struct Workflow {
    /// The execution.
    pub workflow_id: ExecutionId,
    /// The definition's name; `task` for a single task.
    pub workflow_name: String,
    /// Its state.
    pub status: WorkflowStatus,
    /// When it was accepted.
    #[serde(deserialize_with = "timestamp")]
    pub created_at: OffsetDateTime,
    /// When its first task started.
    #[serde(default, deserialize_with = "maybe_timestamp")]
    pub started_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(default, deserialize_with = "maybe_timestamp")]
    pub completed_at: Option<OffsetDateTime>,
    /// Its result, once it completed.
    #[serde(default)]
    pub output: Value,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
}

/// `GET /api/v1/tasks` and `GET /api/v1/workflows/{id}/tasks`, one page.
#[derive(Debug, Clone, Deserialize)]
pub struct TaskPage {
    /// Newest first; of one workflow in the order of the definition.
    pub tasks: Vec<Task>,
}

/// `GET /api/v1/workflows`, one page.
#[derive(Debug, Clone, Deserialize)]
pub struct WorkflowPage {
    /// Newest first.
    pub workflows: Vec<Workflow>,
}

/// A task in a list, or alone.
#[derive(Debug, Clone, Deserialize)]
pub struct Task {
    /// The task.
    pub task_id: TaskId,
    /// Its name in the definition.
    #[serde(default)]
    pub name: String,
    /// The phase it belongs to.
    #[serde(default)]
    pub phase: Option<String>,
    /// Its state.
    pub status: TaskStatus,
    /// The agent, else the handler, else the kind.
    #[serde(default)]
    pub agent_name: Option<String>,
    /// Who runs it, or ran it last.
    #[serde(default)]
    pub executor_id: Option<String>,
    /// When it was accepted.
    #[serde(default, deserialize_with = "maybe_timestamp")]
    pub created_at: Option<OffsetDateTime>,
    /// The first start.
    #[serde(default, deserialize_with = "maybe_timestamp")]
    pub started_at: Option<OffsetDateTime>,
    /// The end.
    #[serde(default, deserialize_with = "maybe_timestamp")]
    pub completed_at: Option<OffsetDateTime>,
    /// When the next attempt is due, while retrying.
    #[serde(default, deserialize_with = "maybe_timestamp")]
    pub next_retry_at: Option<OffsetDateTime>,
    /// When its timer moves it on: the time that it was submitted for, the end of a sleep, the next attempt.
    #[serde(default, deserialize_with = "maybe_timestamp")]
    pub due_at: Option<OffsetDateTime>,
    /// Attempts so far, the current one included.
    #[serde(default)]
    pub attempts: u32,
    /// Attempts in all that the policy allows.
    #[serde(default)]
    pub max_attempts: u32,
    /// Message of the last failure.
    #[serde(default)]
    pub error: Option<String>,
    /// Stable word for the last failure.
    #[serde(default)]
    pub error_type: Option<String>,
    /// The latest attempts that left a trace, oldest first; only where one task is asked for.
    #[serde(default)]
    pub attempt_history: Vec<Attempt>,
}

impl Task {
    /// Whether it failed because its last run was lost or given back: one that may be started only once has no next.
    pub fn is_ended_by_loss(&self) -> bool {
        self.status == TaskStatus::Failed && self.error_type.as_deref() == Some("lost")
    }
}

/// One attempt that left a trace.
#[derive(Debug, Clone, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub attempt: u32,
    /// `completed`, `failed`, `released` or `lost`.
    pub outcome: String,
    /// Where it ran.
    pub executor_id: String,
    /// Message of the failure.
    #[serde(default)]
    pub error: Option<String>,
    /// Stable word for the failure.
    #[serde(default)]
    pub error_type: Option<String>,
    /// The end of what it wrote to stdout.
    #[serde(default)]
    pub stdout_tail: Option<String>,
    /// The end of what it wrote to stderr.
    #[serde(default)]
    pub stderr_tail: Option<String>,
}

/// `GET /api/v1/tasks/{id}/result`.
#[derive(Debug, Clone, Deserialize)]
pub struct TaskResult {
    /// The task.
    pub task_id: TaskId,
    /// Its state.
    pub status: TaskStatus,
    /// What it returned, once it completed.
    #[serde(default)]
    pub result: Value,
    /// Message of the last failure.
    #[serde(default)]
    pub error: Option<String>,
    /// Stable word for the last failure.
    #[serde(default)]
    pub error_type: Option<String>,
}

/// `GET /api/v1/quarantine`, one page.
#[derive(Debug, Clone, Deserialize)]
pub struct QuarantinePage {
    /// Newest first.
    pub events: Vec<QuarantinedEvent>,
}

/// An event that could not be applied.
#[derive(Debug, Clone, Deserialize)]
pub struct QuarantinedEvent {
    /// Of the entry.
    pub id: Uuid,
    /// What it was.
    pub kind: String,
    /// The execution that it was for.
    #[serde(default)]
    pub workflow_id: Option<Uuid>,
    /// Its name.
    #[serde(default)]
    pub workflow_name: Option<String>,
    /// The task that it was about.
    #[serde(default)]
    pub task_id: Option<Uuid>,
    /// Its name in the definition.
    #[serde(default)]
    pub task_name: Option<String>,
    /// Why it could not be applied.
    pub error: String,
    /// How often it came.
    pub seen_count: u64,
    /// Whether a redrive does something.
    pub redrivable: bool,
    /// When it came first.
    #[serde(deserialize_with = "timestamp")]
    pub created_at: OffsetDateTime,
    /// When it came last.
    #[serde(deserialize_with = "timestamp")]
    pub last_seen_at: OffsetDateTime,
    /// What is known of it; only where one entry is asked for.
    #[serde(default)]
    pub event: Value,
}

/// `type: message`, as far as both are known; a message that begins with its type says it once.
#[must_use]
pub fn error_text(error_type: Option<&str>, error: Option<&str>) -> Option<String> {
    match (error_type, error) {
        (Some(kind), Some(message)) if message.split(' ').next() == Some(kind) => Some(message.to_owned()),
        (Some(kind), Some(message)) => Some(format!("{kind}: {message}")),
        (None, Some(text)) | (Some(text), None) => Some(text.to_owned()),
        (None, None) => None,
    }
}

pub(super) fn timestamp<'de, D: Deserializer<'de>>(from: D) -> Result<OffsetDateTime, D::Error> {
    let text = String::deserialize(from)?;
    OffsetDateTime::parse(&text, &Rfc3339).map_err(serde::de::Error::custom)
}

pub(super) fn maybe_timestamp<'de, D: Deserializer<'de>>(from: D) -> Result<Option<OffsetDateTime>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| OffsetDateTime::parse(&text, &Rfc3339).map_err(serde::de::Error::custom)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_task_is_read_from_a_list_and_alone() {
        let id = ExecutionId::generate(1, 1, &mut rand::rng()).task(0);
        let listed =
            json!({"task_id": id, "status": "running", "attempts": 2, "started_at": "2026-01-01T00:00:00.25Z", "completed_at": null});
        let listed: Task = serde_json::from_value(listed).expect("a task");
        assert_eq!((listed.attempts, listed.started_at.is_some(), listed.completed_at), (2, true, None));
        let attempt = json!({"attempt": 1, "outcome": "failed", "executor_id": "e", "stderr_tail": "oops", "exit_code": 3});
        let alone = json!({"task_id": id, "status": "failed", "attempts": 1, "attempt_history": [attempt]});
        let alone: Task = serde_json::from_value(alone).expect("a task");
        assert_eq!(alone.attempt_history[0].stderr_tail.as_deref(), Some("oops"));
    }

    #[test]
    fn an_unknown_state_is_an_error_and_not_a_default() {
        let id = ExecutionId::generate(1, 1, &mut rand::rng()).task(0);
        assert!(serde_json::from_value::<Task>(json!({"task_id": id, "status": "dreaming"})).is_err());
    }

    #[test]
    fn an_error_is_shown_with_its_type() {
        assert_eq!(error_text(None, None), None);
        assert_eq!(error_text(None, Some("gone")).as_deref(), Some("gone"));
        assert_eq!(error_text(Some("signal"), Some("ended by SIGKILL")).as_deref(), Some("signal: ended by SIGKILL"));
        assert_eq!(error_text(Some("exit"), Some("exit code 3: exit")).as_deref(), Some("exit code 3: exit"));
        assert_eq!(error_text(Some("exit"), Some("exits")).as_deref(), Some("exit: exits"));
    }
}
