//! Processes that are killed, paused and stopped.

use super::super::plan::Spot;
use super::super::stage::Stage;
use crate::harness::servers::is_alive;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

/// SIGKILL; a server's children go with it. A process that has just ended by itself, because a server is away, stays down.
///
/// # Errors
/// When it cannot be killed.
pub async fn kill(stage: &mut Stage, spot: Spot) -> Result<()> {
    stage.goes(spot);
    match spot {
        Spot::Coordinator(_) | Spot::Executor(_) => {
            let process = stage.process(spot)?;
            let report = if is_alive(process.pid()) { process.kill().await } else { process.ended().await };
            report.map(drop)
        }
        Spot::Nats => stage.installation.nats("kill nats").await.map(drop),
        Spot::Postgres => stage.installation.postgres("kill postgres").await.map(drop),
    }
}

/// SIGTERM, or the fast stop of Postgres; returns when it has ended.
///
/// # Errors
/// When it does not run.
pub async fn stop(stage: &mut Stage, spot: Spot) -> Result<()> {
    stage.goes(spot);
    match spot {
        Spot::Coordinator(_) => stage.process(spot)?.terminate().await.map(drop),
        Spot::Executor(_) => stop_executor(stage, spot).await,
        Spot::Nats => stage.installation.nats("stop nats").await.map(drop),
        Spot::Postgres => stage.installation.postgres("stop postgres").await.map(drop),
    }
}

/// A drained executor that is killed after its grace would leave losses; one that ended in order leaves none.
async fn stop_executor(stage: &mut Stage, spot: Spot) -> Result<()> {
    let report = stage.process(spot)?.terminate().await?;
    if report.exit_code != Some(0) {
        stage.history.exits.push(format!("{spot} did not end in order: {report:?}"));
    }
    Ok(())
}

/// Starts what was killed or stopped; a server is ready then.
///
/// # Errors
/// When it does not start.
pub async fn start(stage: &mut Stage, spot: Spot) -> Result<()> {
    match spot {
        Spot::Coordinator(_) | Spot::Executor(_) => stage.process(spot)?.restart().await?,
        Spot::Nats => {
            let answer = stage.installation.nats("start nats").await?;
            stage.nats_pid = answer.nats_pid.context("it was started")?;
        }
        Spot::Postgres => drop(stage.installation.postgres("start postgres").await?),
    }
    stage.comes(spot);
    Ok(())
}

/// SIGSTOP. A process that has just ended by itself is left to be started again.
///
/// # Errors
/// When it cannot be signalled.
pub fn pause(stage: &mut Stage, spot: Spot) -> Result<()> {
    signal(stage, spot, Signal::SIGSTOP)
}

/// SIGCONT.
///
/// # Errors
/// When it cannot be signalled.
pub fn resume(stage: &mut Stage, spot: Spot) -> Result<()> {
    signal(stage, spot, Signal::SIGCONT)
}

fn signal(stage: &mut Stage, spot: Spot, signal: Signal) -> Result<()> {
    let pid = match spot {
        Spot::Coordinator(_) | Spot::Executor(_) => stage.process(spot)?.pid(),
        Spot::Nats => stage.nats_pid,
        Spot::Postgres => bail!("Postgres is many processes: it is not paused"),
    };
    if !is_alive(pid) {
        return Ok(());
    }
    send(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {spot}"))
}
