//! Streams and consumers that were deleted: made again where somebody needs them, forgotten where nobody does.

use super::lane::Lane;
use orchestr8_core::plan::DEFAULT_QUEUE;

impl Lane {
    /// What was deleted is made again at once; without this hint the minute's survey would find it.
    pub(super) fn make_again(&mut self, queue: Option<&str>) {
        match queue {
            Some(queue) if self.wants(queue) => {
                tracing::warn!(queue, "a consumer of a queue was deleted; making it again");
                self.look_after_streams();
                self.make_consumers_soon(queue.to_owned());
            }
            Some(queue) => tracing::debug!(queue, "a queue that nobody uses or serves is forgotten"),
            None => {
                tracing::warn!("a stream or consumer was deleted beside us; making it again");
                self.look_after_streams();
                self.look_after_consumers();
            }
        }
    }

    /// Whether this lane has anything in the queue, or hears an executor that serves it.
    fn wants(&self, queue: &str) -> bool {
        queue == DEFAULT_QUEUE || self.lots.iter().any(|state| state.lot.queue == queue) || self.roster.serves(queue)
    }

    /// The server says it before it has removed the consumer's files: one that is made meanwhile would lose its own (2.15.1).
    fn make_consumers_soon(&self, queue: String) {
        let bus = self.parts.bus.clone();
        tokio::spawn(async move {
            tokio::time::sleep(bus.times.claim_after()).await;
            if let Err(error) = bus.ensure_consumers(&queue).await {
                tracing::warn!(%error, queue, "the consumers of a queue could not be made; the next survey tries again");
            }
        });
    }
}
