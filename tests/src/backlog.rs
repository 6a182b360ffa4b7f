//! Queues of very many tasks: what they cost the coordinator in memory, and that they drain.

use crate::harness::memory::Memory;
use crate::harness::{Api, Installation, InstallationOptions, wait_for};
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Tasks in one request: what the API takes.
const BATCH_TASKS: usize = 1_000;
/// Requests under way at once.
const CALLERS: usize = 4;
/// So many are queued before memory is compared: caches, buffers and allocator have their size by then.
const WARM_TASKS: usize = 20_000;
/// A million take minutes, also on a loaded machine.
const DRAIN_MAX: Duration = Duration::from_hours(1);
/// Growth that is noise of the allocator: 32 MiB beside a million.
const BYTES_PER_TASK_MAX: u64 = 32;
/// Of the executors that drain a queue.
const SLOTS: u16 = 64;
/// Bytes of executions that the coordinator may cache: little, so that what grows is seen.
const CACHE_BYTES: &str = "1048576";
/// Resident memory goes up and down by so much whatever the queue: seen with 20,000 tasks and with 100,000.
const UNSTEADY_BYTES: u64 = 12 << 20;
/// Dispatches of one queue and priority in the broker.
const SUBJECT_MESSAGES: &str = "1000";
/// By the small indexes of what is queued and what runs: a count of a million rows at every look would be the load itself.
const BUSY: &str =
    "select exists (select from task_executions where status = 'queued') or exists (select from task_executions where status = 'running')";
const UNFINISHED: &str = "select count(*) from task_executions where status <> 'completed'";

/// A queue, and the coordinator's memory before and behind it.
#[derive(Debug)]
pub struct Backlog {
    /// A coordinator without executors.
    pub installation: Installation,
    /// With the first `WARM_TASKS`.
    pub before: Memory,
    /// With all.
    pub after: Memory,
    /// All that were queued.
    pub tasks: usize,
    /// What queueing took.
    pub queued_in: Duration,
}

impl Backlog {
    /// Queues `tasks` tasks at a new coordinator; nobody is there to run them.
    ///
    /// # Errors
    /// When one is not accepted.
    pub async fn queue(tasks: usize) -> Result<Self> {
        let words = ["--cache-bytes", CACHE_BYTES, "--subject-messages-max", SUBJECT_MESSAGES];
        let coordinator_words = words.map(str::to_owned).to_vec();
        let options = InstallationOptions { executors: 0, slots: SLOTS, coordinator_words, ..InstallationOptions::default() };
        let installation = Installation::start(options).await?;
        let pid = installation.coordinators[0].pid();
        let started = Instant::now();
        submit(&installation.api, WARM_TASKS).await?;
        let before = Memory::of(pid)?;
        submit(&installation.api, tasks.saturating_sub(WARM_TASKS)).await?;
        let (after, queued_in) = (Memory::of(pid)?, started.elapsed());
        Ok(Self { installation, before, after, tasks, queued_in })
    }

    /// What one more queued task costs, in bytes, beyond what the allocator and the runtime take and give back by themselves.
    #[must_use]
    pub fn bytes_per_task(&self) -> u64 {
        let more = u64::try_from(self.tasks.saturating_sub(WARM_TASKS)).unwrap_or(u64::MAX).max(1);
        self.after.resident_bytes.saturating_sub(self.before.resident_bytes + UNSTEADY_BYTES) / more
    }

    /// Starts executors and waits until all have completed; what that took.
    ///
    /// # Errors
    /// When some do not, in an hour.
    pub async fn drain(&mut self) -> Result<Duration> {
        let started = Instant::now();
        for _ in 0..2 {
            self.installation.add_executor().await?;
        }
        let look = async || {
            let busy: bool = sqlx::query_scalar(BUSY).fetch_one(&self.installation.pool).await?;
            Ok((!busy).then_some(()))
        };
        wait_for("the queue to drain", DRAIN_MAX, look).await?;
        let drained_in = started.elapsed();
        let unfinished: i64 = sqlx::query_scalar(UNFINISHED).fetch_one(&self.installation.pool).await?;
        ensure!(unfinished == 0, "{unfinished} tasks have not completed");
        Ok(drained_in)
    }
}

/// What a long queue cost.
#[derive(Debug)]
pub struct Drained {
    /// For people: one line.
    pub text: String,
    /// The same for programs.
    pub json: Value,
    /// Whether the coordinator's memory does not grow with its queue.
    pub is_good: bool,
}

/// A queue of so many tasks, its memory, and its drain.
///
/// # Errors
/// When a task is not accepted, or does not complete.
pub async fn drained(tasks: usize) -> Result<Drained> {
    let mut backlog = Backlog::queue(tasks).await?;
    let drained_in = backlog.drain().await?;
    let after = Memory::of(backlog.installation.coordinators[0].pid())?;
    let text = format!("{}; drained in {} s, then {} MiB", backlog.summary(), drained_in.as_secs(), mib(after.resident_bytes));
    let json = json!({
        "tasks": tasks,
        "queued_s": backlog.queued_in.as_secs_f64(),
        "drained_s": drained_in.as_secs_f64(),
        "coordinator_resident_bytes": backlog.after.resident_bytes,
        "coordinator_peak_bytes": after.peak_bytes,
        "bytes_per_task": backlog.bytes_per_task(),
    });
    let is_good = backlog.bytes_per_task() <= BYTES_PER_TASK_MAX;
    backlog.installation.finish().await;
    Ok(Drained { text, json, is_good })
}

impl Backlog {
    /// The figures in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let Self { before, after, tasks, queued_in, .. } = self;
        format!(
            "{tasks} tasks queued in {} s; resident {} MiB with {WARM_TASKS}, {} MiB with all (peak {} MiB): {} bytes a task",
            queued_in.as_secs(),
            mib(before.resident_bytes),
            mib(after.resident_bytes),
            mib(after.peak_bytes),
            self.bytes_per_task()
        )
    }
}

/// Whole MiB, for people.
#[must_use]
pub const fn mib(bytes: u64) -> u64 {
    bytes / (1024 * 1024)
}

async fn submit(api: &Api, tasks: usize) -> Result<()> {
    let batch: Vec<Value> = (0..BATCH_TASKS).map(|number| json!({"handler": "noop", "with": {"output": number}})).collect();
    let body = &json!(batch);
    ensure!(tasks.is_multiple_of(BATCH_TASKS), "whole batches of {BATCH_TASKS}");
    let requests = futures::stream::iter(0..tasks / BATCH_TASKS).map(|_| api.post("/api/v1/tasks", body));
    requests.buffer_unordered(CALLERS).try_for_each(|_| async { Ok(()) }).await.context("a batch")
}
