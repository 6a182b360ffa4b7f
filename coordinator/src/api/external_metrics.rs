//! `external.metrics.k8s.io`: the demand of queues for Kubernetes' own autoscaler, on a port that the cluster's front proxy alone may use.
//!
//! A cluster has one server of this group, so this is off unless it is asked for. Who may read what, the API server has decided
//! before it asks. Like the demand itself, it answers figures counted now, or an error: an autoscaler then keeps its replicas.

use super::connections::{ConnectionLimits, Serving};
use super::demand::{depths_now, slots_of};
use super::server::serve_routes;
use super::tls::{ApiCertificate, Clients, TlsError, acceptor_for};
use super::{ApiContext, front_proxy};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use orchestr8_proto::names::check_queue_name;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The group and version that it serves.
const GROUP_VERSION: &str = "external.metrics.k8s.io/v1beta1";
/// The one metric.
const METRIC: &str = "orchestr8_queue_demand_slots";
/// The label that chooses queues.
const LABEL: &str = "queue";
/// Connections, at most: the front proxy of each API server keeps a few.
const CONNECTIONS_MAX: usize = 256;
/// Queues in one selector, at most.
const QUEUES_MAX: usize = 64;

/// Where it is served, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalMetricsSettings {
    /// Its port.
    pub listen: SocketAddr,
    /// What it identifies itself with to the API server.
    pub certificate: ApiCertificate,
    /// The authorities of the front proxy (`requestheader-client-ca-file`), PEM.
    pub client_ca: PathBuf,
    /// Common names of the front proxy (`requestheader-allowed-names`); none: any that the authorities vouch for.
    pub client_names: Vec<String>,
}

/// Reads the certificates.
///
/// # Errors
/// [`TlsError`] names file and remedy.
pub fn acceptor(settings: &ExternalMetricsSettings) -> Result<TlsAcceptor, TlsError> {
    let verifier = front_proxy::verifier(&settings.client_ca, &settings.client_names)?;
    acceptor_for(&settings.certificate, Clients::Verified(verifier))
}

/// Serves until the context's `shutdown` is cancelled.
pub async fn serve(listener: TcpListener, acceptor: TlsAcceptor, context: ApiContext) {
    let (limits, shutdown) = (ConnectionLimits::of(CONNECTIONS_MAX), context.settings.shutdown.clone());
    serve_routes(listener, Serving { routes: router(context), tls: Some(acceptor), limits, shutdown }).await;
}

fn router(context: ApiContext) -> Router {
    Router::new()
        .route("/apis/external.metrics.k8s.io/v1beta1", get(resources))
        .route("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{metric}", get(values))
        .fallback(unknown)
        .with_state(context)
}

/// What API machinery sends besides is not for us: it is its own business, such as a timeout.
#[derive(Debug, Deserialize)]
struct Selection {
    #[serde(rename = "labelSelector")]
    label_selector: Option<String>,
}

/// `GET /apis/external.metrics.k8s.io/v1beta1`: what there is.
async fn resources() -> Json<Value> {
    let metric = json!({"name": METRIC, "singularName": "", "namespaced": true, "kind": "ExternalMetricValueList", "verbs": ["get"]});
    Json(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION, "resources": [metric]}))
}

/// `GET …/namespaces/{namespace}/{metric}?labelSelector=queue in (a,b)`: one value for each queue. The same in every namespace.
async fn values(
    State(context): State<ApiContext>,
    Path((_, metric)): Path<(String, String)>,
    Query(selection): Query<Selection>,
) -> Result<Json<Value>, Failure> {
    if metric != METRIC {
        return Err(Failure::not_found(format!("there is no metric `{metric}` here; there is `{METRIC}`")));
    }
    let queues = queues_of(selection.label_selector.as_deref().unwrap_or_default()).map_err(Failure::bad_request)?;
    let depths = depths_now(&context).await.map_err(|problem| Failure::unavailable(problem.detail().to_owned()))?;
    let counted_at = OffsetDateTime::now_utc().replace_nanosecond(0).ok().and_then(|now| now.format(&Rfc3339).ok());
    let item = |queue: &String| {
        let value = slots_of(queue, &depths).to_string();
        json!({"metricName": METRIC, "metricLabels": {LABEL: queue}, "timestamp": counted_at, "value": value})
    };
    let items: Vec<Value> = queues.iter().map(item).collect();
    Ok(Json(json!({"kind": "ExternalMetricValueList", "apiVersion": GROUP_VERSION, "metadata": {}, "items": items})))
}

async fn unknown(uri: Uri) -> Failure {
    Failure::not_found(format!("there is nothing under `{}`", uri.path()))
}

/// The queues that a label selector names: `queue=a`, `queue==a` or `queue in (a,b)`. Each once, in order.
///
/// Everything else is refused: an autoscaler must not take the demand of all queues for that of its own.
fn queues_of(selector: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("labelSelector `{selector}`: name queues with `{LABEL}=NAME` or `{LABEL} in (NAME,NAME)`, and nothing else");
    let rest = selector.trim().strip_prefix(LABEL).ok_or_else(wrong)?;
    let one = rest.trim_start().strip_prefix('=').map(|value| vec![value.strip_prefix('=').unwrap_or(value)]);
    let mut queues: Vec<String> =
        one.or_else(|| listed(rest)).ok_or_else(wrong)?.into_iter().map(|queue| queue.trim().to_owned()).collect();
    queues.sort_unstable();
    queues.dedup();
    if queues.len() <= QUEUES_MAX && queues.iter().all(|queue| check_queue_name(queue).is_ok()) { Ok(queues) } else { Err(wrong()) }
}

/// The names of ` in (a,b)`.
fn listed(rest: &str) -> Option<Vec<&str>> {
    let list = rest.strip_prefix(' ')?.trim_start().strip_prefix("in")?.trim();
    Some(list.strip_prefix('(')?.strip_suffix(')')?.split(',').collect())
}

/// An error in Kubernetes' form.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    reason: &'static str,
    message: String,
}

impl Failure {
    const fn bad_request(message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: "BadRequest", message }
    }

    const fn not_found(message: String) -> Self {
        Self { status: StatusCode::NOT_FOUND, reason: "NotFound", message }
    }

    const fn unavailable(message: String) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, reason: "ServiceUnavailable", message }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { status, reason, message } = self;
        let document = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": status.as_u16(),
        });
        (status, Json(document)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_names_queues() {
        for (selector, queues) in [
            ("queue=a", &["a"][..]),
            ("queue==gpu-a100", &["gpu-a100"]),
            ("queue in (a)", &["a"]),
            ("queue in (b,a,b)", &["a", "b"]),
            (" queue  in ( b , a ) ", &["a", "b"]),
            ("queue = a", &["a"]),
        ] {
            assert_eq!(queues_of(selector).as_deref(), Ok(&queues.iter().map(|queue| (*queue).to_owned()).collect::<Vec<_>>()[..]));
        }
    }

    #[test]
    fn what_does_not_name_queues_is_refused() {
        for selector in [
            "",
            "queue",
            "queue!=a",
            "queue notin (a)",
            "!queue",
            "pool=a",
            "queue=a,queue=b",
            "queue=a,pool=b",
            "queue in a",
            "queue in ()",
            "queue=",
            "queue=A",
            "queues=a",
            "queuein (a)",
            "queue in (a),pool=b",
        ] {
            let refused = queues_of(selector).expect_err(selector);
            assert!(refused.contains("queue in (NAME,NAME)"), "{refused}");
        }
        let many: Vec<String> = (0..65).map(|number| format!("q{number}")).collect();
        assert!(queues_of(&format!("queue in ({})", many.join(","))).is_err());
    }
}
