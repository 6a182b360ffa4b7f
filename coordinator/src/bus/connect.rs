//! The connection to NATS.

use crate::engine::input::{Connection, Input};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, ConnectOptions, Event, Request, ServerAddr, jetstream};
use orchestr8_proto::names;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::wire::{self, Nudge, SCHEMA_VERSION};
use std::time::Duration;
use tokio::sync::mpsc;

/// PubAcks that may be outstanding on one connection; above every bound of ours, since the client waits at the limit.
const ACKS_OUTSTANDING_MAX: usize = 60_000;
/// The owner of a shard answers a nudge within this time, or there is none.
const OWNER_ANSWERS_MAX: Duration = Duration::from_millis(500);
/// The oldest nats-server that is tested.
const SERVER_VERSION_MIN: (i64, i64, i64) = (2, 12, 0);

/// Where NATS is, and who we are there.
#[derive(Debug, Clone, Default)]
pub struct NatsSettings {
    /// `nats://[user:password@|token@]host:port`, several by commas.
    pub url: String,
    /// File with an NKEY seed or credentials.
    pub credentials_file: Option<std::path::PathBuf>,
}

impl NatsSettings {
    fn servers(&self) -> Result<Vec<ServerAddr>, String> {
        let parsed = |url: &str| url.trim().parse::<ServerAddr>().map_err(|error| error.to_string());
        self.url.split(',').map(parsed).collect()
    }

    /// The addresses without user, password or token.
    #[must_use]
    pub fn address(&self) -> String {
        let bare = |url: &str| url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, host)| format!("nats://{host}"));
        self.url.split(',').map(|url| bare(url.trim())).collect::<Vec<_>>().join(",")
    }
}

/// Why NATS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Nothing answers, or it refuses us.
    #[error("cannot connect to NATS at {address}: {reason}")]
    Connect {
        /// Without secrets.
        address: String,
        /// The client's words.
        reason: String,
    },
    /// Too old.
    #[error("nats-server {found} at {address} is too old: version 2.12 or newer is needed")]
    Version {
        /// Without secrets.
        address: String,
        /// What the server is.
        found: String,
    },
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
}

impl Bus {
    /// Connects; changes of the connection arrive at `inputs`.
    ///
    /// # Errors
    /// [`BusError::Connect`] and [`BusError::Version`], one line each.
    pub async fn connect(settings: &NatsSettings, times: ProtocolTimes, inputs: mpsc::Sender<Input>) -> Result<Self, BusError> {
        let refused = |reason: String| BusError::Connect { address: settings.address(), reason };
        let mut options = ConnectOptions::new()
            .name("orchestr8-coordinator")
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(|attempt| Duration::from_millis(50).saturating_mul(1 << attempt.min(5)))
            .event_callback(move |event| report(event, inputs.clone()));
        if let Some(file) = &settings.credentials_file {
            options = options.credentials_file(file).await.map_err(|error| refused(error.to_string()))?;
        }
        let servers = settings.servers().map_err(refused)?;
        // The client does not take user and password from an address by itself.
        let first = servers.first().map(|server| (server.username().map(str::to_owned), server.password().map(str::to_owned)));
        options = match first {
            Some((Some(user), Some(password))) => options.user_and_password(user, password),
            Some((Some(token), None)) => options.token(token),
            Some((None, _)) | None => options,
        };
        let client = async_nats::connect_with_options(servers, options).await.map_err(|error| refused(error.to_string()))?;
        let (major, minor, patch) = SERVER_VERSION_MIN;
        if !client.is_server_compatible(major, minor, patch) {
            return Err(BusError::Version { address: settings.address(), found: client.server_info().version });
        }
        let jetstream = ContextBuilder::new()
            .max_ack_inflight(ACKS_OUTSTANDING_MAX)
            .ack_timeout(times.in_progress().max(Duration::from_secs(2)))
            .timeout(times.in_progress().max(Duration::from_secs(2)))
            .build(client.clone());
        Ok(Self { client, jetstream, times })
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

async fn report(event: Event, inputs: mpsc::Sender<Input>) {
    let connection = match event {
        Event::Connected => Connection::Up,
        Event::Disconnected | Event::Closed => Connection::Down,
        Event::SlowConsumer(_) => Connection::Gap,
        Event::ServerError(error) => {
            tracing::error!(%error, "NATS refused something: check the permissions of this user");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_no_secret() {
        let settings = NatsSettings { url: "nats://user:secret@a:4222, nats://b:4222".into(), credentials_file: None };
        assert_eq!(settings.address(), "nats://a:4222,nats://b:4222");
    }
}
