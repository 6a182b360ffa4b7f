//! What `/metrics` tells an operator: who waits, for how long, and what is not committed.

use crate::harness::wait_for;
use crate::scene::{SOON, Scene, executors};
use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::json;
use sqlx::Connection;

/// Tasks that were queued with their execution, and tasks that were queued later.
const STAMPS: &str = "select count(*) from task_executions where queued_at is not null and
case task_name when 'first' then queued_at - created_at < interval '1 s' else queued_at > (select f.completed_at from task_executions f
  where f.workflow_id = task_executions.workflow_id and f.task_name = 'first') end";

/// The value of a series, if it is there.
async fn series(scene: &Scene, name: &str) -> Result<Option<f64>> {
    let text = scene.api().request(Method::GET, "/metrics").send().await?.text().await?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.map(str::parse).transpose()?)
}

async fn until(scene: &Scene, name: &str, fits: impl Fn(Option<f64>) -> bool) -> Result<()> {
    let look = async || {
        let seen = series(scene, name).await?;
        ensure!(fits(seen), "it is {seen:?}");
        Ok(Some(()))
    };
    wait_for(name, SOON, look).await
}

#[tokio::test]
async fn the_age_of_the_oldest_queued_task_is_told_by_queue() -> Result<()> {
    let mut scene = Scene::start(executors(0)).await?;
    let workflow = scene
        .submit_workflow(&json!({"definition": {"name": "two", "tasks": [
            {"name": "first", "handler": "noop"}, {"name": "second", "handler": "noop", "needs": ["first"]}]}}))
        .await?;
    let age = "orchestr8_oldest_queued_age_seconds{queue=\"default\"}";
    until(&scene, age, |seen| seen.is_some_and(|seen| seen < SOON.as_secs_f64())).await?;
    sqlx::query("update task_executions set queued_at = queued_at - interval '1 h' where task_name = 'first'")
        .execute(&scene.installation.pool)
        .await?;
    until(&scene, age, |seen| seen.is_some_and(|seen| seen >= 3_600.0)).await?;
    sqlx::query("update task_executions set queued_at = queued_at + interval '1 h' where task_name = 'first'")
        .execute(&scene.installation.pool)
        .await?;
    scene.installation.add_executor().await?;
    scene.workflow(&workflow).await?;
    assert_eq!(scene.number(STAMPS).await?, 2, "each task is stamped when it is queued");
    until(&scene, age, |seen| seen.is_none()).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn outcomes_that_are_not_committed_are_counted() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    until(&scene, "orchestr8_outcome_lag", |seen| seen == Some(0.0)).await?;
    let task = scene.submit(&scene.ledger.gated("go")).await?;
    scene.holder(&task).await?;
    let mut own = scene.installation.pool.acquire().await?;
    let mut lock = own.begin().await?;
    sqlx::query("lock table task_executions in exclusive mode").execute(&mut *lock).await?;
    scene.ledger.open("go")?;
    until(&scene, "orchestr8_outcome_lag", |seen| seen.is_some_and(|seen| seen >= 1.0)).await?;
    lock.rollback().await?;
    drop(own);
    scene.all_completed().await?;
    until(&scene, "orchestr8_outcome_lag", |seen| seen == Some(0.0)).await?;
    scene.finish().await;
    Ok(())
}
