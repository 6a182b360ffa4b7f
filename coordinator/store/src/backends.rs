//! Sessions as the server knows them: to end one whose statement nobody waits for any more.

use crate::StoreError;
use sqlx::PgConnection;
use time::OffsetDateTime;

/// This session.
pub const OWN: &str = "select pid, backend_start from pg_stat_activity where pid = pg_backend_pid()";

/// Ends a session, unless it has ended and its number is another's.
pub const END: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity where pid = $1 and backend_start = $2";

/// A session of the server; numbers of processes come again, together with their start they do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    pid: i32,
    started_at: OffsetDateTime,
}

/// The session of this connection.
///
/// # Errors
/// [`StoreError::Unavailable`].
pub async fn of(connection: &mut PgConnection) -> Result<Backend, StoreError> {
    let (pid, started_at) = sqlx::query_as(OWN).fetch_one(connection).await?;
    Ok(Backend { pid, started_at })
}

/// Ends it, if it is still there.
///
/// # Errors
/// [`StoreError::Unavailable`]; [`StoreError::Refused`] where this login may not.
pub async fn end(connection: &mut PgConnection, backend: Backend) -> Result<(), StoreError> {
    sqlx::query_scalar::<_, i64>(END).bind(backend.pid).bind(backend.started_at).fetch_one(connection).await?;
    Ok(())
}
