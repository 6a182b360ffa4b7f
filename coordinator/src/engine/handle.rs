//! The one way in for callers: submissions and commands go to the lane that owns their shard, and are answered after its commit.

use super::board::{Board, Look};
use super::news::{News, Standing};
use super::watch::{Listeners, Watch};
use crate::bus::BusError;
use crate::bus::facts::BrokerFacts;
use orchestr8_core::execution::Execution;
use orchestr8_core::plan::Plan;
use orchestr8_proto::ids::{ExecutionId, Incarnation, TaskId};
use orchestr8_proto::traces::TraceParent;
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use uuid::Uuid;

pub use super::board::{ExecutorSilence, ExecutorView, Offers, Order};

/// One execution that a caller wants.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The resolved definition.
    pub plan: Arc<Plan>,
    /// SHA-256 of its canonical JSON.
    pub plan_hash: [u8; 32],
    /// What the expressions read as `input`; checked against the plan's schema by the caller.
    pub input: Arc<Value>,
    /// On whose behalf.
    pub user_id: Option<String>,
    /// The submitter's own, an object.
    pub metadata: Arc<Value>,
    /// The submitter's own.
    pub tags: Vec<String>,
    /// Not before this time (the database's clock); none or past: at once.
    pub run_at: Option<OffsetDateTime>,
    /// The span that submits it; none: nobody traces it.
    pub trace: Option<TraceParent>,
}

/// The caller's key for one request, and what the request said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// As given in the header, 1 to 255 bytes.
    pub key: String,
    /// SHA-256 of the body: the same key with another body is refused.
    pub body_hash: [u8; 32],
}

/// What one request submits, in one transaction.
#[derive(Debug)]
pub struct Request {
    /// At least one.
    pub submissions: Vec<Submission>,
    /// Bytes of its body: what of many requests goes into one commit.
    pub bytes: usize,
    /// Reserved with the ids.
    pub key: Option<IdempotencyKey>,
    /// What it takes of the room for submissions: given back with the answer, also when the caller has gone.
    pub room: Option<OwnedSemaphorePermit>,
}

/// Whether the executions were made by this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Committed now.
    New,
    /// Committed earlier under the same idempotency key.
    Replayed,
    /// Stored in the inbox of a shard that another lane owns, which makes them in a moment.
    Sent,
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
    #[error(
        "Idempotency-Key `{key}` was used before with another body or path (bodies are compared byte by byte): send the same bytes, or use a new key"
    )]
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

impl CancelTarget {
    /// Its execution.
    #[must_use]
    pub fn execution(self) -> ExecutionId {
        match self {
            Self::Workflow(execution) => execution,
            Self::Task(task) => task.execution(),
        }
    }
}

/// What a cancel did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelAnswer {
    /// The workflow is now in this state (`cancelled`, or `running` until its running tasks ended).
    Workflow(WorkflowStatus),
    /// The task is now in this state.
    Task(TaskStatus),
    /// Stored under this id in the inbox of a shard that another coordinator owns, which decides it in a moment.
    Sent(Uuid),
}

impl CancelAnswer {
    /// What a cancel of an execution in this state has done.
    ///
    /// # Errors
    /// [`CommandError::AlreadyFinal`] when it ended in another way.
    pub const fn of_workflow(status: WorkflowStatus) -> Result<Self, CommandError> {
        match status {
            WorkflowStatus::Completed | WorkflowStatus::Failed => Err(CommandError::AlreadyFinal(status.as_str())),
            WorkflowStatus::Cancelled | WorkflowStatus::Pending | WorkflowStatus::Running | WorkflowStatus::Paused => {
                Ok(Self::Workflow(status))
            }
        }
    }

    /// What a cancel of a task in this state has done.
    ///
    /// # Errors
    /// [`CommandError::AlreadyFinal`] when it ended in another way.
    pub const fn of_task(status: TaskStatus) -> Result<Self, CommandError> {
        match status {
            TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Skipped => Err(CommandError::AlreadyFinal(status.as_str())),
            TaskStatus::Cancelled
            | TaskStatus::Pending
            | TaskStatus::Queued
            | TaskStatus::Running
            | TaskStatus::Retrying
            | TaskStatus::Waiting => Ok(Self::Task(status)),
        }
    }
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
        request: Request,
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
    /// Asks the owner of an execution's shard, another coordinator, to say when it changes.
    Watch {
        /// Which one.
        execution: ExecutionId,
        /// Answered when the owner knows, or does not answer.
        reply: oneshot::Sender<()>,
    },
    /// Something was put into the inbox of a shard: its owner, here or elsewhere, should look.
    Nudge {
        /// Which one.
        shard: u16,
    },
    /// Queues were paused or resumed in the database.
    QueuesChanged,
    /// An operator wants something of an executor, which shows in its heartbeats that it obeys.
    Order {
        /// Of which.
        incarnation: Incarnation,
        /// What.
        order: Order,
    },
    /// What NATS says of itself.
    AskBroker {
        /// Answered beside the lane.
        reply: oneshot::Sender<Result<BrokerFacts, BusError>>,
    },
}

/// The callers' side of the engine. Cheap to clone.
#[derive(Clone)]
pub struct EngineHandle {
    lanes: Arc<[LaneDoor]>,
    /// Which lane of this process owns which shard.
    owners: Arc<RwLock<BTreeMap<u16, usize>>>,
    next_submission: Arc<AtomicUsize>,
    listeners: Arc<Listeners>,
    board: Arc<Board>,
    paused_queues: Arc<RwLock<Vec<String>>>,
}

/// One lane as callers see it.
struct LaneDoor {
    commands: mpsc::Sender<Command>,
    health: Mutex<EngineHealth>,
}

/// What `/readyz` reports about the engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineHealth {
    /// Shards owned by this coordinator.
    pub shards_owned: usize,
    /// Shards that are its fair share; it may be 0 where there are more lanes than shards.
    pub shards_due: usize,
    /// The connection to NATS is up and the streams were seen.
    pub nats: Option<String>,
    /// Why the lane cannot commit at the moment; none: it can.
    pub database: Option<String>,
}

impl EngineHandle {
    /// A handle, and for each lane the end that receives its commands, of which `capacity` may wait.
    #[must_use]
    pub fn new(lanes: usize, capacity: usize) -> (Self, Vec<mpsc::Receiver<Command>>) {
        let starting = EngineHealth { shards_owned: 0, shards_due: 1, nats: Some("starting".into()), database: Some("starting".into()) };
        let door = |_| {
            let (commands, receiver) = mpsc::channel(capacity);
            (LaneDoor { commands, health: Mutex::new(starting.clone()) }, receiver)
        };
        let (doors, receivers): (Vec<LaneDoor>, Vec<_>) = (0..lanes).map(door).unzip();
        let handle = Self {
            lanes: doors.into(),
            owners: Arc::default(),
            next_submission: Arc::default(),
            listeners: Arc::default(),
            board: Arc::default(),
            paused_queues: Arc::default(),
        };
        (handle, receivers)
    }

    /// Commits executions; their ids are durable when this returns.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was stored.
    pub async fn submit(&self, request: Request) -> Result<Submitted, SubmitError> {
        let (reply, answer) = oneshot::channel();
        let stopping = || SubmitError::Unavailable("it is shutting down".into());
        let lane = &self.lanes[self.submission_lane()];
        lane.commands.send(Command::Submit { request, reply }).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// Cancels what has not ended.
    ///
    /// # Errors
    /// [`CommandError`]; nothing was changed.
    pub async fn cancel(&self, target: CancelTarget) -> Result<CancelAnswer, CommandError> {
        let (reply, answer) = oneshot::channel();
        let stopping = || CommandError::Unavailable("it is shutting down".into());
        let lane = &self.lanes[self.lane_of(target.execution().shard()).unwrap_or(0)];
        lane.commands.send(Command::Cancel { target, reply }).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// Listens for commits that change an execution, here or at the coordinator that owns its shard. Then let it read.
    #[must_use]
    pub fn watch(&self, id: ExecutionId) -> Watch {
        let elsewhere = self.lane_of(id.shard()).is_none().then(|| self.lanes[0].commands.clone());
        self.listeners.watch(id, elsewhere)
    }

    /// Says that something was put into the inbox of a shard. A lost nudge costs a renewal's time: its owner looks then.
    pub async fn nudge(&self, shard: u16) {
        let lane = &self.lanes[self.lane_of(shard).unwrap_or(0)];
        // A lane that stops gives its shards to others, and those look when they take them.
        lane.commands.send(Command::Nudge { shard }).await.ok();
    }

    /// Says that queues were paused or resumed in the database: lanes and executors learn of it at once instead of with the next
    /// renewal.
    pub async fn queues_changed(&self) {
        // A lane that stops gives its shards to others, and those read it when they take them.
        self.lanes[0].commands.send(Command::QueuesChanged).await.ok();
    }

    /// Tells an executor what an operator wants of it. It may be lost: look whether its heartbeats show it.
    pub async fn order(&self, incarnation: Incarnation, order: Order) {
        self.lanes[0].commands.send(Command::Order { incarnation, order }).await.ok();
    }

    /// What NATS says of itself; none: the lane is not there to ask it.
    pub async fn ask_broker(&self) -> Option<Result<BrokerFacts, BusError>> {
        let (reply, answer) = oneshot::channel();
        self.lanes[0].commands.send(Command::AskBroker { reply }).await.ok()?;
        answer.await.ok()
    }

    /// The executors that are heard.
    #[must_use]
    pub fn executors(&self) -> Vec<ExecutorView> {
        self.all_executors().into_iter().filter(|executor| executor.silence.is_none()).collect()
    }

    /// What those executors offer that are heard: a lookup, where [`EngineHandle::executors`] copies all of them.
    #[must_use]
    pub fn offers(&self) -> Arc<Offers> {
        self.board.offers()
    }

    /// The executors that are heard, and those that have lately fallen silent.
    #[must_use]
    pub fn all_executors(&self) -> Vec<ExecutorView> {
        self.board.executors()
    }

    /// What `/readyz` reports: the shards of all lanes, and what the first lane that misses something misses.
    #[must_use]
    pub fn health(&self) -> EngineHealth {
        let mut all = EngineHealth::default();
        for lane in self.lanes.iter() {
            let health = lane.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
            all.shards_owned += health.shards_owned;
            all.shards_due += health.shards_due;
            all.nats = all.nats.or(health.nats);
            all.database = all.database.or(health.database);
        }
        all
    }

    /// Whether this coordinator owns the shard: what one of them alone should do, the owner of shard 0 does.
    #[must_use]
    pub fn owns_shard(&self, shard: u16) -> bool {
        self.lane_of(shard).is_some()
    }

    /// The lane of this process that owns the shard.
    fn lane_of(&self, shard: u16) -> Option<usize> {
        self.owners.read().unwrap_or_else(PoisonError::into_inner).get(&shard).copied()
    }

    /// Lanes with shards take turns.
    fn submission_lane(&self) -> usize {
        let first = self.next_submission.fetch_add(1, Ordering::Relaxed);
        let owns = |lane: &usize| self.lanes[*lane].health.lock().unwrap_or_else(PoisonError::into_inner).shards_owned > 0;
        let turns = (0..self.lanes.len()).map(|turn| (first.wrapping_add(turn)) % self.lanes.len());
        turns.clone().find(owns).or_else(|| turns.clone().next()).unwrap_or(0)
    }

    /// The lane owns these shards now, and no others.
    pub(super) fn owns(&self, lane: usize, shards: &BTreeSet<u16>) {
        self.forget_standings();
        let mut owners = self.owners.write().unwrap_or_else(PoisonError::into_inner);
        owners.retain(|_, owner| *owner != lane);
        owners.extend(shards.iter().map(|shard| (*shard, lane)));
        drop(owners);
        self.update_health(lane, |health| health.shards_owned = shards.len());
    }

    /// Wakes who waits here for these executions, which were committed; gives those that somebody watches elsewhere.
    pub(super) fn wake(
        &self,
        committed: &HashMap<ExecutionId, Execution>,
        news_of: impl Fn(ExecutionId) -> Option<News>,
    ) -> Vec<ExecutionId> {
        self.listeners.remember(committed.iter().map(|(id, execution)| (*id, Standing::of(execution))));
        self.listeners.wake(committed.keys().copied(), news_of);
        self.listeners.watched_elsewhere(committed.keys().copied())
    }

    /// Wakes who waits here, for a change that another coordinator committed.
    pub(super) fn wake_here(&self, ids: impl Iterator<Item = ExecutionId> + Clone) {
        self.listeners.remember(ids.clone().map(|id| (id, None)));
        self.listeners.wake(ids, |_| None);
    }

    /// These may be about to end: who begins to wait for one before it is known reads first.
    pub(super) fn forget(&self, ids: impl Iterator<Item = ExecutionId>) {
        self.listeners.remember(ids.map(|id| (id, None)));
    }

    /// A doubt, or shards that come and go: who begins to wait reads first.
    pub(super) fn forget_standings(&self) {
        self.listeners.forget_all();
    }

    /// Another coordinator wants to hear of changes.
    pub(super) fn watch_for_another(&self, id: ExecutionId) {
        self.listeners.watch_for_another(id);
    }

    /// Whether executors have been listened to for so long that who lives has been heard.
    #[must_use]
    pub fn has_listened(&self) -> bool {
        // A tick at the lane's start, one after a beat interval, and one more for those that were late.
        self.board.beats_listened() >= self.lanes.len() * 3
    }

    /// A lane has looked at its roster.
    pub(crate) fn show_executors(&self, look: Look) {
        self.board.show(look);
    }

    /// Queues that dispatch nothing, as a lane learnt with its last renewal.
    #[must_use]
    pub fn paused_queues(&self) -> Vec<String> {
        self.paused_queues.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn show_paused(&self, queues: &[String]) {
        queues.clone_into(&mut self.paused_queues.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn update_health(&self, lane: usize, update: impl FnOnce(&mut EngineHealth)) {
        update(&mut self.lanes[lane].health.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::super::board::Occasion;
    use super::*;
    use std::time::Duration;
    use tokio::time::Instant;

    #[test]
    fn executors_are_surely_known_only_after_two_whole_intervals_of_every_lane() {
        let (handle, _commands) = EngineHandle::new(2, 1);
        let look = |occasion| Look { sightings: Vec::new(), occasion, silent_after: Duration::ZERO, tells_until: Instant::now() };
        for _ in 0..5 {
            handle.show_executors(look(Occasion::Tick));
            handle.show_executors(look(Occasion::News));
            assert!(!handle.has_listened());
        }
        handle.show_executors(look(Occasion::Tick));
        assert!(handle.has_listened());
    }

    #[tokio::test]
    async fn what_may_change_elsewhere_is_not_told_from_memory() {
        let (handle, _commands) = EngineHandle::new(1, 1);
        let (id, ours) = (ExecutionId(Uuid::from_u128(1 << 20)), BTreeSet::from([0]));
        handle.owns(0, &ours);
        let told = async || {
            let told = async |news| Ok::<_, std::convert::Infallible>(Some(news));
            handle.watch(id).until(Duration::ZERO, Duration::ZERO, told).await.expect("infallible").flatten()
        };
        let ids = || [id].into_iter();
        let withdrawals: [&dyn Fn(); 4] =
            [&|| handle.owns(0, &ours), &|| handle.forget_standings(), &|| handle.wake_here(ids()), &|| handle.forget(ids())];
        let standing = Standing { status: WorkflowStatus::Running, has_one_task: true };
        for withdraw in withdrawals {
            handle.listeners.remember([(id, Some(standing))].into_iter());
            assert!(told().await.is_some());
            withdraw();
            assert_eq!(told().await, None);
        }
    }
}
