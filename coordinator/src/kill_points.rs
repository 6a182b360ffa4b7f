//! Named points at which a test kills this process. Compiled in with the feature `kill-points` only.
//!
//! `ORCHESTR8_KILL_POINT=name` kills it at the first pass of `name`, `name:3` at the third.

/// Passes the point `name`; in a test build this may be the end of the process.
#[cfg(not(feature = "kill-points"))]
#[inline]
pub const fn pass(_name: &str) {}

/// Passes the point `name`; in a test build this may be the end of the process.
#[cfg(feature = "kill-points")]
pub fn pass(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static WANTED: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let wanted = std::env::var("ORCHESTR8_KILL_POINT").ok()?;
        match wanted.split_once(':') {
            Some((name, pass)) => Some((name.to_owned(), pass.parse().ok()?)),
            None => Some((wanted, 1)),
        }
    });
    static PASSES: AtomicU64 = AtomicU64::new(0);
    if let Some((wanted, pass)) = &*WANTED
        && wanted == name
        && PASSES.fetch_add(1, Ordering::Relaxed) + 1 == *pass
    {
        // As kill -9 would: no destructor, no flush.
        std::process::abort();
    }
}
