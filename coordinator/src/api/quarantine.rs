//! `/api/v1/quarantine`: events that could not be applied, trying them again, forgetting them.

use super::body::NoBody;
use super::parameters::{Parameters, Segment};
use super::problem::{Code, Problem};
use super::tasks::{page_of, rows_read};
use super::{ApiContext, ids};
use axum::Json;
use axum::extract::State;
use orchestr8_store::quarantine::{self as entries, Discard, Redrive};
use orchestr8_store::read::quarantine::{self, QuarantineCursor, QuarantineDetail};
use serde_json::{Value, json};
use uuid::Uuid;

/// `GET /api/v1/quarantine`: newest first.
pub(super) async fn list(State(context): State<ApiContext>, mut parameters: Parameters) -> Result<Json<Value>, Problem> {
    let rows = parameters.limit()?;
    let after = parameters.cursor(|text| text.parse::<QuarantineCursor>().ok())?;
    parameters.finish()?;
    let read = quarantine::page(&context.reads, after, rows_read(rows)).await?;
    let (events, next_cursor) = page_of(read, rows, |last| QuarantineCursor::from(last).to_string());
    Ok(Json(json!({ "events": events, "next_cursor": next_cursor })))
}

/// `GET /api/v1/quarantine/{id}`: with all that is known of it.
pub(super) async fn one(
    State(context): State<ApiContext>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<QuarantineDetail>, Problem> {
    parameters.finish()?;
    let id = ids::quarantined(&context, &id).await?;
    find(&context, id).await.map(Json)
}

/// `POST /api/v1/quarantine/{id}/redrive`: 200 once its shard has it; 409 for what needs no redrive.
pub(super) async fn redrive(
    State(context): State<ApiContext>,
    Segment(id): Segment,
    parameters: Parameters,
    _: NoBody,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let id = ids::quarantined(&context, &id).await?;
    let record = find(&context, id).await?.record;
    match entries::redrive(&context.reads, id).await? {
        Redrive::Redriven => {
            if let Ok(shard) = u16::try_from(record.shard) {
                context.engine.nudge(shard).await;
            }
            Ok(Json(json!({ "id": id, "status": "redriven", "workflow_id": record.workflow_id, "task_id": record.task_id })))
        }
        Redrive::NotFound => Err(not_found(id)),
        Redrive::ComesByItself => {
            let detail =
                format!("`{}` needs no redrive: it comes again by itself once its cause is mended; discard it to forget it", record.kind);
            Err(Problem::new(Code::ComesByItself, detail).at("id").with_value(&json!(id)))
        }
    }
}

/// `DELETE /api/v1/quarantine/{id}`: forgets it.
pub(super) async fn discard(
    State(context): State<ApiContext>,
    Segment(id): Segment,
    parameters: Parameters,
    _: NoBody,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let id = ids::quarantined_whole(&id)?;
    match entries::discard(&context.reads, id).await? {
        Discard::Discarded => Ok(Json(json!({ "id": id, "status": "discarded" }))),
        Discard::NotFound => Err(not_found(id)),
    }
}

async fn find(context: &ApiContext, id: Uuid) -> Result<QuarantineDetail, Problem> {
    quarantine::one(&context.reads, id).await?.ok_or_else(|| not_found(id))
}

fn not_found(id: Uuid) -> Problem {
    Problem::not_found("quarantined event", id)
}
