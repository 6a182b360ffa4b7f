//! The private servers of `orchestr8 dev`: Postgres and nats-server.
//!
//! - [`find`]: which programs
//! - [`ports`]: where they listen
//! - [`postgres`], [`nats`]: files, settings, readiness of each

pub mod find;
pub mod nats;
pub mod ports;
pub mod postgres;

use super::accounts::can_enter;
use super::child::{ChildError, Kept, Order, tail_of};
use super::files::{FileError, copy_all, create_folder, remove};
use super::place::{Base, Place};
use find::{Search, Server};
use postgres::{Cluster, PostgresOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Recovery after a crash may take a while; a healthy start takes a fraction of a second.
const READY_MAX: Duration = Duration::from_mins(1);
/// Between two looks whether a server is ready.
const READY_INTERVAL: Duration = Duration::from_millis(5);

/// Why the servers do not run.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    /// One was not found.
    #[error(transparent)]
    Find(#[from] find::FindError),
    /// No port.
    #[error(transparent)]
    Port(#[from] ports::PortError),
    /// A step on a file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// One did not start.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The user of the servers cannot reach the program.
    #[error("{}: the user with number {uid}, who runs the servers, cannot enter its folder: install it elsewhere, or run deploy/bootstrap.sh", program.display())]
    Unreachable {
        /// The program.
        program: PathBuf,
        /// The user.
        uid: u32,
    },
}

/// Which servers, on which ports.
#[derive(Debug, Clone)]
pub struct ServersOptions {
    /// The ones to start.
    pub which: Which,
    /// Whether the data outlives the process.
    pub lifetime: Lifetime,
    /// Postgres' port; none: a free one.
    pub postgres_port: Option<u16>,
    /// nats-server's port; none: a free one.
    pub nats_port: Option<u16>,
    /// Settings for Postgres, `name=value`.
    pub postgres_settings: Vec<String>,
}

impl ServersOptions {
    /// Looks for what is missing before anything is made in `root`: where data is already, its version decides at the start.
    ///
    /// # Errors
    /// [`ServersError::Find`] and [`ServersError::Port`].
    pub fn check(&self, root: &Path) -> Result<(), ServersError> {
        let search = Search::from_environment(root);
        if self.which != Which::Nats {
            ports::check("--postgres-port", self.postgres_port)?;
            if !root.exists() {
                search.postgres(None)?;
            }
        }
        if self.which != Which::Postgres {
            ports::check("--nats-port", self.nats_port)?;
            if !root.exists() {
                search.nats()?;
            }
        }
        Ok(())
    }
}

/// The servers to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// Postgres and nats-server.
    Both,
    /// Postgres alone.
    Postgres,
    /// nats-server alone.
    Nats,
}

/// How long the data lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// It is there at the next start.
    Kept,
    /// It is removed at the end.
    Ephemeral,
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// Postgres.
    Postgres,
    /// nats-server.
    Nats,
}

/// The running servers.
#[derive(Debug)]
pub struct Servers {
    /// Postgres, unless only nats-server was asked for.
    pub postgres: Option<Postgres>,
    /// nats-server, unless only Postgres was asked for.
    pub nats: Option<Nats>,
}

/// The running Postgres.
#[derive(Debug)]
pub struct Postgres {
    kept: Kept,
    cluster: Cluster,
    port: u16,
    /// Which program it is.
    pub server: Server,
}

/// The running nats-server.
#[derive(Debug)]
pub struct Nats {
    kept: Kept,
    broker: nats::Broker,
    /// Which program it is.
    pub server: Server,
}

/// A process that was started and must become ready.
pub struct Started<'a> {
    kept: &'a Kept,
    deaths_before: u32,
    name: &'static str,
}

impl Servers {
    /// Finds, prepares and starts them, and returns when both are ready.
    ///
    /// # Errors
    /// [`ServersError`]; what was started ends by itself.
    pub async fn start(base: &Base, place: &Place, options: &ServersOptions) -> Result<Self, ServersError> {
        let search = Search::from_environment(&base.root);
        let postgres = async {
            match options.which {
                Which::Both | Which::Postgres => start_postgres(&search, base, place, options).await.map(Some),
                Which::Nats => Ok(None),
            }
        };
        let nats = async {
            match options.which {
                Which::Both | Which::Nats => start_nats(&search, base, place, options).await.map(Some),
                Which::Postgres => Ok(None),
            }
        };
        let (postgres, nats) = tokio::try_join!(postgres, nats)?;
        Ok(Self { postgres, nats })
    }

    /// Carries out an order on one of them; a started one is ready when this returns. Nothing happens to one that was not asked for.
    ///
    /// # Errors
    /// [`ServersError`] when it cannot be done.
    pub async fn order(&self, name: Name, order: Order, place: &Place) -> Result<(), ServersError> {
        match (name, &self.postgres, &self.nats) {
            (Name::Postgres, Some(postgres), _) => postgres.order(order, place).await,
            (Name::Nats, _, Some(nats)) => nats.order(order, place).await,
            (Name::Postgres, None, _) | (Name::Nats, _, None) => Ok(()),
        }
    }

    /// Stops nats-server, then Postgres.
    ///
    /// # Errors
    /// [`ServersError`] when one cannot be told.
    pub async fn stop(&self, place: &Place) -> Result<(), ServersError> {
        self.order(Name::Nats, Order::Stop, place).await?;
        self.order(Name::Postgres, Order::Stop, place).await
    }
}

impl Postgres {
    /// The address for clients, with the password.
    #[must_use]
    pub fn url(&self) -> String {
        postgres::url(&self.cluster, self.port)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.kept.health().pid
    }

    async fn order(&self, order: Order, place: &Place) -> Result<(), ServersError> {
        if order == Order::Start {
            postgres::remove_stale_pid_file(&self.cluster)?;
        }
        let started = Started { kept: &self.kept, deaths_before: self.kept.health().deaths, name: "postgres" };
        self.kept.order(order).await?;
        match order {
            Order::Start => Ok(postgres::wait_ready(&self.cluster, place, &started).await?),
            Order::Stop | Order::Kill => Ok(()),
        }
    }
}

impl Nats {
    /// The address for clients, with the password.
    #[must_use]
    pub fn url(&self) -> String {
        nats::url(&self.broker)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.kept.health().pid
    }

    async fn order(&self, order: Order, place: &Place) -> Result<(), ServersError> {
        let started = Started { kept: &self.kept, deaths_before: self.kept.health().deaths, name: "nats-server" };
        self.kept.order(order).await?;
        match order {
            Order::Start => Ok(nats::wait_ready(&self.broker, place, &started).await?),
            Order::Stop | Order::Kill => Ok(()),
        }
    }
}

async fn start_postgres(search: &Search, base: &Base, place: &Place, options: &ServersOptions) -> Result<Postgres, ServersError> {
    let server = reachable(search.postgres(postgres::data_major(place)?)?, base, place)?;
    let cluster = match options.lifetime {
        Lifetime::Kept => postgres::kept_cluster(&server, place).await?,
        Lifetime::Ephemeral => postgres::copied_cluster(&server, base, place).await?,
    };
    postgres::remove_stale_pid_file(&cluster)?;
    let port = ports::choose("--postgres-port", options.postgres_port)?;
    let settings = PostgresOptions { port, settings: options.postgres_settings.clone() };
    let kept = Kept::start(postgres::plan(&server, &cluster, place, &settings)?).await?;
    let started = Started { kept: &kept, deaths_before: 0, name: "postgres" };
    postgres::wait_ready(&cluster, place, &started).await?;
    Ok(Postgres { kept, cluster, port, server })
}

async fn start_nats(search: &Search, base: &Base, place: &Place, options: &ServersOptions) -> Result<Nats, ServersError> {
    let server = reachable(search.nats()?, base, place)?;
    let broker = nats::broker(place, ports::choose("--nats-port", options.nats_port)?)?;
    let kept = Kept::start(nats::plan(&server, &broker, place)?).await?;
    let started = Started { kept: &kept, deaths_before: 0, name: "nats-server" };
    nats::wait_ready(&broker, place, &started).await?;
    Ok(Nats { kept, broker, server })
}

/// The server where its user can start it: a fetched one in a closed clone is copied to the servers' own folder.
fn reachable(server: Server, base: &Base, place: &Place) -> Result<Server, ServersError> {
    let folder = server.program.parent().unwrap_or(Path::new("/"));
    let Some(account) = base.account.filter(|account| !can_enter(*account, folder)) else { return Ok(server) };
    let name = server.program.file_name().expect("a program is a file");
    let copy = base.home.join(format!("{}-{}", name.to_string_lossy(), server.version));
    let (from, inside) = match folder.parent().filter(|prefix| prefix.ends_with("pginstall")) {
        Some(prefix) => (prefix, Path::new("bin").join(name)),
        None if name == "nats-server" => (folder, PathBuf::from(name)),
        None => return Err(ServersError::Unreachable { program: server.program, uid: account.uid }),
    };
    let program = copy.join(&inside);
    if !program.exists() {
        let draft = place.servers.join(format!("draft-{}", name.to_string_lossy()));
        remove(&draft)?;
        if from == folder {
            create_folder(&draft, 0o711)?;
            copy_all(&server.program, &draft.join(inside), None)?;
        } else {
            copy_all(from, &draft, None)?;
        }
        if std::fs::rename(&draft, &copy).is_err() {
            remove(&draft)?; // Another process was faster.
        }
    }
    Ok(Server { program, version: server.version })
}

/// Looks until the process is ready; fails when it died, or when that takes too long.
async fn started_in_time(started: &Started<'_>, log: &Path, ready: impl AsyncFn(i32) -> bool) -> Result<(), ChildError> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        let health = started.kept.health();
        if let Some(pid) = health.pid.filter(|_| health.deaths == started.deaths_before)
            && ready(pid).await
        {
            return Ok(());
        }
        let died = health.deaths > started.deaths_before;
        if died || Instant::now() > deadline {
            let how = if died { "it ended while starting".to_owned() } else { format!("not ready after {} s", READY_MAX.as_secs()) };
            return Err(ChildError::Failed { name: started.name.to_owned(), how, log: log.to_path_buf(), tail: tail_of(log) });
        }
        tokio::time::sleep(READY_INTERVAL).await;
    }
}
