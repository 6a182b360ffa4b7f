//! What is counted at a scrape, not at an event: the depths of the queues, who is there, how the lanes are.

use super::Metrics;
use super::series::{DepthLabels, PartLabel, QueueLabel, StreamLabel};
use crate::bus::gauges::StreamSize;
use crate::engine::handle::{EngineHealth, ExecutorView};
use orchestr8_proto::words::TaskStatus;
use orchestr8_store::read::depths::{QueueAge, QueueDepth};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Instant;

/// Queues (times priorities and states) that are shown; further ones are left out.
const QUEUES_SHOWN_MAX: usize = 1_000;

/// What the database says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Of all unfinished tasks, of all shards.
    pub depths: Vec<QueueDepth>,
    /// Of all queues with queued tasks, of all shards.
    pub oldest_queued: Vec<QueueAge>,
    /// Of its tables and indexes; none: it does not tell.
    pub database_bytes: Option<i64>,
}

/// What this process knows by itself.
#[derive(Debug, Clone)]
pub struct EngineView {
    /// Of all lanes together.
    pub health: EngineHealth,
    /// Why the database does not answer reads, if it does not.
    pub reads: Option<String>,
    /// Those that were heard lately.
    pub executors: Vec<ExecutorView>,
}

/// How a lane was when it last renewed its leases.
#[derive(Debug, Clone)]
pub struct LaneView {
    /// When that was.
    pub renewed_at: Instant,
    /// Dispatches that wait for room in the broker, by queue.
    pub held: BTreeMap<String, i64>,
}

/// Executors of one queue.
#[derive(Debug, Default)]
struct Served {
    executors: i64,
    slots: i64,
    busy: i64,
}

impl Metrics {
    /// Replaces what the database says. The caller lets no scrape run in between.
    pub fn observe(&self, observed: &Observed) {
        let series = &self.series;
        series.tasks.clear();
        series.demand.clear();
        series.oldest_queued.clear();
        series.database_bytes.set(observed.database_bytes);
        for depth in observed.depths.iter().take(QUEUES_SHOWN_MAX) {
            self.observe_depth(depth);
        }
        for age in observed.oldest_queued.iter().take(QUEUES_SHOWN_MAX) {
            series.oldest_queued.get_or_create(&queue_label(&age.queue)).set(age.age.as_secs_f64());
        }
    }

    /// Replaces what this process knows by itself.
    pub fn observe_engine(&self, view: &EngineView) {
        let (series, health) = (&self.series, &view.health);
        series.shards_owned.set(number(health.shards_owned));
        series.shards_due.set(number(health.shards_due));
        let has_shards = health.shards_owned > 0 || health.shards_due == 0;
        let has_database = health.database.is_none() && view.reads.is_none();
        for (part, is_there) in [("database", has_database), ("nats", health.nats.is_none()), ("shards", has_shards)] {
            series.ready.get_or_create(&PartLabel { part }).set(i64::from(is_there));
        }
        series.executors_draining.set(number(view.executors.iter().filter(|executor| executor.draining || executor.cordoned).count()));
        self.observe_executors(&view.executors);
        self.observe_lanes();
    }

    /// Replaces the sizes of the streams; empty: nobody can tell.
    pub fn observe_streams(&self, sizes: &[StreamSize]) {
        let series = &self.series;
        series.stream_messages.clear();
        series.stream_bytes.clear();
        series.stream_bytes_max.clear();
        for size in sizes {
            let label = StreamLabel { stream: size.stream };
            series.stream_messages.get_or_create(&label).set(size.messages);
            series.stream_bytes.get_or_create(&label).set(size.bytes);
            if let Some(limit) = size.bytes_max {
                series.stream_bytes_max.get_or_create(&label).set(limit);
            }
        }
    }

    /// Replaces the lag of this coordinator's outcomes; none: nobody can tell, which is not zero.
    pub fn observe_outcome_lag(&self, messages: Option<u64>) {
        self.series.outcome_lag.set(messages.map(|messages| i64::try_from(messages).unwrap_or(i64::MAX)));
    }

    fn observe_depth(&self, depth: &QueueDepth) {
        let labels = DepthLabels { queue: depth.queue.clone(), priority: depth.priority.as_str(), state: depth.status.as_str() };
        self.series.tasks.get_or_create(&labels).set(depth.tasks);
        match depth.status {
            TaskStatus::Queued | TaskStatus::Running => {
                self.series.demand.get_or_create(&queue_label(&depth.queue)).inc_by(depth.tasks);
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

    fn observe_executors(&self, executors: &[ExecutorView]) {
        let mut by_queue = BTreeMap::<&str, Served>::new();
        for executor in executors {
            for queue in &executor.queues {
                let served = by_queue.entry(queue).or_default();
                served.executors += 1;
                served.slots += i64::from(executor.slots);
                served.busy += i64::from(executor.slots_busy);
            }
        }
        let series = &self.series;
        let shown = || by_queue.iter().take(QUEUES_SHOWN_MAX);
        replace(&series.executors, shown().map(|(queue, served)| (*queue, served.executors)));
        replace(&series.slots, shown().map(|(queue, served)| (*queue, served.slots)));
        replace(&series.slots_busy, shown().map(|(queue, served)| (*queue, served.busy)));
    }

    fn observe_lanes(&self) {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = lanes.values().map(|lane| lane.renewed_at.elapsed()).max().unwrap_or_default();
        self.series.lease_age.set(oldest.as_secs_f64());
        let mut held = BTreeMap::<&str, i64>::new();
        for (queue, dispatches) in lanes.values().flat_map(|lane| &lane.held) {
            *held.entry(queue).or_default() += dispatches;
        }
        replace(&self.series.held, held.into_iter().take(QUEUES_SHOWN_MAX));
    }
}

fn replace<'a>(family: &Family<QueueLabel, Gauge>, values: impl Iterator<Item = (&'a str, i64)>) {
    family.clear();
    for (queue, value) in values {
        family.get_or_create(&queue_label(queue)).set(value);
    }
}

fn queue_label(queue: &str) -> QueueLabel {
    QueueLabel { queue: queue.to_owned() }
}

fn number(items: usize) -> i64 {
    i64::try_from(items).unwrap_or(i64::MAX)
}
