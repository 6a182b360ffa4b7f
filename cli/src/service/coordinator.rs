//! `orchestr8 coordinator`: flags to the settings of a coordinator.

use super::kubernetes::KubernetesArgs;
use super::nats::NatsArgs;
use super::open_files;
use super::secrets::{read_secret, read_token_keys};
use super::telemetry::TelemetryArgs;
use super::{STARTUP_PATIENCE_DEFAULT, Service, ServiceError, log_times, parse_address, parse_patience, parse_time_base, without_secrets};
use crate::commands::values::parse_span;
use nix::unistd::gethostname;
use orchestr8_coordinator::{ApiCertificate, CoordinatorError, CoordinatorSettings, Token};
use orchestr8_proto::ids::SHARDS_MAX;
use orchestr8_proto::log_level::LogControl;
use orchestr8_proto::reference::{INPUTS_BYTES_LARGEST, INPUTS_BYTES_MAX_DEFAULT};
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::traces::SpanSink;
use orchestr8_proto::wire::DISPATCH_BYTES_MAX;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The environment variable with the API's token, where there is no --token-file.
const TOKEN_VARIABLE: &str = "ORCHESTR8_TOKEN";

/// Run a coordinator: it serves the API, keeps the truth in Postgres and publishes ready tasks to NATS JetStream.
///
/// Several share the work, and those that are left take over what another one did within ten seconds. Settings come from flags, then the environment, then --config.
#[derive(Debug, clap::Args)]
pub struct CoordinatorArgs {
    /// Postgres, `postgres://user:password@host:port/database`. Better in the environment: a command line is for everyone to read.
    #[arg(long, env = "ORCHESTR8_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
    /// Of submissions whose caller traces nothing, how many begin a trace, from 0 to 1; a caller's `traceparent` decides for itself.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", value_name = "RATIO", value_parser = parse_ratio, default_value = "1")]
    trace_ratio: f64,
    /// The address that the API listens on. Any other than one of this machine itself needs a token that was configured on purpose.
    #[arg(long, env = "ORCHESTR8_LISTEN", value_name = "ADDRESS:PORT", value_parser = parse_address, default_value = "127.0.0.1:8088")]
    listen: SocketAddr,
    /// The file with the API's bearer token, at least 16 characters [default: the variable `ORCHESTR8_TOKEN`].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The file with the API's certificate, then those between it and an authority, PEM; the API speaks TLS then.
    #[arg(long, env = "ORCHESTR8_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The file with the private key of --tls-cert, PEM.
    #[arg(long, env = "ORCHESTR8_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Connections to the API that are open at the same time, at most; who comes then waits. Fewer where the system allows fewer open files.
    #[arg(long, env = "ORCHESTR8_CONNECTIONS_MAX", value_name = "N", default_value_t = 8_192, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections_max: u32,
    /// The file with a bearer token that opens /metrics and the demand of queues alone, for whoever scrapes and scales [default: none].
    #[arg(long, env = "ORCHESTR8_METRICS_TOKEN_FILE", value_name = "FILE")]
    metrics_token_file: Option<PathBuf>,
    /// The file with the keys that sign tokens between coordinators and executors, the same on all coordinators: lines NUMBER:HEXADECIMAL.
    #[arg(long, env = "ORCHESTR8_TOKEN_KEYS_FILE", value_name = "FILE")]
    token_keys_file: Option<PathBuf>,
    /// Its name in logs and leases [default: the host's name and the process's number].
    #[arg(long, env = "ORCHESTR8_NAME", value_name = "NAME")]
    name: Option<String>,
    /// The base of all protocol times; the same on coordinators and executors. Published figures are for 1s.
    #[arg(long, env = "ORCHESTR8_TIME_BASE", value_name = "DURATION", value_parser = parse_time_base, default_value = "1s")]
    time_base: Duration,
    /// How long it waits at its start for Postgres and NATS to be there; 0s: one try. What waiting cannot mend ends it at once.
    #[arg(long, env = "ORCHESTR8_STARTUP_PATIENCE", value_name = "DURATION", value_parser = parse_patience, default_value = STARTUP_PATIENCE_DEFAULT)]
    startup_patience: Duration,
    /// Shards of a new database; an existing one keeps its own.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=i64::from(SHARDS_MAX)))]
    shard_count: u16,
    /// Lanes of this coordinator: each has its own shards and its own connections to Postgres and NATS, and works by itself.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    lanes: u8,
    /// Memory for executions in hand, in bytes; 0 reads them anew each time.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20)]
    cache_bytes: usize,
    /// Messages of one queue and priority in JetStream, at most; what is beyond waits in Postgres.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    subject_messages_max: u64,
    /// Tasks in one message, at most, where their handler is known to take far less than a millisecond; 1: each travels alone.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    bundle_max: u16,
    /// Queues that there may be; a submission that names one more is refused. Each takes four consumers in JetStream, some 300 kB of nats-server.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    queues_max: u16,
    /// A queue that nobody uses or serves for so long loses its consumers; they are made again when it is used.
    #[arg(long, value_name = "DURATION", value_parser = parse_span, default_value = "1d")]
    queue_forgotten_after: Duration,
    /// Script, `with`, `env` and prompt of one task together, evaluated, in bytes; more fails the task. Beyond 512 KiB its executor fetches them in parts.
    #[arg(long, value_name = "BYTES", default_value_t = INPUTS_BYTES_MAX_DEFAULT, value_parser = parse_inputs_bytes)]
    inputs_bytes_max: usize,
    /// Servers of a NATS cluster that keep a copy of each stream: 1, 3 or 5. Streams that have fewer get more.
    #[arg(long, env = "ORCHESTR8_NATS_REPLICAS", value_name = "N", default_value_t = 1, value_parser = parse_replicas)]
    nats_replicas: u8,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
    /// A file with settings: YAML, one mapping, its keys the flags without dashes in front.
    #[arg(long, env = "ORCHESTR8_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Service for CoordinatorArgs {
    const NAME: &'static str = "coordinator";

    const SERVICE: &'static str = "orchestr8-coordinator";

    fn telemetry(&self) -> &TelemetryArgs {
        &self.telemetry
    }

    async fn serve(self, (log, spans): (LogControl, SpanSink), shutdown: CancellationToken) -> Result<(), ServiceError> {
        let token = std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.trim().is_empty());
        let mut settings = CoordinatorSettings { log, spans, ..self.settings(token)? };
        settings.connections_max = open_files::room_for(settings.connections_max);
        log_start(&settings);
        orchestr8_coordinator::run(settings, shutdown).await.map_err(|error| told(&error))
    }
}

impl CoordinatorArgs {
    fn settings(self, token_in_environment: Option<String>) -> Result<CoordinatorSettings, ServiceError> {
        let missing = |what: &str| ServiceError::Configuration(what.to_owned());
        let database_url = self.database_url.filter(|url| !url.trim().is_empty());
        let database_url = database_url
            .ok_or_else(|| missing("no database: set ORCHESTR8_DATABASE_URL, such as postgres://user:password@host/database"))?;
        let keys_file = self
            .token_keys_file
            .ok_or_else(|| missing("no token keys: name their file with --token-keys-file or ORCHESTR8_TOKEN_KEYS_FILE; make it once, for all coordinators, with `(umask 077; echo \"1:$(openssl rand -hex 32)\" > FILE)`"))?;
        let token = match (self.token_file, token_in_environment) {
            (Some(file), _) => api_token(&format!("--token-file {}", file.display()), read_secret("--token-file", &file)?)?,
            (None, Some(token)) => api_token(TOKEN_VARIABLE, token.trim().to_owned())?,
            (None, None) => {
                return Err(missing(
                    "no API token: name its file with --token-file, or set ORCHESTR8_TOKEN; make one with `(umask 077; openssl rand -hex 32 > FILE)`",
                ));
            }
        };
        let host = gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "coordinator".to_owned());
        Ok(CoordinatorSettings {
            database_url,
            nats: self.nats.settings()?,
            listen: self.listen,
            tls: self.tls_cert.zip(self.tls_key).map(|(certificate, key)| ApiCertificate { flags: "--tls", certificate, key }),
            connections_max: usize::try_from(self.connections_max).unwrap_or(usize::MAX),
            token,
            metrics_token: self.metrics_token_file.as_deref().map(metrics_token).transpose()?,
            external_metrics: self.kubernetes.external_metrics(),
            pod_deletion_cost: self.kubernetes.cluster(|name| std::env::var(name).ok())?,
            token_keys: read_token_keys("--token-keys-file", &keys_file)?,
            name: self.name.unwrap_or_else(|| format!("{host}-{}", std::process::id())),
            log: LogControl::default(),
            spans: SpanSink::default(),
            trace_ratio: self.trace_ratio,
            startup_patience: self.startup_patience,
            times: ProtocolTimes::new(self.time_base),
            shard_count: self.shard_count,
            lanes: usize::from(self.lanes),
            cache_bytes_max: self.cache_bytes,
            subject_messages_max: self.subject_messages_max,
            bundle_max: usize::from(self.bundle_max),
            queues_max: usize::from(self.queues_max),
            queue_forgotten_after: self.queue_forgotten_after,
            inputs_bytes_max: self.inputs_bytes_max,
            nats_replicas: self.nats_replicas,
        })
    }
}

/// A token as it stands at `place`, if it is one.
fn api_token(place: &str, token: String) -> Result<String, ServiceError> {
    Token::new(&token).map_err(|error| ServiceError::Configuration(format!("{place}: {error}")))?;
    Ok(token)
}

fn metrics_token(file: &Path) -> Result<String, ServiceError> {
    const FLAG: &str = "--metrics-token-file";
    api_token(&format!("{FLAG} {}", file.display()), read_secret(FLAG, file)?)
}

fn parse_inputs_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok().filter(|bytes| (DISPATCH_BYTES_MAX..=INPUTS_BYTES_LARGEST).contains(bytes));
    bytes.ok_or_else(|| format!("use {DISPATCH_BYTES_MAX} to {INPUTS_BYTES_LARGEST} bytes: both sides keep them in memory as a whole"))
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| "use a number from 0 to 1".to_owned())
}

fn parse_replicas(text: &str) -> Result<u8, String> {
    let replicas = text.parse().ok().filter(|replicas| [1, 3, 5].contains(replicas));
    replicas.ok_or_else(|| "use 1, 3 or 5: an even number stands no more failures than the odd one below it".to_owned())
}

/// Who must act on an error.
fn told(error: &CoordinatorError) -> ServiceError {
    match error {
        CoordinatorError::Database(_) | CoordinatorError::Bus(_) if error.may_pass() => ServiceError::Unavailable(error.to_string()),
        CoordinatorError::Database(_)
        | CoordinatorError::Bus(_)
        | CoordinatorError::Listen { .. }
        | CoordinatorError::Exposed(_)
        | CoordinatorError::Tls(_)
        | CoordinatorError::Token(_)
        | CoordinatorError::Cluster(_) => ServiceError::Configuration(error.to_string()),
        CoordinatorError::Ended(_) => ServiceError::Failed(error.to_string()),
    }
}

fn log_start(settings: &CoordinatorSettings) {
    tracing::info!(
        name = %settings.name,
        version = env!("CARGO_PKG_VERSION"),
        listen = %settings.listen,
        database = %without_secrets(&settings.database_url),
        nats = %settings.nats.shown(),
        nats_login = %settings.nats.shown_login(),
        tls = settings.tls.is_some(),
        "coordinator starts"
    );
    tracing::info!(
        shard_count = settings.shard_count,
        lanes = settings.lanes,
        cache_bytes_max = settings.cache_bytes_max,
        subject_messages_max = settings.subject_messages_max,
        bundle_max = settings.bundle_max,
        inputs_bytes_max = settings.inputs_bytes_max,
        nats_replicas = settings.nats_replicas,
        queues_max = settings.queues_max,
        queue_forgotten_after = ?settings.queue_forgotten_after,
        connections_max = settings.connections_max,
        "limits"
    );
    log_times(&settings.times);
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        coordinator: CoordinatorArgs,
    }

    fn resolve(words: &[&str], token: Option<&str>) -> Result<CoordinatorSettings, String> {
        let words = std::iter::once("coordinator").chain(words.iter().copied());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.coordinator.settings(token.map(ToOwned::to_owned)).map_err(|error| error.to_string())
    }

    fn keys_file(folder: &Path) -> String {
        let file = folder.join("keys");
        std::fs::write(&file, format!("1:{}\n", "ab".repeat(32))).expect("writable");
        file.display().to_string()
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let keys = keys_file(folder.path());
        let resolved = resolve(&["--database-url", "postgres://u:p@h/d", "--token-keys-file", &keys], Some("a-long-enough-token\n"))
            .expect("complete");
        assert_eq!(resolved.listen.to_string(), "127.0.0.1:8088");
        assert_eq!((resolved.connections_max, resolved.queues_max), (8_192, 1_000));
        assert_eq!(resolved.queue_forgotten_after, Duration::from_hours(24));
        assert_eq!((resolved.shard_count, resolved.subject_messages_max, resolved.cache_bytes_max), (16, 100_000, 268_435_456));
        assert_eq!((resolved.nats.shown().as_str(), resolved.token.as_str()), ("nats://127.0.0.1:4222", "a-long-enough-token"));
        assert_eq!((resolved.times, resolved.startup_patience), (ProtocolTimes::default(), Duration::from_secs(30)));
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let keys = keys_file(folder.path());
        let complete = ["--database-url", "postgres://h/d", "--token-keys-file", &keys];
        let short = folder.path().join("short").display().to_string();
        std::fs::write(&short, "short\n").expect("writable");
        for (words, token, reason) in [
            (&complete[2..], Some("t"), "ORCHESTR8_DATABASE_URL"),
            (&complete[..2], Some("t"), "--token-keys-file"),
            (&complete[..2], Some("a-long-enough-token"), "openssl rand -hex 32"),
            (&complete[..], None, "no API token"),
            (&complete[..], Some("short"), "ORCHESTR8_TOKEN: the API token has 5 bytes"),
            (&[&complete[..], &["--token-file", &short]].concat(), None, &format!("--token-file {short}: the API token has 5 bytes")),
            (&[&complete[..], &["--metrics-token-file", &short]].concat(), Some("a-long-enough-token"), "--metrics-token-file /"),
            (&["--listen", "8089"], None, "use ADDRESS:PORT, such as 127.0.0.1:8089"),
            (&["--shard-count", "0"], None, "--shard-count"),
            (&["--nats-replicas", "2"], None, "1, 3 or 5"),
            (&["--inputs-bytes-max", "1000"], None, "524288 to 67108864 bytes"),
            (&["--trace-ratio", "2"], None, "from 0 to 1"),
            (&["--log-format", "xml"], None, "--log-format"),
            (&["--listen", "everywhere"], None, "--listen"),
            (
                &[&complete[..], &["--metrics-token-file", "/nonexistent"]].concat(),
                Some("a-long-enough-token"),
                "--metrics-token-file /nonexistent",
            ),
            (&["--time-base", "1ms"], None, "10ms to 60s"),
            (&["--startup-patience", "soon"], None, "--startup-patience"),
        ] {
            let refused = resolve(words, token).err().expect(reason);
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
