//! All SQL and migrations. Nothing else writes SQL.
//!
//! - [`migrate`]: schema, version checks, the installation's row; `parameters`: those of the database's URL
//! - [`rows`]: the composite rows of a commit
//! - [`commit`]: one batch, fenced, in one round trip
//! - [`load`]: executions, plans and outputs for the engine
//! - [`shards`]: leases, recovery, renewal
//! - [`queue`]: what is queued, running or due
//! - [`keys`]: idempotency keys
//! - [`inbox`]: events for a shard from elsewhere
//! - [`quarantine`]: events that could not be applied
//! - [`pauses`]: queues that dispatch nothing
//! - [`read`]: what users ask for

pub mod backends;
pub mod commit;
pub mod inbox;
pub mod keys;
pub mod load;
pub mod migrate;
mod parameters;
pub mod pauses;
pub mod quarantine;
pub mod queue;
pub mod read;
pub mod rows;
pub mod shards;

use sqlx::postgres::PgDatabaseError;

/// SQLSTATE of a lease that is no longer held.
const FENCE: &str = "O8F01";
/// SQLSTATE of an execution with another version than expected.
const VERSION: &str = "O8V01";

/// Why a statement of the engine did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The lease of a shard is no longer held: stay silent and recover.
    #[error("the lease of a shard is no longer held")]
    Fenced,
    /// An execution changed under the cache: drop the cache and recover.
    #[error("an execution has another version than the cache")]
    Version,
    /// The server refused the statement with an error of its own: no doubt about its end. Bisect.
    #[error("the database refused the statement: {message} ({code})")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// The server's message, without the data.
        message: String,
    },
    /// The connection or the server failed: the statement's end is unknown. Recover.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A row holds what this version cannot read.
    #[error("a row cannot be read: {0}")]
    Unreadable(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => of_server(database.downcast_ref::<PgDatabaseError>().code(), database.message()),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Decode(_) => {
                Self::Unreadable(error.to_string())
            }
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

fn of_server(code: &str, message: &str) -> StoreError {
    match code {
        FENCE => StoreError::Fenced,
        VERSION => StoreError::Version,
        // What Postgres says of a file beyond its quota or limit, an internal error by its code: not the rows' fault.
        "XX000" if message.starts_with("could not ") => StoreError::Unavailable(format!("{message} ({code})")),
        // Data, cardinality, integrity, limits, internal errors: the rows' fault, so another try would end the same way.
        _ if ["21", "22", "23", "54", "XX"].contains(&&code[..2.min(code.len())]) => {
            StoreError::Refused { code: code.to_owned(), message: message.to_owned() }
        }
        // Shutdowns, timeouts, a full disk, a replica, missing rights: not the rows' fault.
        _ => StoreError::Unavailable(format!("{message} ({code})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_at_its_limit_is_not_the_fault_of_the_rows() {
        let quota =
            of_server("XX000", "could not write to log file 000000010000000000000001 at offset 10403840, length 16384: File too large");
        assert!(matches!(quota, StoreError::Unavailable(_)), "{quota}");
        assert!(matches!(of_server("53100", "could not extend file"), StoreError::Unavailable(_)));
        assert!(matches!(of_server("XX000", "cache lookup failed for type 7"), StoreError::Refused { .. }));
    }
}
