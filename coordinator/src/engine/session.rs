//! A connection of a lane to the database. It may be away: lent to a commit, or lost with one.

use orchestr8_store::StoreError;
use orchestr8_store::migrate::Database;
use sqlx::PgConnection;
use std::time::Duration;

/// A connection to the database is made within this time, or tried again.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// One connection, or nothing while it is away.
#[derive(Debug, Default)]
pub struct Session(Option<PgConnection>);

impl Session {
    /// A connection that is here.
    #[must_use]
    pub const fn new(connection: PgConnection) -> Self {
        Self(Some(connection))
    }

    /// Connects.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also when it takes too long.
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        let connecting = tokio::time::timeout(CONNECT_MAX, database.lane_connection()).await;
        let connected = connecting.map_err(|_| StoreError::Unavailable(format!("no connection within {} s", CONNECT_MAX.as_secs())))?;
        connected.map(Self::new).map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    /// The connection.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it is away: a doubt, whose recovery connects anew.
    pub fn here(&mut self) -> Result<&mut PgConnection, StoreError> {
        self.0.as_mut().ok_or_else(away)
    }

    /// Whether it is here.
    #[must_use]
    pub const fn is_here(&self) -> bool {
        self.0.is_some()
    }

    /// Takes it away; who drops it has lost it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it is away already.
    pub fn lend(&mut self) -> Result<PgConnection, StoreError> {
        self.0.take().ok_or_else(away)
    }

    /// Brings it back.
    pub fn back(&mut self, connection: PgConnection) {
        self.0 = Some(connection);
    }
}

fn away() -> StoreError {
    StoreError::Unavailable("a statement before this one did not end".into())
}
