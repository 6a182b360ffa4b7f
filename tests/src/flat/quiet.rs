//! What tasks cost while they do nothing: claimed and asleep, or queued.

use super::load;
use super::report::{Bound, Figure, Section};
use super::scale::Scale;
use crate::backlog::Backlog;
use crate::bench::figures::as_f64;
use crate::bench::meters::{CountedBy, Metered, Meters};
use crate::bench::ours::Watch;
use crate::bench::stage::counting;
use crate::harness::memory::Memory;
use crate::harness::{Installation, InstallationOptions, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;

/// Sleeps beyond what is watched: time to claim them all.
const CLAIMING: Duration = Duration::from_mins(1);
/// What follows a burst of work (marks, beats) is over by then.
const SETTLE: Duration = Duration::from_secs(5);
/// Of the first wave, which brings caches, buffers and the allocator to their size: claimed all the same.
const WARM_SLEEP: Duration = Duration::from_secs(3);
/// Executions that are kept in memory have a bound; a small one, so that what grows is seen.
const CACHE_BYTES: &str = "1048576";
/// In all, from all processes: the renewals of the leases among them.
const STATEMENTS_PER_S_MAX: f64 = 1.0;
/// Three hundredths of a core.
const COORDINATOR_CPU_MS_PER_S_MAX: f64 = 30.0;
const BYTES_PER_RUNNING_TASK_MAX: f64 = 1_024.0;
/// Where the queue is a million.
const QUEUED_RESIDENT_MIB_MAX: f64 = 100.0;
/// Growth that is noise of the allocator: 32 MiB beside a million.
const BYTES_PER_QUEUED_TASK_MAX: f64 = 32.0;

/// Many tasks asleep on some executors, for a while.
///
/// # Errors
/// When a part ends, or the tasks do not all run throughout.
pub async fn quiet(scale: &Scale) -> Result<Vec<Figure>> {
    let (installation, counted_by) = counting(options(scale)?).await?;
    let pid = installation.coordinators[0].pid();
    asleep(&installation, scale, WARM_SLEEP).await?;
    Watch::at(&installation.database_url).await?.until_done().await?;
    let before = Memory::of(pid)?;
    asleep(&installation, scale, CLAIMING + scale.watched).await?;
    let meters = meters(&installation, counted_by).await?;
    tokio::time::sleep(SETTLE).await;
    let began = meters.read().await?;
    tokio::time::sleep(scale.watched).await;
    let seen = meters.read().await?.per_second(&began, "");
    let after = Memory::of(pid)?;
    let running = Watch::at(&installation.database_url).await?.running().await?;
    ensure!(usize::try_from(running)? == scale.sleepers, "{running} tasks were still running, not {}", scale.sleepers);
    installation.finish().await;
    let figure = |name: &str| seen.get(name).copied().with_context(|| format!("no {name} in {seen:?}"));
    let grown = u32::try_from(after.resident_bytes.saturating_sub(before.resident_bytes)).map_or(f64::INFINITY, f64::from);
    Ok(vec![
        Section::Quiet.required("statements_per_s", figure("_statements_per_s")?, Bound::AtMost(STATEMENTS_PER_S_MAX)),
        Section::Quiet.required(
            "coordinator_cpu_ms_per_s",
            figure("_cpu_ms_per_s.coordinator")?,
            Bound::AtMost(COORDINATOR_CPU_MS_PER_S_MAX),
        ),
        Section::Quiet.shown("nats_server_cpu_ms_per_s", figure("_cpu_ms_per_s.nats_server")?),
        Section::Quiet.shown("postgres_cpu_ms_per_s", figure("_cpu_ms_per_s.postgres")?),
        Section::Quiet.required("bytes_per_running_task", grown / as_f64(scale.sleepers), Bound::AtMost(BYTES_PER_RUNNING_TASK_MAX)),
    ])
}

/// A queue that nobody serves: the memory of its coordinator.
///
/// # Errors
/// When a task is not accepted.
pub async fn queued(scale: &Scale) -> Result<Vec<Figure>> {
    let backlog = Backlog::queue(scale.queued).await?;
    eprintln!("  {}", backlog.summary());
    let mib = u32::try_from(backlog.after.resident_bytes >> 20).map_or(f64::INFINITY, f64::from);
    let each = u32::try_from(backlog.bytes_per_task()).map_or(f64::INFINITY, f64::from);
    backlog.installation.finish().await;
    Ok(vec![
        Section::Queued.required(format!("{}_tasks_resident_mib", scale.queued), mib, Bound::AtMost(QUEUED_RESIDENT_MIB_MAX)),
        Section::Queued.required("bytes_per_queued_task", each, Bound::AtMost(BYTES_PER_QUEUED_TASK_MAX)),
    ])
}

fn options(scale: &Scale) -> Result<InstallationOptions> {
    let slots = u16::try_from(scale.sleepers / scale.beds + 1)?;
    let coordinator_words = vec!["--cache-bytes".to_owned(), CACHE_BYTES.to_owned()];
    Ok(InstallationOptions { executors: scale.beds, coordinator_words, ..load::published(slots) })
}

/// Submits them; all are claimed when this returns.
async fn asleep(installation: &Installation, scale: &Scale, duration: Duration) -> Result<()> {
    let task: Value = json!({"handler": "sleep", "with": {"duration": duration.as_secs_f64()}});
    load::submit(installation, &task, scale.sleepers).await?;
    let mut watch = Watch::at(&installation.database_url).await?;
    if duration <= WARM_SLEEP {
        return Ok(());
    }
    let all = i64::try_from(scale.sleepers)?;
    wait_for("every sleeping task to be claimed", CLAIMING, async || Ok((watch.running().await? == all).then_some(()))).await
}

async fn meters(installation: &Installation, counted_by: CountedBy) -> Result<Meters> {
    let (server, name) = installation.database_url.rsplit_once('/').context("the address names a database")?;
    let pids = installation.server_pids();
    let processes = vec![
        ("coordinator", Metered::Alone(installation.coordinators[0].pid())),
        ("postgres", Metered::WithChildren(pids.own_postgres.context("Postgres is its own")?)),
        ("nats_server", Metered::Alone(pids.nats.context("nats-server was started")?)),
    ];
    Meters::new(&format!("{server}/postgres"), name, counted_by, processes).await
}
