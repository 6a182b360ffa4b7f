//! The connection to NATS: made with patience, watched, and explained in one line when it cannot be made.

use crate::patience::Patience;
use crate::settings::{Credentials, NatsSettings};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use orchestr8_proto::wire::MESSAGE_BYTES_MAX;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Not an address.
    #[error("NATS address `{address}` is not usable ({reason}): use `nats://host:port`")]
    Address {
        /// What was given, without its password.
        address: String,
        /// What the parser says.
        reason: String,
    },
    /// The server does not know us.
    #[error("NATS at {addresses} refused {credentials}: check user, password, token or nkey")]
    Refused {
        /// What was tried, without passwords.
        addresses: String,
        /// What was presented, without secrets.
        credentials: String,
    },
    /// Nobody answers there.
    #[error("NATS at {addresses} did not answer within {within:?} ({reason}): check the address and that the server runs")]
    Unreachable {
        /// What was tried, without passwords.
        addresses: String,
        /// For how long.
        within: Duration,
        /// The last reason.
        reason: String,
    },
    /// The seed cannot be read.
    #[error("nkey file `{path}` cannot be read ({reason}): it must hold one line that starts with `SU`")]
    NkeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The server takes only smaller messages than the protocol has.
    #[error("NATS at {addresses} takes messages of {bytes} bytes at most: set its `max_payload` to at least {MESSAGE_BYTES_MAX}")]
    SmallPayload {
        /// What was tried, without passwords.
        addresses: String,
        /// The server's limit.
        bytes: usize,
    },
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
            Self::Address { .. } | Self::Refused { .. } | Self::NkeyFile { .. } | Self::SmallPayload { .. } => false,
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
    let addresses = shown_all(&settings.addresses);
    let servers = parse(&settings.addresses)?;
    let mut patience = Patience::between(SHORTEST_WAIT, LONGEST_WAIT);
    let began = tokio::time::Instant::now();
    loop {
        let (told, state) = watch::channel(LineState::Up(0));
        let attempt = options(settings, name, told)?.connect(servers.as_slice());
        let error = tokio::select! {
            result = attempt => match result {
                Ok(client) => return checked(Link { client, state }, addresses),
                Err(error) => error,
            },
            () = shutdown.cancelled() => return Err(LinkError::Shutdown),
        };
        match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                return Err(LinkError::Refused { addresses, credentials: format!("{:?}", settings.credentials) });
            }
            kind if began.elapsed() >= within => {
                return Err(LinkError::Unreachable { addresses, within, reason: kind.to_string() });
            }
            kind => tracing::warn!(addresses, reason = %kind, "no connection to NATS yet: trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(patience.next_wait()) => {}
            () = shutdown.cancelled() => return Err(LinkError::Shutdown),
        }
    }
}

fn checked(link: Link, addresses: String) -> Result<Link, LinkError> {
    let bytes = link.client.max_payload();
    if bytes < MESSAGE_BYTES_MAX { Err(LinkError::SmallPayload { addresses, bytes }) } else { Ok(link) }
}

fn parse(addresses: &[String]) -> Result<Vec<ServerAddr>, LinkError> {
    let refused = |address: &str, reason: String| LinkError::Address { address: shown(address), reason };
    let parsed = |address: &String| match address.parse::<ServerAddr>() {
        Ok(server) if server.host().is_empty() => Err(refused(address, "it names no host".into())),
        Ok(server) => Ok(server),
        Err(error) => Err(refused(address, error.to_string())),
    };
    addresses.iter().map(parsed).collect()
}

fn options(settings: &NatsSettings, name: &str, told: watch::Sender<LineState>) -> Result<ConnectOptions, LinkError> {
    let mut options = ConnectOptions::new()
        .name(name)
        .connection_timeout(Duration::from_secs(5))
        // All subjects are built from checked names; checking each again costs every message.
        .skip_subject_validation(true)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            take_in(&event, &told);
            async {}
        });
    if let Some(prefix) = &settings.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    Ok(match &settings.credentials {
        Credentials::None => options,
        Credentials::UserPassword { user, password } => options.user_and_password(user.clone(), password.clone()),
        Credentials::Token(token) => options.token(token.clone()),
        Credentials::NkeyFile(path) => options.nkey(seed(path)?),
    })
}

fn seed(path: &PathBuf) -> Result<String, LinkError> {
    let failed = |reason: String| LinkError::NkeyFile { path: path.clone(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
    seed.map(ToOwned::to_owned).ok_or_else(|| failed("no line starts with `SU`".into()))
}

/// The first reconnect is immediate, the later ones are soon: who waits long misses leases.
fn reconnect_delay(attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let mut patience = Patience::between(SHORTEST_WAIT, LONGEST_WAIT);
    (1..attempts.min(16)).map(|_| patience.next_wait()).last().unwrap_or(SHORTEST_WAIT)
}

fn take_in(event: &Event, told: &watch::Sender<LineState>) {
    match event {
        Event::Connected => {
            tracing::info!("connected to NATS");
            told.send_modify(|state| *state = LineState::Up(state.count() + 1));
        }
        Event::Disconnected | Event::Closed => {
            tracing::warn!("the connection to NATS has ended");
            told.send_modify(|state| *state = LineState::Down(state.count() + 1));
        }
        Event::ServerError(ServerError::Other(text)) if text.to_ascii_lowercase().contains("permissions violation") => {
            tracing::error!(server = text, "NATS forbids what an executor needs: grant this subject to its user");
        }
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

fn shown_all(addresses: &[String]) -> String {
    addresses.iter().map(|address| shown(address)).collect::<Vec<_>>().join(", ")
}

/// An address without what stands before an `@`: it may hold a password.
fn shown(address: &str) -> String {
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        (_, None) => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_passwords() {
        assert_eq!(shown("nats://u:p@host:4222"), "nats://host:4222");
        assert_eq!(shown("u:p@host"), "host");
        assert_eq!(shown("nats://host:4222"), "nats://host:4222");
    }

    #[tokio::test]
    async fn a_bad_address_is_named_at_once() {
        for (address, shown) in [("http://u:p@x", "http://x"), ("nats://", "nats://")] {
            let settings = NatsSettings { addresses: vec![address.into()], credentials: Credentials::None, inbox_prefix: None };
            let error = connect(&settings, "n", Duration::ZERO, &CancellationToken::new()).await.err().expect("refused").to_string();
            assert!(error.starts_with(&format!("NATS address `{shown}` is not usable")) && error.contains("nats://host:port"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_missing_nkey_file_is_named_at_once() {
        let credentials = Credentials::NkeyFile("/nonexistent/seed".into());
        let settings = NatsSettings { addresses: vec!["nats://127.0.0.1:1".into()], credentials, inbox_prefix: None };
        let error = connect(&settings, "n", Duration::ZERO, &CancellationToken::new()).await.err().expect("no file").to_string();
        assert!(error.starts_with("nkey file `/nonexistent/seed` cannot be read"), "{error}");
    }

    #[tokio::test]
    async fn a_shutdown_ends_the_wait_for_a_server() {
        let shutdown = CancellationToken::new();
        let settings = NatsSettings { addresses: vec!["nats://127.0.0.1:1".into()], credentials: Credentials::None, inbox_prefix: None };
        shutdown.cancel();
        assert!(matches!(connect(&settings, "n", Duration::ZERO, &shutdown).await, Err(LinkError::Shutdown)));
    }

    #[test]
    fn reconnects_are_immediate_first_and_never_slow() {
        assert_eq!(reconnect_delay(1), Duration::ZERO);
        assert!(reconnect_delay(2) >= SHORTEST_WAIT && reconnect_delay(1_000_000) <= LONGEST_WAIT * 13 / 10);
    }
}
