//! Reads the outcomes of a lane's shards in order, without acks.
//!
//! Its consumer is our own and never recreated silently: when it ends, or a gap shows, the lane restarts the reader
//! at its saved position, so nothing can be skipped.

use super::Bus;
use super::lag::{OutcomeReaders, Progress};
use crate::engine::input::{Input, OutcomeMessage};
use async_nats::jetstream::Message;
use futures::StreamExt;
use orchestr8_proto::names;
use orchestr8_proto::timestamp::Timestamp;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

/// Messages of one pull. The client asks for the next when half of one has come, so up to one and a half are under way.
const PULL_BATCH: usize = 256;
/// Bytes of one pull, where no single message may be larger.
const PULL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a message may be larger than its payload in the server's count: subject and reply.
const PULL_BYTES_SPARE: usize = 64 * 1024;
/// Bytes of messages that were read and wait for the lane. With the pulls it bounds what a flood costs in memory.
pub const UNTAKEN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Where a reader starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderStart {
    /// Number of this reader within its lane.
    pub generation: u64,
    /// The shards whose outcomes it reads.
    pub shards: Vec<u16>,
    /// All shards of the installation: one wildcard filter then.
    pub shard_count: u16,
    /// Server time from which on messages are read; none: from the first.
    pub from: Option<Timestamp>,
}

/// A running reader; it stops when dropped.
pub struct Reader {
    task: JoinHandle<()>,
    progress: Arc<Progress>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reader {
    /// Starts reading; messages and the end arrive at `inputs`. For as long as it lives it is one of `readers`.
    #[must_use]
    pub fn start(bus: Bus, start: ReaderStart, inputs: mpsc::Sender<Input>, readers: &OutcomeReaders) -> Self {
        let progress = readers.begin(bus.clone());
        let noting = progress.clone();
        let task = tokio::spawn(async move {
            let generation = start.generation;
            let reason = match read(&bus, start, &inputs, &noting).await {
                Ok(()) => "it ended".to_owned(),
                Err(error) => error,
            };
            inputs.send(Input::ReaderEnded(generation, reason)).await.ok();
        });
        Self { task, progress }
    }

    /// Everything up to this stream sequence is committed.
    pub fn committed(&self, stream_sequence: u64) {
        self.progress.committed(stream_sequence);
    }
}

async fn read(bus: &Bus, start: ReaderStart, inputs: &mpsc::Sender<Input>, progress: &Progress) -> Result<(), String> {
    let from = start.from.map(|from| from.before(bus.times.reader_overlap()));
    let consumer = bus.outcome_consumer(subjects(&start), from).await.map_err(|error| error.to_string())?;
    let name = consumer.cached_info().name.clone();
    progress.reads_from(&name);
    inputs.send(Input::ReaderStarted(start.generation, name)).await.ok();
    let stream = consumer.stream().max_messages_per_batch(PULL_BATCH).max_bytes_per_batch(pull_bytes(bus.client.server_info().max_payload));
    let stream = stream.expires(bus.times.pull_expiry()).heartbeat(bus.times.pull_expiry() / 6);
    let mut messages = stream.messages().await.map_err(|error| error.to_string())?;
    let untaken = Arc::new(Semaphore::new(UNTAKEN_BYTES_MAX));
    let mut expected = 1;
    while let Some(message) = messages.next().await {
        let message = message.map_err(|error| error.to_string())?;
        let room = room_for(&untaken, message.payload.len()).await;
        let (outcome, delivered) = understood(&message, start.generation, room)?;
        if delivered != expected {
            return Err(format!("a gap: message {delivered} of the reader came instead of {expected}"));
        }
        expected += 1;
        progress.read(outcome.stream_sequence);
        if inputs.send(Input::Outcomes(outcome)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The server ends a pull at a message that does not fit what is left of it (a 409, after which the client pulls again); one that
/// fits no pull at all would end every one of them. So a pull has room for the largest that the server takes.
fn pull_bytes(payload_bytes_max: usize) -> usize {
    PULL_BYTES_MAX.max(payload_bytes_max.saturating_add(PULL_BYTES_SPARE))
}

/// Waits until so many bytes fit what may wait for the lane; all of it, where they are more.
async fn room_for(untaken: &Arc<Semaphore>, bytes: usize) -> OwnedSemaphorePermit {
    let bytes = u32::try_from(bytes.min(UNTAKEN_BYTES_MAX)).expect("the bound is small");
    untaken.clone().acquire_many_owned(bytes).await.expect("it is never closed")
}

fn subjects(start: &ReaderStart) -> Vec<String> {
    if start.shards.len() == usize::from(start.shard_count) {
        return vec![names::OUTCOME_SUBJECTS.to_owned()];
    }
    start.shards.iter().map(|shard| names::outcome_subject(*shard)).collect()
}

fn understood(message: &Message, generation: u64, room: OwnedSemaphorePermit) -> Result<(OutcomeMessage, u64), String> {
    let info = message.info().map_err(|error| error.to_string())?;
    let outcome = OutcomeMessage {
        generation,
        shard: names::shard_of_outcome_subject(&message.subject),
        stream_sequence: info.stream_sequence,
        stored_at: info.published.into(),
        payload: message.payload.clone(),
        room,
    };
    Ok((outcome, info.consumer_sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_has_room_for_the_largest_message() {
        assert_eq!((pull_bytes(1 << 20), pull_bytes(0)), (PULL_BYTES_MAX, PULL_BYTES_MAX));
        assert!(pull_bytes(64 << 20) > 64 << 20);
    }
}
