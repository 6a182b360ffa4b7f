//! What an autoscaler is told by a real coordinator.

use crate::harness::wait_for;
use crate::scene::{SOON, Scene, executors};
use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn the_demand_of_queues_is_what_waits_and_runs_in_them() -> Result<()> {
    let mut scene = Scene::start(executors(0)).await?;
    ensure!(demand(&scene, "default").await?["demand_slots"] == json!(0), "nothing was submitted yet");
    scene.submit(&json!({"handler": "noop"})).await?;
    scene.submit(&json!({"handler": "noop", "queue": "agents"})).await?;
    scene.submit(&json!({"handler": "noop", "queue": "elsewhere"})).await?;
    until(&scene, "agents,default", 2).await?;
    until(&scene, "agents", 1).await?;
    scene.installation.serve_queues(&["default", "agents"]);
    scene.installation.add_executor().await?;
    until(&scene, "default,agents", 0).await?;
    until(&scene, "elsewhere", 1).await?;
    scene.finish().await;
    Ok(())
}

async fn demand(scene: &Scene, queues: &str) -> Result<Value> {
    Ok(scene.api().request(Method::GET, &format!("/api/v1/queues/{queues}/demand")).send().await?.error_for_status()?.json().await?)
}

async fn until(scene: &Scene, queues: &str, slots: i64) -> Result<()> {
    let look = async || {
        let seen = demand(scene, queues).await?;
        ensure!(seen["demand_slots"] == json!(slots), "it is {seen}");
        Ok(Some(()))
    };
    wait_for(&format!("a demand of {slots} in {queues}"), SOON, look).await
}
