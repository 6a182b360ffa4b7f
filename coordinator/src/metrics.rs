//! Every metric of the coordinator: name, unit, help, and one method per domain event. Nothing else touches the registry.

use crate::bus::lag::OutcomeReaders;
use orchestr8_proto::words::TaskStatus;
use orchestr8_store::read::depths::{QueueAge, QueueDepth};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Queues (times priorities and states) with a series of their own; the tasks of further queues are shown as queue `other`.
const QUEUES_SHOWN_MAX: usize = 1_000;

/// The coordinator's metrics. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Metrics {
    series: Arc<Series>,
    readers: OutcomeReaders,
}

/// What is counted at a scrape, not at an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Of all unfinished tasks, of all shards.
    pub depths: Vec<QueueDepth>,
    /// Of all queues with queued tasks, of all shards.
    pub oldest_queued: Vec<QueueAge>,
    /// Each queue with the number of executors that fetch from it.
    pub executors: Vec<(String, i64)>,
    /// Shards owned by this coordinator.
    pub shards_owned: i64,
}

struct Series {
    registry: Registry,
    submissions: Counter,
    outcomes: Family<ResultLabel, Counter>,
    tasks_ended: Family<EndLabels, Counter>,
    /// Series in `tasks_ended`, those beyond the bound included.
    queues_ended: AtomicUsize,
    commits: Counter,
    commit_events: Histogram,
    commit_duration: Histogram,
    claims: Family<ResultLabel, Counter>,
    runs_lost: Counter,
    publishes: Counter,
    publishes_again: Counter,
    shards_recovered: Counter,
    events_quarantined: Counter,
    requests: Family<RequestLabels, Counter>,
    request_duration: Family<RouteLabel, Histogram, RequestBuckets>,
    tasks: Family<DepthLabels, Gauge>,
    demand: Family<QueueLabel, Gauge>,
    oldest_queued: Family<QueueLabel, Gauge<f64, AtomicU64>>,
    outcome_lag: OutcomeLag,
    executors: Family<QueueLabel, Gauge>,
    shards_owned: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    queue: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    queue: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DepthLabels {
    queue: String,
    priority: &'static str,
    state: &'static str,
}

/// A gauge that can be absent: unknown is not zero.
#[derive(Debug, Clone, Default)]
struct OutcomeLag {
    messages: Arc<Mutex<Option<i64>>>,
}

impl Collector for OutcomeLag {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(messages) = *self.messages.lock().unwrap_or_else(PoisonError::into_inner) else { return Ok(()) };
        let help = "Messages of the outcome stream for the shards of this coordinator that are not committed: not read yet, or read and \
            not committed; take the sum; absent while it reads none, because it owns no shard or Postgres or NATS is away";
        let gauge = ConstGauge::new(messages);
        gauge.encode(encoder.encode_descriptor("outcome_lag", help, None, gauge.metric_type())?)
    }
}

/// 1 ms to 65 s, so that `?wait=` shows too.
#[derive(Clone)]
struct RequestBuckets;

impl MetricConstructor<Histogram> for RequestBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.001, 4.0, 9))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { series: Arc::new(Series::registered()), readers: OutcomeReaders::default() }
    }
}

impl Metrics {
    /// Executions were committed for callers.
    pub fn submitted(&self, executions: usize) {
        self.series.submissions.inc_by(count(executions));
    }

    /// An outcome was decided; `result` is a fixed word: `completed`, `failed`, `released`, `lost`, `stale` and so on.
    pub fn outcome_decided(&self, result: &'static str) {
        self.series.outcomes.get_or_create(&ResultLabel { result }).inc();
    }

    /// A task reached a final state.
    pub fn task_ended(&self, queue: &str, status: TaskStatus) {
        let family = &self.series.tasks_ended;
        let mut labels = EndLabels { queue: queue.to_owned(), status: status.as_str() };
        // Names of queues come from callers: their number is bounded.
        let is_new = family.get(&labels).is_none();
        if is_new && self.series.queues_ended.fetch_add(1, Ordering::Relaxed) >= QUEUES_SHOWN_MAX {
            "other".clone_into(&mut labels.queue);
        }
        family.get_or_create(&labels).inc();
    }

    /// A batch was committed: its events, and how long the round trip took.
    pub fn batch_committed(&self, events: usize, duration: Duration) {
        self.series.commits.inc();
        self.series.commit_events.observe(f64::from(u32::try_from(events).unwrap_or(u32::MAX)));
        self.series.commit_duration.observe(duration.as_secs_f64());
    }

    /// An executor may run, or go on running, what it asked for.
    pub fn claim_granted(&self) {
        self.series.claims.get_or_create(&ResultLabel { result: "granted" }).inc();
    }

    /// An executor must not run what it asked for.
    pub fn claim_refused(&self) {
        self.series.claims.get_or_create(&ResultLabel { result: "refused" }).inc();
    }

    /// A run was declared lost.
    pub fn run_lost(&self) {
        self.series.runs_lost.inc();
    }

    /// Dispatches were published for the first time.
    pub fn published(&self, dispatches: usize) {
        self.series.publishes.inc_by(count(dispatches));
    }

    /// Dispatches were published again with the same ids.
    pub fn published_again(&self, dispatches: usize) {
        self.series.publishes_again.inc_by(count(dispatches));
    }

    /// Shards were recovered.
    pub fn recovered(&self, shards: usize) {
        self.series.shards_recovered.inc_by(count(shards));
    }

    /// An event could not be applied and was set aside.
    pub fn quarantined(&self) {
        self.series.events_quarantined.inc();
    }

    /// An HTTP request was answered; `route` is the pattern, never the path.
    pub fn request_answered(&self, method: &str, route: &str, status: u16) {
        let labels = RequestLabels { method: method.to_owned(), route: route.to_owned(), status };
        self.series.requests.get_or_create(&labels).inc();
    }

    /// How long the answer's head took.
    pub fn request_took(&self, route: &str, duration: Duration) {
        let label = RouteLabel { route: route.to_owned() };
        self.series.request_duration.get_or_create(&label).observe(duration.as_secs_f64());
    }

    /// Replaces what is counted at a scrape. The caller lets no scrape run in between.
    pub fn observe(&self, observed: &Observed) {
        let series = &self.series;
        series.tasks.clear();
        series.demand.clear();
        series.oldest_queued.clear();
        series.executors.clear();
        series.shards_owned.set(observed.shards_owned);
        for depth in observed.depths.iter().take(QUEUES_SHOWN_MAX) {
            self.observe_depth(depth);
        }
        for age in observed.oldest_queued.iter().take(QUEUES_SHOWN_MAX) {
            series.oldest_queued.get_or_create(&QueueLabel { queue: age.queue.clone() }).set(age.age.as_secs_f64());
        }
        for (queue, executors) in observed.executors.iter().take(QUEUES_SHOWN_MAX) {
            series.executors.get_or_create(&QueueLabel { queue: queue.clone() }).set(*executors);
        }
    }

    /// Replaces the lag of this coordinator's outcomes; none: nobody can tell, which is not zero.
    pub fn observe_outcome_lag(&self, messages: Option<u64>) {
        let lag = messages.map(|messages| i64::try_from(messages).unwrap_or(i64::MAX));
        *self.series.outcome_lag.messages.lock().unwrap_or_else(PoisonError::into_inner) = lag;
    }

    /// Where readers of outcomes register.
    #[must_use]
    pub fn outcome_readers(&self) -> &OutcomeReaders {
        &self.readers
    }

    /// The text of `/metrics`.
    ///
    /// # Panics
    /// Never: a String takes all.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.series.registry).expect("a String takes all");
        text
    }

    fn observe_depth(&self, depth: &QueueDepth) {
        let labels = DepthLabels { queue: depth.queue.clone(), priority: depth.priority.as_str(), state: depth.status.as_str() };
        self.series.tasks.get_or_create(&labels).set(depth.tasks);
        match depth.status {
            TaskStatus::Queued | TaskStatus::Running => {
                self.series.demand.get_or_create(&QueueLabel { queue: depth.queue.clone() }).inc_by(depth.tasks);
            }
            TaskStatus::Pending
            | TaskStatus::Retrying
            | TaskStatus::Waiting
            | TaskStatus::Completed
            | TaskStatus::Failed
            | TaskStatus::Skipped
            | TaskStatus::Cancelled => {}
        }
    }
}

impl Series {
    fn registered() -> Self {
        let mut series = Self {
            registry: Registry::with_prefix("orchestr8"),
            submissions: Counter::default(),
            outcomes: Family::default(),
            tasks_ended: Family::default(),
            queues_ended: AtomicUsize::new(0),
            commits: Counter::default(),
            commit_events: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            commit_duration: Histogram::new(exponential_buckets(0.000_25, 2.0, 14)),
            claims: Family::default(),
            runs_lost: Counter::default(),
            publishes: Counter::default(),
            publishes_again: Counter::default(),
            shards_recovered: Counter::default(),
            events_quarantined: Counter::default(),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(RequestBuckets),
            tasks: Family::default(),
            demand: Family::default(),
            oldest_queued: Family::default(),
            outcome_lag: OutcomeLag::default(),
            executors: Family::default(),
            shards_owned: Gauge::default(),
        };
        series.register_events();
        series.register_commits();
        series.register_requests();
        series.register_observed();
        series
    }

    /// Each counter's name gets `_total` behind it in the text.
    fn register_events(&mut self) {
        let registry = &mut self.registry;
        registry.register("submissions", "Workflow executions committed for callers", self.submissions.clone());
        registry.register("outcomes", "Outcomes decided, by what they said", self.outcomes.clone());
        registry.register("tasks_ended", "Tasks that reached a final state", self.tasks_ended.clone());
        registry.register("claims", "Claims of executors answered", self.claims.clone());
        registry.register("runs_lost", "Runs declared lost", self.runs_lost.clone());
        registry.register("publishes", "Dispatches published for the first time", self.publishes.clone());
        registry.register("publishes_again", "Dispatches published again with the same ids", self.publishes_again.clone());
        registry.register("shards_recovered", "Recoveries of a shard", self.shards_recovered.clone());
        registry.register("events_quarantined", "Events that could not be applied", self.events_quarantined.clone());
    }

    fn register_commits(&mut self) {
        let registry = &mut self.registry;
        registry.register("commits", "Batches committed by the lanes", self.commits.clone());
        registry.register("commit_events", "Events in one batch", self.commit_events.clone());
        let help = "Round trip of one commit";
        registry.register_with_unit("commit_duration", help, Unit::Seconds, self.commit_duration.clone());
    }

    fn register_requests(&mut self) {
        let registry = &mut self.registry;
        registry.register("http_requests", "Requests answered, by route and status", self.requests.clone());
        let help = "From a request's head to its answer's head; waits included";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, self.request_duration.clone());
    }

    fn register_observed(&mut self) {
        let registry = &mut self.registry;
        let help = "Unfinished tasks of all shards; the same on each coordinator, so take the maximum, not the sum";
        registry.register("tasks", help, self.tasks.clone());
        let help = "Slots that queued and running tasks want, of all shards; take the maximum";
        registry.register("queue_demand_slots", help, self.demand.clone());
        let help = "Since when the oldest queued task of the queue waits for an executor, of all shards; take the maximum; absent where nothing is queued";
        registry.register_with_unit("oldest_queued_age", help, Unit::Seconds, self.oldest_queued.clone());
        registry.register_collector(Box::new(self.outcome_lag.clone()));
        registry.register("executors", "Executors heard lately that fetch from the queue", self.executors.clone());
        registry.register("shards_owned", "Shards owned by this coordinator", self.shards_owned.clone());
    }
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::words::Priority;

    #[test]
    fn events_are_counted_under_their_names() {
        let metrics = Metrics::default();
        metrics.submitted(3);
        metrics.clone().outcome_decided("completed");
        metrics.claim_refused();
        metrics.batch_committed(7, Duration::from_millis(2));
        metrics.task_ended("default", TaskStatus::Failed);
        metrics.request_answered("GET", "/healthz", 200);
        let text = metrics.text();
        for line in [
            "orchestr8_submissions_total 3",
            "orchestr8_outcomes_total{result=\"completed\"} 1",
            "orchestr8_claims_total{result=\"refused\"} 1",
            "orchestr8_commit_events_sum 7.0",
            "orchestr8_commit_duration_seconds_count 1",
            "orchestr8_tasks_ended_total{queue=\"default\",status=\"failed\"} 1",
            "orchestr8_http_requests_total{method=\"GET\",route=\"/healthz\",status=\"200\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn what_is_observed_replaces_what_was() {
        let metrics = Metrics::default();
        let depth = |queue: &str, status, tasks| QueueDepth { queue: queue.into(), priority: Priority::Normal, status, tasks };
        metrics.observe(&Observed { depths: vec![depth("old", TaskStatus::Queued, 1)], ..Observed::default() });
        let depths = vec![depth("new", TaskStatus::Queued, 2), depth("new", TaskStatus::Running, 3), depth("new", TaskStatus::Retrying, 9)];
        let oldest_queued = vec![QueueAge { queue: "new".into(), age: Duration::from_millis(1_500) }];
        let executors = vec![("new".into(), 2)];
        metrics.observe(&Observed { depths, oldest_queued, executors, shards_owned: 16 });
        metrics.observe_outcome_lag(Some(4));
        let text = metrics.text();
        assert!(!text.contains("queue=\"old\""), "{text}");
        assert!(text.contains("orchestr8_tasks{queue=\"new\",priority=\"normal\",state=\"queued\"} 2"), "{text}");
        assert!(text.contains("orchestr8_queue_demand_slots{queue=\"new\"} 5"), "{text}");
        assert!(text.contains("orchestr8_oldest_queued_age_seconds{queue=\"new\"} 1.5"), "{text}");
        assert!(text.contains("\norchestr8_outcome_lag 4\n"), "{text}");
        metrics.observe_outcome_lag(None);
        metrics.observe(&Observed::default());
        let later = metrics.text();
        assert!(!later.contains("\norchestr8_outcome_lag ") && !later.contains("seconds{queue=\"new\"}"), "unknown is not zero: {later}");
        assert!(text.contains("orchestr8_executors{queue=\"new\"} 2") && text.contains("orchestr8_shards_owned 16"), "{text}");
    }
}
