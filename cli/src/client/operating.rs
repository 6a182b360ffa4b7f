//! What the coordinator answers to operators, as far as commands read it.

#![allow(clippy::struct_field_names, reason = "the names are those of the API")]

use super::shapes::{maybe_timestamp, timestamp};
use orchestr8_proto::words::{Priority, TaskStatus, WorkflowStatus};
use serde::Deserialize;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// `GET /api/v1/queues`.
#[derive(Debug, Clone, Deserialize)]
pub struct QueueList {
    /// By name.
    pub queues: Vec<Queue>,
}

/// One queue.
#[derive(Debug, Clone, Deserialize)]
pub struct Queue {
    /// Its name.
    pub queue: String,
    /// Null: it goes on.
    pub paused: Option<Paused>,
    /// Queued tasks of each priority.
    pub queued: BTreeMap<Priority, u64>,
    /// Running tasks.
    pub running: u64,
    /// Tasks that wait for their next attempt.
    pub retrying: u64,
    /// How long its oldest queued task has waited, in seconds.
    pub oldest_queued_age_s: Option<f64>,
    /// Executors that take work of it.
    pub executors: u64,
    /// Their slots.
    pub slots: u64,
    /// Those that are taken, by tasks of whatever queue.
    pub slots_busy: u64,
}

/// Why and since when a queue is paused.
#[derive(Debug, Clone, Deserialize)]
pub struct Paused {
    /// As the operator said.
    pub reason: Option<String>,
}

/// What a pause or a resumption answers.
#[derive(Debug, Clone, Deserialize)]
pub struct QueueAnswer {
    /// `paused`, `already_paused` or `resumed`.
    pub status: String,
    /// What may not be what the caller expects.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// `GET /api/v1/executors`.
#[derive(Debug, Clone, Deserialize)]
pub struct ExecutorList {
    /// By name.
    pub executors: Vec<Executor>,
}

/// One executor.
#[derive(Debug, Clone, Deserialize)]
pub struct Executor {
    /// Its name.
    pub executor_id: String,
    /// `active`, `cordoned`, `draining` or `silent`; none: an older coordinator does not say.
    #[serde(default)]
    pub state: Option<String>,
    /// The newer incarnation that has its name, where it is silent.
    #[serde(default)]
    pub replaced_by: Option<Uuid>,
    /// Of the program.
    pub version: String,
    /// What it serves.
    pub queues: Vec<String>,
    /// What it runs at once.
    pub slots: u64,
    /// What it runs now.
    pub slots_busy: u64,
    /// What it logs; empty: an older version does not say.
    #[serde(default)]
    pub log_filter: String,
    /// When its last heartbeat came.
    #[serde(deserialize_with = "timestamp")]
    pub seen_at: OffsetDateTime,
}

/// `GET /api/v1/log-level`.
#[derive(Debug, Clone, Deserialize)]
pub struct LogLevel {
    /// Whose: the coordinator's name.
    pub coordinator: String,
    /// What it logs.
    pub filter: String,
}

/// `GET /api/v1/shards`.
#[derive(Debug, Clone, Deserialize)]
pub struct ShardList {
    /// By number.
    pub shards: Vec<Shard>,
}

/// One shard.
#[derive(Debug, Clone, Deserialize)]
pub struct Shard {
    /// From 0.
    pub shard: u32,
    /// Who has it; null: nobody.
    pub owner: Option<String>,
    /// Its lease has not run out.
    pub is_owned: bool,
    /// When the owner took it.
    #[serde(deserialize_with = "maybe_timestamp")]
    pub owned_since: Option<OffsetDateTime>,
    /// How far its outcomes are decided.
    pub outcome_sequence: Option<u64>,
    /// Messages above that, of all shards.
    pub outcomes_behind: Option<u64>,
    /// Commands that wait for the owner.
    pub inbox: u64,
}

/// `GET /api/v1/tasks/{id}/why`.
#[derive(Debug, Clone, Deserialize)]
pub struct Why {
    /// The task.
    pub task_id: Uuid,
    /// Its name in the definition.
    pub name: String,
    /// Its state.
    pub status: TaskStatus,
    /// Which executors may run it.
    pub queue: String,
    /// Within its queue.
    pub priority: Priority,
    /// The first counts first.
    pub reasons: Vec<Reason>,
}

/// `GET /api/v1/workflows/{id}/why`.
#[derive(Debug, Clone, Deserialize)]
pub struct WorkflowWhy {
    /// The workflow.
    pub workflow_id: Uuid,
    /// Its name.
    pub workflow_name: String,
    /// Its state.
    pub status: WorkflowStatus,
    /// Why it failed.
    pub error: Option<String>,
    /// Some of its tasks that have not ended.
    pub tasks: Vec<Why>,
    /// All of them.
    pub tasks_total: usize,
}

/// One thing that a task waits for.
#[derive(Debug, Clone, Deserialize)]
pub struct Reason {
    /// Its word.
    pub reason: String,
    /// As a sentence.
    pub message: String,
}

/// `GET /api/v1/doctor`.
#[derive(Debug, Clone, Deserialize)]
pub struct Diagnosis {
    /// Of the coordinator.
    pub version: String,
    /// Its clock.
    pub unix_time_s: i64,
    /// What it looked at.
    pub checks: Vec<Check>,
}

/// How one check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Somebody should look.
    Warn,
    /// Something does not work.
    Fail,
}

impl Level {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Check {
    /// A stable word.
    pub name: String,
    /// How it went.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do.
    pub remedy: Option<String>,
}
