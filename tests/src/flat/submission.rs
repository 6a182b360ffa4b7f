//! The latency of `POST /api/v1/tasks` at a fixed rate, while an executor drains the queue.

use super::load::{self, noop};
use super::report::{Bound, Figure, Section};
use super::scale::Scale;
use crate::bench::client::Client;
use crate::bench::figures::{as_f64, percentile_ms, rate};
use crate::bench::ours::Watch;
use crate::harness::Installation;
use anyhow::{Context, Result};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Of the executor.
const SLOTS: u16 = 100;
/// Connections: so many that a late answer delays nobody's next request, unless all are late.
const CONNECTIONS: usize = 128;
const P99_MS_MAX: f64 = 25.0;

/// Each request has its intended time, whatever became of those before it; its latency counts from then.
///
/// # Errors
/// When a request is refused, or a task does not end.
pub async fn submission(scale: &Scale) -> Result<Vec<Figure>> {
    let installation = Installation::start(load::published(SLOTS)).await?;
    load::tasks_us(&installation, &noop(), scale.tasks).await?;
    let count = scale.rate * usize::try_from(scale.rate_for.as_secs())?;
    let begun = Instant::now();
    let mut latencies = latencies(&installation, scale, count).await?;
    let submitted = begun.elapsed();
    Watch::at(&installation.database_url).await?.until_done().await?;
    let drained = begun.elapsed().saturating_sub(submitted);
    installation.finish().await;
    Ok(vec![
        Section::Submission.shown("submitted_per_s", rate(count, submitted)),
        Section::Submission.shown("p50_ms", percentile_ms(&mut latencies, 50)),
        Section::Submission.required(
            format!("p99_ms_at_{}_per_s", scale.rate),
            percentile_ms(&mut latencies, 99),
            Bound::AtMost(P99_MS_MAX),
        ),
        Section::Submission.shown("max_ms", percentile_ms(&mut latencies, 100)),
        Section::Submission.shown("drained_after_ms", drained.as_secs_f64() * 1e3),
    ])
}

async fn latencies(installation: &Installation, scale: &Scale, count: usize) -> Result<Vec<Duration>> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(load::connected(installation).await?);
    }
    let begun = Instant::now();
    let interval = Duration::from_secs(1).div_f64(as_f64(scale.rate));
    let mut running = JoinSet::new();
    for (first, api) in clients.into_iter().enumerate() {
        running.spawn(share(api, Share { begun, interval, first, count }));
    }
    let all: Vec<Vec<Duration>> = running.join_all().await.into_iter().collect::<Result<_>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// Every so manieth request.
struct Share {
    begun: Instant,
    interval: Duration,
    first: usize,
    count: usize,
}

async fn share(mut api: Client, share: Share) -> Result<Vec<Duration>> {
    let body = load::body(&noop());
    let mut latencies = Vec::new();
    for number in (share.first..share.count).step_by(CONNECTIONS) {
        let intended = share.begun + share.interval * u32::try_from(number).context("a few million at most")?;
        tokio::time::sleep_until(intended.into()).await;
        api.post("/api/v1/tasks", body.clone()).await?;
        latencies.push(intended.elapsed());
    }
    Ok(latencies)
}
