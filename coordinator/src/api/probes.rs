//! `/healthz`: the process answers. `/readyz`: which part is missing. `/metrics`: what was counted, and the queue depths.

use super::ApiContext;
use super::parameters::Parameters;
use super::problem::Problem;
use crate::bus::gauges::StreamSize;
use crate::engine::handle::EngineHealth;
use crate::metrics::{EngineView, Observed};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use orchestr8_proto::exposition::Exposition;
use orchestr8_proto::words::TaskStatus;
use orchestr8_store::read::{self, ReadError, depths, size};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Queue depths are counted at most this often, however many scrape.
const DEPTHS_AGE_MIN: Duration = Duration::from_secs(5);
/// And at least this often, however long it takes.
const DEPTHS_AGE_MAX: Duration = Duration::from_mins(1);
/// Counting is given up after this: the rest of the metrics must come before the scraper gives up.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);
/// `/readyz` answers within this time, whatever the database does.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// NATS tells within this time how full its streams are and how many outcomes are not read yet, or that is not shown.
const NATS_TIMEOUT: Duration = Duration::from_secs(2);

/// When the queue depths may be counted again, and why the last time failed, if it did.
#[derive(Debug, Default)]
pub struct LastScrape {
    next_at: Option<Instant>,
    reads: Option<String>,
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

/// `GET /metrics`. It tells what it can: a database or a NATS that does not answer leaves out, or as it was, what only it knows.
pub(super) async fn metrics(
    State(context): State<ApiContext>,
    headers: HeaderMap,
    parameters: Parameters,
) -> Result<impl IntoResponse, Problem> {
    parameters.finish()?;
    let mut scrape = context.scrape.lock().await;
    if scrape.is_due() {
        let (lag, sizes) = tokio::time::timeout(NATS_TIMEOUT, asked_of_nats(&context)).await.unwrap_or_default();
        context.metrics.observe_outcome_lag(lag);
        context.metrics.observe_streams(&sizes);
        let started = Instant::now();
        let counted = tokio::time::timeout(COUNT_TIMEOUT, counted(&context)).await.unwrap_or_else(|_| Err(silent()));
        scrape.counted(counted.map(|observed| context.metrics.observe(&observed)), started.elapsed());
    }
    let view = EngineView { health: context.engine.health(), reads: scrape.reads.clone(), executors: context.engine.executors() };
    context.metrics.observe_engine(&view);
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let Exposition { content_type, text } = Exposition::negotiated(context.metrics.text(), accept);
    Ok(([(header::CONTENT_TYPE, content_type)], text))
}

async fn asked_of_nats(context: &ApiContext) -> (Option<u64>, Vec<StreamSize>) {
    (context.metrics.outcome_readers().lag().await, context.metrics.broker().stream_sizes().await)
}

async fn counted(context: &ApiContext) -> Result<Observed, String> {
    let failed = |error: ReadError| error.to_string();
    let depths = depths::depths(&context.reads).await.map_err(failed)?;
    // Where nothing is queued nothing has an age: no query.
    let is_queued = depths.iter().any(|depth| depth.status == TaskStatus::Queued);
    let oldest_queued = if is_queued { depths::oldest_queued(&context.reads).await.map_err(failed)? } else { Vec::new() };
    // Who may count tasks need not be told the size: then that alone is not shown.
    let database_bytes = size::database_bytes(&context.reads).await.ok();
    Ok(Observed { depths, oldest_queued, database_bytes })
}

impl LastScrape {
    fn is_due(&self) -> bool {
        self.next_at.is_none_or(|next| Instant::now() >= next)
    }

    fn counted(&mut self, result: Result<(), String>, took: Duration) {
        self.reads = result.err();
        if let Some(reason) = &self.reads {
            tracing::warn!(reason, "queue depths were not counted; the last ones are shown");
        }
        // A count that was given up may still go on in the database: it must not become many.
        self.next_at = Some(Instant::now() + pause_after(took));
    }
}

fn silent() -> String {
    format!("no answer within {} s", COUNT_TIMEOUT.as_secs())
}

/// Long queues take longer to count: the database has at least nineteen twentieths of its time for its work.
fn pause_after(took: Duration) -> Duration {
    (took * 19).clamp(DEPTHS_AGE_MIN, DEPTHS_AGE_MAX)
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
    fn long_queues_are_counted_less_often() {
        assert_eq!(pause_after(Duration::from_millis(3)), Duration::from_secs(5));
        assert_eq!(pause_after(Duration::from_secs(1)), Duration::from_secs(19));
        assert_eq!(pause_after(COUNT_TIMEOUT), Duration::from_mins(1));
    }

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
