//! The time of this machine, with what it slept through.
//!
//! [`Instant::now`] stands still while a machine is suspended. An executor that wakes up would take messages that lay in
//! its socket meanwhile for fresh (rule R5), while others were given them again. So its instants are counted by the clock
//! that goes on; they may be ahead of [`Instant::now`], and are compared with each other only.

use nix::time::ClockId;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The two clocks of one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// Never goes back, and goes on in a suspended machine; all waits are measured by it.
    pub now: Instant,
    /// This machine's idea of the time, Unix microseconds; only ever compared through the offset to JetStream's.
    pub wall_us: i64,
}

/// Makes instants of the time since the machine's start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timekeeper {
    origin: Instant,
    origin_since_boot: Duration,
}

impl Timekeeper {
    /// Counts from `origin`, a moment that came `since_boot` after the machine's start.
    pub(crate) const fn new(origin: Instant, since_boot: Duration) -> Self {
        Self { origin, origin_since_boot: since_boot }
    }

    /// Counts from now.
    pub(crate) fn start() -> Self {
        Self::new(Instant::now(), since_boot())
    }

    /// The clocks of this moment.
    pub(crate) fn clock(&self) -> Clock {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { now: self.at(since_boot()), wall_us: i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX) }
    }

    /// The instant that came `since_boot` after the machine's start.
    pub(crate) fn at(&self, since_boot: Duration) -> Instant {
        self.origin + since_boot.saturating_sub(self.origin_since_boot)
    }
}

/// How long ago the machine started, suspended time included.
fn since_boot() -> Duration {
    ClockId::CLOCK_BOOTTIME.now().expect("every Linux has this clock").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_with_the_machine_and_never_back() {
        let origin = Instant::now();
        let keeper = Timekeeper::new(origin, Duration::from_secs(100));
        assert_eq!(keeper.at(Duration::from_secs(100)), origin);
        assert_eq!(keeper.at(Duration::from_secs(20_000)), origin + Duration::from_secs(19_900));
        assert_eq!(keeper.at(Duration::from_secs(99)), origin);
    }
}
