//! Rule R5: whether a delivered dispatch starts at once, is checked, or must be claimed before it starts. Pure.

use orchestr8_proto::times::ProtocolTimes;
use std::time::Duration;

/// What is known about a dispatch at the moment it could start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// JetStream delivered its message before, or it was published `again`.
    pub doubtful: bool,
    /// The dispatch itself says that it must be granted first.
    pub ask_first: bool,
    /// Since the pull that brought it; none: nobody knows which one did.
    pub since_pull: Option<Duration>,
    /// Since JetStream stored it; none: the offset to JetStream's clock is not known yet.
    pub since_stored: Option<Duration>,
}

/// What must happen before the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing: a fresh first delivery.
    AtOnce,
    /// The owner says whether it is still current; nothing is written.
    Check,
    /// A claim must be granted.
    Ask,
}

impl Evidence {
    /// Decides by rule R5: only a fresh first delivery starts without asking.
    #[must_use]
    pub fn decide(&self, times: &ProtocolTimes) -> Start {
        let handled_after = match (self.since_pull, self.since_stored) {
            // The later of the two moments is the one that is less long ago.
            (Some(pull), Some(stored)) => Some(pull.min(stored)),
            (pull, stored) => pull.or(stored),
        };
        let fresh = handled_after.is_some_and(|after| after <= times.fresh_delivery());
        if self.doubtful || self.ask_first || !fresh {
            Start::Ask
        } else if self.since_stored.is_some_and(|age| age > times.stale_delivery()) {
            Start::Check
        } else {
            Start::AtOnce
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Evidence =
        Evidence { doubtful: false, ask_first: false, since_pull: Some(Duration::ZERO), since_stored: Some(Duration::ZERO) };

    fn check(evidence: Evidence, expected: Start) {
        assert_eq!(evidence.decide(&ProtocolTimes::default()), expected, "{evidence:?}");
    }

    const fn age(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_fresh_first_delivery_starts_at_once() {
        check(FRESH, Start::AtOnce);
        check(Evidence { since_pull: Some(age(7)), since_stored: Some(age(7)), ..FRESH }, Start::AtOnce);
    }

    #[test]
    fn any_doubt_asks_first() {
        check(Evidence { doubtful: true, ..FRESH }, Start::Ask);
        check(Evidence { ask_first: true, ..FRESH }, Start::Ask);
        check(Evidence { since_pull: Some(age(8)), since_stored: Some(age(8)), ..FRESH }, Start::Ask);
        check(Evidence { since_pull: None, since_stored: None, ..FRESH }, Start::Ask);
    }

    #[test]
    fn the_later_of_pull_and_storage_counts() {
        check(Evidence { since_pull: Some(age(29)), since_stored: Some(age(1)), ..FRESH }, Start::AtOnce);
        check(Evidence { since_pull: Some(age(1)), since_stored: Some(age(29)), ..FRESH }, Start::AtOnce);
    }

    #[test]
    fn without_the_clock_offset_only_the_pull_counts() {
        check(Evidence { since_pull: Some(age(8)), since_stored: None, ..FRESH }, Start::Ask);
        check(Evidence { since_pull: Some(age(1)), since_stored: None, ..FRESH }, Start::AtOnce);
    }

    #[test]
    fn an_old_message_that_was_just_pulled_is_checked() {
        check(Evidence { since_stored: Some(age(31)), ..FRESH }, Start::Check);
        check(Evidence { since_stored: Some(age(31)), since_pull: Some(age(8)), ..FRESH }, Start::Ask);
        check(Evidence { since_stored: Some(age(31)), doubtful: true, ..FRESH }, Start::Ask);
    }
}
