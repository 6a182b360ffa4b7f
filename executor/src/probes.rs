//! `/healthz`, `/readyz` and `/metrics` of an executor, on an address of their own. Nothing else: executors take no orders here.

use crate::metrics::{Condition, Metrics};
use crate::settings::ProbeSettings;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use orchestr8_proto::exposition::Exposition;
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

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
    answering.spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::warn!(%error, "metrics and probes are no longer answered");
        }
    });
    Ok(answering)
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
}
