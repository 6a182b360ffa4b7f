//! The schema and the statements, against a real database.

mod marks;
mod plans;
mod schema;

use crate::harness::Servers;
use crate::harness::installation::create_database;
use anyhow::{Context, Result};
use orchestr8_store::migrate::Database;
use sqlx::{Connection, PgConnection};

/// A connection to a migrated database of its own.
async fn migrated() -> Result<PgConnection> {
    let shared = tokio::task::spawn_blocking(Servers::shared_postgres).await??;
    let url = create_database(shared.first.database_url.as_deref().context("an address")?).await?;
    Database::new(&url)?.prepare(16).await?;
    Ok(PgConnection::connect(&url).await?)
}
