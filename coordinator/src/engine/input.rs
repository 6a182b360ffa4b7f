//! What arrives at a lane, in the order of arrival, before it becomes events.

use crate::bus::publisher::Member;
use crate::bus::survey::{ConsumerState, ReaderState};
use bytes::Bytes;
use orchestr8_core::machine::Event;
use orchestr8_proto::ids::ExecutionId;
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::wire::{ClaimBatch, Heartbeat, Nudge};
use orchestr8_store::queue::Lot;
use prost::Message;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Everything that can wake a lane, besides callers and its own clock.
#[derive(Debug)]
pub enum Input {
    /// One message of outcomes.
    Outcomes(OutcomeMessage),
    /// Executors ask.
    Claims(ClaimBatch),
    /// One part of a heartbeat.
    Beat(Heartbeat),
    /// PubAcks and refusals.
    Published(Vec<Published>),
    /// The reader of this generation reads from this consumer.
    ReaderStarted(u64, String),
    /// The reader of this generation has ended, and why.
    ReaderEnded(u64, String),
    /// How far the reader of this generation could be.
    ReaderState(u64, ReaderState),
    /// The last outcome of a shard, asked for after some evidence.
    Head(Head),
    /// The consumers' state, for the reconciler.
    Surveyed(Survey),
    /// The connection changed.
    Connection(Connection),
    /// The streams were made or looked at.
    Streams(Result<crate::bus::streams::Incarnations, String>),
    /// nats-server says that a stream, or a consumer of the task stream, was deleted; of which queue it was, where it was of one.
    Deleted(Option<String>),
    /// A hint of another coordinator, and where it waits for an answer.
    Nudge(Nudge, Option<String>),
    /// JetStream's clock less ours, in microseconds.
    ServerClock(i64),
    /// Parts of inputs may leave again.
    RoomForParts,
}

impl Input {
    /// Bytes that an executor had it look through.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Outcomes(message) => message.payload.len(),
            Self::Claims(batch) => batch.encoded_len(),
            Self::Beat(beat) => beat.encoded_len(),
            Self::Published(_)
            | Self::ReaderStarted(..)
            | Self::ReaderEnded(..)
            | Self::ReaderState(..)
            | Self::Head(_)
            | Self::Surveyed(_)
            | Self::Connection(_)
            | Self::Streams(_)
            | Self::Deleted(_)
            | Self::Nudge(..)
            | Self::ServerClock(_)
            | Self::RoomForParts => 0,
        }
    }
}

/// What happened to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// It is there, again or for the first time.
    Up,
    /// It is gone.
    Down,
    /// Messages were dropped by the client.
    Gap,
}

/// One message of the outcome stream.
#[derive(Debug)]
pub struct OutcomeMessage {
    /// Which reader read it.
    pub generation: u64,
    /// By its subject; none: not one of ours.
    pub shard: Option<u16>,
    /// Its place in the stream.
    pub stream_sequence: u64,
    /// On the server's clock.
    pub stored_at: Timestamp,
    /// An encoded batch, from an executor: untrusted.
    pub payload: Bytes,
    /// Its part of what may wait for the lane; free once this is dropped.
    pub room: OwnedSemaphorePermit,
}

/// The end of one publication.
#[derive(Debug, Clone)]
pub struct Published {
    /// Which ownership of the lane it came from.
    pub epoch: u64,
    /// Its lot.
    pub lot: Arc<Lot>,
    /// The dispatches in it.
    pub members: Vec<Member>,
    /// Bytes of the message.
    pub bytes: usize,
    /// What the server said.
    pub end: PublishEnd,
}

/// What the server said to a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishEnd {
    /// Stored under this stream sequence.
    Stored(u64),
    /// The subject is full: held until there is room.
    Full,
    /// The server may store no more at all: held, and tried again later.
    NoStorage,
    /// Never acceptable.
    TooLarge,
}

/// The answer to a question for the last outcome of a shard (rule R6).
#[derive(Debug)]
pub struct Head {
    /// Which shard.
    pub shard: u16,
    /// Which question.
    pub inquiry: u64,
    /// Its sequence and time, if there is one; an error: ask again.
    pub head: Result<Option<(u64, Timestamp)>, String>,
}

/// What the reconciler's INFO showed, and how far had been published when it was asked.
#[derive(Debug)]
pub struct Survey {
    /// By queue and priority.
    pub consumers: Vec<ConsumerState>,
    /// Marks at the time of the question.
    pub published: Vec<(Arc<Lot>, i64)>,
}

/// An event for an execution.
#[derive(Debug, Clone)]
pub struct Addressed {
    /// Which execution.
    pub execution: ExecutionId,
    /// What happened.
    pub event: Event,
}
