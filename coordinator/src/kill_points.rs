//! Named points at which a test kills or stops this process. Compiled in with the feature `kill-points` only.
//!
//! `ORCHESTR8_KILL_POINT=name[:pass][:stop]`: at that pass of the point, the first where none is given, SIGKILL ends the
//! process; with `stop` SIGSTOP makes it stand still there until it gets SIGCONT. The executor reads the same form.

#[cfg(feature = "kill-points")]
use nix::sys::signal::Signal;

/// A batch is decided in memory and about to be committed.
pub const BEFORE_COMMIT: &str = "before_commit";
/// The same, for a batch that holds outcomes.
pub const AFTER_OUTCOMES_READ_BEFORE_COMMIT: &str = "after_outcomes_read_before_commit";
/// The same, for a batch that holds rows of an inbox.
pub const AFTER_INBOX_READ_BEFORE_COMMIT: &str = "after_inbox_read_before_commit";
/// The keys of a batch are reserved; nothing of it is decided.
pub const AFTER_RESERVE_BEFORE_COMMIT: &str = "after_reserve_before_commit";
/// A batch is committed; nothing of it has left the process.
pub const AFTER_COMMIT_BEFORE_PUBLISH: &str = "after_commit_before_publish";
/// Some messages of a batch are on their way to the broker, the next is not.
pub const BETWEEN_TWO_PUBLISHES: &str = "between_two_publishes";
/// Outcomes are committed; their executors do not know.
pub const AFTER_COMMIT_BEFORE_CONFIRM: &str = "after_commit_before_confirm";
/// What is committed lies above the saved position and marks.
pub const AFTER_COMMIT_BEFORE_POSITION_SAVED: &str = "after_commit_before_position_saved";
/// Vacant shards were taken; nothing of what they hold is read.
pub const AFTER_TAKE_BEFORE_RESTORE: &str = "after_take_before_restore";
/// After a doubt, shards are taken back under a new lease; nothing of what they hold is read.
pub const AFTER_RETAKE_BEFORE_RESTORE: &str = "after_retake_before_restore";
/// Everything of the shards that are to go is saved; they are still owned.
pub const AFTER_SAVE_BEFORE_HAND_OVER: &str = "after_save_before_hand_over";
/// Shards are given away; this process still remembers what they hold.
pub const AFTER_HAND_OVER_BEFORE_FORGET: &str = "after_hand_over_before_forget";
/// Rows are in the inbox of another's shard; neither it nor who waits has heard of them.
pub const AFTER_MAIL_BEFORE_NUDGE: &str = "after_mail_before_nudge";

/// A part of inputs may leave; it has not.
pub const AFTER_FENCE_BEFORE_INPUTS_PART: &str = "after_fence_before_inputs_part";

/// Panics in a test build if the task whose event is being applied is the one that `ORCHESTR8_POISON_TASK` names: what a defect of
/// the state machine would do.
#[cfg(not(feature = "kill-points"))]
#[inline]
pub fn poison<'a>(_task: impl FnOnce() -> Option<&'a str>) {}

/// Panics in a test build if the task whose event is being applied is the one that `ORCHESTR8_POISON_TASK` names: what a defect of
/// the state machine would do.
///
/// # Panics
/// See above.
#[cfg(feature = "kill-points")]
pub fn poison<'a>(task: impl FnOnce() -> Option<&'a str>) {
    use std::sync::LazyLock;
    static POISON: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("ORCHESTR8_POISON_TASK").ok().filter(|name| !name.is_empty()));
    if let Some(poison) = &*POISON {
        assert!(task() != Some(poison.as_str()), "task `{poison}` is poison");
    }
}

/// Passes the point `name`; in a test build this may be the end of the process.
#[cfg(not(feature = "kill-points"))]
#[inline]
pub const fn pass(_name: &str) {}

/// Passes the point `name`; in a test build this may be the end of the process, or stop it.
///
/// # Panics
/// When the choice has another form, or the system does not let a process signal itself.
#[cfg(feature = "kill-points")]
pub fn pass(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static WANTED: LazyLock<Option<(String, u64, Signal)>> = LazyLock::new(|| {
        let text = std::env::var("ORCHESTR8_KILL_POINT").ok().filter(|text| !text.is_empty())?;
        Some(wanted(&text).unwrap_or_else(|| panic!("ORCHESTR8_KILL_POINT=`{text}`: use name[:pass][:stop]")))
    });
    static PASSES: AtomicU64 = AtomicU64::new(0);
    if let Some((wanted, pass, signal)) = &*WANTED
        && wanted == name
        && PASSES.fetch_add(1, Ordering::Relaxed) + 1 == *pass
    {
        // To this thread, which goes no step further; the others follow it within moments. No destructor, no flush.
        nix::sys::signal::raise(*signal).expect("a thread may signal itself");
    }
}

/// Point, pass (from 1) and signal of a text such as `before_commit:3:stop`; none: it has another form.
#[cfg(feature = "kill-points")]
fn wanted(text: &str) -> Option<(String, u64, Signal)> {
    let (rest, signal) = text.strip_suffix(":stop").map_or((text, Signal::SIGKILL), |rest| (rest, Signal::SIGSTOP));
    let (name, pass) = rest.split_once(':').unwrap_or((rest, "1"));
    let pass = pass.parse().ok().filter(|pass| *pass > 0)?;
    Some((name.to_owned(), pass, signal))
}
