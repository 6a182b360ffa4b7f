//! Coordinators that are killed or asked to end in mid-workflow, and those that take over.

use crate::happy::workflows::check_main;
use crate::harness::wait_for;
use crate::scene::{SOON, Scene, coordinator_words, executors, noop};
use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Ten seconds at a tenth for the leases, and slack for a loaded machine.
const TAKEOVER_MAX: Duration = Duration::from_secs(4);

const OWNED: &str = "select count(*) from shards where lease_id is not null and expires_at > clock_timestamp()";

/// A fan-out between two singles; `middle` waits for the gate.
fn fan(scene: &Scene) -> Value {
    let mut tasks = vec![scene.ledger.named("first", "", &json!({}))];
    tasks.extend((0..6).map(|number| scene.ledger.named(&format!("middle-{number}"), "go", &json!({"needs": ["first"]}))));
    let all: Vec<String> = (0..6).map(|number| format!("middle-{number}")).collect();
    tasks.push(json!({"name": "pause", "sleep": "500ms", "needs": ["first"]}));
    tasks.push(scene.ledger.named("last", "", &json!({"needs": all})));
    json!({"definition": {"name": "fan", "tasks": tasks}})
}

async fn started(scene: &Scene, starts: usize) -> Result<()> {
    let look = async || Ok((scene.ledger.starts()?.len() >= starts).then_some(()));
    wait_for(&format!("{starts} starts"), SOON, look).await
}

#[tokio::test]
async fn a_coordinator_killed_in_mid_workflow_goes_on_where_it_was() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    scene.submit_workflow(&fan(&scene)).await?;
    started(&scene, 5).await?;
    for round in 0..3 {
        scene.installation.coordinators[0].kill().await?;
        if round == 1 {
            // What ends while nobody reads is read later.
            scene.ledger.open("go")?;
            wait_for("an end", SOON, async || Ok((scene.ledger.ends()?.len() >= 3).then_some(()))).await?;
        }
        scene.installation.coordinators[0].restart().await?;
        scene.installation.wait_ready(0).await?;
    }
    assert_eq!(scene.all_completed().await?.len(), 9);
    assert_eq!(scene.ledger.starts()?.len(), 8, "no run was doubted: the executor was never away");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_coordinator_that_ends_gives_its_shards_back() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    scene.submit_workflow(&fan(&scene)).await?;
    started(&scene, 5).await?;
    assert_eq!(scene.number(OWNED).await?, 16);
    let report = scene.installation.coordinators[0].terminate().await?;
    assert_eq!(report.exit_code, Some(0), "{report:?}");
    assert_eq!(scene.number(OWNED).await?, 0, "nobody has to wait for leases to run out");
    scene.ledger.open("go")?;
    scene.installation.coordinators[0].restart().await?;
    scene.installation.wait_ready(0).await?;
    assert_eq!(scene.all_completed().await?.len(), 9);
    assert_eq!(scene.ledger.starts()?.len(), 8);
    scene.finish().await;
    Ok(())
}

/// The place of the coordinator that owns all shards: its name ends with its process's number.
async fn owner(scene: &Scene) -> Result<usize> {
    let owners: Vec<String> =
        sqlx::query_scalar("select distinct owner from shards where lease_id is not null and expires_at > clock_timestamp()")
            .fetch_all(&scene.installation.pool)
            .await?;
    ensure!(owners.len() == 1, "not one owner: {owners:?}");
    let is_it = |pid: i32| owners[0].ends_with(&format!("-{pid}"));
    scene.installation.coordinators.iter().position(|coordinator| is_it(coordinator.pid())).context("its process")
}

/// Two coordinators: the second owns nothing, so it is not ready.
async fn with_standby() -> Result<Scene> {
    let mut scene = Scene::start(executors(1)).await?;
    let second = scene.installation.add_coordinator().await?;
    let standby = scene.installation.api_of(second);
    let look = async || {
        let (status, parts) = standby.answer(standby.request(Method::GET, "/readyz")).await?;
        Ok((status == StatusCode::SERVICE_UNAVAILABLE && parts["shards_owned"] == 0).then_some(()))
    };
    wait_for("the standby to serve", SOON, look).await?;
    Ok(scene)
}

#[tokio::test]
async fn a_standby_reads_and_refuses_what_it_cannot_do() -> Result<()> {
    let scene = with_standby().await?;
    let standby = scene.installation.api_of(1);
    let task = scene.submit(&noop(&json!(1))).await?;
    assert_eq!(standby.get(&format!("/api/v1/tasks/{task}/result?wait=20s")).await?["status"], "completed");
    let (status, problem) = standby.answer(standby.request(Method::POST, "/api/v1/tasks").json(&noop(&json!(2)))).await?;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    assert_eq!(scene.all_completed().await?.len(), 1, "what was refused is not stored");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn another_coordinator_takes_over_from_a_killed_one() -> Result<()> {
    let mut scene = with_standby().await?;
    scene.submit_workflow(&fan(&scene)).await?;
    started(&scene, 5).await?;
    let first = owner(&scene).await?;
    let second = 1 - first;
    let killed = Instant::now();
    scene.installation.coordinators[first].kill().await?;
    let look = async || Ok((owner(&scene).await? == second).then_some(()));
    wait_for("the other one to own all shards", SOON, look).await?;
    ensure!(killed.elapsed() < TAKEOVER_MAX, "it took {:?}", killed.elapsed());
    scene.installation.api = scene.installation.api_of(second);
    scene.submit(&noop(&Value::Null)).await?;
    scene.ledger.open("go")?;
    assert_eq!(scene.all_completed().await?.len(), 10);
    assert_eq!(scene.ledger.starts()?.len(), 8, "no run was lost by the takeover");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_paused_owner_that_comes_back_does_no_harm() -> Result<()> {
    let mut scene = with_standby().await?;
    scene.submit_workflow(&fan(&scene)).await?;
    started(&scene, 5).await?;
    let first = owner(&scene).await?;
    scene.installation.coordinators[first].pause()?;
    let look = async || Ok((owner(&scene).await? != first).then_some(()));
    wait_for("the other one to own all shards", SOON, look).await?;
    scene.installation.coordinators[first].resume()?;
    scene.installation.api = scene.installation.api_of(1 - first);
    scene.ledger.open("go")?;
    assert_eq!(scene.all_completed().await?.len(), 9);
    assert_eq!(scene.ledger.starts()?.len(), 8);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn the_cache_is_never_truth() -> Result<()> {
    let mut scene = Scene::start(coordinator_words(&["--cache-bytes", "0"])).await?;
    check_main(&scene).await?;
    scene.submit_workflow(&fan(&scene)).await?;
    started(&scene, 5).await?;
    scene.installation.coordinators[0].kill().await?;
    scene.installation.coordinators[0].restart().await?;
    scene.installation.wait_ready(0).await?;
    scene.ledger.open("go")?;
    scene.settled().await?;
    scene.verified().await?;
    assert_eq!(scene.number("select count(*) from task_executions where status <> 'completed'").await?, 0);
    scene.finish().await;
    Ok(())
}
