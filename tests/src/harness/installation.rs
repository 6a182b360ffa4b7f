//! A complete installation for one test: a database, a nats-server, coordinators and executors.

use super::api::Api;
use super::process::{Process, ProcessPlan};
use super::servers::{Answer, Servers, ServersOptions, Which};
use super::waiting::wait_for;
use anyhow::{Context, Result};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// From a coordinator's start, migrations included, to its being ready.
const READY_MAX: Duration = Duration::from_secs(30);
/// Ports of coordinators: below those of outgoing connections, apart from those of the servers.
const PORTS: std::ops::Range<u16> = 12_000..20_000;
/// Tries before the range counts as full.
const PORT_TRIES_MAX: u32 = 200;
/// Connections for a test's own looks into the database.
const POOL_MAX: u32 = 4;
/// How much of each log a failed test shows.
const LOG_TAIL_BYTES: usize = 6_000;

/// Whose Postgres a test uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostgresScope {
    /// A database of its own in the Postgres that all tests share.
    Shared,
    /// A Postgres of its own, which the test may stop, kill and start.
    Own,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct InstallationOptions {
    /// How many coordinators.
    pub coordinators: usize,
    /// How many executors.
    pub executors: usize,
    /// Of each executor.
    pub slots: u16,
    /// Which queues the executors serve, in their order.
    pub queues: Vec<String>,
    /// Whose Postgres.
    pub postgres: PostgresScope,
    /// More words for the `orchestr8 dev` of a Postgres of its own.
    pub postgres_words: Vec<OsString>,
    /// The base of every protocol time; the published figures hold for one second.
    pub time_base: Duration,
    /// More words for every coordinator.
    pub coordinator_words: Vec<String>,
    /// More words for every executor.
    pub executor_words: Vec<String>,
    /// More environment for every process.
    pub environment: Vec<(String, String)>,
}

impl Default for InstallationOptions {
    fn default() -> Self {
        Self {
            coordinators: 1,
            executors: 1,
            slots: 4,
            queues: vec!["default".to_owned()],
            postgres: PostgresScope::Shared,
            postgres_words: Vec::new(),
            time_base: Duration::from_millis(100),
            coordinator_words: Vec::new(),
            executor_words: Vec::new(),
            environment: Vec::new(),
        }
    }
}

/// A running installation. Call [`Installation::finish`] at the end of the test: without it, dropping shows the logs.
#[derive(Debug)]
pub struct Installation {
    /// Talks to the first coordinator.
    pub api: Api,
    /// For looks into the database.
    pub pool: PgPool,
    /// The coordinators, in the order of their start.
    pub coordinators: Vec<Process>,
    /// The executors, in the order of their start.
    pub executors: Vec<Process>,
    /// The address of this test's database.
    pub database_url: String,
    /// The address of this test's nats-server.
    pub nats_url: String,
    /// A folder that commands may use as `workdir`.
    pub workdir: PathBuf,
    options: InstallationOptions,
    urls: Vec<String>,
    nats: Servers,
    own_postgres: Option<Servers>,
    folder: tempfile::TempDir,
    ending: Ending,
}

/// Process ids of servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerPids {
    /// nats-server.
    pub nats: Option<i32>,
    /// Postgres' first process, where it is the test's own.
    pub own_postgres: Option<i32>,
}

/// Folders of servers whose data ends with the test.
#[derive(Debug, Clone)]
pub struct ServerFolders {
    /// With `nats/store` and `logs`.
    pub nats: PathBuf,
    /// With `postgres/cluster` and `logs`.
    pub postgres: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Unfinished,
    Finished,
}

impl Installation {
    /// Starts everything and returns when all coordinators are ready.
    ///
    /// # Errors
    /// When something does not start or get ready; the logs are shown.
    pub async fn start(options: InstallationOptions) -> Result<Self> {
        let nats = start_servers(Which::Nats, Vec::new()).await?;
        let own_postgres = match options.postgres {
            PostgresScope::Own => Some(start_servers(Which::Postgres, options.postgres_words.clone()).await?),
            PostgresScope::Shared => None,
        };
        let postgres = match &own_postgres {
            Some(own) => own.first.database_url.clone(),
            None => tokio::task::spawn_blocking(Servers::shared_postgres).await??.first.database_url.clone(),
        };
        let database_url = create_database(&postgres.context("Postgres was started")?).await?;
        let folder = tempfile::Builder::new().prefix("orchestr8-test-").tempdir()?;
        let token = write_secrets(folder.path())?;
        let workdir = folder.path().join("workdir");
        std::fs::create_dir(&workdir)?;
        let mut installation = Self {
            api: Api::new(String::new(), token),
            pool: PgPoolOptions::new().max_connections(POOL_MAX).connect_lazy(&database_url)?,
            coordinators: Vec::new(),
            executors: Vec::new(),
            nats_url: nats.first.nats_url.clone().context("nats-server was started")?,
            database_url,
            workdir,
            urls: Vec::new(),
            nats,
            own_postgres,
            folder,
            ending: Ending::Unfinished,
            options,
        };
        installation.start_processes().await?;
        Ok(installation)
    }

    /// Starts one more coordinator; its place in [`Installation::coordinators`].
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_coordinator(&mut self) -> Result<usize> {
        let number = self.coordinators.len();
        let listen = format!("127.0.0.1:{}", free_port()?);
        let files = [("--token-file", "token"), ("--token-keys-file", "token-keys")];
        let mut words = vec!["coordinator".to_owned(), "--listen".to_owned(), listen.clone(), "--time-base".to_owned(), self.time_base()];
        words.extend(files.iter().flat_map(|(option, name)| [(*option).to_owned(), path_text(&self.folder.path().join(name))]));
        words.extend(self.options.coordinator_words.iter().cloned());
        let scheme = if words.iter().any(|word| word == "--tls-cert") { "https" } else { "http" };
        let mut environment = vec![("ORCHESTR8_DATABASE_URL".to_owned(), self.database_url.clone())];
        environment.extend(self.environment());
        let process = Process::start(self.plan(format!("coordinator-{number}"), words, environment)).await?;
        self.coordinators.push(process);
        self.urls.push(format!("{scheme}://{listen}"));
        Ok(number)
    }

    /// Which queues executors serve that are added from now on.
    pub fn serve_queues(&mut self, queues: &[&str]) {
        self.options.queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
    }

    /// Starts one more executor; its place in [`Installation::executors`].
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_executor(&mut self) -> Result<usize> {
        let number = self.executors.len();
        let runs = self.folder.path().join(format!("runs-{number}"));
        std::fs::create_dir(&runs)?;
        let pairs = [
            ("--name", format!("executor-{number}")),
            ("--slots", self.options.slots.to_string()),
            ("--queues", self.options.queues.join(",")),
            ("--time-base", self.time_base()),
            ("--allow-workdir", path_text(&self.workdir)),
            ("--run-root", path_text(&runs)),
        ];
        let mut words = vec!["executor".to_owned()];
        words.extend(pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value]));
        words.extend(user_words()?);
        words.extend(self.options.executor_words.iter().cloned());
        let process = Process::start(self.plan(format!("executor-{number}"), words, self.environment())).await?;
        self.executors.push(process);
        Ok(number)
    }

    /// A client of another coordinator than the first.
    #[must_use]
    pub fn api_of(&self, coordinator: usize) -> Api {
        self.api.at(self.urls[coordinator].clone())
    }

    /// Waits until a coordinator says that it is ready.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_ready(&self, coordinator: usize) -> Result<()> {
        let api = self.api_of(coordinator);
        wait_for("a ready coordinator", READY_MAX, async || Ok(api.is_ready().await.then_some(()))).await
    }

    /// Carries out an order on this test's nats-server: `stop nats`, `start nats`, `kill nats`, or `wipe nats` (which leaves it down).
    ///
    /// # Errors
    /// When it is refused.
    pub async fn nats(&self, order: &'static str) -> Result<Answer> {
        self.nats.order(order).await
    }

    /// Carries out an order on this test's own Postgres: `stop postgres`, `start postgres`, `kill postgres`.
    ///
    /// # Errors
    /// When it is refused, or Postgres is shared.
    pub async fn postgres(&self, order: &'static str) -> Result<Answer> {
        let own = self.own_postgres.as_ref().context("the shared Postgres is not for one test to stop: use PostgresScope::Own")?;
        own.order(order).await
    }

    /// Sets a variable of the processes that are added from now on; it wins over what they get otherwise.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.options.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Where the files of this test's nats-server and of its own Postgres are, and their logs.
    ///
    /// # Errors
    /// When Postgres is shared.
    pub fn server_folders(&self) -> Result<ServerFolders> {
        let own = self.own_postgres.as_ref().context("the shared Postgres is not for one test to touch: use PostgresScope::Own")?;
        Ok(ServerFolders { nats: self.nats.first.data.clone(), postgres: own.first.data.clone() })
    }

    /// The first processes of this test's nats-server and of its own Postgres, as they were started.
    #[must_use]
    pub fn server_pids(&self) -> ServerPids {
        ServerPids { nats: self.nats.first.nats_pid, own_postgres: self.own_postgres.as_ref().and_then(|own| own.first.postgres_pid) }
    }

    /// nats-server's process now.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn nats_pid(&self) -> Result<i32> {
        self.nats.order("start nats").await?.nats_pid.context("nats-server runs")
    }

    /// The first process of this test's own Postgres now.
    ///
    /// # Errors
    /// When it does not run, or Postgres is shared.
    pub async fn postgres_pid(&self) -> Result<i32> {
        let own = self.own_postgres.as_ref().context("the shared Postgres is not for one test: use PostgresScope::Own")?;
        own.order("start postgres").await?.postgres_pid.context("Postgres runs")
    }

    /// The test passed: kills every process and ends the servers, without showing the logs.
    pub async fn finish(mut self) {
        self.ending = Ending::Finished;
        self.pool.close().await;
        for process in self.executors.iter_mut().chain(&mut self.coordinators) {
            process.kill().await.ok(); // The test may have ended it already.
        }
    }

    async fn start_processes(&mut self) -> Result<()> {
        for _ in 0..self.options.coordinators {
            self.add_coordinator().await?;
        }
        for number in 0..self.coordinators.len() {
            self.wait_ready(number).await?;
        }
        if let Some(url) = self.urls.first() {
            self.api = self.api.at(url.clone());
        }
        for _ in 0..self.options.executors {
            self.add_executor().await?;
        }
        Ok(())
    }

    fn plan(&self, name: String, words: Vec<String>, environment: Vec<(String, String)>) -> ProcessPlan {
        ProcessPlan { log: self.folder.path().join(format!("{name}.log")), name, program: None, words, environment }
    }

    fn environment(&self) -> Vec<(String, String)> {
        let nats = ("ORCHESTR8_NATS_URL".to_owned(), self.nats_url.clone());
        std::iter::once(nats).chain(self.options.environment.iter().cloned()).collect()
    }

    fn time_base(&self) -> String {
        format!("{}ms", self.options.time_base.as_millis())
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if self.ending == Ending::Finished {
            return;
        }
        for process in self.coordinators.iter().chain(&self.executors) {
            let text = std::fs::read(process.log()).unwrap_or_default();
            let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned();
            eprintln!("---- the end of the log of {} ----\n{tail}", process.name());
        }
    }
}

async fn start_servers(which: Which, more: Vec<OsString>) -> Result<Servers> {
    tokio::task::spawn_blocking(move || Servers::start(&ServersOptions { which, more, ..ServersOptions::default() })).await?
}

/// A database with a random name on the server of `postgres_url`; its address.
///
/// # Errors
/// When the server refuses.
pub async fn create_database(postgres_url: &str) -> Result<String> {
    let name = format!("test_{}", uuid::Uuid::new_v4().simple());
    let mut connection = PgConnection::connect(postgres_url).await?;
    sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut connection).await?;
    connection.close().await?;
    let (server, _) = postgres_url.rsplit_once('/').context("the address names a database")?;
    Ok(format!("{server}/{name}"))
}

/// The bearer token and the key of the tokens, each in a private file.
fn write_secrets(folder: &Path) -> Result<String> {
    let random = || format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let token = random();
    for (name, text) in [("token", token.clone()), ("token-keys", format!("1 {}", random()))] {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(name))?;
        writeln!(file, "{text}")?;
    }
    Ok(token)
}

/// An executor of root must be told whom its commands run as: here the owner of the workspace.
///
/// # Errors
/// When the workspace cannot be looked at.
pub fn user_words() -> Result<Vec<String>> {
    use std::os::unix::fs::MetadataExt;
    if !nix::unistd::Uid::effective().is_root() {
        return Ok(Vec::new());
    }
    let found = super::binary::workspace().metadata()?;
    Ok(vec!["--user".to_owned(), format!("{}:{}", found.uid(), found.gid())])
}

/// A port on which nothing listens, and which nobody else in this process was given: it stays the caller's while its listener is down.
///
/// # Errors
/// When none was found.
pub fn free_port() -> Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let span = u128::from(PORTS.end - PORTS.start);
    let draw = || u16::try_from(uuid::Uuid::new_v4().as_u128() % span).map(|offset| PORTS.start + offset);
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    (0..PORT_TRIES_MAX).filter_map(|_| draw().ok()).find(|port| free(port) && given.insert(*port)).context("no free port")
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
