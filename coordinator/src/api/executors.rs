//! `/api/v1/executors`: who is heard, and what operators want of them: cordon, uncordon, drain.

use super::ApiContext;
use super::body::{JsonBody, NoBody};
use super::log_level;
use super::parameters::{Parameters, Segment};
use super::problem::{Code, Problem};
use crate::engine::handle::{ExecutorView, Order};
use axum::Json;
use axum::extract::State;
use orchestr8_proto::wire::ExecutorOrder;
use orchestr8_store::read::{Candidate, rfc3339};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

/// One executor, as its heartbeats describe it.
#[derive(Debug, Serialize)]
struct ExecutorRecord<'a> {
    executor_id: &'a str,
    incarnation: Uuid,
    version: &'a str,
    queues: &'a [String],
    handlers: &'a [String],
    slots: u32,
    slots_busy: u32,
    cordoned: bool,
    draining: bool,
    log_filter: &'a str,
    #[serde(serialize_with = "rfc3339")]
    seen_at: OffsetDateTime,
}

/// `GET /api/v1/executors`: those whose heartbeats were heard lately, by name.
pub(super) async fn list(State(context): State<ApiContext>, parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let mut executors = context.engine.executors();
    executors.sort_by(|a, b| (&a.name, a.incarnation).cmp(&(&b.name, b.incarnation)));
    let records: Vec<ExecutorRecord<'_>> = executors.iter().map(record).collect();
    Ok(Json(json!({ "executors": records })))
}

/// `POST /api/v1/executors/{name}/cordon`: it takes no new work; what runs goes on.
pub(super) async fn cordon(context: State<ApiContext>, name: Segment, parameters: Parameters, _: NoBody) -> Result<Json<Value>, Problem> {
    order(&context, &name.0, parameters, Order::Work(ExecutorOrder::Cordon)).await
}

/// `POST /api/v1/executors/{name}/uncordon`: it takes work again.
pub(super) async fn uncordon(context: State<ApiContext>, name: Segment, parameters: Parameters, _: NoBody) -> Result<Json<Value>, Problem> {
    order(&context, &name.0, parameters, Order::Work(ExecutorOrder::Uncordon)).await
}

/// `POST /api/v1/executors/{name}/drain`: it takes no new work, and gives back what has not ended when its drain's time is over.
pub(super) async fn drain(context: State<ApiContext>, name: Segment, parameters: Parameters, _: NoBody) -> Result<Json<Value>, Problem> {
    order(&context, &name.0, parameters, Order::Work(ExecutorOrder::Drain)).await
}

/// `PUT /api/v1/executors/{name}/log-level`: what it logs from now on, until its process ends.
pub(super) async fn log_level(
    context: State<ApiContext>,
    name: Segment,
    parameters: Parameters,
    body: JsonBody,
) -> Result<Json<Value>, Problem> {
    let filter = log_level::checked(&context, body)?;
    order(&context, &name.0, parameters, Order::Log(filter)).await
}

/// Answered when the executor's own heartbeat shows that it obeys. Orders travel by core NATS and may be lost: said again until then.
async fn order(context: &ApiContext, name: &str, parameters: Parameters, order: Order) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let wanted = one(name, &context.engine.executors())?.incarnation;
    let times = context.settings.times;
    let deadline = Instant::now() + times.run_lease();
    let mut say_at = Instant::now();
    loop {
        if Instant::now() >= say_at {
            context.engine.order(wanted, order.clone()).await;
            say_at = Instant::now() + times.beat();
        }
        tokio::time::sleep(times.base() / 20).await;
        let executors = context.engine.executors();
        let Some(view) = executors.iter().find(|view| view.incarnation == wanted) else {
            return Err(Problem::not_found("executor", name));
        };
        if obeys(view, &order) {
            return Ok(Json(json!(record(view))));
        }
        if Instant::now() >= deadline {
            let detail = format!("executor `{name}` did not obey in time: it may be cut off, ending, or of an older version; try again");
            return Err(Problem::new(Code::Unavailable, detail));
        }
    }
}

/// A drain is a cordon as well.
fn obeys(view: &ExecutorView, order: &Order) -> bool {
    let order = match order {
        Order::Work(order) => order,
        Order::Log(filter) => return view.log_filter == *filter,
    };
    match order {
        ExecutorOrder::Cordon => view.cordoned || view.draining,
        ExecutorOrder::Uncordon => !view.cordoned && !view.draining,
        ExecutorOrder::Drain => view.draining,
        ExecutorOrder::Unspecified => true,
    }
}

/// By name, or by the whole incarnation where names are shared.
fn one<'a>(name: &str, executors: &'a [ExecutorView]) -> Result<&'a ExecutorView, Problem> {
    let incarnation = name.parse::<Uuid>().ok();
    let found: Vec<&ExecutorView> = executors.iter().filter(|view| view.name == name || Some(view.incarnation.0) == incarnation).collect();
    match found.as_slice() {
        [] => Err(Problem::not_found("executor", name)),
        [one] => Ok(one),
        [_, _, ..] => {
            let detail = format!("{} executors have the name `{name}`: pass the incarnation of one", found.len());
            let candidate = |view: &&ExecutorView| Candidate { id: view.incarnation.0, name: view.name.clone(), created_at: view.seen_at };
            let candidates = found.iter().map(candidate).collect();
            Err(Problem::new(Code::AmbiguousId, detail).at("executor").with_value(&json!(name)).with_candidates(candidates))
        }
    }
}

fn record(view: &ExecutorView) -> ExecutorRecord<'_> {
    ExecutorRecord {
        executor_id: &view.name,
        incarnation: view.incarnation.0,
        version: &view.version,
        queues: &view.queues,
        handlers: &view.handlers,
        slots: view.slots,
        slots_busy: view.slots_busy,
        cordoned: view.cordoned,
        draining: view.draining,
        log_filter: &view.log_filter,
        seen_at: view.seen_at,
    }
}
