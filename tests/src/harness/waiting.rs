//! Waiting for a condition, never for a time.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Between two looks: short beside every protocol time, long beside the cost of a look.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Looks until there is something to see.
///
/// # Errors
/// When `timeout` passes first; the message says what was waited for and what the last look's error was.
pub async fn wait_for<T>(what: &str, timeout: Duration, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let seen = look().await;
        if let Ok(Some(seen)) = seen {
            return Ok(seen);
        }
        if Instant::now() > deadline {
            match seen {
                Err(error) => bail!("waited {timeout:?} in vain for {what}; the last look failed: {error:#}"),
                Ok(_) => bail!("waited {timeout:?} in vain for {what}"),
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
