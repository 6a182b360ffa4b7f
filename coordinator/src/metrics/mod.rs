//! Every metric of the coordinator: one method per domain event. Nothing else touches the registry.
//!
//! - [`catalogue`]: names, labels, help
//! - `series`: what is registered, with its buckets
//! - [`observed`]: what is counted at a scrape, not at an event
//! - `tally`: what a batch did, counted once it is committed

pub mod catalogue;
pub mod observed;
mod series;
mod tally;

pub use observed::{EngineView, LaneView, Observed};
pub use tally::Tally;

use crate::bus::gauges::Broker;
use crate::bus::lag::OutcomeReaders;
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use orchestr8_store::StoreError;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use series::{BuildLabels, EndLabels, ErrorLabel, QueueLabel, ReasonLabel, RequestLabels, ResultLabel, RouteLabel, Series, StatusLabel};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// Queues with times and ends of their own; the tasks of further ones are measured as queue `other`. Their names come from callers.
const QUEUES_MEASURED_MAX: usize = 200;
/// Error types with a series of their own; they come from handlers and executors.
const ERROR_TYPES_MAX: usize = 64;
/// Bytes of an error type that is shown.
const ERROR_TYPE_BYTES_MAX: usize = 64;
/// Where what is beyond a bound is counted.
const OTHER: &str = "other";

/// Words that a label can have: they are shown from the start, so that a first one is an increase.
const OUTCOME_RESULTS: [&str; 3] = ["completed", "failed", "released"];
const CLAIM_RESULTS: [&str; 2] = ["granted", "refused"];
const SUBMISSION_REASONS: [&str; 4] = ["overloaded", "unavailable", "key_reused", "refused"];
const PUBLISH_REASONS: [&str; 3] = ["full", "no_storage", "too_large"];
const DOUBT_REASONS: [&str; 4] = ["fenced", "version", "unavailable", "refused"];
const RENEWAL_RESULTS: [&str; 2] = ["kept", "failed"];
const FINAL_STATUSES: [WorkflowStatus; 3] = [WorkflowStatus::Completed, WorkflowStatus::Failed, WorkflowStatus::Cancelled];

/// The coordinator's metrics. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Metrics {
    series: Arc<Series>,
    /// Looked up by name alone, so that a task that ends costs no allocation.
    queues: Arc<RwLock<HashMap<String, Arc<QueueSeries>>>>,
    lanes: Arc<Mutex<BTreeMap<usize, LaneView>>>,
    /// Those with a series of their own.
    error_types: Arc<Mutex<BTreeSet<String>>>,
    readers: OutcomeReaders,
    broker: Broker,
}

/// The series of one queue.
struct QueueSeries {
    completed: Counter,
    failed: Counter,
    skipped: Counter,
    cancelled: Counter,
    wait: Histogram,
    duration: Histogram,
}

/// Why a submission was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubmissionRefusal {
    /// Too much waits for the database already.
    Overloaded,
    /// Postgres or the lane is away.
    Unavailable,
    /// The idempotency key was used with another body.
    KeyReused,
    /// The database refused the rows themselves.
    Refused,
}

/// Why the broker did not take a dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishRefusal {
    /// The subject has its bound.
    Full,
    /// The server has no storage.
    NoStorage,
    /// The message is too large.
    TooLarge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            series: Arc::new(Series::registered()),
            queues: Arc::default(),
            lanes: Arc::default(),
            error_types: Arc::default(),
            readers: OutcomeReaders::default(),
            broker: Broker::default(),
        };
        metrics.show_known_words();
        metrics
    }
}

impl Metrics {
    /// Executions were committed for callers.
    pub fn submitted(&self, executions: usize) {
        self.series.submissions.inc_by(count(executions));
    }

    /// A well-formed submission was not taken.
    pub fn submission_refused(&self, refusal: SubmissionRefusal) {
        let reason = match refusal {
            SubmissionRefusal::Overloaded => "overloaded",
            SubmissionRefusal::Unavailable => "unavailable",
            SubmissionRefusal::KeyReused => "key_reused",
            SubmissionRefusal::Refused => "refused",
        };
        self.series.submissions_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// An outcome was decided; `result` is a fixed word: `completed`, `failed` or `released`.
    pub fn outcome_decided(&self, result: &'static str) {
        self.series.outcomes.get_or_create(&ResultLabel { result }).inc();
    }

    /// An attempt left the queue because it started.
    pub fn task_started(&self, queue: &str, waited: Duration) {
        self.queue(queue).wait.observe(waited.as_secs_f64());
    }

    /// A task reached a final state, so long after its last start, if it had one.
    pub fn task_ended(&self, queue: &str, status: TaskStatus, duration: Option<Duration>) {
        let series = self.queue(queue);
        if let Some(duration) = duration {
            series.duration.observe(duration.as_secs_f64());
        }
        match status {
            TaskStatus::Completed => series.completed.inc(),
            TaskStatus::Failed => series.failed.inc(),
            TaskStatus::Skipped => series.skipped.inc(),
            TaskStatus::Cancelled => series.cancelled.inc(),
            // None of them is an end.
            TaskStatus::Pending | TaskStatus::Queued | TaskStatus::Running | TaskStatus::Retrying | TaskStatus::Waiting => 0,
        };
    }

    /// An execution ended, so long after its submission.
    pub fn workflow_ended(&self, status: WorkflowStatus, duration: Duration) {
        self.series.workflow_duration.get_or_create(&StatusLabel { status: status.as_str() }).observe(duration.as_secs_f64());
    }

    /// What a batch did was committed.
    pub fn tallied(&self, tally: &Tally) {
        self.series.retries.inc_by(tally.retries);
        for (error_type, attempts) in &tally.failures {
            self.attempts_failed(error_type, *attempts);
        }
    }

    /// So many attempts failed with this error.
    pub fn attempts_failed(&self, error_type: &str, attempts: u64) {
        let mut errors = self.error_types.lock().unwrap_or_else(PoisonError::into_inner);
        let is_shown = error_type.len() <= ERROR_TYPE_BYTES_MAX && (errors.contains(error_type) || errors.len() < ERROR_TYPES_MAX);
        let shown = if is_shown { error_type } else { OTHER };
        if is_shown && !errors.contains(shown) {
            errors.insert(shown.to_owned());
        }
        self.series.attempt_failures.get_or_create(&ErrorLabel { error_type: shown.to_owned() }).inc_by(attempts);
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

    /// So many executors are silent together, and nothing of them is declared lost.
    pub fn losses_held_back(&self, executors: usize) {
        self.series.losses_held_back.set(i64::try_from(executors).unwrap_or(i64::MAX));
    }

    /// Dispatches were stored by the broker.
    pub fn published(&self, dispatches: usize) {
        self.series.publishes.inc_by(count(dispatches));
    }

    /// Dispatches were published again with the same ids.
    pub fn published_again(&self, dispatches: usize) {
        self.series.publishes_again.inc_by(count(dispatches));
    }

    /// The broker did not take a dispatch.
    pub fn publish_refused(&self, refusal: PublishRefusal) {
        let reason = match refusal {
            PublishRefusal::Full => "full",
            PublishRefusal::NoStorage => "no_storage",
            PublishRefusal::TooLarge => "too_large",
        };
        self.series.publishes_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Shards were recovered.
    pub fn recovered(&self, shards: usize) {
        self.series.shards_recovered.inc_by(count(shards));
    }

    /// Vacant shards were taken.
    pub fn taken(&self, shards: usize) {
        self.series.shards_taken.inc_by(count(shards));
    }

    /// Shards were given to others.
    pub fn handed_over(&self, shards: usize) {
        self.series.shards_handed_over.inc_by(count(shards));
    }

    /// A lane has a doubt and recovers its shards.
    pub fn doubted(&self, doubt: &StoreError) {
        let reason = match doubt {
            StoreError::Fenced => "fenced",
            StoreError::Version => "version",
            StoreError::Unavailable(_) => "unavailable",
            StoreError::Refused { .. } | StoreError::Unreadable(_) => "refused",
        };
        self.series.doubts.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A lane did not renew its leases.
    pub fn renewal_failed(&self) {
        self.series.renewals.get_or_create(&ResultLabel { result: "failed" }).inc();
    }

    /// A lane renewed its leases, and this is how it is now.
    pub fn renewed(&self, lane: usize, view: LaneView) {
        self.series.renewals.get_or_create(&ResultLabel { result: "kept" }).inc();
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).insert(lane, view);
    }

    /// An event could not be applied and was set aside.
    pub fn quarantined(&self) {
        self.series.quarantined.inc();
    }

    /// A lane lost its connection to NATS.
    pub fn connection_lost(&self) {
        self.series.connections_lost.inc();
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

    /// Where readers of outcomes register.
    #[must_use]
    pub fn outcome_readers(&self) -> &OutcomeReaders {
        &self.readers
    }

    /// Whom a scrape asks for the sizes of the streams.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The text of `/metrics`, as `OpenMetrics`.
    ///
    /// # Panics
    /// Never: a String takes all.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.series.registry).expect("a String takes all");
        text
    }

    fn queue(&self, queue: &str) -> Arc<QueueSeries> {
        let known = self.queues.read().unwrap_or_else(PoisonError::into_inner).get(queue).cloned();
        known.unwrap_or_else(|| {
            let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
            let shown = if queues.contains_key(queue) || queues.len() < QUEUES_MEASURED_MAX { queue } else { OTHER };
            queues.entry(shown.to_owned()).or_insert_with(|| Arc::new(QueueSeries::of(&self.series, shown))).clone()
        })
    }

    fn show_known_words(&self) {
        let series = &self.series;
        OUTCOME_RESULTS.iter().for_each(|result| drop(series.outcomes.get_or_create(&ResultLabel { result })));
        CLAIM_RESULTS.iter().for_each(|result| drop(series.claims.get_or_create(&ResultLabel { result })));
        RENEWAL_RESULTS.iter().for_each(|result| drop(series.renewals.get_or_create(&ResultLabel { result })));
        SUBMISSION_REASONS.iter().for_each(|reason| drop(series.submissions_refused.get_or_create(&ReasonLabel { reason })));
        PUBLISH_REASONS.iter().for_each(|reason| drop(series.publishes_refused.get_or_create(&ReasonLabel { reason })));
        DOUBT_REASONS.iter().for_each(|reason| drop(series.doubts.get_or_create(&ReasonLabel { reason })));
        for status in FINAL_STATUSES {
            drop(series.workflow_duration.get_or_create(&StatusLabel { status: status.as_str() }));
        }
        series.build.get_or_create(&BuildLabels { component: "coordinator", version: env!("CARGO_PKG_VERSION") }).set(1);
    }
}

impl QueueSeries {
    fn of(series: &Series, queue: &str) -> Self {
        let label = QueueLabel { queue: queue.to_owned() };
        let ended = |status: TaskStatus| {
            let labels = EndLabels { queue: queue.to_owned(), status: status.as_str() };
            series.tasks_ended.get_or_create_owned(&labels)
        };
        Self {
            completed: ended(TaskStatus::Completed),
            failed: ended(TaskStatus::Failed),
            skipped: ended(TaskStatus::Skipped),
            cancelled: ended(TaskStatus::Cancelled),
            wait: series.queue_wait.get_or_create_owned(&label),
            duration: series.task_duration.get_or_create_owned(&label),
        }
    }
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
