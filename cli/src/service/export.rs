//! Spans to a collector: OTLP over HTTP, as protobuf. A collector that is away costs spans, never work: what finds no room in a
//! bounded queue is dropped, and a thread of its own does the sending.

use super::ServiceError;
use opentelemetry::trace::{Event, SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanExporter, SpanLinks, SpanProcessor};
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::traces::{AttributeValue, Span, SpanKind};
use reqwest::Url;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where a collector takes spans, below its base address.
const PATH: &str = "v1/traces";
/// A collector that takes longer to answer loses the batch.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The end of the process waits so long for what was not sent.
const END_MAX: Duration = Duration::from_secs(2);
/// The name of a service that nobody named.
const NAMELESS: &str = "unknown_service";

/// Takes spans and sends them when it can.
#[derive(Debug)]
pub struct Exporter {
    queue: BatchSpanProcessor,
    scope: InstrumentationScope,
}

/// An exporter to the collector with this base address. `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`
/// and the variables of the batch processor count as OpenTelemetry says.
///
/// # Errors
/// [`ServiceError::Configuration`] names the flag.
pub fn exporter(endpoint: &str, service: &'static str) -> Result<Exporter, ServiceError> {
    let address = address(endpoint)?;
    let wrong = |reason: &dyn std::fmt::Display| ServiceError::Configuration(format!("--otlp-endpoint {address}: {reason}"));
    let trusted = if address.scheme() == "https" { crate::client::tls::system() } else { Ok(crate::client::tls::nobody()) };
    // A redirect could carry the headers elsewhere.
    let client = reqwest::blocking::Client::builder().timeout(ANSWER_MAX).redirect(reqwest::redirect::Policy::none());
    let client = client.tls_backend_preconfigured(trusted.map_err(|error| wrong(&error))?).build().map_err(|error| wrong(&error))?;
    let sender = opentelemetry_otlp::SpanExporter::builder().with_http().with_http_client(client).with_protocol(Protocol::HttpBinary);
    let sender = sender.with_endpoint(address.as_str()).with_timeout(ANSWER_MAX).build().map_err(|error| wrong(&error))?;
    let mut queue = BatchSpanProcessor::builder(Watched { sender, fails: AtomicBool::new(false) }).build();
    queue.set_resource(&resource(service));
    tracing::info!(%address, "spans are sent");
    let scope = InstrumentationScope::builder("orchestr8").with_version(env!("CARGO_PKG_VERSION")).build();
    Ok(Exporter { queue, scope })
}

impl Exporter {
    /// Takes one span, without waiting.
    pub fn take(&self, span: Span) {
        self.queue.on_end(span_of(span, &self.scope));
    }

    /// Sends what is there, within a bound.
    pub fn end(&self) {
        if let Err(error) = self.queue.shutdown_with_timeout(END_MAX) {
            tracing::warn!(%error, "the last spans may not have been sent");
        }
    }
}

fn address(endpoint: &str) -> Result<Url, ServiceError> {
    const REMEDY: &str = "write the base address of a collector, such as http://collector:4318";
    let wrong = |shown: &str, reason: &str| ServiceError::Configuration(format!("--otlp-endpoint {shown}: {reason}: {REMEDY}"));
    let shown = super::without_secrets(endpoint);
    let mut url = Url::parse(endpoint).map_err(|error| wrong(&shown, &error.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err(wrong(&shown, "it is no address of HTTP"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(wrong(&shown, "credentials belong into OTEL_EXPORTER_OTLP_HEADERS"));
    }
    let base = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{base}/{PATH}"));
    Ok(url)
}

fn resource(service: &'static str) -> Resource {
    let said = Resource::builder().build();
    let name = said.get(&"service.name".into()).map(|name| name.to_string());
    if name.is_some_and(|name| !name.is_empty() && !name.starts_with(NAMELESS)) {
        return said;
    }
    Resource::builder().with_service_name(service).build()
}

/// A sender that says once when it begins to fail, and once when it works again.
#[derive(Debug)]
struct Watched {
    sender: opentelemetry_otlp::SpanExporter,
    fails: AtomicBool,
}

impl SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.sender.export(batch).await;
        match (&sent, self.fails.swap(sent.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => tracing::warn!(%error, spans, "spans are not taken and are dropped until they are; work goes on"),
            (Ok(()), true) => tracing::info!("spans are taken again"),
            (Err(_), true) | (Ok(()), false) => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.sender.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.sender.set_resource(resource);
    }
}

fn span_of(span: Span, scope: &InstrumentationScope) -> SpanData {
    let context = SpanContext::new(
        TraceId::from_bytes(span.context.trace_id),
        SpanId::from_bytes(span.context.span_id),
        TraceFlags::new(span.context.flags),
        false,
        TraceState::default(),
    );
    let kind = match span.kind {
        SpanKind::Server => opentelemetry::trace::SpanKind::Server,
        SpanKind::Internal => opentelemetry::trace::SpanKind::Internal,
        SpanKind::Consumer => opentelemetry::trace::SpanKind::Consumer,
    };
    let mut events = SpanEvents::default();
    events.events = span.events.into_iter().map(|(name, at)| Event::new(name, time(at), Vec::new(), 0)).collect();
    SpanData {
        span_context: context,
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        // Only an executor's run has its parent in another process.
        parent_span_is_remote: matches!(span.kind, SpanKind::Server | SpanKind::Consumer) && span.parent.is_some(),
        span_kind: kind,
        name: span.name.into(),
        start_time: time(span.started_at),
        end_time: time(span.ended_at.max(span.started_at)),
        attributes: span.attributes.into_iter().map(|(name, value)| KeyValue::new(name, value_of(value))).collect(),
        dropped_attributes_count: 0,
        events,
        links: SpanLinks::default(),
        status: span.failure.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}

fn value_of(value: AttributeValue) -> Value {
    match value {
        AttributeValue::Text(text) => text.into(),
        AttributeValue::Number(number) => number.into(),
    }
}

fn time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(at.0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::traces::TraceParent;

    #[test]
    fn the_path_is_added_to_the_base() {
        for (endpoint, expected) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://host/otlp/", "https://host/otlp/v1/traces"),
        ] {
            assert_eq!(address(endpoint).expect(endpoint).as_str(), expected);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_secrets() {
        for (endpoint, reason) in [
            ("collector:4318", "no address of HTTP"),
            ("ftp://host", "no address of HTTP"),
            ("", "relative URL"),
            ("http://me:hidden@host", "OTEL_EXPORTER_OTLP_HEADERS"),
            ("http://host/?token=hidden", "OTEL_EXPORTER_OTLP_HEADERS"),
        ] {
            let refused = address(endpoint).expect_err(endpoint).to_string();
            assert!(refused.contains(reason) && refused.contains("http://collector:4318") && !refused.contains("hidden"), "{refused}");
        }
    }

    #[test]
    fn a_span_keeps_what_it_says() {
        let context = TraceParent::random();
        let span = Span {
            name: "attempt a".into(),
            kind: SpanKind::Consumer,
            context,
            parent: Some([7; 8]),
            started_at: Timestamp(5_000_000),
            ended_at: Timestamp(4_000_000),
            failure: Some("exit".into()),
            attributes: vec![("orchestr8.attempt", 2_u32.into())],
            events: vec![("started", Timestamp(5_000_001))],
        };
        let made = span_of(span, &InstrumentationScope::builder("test").build());
        assert_eq!((made.span_context.trace_id().to_bytes(), made.span_context.span_id().to_bytes()), (context.trace_id, context.span_id));
        assert!(made.span_context.is_sampled() && made.parent_span_id.to_bytes() == [7; 8] && made.parent_span_is_remote);
        assert_eq!((made.start_time, made.end_time), (UNIX_EPOCH + Duration::from_secs(5), UNIX_EPOCH + Duration::from_secs(5)));
        assert_eq!((made.attributes, made.status), (vec![KeyValue::new("orchestr8.attempt", 2)], Status::error("exit")));
        assert_eq!(made.events.len(), 1);
    }
}
