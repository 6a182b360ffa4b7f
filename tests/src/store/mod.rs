//! The schema and the statements, against a real database.

mod marks;
mod migrations;
mod plans;
mod schema;

use crate::harness::Servers;
use crate::harness::installation::create_database;
use anyhow::{Context, Result};
use orchestr8_store::migrate::Database;
use sqlx::{Connection, PgConnection};

/// A connection to a migrated database of its own.
pub async fn migrated() -> Result<PgConnection> {
    let url = database().await?;
    Database::new(&url)?.prepare(16).await?;
    Ok(PgConnection::connect(&url).await?)
}

/// A connection to an empty database of its own.
async fn empty() -> Result<PgConnection> {
    Ok(PgConnection::connect(&database().await?).await?)
}

async fn database() -> Result<String> {
    let shared = tokio::task::spawn_blocking(Servers::shared_postgres).await??;
    create_database(shared.first.database_url.as_deref().context("an address")?).await
}
