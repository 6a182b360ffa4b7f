//! Streams that answer INFO and take no message: a write error, such as that of a full disk, latches the store of a stream.
//! Room alone does not mend it, a new creation does. Nothing is lost with the old one: the broker is disposable.

use super::streams::StreamShape;
use super::{Bus, BusError};
use async_nats::jetstream::context::PublishErrorKind;
use orchestr8_proto::names;
use orchestr8_proto::wire::{self, OutcomeBatch, SCHEMA_VERSION};
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks whether the outcomes of a stream have been read.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Since when a creation of a stream answers INFO, but no publication.
#[derive(Debug, Default)]
pub struct Deafness {
    since: Option<(String, Instant)>,
}

impl Deafness {
    /// A publication was answered, or INFO was not: the stream is well, or it is not the stream.
    pub fn over(&mut self) {
        self.since = None;
    }

    /// INFO names this creation, and a publication got no answer.
    pub fn seen(&mut self, incarnation: &str, now: Instant) {
        if self.since.as_ref().is_none_or(|(known, _)| known != incarnation) {
            self.since = Some((incarnation.to_owned(), now));
        }
    }

    /// The creation that has been deaf for `limit`.
    #[must_use]
    pub fn lasting(&self, limit: Duration, now: Instant) -> Option<&str> {
        self.since.as_ref().filter(|(_, since)| now.saturating_duration_since(*since) >= limit).map(|(incarnation, _)| incarnation.as_str())
    }
}

impl Bus {
    /// Deletes this creation of a stream, and no later one, so that it is made anew.
    ///
    /// # Errors
    /// [`BusError::JetStream`]: it is tried again.
    pub async fn delete_deaf(&self, name: &str, incarnation: &str) -> Result<(), BusError> {
        let failed = |error: String| BusError::jetstream(format!("delete stream {name}"), error);
        let stream = self.jetstream.get_stream(name).await.map_err(|error| failed(error.to_string()))?;
        if stream.cached_info().config.metadata.get(names::METADATA_INCARNATION).is_none_or(|found| found != incarnation) {
            return Ok(());
        }
        tracing::error!(
            stream = name,
            "the stream answers but stores nothing: its store has met a write error, mostly because the disk under nats-server is full; \
             make room there. The stream is deleted and made again; nothing is lost"
        );
        self.jetstream.delete_stream(name).await.map(drop).map_err(|error| failed(error.to_string()))
    }

    /// Publishes an outcome message that says nothing. Where it gets no answer for long although INFO does, the stream of
    /// outcomes is read to its end and made anew; executors publish again what was not confirmed. One such look at a time.
    pub async fn look_after_outcomes(&self, shape: StreamShape, shard: u16) {
        let Ok(_one) = self.looking.clone().try_acquire_owned() else { return };
        let mut deafness = Deafness::default();
        while !self.outcomes_are_taken(shard).await {
            let Ok(incarnations) = self.ensure_streams(shape).await else { return };
            deafness.seen(&incarnations.outcomes, Instant::now());
            if let Some(deaf) = deafness.lasting(self.times.deaf_stream(), Instant::now()) {
                self.outcomes_read().await;
                let made = async {
                    self.delete_deaf(names::OUTCOMES_STREAM, deaf).await?;
                    self.ensure_streams(shape).await
                };
                if let Err(error) = made.await {
                    tracing::warn!(%error, "the stream of outcomes could not be made anew");
                }
                return;
            }
            tokio::time::sleep(self.times.claim_after()).await;
        }
    }

    /// Whether the server answers a publication, be it by a refusal.
    async fn outcomes_are_taken(&self, shard: u16) -> bool {
        let nothing = OutcomeBatch { schema_version: SCHEMA_VERSION, outcomes: Vec::new() };
        let Ok(payload) = wire::encode(&nothing) else { return true };
        let sent = self.jetstream.publish(names::outcome_subject(shard), payload).await;
        let answer = match sent {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        };
        !answer.is_err_and(|error| error.kind() == PublishErrorKind::TimedOut)
    }

    /// Waits until the readers have what the stream holds; a reader that hangs is not waited for longer than a stream is deaf.
    async fn outcomes_read(&self) {
        let deadline = Instant::now() + self.times.deaf_stream();
        while Instant::now() < deadline && !self.outcomes_pending().await.is_ok_and(|pending| pending == 0) {
            tokio::time::sleep(LOOK_INTERVAL.min(self.times.claim_after())).await;
        }
    }

    async fn outcomes_pending(&self) -> Result<u64, BusError> {
        use futures::TryStreamExt;
        let failed = |error: String| BusError::jetstream("the readers of outcomes", error);
        let stream = self.jetstream.get_stream_no_info(names::OUTCOMES_STREAM).await.map_err(|error| failed(error.to_string()))?;
        let readers: Vec<_> = stream.consumers().try_collect().await.map_err(|error| failed(error.to_string()))?;
        Ok(readers.iter().map(|reader| reader.num_pending).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_creation_that_stays_deaf_is_made_anew() {
        let (limit, start) = (Duration::from_secs(30), Instant::now());
        let mut deafness = Deafness::default();
        deafness.seen("a", start);
        deafness.seen("a", start + Duration::from_secs(29));
        assert_eq!(deafness.lasting(limit, start + Duration::from_secs(29)), None);
        assert_eq!(deafness.lasting(limit, start + limit), Some("a"));
        deafness.seen("b", start + limit);
        assert_eq!(deafness.lasting(limit, start + limit), None, "another creation begins anew");
        deafness.over();
        assert_eq!(deafness.lasting(limit, start + 3 * limit), None);
    }
}
