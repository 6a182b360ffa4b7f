//! How long, how fast, and from which seed.

use super::broker::Servers;
use anyhow::{Context, Result, bail, ensure};
use std::time::Duration;

/// How long faults go on, in seconds.
pub const SECONDS_VARIABLE: &str = "CHAOS_SECONDS";
/// Replays the faults of an earlier run.
pub const SEED_VARIABLE: &str = "SEED";
/// The base of every protocol time, as in `100ms`; the published figures hold for `1s`.
pub const TIME_BASE_VARIABLE: &str = "CHAOS_TIME_BASE";
/// `cluster` for three nats-servers with three copies of each stream, `one` for one.
pub const SERVERS_VARIABLE: &str = "CHAOS_NATS";
/// Tasks of the long queue that is filled and drained after the faults; 0: none. Whole thousands.
pub const QUEUE_VARIABLE: &str = "CHAOS_QUEUE";
const SECONDS_DEFAULT: u64 = 600;
/// Of a run that is not a short one.
const QUEUE_DEFAULT: u64 = 1_000_000;
/// Below it the allocator's noise is all that would be measured.
const QUEUE_MIN: u64 = 40_000;
/// More take hours.
const QUEUE_MAX: u64 = 100_000_000;
/// Below the published time base: processes and servers start no faster there, and other tests use the same processors.
const SLACK_SCALED: Duration = Duration::from_secs(5);
/// Below the published time base, with several nats-servers: they choose a leader in 4 to 9 s and miss each other in up to 10 s, always.
const SLACK_CLUSTER: Duration = Duration::from_secs(20);
/// At the published time base: what starting a process and looking take.
const SLACK_FULL: Duration = Duration::from_secs(2);

/// Of one run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long faults go on.
    pub duration: Duration,
    /// Draws the faults and the load.
    pub seed: u64,
    /// The base of every protocol time.
    pub time_base: Duration,
    /// Which NATS.
    pub servers: Servers,
    /// More words for every coordinator.
    pub coordinator_words: Vec<String>,
    /// Tasks of the long queue that is filled and drained after the faults.
    pub queue_tasks: usize,
}

impl Settings {
    /// A tenth of the published times, for tests.
    #[must_use]
    pub fn quick(seed: u64, duration: Duration) -> Self {
        Self { duration, seed, time_base: Duration::from_millis(100), servers: Servers::One, coordinator_words: Vec::new(), queue_tasks: 0 }
    }

    /// As the environment says; a seed that is not given is drawn.
    ///
    /// # Errors
    /// When a variable has a value that means nothing.
    pub fn from_environment() -> Result<Self> {
        let seconds = number(SECONDS_VARIABLE)?.unwrap_or(SECONDS_DEFAULT);
        ensure!((1..=86_400).contains(&seconds), "{SECONDS_VARIABLE} is {seconds}: use 1 to 86400");
        let (duration, coordinator_words) = (Duration::from_secs(seconds), Vec::new());
        let queue_tasks = queue_tasks(seconds)?;
        Ok(Self { duration, seed: seed()?, time_base: time_base()?, servers: servers()?, coordinator_words, queue_tasks })
    }

    /// So many bases.
    #[must_use]
    pub fn bases(&self, count: f64) -> Duration {
        self.time_base.mul_f64(count)
    }

    /// What may be added to a bound.
    #[must_use]
    pub fn slack(&self) -> Duration {
        match self.servers {
            _ if self.time_base >= Duration::from_secs(1) => SLACK_FULL,
            Servers::One => SLACK_SCALED,
            Servers::Cluster => SLACK_CLUSTER,
        }
    }
}

/// The seed of the environment, else a fresh one.
///
/// # Errors
/// When the variable is no number.
pub fn seed() -> Result<u64> {
    Ok(number(SEED_VARIABLE)?.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 % 1_000_000))
}

/// The seed of the environment, else this one.
///
/// # Errors
/// When the variable is no number.
pub fn seed_or(seed: u64) -> Result<u64> {
    Ok(number(SEED_VARIABLE)?.unwrap_or(seed))
}

fn queue_tasks(seconds: u64) -> Result<usize> {
    let tasks = number(QUEUE_VARIABLE)?.unwrap_or(if seconds < SECONDS_DEFAULT { 0 } else { QUEUE_DEFAULT });
    let allowed = tasks == 0 || (QUEUE_MIN..=QUEUE_MAX).contains(&tasks) && tasks.is_multiple_of(1_000);
    ensure!(allowed, "{QUEUE_VARIABLE} is {tasks}: use 0, or whole thousands from {QUEUE_MIN} to {QUEUE_MAX}");
    Ok(usize::try_from(tasks)?)
}

fn servers() -> Result<Servers> {
    let text = std::env::var(SERVERS_VARIABLE).unwrap_or_default();
    match text.as_str() {
        "" | "one" => Ok(Servers::One),
        "cluster" => Ok(Servers::Cluster),
        _ => bail!("{SERVERS_VARIABLE} is {text:?}: use one or cluster"),
    }
}

fn time_base() -> Result<Duration> {
    let text = std::env::var(TIME_BASE_VARIABLE).unwrap_or_default();
    let milliseconds = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        _ if text.is_empty() => Some(1_000),
        (Some(number), _) => number.parse::<u64>().ok(),
        (None, Some(number)) => number.parse::<u64>().ok().and_then(|seconds| seconds.checked_mul(1_000)),
        (None, None) => None,
    };
    let allowed = milliseconds.filter(|milliseconds| (50..=1_000).contains(milliseconds));
    allowed.map(Duration::from_millis).with_context(|| format!("{TIME_BASE_VARIABLE} is {text:?}: use 50ms to 1s"))
}

fn number(variable: &str) -> Result<Option<u64>> {
    let text = std::env::var(variable).unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).with_context(|| format!("{variable} is {text:?}: use a number"))
}
