//! The server sub-commands: configuration, telemetry, start, signals, bounded end. No logic.
//!
//! - [`configuration`]: flags, environment and file become one set of values
//! - [`secrets`]: tokens and keys from files; `reference`: the documented flags are the real ones
//! - [`nats`]: the flags about NATS that both share; [`kubernetes`]: those about the cluster
//! - [`open_files`]: how many connections the system allows
//! - [`telemetry`]: logs and traces, and the flags about them; [`export`]: spans to a collector
//! - [`coordinator`], [`executor`]: their flags, and the settings that these make

mod configuration;
pub mod coordinator;
pub mod executor;
mod export;
mod kubernetes;
mod nats;
mod open_files;
#[cfg(test)]
mod reference;
mod secrets;
mod telemetry;

pub use configuration::wrong_variable;

use crate::exit::Exit;
use orchestr8_core::definition::parse_duration;
use orchestr8_proto::log_level::LogControl;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::traces::SpanSink;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use telemetry::TelemetryArgs;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a process exits with that is ended by a signal, by custom.
const EXIT_INTERRUPTED: u8 = 130;
/// Threads that are still busy at the end may take this long.
const RUNTIME_END_MAX: Duration = Duration::from_secs(2);
/// The range of the base of all protocol times: below, beats outrun their messages; above, nothing is ever noticed.
const TIME_BASE_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(1);

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A flag, variable or file has a wrong value: correct it.
    #[error("{0}")]
    Configuration(String),
    /// Something that it needs cannot be reached or used: see to that.
    #[error("{0}")]
    Unavailable(String),
    /// It ended by an error of its own, or the system refused a basic facility.
    #[error("{0}")]
    Failed(String),
}

impl ServiceError {
    /// The exit code.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Configuration(_) => Exit::Configuration,
            Self::Unavailable(_) => Exit::Unavailable,
            Self::Failed(_) => Exit::Failed,
        }
    }
}

/// How long a server waits at its start for those that it needs: containers that start together are up within seconds.
const STARTUP_PATIENCE_DEFAULT: &str = "30s";

/// A server: its name on the command line, its flags, and how it runs until `shutdown`.
pub trait Service: clap::FromArgMatches {
    /// The sub-command.
    const NAME: &'static str;

    /// What its spans are of, unless the environment says otherwise.
    const SERVICE: &'static str;

    /// Its flags about logs and traces.
    fn telemetry(&self) -> &TelemetryArgs;

    /// Runs until `shutdown` is cancelled and its bounded drain is over.
    fn serve(
        self,
        telemetry: (LogControl, SpanSink),
        shutdown: CancellationToken,
    ) -> impl Future<Output = Result<(), ServiceError>> + Send + 'static;
}

/// Runs a server until a signal asks it to end; the second signal ends the process at once.
pub fn start<S: Service>(command: clap::Command) -> ExitCode {
    match run::<S>(command) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            eprintln!("orchestr8 {}: {error}", S::NAME);
            error.exit().into()
        }
    }
}

fn run<S: Service>(command: clap::Command) -> Result<(), ServiceError> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let matches = configuration::matches(command, &words, S::NAME).map_err(|error| ServiceError::Configuration(error.to_string()))?;
    let service = S::from_arg_matches(&matches).map_err(|error| ServiceError::Configuration(error.to_string()))?;
    let telemetry = service.telemetry().begin(S::SERVICE)?;
    let (log, spans) = (telemetry.log.clone(), telemetry.spans.clone());
    let system = |error: std::io::Error| ServiceError::Failed(format!("the system refused a basic facility: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(system)?;
    let ended = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let signals = Signals::listen().map_err(system)?;
        tokio::spawn(signals.relay(shutdown.clone()));
        // On a worker: from the thread that blocks here every message would cross to another.
        let served = tokio::spawn(service.serve((log, spans), shutdown)).await;
        served.unwrap_or_else(|error| Err(ServiceError::Failed(format!("it ended by a bug: {error}"))))
    });
    runtime.shutdown_timeout(RUNTIME_END_MAX);
    telemetry.end();
    ended
}

/// What asks a server to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn relay(mut self, shutdown: CancellationToken) {
        let first = self.next().await;
        tracing::info!(signal = first, "shutting down; a second signal ends the process at once");
        shutdown.cancel();
        let second = self.next().await;
        tracing::warn!(signal = second, "ending at once");
        std::process::exit(i32::from(EXIT_INTERRUPTED));
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Reads where to listen.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>().unwrap_or(8088);
    text.parse().map_err(|_| format!("use ADDRESS:PORT, such as 127.0.0.1:{port}; an address of IPv6 stands in brackets, no name will do"))
}

/// Reads the base of all protocol times.
fn parse_time_base(text: &str) -> Result<Duration, String> {
    let base = crate::commands::values::parse_span(text)?;
    if TIME_BASE_RANGE.contains(&base) { Ok(base) } else { Err("use 10ms to 60s; published figures are for 1s".to_owned()) }
}

/// Reads how long a start waits; zero is one try.
fn parse_patience(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// Shows every protocol time at the start.
fn log_times(times: &ProtocolTimes) {
    let shown: Vec<String> = times.all().into_iter().map(|(name, time)| format!("{name}={}", crate::text::show_duration(time))).collect();
    tracing::info!(base = ?times.base(), "protocol times: {}", shown.join(" "));
}

/// An address without user, password and token, for logs and errors.
fn without_secrets(url: &str) -> String {
    let bare = |url: &str| match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        (Some(_) | None, None) => url.to_owned(),
    };
    let without_query = |url: &str| url.split_once('?').map_or_else(|| url.to_owned(), |(start, _)| start.to_owned());
    url.split(',').map(|url| without_query(&bare(url.trim()))).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_secrets() {
        for (url, shown) in [
            ("postgres://u:p@ss@h:5432/db?password=x", "postgres://h:5432/db"),
            ("nats://u:p@a:1, nats://t@b:2", "nats://a:1,nats://b:2"),
            ("u:p@h", "h"),
            ("nats://h", "nats://h"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn the_time_base_has_a_range() {
        assert_eq!(parse_time_base("100ms"), Ok(Duration::from_millis(100)));
        assert!(parse_time_base("5ms").is_err() && parse_time_base("2m").is_err() && parse_time_base("x").is_err());
    }

    #[test]
    fn a_start_may_have_no_patience() {
        assert_eq!((parse_patience("0s"), parse_patience("2m")), (Ok(Duration::ZERO), Ok(Duration::from_mins(2))));
        assert!(parse_patience("-1s").is_err() && parse_patience("").is_err());
    }

    #[test]
    fn exit_codes_tell_who_must_act() {
        assert_eq!(ServiceError::Configuration(String::new()).exit().code(), 64);
        assert_eq!(ServiceError::Unavailable(String::new()).exit().code(), 69);
    }
}
