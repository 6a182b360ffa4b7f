//! `/api/v1/tasks`: lists, one task, its status and result, cancelling it.

use super::body::NoBody;
use super::parameters::{Parameters, Segment};
use super::problem::{Code, Problem};
use super::{ApiContext, elsewhere, ids, waiting};
use crate::engine::handle::{CancelAnswer, CancelTarget, CommandError};
use crate::engine::news::{News, OnlyTask};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use orchestr8_proto::ids::TaskId;
use orchestr8_proto::words::TaskStatus;
use orchestr8_store::read::ReadError;
use orchestr8_store::read::tasks::{self, TaskDetail, TaskFilter, TaskRecord, TaskResult};
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /api/v1/tasks`: newest first.
pub(super) async fn list(State(context): State<ApiContext>, parameters: Parameters) -> Result<Json<Value>, Problem> {
    let filter = filter(parameters)?;
    let rows = filter.rows;
    let read = tasks::page(&context.reads, &TaskFilter { rows: rows_read(rows), ..filter }).await?;
    let (tasks, next_cursor) = page_of(read, rows, |task| task.task_id);
    Ok(Json(json!({ "tasks": tasks, "next_cursor": next_cursor })))
}

/// `GET /api/v1/tasks/{id}`: with its latest attempts.
pub(super) async fn one(
    State(context): State<ApiContext>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<TaskDetail>, Problem> {
    parameters.finish()?;
    let id = ids::task(&context, &id).await?;
    let mut connection = context.reads.acquire().await.map_err(ReadError::from)?;
    let task = tasks::one(&mut connection, id).await?;
    task.map(Json).ok_or_else(|| Problem::not_found("task", id))
}

/// `GET /api/v1/tasks/{id}/status`.
pub(super) async fn status(
    State(context): State<ApiContext>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let id = ids::task(&context, &id).await?;
    let task = tasks::brief(&context.reads, id).await?.ok_or_else(|| Problem::not_found("task", id))?;
    Ok(Json(status_document(&task)))
}

/// `GET /api/v1/tasks/{id}/result`; with `wait`, answered at the task's end, or as it is after that time.
pub(super) async fn result(
    State(context): State<ApiContext>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<TaskResult>, Problem> {
    let patience = parameters.wait()?;
    parameters.finish()?;
    let id = ids::task(&context, &id).await?;
    let read = async |news: Option<Arc<News>>| {
        match news.as_ref().filter(|_| id.index() == 0).map(|news| &news.task) {
            Some(OnlyTask::Ended(told)) => return Ok(Some(told.clone())),
            Some(OnlyTask::Unfinished) => return Ok(None),
            Some(OnlyTask::Untold) | None => {}
        }
        let result = read_result(&context, id).await?;
        Ok(result.status.is_final().then_some(result))
    };
    match waiting::until(&context, id.execution(), patience, read).await? {
        Some(result) => Ok(Json(result)),
        None => Ok(Json(read_result(&context, id).await?)),
    }
}

/// `POST /api/v1/tasks/{id}/cancel`: 200 when it has ended, 202 when a run has to end first.
pub(super) async fn cancel(
    State(context): State<ApiContext>,
    Segment(id): Segment,
    parameters: Parameters,
    _: NoBody,
) -> Result<impl IntoResponse, Problem> {
    parameters.finish()?;
    let id = ids::task(&context, &id).await?;
    cancel_answer(&context, CancelTarget::Task(id)).await
}

/// Sends a cancel to the engine and says what it did.
pub(super) async fn cancel_answer(context: &ApiContext, target: CancelTarget) -> Result<(StatusCode, Json<Value>), Problem> {
    let answer = tokio::time::timeout(super::submit::COMMIT_TIMEOUT, context.engine.cancel(target)).await;
    let answer = match answer.map_err(|_| no_answer())? {
        Ok(CancelAnswer::Sent(event)) => elsewhere::cancelled(context, target, event).await?.ok_or_else(no_answer)?,
        answer => answer,
    };
    let (word, is_final) = match answer.map_err(|error| refusal(&error, target))? {
        // Never after it was waited for.
        CancelAnswer::Sent(_) => return Err(no_answer()),
        CancelAnswer::Workflow(status) => (status.as_str(), status.is_final()),
        CancelAnswer::Task(status) => (status.as_str(), status.is_final()),
    };
    let document = match target {
        CancelTarget::Workflow(id) => json!({ "workflow_id": id, "status": word }),
        CancelTarget::Task(id) => json!({ "task_id": id, "workflow_id": id.execution(), "status": word }),
    };
    Ok((if is_final { StatusCode::OK } else { StatusCode::ACCEPTED }, Json(document)))
}

fn no_answer() -> Problem {
    Problem::new(Code::Unavailable, "the owner of its shard did not answer in time; the cancel may still happen: try again")
}

/// Rows to read for a page of so many: one more says whether there is another page.
pub(super) const fn rows_read(rows_asked: u16) -> u16 {
    rows_asked.saturating_add(1)
}

/// A page of what was read, and the cursor behind its last row, if there are more rows.
pub(super) fn page_of<T, C>(mut read: Vec<T>, rows_asked: u16, cursor: impl FnOnce(&T) -> C) -> (Vec<T>, Option<C>) {
    let has_more = read.len() > usize::from(rows_asked);
    read.truncate(usize::from(rows_asked));
    let next_cursor = read.last().filter(|_| has_more).map(cursor);
    (read, next_cursor)
}

fn refusal(error: &CommandError, target: CancelTarget) -> Problem {
    let (what, id) = match target {
        CancelTarget::Workflow(id) => ("workflow", id.0),
        CancelTarget::Task(id) => ("task", id.0),
    };
    match error {
        CommandError::NotFound => Problem::not_found(what, id),
        CommandError::AlreadyFinal(status) => {
            Problem::new(Code::AlreadyFinal, format!("{what} `{id}` is {status} already: nothing is left to cancel"))
                .at("status")
                .with_value(&json!(status))
        }
        CommandError::Unavailable(_) => Problem::new(Code::Unavailable, error.to_string()),
    }
}

async fn read_result(context: &ApiContext, id: TaskId) -> Result<TaskResult, Problem> {
    tasks::result(&context.reads, id).await?.ok_or_else(|| Problem::not_found("task", id))
}

fn filter(mut parameters: Parameters) -> Result<TaskFilter, Problem> {
    let filter = TaskFilter {
        statuses: parameters.words::<TaskStatus>("status")?,
        tags: parameters.listed("tags")?,
        user_id: parameters.text("user_id")?,
        agent_name: parameters.text("agent")?,
        since: parameters.time("since")?,
        before: parameters.cursor(|text| text.parse::<TaskId>().ok().map(|id| id.0))?,
        rows: parameters.limit()?,
    };
    parameters.finish()?;
    Ok(filter)
}

/// What is not known is null: there are no estimates, and a task does not say how far it is.
fn status_document(task: &TaskRecord) -> Value {
    let percent = task.status.is_final().then_some(100);
    let mut document = json!({
        "task_id": task.task_id,
        "status": task.status,
        "progress": { "percent": percent, "current_step": null, "estimated_time_remaining": null },
        "estimated_completion": null,
    });
    let times = serde_json::to_value(task).expect("a record is plain values");
    for time in ["created_at", "started_at", "completed_at", "next_retry_at", "due_at"] {
        document[time] = times[time].clone();
    }
    document["attempts"] = json!(task.attempts);
    document["error"] = json!(task.error);
    document
}
