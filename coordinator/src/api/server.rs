//! Which addresses may be bound, serving, and the bounded drain at the end.

use super::connections::Serving;
use super::{ApiContext, router};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Requests under way when the coordinator stops get this long.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Why an address is not bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Anyone who reaches the address could run commands.
    #[error("listen address `{0}` can be reached from elsewhere and no token is configured: set a token, or listen on 127.0.0.1")]
    NoToken(SocketAddr),
}

/// Refuses an address that others can reach when no token was configured: one that is made up at start is for this machine only.
///
/// # Errors
/// [`ListenError`] names the address and the remedy.
pub fn check_listen(address: SocketAddr, configured_token: Option<&str>) -> Result<(), ListenError> {
    let has_token = configured_token.is_some_and(|token| !token.trim().is_empty());
    if address.ip().to_canonical().is_loopback() || has_token { Ok(()) } else { Err(ListenError::NoToken(address)) }
}

/// Serves until the context's `shutdown` is cancelled, then at most [`DRAIN_MAX`] longer for what is under way.
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, context: ApiContext) {
    let (limits, shutdown) = (context.settings.connections, context.settings.shutdown.clone());
    serve_routes(listener, Serving { routes: router(context), tls, limits, shutdown }).await;
}

/// The same for any routes.
pub(super) async fn serve_routes(listener: TcpListener, serving: Serving) {
    let shutdown = serving.shutdown.clone();
    let drained_for_too_long = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        () = serving.run(listener) => {}
        () = drained_for_too_long => {
            tracing::warn!(drain_s = DRAIN_MAX.as_secs(), "requests were still under way at the end of the drain");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_gets_in_without_a_configured_token() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for near in ["127.0.0.1:8080", "[::1]:8080", "127.9.9.9:0", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(check_listen(address(near), None), Ok(()), "{near}");
        }
        for far in ["0.0.0.0:8080", "[::]:8080", "10.0.0.7:8080"] {
            assert_eq!(check_listen(address(far), None), Err(ListenError::NoToken(address(far))));
            assert_eq!(check_listen(address(far), Some(" ")), Err(ListenError::NoToken(address(far))));
            assert_eq!(check_listen(address(far), Some("secret")), Ok(()));
        }
    }
}
