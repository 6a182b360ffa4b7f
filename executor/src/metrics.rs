//! Every metric of an executor: name, labels, help, and what is counted where.

use crate::desk::Figures;
use crate::work::{WorkReport, WorkResult};
use nix::sys::statvfs::statvfs;
use orchestr8_proto::exposition::Described;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const SLOTS: Described = Described::gauge("orchestr8_executor_slots", &[], "Runs at the same time, at most");
const SLOTS_BUSY: Described =
    Described::gauge("orchestr8_executor_slots_busy", &[], "Slots in use: by runs, and by dispatches whose owner is asked first");
const TAKING_WORK: Described = Described::gauge(
    "orchestr8_executor_taking_work",
    &[],
    "1 while it fetches whatever has room: connected, a coordinator is heard, not draining, and not too much unconfirmed",
);
const DRAINING: Described = Described::gauge("orchestr8_executor_draining", &[], "1 while it takes no new work and lets what runs end");
const CONNECTED: Described = Described::gauge("orchestr8_executor_connected", &[], "1 while its connection to NATS is up");
const CONNECTIONS_LOST: Described =
    Described::counter("orchestr8_executor_connections_lost_total", &[], "Times that the connection to NATS was lost");
const COORDINATOR_SILENCE: Described = Described::gauge(
    "orchestr8_executor_coordinator_silence_seconds",
    &[],
    "Since when no coordinator was heard; after 10 s nothing is fetched",
);
const DELIVERIES: Described = Described::counter(
    "orchestr8_executor_deliveries_total",
    &["delivery"],
    "Messages that its pulls brought: first, or again (redelivered or published again), which ask before they start",
);
const RUNS_ENDED: Described = Described::counter(
    "orchestr8_executor_runs_ended_total",
    &["result"],
    "Runs that ended: completed, failed, never_started, unsupported",
);
const RUN_DURATION: Described = Described::histogram(
    "orchestr8_executor_run_duration_seconds",
    &["result"],
    "From the start of a run to its end, on this machine's clock",
);
const UNCONFIRMED: Described = Described::gauge(
    "orchestr8_executor_unconfirmed_outcomes",
    &[],
    "Outcomes kept until a coordinator says that they are decided; at 4,096 nothing more is fetched",
);
const UNCONFIRMED_BYTES: Described =
    Described::gauge("orchestr8_executor_unconfirmed_outcome_bytes", &[], "Bytes of them; at 64 MiB nothing more is fetched");
const DISK_FREE: Described = Described::gauge(
    "orchestr8_executor_disk_free_bytes",
    &["folder"],
    "Room on the disk of a folder; run_root is where attempts get their fresh directories; absent where the system does not tell",
);
const DISK_SIZE: Described = Described::gauge("orchestr8_executor_disk_size_bytes", &["folder"], "The size of that disk");
const BUILD: Described = Described::gauge("orchestr8_build_info", &["component", "version"], "Always 1; which build answers");

/// All of them, in the order of the documentation.
pub const METRICS: &[Described] = &[
    SLOTS,
    SLOTS_BUSY,
    TAKING_WORK,
    DRAINING,
    CONNECTED,
    CONNECTIONS_LOST,
    COORDINATOR_SILENCE,
    DELIVERIES,
    RUNS_ENDED,
    RUN_DURATION,
    UNCONFIRMED,
    UNCONFIRMED_BYTES,
    DISK_FREE,
    DISK_SIZE,
    BUILD,
];

/// From a handler that returns at once to three days.
const DURATION_BUCKETS_S: [f64; 13] = [0.01, 0.1, 0.5, 2.0, 10.0, 30.0, 120.0, 600.0, 1_800.0, 7_200.0, 21_600.0, 86_400.0, 259_200.0];
/// The loop shows its figures at least every half base; after so long without, it stands still.
const STANDSTILL: Duration = Duration::from_secs(10);

/// The executor's metrics. Cheap to clone; all clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    series: Arc<Series>,
    /// What the desk said last, and when.
    figures: Arc<Mutex<Option<(Figures, Instant)>>>,
    run_root: Arc<Path>,
}

/// What a probe is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It takes work whenever it has room.
    Working,
    /// There is no connection yet.
    Starting,
    /// It lives, but takes nothing new, for this reason.
    Idle(&'static str),
    /// Its loop does not turn.
    Standstill,
}

struct Series {
    registry: Registry,
    slots: Gauge,
    slots_busy: Gauge,
    taking_work: Gauge,
    draining: Gauge,
    connected: Gauge,
    connections_lost: Counter,
    silence: Gauge<f64, AtomicU64>,
    deliveries: Family<DeliveryLabel, Counter>,
    runs_ended: Family<ResultLabel, Counter>,
    run_duration: Family<ResultLabel, Histogram, DurationBuckets>,
    unconfirmed: Gauge,
    unconfirmed_bytes: Gauge,
    disk_free: Family<FolderLabel, Gauge>,
    disk_size: Family<FolderLabel, Gauge>,
    build: Family<BuildLabels, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveryLabel {
    delivery: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FolderLabel {
    folder: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    component: &'static str,
    version: &'static str,
}

/// See [`DURATION_BUCKETS_S`].
#[derive(Clone)]
struct DurationBuckets;

impl MetricConstructor<Histogram> for DurationBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(DURATION_BUCKETS_S)
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub(crate) fn new(run_root: PathBuf) -> Self {
        Self { series: Arc::new(Series::registered()), figures: Arc::default(), run_root: run_root.into() }
    }

    /// How the desk is now.
    pub(crate) fn show(&self, figures: Figures) {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = Some((figures, Instant::now()));
    }

    /// The connection to NATS is gone.
    pub(crate) fn connection_lost(&self) {
        self.series.connections_lost.inc();
    }

    /// A run ended.
    pub(crate) fn run_ended(&self, report: &WorkReport) {
        let label = ResultLabel { result: word(&report.result) };
        self.series.runs_ended.get_or_create(&label).inc();
        self.series.run_duration.get_or_create(&label).observe(report.duration.as_secs_f64());
    }

    /// What a probe is told.
    pub(crate) fn condition(&self) -> Condition {
        let shown = *self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        match shown {
            None => Condition::Starting,
            Some((_, at)) if at.elapsed() > STANDSTILL => Condition::Standstill,
            Some((figures, _)) => figures.idle_because.map_or(Condition::Working, Condition::Idle),
        }
    }

    /// The text of `/metrics`, as `OpenMetrics`.
    pub(crate) fn text(&self) -> String {
        let shown = *self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((figures, at)) = shown {
            self.series.set(&figures, at.elapsed());
        }
        self.series.set_disk(&self.run_root);
        let mut text = String::new();
        encode(&mut text, &self.series.registry).expect("a String takes all");
        text
    }
}

impl Series {
    fn registered() -> Self {
        let mut series = Self {
            registry: Registry::with_prefix("orchestr8"),
            slots: Gauge::default(),
            slots_busy: Gauge::default(),
            taking_work: Gauge::default(),
            draining: Gauge::default(),
            connected: Gauge::default(),
            connections_lost: Counter::default(),
            silence: Gauge::default(),
            deliveries: Family::default(),
            runs_ended: Family::default(),
            run_duration: Family::new_with_constructor(DurationBuckets),
            unconfirmed: Gauge::default(),
            unconfirmed_bytes: Gauge::default(),
            disk_free: Family::default(),
            disk_size: Family::default(),
            build: Family::default(),
        };
        series.register_all();
        for result in ["completed", "failed", "never_started", "unsupported"] {
            drop(series.runs_ended.get_or_create(&ResultLabel { result }));
            drop(series.run_duration.get_or_create(&ResultLabel { result }));
        }
        series.build.get_or_create(&BuildLabels { component: "executor", version: env!("CARGO_PKG_VERSION") }).set(1);
        series
    }

    fn register(&mut self, described: &Described, metric: impl Metric) {
        // The full stop is the registry's, and so is the `_total` of a counter.
        let name = described.family().strip_prefix("orchestr8_").unwrap_or(described.name);
        self.registry.register(name, described.help, metric);
    }

    fn register_all(&mut self) {
        self.register(&SLOTS, self.slots.clone());
        self.register(&SLOTS_BUSY, self.slots_busy.clone());
        self.register(&TAKING_WORK, self.taking_work.clone());
        self.register(&DRAINING, self.draining.clone());
        self.register(&CONNECTED, self.connected.clone());
        self.register(&CONNECTIONS_LOST, self.connections_lost.clone());
        self.register(&COORDINATOR_SILENCE, self.silence.clone());
        self.register(&DELIVERIES, self.deliveries.clone());
        self.register(&RUNS_ENDED, self.runs_ended.clone());
        self.register(&RUN_DURATION, self.run_duration.clone());
        self.register(&UNCONFIRMED, self.unconfirmed.clone());
        self.register(&UNCONFIRMED_BYTES, self.unconfirmed_bytes.clone());
        self.register(&DISK_FREE, self.disk_free.clone());
        self.register(&DISK_SIZE, self.disk_size.clone());
        self.register(&BUILD, self.build.clone());
    }

    fn set(&self, figures: &Figures, age: Duration) {
        self.slots.set(number(figures.slots));
        self.slots_busy.set(number(figures.slots_busy));
        self.taking_work.set(i64::from(figures.idle_because.is_none()));
        self.draining.set(i64::from(figures.draining));
        self.connected.set(i64::from(figures.connected));
        self.silence.set((figures.coordinator_silence + age).as_secs_f64());
        self.unconfirmed.set(number(figures.unconfirmed));
        self.unconfirmed_bytes.set(number(figures.unconfirmed_bytes));
        for (delivery, messages) in [("first", figures.delivered_first), ("again", figures.delivered_again)] {
            let counter = self.deliveries.get_or_create(&DeliveryLabel { delivery });
            // The desk counts, since nothing in it may be shared; a scrape takes over what has come since.
            counter.inc_by(messages.saturating_sub(counter.get()));
        }
    }

    fn set_disk(&self, run_root: &Path) {
        self.disk_free.clear();
        self.disk_size.clear();
        let Ok(disk) = statvfs(run_root) else { return };
        let label = FolderLabel { folder: "run_root" };
        let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(disk.fragment_size())).unwrap_or(i64::MAX);
        self.disk_free.get_or_create(&label).set(bytes(disk.blocks_available()));
        self.disk_size.get_or_create(&label).set(bytes(disk.blocks()));
    }
}

const fn word(result: &WorkResult) -> &'static str {
    match result {
        WorkResult::Completed { .. } => "completed",
        WorkResult::Failed { .. } => "failed",
        WorkResult::NeverStarted { .. } => "never_started",
        WorkResult::Unsupported { .. } => "unsupported",
    }
}

fn number(items: usize) -> i64 {
    i64::try_from(items).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(delivered_first: u64, idle_because: Option<&'static str>) -> Figures {
        Figures {
            slots: 4,
            slots_busy: 3,
            idle_because,
            draining: idle_because.is_some(),
            connected: true,
            coordinator_silence: Duration::from_secs(2),
            delivered_first,
            delivered_again: 1,
            unconfirmed: 5,
            unconfirmed_bytes: 600,
        }
    }

    #[test]
    fn a_scrape_shows_the_last_figures_and_counts_each_delivery_once() {
        let metrics = Metrics::new(std::env::temp_dir());
        assert_eq!(metrics.condition(), Condition::Starting);
        metrics.show(figures(7, None));
        assert_eq!(metrics.condition(), Condition::Working);
        metrics.text();
        metrics.show(figures(9, Some("draining")));
        let text = metrics.text();
        assert_eq!(metrics.condition(), Condition::Idle("draining"));
        for line in [
            "orchestr8_executor_slots_busy 3",
            "orchestr8_executor_taking_work 0",
            "orchestr8_executor_deliveries_total{delivery=\"first\"} 9",
            "orchestr8_executor_deliveries_total{delivery=\"again\"} 1",
            "orchestr8_executor_runs_ended_total{result=\"failed\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "`{line}` is missing in\n{text}");
        }
        assert!(text.contains("\norchestr8_executor_disk_free_bytes{folder=\"run_root\"} "), "{text}");
    }

    #[test]
    fn a_run_is_counted_with_its_time() {
        let metrics = Metrics::new(PathBuf::from("/nonexistent"));
        let mut report = WorkReport::from(WorkResult::NeverStarted { detail: String::new() });
        report.duration = Duration::from_secs(3);
        metrics.run_ended(&report);
        let text = metrics.text();
        assert!(text.contains("orchestr8_executor_runs_ended_total{result=\"never_started\"} 1"), "{text}");
        assert!(text.contains("orchestr8_executor_run_duration_seconds_bucket{le=\"10.0\",result=\"never_started\"} 1"), "{text}");
        assert!(!text.contains("run_root"), "no disk, no figure: {text}");
    }
}
