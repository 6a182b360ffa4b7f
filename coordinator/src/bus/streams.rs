//! The two streams and the consumers of queues: made when missing, checked when there.
//!
//! Every stream starts at the microseconds of the database's clock, above every sequence that was ever saved: a late
//! ack or nak from before a wipe finds nothing.

use super::{Bus, BusError};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use orchestr8_proto::names;
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::words::Priority;
use orchestr8_store::shards::PurgeLimits;
use std::collections::HashMap;
use uuid::Uuid;

/// Consumers of the task stream; the server's default would be 250 queues.
const CONSUMERS_MAX: i32 = 40_000;
/// Parked pulls of one consumer: above the number of executors.
const PULLS_WAITING_MAX: i64 = 4_096;
/// Unacknowledged messages of one consumer: above all the slots of its queue.
const ACK_PENDING_MAX: i64 = 100_000;
/// Bytes that outcomes may take until they are committed by every shard.
const OUTCOMES_BYTES_MAX: i64 = 4 * 1024 * 1024 * 1024;

/// What the streams of an installation look like.
#[derive(Debug, Clone, Copy)]
pub struct StreamShape {
    /// The database that they belong to.
    pub installation: Uuid,
    /// Dispatches of one queue and priority that the stream takes.
    pub subject_messages_max: u64,
    /// Servers of a NATS cluster that keep a copy of each stream: 1, 3 or 5.
    pub replicas: u8,
    /// The database's clock when the streams are made.
    pub now: Timestamp,
}

/// Which creation each stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incarnations {
    /// Of the task stream.
    pub tasks: String,
    /// Of the outcome stream.
    pub outcomes: String,
}

impl Bus {
    /// Makes the streams that are missing and checks those that are there.
    ///
    /// # Errors
    /// [`BusError::OtherInstallation`], or [`BusError::JetStream`] when the server does not answer.
    pub async fn ensure_streams(&self, shape: StreamShape) -> Result<Incarnations, BusError> {
        let tasks = self.ensure_stream(tasks_stream(shape, self), shape).await?;
        let outcomes = self.ensure_stream(outcomes_stream(shape), shape).await?;
        Ok(Incarnations { tasks, outcomes })
    }

    async fn ensure_stream(&self, config: Config, shape: StreamShape) -> Result<String, BusError> {
        let name = config.name.clone();
        let stream = match self.jetstream.get_stream(&name).await {
            Ok(stream) => stream,
            Err(error) if missing(&error) => self.create_stream(config).await?,
            Err(error) if disabled(&error) => return Err(self.no_jetstream(&error)),
            Err(error) => return Err(BusError::jetstream(format!("stream {name}"), error)),
        };
        let metadata = &stream.cached_info().config.metadata;
        let ours = shape.installation.to_string();
        match metadata.get(names::METADATA_INSTALLATION) {
            Some(found) if *found == ours => {}
            found => {
                let found = found.cloned().unwrap_or_else(|| "of another program".into());
                return Err(BusError::OtherInstallation { stream: name, found, ours });
            }
        }
        let incarnation = metadata.get(names::METADATA_INCARNATION).cloned();
        self.raise_replicas(&stream, shape).await?;
        incarnation.ok_or_else(|| BusError::jetstream(format!("stream {name}"), "its metadata names no incarnation"))
    }

    /// More copies than the stream was made with; never fewer, so that coordinators with different settings do not undo each other.
    async fn raise_replicas(&self, stream: &Stream, shape: StreamShape) -> Result<(), BusError> {
        let config = &stream.cached_info().config;
        let wanted = usize::from(shape.replicas);
        if config.num_replicas >= wanted {
            return Ok(());
        }
        tracing::info!(stream = %config.name, from = config.num_replicas, to = wanted, "more copies of the stream");
        let raised = self.jetstream.update_stream(Config { num_replicas: wanted, ..config.clone() }).await;
        raised.map(drop).map_err(|error| BusError::jetstream(format!("replicas of stream {}", config.name), error))
    }

    async fn create_stream(&self, config: Config) -> Result<Stream, BusError> {
        let name = config.name.clone();
        tracing::info!(stream = %name, first_sequence = config.first_sequence, "making the stream");
        match self.jetstream.create_stream(config).await {
            Ok(stream) => Ok(stream),
            // Another coordinator was faster.
            Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(_)) => {
                self.jetstream.get_stream(&name).await.map_err(|_| BusError::jetstream(format!("create stream {name}"), error))
            }
            Err(error) => Err(BusError::jetstream(format!("create stream {name}"), error)),
        }
    }

    /// Makes the consumers of a queue, one for each priority.
    ///
    /// # Errors
    /// [`BusError::JetStream`].
    pub async fn ensure_consumers(&self, queue: &str) -> Result<(), BusError> {
        for priority in Priority::ALL {
            let name = names::consumer_name(queue, *priority);
            let config = pull::Config {
                durable_name: Some(name.clone()),
                filter_subject: names::task_subject(queue, *priority),
                ack_policy: AckPolicy::Explicit,
                ack_wait: self.times.ack_wait(),
                max_deliver: -1,
                max_ack_pending: ACK_PENDING_MAX,
                max_waiting: PULLS_WAITING_MAX,
                // Without it the consumers of every queue that ever was would stay. Messages stay in any case: a lane that has some hears of
                // the end and makes the consumer again.
                inactive_threshold: self.queue_forgotten_after,
                metadata: HashMap::from([
                    (names::METADATA_QUEUE.to_owned(), queue.to_owned()),
                    (names::METADATA_PRIORITY.to_owned(), priority.to_string()),
                ]),
                ..pull::Config::default()
            };
            let made = self.jetstream.create_consumer_on_stream(config, names::TASKS_STREAM).await;
            made.map_err(|error| BusError::jetstream(format!("consumer {name}"), error))?;
        }
        Ok(())
    }

    /// A reader of outcomes: no acks, its start by time, or the first message.
    ///
    /// # Errors
    /// [`BusError::JetStream`].
    pub(super) async fn outcome_consumer(&self, subjects: Vec<String>, start: Option<Timestamp>) -> Result<PullConsumer, BusError> {
        let deliver_policy = match start {
            Some(start) => DeliverPolicy::ByStartTime { start_time: start.into() },
            None => DeliverPolicy::All,
        };
        let config = pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subjects: subjects,
            inactive_threshold: self.times.pull_expiry() * 4,
            memory_storage: true,
            ..pull::Config::default()
        };
        let made = self.jetstream.create_consumer_on_stream(config, names::OUTCOMES_STREAM).await;
        made.map_err(|error| BusError::jetstream("the reader of outcomes", error))
    }

    /// Purges outcomes that nobody needs, by sequence alone: by subject it would stall the server. A stream that is more than
    /// half full is purged of all that is decided.
    ///
    /// # Errors
    /// [`BusError::JetStream`].
    pub async fn purge_outcomes(&self, limits: PurgeLimits) -> Result<u64, BusError> {
        let failed = |error: String| BusError::jetstream("purge of outcomes", error);
        let stream = self.jetstream.get_stream(names::OUTCOMES_STREAM).await.map_err(|error| failed(error.to_string()))?;
        let state = &stream.cached_info().state;
        // Never above the last sequence: that would empty the stream and lose its numbering.
        let crowded = state.bytes > u64::try_from(OUTCOMES_BYTES_MAX / 2).unwrap_or(u64::MAX);
        let below = if crowded { limits.decided } else { limits.safe }.unwrap_or(0).min(state.last_sequence);
        if below <= state.first_sequence {
            return Ok(0);
        }
        Ok(stream.purge().sequence(below).await.map_err(|error| failed(error.to_string()))?.purged)
    }
}

fn missing(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    match error.kind() {
        GetStreamErrorKind::JetStream(error) => error.error_code() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND,
        GetStreamErrorKind::EmptyName | GetStreamErrorKind::Request | GetStreamErrorKind::InvalidStreamName => false,
    }
}

fn disabled(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    use async_nats::jetstream::ErrorCode;
    match error.kind() {
        GetStreamErrorKind::JetStream(error) => {
            [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT].contains(&error.error_code())
        }
        GetStreamErrorKind::EmptyName | GetStreamErrorKind::Request | GetStreamErrorKind::InvalidStreamName => false,
    }
}

fn tasks_stream(shape: StreamShape, bus: &Bus) -> Config {
    Config {
        name: names::TASKS_STREAM.into(),
        description: Some("Dispatches that no executor has finished or claimed yet".into()),
        subjects: vec![names::TASK_SUBJECTS.into()],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        max_messages_per_subject: i64::try_from(shape.subject_messages_max).unwrap_or(i64::MAX),
        duplicate_window: bus.times.duplicate_window(),
        max_consumers: CONSUMERS_MAX,
        ..base(shape)
    }
}

fn outcomes_stream(shape: StreamShape) -> Config {
    Config {
        name: names::OUTCOMES_STREAM.into(),
        description: Some("Outcomes, until every shard has committed them".into()),
        subjects: vec![names::OUTCOME_SUBJECTS.into()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_bytes: OUTCOMES_BYTES_MAX,
        ..base(shape)
    }
}

fn base(shape: StreamShape) -> Config {
    Config {
        num_replicas: usize::from(shape.replicas),
        first_sequence: u64::try_from(shape.now.0).ok(),
        metadata: HashMap::from([
            (names::METADATA_INSTALLATION.to_owned(), shape.installation.to_string()),
            (names::METADATA_INCARNATION.to_owned(), Uuid::new_v4().simple().to_string()),
        ]),
        ..Config::default()
    }
}
