//! Coordinators that are killed or asked to end in mid-workflow, and those that take over.

use crate::happy::workflows::check_main;
use crate::harness::{InstallationOptions, wait_for};
use crate::scene::{SOON, Scene, coordinator_words, executors, noop};
use anyhow::{Result, ensure};
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

/// Two coordinators, each with half of the shards.
async fn pair() -> Result<Scene> {
    let mut scene = Scene::start(InstallationOptions { slots: 16, ..executors(1) }).await?;
    let second = scene.installation.add_coordinator().await?;
    scene.until_shared(&[(0, 8), (second, 8)]).await?;
    Ok(scene)
}

/// Workflows in shards of both coordinators, so far that each has tasks that run.
async fn both_at_work(scene: &mut Scene) -> Result<()> {
    let first = scene.installation.api.clone();
    for coordinator in [0, 1] {
        scene.installation.api = scene.installation.api_of(coordinator);
        scene.submit_workflow(&fan(scene)).await?;
    }
    scene.installation.api = first;
    started(scene, 2 + 12).await
}

#[tokio::test]
async fn another_coordinator_takes_over_from_a_killed_one() -> Result<()> {
    let mut scene = pair().await?;
    both_at_work(&mut scene).await?;
    let killed = Instant::now();
    scene.installation.coordinators[0].kill().await?;
    scene.until_shared(&[(1, 16)]).await?;
    ensure!(killed.elapsed() < TAKEOVER_MAX, "it took {:?}", killed.elapsed());
    scene.installation.api = scene.installation.api_of(1);
    scene.submit(&noop(&Value::Null)).await?;
    scene.ledger.open("go")?;
    assert_eq!(scene.all_completed().await?.len(), 19);
    assert_eq!(scene.ledger.starts()?.len(), 16, "no run was lost by the takeover");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_paused_owner_that_comes_back_does_no_harm() -> Result<()> {
    let mut scene = pair().await?;
    both_at_work(&mut scene).await?;
    scene.installation.coordinators[0].pause()?;
    scene.until_shared(&[(1, 16)]).await?;
    scene.installation.coordinators[0].resume()?;
    scene.until_shared(&[(0, 8), (1, 8)]).await?;
    scene.ledger.open("go")?;
    assert_eq!(scene.all_completed().await?.len(), 18);
    assert_eq!(scene.ledger.starts()?.len(), 16);
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
