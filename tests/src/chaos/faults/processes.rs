//! Processes that are killed, paused and stopped.

use super::super::broker;
use super::super::fault::Spot;
use super::super::stage::Stage;
use crate::harness::servers::is_alive;
use anyhow::{Context, Result};
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
        Spot::Nats | Spot::Server(_) => broker::kill(stage, spot).await,
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
        Spot::Nats | Spot::Server(_) => broker::stop(stage, spot).await,
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
        Spot::Nats | Spot::Server(_) => broker::start(stage, spot).await?,
        Spot::Postgres => {
            let answer = stage.installation.postgres("start postgres").await?;
            stage.postgres_pid = answer.postgres_pid.context("it was started")?;
        }
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

/// All processes of a server get it; the first process of Postgres first, so that it makes no more meanwhile.
fn signal(stage: &mut Stage, spot: Spot, signal: Signal) -> Result<()> {
    let pids = match spot {
        Spot::Coordinator(_) | Spot::Executor(_) => vec![stage.process(spot)?.pid()],
        Spot::Nats | Spot::Server(_) => stage.broker.pids(spot)?,
        Spot::Postgres => vec![stage.postgres_pid],
    };
    for pid in pids.into_iter().filter(|pid| is_alive(*pid)) {
        send(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {spot}"))?;
    }
    if spot == Spot::Postgres {
        for pid in children(stage.postgres_pid)? {
            send(Pid::from_raw(pid), signal).ok(); // A session may end at any moment.
        }
    }
    Ok(())
}

fn children(parent: i32) -> Result<Vec<i32>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // `PID (NAME) STATE PARENT ...`, and a name may hold anything.
        let above = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if above == Some(parent) {
            children.push(pid);
        }
    }
    Ok(children)
}
