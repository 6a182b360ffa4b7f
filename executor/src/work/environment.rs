//! The variables of a command: how the task's values reach a script without ever being pasted into it.
//!
//! In this order, later ones win:
//! 1. the executor's configured base environment; nothing is inherited from the executor's process
//! 2. `WITH_<NAME>` for each top-level value of `with`: upper case, everything but `A-Z 0-9 _` becomes `_` (of two
//!    names that become one, the later in alphabetical order wins); strings as they are, everything else as JSON
//! 3. `ORCHESTR8_PROMPT`, when the task has a prompt
//! 4. the task's own `env`
//! 5. `ORCHESTR8_INPUT` and `ORCHESTR8_OUTPUT` (paths), `ORCHESTR8_TASK_ID`, `ORCHESTR8_TASK_NAME`,
//!    `ORCHESTR8_WORKFLOW_ID`, `ORCHESTR8_WORKFLOW_NAME`, `ORCHESTR8_ATTEMPT`, and `TRACEPARENT` when there is one in the form
//!    of W3C Trace Context (what has another form is left out: tools would refuse it)
//!
//! A value of 2, 3 or 4 that with its name exceeds the kernel's 128 KiB for one variable fails the task before its start: a
//! script would take a missing variable for an empty one. The same holds for all of 2, 3 and 4 together and 1.5 MiB: the kernel
//! gives a command's variables and arguments 2 MiB. With `large_values: file` those of 2 that are too large are left out
//! instead, and the largest of the others until the rest fits: the file `$ORCHESTR8_INPUT` has all of `with`. One of 2 or 3 that holds a NUL, which coordinators never send, is left out; a NUL in
//! the task's own `env` fails the task, as does a name that is no name, or one of those in 5.

use super::{Assignment, WorkSettings};
use orchestr8_proto::traces::TraceParent;
use orchestr8_proto::wire::Dispatch;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// The kernel's limit for `NAME=value` and its closing NUL (`MAX_ARG_STRLEN`).
const VARIABLE_BYTES_MAX: usize = 128 * 1024;
/// Of what the task itself brings, all variables together: below the 2 MiB that the kernel gives variables and arguments where the
/// stack has its usual 8 MiB.
const VARIABLES_BYTES_MAX: usize = 1536 * 1024;
const PROMPT: &str = "ORCHESTR8_PROMPT";
const READ_THE_FILE: &str = "let the script read it from the JSON file $ORCHESTR8_INPUT, and say so with `large_values: file`";
const PASS_IT_IN_WITH: &str =
    "pass it in `with`, let the script read it from the JSON file $ORCHESTR8_INPUT, and say so with `large_values: file`";

/// Why a task's values cannot become an environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// The coordinator sent what is no JSON object.
    #[error("`with` is not one JSON object: {0}")]
    With(String),
    /// A shell could not refer to it.
    #[error("`env` has the name `{0}`: use letters, digits and `_`, not starting with a digit")]
    Name(String),
    /// The executor's own variables cannot be replaced.
    #[error("`env` sets `{0}`, which the executor sets itself: choose another name")]
    Reserved(String),
    /// The kernel's strings end at a NUL.
    #[error("`env` value `{0}` holds a NUL character: pass it in `with` and read it from the file $ORCHESTR8_INPUT")]
    Nul(String),
    /// The kernel's limit.
    #[error("`env` value `{0}` exceeds {VARIABLE_BYTES_MAX} bytes: pass it in `with` and read it from the file $ORCHESTR8_INPUT")]
    TooLarge(String),
    /// The kernel's limit for all variables.
    #[error(
        "the values of `with`, `env` and prompt have {0} bytes together, but as environment variables at most {VARIABLES_BYTES_MAX}: {READ_THE_FILE}"
    )]
    AllTooLarge(usize),
    /// The kernel's limit for one of the variables that the executor makes of the task's values.
    #[error(
        "`{key}` has {bytes} bytes, but an environment variable such as {variable} at most {VARIABLE_BYTES_MAX} with its name: {remedy}"
    )]
    ValueTooLarge {
        /// The value, as the definition names it.
        key: String,
        /// Its size.
        bytes: usize,
        /// What it would have become.
        variable: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// Where a command finds its input and leaves its output.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The JSON file with all of `with`.
    pub input: &'a Path,
    /// The file that the command may write its output to.
    pub output: &'a Path,
}

/// The complete environment of the command.
///
/// # Errors
/// Every [`EnvironmentError`].
pub fn environment(
    settings: &WorkSettings,
    assignment: &Assignment,
    exchange: Exchange<'_>,
) -> Result<BTreeMap<String, String>, EnvironmentError> {
    let dispatch = &assignment.dispatch;
    let mut environment = settings.environment.clone();
    environment.extend(fitting(values(assignment)?, dispatch)?);
    let own = own_variables(assignment, exchange);
    for variable in &dispatch.environment {
        let (name, value) = (&variable.name, &variable.value);
        check(name, value)?;
        if own.iter().any(|(reserved, _)| reserved == name) {
            return Err(EnvironmentError::Reserved(name.clone()));
        }
        environment.insert(name.clone(), value.clone());
    }
    environment.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Ok(environment)
}

/// The task's values; empty bytes are an empty object.
///
/// # Errors
/// [`EnvironmentError::With`].
pub fn with_object(with_json: &[u8]) -> Result<Map<String, Value>, EnvironmentError> {
    if with_json.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(with_json).map_err(|error| EnvironmentError::With(error.to_string()))
}

/// `WITH_<NAME>` for each value, and the prompt.
fn values(assignment: &Assignment) -> Result<Vec<(String, String)>, EnvironmentError> {
    let dispatch = &assignment.dispatch;
    let mut variables = Vec::new();
    for (key, value) in with_object(&dispatch.with_json)? {
        let (variable, value) = (with_name(&key), text(value));
        if is_small(&variable, &value) {
            variables.push((variable, value));
        } else if !dispatch.large_values_in_file {
            return Err(EnvironmentError::ValueTooLarge {
                key: format!("with.{key}"),
                bytes: value.len(),
                variable,
                remedy: READ_THE_FILE,
            });
        }
    }
    if !dispatch.prompt.is_empty() {
        let (variable, prompt) = (PROMPT.to_owned(), dispatch.prompt.clone());
        if !is_small(&variable, &prompt) {
            return Err(EnvironmentError::ValueTooLarge {
                key: "prompt".to_owned(),
                bytes: prompt.len(),
                variable,
                remedy: PASS_IT_IN_WITH,
            });
        }
        variables.push((variable, prompt));
    }
    variables.retain(|(_, value)| !value.contains('\0'));
    Ok(variables)
}

/// The values that fit into an environment together with the task's own variables, which always go into it.
fn fitting(values: Vec<(String, String)>, dispatch: &Dispatch) -> Result<BTreeMap<String, String>, EnvironmentError> {
    // Of two names that become one there is one from here on: the other must not come back when it is left out.
    let mut values: BTreeMap<String, String> = values.into_iter().collect();
    let own = dispatch.environment.iter().map(|variable| bytes_of(&variable.name, &variable.value)).sum::<usize>();
    let all = own + values.iter().map(|(name, value)| bytes_of(name, value)).sum::<usize>();
    let mut left = all;
    while left > VARIABLES_BYTES_MAX {
        // The prompt is in no file.
        let largest =
            values.iter().filter(|(name, _)| *name != PROMPT && dispatch.large_values_in_file).max_by_key(|(_, value)| value.len());
        let Some((name, bytes)) = largest.map(|(name, value)| (name.clone(), bytes_of(name, value))) else {
            return Err(EnvironmentError::AllTooLarge(all));
        };
        values.remove(&name);
        left -= bytes;
    }
    Ok(values)
}

/// What a variable takes from the kernel's room: `NAME=value`, its closing NUL and the pointer to it.
const fn bytes_of(name: &str, value: &str) -> usize {
    name.len() + value.len() + "=\0".len() + size_of::<usize>()
}

fn own_variables(assignment: &Assignment, exchange: Exchange<'_>) -> Vec<(&'static str, String)> {
    let dispatch = &assignment.dispatch;
    let mut own = vec![
        ("ORCHESTR8_INPUT", exchange.input.display().to_string()),
        ("ORCHESTR8_OUTPUT", exchange.output.display().to_string()),
        ("ORCHESTR8_TASK_ID", assignment.task_id.to_string()),
        ("ORCHESTR8_TASK_NAME", dispatch.task_name.clone()),
        ("ORCHESTR8_WORKFLOW_ID", assignment.task_id.execution().to_string()),
        ("ORCHESTR8_WORKFLOW_NAME", dispatch.workflow_name.clone()),
        ("ORCHESTR8_ATTEMPT", dispatch.attempt.to_string()),
    ];
    if dispatch.traceparent.parse::<TraceParent>().is_ok() {
        own.push(("TRACEPARENT", dispatch.traceparent.clone()));
    }
    own
}

fn with_name(name: &str) -> String {
    let upper = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    "WITH_".chars().chain(upper).collect()
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    }
}

fn check(name: &str, value: &str) -> Result<(), EnvironmentError> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.is_empty() || !letters || name.as_bytes()[0].is_ascii_digit() {
        return Err(EnvironmentError::Name(name.to_owned()));
    }
    if value.contains('\0') {
        return Err(EnvironmentError::Nul(name.to_owned()));
    }
    if is_small(name, value) { Ok(()) } else { Err(EnvironmentError::TooLarge(name.to_owned())) }
}

fn is_small(name: &str, value: &str) -> bool {
    name.len() + value.len() + "=\0".len() <= VARIABLE_BYTES_MAX
}
