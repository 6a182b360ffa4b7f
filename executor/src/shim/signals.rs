//! Signals that were ignored when this process was started, and what a command is to make of them.

use nix::sys::signal::Signal;
use std::io;
use tokio::signal::unix::{SignalKind, signal};

/// Where Linux tells which signals this process ignores.
const STATUS_FILE: &str = "/proc/self/status";
/// SIGPIPE every Rust program ignores, and its commands do not; the others are of a fault and may have no handler.
const LEFT_ALONE: [Signal; 4] = [Signal::SIGPIPE, Signal::SIGILL, Signal::SIGFPE, Signal::SIGSEGV];

/// Gives a handler to each signal that this process ignores: a program that it starts then has the default, where it
/// would have inherited the ignoring and never hear its stop signal.
///
/// A shell without job control ignores SIGINT and SIGQUIT for what it starts in the background, `nohup` SIGHUP. An
/// ignored SIGCHLD would moreover let the system forget how a command ended.
///
/// # Errors
/// Whatever the system says to reading its file or to the handler.
pub fn hear_ignored() -> io::Result<()> {
    let ignored = ignored_signals(&std::fs::read_to_string(STATUS_FILE)?);
    if ignored.is_empty() {
        return Ok(());
    }
    // The handlers stay when the runtime that tokio wants for them is gone; nobody listens to them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _within = runtime.enter();
    ignored.into_iter().try_for_each(|number| signal(SignalKind::from_raw(number as i32)).map(drop))
}

/// The standard signals of the line `SigIgn`, a mask in hexadecimal digits.
fn ignored_signals(status: &str) -> Vec<Signal> {
    let digits = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
    let mask = u64::from_str_radix(digits.trim(), 16).unwrap_or(0);
    Signal::iterator().filter(|signal| mask & (1 << (*signal as i32 - 1)) != 0 && !LEFT_ALONE.contains(signal)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_a_status_is_read() {
        let status = "Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000011006\nSigCgt:\t0000000000000001\n";
        assert_eq!(ignored_signals(status), [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGCHLD]);
        assert_eq!(ignored_signals("SigIgn:\tffffffffffffffff\n").len(), 31 - LEFT_ALONE.len());
        assert_eq!(ignored_signals("Name:\tx\n"), []);
    }
}
