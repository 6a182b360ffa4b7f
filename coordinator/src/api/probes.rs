//! `/healthz`: the process answers. `/readyz`: which part is missing. `/metrics`: what was counted, and the queue depths.

use super::ApiContext;
use super::parameters::Parameters;
use super::problem::Problem;
use crate::engine::handle::{EngineHealth, ExecutorView};
use crate::metrics::Observed;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use orchestr8_proto::words::TaskStatus;
use orchestr8_store::read::{self, ReadError, depths};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Queue depths are counted at most this often, however many scrape.
const DEPTHS_AGE_MAX: Duration = Duration::from_secs(5);
/// `/readyz` answers within this time, whatever the database does.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// NATS tells within this time how many outcomes are not read yet, or the lag is not shown.
const LAG_TIMEOUT: Duration = Duration::from_secs(2);

/// When the queue depths were counted last.
#[derive(Debug, Default)]
pub struct LastScrape {
    counted_at: Option<Instant>,
}

/// `GET /healthz`.
pub(super) async fn healthz(parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    Ok(Json(json!({ "status": "ok" })))
}

/// `GET /readyz`: 200 when every part is there, else 503; the parts are named in both.
pub(super) async fn readyz(State(context): State<ApiContext>, parameters: Parameters) -> Result<impl IntoResponse, Problem> {
    parameters.finish()?;
    let reads = match tokio::time::timeout(READY_TIMEOUT, read::answers(&context.reads)).await {
        Ok(answered) => answered.err().map(|error| error.to_string()),
        Err(_) => Some(format!("no answer within {} s", READY_TIMEOUT.as_secs())),
    };
    let (is_ready, document) = readiness(&context.engine.health(), reads, context.engine.executors().len());
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(document)))
}

/// `GET /metrics`.
pub(super) async fn metrics(State(context): State<ApiContext>, parameters: Parameters) -> Result<impl IntoResponse, Problem> {
    parameters.finish()?;
    let mut scrape = context.scrape.lock().await;
    if scrape.counted_at.is_none_or(|at| at.elapsed() >= DEPTHS_AGE_MAX) {
        let lag = tokio::time::timeout(LAG_TIMEOUT, context.metrics.outcome_readers().lag()).await;
        context.metrics.observe_outcome_lag(lag.ok().flatten());
        match counted(&context).await {
            Ok(observed) => context.metrics.observe(&observed),
            Err(error) => tracing::warn!(%error, "queue depths were not counted; the last ones are shown"),
        }
        scrape.counted_at = Some(Instant::now());
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], context.metrics.text()))
}

async fn counted(context: &ApiContext) -> Result<Observed, ReadError> {
    let depths = depths::depths(&context.reads).await?;
    // Where nothing is queued nothing has an age: no query.
    let is_queued = depths.iter().any(|depth| depth.status == TaskStatus::Queued);
    let oldest_queued = if is_queued { depths::oldest_queued(&context.reads).await? } else { Vec::new() };
    let shards_owned = i64::try_from(context.engine.health().shards_owned).unwrap_or(i64::MAX);
    Ok(Observed { depths, oldest_queued, executors: executors_by_queue(&context.engine.executors()), shards_owned })
}

fn executors_by_queue(executors: &[ExecutorView]) -> Vec<(String, i64)> {
    let mut by_queue = BTreeMap::<&str, i64>::new();
    for queue in executors.iter().flat_map(|executor| &executor.queues) {
        *by_queue.entry(queue).or_default() += 1;
    }
    by_queue.into_iter().map(|(queue, executors)| (queue.to_owned(), executors)).collect()
}

fn readiness(health: &EngineHealth, reads: Option<String>, executors: usize) -> (bool, Value) {
    let database = health.database.clone().or(reads);
    let shards = (health.shards_owned == 0 && health.shards_due > 0).then(|| "this coordinator owns no shard".to_owned());
    let parts = [("database", database), ("nats", health.nats.clone()), ("shards", shards)];
    let is_ready = parts.iter().all(|(_, missing)| missing.is_none());
    let part = |missing: Option<String>| json!({ "ready": missing.is_none(), "reason": missing });
    let document: serde_json::Map<_, _> = parts.into_iter().map(|(name, missing)| (name.to_owned(), part(missing))).collect();
    (is_ready, json!({ "ready": is_ready, "parts": document, "shards_owned": health.shards_owned, "executors": executors }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_the_missing_part() {
        let health = EngineHealth { shards_owned: 3, shards_due: 3, nats: None, database: None };
        assert!(readiness(&health, None, 2).0);
        let (is_ready, document) = readiness(&EngineHealth { nats: Some("connection refused".into()), ..health.clone() }, None, 2);
        assert_eq!((is_ready, &document["parts"]["nats"]["reason"]), (false, &json!("connection refused")));
        assert_eq!(document["parts"]["database"]["ready"], json!(true));
        assert_eq!(readiness(&health, Some("no answer".into()), 2).1["parts"]["database"]["reason"], json!("no answer"));
        assert!(!readiness(&EngineHealth { shards_owned: 0, ..health.clone() }, None, 2).0);
        assert!(readiness(&EngineHealth { shards_owned: 0, shards_due: 0, ..health }, None, 2).0, "more lanes than shards");
    }
}
