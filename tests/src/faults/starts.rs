//! Starts while the servers are away: where everything starts at once, nothing is there at first.

use crate::harness::{Installation, InstallationOptions, wait_for};
use crate::scene::{SOON, own_postgres};
use anyhow::{Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Waits until a process has said something.
async fn said(installation: &Installation, words: &str) -> Result<()> {
    let log = installation.coordinators[0].log().to_owned();
    let look = async || Ok(std::fs::read_to_string(&log)?.contains(words).then_some(()));
    wait_for(&format!("the coordinator to say `{words}`"), SOON, look).await
}

#[tokio::test]
async fn coordinator_and_executor_wait_for_servers_that_come_later() -> Result<()> {
    let mut installation = Installation::start(InstallationOptions { coordinators: 0, executors: 0, ..own_postgres() }).await?;
    installation.nats("stop nats").await?;
    installation.postgres("stop postgres").await?;
    installation.add_coordinator().await?;
    installation.add_executor().await?;
    let api = installation.api_of(0);
    said(&installation, "waiting for Postgres").await?;
    let (status, parts) = api.answer(api.request(Method::GET, "/readyz")).await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE && parts["parts"]["database"]["ready"] == false, "{status}: {parts}");
    installation.postgres("start postgres").await?;
    said(&installation, "waiting for NATS").await?;
    installation.nats("start nats").await?;
    installation.wait_ready(0).await?;
    let task = api.post("/api/v1/tasks", &json!({"handler": "noop", "with": {"output": 7}})).await?;
    let path = format!("/api/v1/tasks/{}/result?wait=10s", task["task_id"].as_str().unwrap_or_default());
    let result =
        wait_for(
            "the task to end",
            SOON,
            async || Ok(Some(api.get(&path).await?).filter(|answer: &Value| answer["status"] == "completed")),
        );
    assert_eq!(result.await?["result"], 7);
    installation.finish().await;
    Ok(())
}
