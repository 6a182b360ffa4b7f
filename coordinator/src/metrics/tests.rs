//! What is counted, under which names, within which bounds.

use super::*;
use crate::bus::gauges::StreamSize;
use crate::engine::handle::{EngineHealth, ExecutorView};
use orchestr8_core::execution::{AttemptOutcome, AttemptRecord, Changes, Failure, HistoryEvent, Usage};
use orchestr8_proto::exposition::MetricKind;
use orchestr8_proto::ids::{Incarnation, RunId};
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::words::Priority;
use orchestr8_store::read::depths::{QueueAge, QueueDepth};
use std::collections::HashSet;
use std::time::Instant;
use time::OffsetDateTime;

fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "`{line}` is missing in\n{text}");
    }
}

#[test]
fn events_are_counted_under_their_names() {
    let metrics = Metrics::default();
    metrics.submitted(3);
    metrics.clone().outcome_decided("completed");
    metrics.claim_refused();
    metrics.batch_committed(7, Duration::from_millis(2));
    metrics.task_started("default", Duration::from_millis(30));
    metrics.task_ended("default", TaskStatus::Failed, Some(Duration::from_secs(3)));
    metrics.workflow_ended(WorkflowStatus::Completed, Duration::from_secs(90));
    metrics.submission_refused(SubmissionRefusal::Overloaded);
    metrics.publish_refused(PublishRefusal::NoStorage);
    metrics.doubted(&StoreError::Fenced);
    metrics.request_answered("GET", "/healthz", 200);
    let lines = [
        "orchestr8_submissions_total 3",
        "orchestr8_outcomes_total{result=\"completed\"} 1",
        "orchestr8_claims_total{result=\"refused\"} 1",
        "orchestr8_claims_total{result=\"granted\"} 0",
        "orchestr8_commit_events_sum 7.0",
        "orchestr8_commit_duration_seconds_count 1",
        "orchestr8_task_queue_wait_seconds_bucket{le=\"0.1\",queue=\"default\"} 1",
        "orchestr8_task_queue_wait_seconds_bucket{le=\"0.02\",queue=\"default\"} 0",
        "orchestr8_tasks_ended_total{queue=\"default\",status=\"failed\"} 1",
        "orchestr8_task_duration_seconds_sum{queue=\"default\"} 3.0",
        "orchestr8_workflow_duration_seconds_count{status=\"completed\"} 1",
        "orchestr8_submissions_refused_total{reason=\"overloaded\"} 1",
        "orchestr8_publishes_refused_total{reason=\"no_storage\"} 1",
        "orchestr8_doubts_total{reason=\"fenced\"} 1",
        "orchestr8_http_requests_total{method=\"GET\",route=\"/healthz\",status=\"200\"} 1",
    ];
    assert_lines(&metrics.text(), &lines);
}

#[test]
fn what_is_observed_replaces_what_was() {
    let metrics = Metrics::default();
    let depth = |queue: &str, status, tasks| QueueDepth { queue: queue.into(), priority: Priority::Normal, status, tasks };
    metrics.observe(&Observed { depths: vec![depth("old", TaskStatus::Queued, 1)], ..Observed::default() });
    let depths = vec![depth("new", TaskStatus::Queued, 2), depth("new", TaskStatus::Running, 3), depth("new", TaskStatus::Retrying, 9)];
    let oldest_queued = vec![QueueAge { queue: "new".into(), age: Duration::from_millis(1_500) }];
    metrics.observe(&Observed { depths, oldest_queued, database_bytes: Some(8_192) });
    metrics.observe_outcome_lag(Some(4));
    let text = metrics.text();
    assert!(!text.contains("queue=\"old\""), "{text}");
    let lines = [
        "orchestr8_tasks{queue=\"new\",priority=\"normal\",state=\"queued\"} 2",
        "orchestr8_queue_demand_slots{queue=\"new\"} 5",
        "orchestr8_oldest_queued_age_seconds{queue=\"new\"} 1.5",
        "orchestr8_outcome_lag 4",
        "orchestr8_database_bytes 8192",
    ];
    assert_lines(&text, &lines);
    metrics.observe_outcome_lag(None);
    metrics.observe(&Observed::default());
    let later = metrics.text();
    for unknown in ["\norchestr8_outcome_lag ", "\norchestr8_database_bytes ", "seconds{queue=\"new\"}"] {
        assert!(!later.contains(unknown), "unknown is not zero: {later}");
    }
}

#[test]
fn an_executor_counts_in_each_of_its_queues() {
    let metrics = Metrics::default();
    let executor = |queues: &[&str], slots_busy, draining| ExecutorView {
        name: "e".into(),
        queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
        handlers: Vec::new(),
        slots: 4,
        slots_busy,
        draining,
        cordoned: false,
        log_filter: String::new(),
        incarnation: Incarnation::random(),
        version: "0.1.0".into(),
        seen_at: OffsetDateTime::UNIX_EPOCH,
        silence: None,
    };
    let health = EngineHealth { shards_owned: 16, shards_due: 8, nats: None, database: None };
    let executors = vec![executor(&["a", "b"], 3, false), executor(&["a"], 1, true)];
    metrics.observe_engine(&EngineView { health, reads: Some("no answer".into()), executors });
    let lines = [
        "orchestr8_executors{queue=\"a\"} 2",
        "orchestr8_queue_slots{queue=\"a\"} 8",
        "orchestr8_queue_slots_busy{queue=\"b\"} 3",
        "orchestr8_executors_draining 1",
        "orchestr8_shards_owned 16",
        "orchestr8_shards_due 8",
        "orchestr8_ready{part=\"nats\"} 1",
        "orchestr8_ready{part=\"database\"} 0",
    ];
    assert_lines(&metrics.text(), &lines);
}

#[test]
fn lanes_are_added_and_the_oldest_renewal_counts() {
    let metrics = Metrics::default();
    let view = |age_s, held| {
        let renewed_at = Instant::now().checked_sub(Duration::from_secs(age_s)).expect("the machine has been up for longer");
        LaneView { renewed_at, held: BTreeMap::from([("a".to_owned(), held)]) }
    };
    metrics.renewed(0, view(5, 2));
    metrics.renewed(1, view(1, 3));
    let health = EngineHealth::default();
    metrics.observe_engine(&EngineView { health, reads: None, executors: Vec::new() });
    assert_lines(&metrics.text(), &["orchestr8_held_dispatches{queue=\"a\"} 5", "orchestr8_lease_renewals_total{result=\"kept\"} 2"]);
    let age = metrics.series.lease_age.get();
    assert!((5.0..6.0).contains(&age), "{age}");
}

#[test]
fn names_from_outside_cannot_fill_the_memory() {
    let metrics = Metrics::default();
    for number in 0..500 {
        metrics.task_ended(&format!("queue-{number}"), TaskStatus::Completed, None);
        metrics.attempts_failed(&format!("type-{number}"), 1);
    }
    metrics.attempts_failed(&"x".repeat(ERROR_TYPE_BYTES_MAX + 1), 1);
    let text = metrics.text();
    let beyond = 500 - QUEUES_MEASURED_MAX;
    assert_lines(&text, &[&format!("orchestr8_tasks_ended_total{{queue=\"other\",status=\"completed\"}} {beyond}")]);
    assert_lines(&text, &[&format!("orchestr8_attempt_failures_total{{error_type=\"other\"}} {}", 501 - ERROR_TYPES_MAX)]);
    assert!(text.lines().filter(|line| line.starts_with("orchestr8_attempt_failures_total")).count() <= ERROR_TYPES_MAX + 1);
}

#[test]
fn a_stream_is_shown_with_its_limit() {
    let metrics = Metrics::default();
    metrics.observe_streams(&[StreamSize { stream: "S", messages: 3, bytes: 40, bytes_max: Some(100) }]);
    assert_lines(&metrics.text(), &["orchestr8_stream_messages{stream=\"S\"} 3", "orchestr8_stream_bytes_max{stream=\"S\"} 100"]);
    metrics.observe_streams(&[]);
    assert!(!metrics.text().contains("stream=\"S\""));
}

#[test]
fn a_tally_counts_retries_and_failures_of_what_was_committed() {
    let queued = |attempt| HistoryEvent {
        kind: "task.queued",
        at: Timestamp(0),
        task_id: None,
        task: None,
        phase: None,
        attempt: Some(attempt),
        started_at: None,
        executor: None,
        error_type: None,
        error: None,
    };
    let attempt = |outcome, error_type: &str| AttemptRecord {
        task: 0,
        attempt: 1,
        run_id: RunId::random(),
        executor: "e".into(),
        started_at: None,
        ended_at: Timestamp(0),
        outcome,
        failure: Some(Arc::new(Failure { error_type: error_type.into(), message: String::new() })),
        usage: Usage::default(),
    };
    let attempts = vec![
        attempt(AttemptOutcome::Failed, "exit"),
        attempt(AttemptOutcome::Failed, "exit"),
        attempt(AttemptOutcome::Lost, "lost"),
        attempt(AttemptOutcome::Released, "drained"),
    ];
    let mut tally = Tally::default();
    tally.see(&Changes { history: vec![queued(1), queued(2)], attempts, ..Changes::default() });
    let metrics = Metrics::default();
    metrics.tallied(&tally);
    let lines = [
        "orchestr8_retries_total 1",
        "orchestr8_attempt_failures_total{error_type=\"exit\"} 2",
        "orchestr8_attempt_failures_total{error_type=\"lost\"} 1",
    ];
    assert_lines(&metrics.text(), &lines);
    assert!(!metrics.text().contains("drained"));
}

#[test]
fn every_metric_is_described_once_and_by_the_rules() {
    let mut names = HashSet::new();
    for metric in catalogue::ALL {
        assert!(names.insert(metric.name), "{} is there twice", metric.name);
        assert!(metric.name.starts_with("orchestr8_") && !metric.help.ends_with('.'), "{}", metric.name);
        assert_eq!(metric.kind == MetricKind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
    }
}
