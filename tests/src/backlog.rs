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
            let unfinished: i64 = sqlx::query_scalar(UNFINISHED).fetch_one(&self.installation.pool).await?;
            ensure!(unfinished == 0, "{unfinished} have not completed");
            Ok(Some(()))
        };
        wait_for("the queue to drain", DRAIN_MAX, look).await?;
        Ok(started.elapsed())
    }
}

/// A queue of so many tasks (a million where it is run by itself), its memory, and its drain, as a line of text.
///
/// # Errors
/// When a task is not accepted, memory grows with the queue, or it does not drain.
pub async fn million(tasks: usize) -> Result<String> {
    let mut backlog = Backlog::queue(tasks).await?;
    let drained_in = backlog.drain().await?;
    let drained = Memory::of(backlog.installation.coordinators[0].pid())?;
    let text = format!("{}; drained in {} s, then {} MiB", backlog.summary(), drained_in.as_secs(), mib(drained.resident_bytes));
    ensure!(backlog.bytes_per_task() <= BYTES_PER_TASK_MAX, "the coordinator's memory grows with the queue: {text}");
    backlog.installation.finish().await;
    Ok(text)
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
