//! Questions to JetStream that take a round trip: its clock, the last outcome of a shard, the state of the consumers.

use super::{Bus, BusError};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use orchestr8_proto::names;
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::words::Priority;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What one consumer says about its queue and priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerState {
    /// Whose.
    pub queue: String,
    /// Whose.
    pub priority: Priority,
    /// Every message at or below this stream sequence is gone.
    pub ack_floor: u64,
    /// Neither pending nor delivered without ack: every message is gone.
    pub empty: bool,
}

/// How far the outcome stream reached, and what a reader had been given of it after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderState {
    /// Sequence and time of the stream's last message.
    pub head: (u64, Timestamp),
    /// Messages that the reader was given.
    pub delivered: u64,
    /// Messages that wait for it.
    pub pending: u64,
}

impl Bus {
    /// How far a reader of outcomes could be; none for a stream that never had a message.
    ///
    /// # Errors
    /// [`BusError::JetStream`], also when the reader's consumer is gone.
    pub async fn reader_state(&self, reader: &str) -> Result<Option<ReaderState>, BusError> {
        let failed = |reason: String| BusError::jetstream("the state of the outcome reader", reason);
        let stream = self.info(format!("$JS.API.STREAM.INFO.{}", names::OUTCOMES_STREAM)).await.map_err(failed)?;
        // After the stream: what is told to be delivered then includes everything up to that head.
        let subject = format!("$JS.API.CONSUMER.INFO.{}.{reader}", names::OUTCOMES_STREAM);
        let consumer = self.info(subject).await.map_err(failed)?;
        Ok(reader_state(&stream, &consumer))
    }

    /// JetStream's clock, as its server stamps messages.
    ///
    /// # Errors
    /// [`BusError::JetStream`] when it does not answer.
    pub async fn server_time(&self) -> Result<Timestamp, BusError> {
        let failed = |reason: String| BusError::jetstream("stream INFO", reason);
        let info = self.info(format!("$JS.API.STREAM.INFO.{}", names::TASKS_STREAM)).await.map_err(failed)?;
        let text = info.get("ts").and_then(Value::as_str).ok_or_else(|| failed("it has no `ts`".into()))?;
        OffsetDateTime::parse(text, &Rfc3339).map(Timestamp::from).map_err(|error| failed(error.to_string()))
    }

    /// Sequence and time of the last outcome of a shard, if there is one, and proof that the reader's consumer still exists (rule R6).
    ///
    /// # Errors
    /// [`BusError::JetStream`]: nothing may be decided.
    pub async fn outcome_head(&self, shard: u16, reader: &str) -> Result<Option<(u64, Timestamp)>, BusError> {
        let failed = |reason: String| BusError::jetstream("the last outcome of a shard", reason);
        let stream = self.jetstream.get_stream_no_info(names::OUTCOMES_STREAM).await.map_err(|error| failed(error.to_string()))?;
        let head = match stream.get_last_raw_message_by_subject(&names::outcome_subject(shard)).await {
            Ok(message) => Some((message.sequence, message.time.into())),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => None,
            Err(error) => return Err(failed(error.to_string())),
        };
        let subject = format!("$JS.API.CONSUMER.INFO.{}.{reader}", names::OUTCOMES_STREAM);
        self.info(subject).await.map_err(|reason| failed(format!("the reader's consumer {reader}: {reason}")))?;
        Ok(head)
    }

    /// An INFO as the server gives it: the client leaves out what it does not know. The server wants no payload.
    pub(super) async fn info(&self, subject: String) -> Result<Value, String> {
        let answer = self.client.request(subject, bytes::Bytes::new()).await.map_err(|error| error.to_string())?;
        let info: Value = serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())?;
        match info.pointer("/error/description") {
            Some(reason) => Err(reason.as_str().unwrap_or("refused").to_owned()),
            None => Ok(info),
        }
    }

    /// The state of the four consumers of each queue; those that are missing are made.
    ///
    /// # Errors
    /// [`BusError::JetStream`] when one does not answer.
    pub async fn consumer_states(&self, queues: &[String]) -> Result<Vec<ConsumerState>, BusError> {
        let failed = |error: &dyn std::fmt::Display| BusError::jetstream("consumer INFO", error.to_string());
        let stream = self.jetstream.get_stream_no_info(names::TASKS_STREAM).await.map_err(|error| failed(&error))?;
        let mut states = Vec::new();
        for queue in queues {
            for priority in Priority::ALL {
                let Ok(info) = stream.consumer_info(names::consumer_name(queue, *priority)).await else {
                    self.ensure_consumers(queue).await?;
                    continue;
                };
                states.push(ConsumerState {
                    queue: queue.clone(),
                    priority: *priority,
                    ack_floor: info.ack_floor.stream_sequence,
                    empty: info.num_pending == 0 && info.num_ack_pending == 0,
                });
            }
        }
        Ok(states)
    }
}

fn reader_state(stream: &Value, consumer: &Value) -> Option<ReaderState> {
    let sequence = stream.pointer("/state/last_seq").and_then(Value::as_u64)?;
    let text = stream.pointer("/state/last_ts").and_then(Value::as_str)?;
    // The server tells the year 1 for no message at all.
    let time = OffsetDateTime::parse(text, &Rfc3339).ok().filter(|time| time.year() >= 1970)?;
    let delivered = consumer.pointer("/delivered/consumer_seq").and_then(Value::as_u64)?;
    let pending = consumer.get("num_pending").and_then(Value::as_u64)?;
    Some(ReaderState { head: (sequence, time.into()), delivered, pending })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stream_without_messages_has_no_head() {
        let consumer = json!({"num_pending": 2, "delivered": {"consumer_seq": 5, "stream_seq": 90}});
        let stream = |last_ts: &str| json!({"state": {"last_seq": 99, "last_ts": last_ts}});
        let state = reader_state(&stream("2026-01-01T00:00:00.5Z"), &consumer).expect("complete");
        assert_eq!((state.head.0, state.delivered, state.pending), (99, 5, 2));
        assert_eq!(reader_state(&stream("0001-01-01T00:00:00Z"), &consumer), None);
        assert_eq!(reader_state(&stream("2026-01-01T00:00:00Z"), &json!({"error": {}})), None);
    }
}
