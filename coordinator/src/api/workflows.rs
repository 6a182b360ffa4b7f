//! `/api/v1/workflows`: lists, one execution, its tasks, cancelling it.

use super::body::NoBody;
use super::parameters::{Parameters, Segment};
use super::problem::{Code, Problem};
use super::tasks::{cancel_answer, page_of, rows_read};
use super::{ApiContext, ids, progress, waiting};
use crate::engine::handle::CancelTarget;
use crate::engine::news::News;
use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use orchestr8_proto::ids::{ExecutionId, TaskId};
use orchestr8_proto::words::WorkflowStatus;
use orchestr8_store::read::executions::{self, ExecutionFilter};
use orchestr8_store::read::tasks::{self, ExecutionPage};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// `GET /api/v1/workflows`: newest first.
pub(super) async fn list(State(context): State<ApiContext>, parameters: Parameters) -> Result<Json<Value>, Problem> {
    let filter = filter(parameters)?;
    let rows = filter.rows;
    let read = executions::page(&context.reads, &ExecutionFilter { rows: rows_read(rows), ..filter }).await?;
    let (workflows, next_cursor) = page_of(read, rows, |workflow| workflow.workflow_id);
    Ok(Json(json!({ "workflows": workflows, "next_cursor": next_cursor })))
}

/// `GET /api/v1/workflows/{id}`; with `wait`, answered at its end, or as it is after that time.
pub(super) async fn one(
    State(context): State<ApiContext>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let patience = parameters.wait()?;
    parameters.finish()?;
    let id = ids::execution(&context, &id).await?;
    wait_for_end(&context, id, patience).await?;
    let workflow = executions::one(&context.reads, id).await?.ok_or_else(|| Problem::not_found("workflow", id))?;
    let counts = executions::status_counts(&context.reads, id).await?;
    let mut document = serde_json::to_value(&workflow).expect("a record is plain values");
    document["progress"] = json!(progress::progress(&workflow.phases, &counts));
    Ok(Json(document))
}

/// `GET /api/v1/workflows/{id}/tasks`: in the order of the definition.
pub(super) async fn tasks(
    State(context): State<ApiContext>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    let rows = parameters.limit()?;
    let after = parameters.cursor(|text| text.parse::<TaskId>().ok())?;
    parameters.finish()?;
    let execution = ids::execution(&context, &id).await?;
    if let Some(after) = after.filter(|after| after.execution() != execution) {
        let detail = "the cursor is one of another workflow: pass `next_cursor` of the page before";
        return Err(Problem::new(Code::BadCursor, detail).at("cursor").with_value(&json!(after)));
    }
    let read = tasks::of_execution(&context.reads, ExecutionPage { execution, after, rows: rows_read(rows) }).await?;
    let (tasks, next_cursor) = page_of(read, rows, |task| task.task_id);
    if tasks.is_empty() && executions::status(&context.reads, execution).await?.is_none() {
        return Err(Problem::not_found("workflow", execution));
    }
    Ok(Json(json!({ "workflow_id": execution, "tasks": tasks, "next_cursor": next_cursor })))
}

/// `POST /api/v1/workflows/{id}/cancel`: 200 when it has ended, 202 when runs have to end first.
pub(super) async fn cancel(
    State(context): State<ApiContext>,
    Segment(id): Segment,
    parameters: Parameters,
    _: NoBody,
) -> Result<impl IntoResponse, Problem> {
    parameters.finish()?;
    let id = ids::execution(&context, &id).await?;
    cancel_answer(&context, CancelTarget::Workflow(id)).await
}

async fn wait_for_end(context: &ApiContext, id: ExecutionId, patience: Duration) -> Result<(), Problem> {
    if patience.is_zero() {
        return Ok(());
    }
    let read = async |news: Option<Arc<News>>| {
        let status = match news {
            Some(news) => news.status,
            None => executions::status(&context.reads, id).await?.ok_or_else(|| Problem::not_found("workflow", id))?,
        };
        Ok(status.is_final().then_some(()))
    };
    waiting::until(context, id, patience, read).await?;
    Ok(())
}

fn filter(mut parameters: Parameters) -> Result<ExecutionFilter, Problem> {
    let filter = ExecutionFilter {
        statuses: parameters.words::<WorkflowStatus>("status")?,
        tags: parameters.listed("tags")?,
        user_id: parameters.text("user_id")?,
        workflow_name: parameters.text("name")?,
        since: parameters.time("since")?,
        before: parameters.cursor(|text| text.parse::<ExecutionId>().ok().map(|id| id.0))?,
        rows: parameters.limit()?,
    };
    parameters.finish()?;
    Ok(filter)
}
