//! How long to wait before trying again: the one place that uses the `backoff` crate.

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;
use std::time::Duration;

/// Waits that double, with jitter, and never end.
#[derive(Debug)]
pub(crate) struct Patience {
    shortest: Duration,
    steps: ExponentialBackoff,
}

impl Patience {
    /// Waits from `shortest` to about `longest`.
    pub(crate) fn between(shortest: Duration, longest: Duration) -> Self {
        let mut steps = ExponentialBackoff {
            initial_interval: shortest,
            max_interval: longest,
            multiplier: 2.0,
            randomization_factor: 0.2,
            // The crate's default gives up after fifteen minutes; who waits here never does.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        steps.reset();
        Self { shortest, steps }
    }

    /// The next wait; never below the shortest.
    pub(crate) fn next_wait(&mut self) -> Duration {
        self.steps.next_backoff().unwrap_or(self.shortest).max(self.shortest)
    }

    /// It worked: the next wait is the shortest again.
    pub(crate) fn reset(&mut self) {
        self.steps.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_over_after_success() {
        let (shortest, longest) = (Duration::from_secs(1), Duration::from_secs(10));
        let mut patience = Patience::between(shortest, longest);
        let waits: Vec<_> = (0..20).map(|_| patience.next_wait()).collect();
        assert!(waits.iter().all(|wait| *wait >= shortest && *wait <= longest * 12 / 10 + Duration::from_millis(1)), "{waits:?}");
        assert!(waits[19] >= longest * 8 / 10, "{waits:?}");
        patience.reset();
        assert!(patience.next_wait() <= shortest * 12 / 10 + Duration::from_millis(1));
    }
}
