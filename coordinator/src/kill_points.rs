//! Named points at which a test kills or stops this process. Compiled in with the feature `kill-points` only.
//!
//! `ORCHESTR8_KILL_POINT=name[:pass][:stop]`: at that pass of the point, the first where none is given, SIGKILL ends the
//! process; with `stop` SIGSTOP makes it stand still there until it gets SIGCONT. The executor reads the same form.

#[cfg(feature = "kill-points")]
use nix::sys::signal::Signal;

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
