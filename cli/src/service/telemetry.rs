//! What a server tells of itself: log lines, and spans of traces. Neither makes work wait.

use super::ServiceError;
use super::export::{Exporter, exporter};
use orchestr8_proto::log_level::{BadLogFilter, LogControl, LogFilter};
use orchestr8_proto::traces::SpanSink;
use std::sync::{Arc, Mutex, PoisonError};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

/// Read where nothing of ours says what is logged.
const COMMON_VARIABLE: &str = "RUST_LOG";
/// What is logged unless somebody says otherwise.
const FILTER_DEFAULT: &str = "info";
/// The words that a filter may be made of without a module.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Flags of both servers.
#[derive(Debug, Clone, clap::Args)]
pub struct TelemetryArgs {
    /// What is logged: a level, or levels by module such as `orchestr8_coordinator=debug,info` [default: the variable `RUST_LOG`, else `info`]. `orchestr8 log-level` changes it while it runs.
    #[arg(long, env = "ORCHESTR8_LOG", value_name = "FILTER")]
    log_level: Option<String>,
    /// How log lines are written to stderr: for people, or as one JSON object each.
    #[arg(long, env = "ORCHESTR8_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// The collector that spans of traces are sent to, by OTLP over HTTP: its base address, to which `/v1/traces` is added [default: none, and nothing is traced].
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The telemetry of this process.
pub struct Telemetry {
    /// What is logged.
    pub log: LogControl,
    /// Where spans go.
    pub spans: SpanSink,
    exporter: Option<Arc<Exporter>>,
}

impl TelemetryArgs {
    /// Begins to log, and to export spans where somebody wants them. Outside of any runtime: the exporter has a thread of its own.
    ///
    /// # Errors
    /// [`ServiceError::Configuration`] names the flag.
    pub fn begin(&self, service: &'static str) -> Result<Telemetry, ServiceError> {
        let log = begin_log(&self.filter()?, self.log_format);
        let endpoint = self.otlp_endpoint.as_deref().map(str::trim).filter(|endpoint| !endpoint.is_empty());
        let exporter = endpoint.map(|endpoint| exporter(endpoint, service)).transpose()?.map(Arc::new);
        let spans = exporter.as_ref().map(|exporter| {
            let exporter = Arc::clone(exporter);
            SpanSink::new(move |span| exporter.take(span))
        });
        Ok(Telemetry { log, spans: spans.unwrap_or_default(), exporter })
    }

    fn filter(&self) -> Result<String, ServiceError> {
        let wrong = |name: &str, error: &dyn std::fmt::Display| ServiceError::Configuration(format!("{name}: {error}"));
        if let Some(filter) = self.log_level.as_deref().filter(|filter| !filter.trim().is_empty()) {
            parsed(filter).map_err(|error| wrong("--log-level or ORCHESTR8_LOG", &error))?;
            return Ok(filter.to_owned());
        }
        let common = std::env::var(COMMON_VARIABLE).ok().filter(|filter| !filter.trim().is_empty());
        let Some(filter) = common else { return Ok(FILTER_DEFAULT.to_owned()) };
        EnvFilter::builder().parse(&filter).map_err(|error| wrong(COMMON_VARIABLE, &error))?;
        Ok(filter)
    }
}

impl Telemetry {
    /// Sends what has not been sent, within a bound.
    pub fn end(&self) {
        self.exporter.iter().for_each(|exporter| exporter.end());
    }
}

fn begin_log(filter: &str, format: LogFormat) -> LogControl {
    // Both were parsed before; the common variable by the looser rules.
    let (layer, handle) = reload::Layer::new(EnvFilter::new(filter));
    let lines: Box<dyn Layer<_> + Send + Sync> = match format {
        LogFormat::Text => {
            let colors = crate::tree::Colors::of_stderr() == crate::tree::Colors::On;
            Box::new(fmt::layer().with_writer(std::io::stderr).with_ansi(colors))
        }
        LogFormat::Json => {
            let lines = fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false);
            Box::new(lines.with_writer(std::io::stderr))
        }
    };
    tracing_subscriber::registry().with(layer).with(discreet()).with(lines).init();
    LogControl::new(Reloaded { current: Mutex::new(filter.to_owned()), handle })
}

/// What is never logged, whatever somebody wants: below `info` the NATS client tells whole messages, inputs and outputs with them.
fn discreet() -> Targets {
    Targets::new().with_default(LevelFilter::TRACE).with_target("async_nats", LevelFilter::INFO)
}

struct Reloaded {
    current: Mutex<String>,
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogFilter for Reloaded {
    fn current(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check(&self, filter: &str) -> Result<(), BadLogFilter> {
        parsed(filter).map(drop)
    }

    fn set(&self, filter: &str) -> Result<(), BadLogFilter> {
        let wanted = parsed(filter)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Before: a log that becomes silent says why.
        tracing::info!(from = %current, to = filter, "what is logged changes");
        self.handle.reload(wanted).map_err(|error| BadLogFilter(format!("the log cannot be changed: {error}")))?;
        filter.clone_into(&mut current);
        Ok(())
    }
}

/// The filter of a text. A bare word that is no level would silently be a module that nobody has.
fn parsed(filter: &str) -> Result<EnvFilter, BadLogFilter> {
    const REMEDY: &str = "write one of off, error, warn, info, debug, trace, or levels by module such as orchestr8_coordinator=debug,info";
    let wrong = |part: &str, reason: &str| BadLogFilter(format!("`{part}` {reason}: {REMEDY}"));
    for part in filter.split(',').map(str::trim) {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(wrong(part, "is no level"));
        }
    }
    EnvFilter::builder().parse(filter).map_err(|error| wrong(filter, &format!("is not understood ({error})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_made_of_levels() {
        for good in ["info", "WARN", "off", "orchestr8_coordinator=debug,info", "a::b=trace, warn"] {
            assert!(parsed(good).is_ok(), "{good}");
        }
        for (bad, part) in [("debgu", "`debgu` is no level"), ("a=loud", "`a=loud`"), ("info,", "`` is no level"), ("", "`` is no level")] {
            let error = parsed(bad).expect_err(bad).to_string();
            assert!(error.contains(part) && error.contains("orchestr8_coordinator=debug,info"), "{error}");
        }
        assert!(parsed("a b\u{0}[=info").is_err());
    }

    #[test]
    fn the_nats_client_tells_no_messages() {
        let discreet = discreet();
        for (target, level, told) in [
            ("async_nats::connection", tracing::Level::TRACE, false),
            ("async_nats::jetstream::context", tracing::Level::DEBUG, false),
            ("async_nats", tracing::Level::INFO, true),
            ("orchestr8_executor::serve", tracing::Level::TRACE, true),
        ] {
            assert_eq!(discreet.would_enable(target, &level), told, "{target} {level}");
        }
    }

    #[test]
    fn a_wrong_filter_is_refused_by_name() {
        let args = |filter: &str| TelemetryArgs { log_level: Some(filter.into()), log_format: LogFormat::Text, otlp_endpoint: None };
        assert_eq!(args("warn").filter().expect("a level"), "warn");
        let refused = args("debgu").filter().expect_err("no level");
        assert!(refused.to_string().starts_with("--log-level or ORCHESTR8_LOG: `debgu`"), "{refused}");
    }
}
