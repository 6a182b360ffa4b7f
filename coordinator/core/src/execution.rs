//! The live state of one workflow execution, and what one batch changed in it.

use crate::plan::{Plan, TaskIndex};
use orchestr8_proto::ids::{DispatchId, ExecutionId, Incarnation, RunId, TaskId};
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::traces::TraceParent;
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// One workflow execution: its rows, and what follows from them.
#[derive(Debug, Clone, PartialEq)]
pub struct Execution {
    /// Names the shard; the tasks' ids follow from it.
    pub id: ExecutionId,
    /// Version of the stored row; 0: not stored yet.
    pub version: i64,
    /// What is executed; shared with all executions of the same definition.
    pub plan: Arc<Plan>,
    /// What expressions read as `input`.
    pub input: Arc<Value>,
    /// See [`WorkflowStatus`] for who enters and leaves each.
    pub status: WorkflowStatus,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When the first task became ready.
    pub started_at: Option<Timestamp>,
    /// When the last task ended.
    pub completed_at: Option<Timestamp>,
    /// Why it failed, for people.
    pub error: Option<String>,
    /// The evaluated `output`, until it is committed.
    pub output: Option<Value>,
    /// When somebody cancelled the whole execution.
    pub cancel_requested_at: Option<Timestamp>,
    /// The span that submitted it; none: nobody traces it.
    pub trace: Option<TraceParent>,
    /// Sequence of the last event in its history.
    pub event_sequence: i64,
    /// By index in the plan.
    pub tasks: Vec<Task>,
    /// Derived: tasks that have not ended.
    pub tasks_remaining: u32,
    /// Derived: by phase, tasks that have not ended.
    pub phases_remaining: Vec<u32>,
    /// Derived: bytes that the input takes in memory, about.
    pub input_bytes: usize,
    /// What changed since the last commit.
    pub changes: Changes,
}

/// One task of an execution. Small: outputs live in their rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Task {
    /// See [`TaskStatus`] for who enters and leaves each.
    pub status: Status,
    /// Number of the current or last attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// Failed attempts that were followed by another.
    pub retry_count: u32,
    /// Runs lost in a row.
    pub losses_in_row: u32,
    /// Releases as unsupported in a row.
    pub releases_in_row: u32,
    /// The current publication; none once its outcome is decided.
    pub dispatch: Option<Dispatched>,
    /// The run whose claim was granted.
    pub holder: Option<Holder>,
    /// When a timer changes the task. On a running task: when its cancel stops waiting for the executor.
    pub due_at: Option<Timestamp>,
    /// Name of the executor that ran it last.
    pub executor: Option<Arc<str>>,
    /// When it was last queued.
    pub queued_at: Option<Timestamp>,
    /// Start of the current or last attempt.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// The last failure.
    pub failure: Option<Arc<Failure>>,
    /// Derived: upstream tasks and phases that have not ended.
    pub upstreams_remaining: u32,
    /// Already listed in the changes of this batch.
    pub changed: bool,
}

/// [`TaskStatus`] with a default, so that rows can be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub TaskStatus);

impl Default for Status {
    fn default() -> Self {
        Self(TaskStatus::Pending)
    }
}

/// One publication of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dispatched {
    /// Drawn anew by every deliberate dispatch.
    pub id: DispatchId,
    /// Its place within shard, queue and priority; drawn by the lane before the commit, 0 until then.
    pub sequence: i64,
    /// A claim must be granted before the start.
    pub ask_first: bool,
}

/// The run that has the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// One start by one executor.
    pub run_id: RunId,
    /// The executor's process.
    pub incarnation: Incarnation,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A stable word.
    pub error_type: String,
    /// For people.
    pub message: String,
}

/// Rows that one batch must write for an execution.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// The execution's own row.
    pub execution: bool,
    /// Task rows, each once.
    pub tasks: Vec<TaskIndex>,
    /// Outputs of completed tasks.
    pub results: Vec<(TaskIndex, Value)>,
    /// Attempts that leave a row.
    pub attempts: Vec<AttemptRecord>,
    /// History, in order.
    pub history: Vec<HistoryEvent>,
}

/// How an attempt ended, for its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// With output.
    Completed,
    /// With an error of its own.
    Failed,
    /// Given back by its executor.
    Released,
    /// Its executor fell silent.
    Lost,
}

impl AttemptOutcome {
    /// The word in the column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Released => "released",
            Self::Lost => "lost",
        }
    }
}

/// One finished attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    /// Of which task.
    pub task: TaskIndex,
    /// From 1.
    pub attempt: u32,
    /// Which start.
    pub run_id: RunId,
    /// Where.
    pub executor: Arc<str>,
    /// When it started, if that is known.
    pub started_at: Option<Timestamp>,
    /// When its end was decided.
    pub ended_at: Timestamp,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why, if not completed.
    pub failure: Option<Arc<Failure>>,
    /// What the executor measured.
    pub usage: Usage,
}

/// One finished attempt, for its span: only where somebody traces the execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedAttempt {
    /// Of which task.
    pub task: TaskIndex,
    /// From 1.
    pub attempt: u32,
    /// When it was queued; none: it never was.
    pub queued_at: Option<Timestamp>,
    /// When it started; none: it never did.
    pub started_at: Option<Timestamp>,
    /// When its end was decided.
    pub ended_at: Timestamp,
    /// Where it ran.
    pub executor: Option<Arc<str>>,
    /// What became of it: `retrying`, `lost`, `released`, or the state in which the task ended.
    pub status: &'static str,
    /// A stable word for what went wrong.
    pub error_type: Option<String>,
}

/// What an executor measured of one attempt. Untrusted, bounded by the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Of the command.
    pub exit_code: Option<i32>,
    /// User and system time.
    pub cpu_time_us: i64,
    /// Largest resident size.
    pub memory_peak_bytes: i64,
    /// The last 64 KiB, valid text without NUL.
    pub stdout_tail: String,
    /// The last 64 KiB, valid text without NUL.
    pub stderr_tail: String,
}

/// One entry of an execution's history, as the API streams it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryEvent {
    /// Such as `task.queued` or `workflow.completed`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// When it was decided.
    pub at: Timestamp,
    /// Which task, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// The task's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The task's phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// From 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// When the attempt started: the claim that makes it `running` comes later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Where it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor: Option<Arc<str>>,
    /// A stable word for what went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// What went wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Execution {
    /// A new execution, before its first step.
    #[must_use]
    pub fn new(id: ExecutionId, plan: Arc<Plan>, input: Arc<Value>, now: Timestamp) -> Self {
        let tasks = vec![Task::default(); plan.tasks.len()];
        let mut execution = Self {
            id,
            version: 0,
            plan,
            input,
            status: WorkflowStatus::Running,
            created_at: now,
            started_at: None,
            completed_at: None,
            error: None,
            output: None,
            cancel_requested_at: None,
            trace: None,
            event_sequence: 0,
            tasks,
            tasks_remaining: 0,
            phases_remaining: Vec::new(),
            input_bytes: 0,
            changes: Changes::default(),
        };
        execution.derive();
        execution
    }

    /// Computes what follows from the rows: call it after loading them.
    pub fn derive(&mut self) {
        let plan = self.plan.clone();
        self.input_bytes = bytes_of(&self.input);
        self.tasks_remaining = 0;
        self.phases_remaining = vec![0; plan.phases.len()];
        for (task, planned) in self.tasks.iter().zip(&plan.tasks) {
            if !task.status.0.is_final() {
                self.tasks_remaining += 1;
                if let Some(phase) = planned.phase {
                    self.phases_remaining[phase as usize] += 1;
                }
            }
        }
        for (index, planned) in plan.tasks.iter().enumerate() {
            let tasks = planned.needs.iter().filter(|need| !self.tasks[**need as usize].status.0.is_final()).count();
            let phases = planned.needs_phases.iter().filter(|phase| self.phases_remaining[**phase as usize] > 0).count();
            self.tasks[index].upstreams_remaining = u32::try_from(tasks + phases).unwrap_or(u32::MAX);
        }
    }

    /// The task at `index`.
    ///
    /// # Panics
    /// When there is no such task: check [`Execution::has_task`] on what comes from outside.
    #[must_use]
    pub fn task(&self, index: TaskIndex) -> &Task {
        &self.tasks[index as usize]
    }

    /// Whether the plan has a task at `index`.
    #[must_use]
    pub fn has_task(&self, index: TaskIndex) -> bool {
        (index as usize) < self.tasks.len()
    }

    /// The task at `index`, to be changed: its row will be written.
    pub(crate) fn change(&mut self, index: TaskIndex) -> &mut Task {
        let task = &mut self.tasks[index as usize];
        if !task.changed {
            task.changed = true;
            self.changes.tasks.push(index);
        }
        self.changes.execution = true;
        task
    }

    /// Gives a new dispatch its place within shard, queue and priority: before the commit.
    pub fn number_dispatch(&mut self, index: TaskIndex, sequence: i64) {
        if let Some(dispatch) = &mut self.change(index).dispatch {
            dispatch.sequence = sequence;
        }
    }

    /// Appends to the history.
    pub(crate) fn record(&mut self, event: HistoryEvent) {
        self.changes.execution = true;
        self.changes.history.push(event);
    }

    /// Takes the changes for a commit; `version` is what the row has after it.
    pub fn committed(&mut self) -> Changes {
        for index in &self.changes.tasks {
            self.tasks[*index as usize].changed = false;
        }
        let changes = std::mem::take(&mut self.changes);
        if changes.execution {
            self.version += 1;
        }
        self.event_sequence += i64::try_from(changes.history.len()).unwrap_or(i64::MAX);
        changes
    }

    /// Bytes that this execution takes in the cache, about.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        size_of::<Self>() + self.tasks.len() * size_of::<Task>() + 512 + self.input_bytes
    }
}

/// Bytes that a value takes in memory, about. Inputs are bounded in depth where they come in.
fn bytes_of(value: &Value) -> usize {
    let inside = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(bytes_of).sum(),
        Value::Object(members) => members.iter().map(|(key, value)| 2 * size_of::<String>() + key.len() + bytes_of(value)).sum(),
    };
    size_of::<Value>() + inside
}

impl Task {
    /// Whether `dispatch` is the task's current publication (rule R1).
    #[must_use]
    pub fn is_current(&self, dispatch: DispatchId) -> bool {
        matches!(self.status.0, TaskStatus::Queued | TaskStatus::Running) && self.dispatch.is_some_and(|current| current.id == dispatch)
    }

    /// How long the current or last attempt waited for its start; none while it waits.
    #[must_use]
    pub fn queue_wait(&self) -> Option<Duration> {
        Some(self.started_at?.since(self.queued_at?))
    }

    /// Whether somebody wants this running task to end.
    #[must_use]
    pub fn cancel_requested(&self) -> bool {
        self.status.0 == TaskStatus::Running && self.due_at.is_some()
    }
}
