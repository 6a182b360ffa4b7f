//! The registered series: one field a metric, its labels, its buckets.

use super::catalogue as c;
use orchestr8_proto::exposition::Described;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

/// In front of every name.
const PREFIX: &str = "orchestr8";
/// From a queue without a backlog to half a day.
const WAIT_BUCKETS_S: [f64; 11] = [0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1_800.0, 7_200.0, 43_200.0];
/// From a handler that returns at once to three days.
const WORK_BUCKETS_S: [f64; 13] = [0.01, 0.1, 0.5, 2.0, 10.0, 30.0, 120.0, 600.0, 1_800.0, 7_200.0, 21_600.0, 86_400.0, 259_200.0];

/// A gauge of seconds.
pub(super) type Seconds = Gauge<f64, AtomicU64>;

/// Every series of a coordinator.
pub(super) struct Series {
    pub registry: Registry,
    pub submissions: Counter,
    pub submissions_refused: Family<ReasonLabel, Counter>,
    pub requests: Family<RequestLabels, Counter>,
    pub request_duration: Family<RouteLabel, Histogram, RequestBuckets>,
    pub tasks: Family<DepthLabels, Gauge>,
    pub demand: Family<QueueLabel, Gauge>,
    pub oldest_queued: Family<QueueLabel, Seconds>,
    pub tasks_ended: Family<EndLabels, Counter>,
    pub queue_wait: Family<QueueLabel, Histogram, WaitBuckets>,
    pub task_duration: Family<QueueLabel, Histogram, WorkBuckets>,
    pub workflow_duration: Family<StatusLabel, Histogram, WorkBuckets>,
    pub outcomes: Family<ResultLabel, Counter>,
    pub attempt_failures: Family<ErrorLabel, Counter>,
    pub retries: Counter,
    pub runs_lost: Counter,
    pub losses_held_back: Gauge,
    pub claims: Family<ResultLabel, Counter>,
    pub publishes: Counter,
    pub publishes_again: Counter,
    pub publishes_refused: Family<ReasonLabel, Counter>,
    pub held: Family<QueueLabel, Gauge>,
    pub outcome_lag: Known,
    pub stream_messages: Family<StreamLabel, Gauge>,
    pub stream_bytes: Family<StreamLabel, Gauge>,
    pub stream_bytes_max: Family<StreamLabel, Gauge>,
    pub executors: Family<QueueLabel, Gauge>,
    pub executors_draining: Gauge,
    pub slots: Family<QueueLabel, Gauge>,
    pub slots_busy: Family<QueueLabel, Gauge>,
    pub shards_owned: Gauge,
    pub shards_due: Gauge,
    pub shards_taken: Counter,
    pub shards_handed_over: Counter,
    pub shards_recovered: Counter,
    pub doubts: Family<ReasonLabel, Counter>,
    pub renewals: Family<ResultLabel, Counter>,
    pub lease_age: Seconds,
    pub commits: Counter,
    pub commit_events: Histogram,
    pub commit_duration: Histogram,
    pub database_bytes: Known,
    pub quarantined: Counter,
    pub connections_lost: Counter,
    pub ready: Family<PartLabel, Gauge>,
    pub build: Family<BuildLabels, Gauge>,
}

/// What something said.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResultLabel {
    pub result: &'static str,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabel {
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EndLabels {
    pub queue: String,
    pub status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StatusLabel {
    pub status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ErrorLabel {
    pub error_type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub method: String,
    pub route: String,
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteLabel {
    pub route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct QueueLabel {
    pub queue: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DepthLabels {
    pub queue: String,
    pub priority: &'static str,
    pub state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StreamLabel {
    pub stream: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PartLabel {
    pub part: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BuildLabels {
    pub component: &'static str,
    pub version: &'static str,
}

/// A gauge that can be absent: unknown is not zero.
#[derive(Debug, Clone)]
pub(super) struct Known {
    described: &'static Described,
    value: Arc<Mutex<Option<i64>>>,
}

impl Known {
    fn of(described: &'static Described) -> Self {
        Self { described, value: Arc::default() }
    }

    pub fn set(&self, value: Option<i64>) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

impl Collector for Known {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(value) = *self.value.lock().unwrap_or_else(PoisonError::into_inner) else { return Ok(()) };
        let gauge = ConstGauge::new(value);
        gauge.encode(encoder.encode_descriptor(short(self.described), self.described.help, None, gauge.metric_type())?)
    }
}

/// 1 ms to 65 s, so that `?wait=` shows too.
#[derive(Clone)]
pub(super) struct RequestBuckets;

impl MetricConstructor<Histogram> for RequestBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.001, 4.0, 9))
    }
}

/// See [`WAIT_BUCKETS_S`].
#[derive(Clone)]
pub(super) struct WaitBuckets;

impl MetricConstructor<Histogram> for WaitBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(WAIT_BUCKETS_S)
    }
}

/// See [`WORK_BUCKETS_S`].
#[derive(Clone)]
pub(super) struct WorkBuckets;

impl MetricConstructor<Histogram> for WorkBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(WORK_BUCKETS_S)
    }
}

impl Series {
    pub fn registered() -> Self {
        let mut series = Self::unregistered();
        series.register_tasks();
        series.register_broker();
        series.register_shards();
        series.register_service();
        series
    }

    fn unregistered() -> Self {
        Self {
            registry: Registry::with_prefix(PREFIX),
            submissions: Counter::default(),
            submissions_refused: Family::default(),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(RequestBuckets),
            tasks: Family::default(),
            demand: Family::default(),
            oldest_queued: Family::default(),
            tasks_ended: Family::default(),
            queue_wait: Family::new_with_constructor(WaitBuckets),
            task_duration: Family::new_with_constructor(WorkBuckets),
            workflow_duration: Family::new_with_constructor(WorkBuckets),
            outcomes: Family::default(),
            attempt_failures: Family::default(),
            retries: Counter::default(),
            runs_lost: Counter::default(),
            losses_held_back: Gauge::default(),
            claims: Family::default(),
            publishes: Counter::default(),
            publishes_again: Counter::default(),
            publishes_refused: Family::default(),
            held: Family::default(),
            outcome_lag: Known::of(&c::OUTCOME_LAG),
            stream_messages: Family::default(),
            stream_bytes: Family::default(),
            stream_bytes_max: Family::default(),
            executors: Family::default(),
            executors_draining: Gauge::default(),
            slots: Family::default(),
            slots_busy: Family::default(),
            shards_owned: Gauge::default(),
            shards_due: Gauge::default(),
            shards_taken: Counter::default(),
            shards_handed_over: Counter::default(),
            shards_recovered: Counter::default(),
            doubts: Family::default(),
            renewals: Family::default(),
            lease_age: Seconds::default(),
            commits: Counter::default(),
            commit_events: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            commit_duration: Histogram::new(exponential_buckets(0.000_25, 2.0, 14)),
            database_bytes: Known::of(&c::DATABASE_BYTES),
            quarantined: Counter::default(),
            connections_lost: Counter::default(),
            ready: Family::default(),
            build: Family::default(),
        }
    }

    fn register(&mut self, described: &Described, metric: impl Metric) {
        // The full stop is the registry's, and so is the `_total` of a counter.
        self.registry.register(short(described), described.help, metric);
    }

    fn register_tasks(&mut self) {
        self.register(&c::TASKS, self.tasks.clone());
        self.register(&c::QUEUE_DEMAND, self.demand.clone());
        self.register(&c::OLDEST_QUEUED_AGE, self.oldest_queued.clone());
        self.register(&c::TASK_QUEUE_WAIT, self.queue_wait.clone());
        self.register(&c::TASK_DURATION, self.task_duration.clone());
        self.register(&c::WORKFLOW_DURATION, self.workflow_duration.clone());
        self.register(&c::TASKS_ENDED, self.tasks_ended.clone());
        self.register(&c::ATTEMPT_FAILURES, self.attempt_failures.clone());
        self.register(&c::RETRIES, self.retries.clone());
        self.register(&c::OUTCOMES, self.outcomes.clone());
        self.register(&c::RUNS_LOST, self.runs_lost.clone());
        self.register(&c::LOSSES_HELD_BACK, self.losses_held_back.clone());
        self.register(&c::EXECUTORS, self.executors.clone());
        self.register(&c::EXECUTORS_DRAINING, self.executors_draining.clone());
        self.register(&c::QUEUE_SLOTS, self.slots.clone());
        self.register(&c::QUEUE_SLOTS_BUSY, self.slots_busy.clone());
        self.register(&c::CLAIMS, self.claims.clone());
    }

    fn register_broker(&mut self) {
        self.register(&c::PUBLISHES, self.publishes.clone());
        self.register(&c::PUBLISHES_AGAIN, self.publishes_again.clone());
        self.register(&c::PUBLISHES_REFUSED, self.publishes_refused.clone());
        self.register(&c::HELD_DISPATCHES, self.held.clone());
        self.registry.register_collector(Box::new(self.outcome_lag.clone()));
        self.register(&c::STREAM_MESSAGES, self.stream_messages.clone());
        self.register(&c::STREAM_BYTES, self.stream_bytes.clone());
        self.register(&c::STREAM_BYTES_MAX, self.stream_bytes_max.clone());
    }

    fn register_shards(&mut self) {
        self.register(&c::SHARDS_OWNED, self.shards_owned.clone());
        self.register(&c::SHARDS_DUE, self.shards_due.clone());
        self.register(&c::SHARDS_TAKEN, self.shards_taken.clone());
        self.register(&c::SHARDS_HANDED_OVER, self.shards_handed_over.clone());
        self.register(&c::SHARDS_RECOVERED, self.shards_recovered.clone());
        self.register(&c::DOUBTS, self.doubts.clone());
        self.register(&c::LEASE_RENEWALS, self.renewals.clone());
        self.register(&c::LEASE_AGE, self.lease_age.clone());
        self.register(&c::COMMITS, self.commits.clone());
        self.register(&c::COMMIT_EVENTS, self.commit_events.clone());
        self.register(&c::COMMIT_DURATION, self.commit_duration.clone());
        self.registry.register_collector(Box::new(self.database_bytes.clone()));
        self.register(&c::EVENTS_QUARANTINED, self.quarantined.clone());
    }

    fn register_service(&mut self) {
        self.register(&c::SUBMISSIONS, self.submissions.clone());
        self.register(&c::SUBMISSIONS_REFUSED, self.submissions_refused.clone());
        self.register(&c::HTTP_REQUESTS, self.requests.clone());
        self.register(&c::HTTP_REQUEST_DURATION, self.request_duration.clone());
        self.register(&c::NATS_CONNECTIONS_LOST, self.connections_lost.clone());
        self.register(&c::READY, self.ready.clone());
        self.register(&c::BUILD, self.build.clone());
    }
}

/// The family's name without the registry's prefix.
fn short(described: &Described) -> &'static str {
    described.family().strip_prefix("orchestr8_").unwrap_or(described.name)
}
