//! What a process logs, while it runs: whoever has the handle can look and change it.

use std::fmt;
use std::sync::Arc;

/// Bytes of a filter, at most: it travels in heartbeats.
pub const LOG_FILTER_BYTES_MAX: usize = 256;

/// The filter is not one, and nothing was changed. The text says what is wrong and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadLogFilter(pub String);

/// The logging of one process.
pub trait LogFilter: Send + Sync {
    /// What is logged now: a level, or levels by module.
    fn current(&self) -> String;

    /// Whether [`LogFilter::set`] would take it.
    ///
    /// # Errors
    /// [`BadLogFilter`].
    fn check(&self, filter: &str) -> Result<(), BadLogFilter>;

    /// Logs this from now on.
    ///
    /// # Errors
    /// [`BadLogFilter`]; nothing was changed.
    fn set(&self, filter: &str) -> Result<(), BadLogFilter>;
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct LogControl(Arc<dyn LogFilter>);

impl LogControl {
    /// A handle of this process's logging.
    #[must_use]
    pub fn new(filter: impl LogFilter + 'static) -> Self {
        Self(Arc::new(filter))
    }
}

impl std::ops::Deref for LogControl {
    type Target = dyn LogFilter;

    fn deref(&self) -> &(dyn LogFilter + 'static) {
        &*self.0
    }
}

impl Default for LogControl {
    /// Of a process that logs as it was built to.
    fn default() -> Self {
        Self::new(Fixed)
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("LogControl").field(&self.current()).finish()
    }
}

struct Fixed;

impl LogFilter for Fixed {
    fn current(&self) -> String {
        String::new()
    }

    fn check(&self, _: &str) -> Result<(), BadLogFilter> {
        Err(BadLogFilter("what this process logs cannot be changed while it runs".into()))
    }

    fn set(&self, filter: &str) -> Result<(), BadLogFilter> {
        self.check(filter)
    }
}
