//! The schema, and whether this database is one that we can run on.

use crate::StoreError;
use crate::parameters;
use crate::read::is_transient;
use orchestr8_proto::timestamp::Timestamp;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::types::Uuid;
use sqlx::{ConnectOptions, Row, SqlSafeStr};
use std::str::FromStr;
use time::OffsetDateTime;

/// The oldest major version of Postgres that is tested.
pub const POSTGRES_MAJOR_MIN: i32 = 15;

const INSTALL: &str = "insert into installation (shard_count) select $1 where not exists (select 1 from installation)
on conflict do nothing";
const INSTALL_SHARDS: &str = "insert into shards (shard) select generate_series(0, shard_count - 1) from installation
on conflict do nothing";
const INSTALLATION: &str = "select id, shard_count from installation";
const CLOCK: &str = "select clock_timestamp()";
const SERVER_VERSION: &str = "select current_setting('server_version_num')::int";

/// SQLSTATE of a statement that its user may not run.
const FORBIDDEN: &str = "42501";
/// How the client words an answer to its first question that Postgres does not give.
const ODD_ANSWER: &str = "unexpected response from SSLRequest";

/// Settings of a lane's session. Its statements are planned once: they all go by index from a list of ids, whatever the
/// sizes, so the plans that would go wrong as tables grow are switched off. A session that hangs gives its locks back.
const LANE_SESSION: &[(&str, &str)] = &[
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    ("statement_timeout", "30s"),
    ("lock_timeout", "8s"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("application_name", "orchestr8-lane"),
];

/// What this database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installation {
    /// Streams and executors are checked against it.
    pub id: Uuid,
    /// Fixed for the life of the database.
    pub shard_count: u16,
}

/// Why a coordinator cannot start on this database.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address cannot be understood.
    #[error("--database-url is not an address of Postgres: {0}; use postgres://user:password@host:port/database")]
    Address(String),
    /// A parameter of the address is not known, or names what cannot be read.
    #[error("--database-url: {0}")]
    Parameter(String),
    /// Nothing answers there, or it is not ready: it may be soon.
    #[error("cannot connect to Postgres at {address}: {reason}; check --database-url and that the server runs")]
    Connect {
        /// Without password.
        address: String,
        /// The server's or the system's words.
        reason: String,
    },
    /// It refuses us: user, password, database or rights are wrong.
    #[error("Postgres at {address} refuses: {reason}; check user, password, database and rights in the database's URL")]
    Refused {
        /// Without password.
        address: String,
        /// The server's words.
        reason: String,
    },
    /// A certificate is wrong, or the server does not speak TLS though the URL insists on it.
    #[error(
        "Postgres at {address}: no TLS ({reason}); check sslmode and sslrootcert in --database-url, and the server's certificate and its `ssl` setting"
    )]
    Tls {
        /// Without password.
        address: String,
        /// What TLS says.
        reason: String,
    },
    /// Something else answers there.
    #[error("what answers at {address} is not Postgres ({reason}); check host and port in --database-url")]
    NotPostgres {
        /// Without password.
        address: String,
        /// The client's words.
        reason: String,
    },
    /// Too old.
    #[error("Postgres {found} is too old: version {POSTGRES_MAJOR_MIN} or newer is needed")]
    Version {
        /// What the server is.
        found: i32,
    },
    /// The schema cannot be brought up to date.
    #[error("cannot migrate the database: {0}")]
    Migrate(String),
    /// Our user may not make the tables.
    #[error(
        "cannot migrate the database: {reason}; the user `{user}` of --database-url must own the database, or may be granted it: `grant create, usage on schema public to \"{user}\"`"
    )]
    MigrationForbidden {
        /// As whom we log in.
        user: String,
        /// The server's words.
        reason: String,
    },
    /// A statement failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    /// Whether the same attempt may succeed later, with nobody correcting anything.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Store(StoreError::Unavailable(_)) => true,
            Self::Address(_)
            | Self::Parameter(_)
            | Self::Refused { .. }
            | Self::Tls { .. }
            | Self::NotPostgres { .. }
            | Self::Version { .. }
            | Self::Migrate(_)
            | Self::MigrationForbidden { .. }
            | Self::Store(StoreError::Fenced | StoreError::Version | StoreError::Refused { .. } | StoreError::Unreadable(_)) => false,
        }
    }
}

/// Where the database is.
#[derive(Debug, Clone)]
pub struct Database {
    options: PgConnectOptions,
}

impl Database {
    /// Understands an address.
    ///
    /// # Errors
    /// [`OpenError::Address`].
    pub fn new(url: &str) -> Result<Self, OpenError> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(OpenError::Address("it does not begin with postgres://".into()));
        }
        // Before the client reads them: it only logs what it does not know, values and all.
        parameters::check(url).map_err(OpenError::Parameter)?;
        // The client says of an error of its configuration that it is one, twice.
        let told = |error: sqlx::Error| error.to_string().replace("error with configuration: ", "");
        let options = PgConnectOptions::from_str(url).map_err(|error| OpenError::Address(told(error)))?;
        Ok(Self { options: options.disable_statement_logging() })
    }

    /// Host, port and database, without secrets.
    #[must_use]
    pub fn address(&self) -> String {
        let database = self.options.get_database().unwrap_or("");
        format!("{}:{}/{database}", self.options.get_host(), self.options.get_port())
    }

    /// A connection for a lane.
    ///
    /// # Errors
    /// [`OpenError::Connect`] and [`OpenError::Refused`].
    pub async fn lane_connection(&self) -> Result<PgConnection, OpenError> {
        self.connect(self.options.clone().options(LANE_SESSION.iter().copied())).await
    }

    /// A pool for reads.
    #[must_use]
    pub fn read_pool(&self, connections_max: u32) -> PgPool {
        crate::read::read_pool(self.options.clone(), connections_max)
    }

    /// Checks the version, brings the schema up to date and returns what this database is.
    ///
    /// # Errors
    /// [`OpenError`], one clear line each.
    pub async fn prepare(&self, shard_count: u16) -> Result<Installation, OpenError> {
        let mut connection = self.connect(self.options.clone()).await?;
        let version: i32 = sqlx::query_scalar(SERVER_VERSION).fetch_one(&mut connection).await.map_err(|error| self.explained(&error))?;
        check_version(version)?;
        migrator().run_direct(None, &mut connection, false).await.map_err(|error| self.migration_failed(&error))?;
        install(&mut connection, shard_count).await.map_err(OpenError::from)
    }

    /// The database's clock.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn now(&self) -> Result<Timestamp, OpenError> {
        let mut connection = self.connect(self.options.clone()).await?;
        let now: OffsetDateTime = sqlx::query_scalar(CLOCK).fetch_one(&mut connection).await.map_err(StoreError::from)?;
        Ok(now.into())
    }

    async fn connect(&self, options: PgConnectOptions) -> Result<PgConnection, OpenError> {
        options.connect().await.map_err(|error| self.explained(&error))
    }

    /// Who must act on an error: nobody, where the server is away or starts, else the operator.
    fn explained(&self, error: &sqlx::Error) -> OpenError {
        let (address, reason) = (self.address(), words(error));
        if is_about_tls(error) {
            OpenError::Tls { address, reason }
        } else if is_of_another_service(error) {
            OpenError::NotPostgres { address, reason }
        } else if is_transient(error) {
            OpenError::Connect { address, reason }
        } else {
            OpenError::Refused { address, reason }
        }
    }

    fn migration_failed(&self, error: &MigrateError) -> OpenError {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => match self.explained(error) {
                OpenError::Refused { reason, .. } if is_forbidden(error) => {
                    OpenError::MigrationForbidden { user: self.options.get_username().to_owned(), reason }
                }
                OpenError::Refused { reason, .. } => OpenError::Migrate(reason),
                other => other,
            },
            MigrateError::VersionMissing(version) => {
                OpenError::Migrate(format!("it has migration {version}, which this version does not know: run a newer coordinator"))
            }
            other => OpenError::Migrate(other.to_string()),
        }
    }
}

/// `server_version_num`, such as 150004, against the oldest that will do.
fn check_version(number: i32) -> Result<(), OpenError> {
    let found = number / 10_000;
    if found < POSTGRES_MAJOR_MIN { Err(OpenError::Version { found }) } else { Ok(()) }
}

/// Whether both sides found no TLS to agree on. A wrong certificate comes as an error of input and output.
fn is_about_tls(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// Whether the first byte of the answer is none that Postgres gives: `S`, `N`, or `E` while it cannot start a process.
fn is_of_another_service(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Protocol(reason) => reason.starts_with(ODD_ANSWER) && !reason.ends_with("0x45"),
        _ => false,
    }
}

fn is_forbidden(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == FORBIDDEN)
}

/// The server's message alone: its display adds a line of the server's own source.
fn words(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |refusal| refusal.message().to_owned())
}

async fn install(connection: &mut PgConnection, shard_count: u16) -> Result<Installation, StoreError> {
    sqlx::query(INSTALL).bind(i32::from(shard_count)).execute(&mut *connection).await?;
    sqlx::query(INSTALL_SHARDS).execute(&mut *connection).await?;
    let row = sqlx::query(INSTALLATION).fetch_one(&mut *connection).await?;
    Ok(Installation { id: row.try_get(0)?, shard_count: crate::shards::shard(row.try_get(1)?)? })
}

fn migrator() -> Migrator {
    let migration = |version, name: &'static str, sql: &'static str| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![
        migration(1, "tables", include_str!("../migrations/0001_tables.sql")),
        migration(2, "commit", include_str!("../migrations/0002_commit.sql")),
        migration(3, "sharing", include_str!("../migrations/0003_sharing.sql")),
        migration(4, "queued_at", include_str!("../migrations/0004_queued_at.sql")),
        migration(5, "quarantine", include_str!("../migrations/0005_quarantine.sql")),
        migration(6, "pauses", include_str!("../migrations/0006_pauses.sql")),
        migration(7, "hot_updates", include_str!("../migrations/0007_hot_updates.sql")),
        migration(8, "traces", include_str!("../migrations/0008_traces.sql")),
        migration(9, "commit_in_one", include_str!("../migrations/0009_commit_in_one.sql")),
    ])
}

/// Every statement of the engine by name, for the test that prepares them all.
#[must_use]
pub fn statements() -> Vec<(&'static str, &'static str)> {
    use crate::{commit, inbox, keys, load, queue, shards};
    vec![
        ("install", INSTALL),
        ("install_shards", INSTALL_SHARDS),
        ("installation", INSTALLATION),
        ("server_version", SERVER_VERSION),
        ("clock", CLOCK),
        ("commit", commit::COMMIT),
        ("commit_with_inbox", commit::COMMIT_WITH_INBOX),
        ("commit_with_traces", commit::COMMIT_WITH_TRACES),
        ("inbox_send", inbox::SEND),
        ("inbox_read", inbox::READ),
        ("load", load::LOAD),
        ("existing", load::EXISTING),
        ("plans", load::PLANS),
        ("outputs", load::OUTPUTS),
        ("take_vacant", shards::TAKE_VACANT),
        ("retake", shards::RETAKE),
        ("renew", shards::RENEW),
        ("hand_over", shards::HAND_OVER),
        ("leave", shards::LEAVE),
        ("marks", shards::MARKS),
        ("safe_position", shards::SAFE_POSITION),
        ("queued_above", queue::QUEUED_ABOVE),
        ("queued_through", queue::QUEUED_THROUGH),
        ("queued_counts", queue::QUEUED_COUNTS),
        ("forget_marks", queue::FORGET_MARKS),
        ("running", queue::RUNNING),
        ("due", queue::DUE),
        ("next_due", queue::NEXT_DUE),
        ("reserve", keys::RESERVE),
        ("quarantine", crate::quarantine::QUARANTINE),
        ("redrive", crate::quarantine::REDRIVE),
        ("discard", crate::quarantine::DISCARD),
        ("pause", crate::pauses::PAUSE),
        ("resume", crate::pauses::RESUME),
        ("paused", crate::pauses::PAUSED),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_postgres_that_will_do() {
        for old in [90_624, 130_022, 149_999] {
            let refused = check_version(old).expect_err("too old");
            assert!(!refused.may_pass(), "waiting makes no server younger");
            assert_eq!(refused.to_string(), format!("Postgres {} is too old: version 15 or newer is needed", old / 10_000));
        }
        assert!(check_version(150_000).is_ok() && check_version(180_001).is_ok());
    }
}
