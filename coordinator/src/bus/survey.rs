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

impl Bus {
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
