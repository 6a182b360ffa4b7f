//! `POST /api/v1/tasks` and `POST /api/v1/workflows`: durable when answered.

use super::admission::Admitted;
use super::parameters::Parameters;
use super::problem::{Code, Problem};
use super::refusals::Refusals;
use super::shapes::Shapes;
use super::single::TaskRequest;
use super::traced::{self, Answer, Traced};
use super::workflow::WorkflowRequest;
use super::{ApiContext, elsewhere};
use crate::engine::handle::{IdempotencyKey, Offers, Origin, Request, Submission, SubmitError, Submitted};
use crate::metrics::SubmissionRefusal;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use orchestr8_core::plan::{Plan, TaskKind};
use orchestr8_proto::ids::ExecutionId;
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// Tasks in one request, at most: they are one transaction.
pub const BATCH_TASKS_MAX: usize = 1_000;
/// Bytes of an idempotency key, at most.
pub const KEY_BYTES_MAX: usize = 255;
/// Bytes of an execution's input as JSON, at most.
pub const INPUT_BYTES_MAX: usize = 512 * 1024;
/// Warnings in one answer, at most.
const WARNINGS_MAX: usize = 20;
/// The lane is given up after this: whether it commits later is then unknown, so the caller asks again with the same key.
pub(super) const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// `POST /api/v1/tasks`: an object, or an array of up to [`BATCH_TASKS_MAX`] in one transaction.
pub(super) async fn tasks(State(context): State<ApiContext>, headers: HeaderMap, parameters: Parameters, admitted: Admitted) -> Answer {
    parameters.finish()?;
    let accept = async |traced: &Traced| accept_tasks(&context, &headers, admitted, traced).await;
    traced::answered(&context, &headers, "/api/v1/tasks", accept).await
}

/// `POST /api/v1/workflows`: one execution of a definition.
pub(super) async fn workflow(State(context): State<ApiContext>, headers: HeaderMap, parameters: Parameters, admitted: Admitted) -> Answer {
    parameters.finish()?;
    let accept = async |traced: &Traced| accept_workflow(&context, &headers, admitted, traced).await;
    traced::answered(&context, &headers, "/api/v1/workflows", accept).await
}

async fn accept_tasks(context: &ApiContext, headers: &HeaderMap, Admitted { room, body }: Admitted, traced: &Traced) -> Answer {
    let key = idempotency_key(headers, body.hash)?;
    let (bytes, room) = (body.bytes, Some(room));
    match body.value {
        Value::Array(items) => {
            let mut submissions = batch(items, &context.shapes)?;
            traced.mark(&mut submissions);
            let answers = submit_tasks(context, Request { submissions, bytes, key, room }).await?;
            Ok((StatusCode::ACCEPTED, Json(Value::Array(answers))))
        }
        one => {
            let mut submissions = vec![TaskRequest::read(one)?.into_submission(&context.shapes)?];
            traced.mark(&mut submissions);
            let answers = submit_tasks(context, Request { submissions, bytes, key, room }).await?;
            Ok((StatusCode::ACCEPTED, Json(answers.into_iter().next().unwrap_or_default())))
        }
    }
}

async fn accept_workflow(context: &ApiContext, headers: &HeaderMap, Admitted { room, body }: Admitted, traced: &Traced) -> Answer {
    let key = idempotency_key(headers, body.hash)?;
    let mut submission = WorkflowRequest::read(body.value)?.into_submission(&context.reads).await?;
    context.queues.admit(context, std::slice::from_ref(&submission)).await?;
    traced.mark(std::slice::from_mut(&mut submission));
    let request = Request { submissions: vec![submission.clone()], bytes: body.bytes, key, room: Some(room) };
    let submitted = commit(context, request).await?;
    let id = submitted.ids.first().copied().ok_or_else(|| lost_ids(1, 0))?;
    let answer = with_origin(workflow_answer(id, &submission, &Outlook::of(context)), submitted.origin);
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// The caller's key for this request.
///
/// # Errors
/// [`Code::BadParameter`] when it has a wrong form.
fn idempotency_key(headers: &HeaderMap, body_hash: [u8; 32]) -> Result<Option<IdempotencyKey>, Problem> {
    let mut given = headers.get_all("idempotency-key").iter();
    let Some(key) = given.next() else { return Ok(None) };
    let remedy = format!("`Idempotency-Key` must be given once, with 1 to {KEY_BYTES_MAX} ASCII characters; spaces around it do not count");
    let refusal = || Problem::new(Code::BadParameter, remedy).at("Idempotency-Key");
    let key = key.to_str().ok().filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()) && given.next().is_none());
    let key = key.ok_or_else(refusal)?.to_owned();
    Ok(Some(IdempotencyKey { key, body_hash }))
}

/// Refuses an input that is too large to be stored with an execution.
///
/// # Errors
/// [`Code::BadField`] with the limit.
pub(super) fn check_input_size(field: &str, what: &str, input: &Value) -> Result<(), Problem> {
    let bytes = input.to_string().len();
    if bytes <= INPUT_BYTES_MAX {
        return Ok(());
    }
    let detail = format!("{what} {bytes} bytes as JSON: at most {INPUT_BYTES_MAX} (512 KiB); pass larger values by reference");
    Err(Problem::new(Code::BadField, detail).at(field))
}

/// Every task is read before any is submitted; one that is wrong refuses all.
fn batch(items: Vec<Value>, shapes: &Shapes) -> Result<Vec<Submission>, Problem> {
    if !(1..=BATCH_TASKS_MAX).contains(&items.len()) {
        let detail = format!("an array has 1 to {BATCH_TASKS_MAX} tasks, this one has {}: send several requests", items.len());
        return Err(Problem::new(Code::BadField, detail));
    }
    let (mut submissions, mut refusals) = (Vec::with_capacity(items.len()), Refusals::default());
    for (index, item) in items.into_iter().enumerate() {
        let submission = TaskRequest::read(item).and_then(|request| request.into_submission(shapes));
        submissions.extend(refusals.keep(submission.map_err(|problem| problem.within(&format!("[{index}]")))));
        if refusals.is_full() {
            break;
        }
    }
    refusals.finish()?;
    Ok(submissions)
}

async fn submit_tasks(context: &ApiContext, request: Request) -> Result<Vec<Value>, Problem> {
    context.queues.admit(context, &request.submissions).await?;
    let outlook = Outlook::of(context);
    let submissions = request.submissions.clone();
    let submitted = commit(context, request).await?;
    let answer = |(id, submission): (&ExecutionId, &Submission)| with_origin(task_answer(*id, submission, &outlook), submitted.origin);
    Ok(submitted.ids.iter().zip(&submissions).map(answer).collect())
}

async fn commit(context: &ApiContext, request: Request) -> Result<Submitted, Problem> {
    let count = request.submissions.len();
    let answer = tokio::time::timeout(COMMIT_TIMEOUT, context.engine.submit(request)).await;
    let unknown = || {
        let detail = "the lane did not answer in time, so it is not known whether this was stored: try again with the same Idempotency-Key";
        Problem::new(Code::Unavailable, detail)
    };
    let submitted = answer.map_err(|_| unknown())?.map_err(|error| {
        context.metrics.submission_refused(reason_of(&error));
        refusal(error)
    })?;
    if submitted.ids.len() != count {
        return Err(lost_ids(count, submitted.ids.len()));
    }
    if let (Origin::Sent, Some(first)) = (submitted.origin, submitted.ids.first()) {
        elsewhere::made(context, *first).await?;
    }
    Ok(submitted)
}

fn refusal(error: SubmitError) -> Problem {
    let detail = error.to_string();
    match error {
        SubmitError::KeyReused { key } => Problem::new(Code::KeyReused, detail).at("Idempotency-Key").with_value(&json!(key)),
        SubmitError::Refused(_) => Problem::new(Code::Refused, detail),
        SubmitError::Unavailable(_) => Problem::new(Code::Unavailable, detail),
    }
}

fn reason_of(error: &SubmitError) -> SubmissionRefusal {
    match error {
        SubmitError::KeyReused { .. } => SubmissionRefusal::KeyReused,
        SubmitError::Refused(_) => SubmissionRefusal::Refused,
        SubmitError::Unavailable(_) => SubmissionRefusal::Unavailable,
    }
}

fn lost_ids(wanted: usize, given: usize) -> Problem {
    tracing::error!(wanted, given, "a submission was answered with another number of ids");
    Problem::new(Code::Internal, "the engine answered with another number of ids than there are tasks")
}

/// What may keep a task waiting: who serves, and which queues are paused.
struct Outlook {
    /// None: a coordinator that started a moment ago has not listened for long enough to know.
    offers: Option<Arc<Offers>>,
    paused_queues: Vec<String>,
}

impl Outlook {
    fn of(context: &ApiContext) -> Self {
        Self { offers: context.engine.has_listened().then(|| context.engine.offers()), paused_queues: context.engine.paused_queues() }
    }
}

fn task_answer(id: ExecutionId, submission: &Submission, outlook: &Outlook) -> Value {
    let task = id.task(0);
    let status = if is_later(submission.run_at) { TaskStatus::Waiting } else { TaskStatus::Queued };
    json!({
        "task_id": task,
        "workflow_id": id,
        "status": status,
        "max_attempts": submission.plan.tasks.first().map(|task| task.retry.max_attempts),
        "estimated_duration": null,
        "check_status_url": format!("/api/v1/tasks/{task}/status"),
        "message": format!("accepted; its result will be at /api/v1/tasks/{task}/result?wait=30s"),
        "warnings": warnings(&submission.plan, outlook),
    })
}

fn workflow_answer(id: ExecutionId, submission: &Submission, outlook: &Outlook) -> Value {
    let status = if is_later(submission.run_at) { WorkflowStatus::Pending } else { WorkflowStatus::Running };
    json!({
        "workflow_id": id,
        "workflow_name": submission.plan.name,
        "status": status,
        "tasks_total": submission.plan.tasks.len(),
        "estimated_duration": null,
        "check_status_url": format!("/api/v1/workflows/{id}"),
        "events_url": format!("/api/v1/workflows/{id}/events"),
        "message": format!("accepted; its end will be at /api/v1/workflows/{id}?wait=30s"),
        "warnings": warnings(&submission.plan, outlook),
    })
}

/// Says whether the caller's key had been used: what the ids stand for was then submitted before.
fn with_origin(mut answer: Value, origin: Origin) -> Value {
    answer["replayed"] = match origin {
        Origin::Replayed => json!(true),
        Origin::New | Origin::Sent => json!(false),
    };
    answer
}

fn is_later(run_at: Option<OffsetDateTime>) -> bool {
    run_at.is_some_and(|run_at| run_at > OffsetDateTime::now_utc())
}

/// What will keep a task waiting, as far as the heartbeats of executors and the last renewal tell.
fn warnings(plan: &Plan, outlook: &Outlook) -> Vec<String> {
    let mut wanted = BTreeSet::new();
    for task in &plan.tasks {
        match &task.kind {
            TaskKind::Run { .. } => wanted.insert((task.queue.as_str(), None)),
            TaskKind::Handler { name } => wanted.insert((task.queue.as_str(), Some(name.as_str()))),
            TaskKind::Sleep { .. } => false,
        };
    }
    let queues: BTreeSet<&str> = wanted.iter().map(|(queue, _)| *queue).collect();
    let paused = queues.into_iter().filter(|queue| outlook.paused_queues.iter().any(|paused| paused == queue));
    let paused = paused.map(|queue| format!("queue `{queue}` is paused: its tasks wait until somebody resumes it"));
    let unserved =
        |offers: &Offers| -> Vec<String> { wanted.iter().filter_map(|(queue, handler)| warning(queue, *handler, offers)).collect() };
    let said: BTreeSet<String> = outlook.offers.as_deref().map(unserved).unwrap_or_default().into_iter().chain(paused).collect();
    said.into_iter().take(WARNINGS_MAX).collect()
}

fn warning(queue: &str, handler: Option<&str>, offers: &Offers) -> Option<String> {
    let Some(handlers) = offers.handlers(queue) else {
        return Some(format!("no executor serves queue `{queue}` at the moment: its tasks wait until one does"));
    };
    let handler = handler?;
    (!handlers.contains(handler))
        .then(|| format!("no executor of queue `{queue}` has handler `{handler}` at the moment: its tasks wait until one does"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::handle::{ExecutorSilence, ExecutorView};
    use axum::http::HeaderValue;
    use orchestr8_proto::ids::Incarnation;

    fn executor(queue: &str, handler: &str) -> ExecutorView {
        let (queues, handlers) = (vec![queue.to_owned()], vec![handler.to_owned()]);
        let (incarnation, seen_at) = (Incarnation::random(), OffsetDateTime::UNIX_EPOCH);
        let (draining, cordoned, version, log_filter) = (false, false, "1".into(), String::new());
        ExecutorView {
            name: "e1".into(),
            incarnation,
            version,
            queues,
            handlers,
            slots: 4,
            slots_busy: 0,
            draining,
            cordoned,
            log_filter,
            seen_at,
            silence: None,
        }
    }

    #[test]
    fn warnings_name_what_nobody_serves() {
        let one = executor("default", "noop");
        let other = executor("default", "sleep");
        let offers = Offers::of([&one, &other]);
        assert_eq!(warning("default", Some("noop"), &offers), None);
        assert_eq!(warning("default", Some("sleep"), &offers), None);
        assert_eq!(warning("default", None, &offers), None);
        assert!(warning("gpu", None, &offers).expect("a warning").contains("queue `gpu`"));
        assert!(warning("default", Some("nop"), &offers).expect("a warning").contains("handler `nop`"));
        let silent = ExecutorView { silence: Some(ExecutorSilence::default()), ..one.clone() };
        for away in [ExecutorView { draining: true, ..one.clone() }, ExecutorView { cordoned: true, ..one }, silent] {
            assert!(warning("default", None, &Offers::of([&away])).is_some());
        }
    }

    #[test]
    fn while_executors_are_not_known_nothing_is_said_of_them() {
        let submission = TaskRequest::read(json!({"handler": "noop"})).and_then(|task| task.into_submission(&Shapes::default()));
        let plan = submission.expect("valid").plan;
        for (offers, said) in [(None, 0), (Some(Arc::default()), 1)] {
            assert_eq!(warnings(&plan, &Outlook { offers, paused_queues: Vec::new() }).len(), said);
        }
    }

    #[test]
    fn an_idempotency_key_is_given_once() {
        let mut headers = HeaderMap::new();
        assert_eq!(idempotency_key(&headers, [0; 32]), Ok(None));
        headers.insert("idempotency-key", HeaderValue::from_static("k1"));
        let expected = IdempotencyKey { key: "k1".into(), body_hash: [7; 32] };
        assert_eq!(idempotency_key(&headers, [7; 32]), Ok(Some(expected)));
        headers.append("idempotency-key", HeaderValue::from_static("k2"));
        assert!(idempotency_key(&headers, [0; 32]).is_err());
        headers.insert("idempotency-key", HeaderValue::from_str(&"k".repeat(256)).expect("visible"));
        assert!(idempotency_key(&headers, [0; 32]).is_err());
    }
}
