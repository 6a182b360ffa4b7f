//! How the desk is, in numbers, for the metrics.

use super::{Desk, Line, Mode};
use std::time::{Duration, Instant};

/// The desk at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Runs at the same time, at most.
    pub slots: usize,
    /// Slots in use.
    pub slots_busy: usize,
    /// Why nothing would be fetched even with room; none: it would.
    pub idle_because: Option<&'static str>,
    /// The drain has begun.
    pub draining: bool,
    /// There is a connection to a server.
    pub connected: bool,
    /// Since when no coordinator was heard.
    pub coordinator_silence: Duration,
    /// Messages that came for the first time.
    pub delivered_first: u64,
    /// Messages that were redelivered or published again.
    pub delivered_again: u64,
    /// Outcomes that nobody has confirmed.
    pub unconfirmed: usize,
    /// Bytes of them.
    pub unconfirmed_bytes: usize,
}

impl Desk {
    /// How it is now.
    pub(crate) fn figures(&self, now: Instant) -> Figures {
        let (unconfirmed, unconfirmed_bytes) = self.runs.unconfirmed();
        let [delivered_first, delivered_again] = self.deliveries;
        Figures {
            slots: self.identity.slots,
            slots_busy: self.runs.seated(),
            idle_because: self.idle_because(now),
            draining: matches!(self.mode, Mode::Draining(_)),
            connected: self.line == Line::Up,
            coordinator_silence: self.coordinators.silence(now),
            delivered_first,
            delivered_again,
            unconfirmed,
            unconfirmed_bytes,
        }
    }

    fn idle_because(&self, now: Instant) -> Option<&'static str> {
        let (unconfirmed, bytes) = self.runs.unconfirmed();
        match self.mode {
            Mode::Draining(_) => Some("draining"),
            Mode::Cordoned => Some("cordoned"),
            Mode::Working if self.line == Line::Down => Some("no connection to NATS"),
            Mode::Working if self.coordinators.foreign() => Some("a coordinator of another installation is heard"),
            Mode::Working if self.coordinators.silence(now) > self.times.coordinator_silence() => Some("no coordinator is heard"),
            Mode::Working if unconfirmed >= self.unconfirmed_max || bytes >= self.unconfirmed_bytes_max => {
                Some("too many outcomes are not confirmed")
            }
            Mode::Working => None,
        }
    }
}
