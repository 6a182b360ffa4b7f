//! Claims, heartbeats and nudges: core messages, decoded and handed to the lane.

use super::{Bus, BusError};
use crate::engine::input::{Connection, Input};
use async_nats::{Message, Subscriber};
use futures::{Stream, StreamExt};
use orchestr8_core::leases::Heard;
use orchestr8_proto::ids::{IdError, Incarnation};
use orchestr8_proto::names;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::wire::{self, ClaimBatch, CoordinatorBeat, Heartbeat, Nudge};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

/// Subscribes to claims, heartbeats and nudges for as long as the connection lives; they survive reconnects. Gives the time of
/// the last beat of a coordinator, this one included.
///
/// # Errors
/// [`BusError::JetStream`] when the client cannot subscribe.
pub async fn listen(bus: &Bus, inputs: mpsc::Sender<Input>) -> Result<watch::Receiver<LastHeard>, BusError> {
    let subscribe = async |subject: &str| {
        let subscribed = bus.client.subscribe(subject.to_owned()).await;
        subscribed.map_err(|error| BusError::jetstream(format!("subscribe to {subject}"), error))
    };
    let claims = subscribe(names::CLAIM_SUBJECTS).await?;
    let beats = subscribe(names::BEAT_SUBJECTS).await?;
    let nudges = subscribe(names::NUDGES).await?;
    tokio::spawn(forward(subscribe(names::STREAM_DELETED).await?, inputs.clone(), |_| Ok(Input::Deleted(None))));
    let of_queue = |message: Message| Ok(Input::Deleted(names::queue_of_consumer(message.subject.rsplit('.').next().unwrap_or_default())));
    tokio::spawn(forward(subscribe(names::TASK_CONSUMER_DELETED).await?, inputs.clone(), of_queue));
    let coordinators = subscribe(names::COORDINATOR_BEATS).await?;
    tokio::spawn(forward(claims, inputs.clone(), |message| Ok(Input::Claims(wire::decode::<ClaimBatch>(message.payload)?))));
    tokio::spawn(forward(nudges, inputs.clone(), |message| {
        let asker = message.reply.map(|subject| subject.to_string());
        Ok(Input::Nudge(wire::decode::<Nudge>(message.payload)?, asker))
    }));
    tokio::spawn(forward(beats, inputs, beat_of));
    Ok(last_heard(coordinators, bus.times))
}

/// When a coordinator's beat came last. Kept beside the lane, which may be busy for longer than a beat.
fn last_heard(mut coordinators: Subscriber, times: ProtocolTimes) -> watch::Receiver<LastHeard> {
    let (heard, last) = watch::channel(LastHeard { at: Instant::now(), heard: Heard::default(), heard_since: Instant::now() });
    let mut bases = OtherBases { ours_ms: times.base_ms(), told: HashSet::new() };
    let kept = times.run_lease();
    tokio::spawn(async move {
        while let Some(message) = coordinators.next().await {
            let told = wire::decode::<CoordinatorBeat>(message.payload).unwrap_or_default();
            if bases.is_news(&told) {
                tracing::warn!(
                    coordinator = told.coordinator,
                    theirs_ms = told.time_base_ms,
                    ours_ms = bases.ours_ms,
                    "another coordinator has another --time-base: give all coordinators and executors the same, or runs are lost for nothing"
                );
            }
            let told = Heard { executors: told.executors as usize, late: told.executors_late as usize };
            heard.send_modify(|last| last.take(told, kept));
        }
    });
    last
}

/// Coordinators whose protocol times have another base than ours: each is told of once.
struct OtherBases {
    ours_ms: u32,
    told: HashSet<String>,
}

impl OtherBases {
    fn is_news(&mut self, beat: &CoordinatorBeat) -> bool {
        let is_other = beat.time_base_ms != 0 && beat.time_base_ms != self.ours_ms;
        is_other && self.told.len() < OTHER_BASES_MAX && self.told.insert(beat.coordinator.clone())
    }
}

/// What the beats of coordinators said.
#[derive(Debug, Clone, Copy)]
pub struct LastHeard {
    /// When the last one came.
    pub at: Instant,
    /// What the one that lately knew most executors said of them.
    pub heard: Heard,
    heard_since: Instant,
}

impl LastHeard {
    fn take(&mut self, told: Heard, kept: Duration) {
        self.at = Instant::now();
        if told.executors >= self.heard.executors || self.heard_since + kept < self.at {
            (self.heard, self.heard_since) = (told, self.at);
        }
    }
}

/// Coordinators of another base that are told of, at most: their names are whatever the beats say.
const OTHER_BASES_MAX: usize = 64;

/// A heartbeat counts only on its own subject: the rights of a NATS user bind the subject, not what the message says.
fn beat_of(message: Message) -> Result<Input, Refused> {
    let beat = wire::decode::<Heartbeat>(message.payload)?;
    let incarnation = Incarnation::try_from(beat.incarnation.as_ref())?;
    if names::beat_subject(incarnation) == message.subject.as_str() { Ok(Input::Beat(beat)) } else { Err(Refused::Subject) }
}

/// Why a message of an executor counts for nothing.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("it speaks for another incarnation than its subject")]
    Subject,
}

/// Bytes of one kind of message that wait for the lane: beyond them they are dropped. Everything in them is said again.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What the smallest message counts: it is kept with its subject.
const MESSAGE_BYTES_MIN: usize = 256;
/// That messages were dropped is said, and taken for a gap, this often.
const DROPPED_TOLD_EVERY: Duration = Duration::from_secs(3);

/// Hands messages to the lane. The client would keep tens of thousands of them, of any size, for a lane that is busy.
async fn forward(messages: Subscriber, inputs: mpsc::Sender<Input>, decode: impl Fn(Message) -> Result<Input, Refused> + Send) {
    let (queue, mut waiting) = mpsc::unbounded_channel();
    tokio::spawn(take_in(messages, queue, inputs.clone()));
    while let Some((message, _room)) = waiting.recv().await {
        let subject = message.subject.clone();
        match decode(message) {
            Ok(input) => {
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, %subject, "a message of an executor was refused"),
        }
    }
}

async fn take_in(
    mut messages: impl Stream<Item = Message> + Unpin,
    queue: mpsc::UnboundedSender<(Message, OwnedSemaphorePermit)>,
    inputs: mpsc::Sender<Input>,
) {
    let room = Arc::new(Semaphore::new(WAITING_BYTES_MAX));
    let mut told: Option<Instant> = None;
    while let Some(message) = messages.next().await {
        let bytes = u32::try_from(message.length.clamp(MESSAGE_BYTES_MIN, WAITING_BYTES_MAX)).unwrap_or(u32::MAX);
        if let Ok(permit) = room.clone().try_acquire_many_owned(bytes) {
            if queue.send((message, permit)).is_err() {
                return;
            }
        } else if told.is_none_or(|at| at.elapsed() >= DROPPED_TOLD_EVERY) {
            told = Some(Instant::now());
            tracing::warn!(subject = %message.subject, "more messages than the lane can take: some are dropped, and asked for again");
            // Whoever could not be heard is not silent. A lane that is too busy even for this looks at it later.
            inputs.try_send(Input::Connection(Connection::Gap)).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn another_time_base_is_told_once_for_each_coordinator() {
        let mut bases = OtherBases { ours_ms: 1_000, told: HashSet::new() };
        let mut told = |name: &str, time_base_ms| {
            bases.is_news(&CoordinatorBeat { coordinator: name.into(), time_base_ms, ..CoordinatorBeat::default() })
        };
        assert!(!told("old", 0) && !told("same", 1_000) && told("other", 2_000));
        assert!(!told("other", 2_000) && told("third", 500));
    }

    fn message(length: usize) -> Message {
        let payload = Bytes::from(vec![0; length]);
        Message { subject: "s".into(), reply: None, payload, headers: None, status: None, description: None, length }
    }

    /// What is kept of as many messages for a lane that takes none, and whether the lane hears of the gap.
    async fn kept(count: usize, length: usize) -> (usize, bool) {
        let (queue, mut waiting) = mpsc::unbounded_channel();
        let (inputs, mut heard) = mpsc::channel(8);
        take_in(futures::stream::iter((0..count).map(|_| message(length))), queue, inputs).await;
        let mut kept = Vec::new();
        while let Some(message) = waiting.recv().await {
            kept.push(message);
        }
        (kept.len(), matches!(heard.recv().await, Some(Input::Connection(Connection::Gap))))
    }

    #[tokio::test]
    async fn a_flood_waits_within_bounds_and_what_is_dropped_is_a_gap() {
        assert_eq!(kept(1_000, 200).await, (1_000, false));
        assert_eq!(kept(1_000, 1_000_000).await, (WAITING_BYTES_MAX / 1_000_000, true));
        assert_eq!(kept(100_000, 0).await, (WAITING_BYTES_MAX / MESSAGE_BYTES_MIN, true));
    }
}
