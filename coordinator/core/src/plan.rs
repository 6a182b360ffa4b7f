//! The plan: a valid definition, resolved. What the state machine walks; nothing in it can be wrong any more.
//!
//! Made by [`crate::definition`], stored as JSON under the hash of its content, shared by all its executions. What a definition
//! does not say is not stored: a lane that reads a plan of 100,000 tasks does nothing else meanwhile.

use orchestr8_proto::words::Priority;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Not;
use std::time::Duration;

/// Index of a task in its plan, from 0.
pub type TaskIndex = u32;
/// Index of a phase in its plan, from 0.
pub type PhaseIndex = u32;

/// The queue of a task that names none.
pub const DEFAULT_QUEUE: &str = "default";

/// A workflow that can be executed: at least one task, no cycle, every name resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The workflow's name; `task` for a single task.
    pub name: String,
    /// JSON Schema that the input must satisfy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<Value>,
    /// What the execution's result is; evaluated when the last task has ended and none failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Template>,
    /// Named groups of tasks, in the order of the definition; empty for a flat list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhasePlan>,
    /// All tasks, in the order of the definition.
    pub tasks: Vec<TaskPlan>,
}

/// A named group of tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhasePlan {
    /// Unique in the plan.
    pub name: String,
    /// Its share of the progress, relative to the other phases.
    pub weight: f64,
    /// How many tasks it has, at least 1.
    pub task_count: u32,
    /// Tasks (of other phases) that start only when every task of this phase has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependents: Vec<TaskIndex>,
}

/// One task of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskPlan {
    /// Unique in the plan.
    pub name: String,
    /// The phase it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<PhaseIndex>,
    /// Tasks that must have ended before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<TaskIndex>,
    /// Phases of which every task must have ended before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs_phases: Vec<PhaseIndex>,
    /// The reverse of `needs`: tasks that name this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependents: Vec<TaskIndex>,
    /// What it does.
    pub kind: TaskKind,
    /// Values for the task: one JSON object.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub with: BTreeMap<String, Template>,
    /// Environment variables of the command.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Template>,
    /// What an agent is told; reaches `run` and `handler` as a value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Template>,
    /// When and how often it is tried again.
    #[serde(default = "RetryPolicy::usual", skip_serializing_if = "RetryPolicy::is_usual")]
    pub retry: RetryPolicy,
    /// The longest that one attempt may run; none: no cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Its dependents run although it failed, and the execution can still complete.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub continue_on_failure: bool,
    /// Never started twice; implies `max_attempts: 1`.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub at_most_once: bool,
    /// Within its queue.
    #[serde(default = "usual_priority", skip_serializing_if = "is_usual_priority")]
    pub priority: Priority,
    /// Which executors may run it.
    #[serde(default = "default_queue", skip_serializing_if = "is_default_queue")]
    pub queue: String,
    /// An absolute path that the executor's configuration must allow; none: a fresh directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// What becomes of values that are too large for an environment variable.
    #[serde(default, skip_serializing_if = "LargeValues::is_default")]
    pub large_values: LargeValues,
    /// For reports: the agent, else the handler, else the kind.
    pub agent_name: String,
}

/// What becomes of a value of `with` that does not fit into an environment variable. Only `run` tasks have variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LargeValues {
    /// The attempt fails before its start: a script must not take a missing variable for an empty value.
    #[default]
    Refused,
    /// It is only in the file `$ORCHESTR8_INPUT`, which the script reads.
    File,
}

impl LargeValues {
    /// Left out of stored plans, so that plans without the key keep their hash.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        matches!(self, Self::Refused)
    }
}

/// What a task does; exactly one of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// A shell script, never containing an expression: values reach it as environment and file.
    Run {
        /// The script, for `sh`.
        script: String,
    },
    /// Code registered in an executor.
    Handler {
        /// The registered name, such as `noop`.
        name: String,
    },
    /// A timer in Postgres; holds no slot.
    Sleep {
        /// How long.
        duration: Duration,
    },
}

impl TaskKind {
    /// The kind's key in a definition.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Run { .. } => "run",
            Self::Handler { .. } => "handler",
            Self::Sleep { .. } => "sleep",
        }
    }
}

/// When a failed attempt is followed by another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts in all, from 1.
    pub max_attempts: u32,
    /// Wait before the second attempt.
    pub initial_interval: Duration,
    /// Each wait is this many times the one before; at least 1.
    pub backoff_coefficient: f64,
    /// No wait is longer, before jitter.
    pub max_interval: Duration,
    /// Each wait is multiplied by a random factor of 1 - jitter to 1 + jitter; 0 to 1.
    pub jitter: f64,
    /// Error types that end the task at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub non_retryable: Vec<String>,
}

impl RetryPolicy {
    /// One attempt; the intervals of the default policy.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            max_attempts: 1,
            initial_interval: Duration::from_secs(1),
            backoff_coefficient: 2.0,
            max_interval: Duration::from_mins(5),
            jitter: 0.1,
            non_retryable: Vec::new(),
        }
    }

    /// Of a task of most kinds that names none: three attempts.
    #[must_use]
    pub fn usual() -> Self {
        Self { max_attempts: 3, ..Self::none() }
    }

    fn is_usual(&self) -> bool {
        *self == Self::usual()
    }
}

const fn usual_priority() -> Priority {
    Priority::Normal
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_usual_priority(priority: &Priority) -> bool {
    *priority == usual_priority()
}

fn default_queue() -> String {
    DEFAULT_QUEUE.to_owned()
}

fn is_default_queue(queue: &str) -> bool {
    queue == DEFAULT_QUEUE
}

/// A JSON value in which strings may hold expressions, already parsed and checked.
///
/// Stored as the source: a string with `${{ }}` is an expression, everything else a literal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(pub Value);

impl Plan {
    /// The task of this name.
    #[must_use]
    pub fn task_named(&self, name: &str) -> Option<TaskIndex> {
        self.tasks.iter().position(|task| task.name == name).and_then(|index| u32::try_from(index).ok())
    }

    /// The task at `index`.
    ///
    /// # Panics
    /// When the plan has no such task: indexes come from the plan itself.
    #[must_use]
    pub fn task(&self, index: TaskIndex) -> &TaskPlan {
        &self.tasks[index as usize]
    }
}
