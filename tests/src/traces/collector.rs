//! A collector of spans inside the test: takes OTLP over HTTP, decodes it and keeps it.

use crate::harness::wait_for;
use crate::scene::SOON;
use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A span, and whose it is.
#[derive(Debug, Clone)]
pub struct Taken {
    /// `service.name` of its resource.
    pub service: String,
    /// The span.
    pub span: Span,
}

impl Taken {
    /// Its attributes, as text.
    pub fn attribute(&self, name: &str) -> Option<String> {
        text_of(&self.span.attributes, name)
    }
}

/// A listening collector; it ends when this is dropped.
#[derive(Debug)]
pub struct Collector {
    /// Its base address.
    pub endpoint: String,
    kept: Arc<Kept>,
    gate: watch::Sender<Gate>,
    serving: JoinHandle<()>,
}

/// Whether requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// At once.
    Open,
    /// Not before it opens.
    Shut,
    /// At once, with an error.
    Refusing,
}

#[derive(Debug, Default)]
struct Kept {
    spans: Mutex<Vec<Taken>>,
    /// Bodies and headers as they came.
    raw: Mutex<Vec<(Vec<u8>, HeaderMap)>>,
}

type Shared = (Arc<Kept>, watch::Receiver<Gate>);

impl Collector {
    /// Listens on a free port of this machine.
    pub async fn start(gate: Gate) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let kept: Arc<Kept> = Arc::default();
        let (gate, watched) = watch::channel(gate);
        let routes = Router::new().route("/v1/traces", post(take)).with_state((Arc::clone(&kept), watched));
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap_or_default() });
        Ok(Self { endpoint, kept, gate, serving })
    }

    /// Opens or shuts it.
    pub fn set(&self, gate: Gate) {
        self.gate.send_replace(gate);
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Taken> {
        locked(&self.kept.spans).clone()
    }

    /// How many requests came, answered or not.
    pub fn requests(&self) -> usize {
        locked(&self.kept.raw).len()
    }

    /// Whether any request, as it came, holds this text; and any header.
    pub fn holds(&self, text: &str) -> (bool, bool) {
        let raw = locked(&self.kept.raw);
        let in_body = raw.iter().any(|(body, _)| body.windows(text.len()).any(|part| part == text.as_bytes()));
        let in_header = raw.iter().any(|(_, headers)| headers.values().any(|value| value.as_bytes() == text.as_bytes()));
        (in_body, in_header)
    }

    /// The only span of this name, once it is there. The spans so far are in the error.
    pub async fn until(&self, name: &str, accept: impl Fn(&Taken) -> bool) -> Result<Taken> {
        let look = async || {
            let found = self.spans().into_iter().find(|taken| taken.span.name == name && accept(taken));
            Ok(Some(found.with_context(|| format!("only {:?}", self.names()))?))
        };
        wait_for(&format!("a span `{name}`"), SOON, look).await
    }

    /// The names of all spans so far.
    pub fn names(&self) -> Vec<String> {
        self.spans().into_iter().map(|taken| format!("{} {}", taken.service, taken.span.name)).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State((kept, mut gate)): State<Shared>, headers: HeaderMap, body: Bytes) -> (StatusCode, Json<Value>) {
    locked(&kept.raw).push((body.to_vec(), headers));
    if *gate.borrow() == Gate::Refusing || gate.wait_for(|gate| *gate == Gate::Open).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({})));
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return (StatusCode::BAD_REQUEST, Json(json!({}))) };
    for of_resource in request.resource_spans {
        let attributes = of_resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let service = text_of(&attributes, "service.name").unwrap_or_default();
        let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        locked(&kept.spans).extend(spans.map(|span| Taken { service: service.clone(), span }));
    }
    (StatusCode::OK, Json(json!({})))
}

fn text_of(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match &found.value {
        Some(AnyValue { value: Some(Attribute::StringValue(text)) }) => Some(text.clone()),
        Some(AnyValue { value: Some(Attribute::IntValue(number)) }) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
