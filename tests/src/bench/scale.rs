//! How much of everything one run takes.

use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// Overrides how many runs there are.
pub const RUNS_VARIABLE: &str = "BENCH_RUNS";
/// Set to 1 for a short run, whose figures say little.
pub const QUICK_VARIABLE: &str = "BENCH_QUICK";
/// Overrides how long each idle phase is watched, in seconds.
pub const IDLE_VARIABLE: &str = "BENCH_IDLE_SECONDS";
/// Overrides how many clients submit singly: required figures are for 16.
pub const CLIENTS_VARIABLE: &str = "BENCH_CLIENTS";
/// More runs than this take hours.
const RUNS_MAX: usize = 100;
/// Each is a connection.
const CLIENTS_MAX: usize = 1_000;
/// An hour.
const IDLE_SECONDS_MAX: usize = 3_600;

/// The size of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// How often everything is measured; the median counts.
    pub runs: usize,
    /// W1: independent tasks.
    pub tasks: usize,
    /// W1: clients that submit singly.
    pub clients: usize,
    /// W1: tasks of one submission in batches.
    pub batch: usize,
    /// One task at a time: not counted.
    pub warm_up: usize,
    /// One task at a time: counted.
    pub samples: usize,
    /// W2: chains at once.
    pub chains: usize,
    /// W2: one chain alone, so often.
    pub chain_samples: usize,
    /// W3: tasks between the first and the last.
    pub fan: usize,
    /// Tasks that sleep in the second idle phase; also the fewest slots.
    pub sleepers: usize,
    /// How long each idle phase is watched.
    pub idle: Duration,
}

/// W2: the steps of a chain.
pub const CHAIN_LENGTH: usize = 10;

impl Scale {
    /// What the published figures are measured with.
    #[must_use]
    pub const fn full() -> Self {
        Self {
            runs: 3,
            tasks: 10_000,
            clients: 16,
            batch: 1_000,
            warm_up: 20,
            samples: 200,
            chains: 200,
            chain_samples: 20,
            fan: 1_000,
            sleepers: 1_000,
            idle: Duration::from_secs(30),
        }
    }

    /// A few seconds, so that a test can run it all.
    #[must_use]
    pub const fn quick() -> Self {
        Self {
            runs: 1,
            tasks: 1_000,
            samples: 20,
            warm_up: 5,
            chains: 20,
            chain_samples: 3,
            fan: 100,
            sleepers: 50,
            idle: Duration::from_secs(1),
            ..Self::full()
        }
    }

    /// As the environment says.
    ///
    /// # Errors
    /// When a variable has a value that means nothing.
    pub fn from_environment() -> Result<Self> {
        let scale = match std::env::var(QUICK_VARIABLE).as_deref() {
            Err(_) | Ok("" | "0") => Self::full(),
            Ok("1") => Self::quick(),
            Ok(other) => anyhow::bail!("{QUICK_VARIABLE} is {other:?}: use 1 for a short run, or leave it unset"),
        };
        let runs = number(RUNS_VARIABLE, RUNS_MAX)?.unwrap_or(scale.runs);
        let idle = number(IDLE_VARIABLE, IDLE_SECONDS_MAX)?.map_or(scale.idle, |seconds| Duration::from_secs(seconds as u64));
        let clients = number(CLIENTS_VARIABLE, CLIENTS_MAX)?.unwrap_or(scale.clients);
        Ok(Self { runs, clients, idle, ..scale })
    }
}

/// The number in a variable, from 1 to `most`.
fn number(variable: &str, most: usize) -> Result<Option<usize>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    let number = text.parse().with_context(|| format!("{variable} is {text:?}: use a number from 1 to {most}"))?;
    ensure!((1..=most).contains(&number), "{variable} is {number}: use 1 to {most}");
    Ok(Some(number))
}
