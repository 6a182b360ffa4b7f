//! `/api/v1/executors`: who is heard, who has fallen silent, and what operators want of them: cordon, uncordon, drain.

use super::ApiContext;
use super::body::{JsonBody, NoBody};
use super::log_level;
use super::parameters::{Parameters, Segment};
use super::problem::{Code, Problem};
use super::silence::Silent;
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
    state: Condition,
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
    silent_for_s: Option<f64>,
    replaced_by: Option<Uuid>,
}

/// How an executor is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Condition {
    /// It takes work.
    Active,
    /// It takes none, because an operator said so.
    Cordoned,
    /// It takes none, and gives back what does not end.
    Draining,
    /// It is not heard, and has not said goodbye.
    Silent,
}

/// `GET /api/v1/executors`: those that are heard, and those that have lately fallen silent, by name.
pub(super) async fn list(State(context): State<ApiContext>, parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let mut executors = context.engine.all_executors();
    let place = |view: &ExecutorView| (view.silence.is_some(), view.incarnation);
    executors.sort_by(|a, b| (&a.name, place(a)).cmp(&(&b.name, place(b))));
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
    let times = context.settings.times;
    let executors = context.engine.all_executors();
    let found = one(name, &executors)?;
    if let Some(silent) = Silent::executor(found, times) {
        let detail = format!("{}: it hears no orders; look whether it runs, and at the way between it and NATS", silent.who());
        return Err(Problem::new(Code::Unavailable, detail));
    }
    let wanted = found.incarnation;
    let deadline = Instant::now() + times.run_lease();
    let mut say_at = Instant::now();
    loop {
        if Instant::now() >= say_at {
            context.engine.order(wanted, order.clone()).await;
            say_at = Instant::now() + times.beat();
        }
        tokio::time::sleep(times.base() / 20).await;
        let executors = context.engine.all_executors();
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

/// By name, or by the whole incarnation where names are shared. One that is heard goes before those that have fallen silent.
fn one<'a>(name: &str, executors: &'a [ExecutorView]) -> Result<&'a ExecutorView, Problem> {
    let incarnation = name.parse::<Uuid>().ok();
    let named = executors.iter().filter(|view| view.name == name || Some(view.incarnation.0) == incarnation);
    let (heard, silent): (Vec<&ExecutorView>, Vec<&ExecutorView>) = named.partition(|view| view.silence.is_none());
    let found = if heard.is_empty() { silent } else { heard };
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

const fn condition(view: &ExecutorView) -> Condition {
    match (view.silence, view.draining, view.cordoned) {
        (Some(_), _, _) => Condition::Silent,
        (None, true, _) => Condition::Draining,
        (None, false, true) => Condition::Cordoned,
        (None, false, false) => Condition::Active,
    }
}

fn record(view: &ExecutorView) -> ExecutorRecord<'_> {
    ExecutorRecord {
        executor_id: &view.name,
        incarnation: view.incarnation.0,
        state: condition(view),
        version: &view.version,
        queues: &view.queues,
        handlers: &view.handlers,
        slots: view.slots,
        slots_busy: view.slots_busy,
        cordoned: view.cordoned,
        draining: view.draining,
        log_filter: &view.log_filter,
        seen_at: view.seen_at,
        silent_for_s: view.silence.map(|silence| silence.lasts.as_secs_f64()),
        replaced_by: view.silence.and_then(|silence| silence.standing.replaced_by).map(|incarnation| incarnation.0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::silence::tests::{executor, incarnation, silent_for};
    use super::*;
    use orchestr8_core::leases::Standing;

    #[test]
    fn a_name_is_that_of_the_one_that_is_heard() {
        let silent = |number| silent_for(9_000, Standing::default(), executor(number));
        let found =
            |name: &str, executors: &[ExecutorView]| one(name, executors).map(|view| view.incarnation).map_err(|error| error.code());
        assert_eq!(found("e1", &[silent(1), executor(2), silent(3)]), Ok(incarnation(2)));
        assert_eq!(found("e1", &[silent(1)]), Ok(incarnation(1)));
        assert_eq!(found(&incarnation(1).to_string(), &[silent(1), executor(2)]), Ok(incarnation(1)));
        assert_eq!(found("e1", &[executor(1), executor(2)]), Err(Code::AmbiguousId));
        assert_eq!(found("e2", &[executor(1)]), Err(Code::NotFound));
    }

    #[test]
    fn whoever_is_silent_is_nothing_else() {
        let draining = ExecutorView { draining: true, cordoned: true, ..executor(1) };
        let replaced = Standing { held_back: false, replaced_by: Some(incarnation(2)) };
        let shown = json!(record(&silent_for(9_000, replaced, draining.clone())));
        assert_eq!((&shown["state"], &shown["silent_for_s"]), (&json!("silent"), &json!(9.0)), "{shown}");
        assert_eq!(shown["replaced_by"], json!(incarnation(2)), "{shown}");
        let shown = json!(record(&draining));
        assert_eq!((&shown["state"], &shown["silent_for_s"]), (&json!("draining"), &Value::Null), "{shown}");
    }
}
