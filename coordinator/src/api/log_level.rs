//! `/api/v1/log-level`: what this coordinator logs, while it runs. Each coordinator has its own, and so has each executor.

use super::ApiContext;
use super::body::JsonBody;
use super::fields::Fields;
use super::parameters::Parameters;
use super::problem::{Code, Problem};
use axum::Json;
use axum::extract::State;
use orchestr8_proto::log_level::LOG_FILTER_BYTES_MAX;
use serde_json::{Value, json};

/// `GET /api/v1/log-level`.
pub(super) async fn show(State(context): State<ApiContext>, parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    Ok(Json(answer(&context)))
}

/// `PUT /api/v1/log-level`: until the process ends.
pub(super) async fn change(State(context): State<ApiContext>, parameters: Parameters, body: JsonBody) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let filter = checked(&context, body)?;
    context.settings.log.set(&filter).map_err(|error| Problem::new(Code::BadField, error.to_string()).at("filter"))?;
    Ok(Json(answer(&context)))
}

/// The filter of a body.
///
/// # Errors
/// [`Code::BadField`] says what is wrong with it.
pub(super) fn checked(context: &ApiContext, body: JsonBody) -> Result<String, Problem> {
    let mut fields = Fields::new(body.value, "the body")?;
    let filter = fields.text("filter", LOG_FILTER_BYTES_MAX)?;
    fields.finish()?;
    let missing = || Problem::new(Code::BadField, "`filter` is missing: send a level such as \"debug\", or levels by module").at("filter");
    let filter = filter.ok_or_else(missing)?;
    let refused = |error: &dyn std::fmt::Display| Problem::new(Code::BadField, error.to_string()).at("filter").with_value(&json!(filter));
    context.settings.log.check(&filter).map_err(|error| refused(&error))?;
    Ok(filter)
}

fn answer(context: &ApiContext) -> Value {
    json!({ "coordinator": context.settings.name, "filter": context.settings.log.current() })
}
