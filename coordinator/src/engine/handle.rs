//! The one way in for callers: submissions and commands go to the lane that owns their shard, and are answered after its commit.

use orchestr8_core::plan::Plan;
use orchestr8_proto::ids::{ExecutionId, TaskId};
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc, oneshot};

/// One execution that a caller wants.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The resolved definition.
    pub plan: Arc<Plan>,
    /// SHA-256 of its canonical JSON.
    pub plan_hash: [u8; 32],
    /// What the expressions read as `input`; checked against the plan's schema by the caller.
    pub input: Value,
    /// On whose behalf.
    pub user_id: Option<String>,
    /// The submitter's own, an object.
    pub metadata: Value,
    /// The submitter's own.
    pub tags: Vec<String>,
    /// Not before this time (the database's clock); none or past: at once.
    pub run_at: Option<OffsetDateTime>,
}

/// The caller's key for one request, and what the request said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// As given in the header, 1 to 255 bytes.
    pub key: String,
    /// SHA-256 of the body: the same key with another body is refused.
    pub body_hash: [u8; 32],
}

/// Whether the executions were made by this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Committed now.
    New,
    /// Committed earlier under the same idempotency key.
    Replayed,
}

/// The answer to a submission: durable in Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// In the order of the submissions.
    pub ids: Vec<ExecutionId>,
    /// Made now, or found under the key.
    pub origin: Origin,
}

/// Why a submission was not accepted. Nothing of it was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The caller must draw another key, or send the same body.
    #[error("Idempotency-Key `{key}` was used before with another body: send the same body, or use a new key")]
    KeyReused {
        /// The key.
        key: String,
    },
    /// The database refused the rows themselves.
    #[error("the submission was refused by the database: {0}")]
    Refused(String),
    /// Postgres or the lane is not available: the caller may try again with the same key.
    #[error("the coordinator cannot accept work at the moment: {0}; try again with the same Idempotency-Key")]
    Unavailable(String),
}

/// What to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelTarget {
    /// A whole execution.
    Workflow(ExecutionId),
    /// One task; its dependents are skipped.
    Task(TaskId),
}

/// What a cancel did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelAnswer {
    /// The workflow is now in this state (`cancelled`, or `running` until its running tasks ended).
    Workflow(WorkflowStatus),
    /// The task is now in this state.
    Task(TaskStatus),
}

/// Why a command did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such execution or task.
    #[error("not found")]
    NotFound,
    /// It has ended already; the answer names its final state.
    #[error("it is already {0}")]
    AlreadyFinal(&'static str),
    /// Postgres or the lane is not available.
    #[error("the coordinator cannot act at the moment: {0}; try again")]
    Unavailable(String),
}

/// What the handle sends to a lane.
#[derive(Debug)]
pub enum Command {
    /// All or nothing.
    Submit {
        /// In one transaction.
        submissions: Vec<Submission>,
        /// Reserved with the ids.
        key: Option<IdempotencyKey>,
        /// Answered after the commit.
        reply: oneshot::Sender<Result<Submitted, SubmitError>>,
    },
    /// Cancels what has not ended.
    Cancel {
        /// What.
        target: CancelTarget,
        /// Answered after the commit.
        reply: oneshot::Sender<Result<CancelAnswer, CommandError>>,
    },
}

/// One executor as its heartbeats describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorView {
    /// Its name, a label.
    pub name: String,
    /// Queues it fetches from.
    pub queues: Vec<String>,
    /// Handlers it has.
    pub handlers: Vec<String>,
    /// Tasks it runs at once, at most.
    pub slots: u32,
    /// Tasks it runs now.
    pub slots_busy: u32,
    /// It takes no new work.
    pub draining: bool,
}

/// The callers' side of the engine. Cheap to clone.
#[derive(Clone)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
    listeners: Arc<Listeners>,
    executors: Arc<Mutex<Vec<ExecutorView>>>,
    health: Arc<Mutex<EngineHealth>>,
}

/// What `/readyz` reports about the engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineHealth {
    /// Shards owned by this coordinator.
    pub shards_owned: usize,
    /// The connection to NATS is up and the streams were seen.
    pub nats: Option<String>,
    /// Why the lane cannot commit at the moment; none: it can.
    pub database: Option<String>,
}

impl EngineHandle {
    /// A handle and the receiving end for the lane.
    #[must_use]
    pub fn new(capacity: usize) -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(capacity);
        let starting = EngineHealth { shards_owned: 0, nats: Some("starting".into()), database: Some("starting".into()) };
        let handle = Self { commands, listeners: Arc::default(), executors: Arc::default(), health: Arc::new(Mutex::new(starting)) };
        (handle, receiver)
    }

    /// Commits executions; their ids are durable when this returns.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was stored.
    pub async fn submit(&self, submissions: Vec<Submission>, key: Option<IdempotencyKey>) -> Result<Submitted, SubmitError> {
        let (reply, answer) = oneshot::channel();
        let stopping = || SubmitError::Unavailable("it is shutting down".into());
        self.commands.send(Command::Submit { submissions, key, reply }).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// Cancels what has not ended.
    ///
    /// # Errors
    /// [`CommandError`]; nothing was changed.
    pub async fn cancel(&self, target: CancelTarget) -> Result<CancelAnswer, CommandError> {
        let (reply, answer) = oneshot::channel();
        let stopping = || CommandError::Unavailable("it is shutting down".into());
        self.commands.send(Command::Cancel { target, reply }).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// Listens for commits that change an execution. Register first, then read, then wait.
    #[must_use]
    pub fn watch(&self, id: ExecutionId) -> Watch {
        self.listeners.watch(id)
    }

    /// The executors whose heartbeats were heard lately.
    #[must_use]
    pub fn executors(&self) -> Vec<ExecutorView> {
        self.executors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What `/readyz` reports.
    #[must_use]
    pub fn health(&self) -> EngineHealth {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn wake(&self, ids: impl IntoIterator<Item = ExecutionId>) {
        self.listeners.wake(ids);
    }

    pub(super) fn show_executors(&self, views: Vec<ExecutorView>) {
        *self.executors.lock().unwrap_or_else(PoisonError::into_inner) = views;
    }

    pub(super) fn update_health(&self, update: impl FnOnce(&mut EngineHealth)) {
        update(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Who waits for which execution. Entries vanish with their last watch.
#[derive(Default)]
struct Listeners {
    waiting: Mutex<HashMap<ExecutionId, (usize, Arc<Notify>)>>,
}

impl Listeners {
    fn watch(self: &Arc<Self>, id: ExecutionId) -> Watch {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, notify) = waiting.entry(id).or_insert_with(|| (0, Arc::default()));
        *count += 1;
        Watch { id, notify: notify.clone(), listeners: self.clone() }
    }

    fn wake(&self, ids: impl IntoIterator<Item = ExecutionId>) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            return;
        }
        for id in ids {
            if let Some((_, notify)) = waiting.get(&id) {
                notify.notify_waiters();
            }
        }
    }
}

/// A registration for the changes of one execution.
pub struct Watch {
    id: ExecutionId,
    notify: Arc<Notify>,
    listeners: Arc<Listeners>,
}

impl Watch {
    /// Runs `read` until it gives an answer: now, after each change, and at least every `reread`; none after `patience`.
    ///
    /// # Errors
    /// The first error of `read`.
    pub async fn until<T, E, F>(&self, patience: Duration, reread: Duration, mut read: impl FnMut() -> F) -> Result<Option<T>, E>
    where
        F: Future<Output = Result<Option<T>, E>>,
    {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let changed = self.notify.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(answer) = read().await? {
                return Ok(Some(answer));
            }
            let now = tokio::time::Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(deadline.min(now + reread)) => {}
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut waiting = self.listeners.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, _)) = waiting.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.id);
            }
        }
    }
}
