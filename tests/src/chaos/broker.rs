//! The NATS of a run: one server, or three.

use super::cluster::{Cluster, SERVERS};
use super::fault::Spot;
use super::stage::Stage;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Which NATS a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Servers {
    /// One nats-server.
    One,
    /// Three, and three copies of each stream.
    Cluster,
}

/// What runs.
#[derive(Debug)]
pub enum Broker {
    /// One nats-server, with its process.
    One(i32),
    /// Three.
    Cluster(Box<Cluster>),
}

impl Broker {
    /// The processes at a spot.
    ///
    /// # Errors
    /// When the spot is no nats-server.
    pub fn pids(&self, spot: Spot) -> Result<Vec<i32>> {
        match self {
            Self::One(pid) => Ok(vec![*pid]),
            Self::Cluster(cluster) => Ok(members(spot)?.map(|number| cluster.pid(number)).collect()),
        }
    }

    /// The logs.
    #[must_use]
    pub fn logs<'a>(&'a self, of_one: &'a Path) -> Vec<&'a Path> {
        match self {
            Self::One(_) => vec![of_one],
            Self::Cluster(cluster) => cluster.logs(),
        }
    }
}

/// SIGKILL.
///
/// # Errors
/// When it does not run.
pub async fn kill(stage: &mut Stage, spot: Spot) -> Result<()> {
    match &mut stage.broker {
        Broker::One(_) => stage.installation.nats("kill nats").await.map(drop),
        Broker::Cluster(cluster) => {
            for number in members(spot)? {
                cluster.kill(number).await?;
            }
            Ok(())
        }
    }
}

/// An orderly end.
///
/// # Errors
/// When it does not run.
pub async fn stop(stage: &mut Stage, spot: Spot) -> Result<()> {
    match &mut stage.broker {
        Broker::One(_) => stage.installation.nats("stop nats").await.map(drop),
        Broker::Cluster(cluster) => {
            for number in members(spot)? {
                cluster.stop(number).await?;
            }
            Ok(())
        }
    }
}

/// Starts what is down. One that has others beside it has caught up with them when this returns; all together only greet.
///
/// # Errors
/// When it does not start.
pub async fn start(stage: &mut Stage, spot: Spot) -> Result<()> {
    match &mut stage.broker {
        Broker::One(pid) => {
            let answer = stage.installation.nats("start nats").await?;
            *pid = answer.nats_pid.context("it was started")?;
            Ok(())
        }
        Broker::Cluster(cluster) => {
            for number in members(spot)? {
                cluster.run(number).await?;
            }
            match spot {
                Spot::Server(number) => cluster.wait_ready(number).await,
                Spot::Nats | Spot::Coordinator(_) | Spot::Executor(_) | Spot::Postgres => Ok(()),
            }
        }
    }
}

/// Kills what is there and removes what it stored.
///
/// # Errors
/// When something is left.
pub async fn wipe(stage: &mut Stage, spot: Spot) -> Result<()> {
    if let Broker::One(_) = &stage.broker {
        return stage.installation.nats("wipe nats").await.map(drop);
    }
    kill(stage, spot).await?;
    match &stage.broker {
        Broker::One(_) => Ok(()),
        Broker::Cluster(cluster) => members(spot)?.try_for_each(|number| cluster.wipe(number)),
    }
}

/// Where the server at a spot keeps its streams.
///
/// # Errors
/// When the spot is all of several.
pub fn store(stage: &Stage, spot: Spot) -> Result<PathBuf> {
    match (&stage.broker, spot) {
        (Broker::One(_), _) => Ok(stage.installation.server_folders()?.nats.join("nats/store")),
        (Broker::Cluster(cluster), Spot::Server(number)) => Ok(cluster.store(number)),
        (Broker::Cluster(_), Spot::Nats | Spot::Coordinator(_) | Spot::Executor(_) | Spot::Postgres) => bail!("{spot} is no single server"),
    }
}

fn members(spot: Spot) -> Result<std::ops::Range<usize>> {
    match spot {
        Spot::Nats => Ok(0..SERVERS),
        Spot::Server(number) => Ok(number..number + 1),
        Spot::Coordinator(_) | Spot::Executor(_) | Spot::Postgres => bail!("{spot} is no nats-server"),
    }
}
