//! From settings to a running coordinator, and its bounded end.

use crate::api::connections::ConnectionLimits;
use crate::api::{self, ApiContext, ApiSettings, access, external_metrics};
use crate::bus::control::Speaker;
use crate::bus::listen;
use crate::bus::parts::Carrier;
use crate::bus::publisher::Publisher;
use crate::bus::streams::StreamShape;
use crate::bus::{Bus, BusError};
use crate::deletion_cost::DeletionCosts;
use crate::engine::handle::{Command, EngineHandle};
use crate::engine::lane::{INPUTS_MAX, Lane, LaneParts};
use crate::metrics::Metrics;
use crate::settings::{CoordinatorError, CoordinatorSettings};
use orchestr8_core::plan::DEFAULT_QUEUE;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_store::migrate::{Database, Installation, OpenError};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Commands of callers that wait for the lane.
const COMMANDS_MAX: usize = 4_096;
/// How busy a pod is, its cluster is told at most once in so many bases: 10 s.
const COST_INTERVAL_BASES: u32 = 10;
/// Connections to Postgres for reads.
const READ_CONNECTIONS_MAX: u32 = 8;
/// A server that is away is tried again after this.
const STARTUP_PAUSE: Duration = Duration::from_millis(250);
/// What a start waits for is said this often.
const STARTUP_SAID_EVERY: Duration = Duration::from_secs(5);
/// A database that neither answers nor refuses is given up after this, and tried again.
const REACH_MAX: Duration = Duration::from_secs(5);

/// Runs a coordinator until `shutdown`; then it answers what it has, saves its marks and gives its shards back.
///
/// # Errors
/// [`CoordinatorError`]: what is wrong with an address, a version or a permission, in one line.
pub async fn run(settings: CoordinatorSettings, shutdown: CancellationToken) -> Result<(), CoordinatorError> {
    api::check_listen(settings.listen, Some(&settings.token))?;
    let tls = settings.tls.as_ref().map(api::tls::acceptor).transpose()?;
    let listener = bind("--listen", settings.listen).await?;
    let cluster = ClusterSide::prepare(&settings).await?;
    if tls.is_none() && !settings.listen.ip().to_canonical().is_loopback() {
        tracing::warn!(listen = %settings.listen, "the API can be reached from elsewhere and speaks without TLS, tokens and all: use --tls-cert and --tls-key, or a proxy that does");
    }
    let (handle, commands) = EngineHandle::new(settings.lanes, COMMANDS_MAX);
    let metrics = Metrics::default();
    let reads = Database::new(&settings.database_url)?.read_pool(READ_CONNECTIONS_MAX);
    let api_settings = ApiSettings {
        tokens: vec![access::Token::new(&settings.token)?],
        metrics_tokens: settings.metrics_token.iter().map(|token| access::Token::new(token)).collect::<Result<_, _>>()?,
        name: settings.name.clone(),
        log: settings.log.clone(),
        spans: settings.spans.clone(),
        trace_ratio: settings.trace_ratio,
        times: settings.times,
        connections: ConnectionLimits::of(settings.connections_max),
        queues_max: settings.queues_max,
        shutdown: shutdown.clone(),
    };
    let context = ApiContext::new(handle.clone(), reads, api_settings, metrics.clone());
    let lanes_stop = CancellationToken::new();
    // The API answers from the start, so that who probes it learns what the start waits for.
    tracing::info!(address = %listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string()), "API");
    cluster.start(&context, settings.times);
    let mut serving = tokio::spawn(api::serve(listener, tls, context));
    let mut parts = tokio::select! {
        started = start_lanes(&settings, (handle, commands), &metrics, &lanes_stop) => started?,
        () = shutdown.cancelled() => return Ok(()),
    };
    // A part that ends by itself is a bug, and the process ends with it: another takes over.
    let served = tokio::select! {
        served = &mut serving => served,
        Some(_) = parts.join_next() => return Err(CoordinatorError::Ended("a lane or its publisher")),
    };
    // Callers are answered first, then the lanes stop, and with them their publishers.
    lanes_stop.cancel();
    while let Some(ended) = parts.join_next().await {
        ended.map_err(|_| CoordinatorError::Ended("a lane"))?;
    }
    if matches!(served, Ok(())) { Ok(()) } else { Err(CoordinatorError::Ended("the API")) }
}

async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, CoordinatorError> {
    TcpListener::bind(address).await.map_err(|error| CoordinatorError::Listen { flag, address, reason: error.to_string() })
}

/// What only a Kubernetes cluster is served and told, where that was asked for.
struct ClusterSide {
    external_metrics: Option<(TcpListener, TlsAcceptor)>,
    costs: Option<DeletionCosts>,
}

impl ClusterSide {
    async fn prepare(settings: &CoordinatorSettings) -> Result<Self, CoordinatorError> {
        let external_metrics = match &settings.external_metrics {
            Some(wanted) => Some((bind("--external-metrics-listen", wanted.listen).await?, external_metrics::acceptor(wanted)?)),
            None => None,
        };
        let costs = settings.pod_deletion_cost.as_ref().map(DeletionCosts::new).transpose()?;
        Ok(Self { external_metrics, costs })
    }

    /// Both end at the shutdown. That one of them fails harms no task, so nothing else ends with it.
    fn start(self, context: &ApiContext, times: ProtocolTimes) {
        if let Some((listener, acceptor)) = self.external_metrics {
            tracing::info!(address = ?listener.local_addr().ok(), "external metrics for Kubernetes");
            let context = context.clone();
            tokio::spawn(external_metrics::serve(listener, acceptor, context));
        }
        if let Some(costs) = self.costs {
            let shutdown = context.settings.shutdown.clone();
            tokio::spawn(costs.keep(context.engine.clone(), times.base() * COST_INTERVAL_BASES, shutdown));
        }
    }
}

/// The lanes, each with its own connections, and their publishers.
async fn start_lanes(
    settings: &CoordinatorSettings,
    (handle, commands): (EngineHandle, Vec<mpsc::Receiver<Command>>),
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<JoinSet<()>, CoordinatorError> {
    let database = Database::new(&settings.database_url)?;
    let patience = Patience { until: Instant::now() + settings.startup_patience };
    let installation = patience.keep("Postgres", || prepared(&database, settings.shard_count)).await?;
    tracing::info!(
        installation = %installation.id,
        shards = installation.shard_count,
        lanes = settings.lanes,
        database = %database.address(),
        nats = %settings.nats.shown(),
        "starting"
    );
    let mut parts = JoinSet::new();
    for (index, commands) in commands.into_iter().enumerate() {
        let (handle, metrics, stop) = (handle.clone(), metrics.clone(), stop.clone());
        let lane = LaneStart { index, installation, handle, metrics, stop, patience };
        start_lane(settings, lane, commands, &mut parts).await?;
    }
    Ok(parts)
}

/// What the start of one lane needs besides the settings.
struct LaneStart {
    index: usize,
    installation: Installation,
    handle: EngineHandle,
    metrics: Metrics,
    stop: CancellationToken,
    patience: Patience,
}

async fn start_lane(
    settings: &CoordinatorSettings,
    start: LaneStart,
    commands: mpsc::Receiver<Command>,
    parts: &mut JoinSet<()>,
) -> Result<(), CoordinatorError> {
    let LaneStart { index, installation, handle, metrics, stop, patience } = start;
    let database = Database::new(&settings.database_url)?;
    let connection = patience.keep("Postgres", || database.lane_connection()).await?;
    let inputs = mpsc::channel(INPUTS_MAX);
    let bus = patience.keep("NATS", || Bus::connect(&settings.nats, settings.times, inputs.0.clone())).await?;
    let bus = bus.forgetting_queues_after(settings.queue_forgotten_after);
    let now = patience.keep("Postgres", || database.now()).await?;
    let shape = StreamShape {
        installation: installation.id,
        subject_messages_max: settings.subject_messages_max,
        replicas: settings.nats_replicas,
        now,
    };
    metrics.broker().connected(&bus);
    if index == 0 {
        // Another installation's streams are an error of the set-up: say so at once, and do not run beside it.
        patience.keep("JetStream", || Box::pin(bus.permitted(made(&bus, shape)))).await?;
    }
    let heard = listen::listen(&bus, inputs.0.clone()).await?;
    let (publisher, work) = mpsc::unbounded_channel();
    let epoch = Arc::new(AtomicU64::new(0));
    let publishing = Publisher { bus: bus.clone(), shape, epoch: epoch.clone(), inputs: inputs.0.clone() };
    parts.spawn(publishing.run(work));
    let speaker = Speaker::start(bus.client.clone());
    let carrier = Carrier::start(bus.client.clone(), inputs.0.clone());
    let lane = LaneParts {
        index,
        name: if settings.lanes == 1 { settings.name.clone() } else { format!("{}/{index}", settings.name) },
        times: settings.times,
        cache_bytes_max: settings.cache_bytes_max / settings.lanes,
        shape,
        bundle_max: settings.bundle_max,
        inputs_bytes_max: settings.inputs_bytes_max,
        keys: settings.token_keys.clone(),
        installation,
        database,
        connection,
        bus,
        inputs,
        commands,
        handle,
        metrics,
        heard,
        publisher,
        speaker,
        carrier,
        spans: settings.spans.clone(),
        epoch,
    };
    parts.spawn(Lane::new(lane, now).run(stop));
    Ok(())
}

/// The database at its newest schema.
async fn prepared(database: &Database, shard_count: u16) -> Result<Installation, OpenError> {
    let silent = || OpenError::Connect { address: database.address(), reason: format!("no answer within {} s", REACH_MAX.as_secs()) };
    tokio::time::timeout(REACH_MAX, database.now()).await.map_err(|_| silent())??;
    database.prepare(shard_count).await
}

async fn made(bus: &Bus, shape: StreamShape) -> Result<(), BusError> {
    bus.ensure_streams(shape).await?;
    bus.ensure_consumers(DEFAULT_QUEUE).await
}

/// How long a start waits for servers that are away: where everything starts at once, nothing is there at first.
#[derive(Clone, Copy)]
struct Patience {
    until: Instant,
}

impl Patience {
    /// Tries until it works, the time is over, or waiting cannot help.
    async fn keep<T, E, F>(&self, what: &str, mut attempt: impl FnMut() -> F) -> Result<T, CoordinatorError>
    where
        E: Into<CoordinatorError>,
        F: Future<Output = Result<T, E>>,
    {
        let mut said: Option<Instant> = None;
        loop {
            let error: CoordinatorError = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error.into(),
            };
            let left = self.until.saturating_duration_since(Instant::now());
            if !error.may_pass() || left.is_zero() {
                return Err(error);
            }
            if said.is_none_or(|at| at.elapsed() >= STARTUP_SAID_EVERY) {
                tracing::warn!(reason = %error, left_s = left.as_secs(), "waiting for {what}");
                said = Some(Instant::now());
            }
            tokio::time::sleep(STARTUP_PAUSE.min(left)).await;
        }
    }
}
