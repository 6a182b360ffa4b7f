//! Every protocol time, as a multiple of one base. Tests run at a tenth of the published figures.

use std::time::Duration;

/// The times of the protocol between coordinator and executor. Both sides must be given the same base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolTimes {
    base: Duration,
}

impl Default for ProtocolTimes {
    /// The published figures: a base of one second.
    fn default() -> Self {
        Self { base: Duration::from_secs(1) }
    }
}

macro_rules! multiples {
    ($($(#[$doc:meta])* $name:ident = $numerator:literal),+ $(,)?) => {
        impl ProtocolTimes {
            $($(#[$doc])* #[must_use] pub fn $name(&self) -> Duration { self.base * $numerator })+

            /// Name and value of each, for the list that is shown at start-up.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, Duration)> {
                vec![$((stringify!($name), self.$name())),+]
            }
        }
    };
}

multiples! {
    /// A run that lasts longer is claimed.
    claim_after = 1,
    /// A claim without answer is asked again.
    claim_again = 3,
    /// Heartbeats of executors, beats of coordinators.
    beat = 3,
    /// In-progress is sent this often for a message whose run is not yet granted or whose outcome is not yet stored.
    in_progress = 5,
    /// A first delivery handled later than this after its pull and its stream timestamp asks first.
    fresh_delivery = 7,
    /// JetStream redelivers a message without ack after this.
    ack_wait = 15,
    /// A granted run without heartbeat is lost after this, unless its task says otherwise.
    run_lease = 15,
    /// A coordinator owns its shards for this long after its last renewal.
    shard_lease = 10,
    /// Shard leases are renewed this often.
    shard_renewal = 3,
    /// A lane that hears no coordinator's beat over NATS, its own included, for this long is cut off from it.
    bus_silence = 7,
    /// An executor that is not heard for this long counts as silent: two heartbeats are missing, and the third is due.
    executor_silence = 8,
    /// An executor that hears no coordinator for this long stops fetching.
    coordinator_silence = 10,
    /// The first re-publication of an outcome that nobody confirmed; doubles up to `outcome_again_max`.
    outcome_again = 10,
    /// Longest wait between two publications of the same outcome.
    outcome_again_max = 300,
    /// Losses are held for this long when more than half of at least three executors fall silent together.
    mass_silence_hold = 60,
    /// Executors drop the dispatch of a cancelled task for this long.
    dropped_dispatch = 30,
    /// A first delivery older than this is checked before it starts.
    stale_delivery = 30,
    /// Duplicate window of the task stream.
    duplicate_window = 20,
    /// One INFO per consumer shows which queued rows lost their message.
    reconcile = 60,
    /// Longest wait of a parked pull.
    pull_expiry = 30,
    /// A stream that answers INFO, but takes no message for this long, is made anew.
    deaf_stream = 30,
    /// The outcome reader is created this much before its saved position.
    reader_overlap = 2,
    /// Who waits for a result reads again at least this often.
    reread = 5,
    /// A healthy run of this length resets the count of losses in a row.
    loss_reset = 600,
}

impl ProtocolTimes {
    /// All times as multiples of `base` (published figures: one second).
    #[must_use]
    pub const fn new(base: Duration) -> Self {
        Self { base }
    }

    /// What all others are multiples of.
    #[must_use]
    pub const fn base(&self) -> Duration {
        self.base
    }

    /// The same in milliseconds, as beats of coordinators say it.
    #[must_use]
    pub fn base_ms(&self) -> u32 {
        u32::try_from(self.base.as_millis()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R5 and the leases only hold if the times stand in this order.
    #[test]
    fn the_times_stand_in_the_order_that_the_rules_need() {
        let times = ProtocolTimes::new(Duration::from_millis(100));
        assert!(times.claim_after() < times.fresh_delivery());
        assert!(times.beat() * 2 < times.bus_silence() && times.bus_silence() < times.shard_lease());
        assert!(times.fresh_delivery() + times.in_progress() < times.ack_wait());
        assert!(times.in_progress() * 2 < times.ack_wait());
        assert!(times.beat() * 4 < times.run_lease());
        assert!(times.beat() * 5 / 2 < times.executor_silence() && times.executor_silence() + times.beat() < times.run_lease());
        assert!(times.shard_renewal() * 3 < times.shard_lease());
        assert!(times.beat() * 3 < times.coordinator_silence());
        assert_eq!(times.all().iter().find(|(name, _)| *name == "beat"), Some(&("beat", Duration::from_millis(300))));
    }
}
