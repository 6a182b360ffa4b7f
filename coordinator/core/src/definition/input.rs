//! JSON Schema of the input.

use crate::expression::on_large_stack;
use crate::plan::Plan;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, PatternOptions, ValidationError, Validator};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;

/// Values in a schema, its references followed: every value of an input may be compared with each of them.
const SCHEMA_VALUES_MAX: usize = 5_000;
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
            errors.map(|error| problem(&error)).collect()
        }
        Err(message) => vec![InputProblem { pointer: String::new(), message }],
    });
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn problem(error: &ValidationError<'_>) -> InputProblem {
    let value = cut(error.instance().to_string(), VALUE_CHARS_MAX);
    let message = cut(error.masked_with(value).to_string(), MESSAGE_CHARS_MAX);
    let pointer = error.instance_path().to_string();
    InputProblem { message: message + &text_hint(error, &pointer), pointer }
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

/// Checks a schema, without an input.
pub(super) fn check_schema(schema: &Value) -> Result<(), String> {
    validator(schema).map(|_| ())
}

/// References to other documents are refused, not fetched; patterns are matched in linear time.
fn validator(schema: &Value) -> Result<Validator, String> {
    Sizing { root: schema, known: HashMap::new() }.values(schema)?;
    let options = jsonschema::options().offline().with_pattern_options(PatternOptions::regex());
    options.build(schema).map_err(|error| format!("this is not a valid JSON Schema: {error}"))
}

/// Counts a schema with its references followed: a few that double each other would make a check last for ever.
struct Sizing<'s> {
    root: &'s Value,
    /// Size of each target; none while it is being counted.
    known: HashMap<&'s str, Option<usize>>,
}

impl<'s> Sizing<'s> {
    fn values(&mut self, schema: &'s Value) -> Result<usize, String> {
        let mut total = 1usize;
        match schema {
            Value::Array(items) => {
                for item in items {
                    total = total.saturating_add(self.values(item)?);
                }
            }
            Value::Object(entries) => {
                for (key, item) in entries {
                    let size = match (key.as_str(), item) {
                        ("$ref", Value::String(target)) => self.target(target)?,
                        ("$dynamicRef" | "$recursiveRef", _) => {
                            return Err(format!("`{key}` is not supported: use `$ref` with a path such as #/$defs/name"));
                        }
                        _ => self.values(item)?,
                    };
                    total = total.saturating_add(size);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        if total <= SCHEMA_VALUES_MAX {
            Ok(total)
        } else {
            Err(format!("the schema has more than {SCHEMA_VALUES_MAX} values, references followed: simplify it"))
        }
    }

    fn target(&mut self, target: &'s str) -> Result<usize, String> {
        let shown: String = target.chars().take(80).collect();
        match self.known.get(target) {
            Some(Some(size)) => return Ok(*size),
            Some(None) => return Err(format!("`$ref: {shown}` leads back to itself: a schema that contains itself is not supported")),
            None => {}
        }
        let found = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
        let schema = found.ok_or_else(|| {
            format!("`$ref: {shown}` is not in this schema: use a path such as #/$defs/name; other documents are not fetched")
        })?;
        self.known.insert(target, None);
        let size = self.values(schema)?;
        self.known.insert(target, Some(size));
        Ok(size)
    }
}
