//! What a coordinator is told, and why it may not start.

use crate::api::external_metrics::ExternalMetricsSettings;
use crate::api::tls::{ApiCertificate, TlsError};
use crate::bus::BusError;
use crate::deletion_cost::{ClusterAccess, ClusterError};
use orchestr8_nats::NatsSettings;
use orchestr8_proto::log_level::LogControl;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::tokens::TokenKeys;
use orchestr8_proto::traces::SpanSink;
use orchestr8_store::migrate::OpenError;
use std::net::SocketAddr;
use std::time::Duration;

/// Everything that an operator decides about one coordinator.
pub struct CoordinatorSettings {
    /// Where Postgres is, with its secrets.
    pub database_url: String,
    /// Where NATS is, with its secrets.
    pub nats: NatsSettings,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// What the API identifies itself with; none: it speaks without TLS.
    pub tls: Option<ApiCertificate>,
    /// Connections to the API that are open at the same time, at most, at least 1; who comes then waits.
    pub connections_max: usize,
    /// The API's bearer token.
    pub token: String,
    /// A bearer token that opens `/metrics` and the demand of queues alone.
    pub metrics_token: Option<String>,
    /// Where the demand is served to Kubernetes' API server; none: nowhere.
    pub external_metrics: Option<ExternalMetricsSettings>,
    /// The cluster that is told how busy executors' pods are; none: nobody is.
    pub pod_deletion_cost: Option<ClusterAccess>,
    /// Sign dispatches; the same on all coordinators.
    pub token_keys: TokenKeys,
    /// A label in logs and leases.
    pub name: String,
    /// What this process logs.
    pub log: LogControl,
    /// Where spans go.
    pub spans: SpanSink,
    /// Of submissions whose caller traces nothing, how many begin a trace: from 0 to 1.
    pub trace_ratio: f64,
    /// How long a start waits for Postgres and NATS together; zero: one try each.
    pub startup_patience: Duration,
    /// The same on coordinators and executors.
    pub times: ProtocolTimes,
    /// For a new database; an existing one keeps its own.
    pub shard_count: u16,
    /// Lanes, at least 1: each works through the events of its own shards.
    pub lanes: usize,
    /// Bytes of executions that are kept in memory; 0: none.
    pub cache_bytes_max: usize,
    /// Dispatches of one queue and priority in JetStream; what is beyond is held in Postgres.
    pub subject_messages_max: u64,
    /// Dispatches of tasks known to be short that travel in one message, at most; 1: each alone.
    pub bundle_max: usize,
    /// Queues that there may be, at least 1; a submission with one more is refused.
    pub queues_max: usize,
    /// The consumers of a queue that nobody uses or serves for so long are removed.
    pub queue_forgotten_after: Duration,
    /// Bytes of the evaluated inputs of one dispatch, at most; more fails the task.
    pub inputs_bytes_max: usize,
    /// Servers of a NATS cluster that keep a copy of each stream: 1, 3 or 5.
    pub nats_replicas: u8,
}

/// Why a coordinator did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The database.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// NATS.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({flag}): {reason}; end what has it, or name another address with {flag}")]
    Listen {
        /// The flag that names it.
        flag: &'static str,
        /// What was asked for.
        address: SocketAddr,
        /// The system's words.
        reason: String,
    },
    /// The API's address is open to others without a token.
    #[error(transparent)]
    Exposed(#[from] crate::api::ListenError),
    /// The API's certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The API's token is not one.
    #[error(transparent)]
    Token(#[from] crate::api::access::TokenError),
    /// The cluster cannot be told anything.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A part ended by itself: a bug.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

impl CoordinatorError {
    /// Whether the same attempt may succeed later, with nobody correcting anything.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Database(error) => error.may_pass(),
            Self::Bus(error) => error.may_pass(),
            Self::Listen { .. } | Self::Exposed(_) | Self::Tls(_) | Self::Token(_) | Self::Cluster(_) | Self::Ended(_) => false,
        }
    }
}
