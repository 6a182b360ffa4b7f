//! `/api/v1/queues`: depths, who serves them, pausing and resuming.

use super::ApiContext;
use super::body::NoBody;
use super::parameters::{Parameters, Segment};
use super::problem::{Code, Problem};
use crate::engine::handle::ExecutorView;
use axum::Json;
use axum::extract::State;
use orchestr8_proto::names::check_queue_name;
use orchestr8_proto::words::{Priority, TaskStatus};
use orchestr8_store::pauses::{self, PAUSED_MAX, Pause, PausedQueue, Resume};
use orchestr8_store::read::depths::{self, QueueAge, QueueDepth};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Characters of a pause's reason, at most.
const REASON_CHARS_MAX: usize = 500;

/// One queue. Slots of an executor that serves several queues count in each of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct QueueRecord {
    pub queue: String,
    paused: Option<PausedQueue>,
    queued: BTreeMap<Priority, i64>,
    pub queued_total: i64,
    running: i64,
    retrying: i64,
    waiting: i64,
    pub oldest_queued_age_s: Option<f64>,
    /// Executors that take work of it.
    pub executors: usize,
    slots: u32,
    slots_busy: u32,
}

/// `GET /api/v1/queues`: all that have tasks or executors, or are paused.
pub(super) async fn list(State(context): State<ApiContext>, parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    Ok(Json(json!({ "queues": all(&context).await? })))
}

/// All queues that have tasks or executors, or are paused.
pub(super) async fn all(context: &ApiContext) -> Result<Vec<QueueRecord>, Problem> {
    let depths = depths::depths(&context.reads).await?;
    let is_queued = depths.iter().any(|depth| depth.status == TaskStatus::Queued);
    let ages = if is_queued { depths::oldest_queued(&context.reads).await? } else { Vec::new() };
    let paused = pauses::paused(&context.reads).await?;
    Ok(joined(&depths, ages, paused, &context.engine.executors()))
}

/// `POST /api/v1/queues/{queue}/pause`: nothing new of it is dispatched; what runs goes on, and submissions are accepted.
pub(super) async fn pause(
    State(context): State<ApiContext>,
    Segment(queue): Segment,
    mut parameters: Parameters,
    _: NoBody,
) -> Result<Json<Value>, Problem> {
    let reason = reason(&mut parameters)?;
    parameters.finish()?;
    check_name(&queue)?;
    let how = pauses::pause(&context.reads, &queue, reason.as_deref()).await?;
    let status = match how {
        Pause::Paused => "paused",
        Pause::AlreadyPaused => "already_paused",
        Pause::TooMany => {
            let detail = format!("{PAUSED_MAX} queues are paused, more cannot be: resume those that need not be");
            return Err(Problem::new(Code::TooManyPaused, detail).at("queue").with_value(&json!(queue)));
        }
    };
    context.engine.queues_changed().await;
    let known = all(&context).await?.into_iter().any(|known| known.queue == queue && (known.executors > 0 || known.has_tasks()));
    let unknown = || format!("queue `{queue}` has no tasks and no executors at the moment: is the name right?");
    let warnings: Vec<String> = if known { Vec::new() } else { vec![unknown()] };
    Ok(Json(json!({ "queue": queue, "status": status, "warnings": warnings })))
}

/// `POST /api/v1/queues/{queue}/resume`.
pub(super) async fn resume(
    State(context): State<ApiContext>,
    Segment(queue): Segment,
    parameters: Parameters,
    _: NoBody,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    check_name(&queue)?;
    match pauses::resume(&context.reads, &queue).await? {
        Resume::Resumed => {
            context.engine.queues_changed().await;
            Ok(Json(json!({ "queue": queue, "status": "resumed" })))
        }
        Resume::NotPaused => {
            let detail = format!("queue `{queue}` is not paused: `orchestr8 queues list` shows those that are");
            Err(Problem::new(Code::NotPaused, detail).at("queue").with_value(&json!(queue)))
        }
    }
}

fn check_name(queue: &str) -> Result<(), Problem> {
    check_queue_name(queue).map_err(|error| Problem::new(Code::BadParameter, error.to_string()).at("queue").with_value(&json!(queue)))
}

fn reason(parameters: &mut Parameters) -> Result<Option<String>, Problem> {
    let reason = parameters.text("reason")?;
    if let Some(long) = reason.as_ref().filter(|reason| reason.chars().count() > REASON_CHARS_MAX) {
        let detail = format!("`reason` has {} characters: use at most {REASON_CHARS_MAX}", long.chars().count());
        return Err(Problem::new(Code::BadParameter, detail).at("reason").with_value(&json!(long)));
    }
    Ok(reason)
}

fn joined(depths: &[QueueDepth], ages: Vec<QueueAge>, paused: Vec<PausedQueue>, executors: &[ExecutorView]) -> Vec<QueueRecord> {
    let mut records: BTreeMap<String, QueueRecord> = BTreeMap::new();
    for depth in depths {
        record(&mut records, &depth.queue).count(depth);
    }
    for age in ages {
        record(&mut records, &age.queue).oldest_queued_age_s = Some(age.age.as_secs_f64());
    }
    for paused in paused {
        let queue = paused.queue.clone();
        record(&mut records, &queue).paused = Some(paused);
    }
    for executor in executors {
        for queue in &executor.queues {
            let record = record(&mut records, queue);
            if executor.serves(queue) {
                record.executors += 1;
                record.slots = record.slots.saturating_add(executor.slots);
                record.slots_busy = record.slots_busy.saturating_add(executor.slots_busy);
            }
        }
    }
    records.into_values().collect()
}

fn record<'a>(records: &'a mut BTreeMap<String, QueueRecord>, queue: &str) -> &'a mut QueueRecord {
    let new = || QueueRecord {
        queue: queue.to_owned(),
        queued: Priority::ALL.iter().map(|priority| (*priority, 0)).collect(),
        ..QueueRecord::default()
    };
    records.entry(queue.to_owned()).or_insert_with(new)
}

impl QueueRecord {
    /// Whether tasks of it have not ended.
    pub fn has_tasks(&self) -> bool {
        self.queued_total + self.running + self.retrying + self.waiting > 0
    }

    /// Whether nothing of it is dispatched.
    pub const fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    fn count(&mut self, depth: &QueueDepth) {
        match depth.status {
            TaskStatus::Queued => {
                self.queued_total += depth.tasks;
                *self.queued.entry(depth.priority).or_default() += depth.tasks;
            }
            TaskStatus::Running => self.running += depth.tasks,
            TaskStatus::Retrying => self.retrying += depth.tasks,
            TaskStatus::Waiting => self.waiting += depth.tasks,
            // They are not among the depths.
            TaskStatus::Pending | TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Skipped | TaskStatus::Cancelled => {}
        }
    }
}
