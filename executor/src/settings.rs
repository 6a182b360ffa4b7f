//! What an executor is told at its start, and what is wrong with it.

use crate::work::WorkSettings;
use orchestr8_nats::NatsSettings;
use orchestr8_proto::log_level::LogControl;
use orchestr8_proto::names::{QueueNameError, check_queue_name};
use orchestr8_proto::reference::INPUTS_BYTES_LARGEST;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::traces::SpanSink;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Slots of one executor, at most.
pub const SLOTS_MAX: usize = 4_096;
/// Queues of one executor, at most: four consumers each.
pub const QUEUES_MAX: usize = 64;
/// Longest name of an executor, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Bytes of the token for metrics, at least: shorter ones can be guessed.
pub const TOKEN_BYTES_MIN: usize = 16;
/// Default of [`ExecutorSettings::unconfirmed_max`].
pub const UNCONFIRMED_MAX: usize = 4_096;
/// Default of [`ExecutorSettings::unconfirmed_bytes_max`].
pub const UNCONFIRMED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of inputs that are fetched at once, for runs that have not started; one fetch may have as many.
pub const FETCHING_BYTES_MAX: usize = INPUTS_BYTES_LARGEST;

/// Everything that an executor needs to know.
#[derive(Debug, Clone)]
pub struct ExecutorSettings {
    /// The servers.
    pub nats: NatsSettings,
    /// A label for people; the identity is the incarnation, drawn at every start.
    pub name: String,
    /// The queues that it serves, all priorities of each.
    pub queues: Vec<String>,
    /// Runs at the same time, from 1 to [`SLOTS_MAX`].
    pub slots: usize,
    /// How long a start waits for a server that never answered; zero: one try. A connection that was made is restored for ever.
    pub startup_patience: Duration,
    /// The protocol's times; the same on both sides.
    pub times: ProtocolTimes,
    /// How long started runs may go on after a shutdown was asked for.
    pub drain_timeout: Duration,
    /// What it may run and where.
    pub work: WorkSettings,
    /// With so many unconfirmed outcomes it stops fetching.
    pub unconfirmed_max: usize,
    /// With so many bytes of unconfirmed outcomes it stops fetching.
    pub unconfirmed_bytes_max: usize,
    /// Where metrics and probes are answered; none: nowhere.
    pub probes: Option<ProbeSettings>,
    /// What this process logs.
    pub log: LogControl,
    /// Where spans go.
    pub spans: SpanSink,
}

/// Where metrics and probes are answered.
#[derive(Clone)]
pub struct ProbeSettings {
    /// The address; port 0: a free one, which is logged.
    pub listen: SocketAddr,
    /// The bearer token that opens `/metrics`; where others can reach the address there must be one.
    pub token: Option<String>,
}

impl fmt::Debug for ProbeSettings {
    /// Never shows the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeSettings").field("listen", &self.listen).field("has_token", &self.token.is_some()).finish()
    }
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No server to connect to.
    #[error("nats.addresses is empty: name at least one server, such as `nats://127.0.0.1:4222`")]
    NoAddress,
    /// The name is empty, long, or holds control characters.
    #[error("name `{0}` is not usable: use 1 to {NAME_BYTES_MAX} bytes without control characters")]
    Name(String),
    /// No queue, or too many.
    #[error("queues names {0} queues: name 1 to {QUEUES_MAX}, such as `default`")]
    QueueCount(usize),
    /// One of the queues has a bad name.
    #[error("queues: {0}")]
    Queue(#[from] QueueNameError),
    /// One of the queues is named twice.
    #[error("queues names `{0}` twice: name each once")]
    QueueTwice(String),
    /// No slot, or too many.
    #[error("slots is {0}: use 1 to {SLOTS_MAX}")]
    Slots(usize),
    /// A bound of zero would never fetch.
    #[error("{0} is 0: use at least 1")]
    Zero(&'static str),
    /// Anyone who reaches the address could read the metrics.
    #[error("--metrics-listen `{0}` can be reached from elsewhere and no token is configured: give --metrics-token-file, or use 127.0.0.1")]
    MetricsOpen(SocketAddr),
    /// It could be guessed.
    #[error("the metrics token has {0} bytes: use at least {TOKEN_BYTES_MIN}, drawn at random")]
    ShortToken(usize),
    /// The base of all times is below a millisecond.
    #[error("times has a base of {0:?}: use at least 10 ms (published figures: 1 s)")]
    Base(Duration),
}

impl ExecutorSettings {
    /// Finds the first setting that cannot work.
    ///
    /// # Errors
    /// A [`SettingsError`] names field, value and remedy.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.nats.addresses.is_empty() {
            return Err(SettingsError::NoAddress);
        }
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || self.name.chars().any(char::is_control) {
            return Err(SettingsError::Name(self.name.escape_default().to_string()));
        }
        self.check_queues()?;
        if self.slots == 0 || self.slots > SLOTS_MAX {
            return Err(SettingsError::Slots(self.slots));
        }
        for (field, value) in [("unconfirmed_max", self.unconfirmed_max), ("unconfirmed_bytes_max", self.unconfirmed_bytes_max)] {
            if value == 0 {
                return Err(SettingsError::Zero(field));
            }
        }
        self.probes.as_ref().map_or(Ok(()), ProbeSettings::check)?;
        if self.times.base() < Duration::from_millis(10) { Err(SettingsError::Base(self.times.base())) } else { Ok(()) }
    }

    fn check_queues(&self) -> Result<(), SettingsError> {
        if self.queues.is_empty() || self.queues.len() > QUEUES_MAX {
            return Err(SettingsError::QueueCount(self.queues.len()));
        }
        for (index, queue) in self.queues.iter().enumerate() {
            check_queue_name(queue)?;
            if self.queues[..index].contains(queue) {
                return Err(SettingsError::QueueTwice(queue.clone()));
            }
        }
        Ok(())
    }
}

impl ProbeSettings {
    fn check(&self) -> Result<(), SettingsError> {
        match self.token.as_deref().map(|token| token.trim().len()) {
            Some(bytes) if bytes < TOKEN_BYTES_MIN => Err(SettingsError::ShortToken(bytes)),
            None if !self.listen.ip().to_canonical().is_loopback() => Err(SettingsError::MetricsOpen(self.listen)),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::handlers::Handlers;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    pub(crate) fn settings() -> ExecutorSettings {
        ExecutorSettings {
            nats: NatsSettings::open(vec!["nats://127.0.0.1:4222".into()]),
            name: "test".into(),
            queues: vec!["default".into()],
            slots: 2,
            startup_patience: Duration::ZERO,
            times: ProtocolTimes::default(),
            drain_timeout: Duration::from_secs(30),
            work: WorkSettings {
                shim_program: PathBuf::from("/nonexistent"),
                run_root: std::env::temp_dir(),
                workdirs_allowed: Vec::new(),
                environment: BTreeMap::new(),
                user: None,
                grace: Duration::from_secs(1),
                handlers: Handlers::builtin(),
            },
            unconfirmed_max: UNCONFIRMED_MAX,
            unconfirmed_bytes_max: UNCONFIRMED_BYTES_MAX,
            probes: None,
            log: LogControl::default(),
            spans: SpanSink::default(),
        }
    }

    #[test]
    fn each_bad_setting_is_named_with_value_and_remedy() {
        assert_eq!(settings().check(), Ok(()));
        let queues = |names: &[&str]| ExecutorSettings { queues: names.iter().map(|name| (*name).to_owned()).collect(), ..settings() };
        let probes = |listen: &str, token: Option<&str>| {
            let listen = listen.parse().expect("an address");
            ExecutorSettings { probes: Some(ProbeSettings { listen, token: token.map(ToOwned::to_owned) }), ..settings() }
        };
        assert_eq!(probes("127.0.0.1:0", None).check(), Ok(()));
        assert_eq!(probes("0.0.0.0:9090", Some("long-enough-to-be-one")).check(), Ok(()));
        let cases = [
            (probes("0.0.0.0:9090", None), "--metrics-listen `0.0.0.0:9090` can be reached from elsewhere"),
            (probes("127.0.0.1:0", Some("short")), "the metrics token has 5 bytes"),
            (ExecutorSettings { slots: 0, ..settings() }, "slots is 0: use 1 to 4096"),
            (ExecutorSettings { name: "a\nb".into(), ..settings() }, "name `a\\nb` is not usable"),
            (queues(&[]), "queues names 0 queues"),
            (queues(&["a", "a"]), "queues names `a` twice"),
            (queues(&["A"]), "queues: `A` is not a queue name"),
            (ExecutorSettings { unconfirmed_max: 0, ..settings() }, "unconfirmed_max is 0"),
            (ExecutorSettings { times: ProtocolTimes::new(Duration::ZERO), ..settings() }, "times has a base of 0ns"),
        ];
        for (settings, expected) in cases {
            let error = settings.check().expect_err(expected).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
