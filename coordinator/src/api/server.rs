//! Which addresses may be bound, serving, and the bounded drain at the end.

use super::tls::TlsListener;
use super::{ApiContext, router};
use axum::Router;
use axum::serve::{Listener, ListenerExt};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

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
///
/// # Errors
/// When the listener cannot accept any more.
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, context: ApiContext) -> io::Result<()> {
    let shutdown = context.settings.shutdown.clone();
    serve_routes(listener, tls, router(context), shutdown).await
}

/// The same for other routes.
pub(super) async fn serve_routes(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    routes: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
    });
    match tls {
        Some(acceptor) => serve_on(TlsListener::start(listener, acceptor)?, routes, shutdown).await,
        None => serve_on(listener, routes, shutdown).await,
    }
}

async fn serve_on<L: Listener<Addr = SocketAddr>>(listener: L, routes: Router, shutdown: CancellationToken) -> io::Result<()> {
    let serving = axum::serve(listener, routes).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let drained_for_too_long = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        ended = serving.into_future() => ended,
        () = drained_for_too_long => {
            tracing::warn!(drain_s = DRAIN_MAX.as_secs(), "requests were still under way at the end of the drain");
            Ok(())
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
