//! Backpressure: a database that crawls, a full subject, full disks, long queues. Memory stays bounded, callers are told to
//! come again, and everything drains.

use crate::backlog::{Backlog, mib};
use crate::harness::disk::{Disk, Wanted, path_of};
use crate::harness::memory::Memory;
use crate::harness::proxy::{Proxy, Route};
use crate::harness::{Api, InstallationOptions, PostgresScope, wait_for};
use crate::scene::{SOON, Scene, executors, noop, submit_surely};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Callers that submit as fast as they can.
const CALLERS: usize = 16;
/// For so long.
const STORM: Duration = Duration::from_secs(10);
/// A caller that has no answer after this sends its next submission.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a coordinator may have in memory at most, whatever waits: its own size and several times what submissions may take.
const COORDINATOR_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Tasks of one submission: about a megabyte, so that a few dozen fill what may wait.
const STORM_TASKS: usize = 16;
/// Tasks of a queue that is long beside every bound, and short enough for this test.
const QUEUE_TASKS: usize = 40_000;
/// What growth beside a queue is noise of the allocator. A task that was kept would take more than a kilobyte.
const BYTES_PER_TASK_MAX: u64 = 512;

/// The content type of what is sent as it stands.
const JSON: (&str, &str) = ("content-type", "application/json");

/// What callers were told in a storm.
#[derive(Debug, Default)]
struct Told {
    accepted: usize,
    overloaded: usize,
    unanswered: usize,
}

/// Nothing runs yet, so that a test can put something between.
fn nothing() -> InstallationOptions {
    InstallationOptions { coordinators: 0, executors: 0, ..InstallationOptions::default() }
}

/// The first coordinator and executor.
async fn begin(scene: &mut Scene) -> Result<()> {
    let coordinator = scene.installation.add_coordinator().await?;
    scene.installation.wait_ready(coordinator).await?;
    scene.installation.api = scene.installation.api_of(coordinator);
    scene.installation.add_executor().await?;
    Ok(())
}

/// Text that no storage makes smaller.
fn bulk(bytes: usize) -> String {
    (0..bytes / 32).map(|_| Uuid::new_v4().simple().to_string()).collect()
}

fn bulky() -> Value {
    json!({"handler": "noop", "with": {"output": 1}, "metadata": {"bulk": bulk(60_000)}})
}

async fn storm(api: Api, body: Bytes) -> Result<Told> {
    let mut told = Told::default();
    let end = Instant::now() + STORM;
    while Instant::now() < end {
        let Ok(answer) =
            api.request(Method::POST, "/api/v1/tasks").header(JSON.0, JSON.1).body(body.clone()).timeout(PATIENCE).send().await
        else {
            told.unanswered += 1;
            continue;
        };
        match answer.status() {
            StatusCode::ACCEPTED => told.accepted += 1,
            StatusCode::SERVICE_UNAVAILABLE => {
                let wait = answer.headers().get("retry-after").context("a 503 without Retry-After")?.to_str()?.parse::<u64>()?;
                ensure!((1..=30).contains(&wait), "Retry-After: {wait}");
                told.overloaded += 1;
            }
            other => anyhow::bail!("{other}: {}", answer.text().await?),
        }
    }
    Ok(told)
}

#[tokio::test]
async fn a_postgres_that_crawls_costs_no_memory_and_callers_are_told_to_come_again() -> Result<()> {
    let mut scene = Scene::start(nothing()).await?;
    let proxy = Proxy::start(&scene.installation.database_url).await?;
    scene.installation.database_url = proxy.url(&scene.installation.database_url)?;
    begin(&mut scene).await?;
    let pid = scene.installation.coordinators[0].pid();
    let before = Memory::of(pid)?;
    proxy.set(Route::Slow(Duration::from_millis(100)));
    let body = Bytes::from(json!((0..STORM_TASKS).map(|_| bulky()).collect::<Vec<_>>()).to_string());
    let told = try_join_all((0..CALLERS).map(|_| storm(scene.api().clone(), body.clone()))).await?;
    let after = Memory::of(pid)?;
    proxy.set(Route::Open);
    let overloaded: usize = told.iter().map(|told| told.overloaded).sum();
    let accepted: usize = told.iter().map(|told| told.accepted).sum();
    let unanswered: usize = told.iter().map(|told| told.unanswered).sum();
    println!("accepted {accepted}, overloaded {overloaded}, unanswered {unanswered}; {before:?}, then {after:?}");
    ensure!(overloaded > 0, "nobody was told to come again: {told:?}");
    ensure!(after.peak_bytes < COORDINATOR_BYTES_MAX, "the coordinator took {} MiB", mib(after.peak_bytes));
    submit_surely(scene.api(), "/api/v1/tasks", &scene.ledger.task()).await?;
    let rows = scene.all_completed().await?.len();
    ensure!(
        rows > STORM_TASKS * accepted && rows <= STORM_TASKS * (accepted + unanswered) + 1,
        "{rows} tasks of {accepted} and {unanswered} submissions"
    );
    scene.finish().await;
    Ok(())
}

/// A counter of a coordinator's.
async fn counted(api: &Api, name: &str) -> Result<u64> {
    let text = api.request(Method::GET, "/metrics").send().await?.text().await?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(value.trim().parse()?)
}

/// Runs that executors gave back before their start: each is published once more.
async fn given_back(api: &Api) -> Result<u64> {
    let text = api.request(Method::GET, "/metrics").send().await?.text().await?;
    let released = text.lines().find_map(|line| line.strip_prefix("orchestr8_outcomes_total{result=\"released\"} "));
    Ok(released.map_or(Ok(0), |value| value.trim().parse())?)
}

/// Tasks of the low priority that completed before the last critical one, which was queued behind all of them.
const OVERTAKEN: &str = "select count(*) from task_executions where priority = 'low'
and completed_at < (select max(completed_at) from task_executions where priority = 'critical')";

#[tokio::test]
async fn a_full_subject_holds_what_is_beyond_it_by_priority() -> Result<()> {
    let coordinator_words = ["--subject-messages-max", "100"].map(str::to_owned).to_vec();
    let scene_options = InstallationOptions { coordinators: 2, executors: 0, coordinator_words, ..InstallationOptions::default() };
    let mut scene = Scene::start(scene_options).await?;
    scene.until_shared(&[(0, 8), (1, 8)]).await?;
    let apis = [scene.installation.api_of(0), scene.installation.api_of(1)];
    for (batches, count, priority) in [(10, 490, "low"), (2, 50, "critical")] {
        for batch in 0..batches {
            let tasks: Vec<Value> = (0..count).map(|_| json!({"handler": "noop", "priority": priority})).collect();
            apis[batch % 2].post("/api/v1/tasks", &json!(tasks)).await?;
        }
    }
    let published = "orchestr8_publishes_total ";
    for api in &apis {
        // Its half of either subject.
        wait_for("its share of the room", SOON, async || Ok((counted(api, published).await? == 100).then_some(()))).await?;
    }
    scene.installation.add_executor().await?;
    assert_eq!(scene.all_completed().await?.len(), 5_000);
    let (mut first, mut again, mut given) = (0, 0, 0);
    for (number, api) in apis.iter().enumerate() {
        first += counted(api, published).await?;
        again += counted(api, "orchestr8_publishes_again_total ").await?;
        given += given_back(api).await?;
        let memory = Memory::of(scene.installation.coordinators[number].pid())?;
        println!("coordinator {number}: {memory:?}");
        ensure!(memory.peak_bytes < COORDINATOR_BYTES_MAX, "the coordinator took {} MiB", mib(memory.peak_bytes));
    }
    // The broker may be fuller than a lane knows: what it refuses goes again, so marked, with what was handed over behind it.
    println!("{first} stored, {again} of them marked as published again; {given} were given back by a busy executor");
    ensure!((5_000 + given..=5_000 + given + again).contains(&first), "{first} stored, {again} marked, {given} given back");
    ensure!(again < 1_000, "{again} marked");
    let overtaken = scene.number(OVERTAKEN).await?;
    println!("{overtaken} low ones ended before the last critical one");
    ensure!(overtaken < 1_000, "critical tasks waited behind {overtaken} low ones");
    scene.finish().await;
    Ok(())
}

/// Two tasks that run and are held, past their claim.
async fn running(scene: &Scene) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = scene.submit(&scene.ledger.gated("go")).await?;
        scene.until(&id, "running").await?;
        ids.push(id);
    }
    Ok(ids)
}

fn started_once(scene: &Scene, ids: &[String]) -> Result<()> {
    for id in ids {
        let starts = scene.ledger.starts_of(id)?.len();
        ensure!(starts == 1, "a running command was started {starts} times");
    }
    Ok(())
}

async fn said(scene: &Scene, words: &str) -> Result<()> {
    let log = scene.installation.coordinators[0].log().to_path_buf();
    wait_for(&format!("an alert with `{words}`"), SOON, async || Ok(std::fs::read_to_string(&log)?.contains(words).then_some(()))).await
}

/// The store of a stream that met a write error takes nothing more, also when there is room again: both streams are made anew.
#[tokio::test]
async fn a_full_disk_under_nats_loses_nothing() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let pid = scene.installation.server_pids().nats.context("nats-server runs")?;
    let store = path_of(pid, "--config")?.with_file_name("store");
    scene.installation.nats("stop nats").await?;
    let disk = Disk::under(&store, Wanted::Mount)?;
    scene.installation.nats("start nats").await?;
    let held = running(&scene).await?;
    let pid = scene.installation.nats_pid().await?;
    disk.fill(pid)?;
    for _ in 0..5 {
        let tasks: Vec<Value> = (0..10).map(|_| scene.ledger.task()).collect();
        scene.api().post("/api/v1/tasks", &json!(tasks)).await?;
    }
    scene.ledger.open("go")?;
    wait_for("the running ones to end", SOON, async || Ok((scene.ledger.ends()?.len() >= 2).then_some(()))).await?;
    said(&scene, "stores nothing").await?;
    disk.empty(pid)?;
    assert_eq!(scene.all_completed().await?.len(), 52);
    started_once(&scene, &held)?;
    drop(disk);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_full_disk_under_postgres_loses_nothing() -> Result<()> {
    full_under_postgres(Wanted::Mount).await
}

/// Postgres calls what it meets then an internal error.
#[tokio::test]
async fn files_at_their_limit_under_postgres_lose_nothing() -> Result<()> {
    full_under_postgres(Wanted::FileLimit).await
}

async fn full_under_postgres(wanted: Wanted) -> Result<()> {
    let mut scene = Scene::start(InstallationOptions { postgres: PostgresScope::Own, ..nothing() }).await?;
    let pid = scene.installation.server_pids().own_postgres.context("Postgres runs")?;
    let cluster = path_of(pid, "-D")?;
    scene.installation.postgres("stop postgres").await?;
    let disk = Disk::under(&cluster, wanted)?;
    scene.installation.postgres("start postgres").await?;
    begin(&mut scene).await?;
    let held = running(&scene).await?;
    let filled = scene.installation.postgres_pid().await?;
    disk.fill(filled)?;
    let tasks = json!((0..20).map(|_| bulky()).collect::<Vec<_>>());
    let refused = async || {
        let answer = scene.api().request(Method::POST, "/api/v1/tasks").json(&tasks).send().await?;
        let wait = answer.headers().contains_key("retry-after");
        Ok((answer.status() == StatusCode::SERVICE_UNAVAILABLE && wait).then_some(()))
    };
    wait_for("a 503 with Retry-After", SOON, refused).await?;
    scene.ledger.open("go")?;
    wait_for("the running ones to end", SOON, async || Ok((scene.ledger.ends()?.len() >= 2).then_some(()))).await?;
    // It may be up, restarting, or have given up.
    scene.installation.postgres("kill postgres").await?;
    disk.empty(filled)?;
    scene.installation.postgres("start postgres").await?;
    let late = submit_surely(scene.api(), "/api/v1/tasks", &noop(&json!("late"))).await?;
    assert_eq!(scene.result(late["task_id"].as_str().context("an id")?).await?["result"], "late");
    scene.all_completed().await?;
    started_once(&scene, &held)?;
    drop(disk);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn the_coordinator_does_not_grow_with_its_queue() -> Result<()> {
    let backlog = Backlog::queue(QUEUE_TASKS).await?;
    println!("{}", backlog.summary());
    ensure!(backlog.bytes_per_task() <= BYTES_PER_TASK_MAX, "{}", backlog.summary());
    backlog.installation.finish().await;
    Ok(())
}
