//! `/api/v1/definitions`: registering, listing and reading named definitions.

use super::ApiContext;
use super::body::JsonBody;
use super::fields::{Fields, refused};
use super::parameters::{Parameters, Segment};
use super::problem::{Code, Problem};
use super::tasks::{page_of, rows_read};
use super::workflow::{Definition, Reference};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use orchestr8_store::read::ReadError;
use orchestr8_store::read::definitions::{self, DefinitionDetail, DefinitionRecord, NewDefinition, Registered};
use serde_json::{Value, json};

/// `POST /api/v1/definitions`: 201 with a new version, 200 when the current version says the same.
pub(super) async fn register(
    State(context): State<ApiContext>,
    parameters: Parameters,
    body: JsonBody,
) -> Result<(StatusCode, Json<DefinitionRecord>), Problem> {
    parameters.finish()?;
    let mut fields = Fields::new(body.value, "the body")?;
    let definition = Definition::take(&mut fields)?;
    fields.finish()?;
    let read = definition.read().await?.map_err(|reference| {
        refused("definition", &json!(reference.name), "must be an object or YAML text: what is registered needs its content")
    })?;
    let new = NewDefinition { plan: &read.plan, plan_hash: read.plan_hash, source: &read.source };
    let mut connection = context.reads.acquire().await.map_err(ReadError::from)?;
    match definitions::register(&mut connection, new).await? {
        Registered::New(record) => Ok((StatusCode::CREATED, Json(record))),
        Registered::Unchanged(record) => Ok((StatusCode::OK, Json(record))),
    }
}

/// `GET /api/v1/definitions`: the current version of each name, by name.
pub(super) async fn list(State(context): State<ApiContext>, mut parameters: Parameters) -> Result<Json<Value>, Problem> {
    let rows = parameters.limit()?;
    let after = parameters.cursor(|name| Some(name.to_owned()))?.unwrap_or_default();
    parameters.finish()?;
    let read = definitions::page(&context.reads, &after, rows_read(rows)).await?;
    let (definitions, next_cursor) = page_of(read, rows, |last| last.name.clone());
    Ok(Json(json!({ "definitions": definitions, "next_cursor": next_cursor })))
}

/// `GET /api/v1/definitions/{name}` or `…/{name}@{version}`: with its text.
pub(super) async fn one(
    State(context): State<ApiContext>,
    Segment(reference): Segment,
    parameters: Parameters,
) -> Result<Json<DefinitionDetail>, Problem> {
    parameters.finish()?;
    let Reference { name, version } = Reference::read(&reference).ok_or_else(|| {
        let detail = format!("`{reference}` is not a definition: pass a name, or name@version with a version from 1");
        Problem::new(Code::BadParameter, detail).at("reference").with_value(&json!(reference))
    })?;
    let found = definitions::one(&context.reads, &name, version).await?;
    found.map(Json).ok_or_else(|| Problem::not_found("definition", reference))
}
