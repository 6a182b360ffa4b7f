//! `/healthz`, `/readyz` and `/metrics` of an executor, on an address of their own. Nothing else: executors take no orders here.

use crate::metrics::{Condition, Metrics};
use crate::settings::ProbeSettings;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use orchestr8_proto::exposition::Exposition;
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at the same time: those who probe and those who scrape are few.
const CONNECTIONS_MAX: usize = 64;
/// A connection ends when the head of its next request has not come within this time.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// What the handlers know.
#[derive(Clone)]
struct Context {
    metrics: Metrics,
    /// SHA-256 of the token that opens `/metrics`; none: it is open.
    token: Option<Arc<[u8; 32]>>,
}

/// Answers probes until the handle is dropped.
///
/// # Errors
/// The address and the system's words, when it cannot be bound.
pub(crate) async fn serve(settings: &ProbeSettings, metrics: Metrics) -> Result<JoinSet<()>, (SocketAddr, String)> {
    let failed = |error: std::io::Error| (settings.listen, error.to_string());
    let listener = TcpListener::bind(settings.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let token = settings.token.as_ref().map(|token| Arc::new(Sha256::digest(token.trim()).into()));
    let routes = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(shown))
        .with_state(Context { metrics, token });
    tracing::info!(%address, "metrics and probes");
    let mut answering = JoinSet::new();
    answering.spawn(answer(listener, routes, HEAD_WITHIN));
    Ok(answering)
}

/// Accepts and answers, [`CONNECTIONS_MAX`] connections at a time; who comes then waits.
async fn answer(mut listener: TcpListener, routes: Router, head_within: Duration) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let place = room.clone().acquire_owned().await.expect("it is never closed");
        // The trait's, not the listener's own: it waits where the system has no room for another connection.
        let (stream, _) = Listener::accept(&mut listener).await;
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(head_within);
        let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes.clone()));
        open.spawn(async move {
            connection.await.ok(); // Whoever asks may go at any time.
            drop(place);
        });
    }
}

/// 200 while the loop turns.
async fn healthz(State(context): State<Context>) -> (StatusCode, &'static str) {
    match context.metrics.condition() {
        Condition::Standstill => (StatusCode::SERVICE_UNAVAILABLE, "its loop stands still\n"),
        Condition::Working | Condition::Starting | Condition::Idle(_) => (StatusCode::OK, "ok\n"),
    }
}

/// 200 while it takes work whenever it has room.
async fn readyz(State(context): State<Context>) -> (StatusCode, String) {
    let reason = match context.metrics.condition() {
        Condition::Working => return (StatusCode::OK, "ready\n".to_owned()),
        Condition::Starting => "it is starting",
        Condition::Idle(reason) => reason,
        Condition::Standstill => "its loop stands still",
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"))
}

async fn shown(State(context): State<Context>, headers: HeaderMap) -> Response {
    if !context.opens(&headers) {
        let remedy = "send the header `Authorization: Bearer TOKEN` with the token of --metrics-token-file\n";
        return (StatusCode::UNAUTHORIZED, remedy).into_response();
    }
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let Exposition { content_type, text } = Exposition::negotiated(context.metrics.text(), accept);
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

impl Context {
    /// Compared in constant time, so that the time tells nothing about the token.
    fn opens(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let given = headers.get(header::AUTHORIZATION).and_then(|given| given.to_str().ok()?.split_once(' '));
        let Some((_, given)) = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else { return false };
        let digest: [u8; 32] = Sha256::digest(given.trim()).into();
        digest.ct_eq(token.as_ref()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    #[test]
    fn a_token_opens_and_nothing_else_does() {
        let context = |token: Option<&str>| Context {
            metrics: Metrics::new(std::env::temp_dir()),
            token: token.map(|token| Arc::new(Sha256::digest(token).into())),
        };
        let headers = |value: &'static str| HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))]);
        assert!(context(None).opens(&HeaderMap::new()));
        assert!(context(Some("right")).opens(&headers("bearer right")));
        for wrong in [HeaderMap::new(), headers("Bearer wrong"), headers("right"), headers("Basic right")] {
            assert!(!context(Some("right")).opens(&wrong), "{wrong:?}");
        }
    }

    /// No test waits longer for anything.
    const PATIENCE: Duration = Duration::from_secs(20);

    async fn connected(address: SocketAddr, says: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(says.as_bytes()).await.expect("open");
        stream
    }

    #[tokio::test]
    async fn whoever_sends_half_a_head_ends_and_makes_room_for_others() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut answering = JoinSet::new();
        answering.spawn(answer(listener, Router::new().route("/", get(async || "hello")), Duration::from_millis(50)));
        let mut slow = Vec::new();
        for beginning in ["", "GET / HTTP/1.1\r\nHost:"].repeat(CONNECTIONS_MAX) {
            slow.push(connected(address, beginning).await);
        }
        let mut asker = connected(address, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, asker.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
        assert!(answer.ends_with("hello"), "{answer}");
        for mut stream in slow {
            // A reset is an end as well.
            tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("in time").ok();
        }
    }
}
