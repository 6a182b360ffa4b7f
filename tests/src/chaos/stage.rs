//! The installation under test: two coordinators, three executors, servers of its own, each process behind its own proxies.

use super::history::History;
use super::ledger::LEDGER;
use super::plan::{COORDINATORS, EXECUTORS, Line, Spot};
use super::proxy::{Proxy, Route};
use super::settings::Settings;
use crate::harness::servers::is_alive;
use crate::harness::{Api, Installation, InstallationOptions, PostgresScope, Process};
use anyhow::{Context, Result, bail};
use sqlx::postgres::{PgPool, PgPoolOptions};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// Slots of each executor: more than the load ever fills.
const SLOTS: u16 = 12;
/// A look into the database during a fault must fail soon.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections for looks from outside.
const CONNECTIONS_MAX: u32 = 6;
/// Between two starts of a process that ends by itself, as while its server is away.
const START_INTERVAL: Duration = Duration::from_millis(500);

/// Everything that can be struck.
#[derive(Debug)]
pub struct Stage {
    /// Servers and processes.
    pub installation: Installation,
    /// For looks into the database, past the proxies.
    pub pool: PgPool,
    /// What was done.
    pub history: History,
    /// nats-server's process.
    pub nats_pid: i32,
    lines: Lines,
    down: HashSet<Spot>,
    started: HashMap<Spot, Instant>,
}

/// The ways to the servers, by the place of the process.
#[derive(Debug, Default)]
struct Lines {
    coordinators_to_nats: Vec<Proxy>,
    coordinators_to_postgres: Vec<Proxy>,
    executors_to_nats: Vec<Proxy>,
}

impl Stage {
    /// Starts everything; the first coordinator is ready.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(settings: &Settings) -> Result<Self> {
        let mut installation = Installation::start(options(settings)).await?;
        let (nats_url, database_url) = (installation.nats_url.clone(), installation.database_url.clone());
        let mut lines = Lines::default();
        for _ in 0..COORDINATORS {
            let (nats, postgres) = (Proxy::start(&nats_url).await?, Proxy::start(&database_url).await?);
            installation.set_environment("ORCHESTR8_NATS_URL", &nats.url(&nats_url)?);
            installation.set_environment("ORCHESTR8_DATABASE_URL", &postgres.url(&database_url)?);
            installation.add_coordinator().await?;
            lines.coordinators_to_nats.push(nats);
            lines.coordinators_to_postgres.push(postgres);
            if lines.coordinators_to_nats.len() == 1 {
                installation.wait_ready(0).await?;
            }
        }
        for number in 0..EXECUTORS {
            let nats = Proxy::start(&nats_url).await?;
            installation.set_environment("ORCHESTR8_NATS_URL", &nats.url(&nats_url)?);
            installation.set_environment("EXECUTOR", &Spot::Executor(number).to_string());
            installation.add_executor().await?;
            lines.executors_to_nats.push(nats);
        }
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_TIMEOUT).connect_lazy(&database_url)?;
        let nats_pid = installation.server_pids().nats.context("nats-server was started")?;
        Ok(Self { installation, pool, history: History::default(), nats_pid, lines, down: HashSet::new(), started: HashMap::new() })
    }

    /// A client of each coordinator.
    #[must_use]
    pub fn apis(&self) -> Vec<Api> {
        (0..COORDINATORS).map(|number| self.installation.api_of(number)).collect()
    }

    /// The process at a spot.
    ///
    /// # Errors
    /// When the spot is a server.
    pub fn process(&mut self, spot: Spot) -> Result<&mut Process> {
        match spot {
            Spot::Coordinator(number) => self.installation.coordinators.get_mut(number).context("a coordinator"),
            Spot::Executor(number) => self.installation.executors.get_mut(number).context("an executor"),
            Spot::Nats | Spot::Postgres => bail!("{spot} is a server"),
        }
    }

    /// It is to stay down.
    pub fn goes(&mut self, spot: Spot) {
        self.down.insert(spot);
    }

    /// It is to run again.
    pub fn comes(&mut self, spot: Spot) {
        self.down.remove(&spot);
    }

    /// Sets what passes on a way.
    pub fn set(&self, line: Line, route: Route) {
        let Lines { coordinators_to_nats, coordinators_to_postgres, executors_to_nats } = &self.lines;
        let proxies = match line {
            Line::CoordinatorToNats(number) => &coordinators_to_nats[number..=number],
            Line::CoordinatorToPostgres(number) => &coordinators_to_postgres[number..=number],
            Line::ExecutorToNats(number) => &executors_to_nats[number..=number],
            Line::CoordinatorsToNats => coordinators_to_nats,
            Line::CoordinatorsToPostgres => coordinators_to_postgres,
            Line::ExecutorsToNats => executors_to_nats,
        };
        proxies.iter().for_each(|proxy| proxy.set(route));
    }

    /// Starts what ended by itself, as an orchestrator of containers does.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn tend(&mut self) -> Result<()> {
        let coordinators = (0..COORDINATORS).map(Spot::Coordinator);
        for spot in coordinators.chain((0..EXECUTORS).map(Spot::Executor)) {
            let waits = self.started.get(&spot).is_some_and(|started| started.elapsed() < START_INTERVAL);
            if waits || self.down.contains(&spot) || is_alive(self.process(spot)?.pid()) {
                continue;
            }
            let report = self.process(spot)?.ended().await?;
            self.history.exits.push(format!("{spot}: {report:?}"));
            if matches!(spot, Spot::Executor(_)) {
                self.history.leaves(spot.to_string());
                self.history.returns(&spot.to_string());
            }
            self.process(spot)?.restart().await?;
            self.started.insert(spot, Instant::now());
        }
        Ok(())
    }

    /// Copies all logs and the ledger into a folder, for whoever looks into a failure.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn keep_logs(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        for process in self.installation.coordinators.iter().chain(&self.installation.executors) {
            std::fs::copy(process.log(), folder.join(format!("{}.log", process.name())))?;
        }
        std::fs::copy(self.installation.workdir.join(LEDGER), folder.join("ledger"))?;
        let folders = self.installation.server_folders()?;
        std::fs::copy(folders.nats.join("logs/nats-server.log"), folder.join("nats-server.log"))?;
        std::fs::copy(folders.postgres.join("logs/postgres.log"), folder.join("postgres.log"))?;
        Ok(())
    }
}

fn options(settings: &Settings) -> InstallationOptions {
    InstallationOptions {
        coordinators: 0,
        executors: 0,
        slots: SLOTS,
        postgres: PostgresScope::Own,
        time_base: settings.time_base,
        coordinator_words: settings.coordinator_words.clone(),
        executor_words: ["--drain-timeout", "1s", "--grace", "1s", "--pass-env", "EXECUTOR"].map(str::to_owned).to_vec(),
        ..InstallationOptions::default()
    }
}
