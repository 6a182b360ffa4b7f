//! What nothing to do costs, and what a thousand sleeping tasks do.

use super::figures::Figures;
use super::floor::{Program, Shape};
use super::ours::Watch;
use super::scale::Scale;
use super::stage::Stage;
use crate::harness::wait_for;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;

/// Claims come after a second; a thousand of them, answered, take a few more.
const CLAIMED_MAX: Duration = Duration::from_secs(30);
/// What follows a burst of work (marks, beats) is over by then.
const SETTLE: Duration = Duration::from_secs(2);

/// Both phases, watched for the same time on both sides: the floor runs beside ours, with nothing to do.
///
/// # Errors
/// When a part ends, or the sleeping tasks do not all run throughout.
pub async fn phases(stage: &Stage, scale: &Scale, ours: &mut Figures, floor: &mut Figures) -> Result<()> {
    let program = Program::start(stage, Shape::Independent).await?;
    eprintln!("  idle for {:?}", scale.idle);
    watch(stage, scale, "idle", ours, floor).await?;
    eprintln!("  {} sleeping tasks for {:?}", scale.sleepers, scale.idle);
    let mut tasks = Watch::connect(stage).await?;
    sleepers(stage, scale, &mut tasks).await?;
    watch(stage, scale, "sleeping", ours, floor).await?;
    let running = tasks.running().await?;
    ensure!(usize::try_from(running)? == scale.sleepers, "{running} tasks were still running, not {}", scale.sleepers);
    tasks.until_done().await?;
    program.stop(0).await
}

async fn watch(stage: &Stage, scale: &Scale, phase: &str, ours: &mut Figures, floor: &mut Figures) -> Result<()> {
    tokio::time::sleep(SETTLE).await;
    let before = (stage.ours.read().await?, stage.floor.read().await?);
    tokio::time::sleep(scale.idle).await;
    ours.extend(stage.ours.read().await?.per_second(&before.0, phase));
    let statements = format!("{phase}_statements_per_s");
    let beside = stage.floor.read().await?.per_second(&before.1, phase);
    floor.extend(beside.into_iter().filter(|(name, _)| *name == statements)); // The processor time is not the floor's alone.
    Ok(())
}

/// Submits them and returns when all have been claimed.
async fn sleepers(stage: &Stage, scale: &Scale, tasks: &mut Watch) -> Result<()> {
    let duration = SETTLE + scale.idle + CLAIMED_MAX / 5 + scale.idle / 5;
    let task = json!({"handler": "sleep", "with": {"duration": duration.as_secs_f64()}});
    stage.installation.api.post("/api/v1/tasks", &Value::Array(vec![task; scale.sleepers])).await?;
    let all = i64::try_from(scale.sleepers)?;
    wait_for("every sleeping task to be claimed", CLAIMED_MAX, async || Ok((tasks.running().await? == all).then_some(()))).await
}
