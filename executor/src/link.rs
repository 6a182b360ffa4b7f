//! The connection to NATS: made with patience, watched, and explained in one line when it cannot be made.

use crate::patience::Patience;
use async_nats::{Client, ConnectOptions, Event};
use orchestr8_nats::{Failure, NatsSettings, RightsError, SettingsError, TooOld, Violations};
use orchestr8_proto::wire::MESSAGE_BYTES_MAX;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// An address or a file cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The server does not know us.
    #[error("NATS at {addresses} refused {credentials}: check user, password, token, nkey, credentials or certificate")]
    Refused {
        /// What was tried, without passwords.
        addresses: String,
        /// What was presented, without secrets.
        credentials: String,
    },
    /// Nobody answers there.
    #[error("NATS at {addresses} did not answer within {within:?} ({reason}): check --nats-url and that the server runs")]
    Unreachable {
        /// What was tried, without passwords.
        addresses: String,
        /// For how long.
        within: Duration,
        /// The last reason.
        reason: String,
    },
    /// A certificate is wrong, or one side does not speak TLS.
    #[error("NATS at {addresses}: no TLS ({reason}); check --nats-ca, --nats-cert and --nats-key, and that the server speaks TLS")]
    Tls {
        /// What was tried, without passwords.
        addresses: String,
        /// What TLS says.
        reason: String,
    },
    /// The login lacks rights.
    #[error("NATS at {addresses}: {lacking}")]
    Forbidden {
        /// What was tried, without passwords.
        addresses: String,
        /// Which rights.
        lacking: RightsError,
    },
    /// The server takes only smaller messages than the protocol has.
    #[error("NATS at {addresses} takes messages of {bytes} bytes at most: set its `max_payload` to at least {MESSAGE_BYTES_MAX}")]
    SmallPayload {
        /// What was tried, without passwords.
        addresses: String,
        /// The server's limit.
        bytes: usize,
    },
    /// The server is too old.
    #[error(transparent)]
    Version(#[from] TooOld),
    /// A shutdown came first.
    #[error("the shutdown came before the connection")]
    Shutdown,
}

impl LinkError {
    /// Whether the same attempt may succeed later, with nobody correcting anything.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Shutdown => true,
            Self::Settings(_)
            | Self::Refused { .. }
            | Self::Tls { .. }
            | Self::Forbidden { .. }
            | Self::SmallPayload { .. }
            | Self::Version(_) => false,
        }
    }
}

/// A change of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineState {
    /// Connected for the nth time, from 1.
    Up(u64),
    /// Lost for the nth time, from 1.
    Down(u64),
}

/// A connection and its state.
pub(crate) struct Link {
    /// To publish and subscribe.
    pub client: Client,
    /// Changes whenever the connection is lost or found.
    pub state: watch::Receiver<LineState>,
    /// What the server forbids.
    pub violations: Arc<Violations>,
    /// How it was made.
    settings: NatsSettings,
}

impl Link {
    /// Leaves this server for another one, where another one is known.
    pub async fn change_server(&self) {
        orchestr8_nats::change_server(&self.client, &self.settings).await;
    }
}

/// Connects, with patience for `within` unless trying again cannot help.
///
/// # Errors
/// Every [`LinkError`]; each is one line with the remedy.
pub(crate) async fn connect(
    settings: &NatsSettings,
    name: &str,
    within: Duration,
    shutdown: &CancellationToken,
) -> Result<Link, LinkError> {
    let addresses = settings.shown();
    let servers = settings.servers()?;
    let mut patience = Patience::between(SHORTEST_WAIT, LONGEST_WAIT);
    let began = tokio::time::Instant::now();
    loop {
        let (told, state) = watch::channel(LineState::Up(0));
        let violations = Arc::new(Violations::default());
        let attempt = options(settings, name, Told { state: told, violations: violations.clone() })?.connect(servers.as_slice());
        let error = tokio::select! {
            result = attempt => match result {
                Ok(client) => return checked(Link { client, state, violations, settings: settings.clone() }, addresses),
                Err(error) => error,
            },
            () = shutdown.cancelled() => return Err(LinkError::Shutdown),
        };
        match Failure::of(&error) {
            Failure::Refused(_) => return Err(LinkError::Refused { addresses, credentials: settings.shown_login() }),
            Failure::Tls(reason) => return Err(LinkError::Tls { addresses, reason }),
            Failure::Away(reason) if began.elapsed() >= within => return Err(LinkError::Unreachable { addresses, within, reason }),
            Failure::Away(reason) => tracing::warn!(addresses, reason, "no connection to NATS yet: trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(patience.next_wait()) => {}
            () = shutdown.cancelled() => return Err(LinkError::Shutdown),
        }
    }
}

fn checked(link: Link, addresses: String) -> Result<Link, LinkError> {
    orchestr8_nats::check_version(&addresses, &link.client.server_info().version)?;
    let bytes = link.client.max_payload();
    if bytes < MESSAGE_BYTES_MAX { Err(LinkError::SmallPayload { addresses, bytes }) } else { Ok(link) }
}

/// What the client tells beside everything else.
struct Told {
    state: watch::Sender<LineState>,
    violations: Arc<Violations>,
}

fn options(settings: &NatsSettings, name: &str, told: Told) -> Result<ConnectOptions, LinkError> {
    Ok(orchestr8_nats::options(settings)?
        .name(name)
        .connection_timeout(Duration::from_secs(5))
        // All subjects are built from checked names; checking each again costs every message.
        .skip_subject_validation(true)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            take_in(&event, &told);
            async {}
        }))
}

/// The first reconnect is immediate, the later ones are soon: who waits long misses leases.
fn reconnect_delay(attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let mut patience = Patience::between(SHORTEST_WAIT, LONGEST_WAIT);
    (1..attempts.min(16)).map(|_| patience.next_wait()).last().unwrap_or(SHORTEST_WAIT)
}

fn take_in(event: &Event, told: &Told) {
    match event {
        Event::Connected => {
            tracing::info!("connected to NATS");
            told.state.send_modify(|state| *state = LineState::Up(state.count() + 1));
        }
        Event::Disconnected | Event::Closed => {
            tracing::warn!("the connection to NATS has ended");
            told.state.send_modify(|state| *state = LineState::Down(state.count() + 1));
        }
        Event::ServerError(error) if told.violations.heard(error) => {}
        Event::ServerError(error) => tracing::error!(%error, "NATS reports an error"),
        Event::ClientError(error) => tracing::warn!(%error, "the NATS client reports an error"),
        Event::SlowConsumer(_) => tracing::error!("messages were lost because they were not taken in time: they will be redelivered"),
        Event::LameDuckMode | Event::Draining => tracing::info!(%event, "NATS"),
    }
}

impl LineState {
    /// How often it has changed.
    pub(crate) const fn count(self) -> u64 {
        match self {
            Self::Up(count) | Self::Down(count) => count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shutdown_ends_the_wait_for_a_server() {
        let shutdown = CancellationToken::new();
        let settings = NatsSettings::open(vec!["nats://127.0.0.1:1".into()]);
        shutdown.cancel();
        assert!(matches!(connect(&settings, "n", Duration::ZERO, &shutdown).await, Err(LinkError::Shutdown)));
    }

    #[test]
    fn reconnects_are_immediate_first_and_never_slow() {
        assert_eq!(reconnect_delay(1), Duration::ZERO);
        assert!(reconnect_delay(2) >= SHORTEST_WAIT && reconnect_delay(1_000_000) <= LONGEST_WAIT * 13 / 10);
    }
}
