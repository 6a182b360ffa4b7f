//! `/api/v1/queues/{queue}/demand`: the figure to scale executors by, counted now, or an error: never a guess.

use super::ApiContext;
use super::parameters::{Parameters, Segment};
use super::problem::{Code, Problem};
use axum::Json;
use axum::extract::State;
use orchestr8_proto::names::check_queue_name;
use orchestr8_proto::words::TaskStatus;
use orchestr8_store::read::depths::{self, QueueDepth};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// The depths are counted at most this often, however many pools ask.
const AGE_MAX: Duration = Duration::from_secs(2);
/// The database answers within this time, or the demand is not known.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);
/// Queues in one request.
const QUEUES_MAX: usize = 64;

/// The depths that were counted last, shared by all who ask soon after.
#[derive(Debug, Default)]
pub struct LastCount {
    counted: Mutex<Option<(Instant, Vec<QueueDepth>)>>,
}

/// `GET /api/v1/queues/{queue}/demand`: `{"queues": ["default"], "demand_slots": 12, "queued": 9, "running": 3}`. Several queues,
/// separated by commas, are summed, each once. An autoscaler keeps its replicas while this is an error.
pub(super) async fn of_queues(
    State(context): State<ApiContext>,
    Segment(queues): Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let queues = named(&queues)?;
    Ok(Json(summed(&queues, &depths_now(&context).await?)))
}

/// The depths of all queues, counted within the last [`AGE_MAX`].
pub(super) async fn depths_now(context: &ApiContext) -> Result<Vec<QueueDepth>, Problem> {
    let mut counted = context.demand.counted.lock().await;
    let depths = match counted.take() {
        Some((at, depths)) if at.elapsed() < AGE_MAX => (at, depths),
        Some(_) | None => (Instant::now(), count(context).await?),
    };
    let answer = depths.1.clone();
    *counted = Some(depths);
    Ok(answer)
}

/// Slots that the queued and running tasks of one queue want.
pub(super) fn slots_of(queue: &str, depths: &[QueueDepth]) -> i64 {
    let wanting = |depth: &&QueueDepth| depth.queue.as_str() == queue && [TaskStatus::Queued, TaskStatus::Running].contains(&depth.status);
    depths.iter().filter(wanting).fold(0_i64, |sum, depth| sum.saturating_add(depth.tasks))
}

/// What a failure leaves behind is nothing: the next request counts anew.
async fn count(context: &ApiContext) -> Result<Vec<QueueDepth>, Problem> {
    let unknown = || Problem::new(Code::Unavailable, "the database did not count the tasks in time, so the demand is not known: ask again");
    let counted = timeout(COUNT_TIMEOUT, depths::depths(&context.reads)).await.map_err(|_| unknown())?;
    Ok(counted?)
}

fn named(text: &str) -> Result<Vec<&str>, Problem> {
    let wrong = |reason: String| Problem::new(Code::BadParameter, reason).at("queue").with_value(&json!(text));
    let mut queues: Vec<&str> = text.split(',').collect();
    queues.sort_unstable();
    queues.dedup();
    if queues.len() > QUEUES_MAX {
        return Err(wrong(format!("name at most {QUEUES_MAX} queues in one request")));
    }
    queues.iter().try_for_each(|queue| check_queue_name(queue)).map_err(|error| wrong(error.to_string()))?;
    Ok(queues)
}

fn summed(queues: &[&str], depths: &[QueueDepth]) -> Value {
    let tasks = |status: TaskStatus| {
        let of_queues = depths.iter().filter(|depth| depth.status == status && queues.contains(&depth.queue.as_str()));
        of_queues.fold(0_i64, |sum, depth| sum.saturating_add(depth.tasks))
    };
    let (queued, running) = (tasks(TaskStatus::Queued), tasks(TaskStatus::Running));
    json!({ "queues": queues, "demand_slots": queued.saturating_add(running), "queued": queued, "running": running })
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::words::Priority;

    #[test]
    fn queued_and_running_tasks_of_the_named_queues_are_summed_once() {
        let depth = |queue: &str, status, tasks| QueueDepth { queue: queue.into(), priority: Priority::Normal, status, tasks };
        let depths = [
            depth("a", TaskStatus::Queued, 3),
            depth("a", TaskStatus::Running, 2),
            depth("a", TaskStatus::Retrying, 40),
            depth("b", TaskStatus::Queued, 5),
            depth("c", TaskStatus::Running, 70),
        ];
        let queues = named("b,a,b").expect("names");
        assert_eq!(summed(&queues, &depths), json!({"queues": ["a", "b"], "demand_slots": 10, "queued": 8, "running": 2}));
        assert_eq!(summed(&["empty"], &depths)["demand_slots"], json!(0));
    }

    #[test]
    fn what_is_no_queue_is_refused() {
        for bad in ["A", "a,", "a b", ",", "a.b"] {
            assert_eq!(named(bad).expect_err(bad).code(), Code::BadParameter, "{bad}");
        }
        let many = (0..=QUEUES_MAX).map(|number| format!("q{number}")).collect::<Vec<_>>().join(",");
        assert!(named(&many).is_err(), "a request has a bound");
    }
}
