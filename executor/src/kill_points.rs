//! Named points at which a fault test ends or stops the process. Compiled to nothing without the feature `kill-points`.
//!
//! `ORCHESTR8_KILL_POINT=name[:pass][:stop]`: at that pass of the point, the first where none is given, SIGKILL ends the
//! process; with `stop` SIGSTOP makes it stand still there until it gets SIGCONT. The coordinator reads the same form.

#[cfg(any(feature = "kill-points", test))]
use nix::sys::signal::Signal;

/// A message was fetched; nothing of it has started or asked yet.
pub const AFTER_FETCH_BEFORE_START: &str = "after_fetch_before_start";
/// A run goes on for longer than the claim limit and is about to be claimed.
pub const AFTER_START_BEFORE_CLAIM: &str = "after_start_before_claim";
/// A claim was granted; its message is not yet acknowledged.
pub const AFTER_GRANT_BEFORE_DOUBLE_ACK: &str = "after_grant_before_double_ack";
/// A part of a run's inputs has come; the next one is not asked for yet.
pub const AFTER_INPUTS_PART_BEFORE_NEXT: &str = "after_inputs_part_before_next";
/// A run ended; nothing of its outcome has left the process.
pub const AFTER_RUN_BEFORE_OUTCOME: &str = "after_run_before_outcome";
/// The outcome is stored by the broker; the message is not yet acknowledged.
pub const AFTER_OUTCOME_BEFORE_ACK: &str = "after_outcome_before_ack";

/// The confirmation of an outcome has come; the run is not yet forgotten.
pub const AFTER_CONFIRM_BEFORE_FORGET: &str = "after_confirm_before_forget";

/// Ends or stops the process when this point and pass were chosen.
///
/// # Panics
/// When the choice has another form, or the system does not let a process signal itself.
#[cfg(feature = "kill-points")]
pub fn kill_point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static CHOSEN: OnceLock<Option<Choice>> = OnceLock::new();
    static PASSES: AtomicU64 = AtomicU64::new(0);
    let read = || {
        let text = std::env::var("ORCHESTR8_KILL_POINT").ok().filter(|text| !text.is_empty())?;
        Some(choice(&text).unwrap_or_else(|| panic!("ORCHESTR8_KILL_POINT=`{text}`: use name[:pass][:stop]")))
    };
    let Some(chosen) = CHOSEN.get_or_init(read) else { return };
    if chosen.point == name && PASSES.fetch_add(1, Ordering::SeqCst) + 1 == chosen.pass {
        // To this thread, which goes no step further; the others follow it within moments.
        nix::sys::signal::raise(chosen.signal).expect("a thread may signal itself");
    }
}

/// Does nothing in this build.
#[cfg(not(feature = "kill-points"))]
pub const fn kill_point(_name: &str) {}

/// Where what happens.
#[cfg(any(feature = "kill-points", test))]
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    point: String,
    /// From 1.
    pass: u64,
    signal: Signal,
}

/// The choice that a text such as `after_fetch_before_start:3:stop` makes; none: it has another form.
#[cfg(any(feature = "kill-points", test))]
fn choice(text: &str) -> Option<Choice> {
    let (rest, signal) = text.strip_suffix(":stop").map_or((text, Signal::SIGKILL), |rest| (rest, Signal::SIGSTOP));
    let (point, pass) = rest.split_once(':').unwrap_or((rest, "1"));
    let pass = pass.parse().ok().filter(|pass| *pass > 0)?;
    Some(Choice { point: point.to_owned(), pass, signal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_names_a_point_a_pass_and_whether_to_stop_there() {
        for (text, pass, signal) in
            [("a", 1, Signal::SIGKILL), ("a:3", 3, Signal::SIGKILL), ("a:stop", 1, Signal::SIGSTOP), ("a:3:stop", 3, Signal::SIGSTOP)]
        {
            assert_eq!(choice(text), Some(Choice { point: "a".to_owned(), pass, signal }), "{text}");
        }
        for text in ["a:", "a:0", "a:x", "a:stop:3", "a:3:halt"] {
            assert_eq!(choice(text), None, "{text}");
        }
        kill_point("not chosen");
    }
}
