//! Publishes dispatches and reports their PubAcks. Retries what got no answer, with the same id, until its lane forgets it.

use super::Bus;
use super::streams::StreamShape;
use crate::engine::input::{Input, PublishEnd, Published};
use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use orchestr8_proto::ids::{DispatchId, TaskId};
use orchestr8_proto::names;
use orchestr8_store::queue::Lot;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// PubAcks that are reported together at most.
const REPORT_MAX: usize = 512;

/// One dispatch to publish.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Which ownership of the lane it comes from; an older one's are dropped.
    pub epoch: u64,
    /// Its lot.
    pub lot: Arc<Lot>,
    /// Its place in the lot.
    pub sequence: i64,
    /// Of which task.
    pub task: TaskId,
    /// Its identity.
    pub dispatch: DispatchId,
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

impl Publisher {
    /// Publishes until the lane drops its end, then waits for what is outstanding.
    pub async fn run(self, mut work: mpsc::UnboundedReceiver<Vec<Publish>>) {
        let mut attempts: FuturesUnordered<Attempt> = FuturesUnordered::new();
        let mut known_queues = HashSet::new();
        let mut report = Vec::new();
        let mut open = true;
        while open || !attempts.is_empty() {
            tokio::select! {
                batch = work.recv(), if open => match batch {
                    Some(batch) => {
                        for publish in batch {
                            let attempt = self.start(publish, &mut known_queues).await;
                            attempts.push(attempt);
                        }
                    }
                    None => open = false,
                },
                Some((publish, result)) = attempts.next(), if !attempts.is_empty() => {
                    self.answered(publish, result, &mut report, &attempts);
                    while report.len() < REPORT_MAX
                        && let Some(Some((publish, result))) = futures::FutureExt::now_or_never(attempts.next())
                    {
                        self.answered(publish, result, &mut report, &attempts);
                    }
                    self.report(&mut report).await;
                }
            }
        }
    }

    async fn start(&self, publish: Publish, known: &mut HashSet<String>) -> Attempt {
        if !known.contains(&publish.lot.queue) {
            match self.bus.ensure_consumers(&publish.lot.queue).await {
                Ok(()) => drop(known.insert(publish.lot.queue.clone())),
                Err(error) => tracing::warn!(%error, "the consumers of a queue could not be made; trying again"),
            }
        }
        self.attempt(publish).await
    }

    /// Writes the message to the connection in order; the answer comes later.
    async fn attempt(&self, publish: Publish) -> Attempt {
        let subject = names::task_subject(&publish.lot.queue, publish.lot.priority);
        let sent = self.bus.jetstream.publish_with_headers(subject, headers(&publish), publish.payload.clone()).await;
        match sent {
            Ok(ack) => Box::pin(async move { (publish, ack.await) }),
            Err(error) => Box::pin(async move { (publish, Err(error)) }),
        }
    }

    fn answered(
        &self,
        publish: Publish,
        result: Result<PublishAck, PublishError>,
        report: &mut Vec<Published>,
        attempts: &FuturesUnordered<Attempt>,
    ) {
        if publish.epoch != self.epoch.load(Ordering::Acquire) {
            return;
        }
        let end = match result {
            Ok(ack) => PublishEnd::Stored(ack.sequence),
            Err(error) => match refusal(&error) {
                Some(end) => end,
                None => return attempts.push(self.again_later(publish, &error)),
            },
        };
        let Publish { lot, sequence, task, dispatch, epoch, .. } = publish;
        report.push(Published { epoch, lot, sequence, task, dispatch, end });
    }

    /// No answer, no stream, no connection: the message may have arrived, so it goes again with the same id.
    fn again_later(&self, publish: Publish, error: &PublishError) -> Attempt {
        tracing::debug!(%error, task = %publish.task, "publishing again");
        let publish = Publish { again: Again::MayBe, ..publish };
        let (bus, shape, epoch) = (self.bus.clone(), self.shape, self.epoch.clone());
        Box::pin(async move {
            tokio::time::sleep(bus.times.claim_after() / 4).await;
            if publish.epoch != epoch.load(Ordering::Acquire) {
                return (publish, Err(PublishError::new(PublishErrorKind::Other)));
            }
            let prepared = bus.ensure_streams(shape).await.and(bus.ensure_consumers(&publish.lot.queue).await);
            if let Err(error) = prepared {
                tracing::debug!(%error, "streams are not ready");
            }
            let subject = names::task_subject(&publish.lot.queue, publish.lot.priority);
            let result = match bus.jetstream.publish_with_headers(subject, headers(&publish), publish.payload.clone()).await {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            (publish, result)
        })
    }

    async fn report(&self, report: &mut Vec<Published>) {
        if !report.is_empty() {
            // A closed channel means that the lane has ended.
            self.inputs.send(Input::Published(std::mem::take(report))).await.ok();
        }
    }
}

/// A refusal that another attempt would meet as well.
fn refusal(error: &PublishError) -> Option<PublishEnd> {
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => Some(PublishEnd::TooLarge),
        // The server's answer to a full subject; too large a message is refused before it is sent.
        PublishErrorKind::Other if error.to_string().contains("maximum messages") => Some(PublishEnd::Full),
        PublishErrorKind::Other
        | PublishErrorKind::StreamNotFound
        | PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence
        | PublishErrorKind::TimedOut
        | PublishErrorKind::BrokenPipe
        | PublishErrorKind::MaxAckPending => None,
    }
}

fn headers(publish: &Publish) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(names::HEADER_MESSAGE_ID, publish.dispatch.0.simple().to_string());
    if publish.again == Again::MayBe {
        headers.insert(names::HEADER_AGAIN, "1");
    }
    headers
}
