//! When a failed attempt is followed by another, and after how long.
//!
//! Exponential backoff: `min(initial × coefficient^(n-1), max) × (1 ± jitter)` before retry number `n`.

use crate::plan::RetryPolicy;
use std::time::Duration;

/// Longest wait after a release as unsupported, in multiples of the base of one second.
const RELEASE_WAIT_MAX: Duration = Duration::from_mins(1);

/// What an executor reported about a failed attempt, as far as the retry depends on it.
#[derive(Debug, Clone, Copy)]
pub struct FailedAttempt<'a> {
    /// A stable word.
    pub error_type: &'a str,
    /// False: the executor knows that trying again is useless.
    pub retryable: bool,
    /// The earliest next attempt that the failed party asked for.
    pub retry_after: Duration,
    /// Retries so far.
    pub retry_count: u32,
}

/// The wait before the next attempt, or none when the task has failed for good.
///
/// `unit` is a random number from 0 to below 1, for the jitter.
#[must_use]
pub fn next_attempt(policy: &RetryPolicy, failed: FailedAttempt<'_>, unit: f64) -> Option<Duration> {
    let attempts = failed.retry_count.saturating_add(1);
    let refused = policy.non_retryable.iter().any(|refused| refused == failed.error_type);
    if !failed.retryable || refused || attempts >= policy.max_attempts {
        return None;
    }
    Some(backoff(policy, attempts, unit).max(failed.retry_after))
}

/// The wait before retry number `retry` (from 1).
#[must_use]
pub fn backoff(policy: &RetryPolicy, retry: u32, unit: f64) -> Duration {
    if policy.initial_interval.is_zero() {
        // Zero times an infinite factor is not a number, and would become the longest wait.
        return Duration::ZERO;
    }
    let exponent = i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX);
    let factor = policy.backoff_coefficient.powi(exponent);
    let raw = (policy.initial_interval.as_secs_f64() * factor).min(policy.max_interval.as_secs_f64());
    let jittered = raw * (1.0 + policy.jitter * (2.0 * unit - 1.0));
    Duration::try_from_secs_f64(jittered.max(0.0)).unwrap_or(policy.max_interval)
}

/// The wait after the `releases`-th release as unsupported in a row: 1 s, doubling up to 60 s.
#[must_use]
pub fn release_wait(releases: u32) -> Duration {
    Duration::from_secs(1 << releases.saturating_sub(1).min(6)).min(RELEASE_WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(max_attempts: u32) -> RetryPolicy {
        RetryPolicy { max_attempts, jitter: 0.0, ..RetryPolicy::none() }
    }

    fn failed(retry_count: u32) -> FailedAttempt<'static> {
        FailedAttempt { error_type: "exit", retryable: true, retry_after: Duration::ZERO, retry_count }
    }

    #[test]
    fn waits_double_up_to_the_maximum() {
        let policy = RetryPolicy { max_interval: Duration::from_secs(5), ..policy(10) };
        let waits: Vec<u64> = (0..4).filter_map(|n| next_attempt(&policy, failed(n), 0.5)).map(|wait| wait.as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5]);
    }

    #[test]
    fn the_last_attempt_a_refused_type_and_a_final_error_are_not_retried() {
        assert_eq!(next_attempt(&policy(3), failed(2), 0.5), None);
        assert!(next_attempt(&policy(3), failed(1), 0.5).is_some());
        let refusing = RetryPolicy { non_retryable: vec!["exit".into()], ..policy(3) };
        assert_eq!(next_attempt(&refusing, failed(0), 0.5), None);
        assert_eq!(next_attempt(&policy(3), FailedAttempt { retryable: false, ..failed(0) }, 0.5), None);
    }

    #[test]
    fn retry_after_only_lengthens_the_wait() {
        let asked = |seconds| FailedAttempt { retry_after: Duration::from_secs(seconds), ..failed(0) };
        assert_eq!(next_attempt(&policy(3), asked(30), 0.5), Some(Duration::from_secs(30)));
        assert_eq!(next_attempt(&policy(3), asked(0), 0.5), Some(Duration::from_secs(1)));
    }

    #[test]
    fn no_wait_stays_no_wait_however_many_retries() {
        let policy = RetryPolicy { initial_interval: Duration::ZERO, ..policy(u32::MAX) };
        assert_eq!([1, 2, 1_100, u32::MAX].map(|retry| backoff(&policy, retry, 0.5)), [Duration::ZERO; 4]);
    }

    #[test]
    fn releases_wait_a_second_to_a_minute() {
        assert_eq!([1, 2, 6, 7, 1_000].map(|n| release_wait(n).as_secs()), [1, 2, 32, 60, 60]);
    }

    proptest! {
        #[test]
        fn no_policy_makes_a_wait_beyond_its_bounds(retry in 1u32.., coefficient in 1.0f64..1e6, jitter in 0.0f64..=1.0, unit in 0.0f64..1.0) {
            let policy = RetryPolicy { backoff_coefficient: coefficient, jitter, ..policy(10) };
            prop_assert!(backoff(&policy, retry, unit) <= policy.max_interval * 2);
        }
    }
}
