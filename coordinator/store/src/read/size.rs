//! How large the database is, for the metrics.

use super::ReadError;
use sqlx::PgExecutor;

/// A look at each of its files, no row is read.
const DATABASE: &str = "select pg_database_size(current_database())";

pub(super) const STATEMENTS: &[(&str, &str)] = &[("database size", DATABASE)];

/// Bytes of this database: all of its tables and indexes, not Postgres' log, which is of the whole server.
///
/// # Errors
/// [`ReadError`].
pub async fn database_bytes(db: impl PgExecutor<'_>) -> Result<i64, ReadError> {
    Ok(sqlx::query_scalar(DATABASE).fetch_one(db).await?)
}
