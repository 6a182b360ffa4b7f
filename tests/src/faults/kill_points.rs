//! At every named hop: kill the process there, start it again, and see by the ledger that nothing was lost and all counted once.
//! At some: stop it there for longer than its lease, and let it go on.
//!
//! The binary must be built with the feature `kill-points`, as `make test` does.

use crate::harness::{Api, Installation, Process, wait_for};
use crate::scene::{SOON, Scene, executors, submit_surely};
use anyhow::{Context, Result, ensure};
use orchestr8_executor::kill_points as executor_points;
use serde_json::{Value, json};

const VARIABLE: &str = "ORCHESTR8_KILL_POINT";
/// How many single tasks there are besides the workflow's five.
const SINGLES: usize = 8;
/// Shards that somebody owns.
const LEASES: &str = "select count(*) from shards where expires_at > clock_timestamp()";

/// Whose point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Coordinator,
    Executor,
}

/// A chain with a fan-out, and one task that is long enough to be claimed.
fn workflow(scene: &Scene) -> Value {
    let needs = |names: &[&str]| json!({"needs": names});
    let tasks = json!([
        scene.ledger.named("first", "", &json!({})),
        scene.ledger.named("left", "", &needs(&["first"])),
        scene.ledger.named("right", "long", &needs(&["first"])),
        {"name": "pause", "sleep": "100ms", "needs": ["left"]},
        scene.ledger.named("last", "", &needs(&["pause", "right"])),
    ]);
    json!({"definition": {"name": "points", "tasks": tasks}})
}

/// Everything is sent with keys until it is accepted, whatever dies meanwhile.
async fn submit_all(api: Api, batch: Value, flow: Value) -> Result<()> {
    let first = submit_surely(&api, "/api/v1/tasks", &batch);
    let second = submit_surely(&api, "/api/v1/workflows", &flow);
    let third = submit_surely(&api, "/api/v1/tasks", &batch);
    tokio::try_join!(first, second, third).map(drop)
}

/// Sets the point for the side's process, works, sees it die there, starts it again without, and checks the end.
async fn survives(side: Side, point: &str) -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    start_with(&mut scene, side, point).await?;
    let singles: Vec<Value> = (0..SINGLES / 2).map(|_| scene.ledger.task()).collect();
    let submissions = submit_all(scene.api().clone(), json!(singles), workflow(&scene));
    let (submitted, survived) = tokio::join!(submissions, dies_and_returns(&mut scene, side, point));
    survived.and(submitted)?;
    scene.ledger.open("long")?;
    assert_eq!(scene.all_completed().await?.len(), SINGLES + 5);
    scene.finish().await;
    Ok(())
}

async fn dies_and_returns(scene: &mut Scene, side: Side, point: &str) -> Result<()> {
    let process = process_of(&mut scene.installation, side);
    let report = tokio::time::timeout(SOON, process.ended()).await.with_context(|| format!("{point} was never passed"))??;
    ensure!(report.signal.is_some(), "it did not die at {point}: {report:?}");
    start_with(scene, side, "").await
}

async fn start_with(scene: &mut Scene, side: Side, point: &str) -> Result<()> {
    let process = process_of(&mut scene.installation, side);
    process.kill().await.ok(); // At the second call it is dead already.
    process.set_environment(VARIABLE, point);
    process.restart().await?;
    match side {
        Side::Coordinator => scene.installation.wait_ready(0).await,
        Side::Executor => Ok(()),
    }
}

fn process_of(installation: &mut Installation, side: Side) -> &mut Process {
    match side {
        Side::Coordinator => &mut installation.coordinators[0],
        Side::Executor => &mut installation.executors[0],
    }
}

/// Stops the first of two executors at the point, with tasks until it is, and lets the other do its work before it goes on.
async fn executor_stands_still(point: &str) -> Result<()> {
    let mut scene = Scene::start(executors(2)).await?;
    start_with(&mut scene, Side::Executor, &format!("{point}:stop")).await?;
    let stopped = scene.installation.executors[0].pid();
    let until_stopped = async || {
        scene.submit(&scene.ledger.task()).await?;
        Ok(stands_still(stopped)?.then_some(()))
    };
    wait_for("the executor to stop", SOON, until_stopped).await.with_context(|| format!("{point} was never passed"))?;
    scene.settled().await?;
    ensure!(stands_still(stopped)?, "the other did the work meanwhile");
    scene.installation.executors[0].resume()?;
    wait_for("it to go on", SOON, async || Ok((!stands_still(stopped)?).then_some(()))).await?;
    for _ in 0..SINGLES {
        scene.submit(&scene.ledger.task()).await?;
    }
    scene.all_completed().await?;
    scene.finish().await;
    Ok(())
}

/// Whether the process is stopped by a signal.
fn stands_still(pid: i32) -> Result<bool> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T')))
}

#[tokio::test]
async fn an_executor_stands_still_with_a_fetched_message() -> Result<()> {
    executor_stands_still(executor_points::AFTER_FETCH_BEFORE_START).await
}

#[tokio::test]
async fn an_executor_stands_still_with_an_outcome() -> Result<()> {
    executor_stands_still(executor_points::AFTER_RUN_BEFORE_OUTCOME).await
}

#[tokio::test]
async fn a_coordinator_stands_still_before_a_commit_until_its_leases_have_run_out() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    start_with(&mut scene, Side::Coordinator, "before_commit:2:stop").await?;
    let api = scene.api().clone();
    let tasks = Value::from((0..SINGLES).map(|_| scene.ledger.task()).collect::<Vec<_>>());
    let stopped = scene.installation.coordinators[0].pid();
    let meanwhile = async {
        wait_for("the coordinator to stop", SOON, async || Ok(stands_still(stopped)?.then_some(()))).await?;
        let run_out = async || Ok((scene.number(LEASES).await? == 0).then_some(()));
        wait_for("its leases to run out", SOON, run_out).await?;
        scene.installation.coordinators[0].resume()
    };
    let (submitted, waited) = tokio::join!(submit_surely(&api, "/api/v1/tasks", &tasks), meanwhile);
    waited.and(submitted)?;
    assert_eq!(scene.all_completed().await?.len(), SINGLES);
    scene.finish().await;
    Ok(())
}

macro_rules! points {
    ($($test:ident: $side:ident $point:expr),+ $(,)?) => {
        $(#[tokio::test]
        async fn $test() -> Result<()> {
            survives(Side::$side, $point).await
        })+
    };
}

points! {
    coordinator_before_commit: Coordinator "before_commit",
    coordinator_before_a_later_commit: Coordinator "before_commit:4",
    coordinator_between_reserve_and_commit: Coordinator "after_reserve_before_commit",
    coordinator_between_commit_and_publish: Coordinator "after_commit_before_publish",
    coordinator_between_a_later_commit_and_publish: Coordinator "after_commit_before_publish:4",
    coordinator_between_commit_and_confirm: Coordinator "after_commit_before_confirm",
    coordinator_between_two_publishes: Coordinator "between_two_publishes",
    coordinator_before_its_position_is_saved: Coordinator "after_commit_before_position_saved:8",
    executor_before_a_start: Executor executor_points::AFTER_FETCH_BEFORE_START,
    executor_before_a_claim: Executor executor_points::AFTER_START_BEFORE_CLAIM,
    executor_between_grant_and_ack: Executor executor_points::AFTER_GRANT_BEFORE_DOUBLE_ACK,
    executor_between_run_and_outcome: Executor executor_points::AFTER_RUN_BEFORE_OUTCOME,
    executor_between_outcome_and_ack: Executor executor_points::AFTER_OUTCOME_BEFORE_ACK,
}
