//! The servers, the coordinator and the executor that are measured, as processes of their own.

use super::meters::{CountedBy, Metered, Meters};
use super::scale::Scale;
use crate::harness::{Installation, InstallationOptions, PostgresScope};
use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection};
use std::time::Duration;

/// The executor's slots beyond the sleeping tasks.
const SPARE_SLOTS: usize = 100;
/// The floor's own database, in the same Postgres.
const FLOOR_DATABASE: &str = "floor";

/// Everything that runs while measurements are taken.
#[derive(Debug)]
pub struct Stage {
    /// Coordinator and executor.
    pub installation: Installation,
    /// The address of the floor's database.
    pub floor_url: String,
    /// Over our database and all processes.
    pub ours: Meters,
    /// Over the floor's database and its processes.
    pub floor: Meters,
    /// How statements are counted.
    pub counted_by: CountedBy,
}

impl Stage {
    /// Starts everything: durability on, protocol times as published, one coordinator, one executor.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(scale: &Scale) -> Result<Self> {
        let (installation, counted_by) = counting(options(scale)?).await?;
        let (server, ours_name) = installation.database_url.rsplit_once('/').context("the address names a database")?;
        let (server_url, floor_url) = (format!("{server}/postgres"), format!("{server}/{FLOOR_DATABASE}"));
        create_floor_database(&server_url).await?;
        let (ours, floor) = processes(&installation)?;
        Ok(Self {
            ours: Meters::new(&server_url, ours_name, counted_by, ours).await?,
            floor: Meters::new(&server_url, FLOOR_DATABASE, counted_by, floor).await?,
            floor_url,
            counted_by,
            installation,
        })
    }

    /// Ends everything.
    pub async fn finish(self) {
        self.installation.finish().await;
    }
}

/// An installation with a Postgres of its own that counts statements where it can.
///
/// # Errors
/// When a part does not start.
pub async fn counting(options: InstallationOptions) -> Result<(Installation, CountedBy)> {
    let preload = vec!["--postgres-set".into(), "shared_preload_libraries=pg_stat_statements".into()];
    let counting = InstallationOptions { postgres_words: preload, ..options.clone() };
    match Installation::start(counting).await {
        Ok(installation) => Ok((installation, CountedBy::Statements)),
        Err(error) => {
            eprintln!("without pg_stat_statements ({error:#}): transactions are counted instead");
            Ok((Installation::start(options).await?, CountedBy::Transactions))
        }
    }
}

/// A slot for every sleeping task and some more: no workload waits for one.
fn options(scale: &Scale) -> Result<InstallationOptions> {
    Ok(InstallationOptions {
        slots: u16::try_from(scale.sleepers + SPARE_SLOTS)?,
        postgres: PostgresScope::Own,
        time_base: Duration::from_secs(1),
        ..InstallationOptions::default()
    })
}

async fn create_floor_database(server_url: &str) -> Result<()> {
    let mut connection = PgConnection::connect(server_url).await?;
    sqlx::query("create database floor").execute(&mut connection).await?;
    Ok(connection.close().await?)
}

type Processes = Vec<(&'static str, Metered)>;

/// Ours and the floor's; the floor is this process, as the client of ours is.
fn processes(installation: &Installation) -> Result<(Processes, Processes)> {
    let pids = installation.server_pids();
    let postgres = ("postgres", Metered::WithChildren(pids.own_postgres.context("Postgres is the stage's own")?));
    let nats = ("nats_server", Metered::Alone(pids.nats.context("nats-server was started")?));
    let this = Metered::Alone(i32::try_from(std::process::id())?);
    let coordinator = ("coordinator", Metered::Alone(installation.coordinators[0].pid()));
    let executor = ("executor", Metered::Alone(installation.executors[0].pid()));
    Ok((vec![coordinator, executor, postgres, nats, ("client", this)], vec![postgres, nats, ("program", this)]))
}
