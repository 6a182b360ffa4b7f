//! Named points at which a fault test ends the process the hard way. Compiled to nothing without the feature `kill-points`.
//!
//! `ORCHESTR8_KILL_POINT=name` ends it at the first pass of that point, `name:3` at the third.

/// A message was fetched; nothing of it has started or asked yet.
pub const AFTER_FETCH_BEFORE_START: &str = "after_fetch_before_start";
/// A run goes on for longer than the claim limit and is about to be claimed.
pub const AFTER_START_BEFORE_CLAIM: &str = "after_start_before_claim";
/// A claim was granted; its message is not yet acknowledged.
pub const AFTER_GRANT_BEFORE_DOUBLE_ACK: &str = "after_grant_before_double_ack";
/// A run ended; nothing of its outcome has left the process.
pub const AFTER_RUN_BEFORE_OUTCOME: &str = "after_run_before_outcome";
/// The outcome is stored by the broker; the message is not yet acknowledged.
pub const AFTER_OUTCOME_BEFORE_ACK: &str = "after_outcome_before_ack";

/// Ends the process by SIGKILL when this point and pass were chosen.
///
/// # Panics
/// When the system does not let a process end itself.
#[cfg(feature = "kill-points")]
pub fn kill_point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static CHOSEN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSES: AtomicU64 = AtomicU64::new(0);
    let chosen = CHOSEN.get_or_init(|| std::env::var("ORCHESTR8_KILL_POINT").ok().map(|text| choice(&text)));
    let Some((point, pass)) = chosen else { return };
    if point == name && PASSES.fetch_add(1, Ordering::SeqCst) + 1 == *pass {
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL).expect("a process may end itself");
    }
}

/// Does nothing in this build.
#[cfg(not(feature = "kill-points"))]
pub const fn kill_point(_name: &str) {}

/// Point and pass (from 1) of a text such as `after_fetch_before_start:3`.
#[cfg(any(feature = "kill-points", test))]
fn choice(text: &str) -> (String, u64) {
    let (name, pass) = text.split_once(':').unwrap_or((text, "1"));
    (name.to_owned(), pass.parse().unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_names_a_point_and_a_pass() {
        assert_eq!(choice("a"), ("a".to_owned(), 1));
        assert_eq!(choice("a:3"), ("a".to_owned(), 3));
        kill_point("not chosen");
    }
}
