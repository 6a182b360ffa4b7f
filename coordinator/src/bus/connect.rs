//! The connection to NATS.

use crate::engine::input::{Connection, Input};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, Event, Request, jetstream};
use orchestr8_nats::{Failure, NatsSettings, RightsError, SettingsError, TooOld, Violations};
use orchestr8_proto::names;
use orchestr8_proto::rights;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::wire::{self, Nudge, SCHEMA_VERSION};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// A server that stands still is noticed when the third ping goes without an answer, after nine seconds at most: within one lease
/// of the published figures. Anything that arrives starts the count anew, and so does a process that stood still itself, so a busy
/// machine is no alarm; that is why it does not shrink with the other times of the protocol.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// PubAcks that may be outstanding on one connection; above every bound of ours, since the client waits at the limit.
const ACKS_OUTSTANDING_MAX: usize = 60_000;
/// The owner of a shard answers a nudge within this time, or there is none.
const OWNER_ANSWERS_MAX: Duration = Duration::from_millis(500);
/// How long a queue from which nobody fetches keeps its consumers, unless it is said otherwise.
const QUEUE_FORGOTTEN_AFTER: Duration = Duration::from_hours(24);

/// Why NATS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Nothing answers: it may soon.
    #[error("cannot connect to NATS at {address}: {reason}; check --nats-url and that the server runs")]
    Connect {
        /// Without secrets.
        address: String,
        /// The client's words.
        reason: String,
    },
    /// An address or a file cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The server does not know us.
    #[error("NATS at {address} refused {credentials}: check user, password, token, nkey, credentials or certificate")]
    Refused {
        /// Without secrets.
        address: String,
        /// What was presented, without secrets.
        credentials: String,
    },
    /// A certificate is wrong, or one side does not speak TLS.
    #[error("NATS at {address}: no TLS ({reason}); check --nats-ca, --nats-cert and --nats-key, and that the server speaks TLS")]
    Tls {
        /// Without secrets.
        address: String,
        /// What TLS says.
        reason: String,
    },
    /// The login lacks rights.
    #[error("NATS at {address}: {lacking}")]
    Forbidden {
        /// Without secrets.
        address: String,
        /// Which.
        lacking: RightsError,
    },
    /// The server runs without JetStream, or the account may not use it.
    #[error(
        "NATS at {address} has no JetStream for this account ({reason}): start nats-server with `jetstream {{}}` in its configuration, or enable it for the account"
    )]
    NoJetStream {
        /// Without secrets.
        address: String,
        /// The server's words.
        reason: String,
    },
    /// Too old.
    #[error(transparent)]
    Version(#[from] TooOld),
    /// A stream belongs to another database.
    #[error(
        "stream {stream} belongs to installation {found}, this database is installation {ours}: use another NATS account, or remove the stream"
    )]
    OtherInstallation {
        /// Which stream.
        stream: String,
        /// What its metadata says.
        found: String,
        /// What our database says.
        ours: String,
    },
    /// JetStream did not do what it was asked.
    #[error("JetStream: {what}: {reason}")]
    JetStream {
        /// What was asked.
        what: String,
        /// The server's words.
        reason: String,
    },
}

impl BusError {
    /// Whether the same attempt may succeed later, with nobody correcting anything.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::JetStream { .. } => true,
            Self::Settings(_)
            | Self::Refused { .. }
            | Self::Tls { .. }
            | Self::Forbidden { .. }
            | Self::NoJetStream { .. }
            | Self::Version(_)
            | Self::OtherInstallation { .. } => false,
        }
    }

    pub(super) fn jetstream(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::JetStream { what: what.into(), reason: reason.to_string() }
    }
}

/// A connection to NATS. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    /// For core messages.
    pub client: Client,
    /// For streams.
    pub jetstream: jetstream::Context,
    /// Protocol times, for consumers and streams.
    pub times: ProtocolTimes,
    pub(super) queue_forgotten_after: Duration,
    pub(super) address: String,
    settings: NatsSettings,
    /// What the server forbids.
    violations: Arc<Violations>,
    /// Taken by who looks whether the stream of outcomes takes messages.
    pub(super) looking: Arc<Semaphore>,
}

impl Bus {
    /// Connects; changes of the connection arrive at `inputs`.
    ///
    /// # Errors
    /// [`BusError::Connect`], [`BusError::Settings`], [`BusError::Refused`], [`BusError::Tls`] and [`BusError::Version`], one line each.
    pub async fn connect(settings: &NatsSettings, times: ProtocolTimes, inputs: mpsc::Sender<Input>) -> Result<Self, BusError> {
        let address = settings.shown();
        let violations = Arc::new(Violations::default());
        let told = violations.clone();
        let options = orchestr8_nats::options(settings)?
            .name("orchestr8-coordinator")
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(|attempt| Duration::from_millis(50).saturating_mul(1 << attempt.min(5)))
            .event_callback(move |event| report(event, inputs.clone(), told.clone()));
        let client = options.connect(settings.servers()?).await.map_err(|error| unconnected(&error, settings))?;
        orchestr8_nats::check_version(&address, &client.server_info().version)?;
        let jetstream = ContextBuilder::new()
            .max_ack_inflight(ACKS_OUTSTANDING_MAX)
            .ack_timeout(times.in_progress().max(Duration::from_secs(2)))
            .timeout(times.in_progress().max(Duration::from_secs(2)))
            .build(client.clone());
        let (settings, looking) = (settings.clone(), Arc::new(Semaphore::new(1)));
        let queue_forgotten_after = QUEUE_FORGOTTEN_AFTER;
        Ok(Self { client, jetstream, times, queue_forgotten_after, address, settings, violations, looking })
    }

    /// The consumers of a queue from which nobody fetches for so long are removed by the server.
    #[must_use]
    pub fn forgetting_queues_after(self, queue_forgotten_after: Duration) -> Self {
        Self { queue_forgotten_after, ..self }
    }

    /// How long a queue from which nobody fetches keeps its consumers.
    #[must_use]
    pub const fn queue_forgotten_after(&self) -> Duration {
        self.queue_forgotten_after
    }

    /// What `work` gives, if the login has every right that a coordinator needs, and unless the server says that one is missing:
    /// a request without it is never answered.
    ///
    /// # Errors
    /// [`BusError::Forbidden`], [`BusError::NoJetStream`], and those of `work`.
    pub async fn permitted<T>(&self, work: impl Future<Output = Result<T, BusError>>) -> Result<T, BusError> {
        let forbidden = |lacking| BusError::Forbidden { address: self.address.clone(), lacking };
        let needed = rights::of_coordinators(self.settings.login.as_ref());
        orchestr8_nats::check_rights(&self.client, &self.settings, &needed, &self.violations).await.map_err(forbidden)?;
        tokio::select! {
            result = work => result.map_err(|error| self.explained(error)),
            violation = self.violations.first() => Err(forbidden(RightsError::new(&self.settings, vec![violation]))),
        }
    }

    /// Leaves this server for another one, where another one is known.
    pub async fn change_server(&self) {
        orchestr8_nats::change_server(&self.client, &self.settings).await;
    }

    pub(super) fn no_jetstream(&self, reason: &impl std::fmt::Display) -> BusError {
        BusError::NoJetStream { address: self.address.clone(), reason: reason.to_string() }
    }

    fn explained(&self, error: BusError) -> BusError {
        match error {
            BusError::JetStream { what, reason } if !self.client.server_info().jetstream => self.no_jetstream(&format!("{what}: {reason}")),
            other => other,
        }
    }
}

impl Bus {
    /// Tells all coordinators something, and returns when the server has it.
    ///
    /// # Errors
    /// [`BusError::JetStream`]: it is only a hint.
    pub async fn nudge(&self, nudge: &Nudge) -> Result<(), BusError> {
        let payload = wire::encode(nudge).map_err(|error| BusError::jetstream("a nudge", error))?;
        self.client.publish(names::NUDGES, payload).await.map_err(|error| BusError::jetstream("a nudge", error))?;
        self.client.flush().await.map_err(|error| BusError::jetstream("a nudge", error))
    }

    /// Asks whichever coordinator it concerns, and returns when that one has heard it.
    ///
    /// # Errors
    /// [`BusError::JetStream`] without an answer: it is only a hint.
    pub async fn ask_owner(&self, nudge: Nudge) -> Result<(), BusError> {
        let failed = |error: String| BusError::jetstream("a nudge", error);
        let payload = wire::encode(&Nudge { schema_version: SCHEMA_VERSION, ..nudge }).map_err(|error| failed(error.to_string()))?;
        let request = Request::new().payload(payload).timeout(Some(OWNER_ANSWERS_MAX));
        self.client.send_request(names::NUDGES, request).await.map(drop).map_err(|error| failed(error.to_string()))
    }
}

fn unconnected(error: &async_nats::ConnectError, settings: &NatsSettings) -> BusError {
    let address = settings.shown();
    match Failure::of(error) {
        Failure::Away(reason) => BusError::Connect { address, reason },
        Failure::Refused(_) => BusError::Refused { address, credentials: settings.shown_login() },
        Failure::Tls(reason) => BusError::Tls { address, reason },
    }
}

async fn report(event: Event, inputs: mpsc::Sender<Input>, violations: Arc<Violations>) {
    let connection = match event {
        Event::Connected => Connection::Up,
        Event::Disconnected | Event::Closed => Connection::Down,
        Event::SlowConsumer(_) => Connection::Gap,
        Event::ServerError(error) => {
            if !violations.heard(&error) {
                tracing::error!(%error, "NATS reports an error");
            }
            return;
        }
        Event::ClientError(error) => {
            tracing::warn!(%error, "NATS client");
            return;
        }
        Event::LameDuckMode | Event::Draining => return,
    };
    // A closed channel means that the lane has ended; nobody wants to know.
    inputs.send(Input::Connection(connection)).await.ok();
}
