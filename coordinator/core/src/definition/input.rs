//! What an input lacks, according to its JSON Schema.

use super::problem::nearest;
use super::{references, schema};
use crate::expression::on_large_stack;
use crate::plan::Plan;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, ValidationError, Validator};
use serde::Serialize;
use serde_json::Value;

/// Problems reported for one input.
const PROBLEMS_MAX: usize = 50;
/// Characters of a refused value that are repeated, at most.
const VALUE_CHARS_MAX: usize = 80;
/// Characters of a message, at most: some list every key that is not allowed.
const MESSAGE_CHARS_MAX: usize = 500;

/// One thing that is wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("input{pointer}: {message}")]
pub struct InputProblem {
    /// JSON pointer into the input; empty for the input as a whole.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
}

/// Checks an input against the plan's schema; a plan without one takes any input.
///
/// # Errors
/// Every problem, at most 50.
pub fn check_input(plan: &Plan, input: &Value) -> Result<(), Vec<InputProblem>> {
    let Some(schema) = &plan.input_schema else { return Ok(()) };
    let problems = on_large_stack(|| match validator(schema) {
        Ok(validator) => {
            let errors = validator.iter_errors(input).take(PROBLEMS_MAX);
            errors.map(|error| problem(&error, schema)).collect()
        }
        Err(message) => vec![InputProblem { pointer: String::new(), message }],
    });
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn problem(error: &ValidationError<'_>, schema: &Value) -> InputProblem {
    let value = cut(error.instance().to_string(), VALUE_CHARS_MAX);
    let message = cut(error.masked_with(value).to_string(), MESSAGE_CHARS_MAX);
    let pointer = error.instance_path().to_string();
    InputProblem { message: message + &text_hint(error, &pointer) + &object_hint(error, &pointer) + &key_hint(error, schema), pointer }
}

/// The input as a whole is an object of names and values.
fn object_hint(error: &ValidationError<'_>, pointer: &str) -> String {
    let wants_object = matches!(error.kind(), ValidationErrorKind::Type { kind: TypeKind::Single(JsonType::Object) });
    if wants_object && pointer.is_empty() { ": write it as {\"NAME\": VALUE}".to_owned() } else { String::new() }
}

/// What a key that is not allowed was probably meant to be, and which there are.
fn key_hint(error: &ValidationError<'_>, schema: &Value) -> String {
    let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind() else { return String::new() };
    let path = error.schema_path().to_string();
    let known = path.rsplit_once('/').and_then(|(parent, _)| schema.pointer(&format!("{parent}/properties"))?.as_object());
    let known: Vec<&str> = known.map(|properties| properties.keys().map(String::as_str).collect()).unwrap_or_default();
    let meant = unexpected.iter().find_map(|key| nearest(key, known.iter().copied()));
    let shown = cut(known.join(", "), VALUE_CHARS_MAX);
    match meant {
        Some(meant) => format!(" (did you mean `{meant}`?); known are {shown}"),
        None if known.is_empty() => ": remove what is not allowed".to_owned(),
        None => format!("; known are {shown}"),
    }
}

/// Whoever leaves out the quotes means the text: `tag=1` on a command line, `tag: 1` in YAML.
fn text_hint(error: &ValidationError<'_>, pointer: &str) -> String {
    let wants_text = matches!(error.kind(), ValidationErrorKind::Type { kind: TypeKind::Single(JsonType::String) });
    let instance = error.instance();
    if !wants_text || !(instance.is_number() || instance.is_boolean()) {
        return String::new();
    }
    let on_the_command_line = match pointer.strip_prefix('/') {
        Some(name) if !name.contains(['/', '~', '\'']) => format!(" (on a command line: --input '{name}=\"{instance}\"')"),
        Some(_) | None => String::new(),
    };
    format!(": write it in quotes, \"{instance}\"{on_the_command_line}")
}

fn cut(text: String, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Plans are stored: an older version may have let a schema pass.
fn validator(schema: &Value) -> Result<Validator, String> {
    if let Some(mistake) = references::mistakes(schema).into_iter().next() {
        return Err(mistake.message);
    }
    schema::build(schema).map_err(|error| format!("this is not a valid JSON Schema: {error}"))
}
