//! What a batch is made of: events, submissions and positions, in the order in which they must be decided.

use super::handle::{CancelAnswer, CommandError, IdempotencyKey, Submission, SubmitError, Submitted};
use super::input::Addressed;
use orchestr8_core::machine::Event;
use orchestr8_proto::ids::{ExecutionId, RunId, TaskId};
use orchestr8_store::shards::Position;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use uuid::Uuid;

/// One item of a batch.
#[derive(Debug)]
pub enum Work {
    /// An event for an execution.
    Event(Box<EventWork>),
    /// Executions to be made, all or nothing.
    New(Box<Group>),
    /// Everything that this reader read up to here is decided with this batch.
    Position(ReadThrough),
}

/// How far a reader of outcomes has read. It tells of the shards that this reader reads, and of no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadThrough {
    /// Which reader of the lane.
    pub generation: u64,
    /// Where it is.
    pub position: Position,
}

/// An event, and who wants to know.
#[derive(Debug)]
pub struct EventWork {
    /// What happened to which execution.
    pub addressed: Addressed,
    /// What a claim says about its lease.
    pub claim: Option<ClaimNote>,
    /// A caller that waits.
    pub reply: Option<CancelReply>,
    /// The row of the inbox that it came from.
    pub inbox: Option<Uuid>,
}

/// What a claim says about its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimNote {
    /// The last heartbeat before it.
    pub beat_sequence: u64,
    /// Ticks of silence that it asks for.
    pub ticks: Option<u32>,
}

/// Where the answer to a cancel goes.
#[derive(Debug)]
pub struct CancelReply {
    /// One task of the execution, or all of it.
    pub task: Option<TaskId>,
    /// The caller.
    pub sender: oneshot::Sender<Result<CancelAnswer, CommandError>>,
}

/// One submission of executions.
#[derive(Debug)]
pub struct Group {
    /// What is wanted.
    pub submissions: Vec<Submission>,
    /// Bytes of the request that they came in.
    pub bytes: usize,
    /// Drawn once: a group that is tried again keeps them.
    pub ids: Vec<ExecutionId>,
    /// The caller's key.
    pub key: Option<IdempotencyKey>,
    /// The caller.
    pub reply: Option<oneshot::Sender<Result<Submitted, SubmitError>>>,
    /// See [`Request`](super::handle::Request).
    pub room: Option<OwnedSemaphorePermit>,
    /// How much is known about an earlier try.
    pub state: GroupState,
    /// Tries that ended in doubt.
    pub tries: u32,
    /// The row of the inbox that it came from.
    pub inbox: Option<Uuid>,
}

/// How much is known about a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// Its key, if it has one, is not reserved.
    Fresh,
    /// Its key is reserved.
    Reserved,
    /// A commit with unknown end may have made it.
    Doubtful,
}

impl Group {
    /// Answers the caller, once.
    pub fn answer(&mut self, answer: Result<Submitted, SubmitError>) {
        self.room = None;
        if let Some(reply) = self.reply.take() {
            // The caller may have gone: its executions go on.
            reply.send(answer).ok();
        }
    }
}

impl Work {
    /// An event that nobody waits for.
    #[must_use]
    pub fn event(execution: ExecutionId, event: Event) -> Self {
        Self::Event(Box::new(EventWork { addressed: Addressed { execution, event }, claim: None, reply: None, inbox: None }))
    }

    /// The row of the inbox that this came from, and its shard.
    #[must_use]
    pub fn inbox(&self) -> Option<(u16, Uuid)> {
        match self {
            Self::Event(event) => event.inbox.map(|id| (event.addressed.execution.shard(), id)),
            Self::New(group) => group.inbox.zip(group.ids.first()).map(|(id, first)| (first.shard(), id)),
            Self::Position(_) => None,
        }
    }

    /// Tasks that this makes.
    #[must_use]
    pub fn tasks(&self) -> usize {
        match self {
            Self::New(group) => group.submissions.iter().map(|submission| submission.plan.tasks.len()).sum(),
            Self::Event(_) | Self::Position(_) => 0,
        }
    }

    /// The run that this declares lost.
    #[must_use]
    pub fn lost_run(&self) -> Option<RunId> {
        match self {
            Self::Event(work) => match &work.addressed.event {
                Event::Lost(_, run) => Some(*run),
                Event::Outcome(..)
                | Event::Claim(..)
                | Event::Check(..)
                | Event::Due(_)
                | Event::Cancel
                | Event::CancelTask(_)
                | Event::Undeliverable(..)
                | Event::OutputEvaluated(_) => None,
            },
            Self::New(_) | Self::Position(..) => None,
        }
    }
}
