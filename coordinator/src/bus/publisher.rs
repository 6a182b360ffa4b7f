//! Publishes dispatches and reports their PubAcks. Retries what got no answer, with the same id, until its lane forgets it.

use super::Bus;
use super::deafness::Deafness;
use super::streams::StreamShape;
use crate::engine::input::{Input, PublishEnd, Published};
use crate::kill_points;
use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use orchestr8_proto::ids::{DispatchId, TaskId};
use orchestr8_proto::names;
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_store::queue::Lot;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// PubAcks that are reported together at most.
const REPORT_MAX: usize = 512;
/// That the server has no storage is said this often.
const NO_STORAGE_TOLD_EVERY: Duration = Duration::from_secs(30);

/// The consumers of a queue that is not used for so many reconciles are looked after anew before its next dispatch: they may have
/// been forgotten. Fewer than a lane remembers a lot for: until then it makes a consumer that is gone again at once.
const KNOWN_RECONCILES: u32 = 5;

/// One dispatch of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its place in the lot.
    pub sequence: i64,
    /// Of which task.
    pub task: TaskId,
    /// Its identity.
    pub dispatch: DispatchId,
}

/// One message to publish.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Which ownership of the lane it comes from; an older one's are dropped.
    pub epoch: u64,
    /// Its lot.
    pub lot: Arc<Lot>,
    /// The dispatches in it, at least one; the message has the identity of the first.
    pub members: Vec<Member>,
    /// The encoded message.
    pub payload: Bytes,
    /// Whether it may have been published before.
    pub again: Again,
}

/// Whether a dispatch may have been published before (rule R5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// The first time.
    First,
    /// The executor asks before it starts.
    MayBe,
}

/// What the publisher needs.
pub struct Publisher {
    /// The connection.
    pub bus: Bus,
    /// For streams that vanished.
    pub shape: StreamShape,
    /// The lane's current ownership.
    pub epoch: Arc<AtomicU64>,
    /// Where reports go.
    pub inputs: mpsc::Sender<Input>,
}

type Attempt = BoxFuture<'static, (Publish, Result<PublishAck, PublishError>)>;

/// What is under way.
#[derive(Default)]
struct UnderWay {
    attempts: FuturesUnordered<Attempt>,
    /// Without answer: they wait for the repair and go again together.
    unanswered: Vec<Publish>,
    /// One look after streams and consumers at a time, after a pause.
    repair: Option<BoxFuture<'static, Looked>>,
    /// Queues whose consumers were looked after, and when they were used last.
    known_queues: HashMap<String, Instant>,
    /// Whether a publication got no answer since the last repair.
    silence: bool,
    deafness: Deafness,
    no_storage_told: Option<Instant>,
    report: Vec<Published>,
}

impl Publisher {
    /// Publishes until the lane drops its end, then waits for what is outstanding.
    pub async fn run(self, mut work: mpsc::UnboundedReceiver<Vec<Publish>>) {
        let mut under_way = UnderWay::default();
        let mut open = true;
        while open || !under_way.attempts.is_empty() {
            let UnderWay { attempts, repair, .. } = &mut under_way;
            tokio::select! {
                batch = work.recv(), if open => match batch {
                    Some(batch) => self.start(batch, &mut under_way).await,
                    None => open = false,
                },
                Some((publish, result)) = attempts.next(), if !attempts.is_empty() => self.answered(publish, result, &mut under_way),
                Some(looked) = async { Some(repair.as_mut()?.await) }, if repair.is_some() => {
                    under_way.repair = None;
                    under_way.looked(looked);
                    let again = std::mem::take(&mut under_way.unanswered);
                    self.start(again, &mut under_way).await;
                }
            }
            self.report(&mut under_way).await;
        }
    }

    /// Writes messages to the connection in order; the answers come later.
    async fn start(&self, batch: Vec<Publish>, under_way: &mut UnderWay) {
        for (before, publish) in batch.into_iter().filter(|publish| self.is_current(publish)).enumerate() {
            if before > 0 {
                kill_points::pass(kill_points::BETWEEN_TWO_PUBLISHES);
            }
            if !under_way.knows(&publish.lot.queue, self.known_for()) {
                // Its consumers first; until then it waits, and nothing else with it.
                self.wait_for_repair(publish, under_way);
                continue;
            }
            let subject = names::task_subject(&publish.lot.queue, publish.lot.priority);
            let sent = self.bus.jetstream.publish_with_headers(subject, headers(&publish), publish.payload.clone()).await;
            under_way.attempts.push(match sent {
                Ok(ack) => Box::pin(async move { (publish, ack.await) }),
                Err(error) => Box::pin(async move { (publish, Err(error)) }),
            });
        }
    }

    /// How long a queue is known without being used.
    fn known_for(&self) -> Duration {
        self.bus.times.reconcile() * KNOWN_RECONCILES
    }

    /// An older ownership's work is dropped: its fence is gone (rule R3).
    fn is_current(&self, publish: &Publish) -> bool {
        publish.epoch == self.epoch.load(Ordering::Acquire)
    }

    fn answered(&self, publish: Publish, result: Result<PublishAck, PublishError>, under_way: &mut UnderWay) {
        if !self.is_current(&publish) {
            return;
        }
        let refused = |error: PublishError| refusal(&error).ok_or(error);
        let end = match result.map_or_else(refused, |ack| Ok(PublishEnd::Stored(ack.sequence))) {
            Ok(end) => {
                under_way.answered(end);
                end
            }
            Err(error) => {
                under_way.silence |= error.kind() == PublishErrorKind::TimedOut;
                // No answer, no stream, no connection: it may have arrived, so it goes again with the same id.
                tracing::debug!(%error, dispatches = publish.members.len(), "publishing again");
                under_way.known_queues.clear();
                return self.wait_for_repair(Publish { again: Again::MayBe, ..publish }, under_way);
            }
        };
        let Publish { lot, members, epoch, payload, .. } = publish;
        under_way.report.push(Published { epoch, lot, members, bytes: payload.len(), end });
    }

    /// Lets a message wait until streams and consumers have been looked after; the first one starts that.
    fn wait_for_repair(&self, publish: Publish, under_way: &mut UnderWay) {
        under_way.known_queues.insert(publish.lot.queue.clone(), Instant::now());
        let after_failure = publish.again == Again::MayBe;
        under_way.unanswered.push(publish);
        if under_way.repair.is_none() {
            let pause_max = self.known_for();
            under_way.known_queues.retain(|_, used_at| used_at.elapsed() < pause_max);
            let queues: HashSet<String> = under_way.unanswered.iter().map(|publish| publish.lot.queue.clone()).collect();
            let pause = if after_failure { self.bus.times.claim_after() / 4 } else { Duration::ZERO };
            let now = Timestamp::from(OffsetDateTime::now_utc());
            let deaf = under_way.deafness.lasting(self.bus.times.deaf_stream(), Instant::now()).map(str::to_owned);
            let repair = Repair { bus: self.bus.clone(), shape: StreamShape { now, ..self.shape }, queues, pause, deaf };
            under_way.repair = Some(Box::pin(repair.run()));
        }
    }

    async fn report(&self, under_way: &mut UnderWay) {
        while under_way.report.len() < REPORT_MAX
            && let Some(Some((publish, result))) = futures::FutureExt::now_or_never(under_way.attempts.next())
        {
            self.answered(publish, result, under_way);
        }
        if !under_way.report.is_empty() {
            // A closed channel means that the lane has ended.
            self.inputs.send(Input::Published(std::mem::take(&mut under_way.report))).await.ok();
        }
    }
}

impl UnderWay {
    /// Whether the consumers of a queue were looked after, and it was used since, never pausing for longer than `pause_max`.
    fn knows(&mut self, queue: &str, pause_max: Duration) -> bool {
        let Some(used_at) = self.known_queues.get_mut(queue).filter(|used_at| used_at.elapsed() < pause_max) else { return false };
        *used_at = Instant::now();
        true
    }

    /// The stream takes messages, or says why not.
    fn answered(&mut self, end: PublishEnd) {
        self.silence = false;
        self.deafness.over();
        if end == PublishEnd::NoStorage && self.no_storage_told.is_none_or(|told| told.elapsed() > NO_STORAGE_TOLD_EVERY) {
            self.no_storage_told = Some(Instant::now());
            tracing::error!(
                "NATS has reached its limit of storage; tasks wait in Postgres: enlarge the disk under nats-server or its `max_file_store`"
            );
        }
    }

    fn looked(&mut self, looked: Looked) {
        match looked {
            Looked::Streams { tasks } if self.silence => self.deafness.seen(&tasks, Instant::now()),
            Looked::Streams { .. } | Looked::Consumers => {}
            Looked::Away => self.deafness.over(),
        }
        self.silence = false;
    }
}

/// What a look after streams and consumers found.
enum Looked {
    /// The streams answered; the creation of the task stream.
    Streams {
        /// See [`Incarnations`](super::streams::Incarnations).
        tasks: String,
    },
    /// They were not asked for.
    Consumers,
    /// They did not answer.
    Away,
}

/// A look after streams and consumers.
struct Repair {
    bus: Bus,
    shape: StreamShape,
    queues: HashSet<String>,
    pause: Duration,
    /// A creation of the task stream that has taken nothing for too long.
    deaf: Option<String>,
}

impl Repair {
    async fn run(self) -> Looked {
        tokio::time::sleep(self.pause).await;
        let looked = if self.pause.is_zero() { Looked::Consumers } else { self.streams().await };
        if !matches!(looked, Looked::Away) {
            self.consumers().await;
        }
        looked
    }

    async fn streams(&self) -> Looked {
        if let Some(deaf) = &self.deaf
            && let Err(error) = self.bus.delete_deaf(names::TASKS_STREAM, deaf).await
        {
            tracing::warn!(%error, "a stream that stores nothing could not be deleted");
        }
        match self.bus.ensure_streams(self.shape).await {
            Ok(incarnations) => Looked::Streams { tasks: incarnations.tasks },
            Err(error) => {
                tracing::warn!(%error, "the streams are not ready");
                Looked::Away
            }
        }
    }

    async fn consumers(&self) {
        for queue in &self.queues {
            if let Err(error) = self.bus.ensure_consumers(queue).await {
                tracing::warn!(%error, queue, "the consumers of a queue could not be made");
            }
        }
    }
}

/// A refusal that another attempt would meet as well.
fn refusal(error: &PublishError) -> Option<PublishEnd> {
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => Some(PublishEnd::TooLarge),
        // The server's answer to a full subject; too large a message is refused before it is sent.
        PublishErrorKind::Other if error.to_string().contains("maximum messages") => Some(PublishEnd::Full),
        PublishErrorKind::Other if is_no_storage(error) => Some(PublishEnd::NoStorage),
        PublishErrorKind::Other
        | PublishErrorKind::StreamNotFound
        | PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence
        | PublishErrorKind::TimedOut
        | PublishErrorKind::BrokenPipe
        | PublishErrorKind::MaxAckPending => None,
    }
}

/// The limit of the server, or that of the account.
fn is_no_storage(error: &PublishError) -> bool {
    let text = error.to_string();
    ["insufficient resources", "insufficient storage resources"].iter().any(|words| text.contains(words))
}

fn headers(publish: &Publish) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(first) = publish.members.first() {
        headers.insert(names::HEADER_MESSAGE_ID, first.dispatch.0.simple().to_string());
    }
    if publish.again == Again::MayBe {
        headers.insert(names::HEADER_AGAIN, "1");
    }
    headers
}
