//! The installation under test: two coordinators, three executors, servers of its own, each process behind its own proxies.

use super::broker::{Broker, Servers};
use super::cluster::Cluster;
use super::fault::{EXECUTORS, GUEST, Line, Spot};
use super::history::History;
use super::ledger::LEDGER;
use super::settings::Settings;
use crate::harness::proxy::{Proxy, Route};
use crate::harness::servers::is_alive;
use crate::harness::{Api, Installation, InstallationOptions, PostgresScope, Process};
use anyhow::{Context, Result, bail};
use sqlx::postgres::{PgPool, PgPoolOptions};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
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
    /// NATS.
    pub broker: Broker,
    /// Postgres' first process.
    pub postgres_pid: i32,
    /// The addresses of NATS, past the proxies.
    pub nats_urls: Vec<String>,
    lines: Lines,
    down: HashSet<Spot>,
    started: HashMap<Spot, Instant>,
}

/// The ways to the servers, by the place of the process; each process has one to each server.
#[derive(Debug, Default)]
struct Lines {
    coordinators_to_nats: Vec<Vec<Proxy>>,
    coordinators_to_postgres: Vec<Vec<Proxy>>,
    executors_to_nats: Vec<Vec<Proxy>>,
}

impl Stage {
    /// Starts everything; the first coordinator is ready, and the guest has left.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(settings: &Settings) -> Result<Self> {
        let mut installation = Installation::start(options(settings)).await?;
        let broker = start_broker(&installation, settings.servers).await?;
        let database_url = installation.database_url.clone();
        let nats_urls = match &broker {
            Broker::One(_) => vec![installation.nats_url.clone()],
            Broker::Cluster(cluster) => cluster.urls(),
        };
        let mut lines = Lines::default();
        for number in 0..=GUEST {
            let nats = to_nats(&mut installation, &nats_urls).await?;
            let postgres = Proxy::start(&database_url).await?;
            installation.set_environment("ORCHESTR8_DATABASE_URL", &postgres.url(&database_url)?);
            installation.add_coordinator().await?;
            lines.coordinators_to_nats.push(nats);
            lines.coordinators_to_postgres.push(vec![postgres]);
            if number == 0 {
                installation.wait_ready(0).await?;
            }
        }
        for number in 0..EXECUTORS {
            let nats = to_nats(&mut installation, &nats_urls).await?;
            installation.set_environment("EXECUTOR", &Spot::Executor(number).to_string());
            installation.add_executor().await?;
            lines.executors_to_nats.push(nats);
        }
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_TIMEOUT).connect_lazy(&database_url)?;
        let postgres_pid = installation.server_pids().own_postgres.context("Postgres was started")?;
        let (history, down, started) = (History::default(), HashSet::from([Spot::Coordinator(GUEST)]), HashMap::new());
        let mut stage = Self { installation, pool, history, broker, postgres_pid, nats_urls, lines, down, started };
        stage.process(Spot::Coordinator(GUEST))?.terminate().await?;
        Ok(stage)
    }

    /// A client of each coordinator; the guest is the last.
    #[must_use]
    pub fn apis(&self) -> Vec<Api> {
        (0..=GUEST).map(|number| self.installation.api_of(number)).collect()
    }

    /// The process at a spot.
    ///
    /// # Errors
    /// When the spot is a server.
    pub fn process(&mut self, spot: Spot) -> Result<&mut Process> {
        match spot {
            Spot::Coordinator(number) => self.installation.coordinators.get_mut(number).context("a coordinator"),
            Spot::Executor(number) => self.installation.executors.get_mut(number).context("an executor"),
            Spot::Nats | Spot::Server(_) | Spot::Postgres => bail!("{spot} is a server"),
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
            Line::ServerToServers(number) => {
                if let Broker::Cluster(cluster) = &self.broker {
                    cluster.set(number, route);
                }
                return;
            }
        };
        proxies.iter().flatten().for_each(|proxy| proxy.set(route));
    }

    /// Starts what ended by itself, as an orchestrator of containers does.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn tend(&mut self) -> Result<()> {
        let coordinators = (0..=GUEST).map(Spot::Coordinator);
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
        let of_one = folders.nats.join("logs/nats-server.log");
        for log in self.broker.logs(&of_one) {
            std::fs::copy(log, folder.join(log.file_name().context("a log is a file")?))?;
        }
        std::fs::copy(folders.postgres.join("logs/postgres.log"), folder.join("postgres.log"))?;
        Ok(())
    }
}

/// A cluster's servers run the program that was found for a single one, which is only started for that.
async fn start_broker(installation: &Installation, servers: Servers) -> Result<Broker> {
    let pid = installation.server_pids().nats.context("nats-server was started")?;
    match servers {
        Servers::One => Ok(Broker::One(pid)),
        Servers::Cluster => {
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).context("the program of nats-server")?;
            installation.nats("stop nats").await?;
            Ok(Broker::Cluster(Box::new(Cluster::start(&program, &cluster_folder(installation)?).await?)))
        }
    }
}

fn cluster_folder(installation: &Installation) -> Result<PathBuf> {
    Ok(installation.workdir.parent().context("the folder of the installation")?.join("cluster"))
}

/// A way to each server for the process that is added next.
async fn to_nats(installation: &mut Installation, urls: &[String]) -> Result<Vec<Proxy>> {
    let (mut ways, mut seen) = (Vec::new(), Vec::new());
    for url in urls {
        let way = Proxy::start(url).await?;
        seen.push(way.url(url)?);
        ways.push(way);
    }
    installation.set_environment("ORCHESTR8_NATS_URL", &seen.join(","));
    Ok(ways)
}

fn options(settings: &Settings) -> InstallationOptions {
    let mut coordinator_words = settings.coordinator_words.clone();
    if settings.servers == Servers::Cluster {
        coordinator_words.extend(["--nats-replicas", "3"].map(str::to_owned));
    }
    InstallationOptions {
        coordinators: 0,
        executors: 0,
        slots: SLOTS,
        postgres: PostgresScope::Own,
        time_base: settings.time_base,
        coordinator_words,
        executor_words: ["--drain-timeout", "1s", "--grace", "1s", "--pass-env", "EXECUTOR"].map(str::to_owned).to_vec(),
        ..InstallationOptions::default()
    }
}
