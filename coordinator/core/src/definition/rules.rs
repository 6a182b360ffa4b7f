//! Names, scripts, paths and bounds: shared by definitions and single tasks.
//!
//! Every rule answers with a message that names the value and the remedy.

use super::retry;
use crate::expression;
use crate::plan::{RetryPolicy, TaskKind};
use orchestr8_proto::names::check_queue_name;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest name of a workflow, phase, task, handler or agent, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest script.
pub const SCRIPT_BYTES_MAX: usize = 256 * 1024;
/// Longest path of a working directory (`PATH_MAX`).
const WORKDIR_BYTES_MAX: usize = 4096;
/// Names that the executor sets itself.
const RESERVED_ENV_PREFIX: &str = "ORCHESTR8_";

/// Something wrong with one field of a single task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldProblem {
    /// Such as `retry.max_attempts`.
    pub field: String,
    /// What is wrong and how to put it right.
    pub message: String,
}

impl FieldProblem {
    /// A problem with a field.
    pub(super) fn new(field: &str, message: String) -> Self {
        Self { field: field.to_owned(), message }
    }
}

pub(super) fn check_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_. ".contains(&byte);
    let starts_well = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if starts_well && name.len() <= NAME_BYTES_MAX && name.bytes().all(allowed) && !name.ends_with(' ') {
        return Ok(());
    }
    let shown: String = name.chars().take(40).collect();
    Err(format!(
        "`{shown}` is not a name: use 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_`, `.` and spaces, starting with a letter or digit"
    ))
}

pub(super) fn check_kind(kind: &TaskKind) -> Result<(), String> {
    match kind {
        TaskKind::Run { script } => check_script(script),
        TaskKind::Handler { name } => check_name(name),
        TaskKind::Sleep { duration } => check_duration(*duration),
    }
}

fn check_script(script: &str) -> Result<(), String> {
    if script.trim().is_empty() {
        return Err("the script is empty: write at least one command".to_owned());
    }
    if script.len() > SCRIPT_BYTES_MAX {
        return Err(format!("the script has {} bytes, the limit is {SCRIPT_BYTES_MAX}: put it into a file of the workdir", script.len()));
    }
    if script.contains('\0') {
        return Err("the script contains a NUL character: remove it".to_owned());
    }
    if expression::has_expression(script) {
        return Err(
            "a script cannot contain an expression: pass the value in `env` and read it as \"$NAME\", or read $ORCHESTR8_INPUT".to_owned()
        );
    }
    Ok(())
}

pub(super) fn check_duration(duration: Duration) -> Result<(), String> {
    if duration.is_zero() {
        return Err("a duration of zero makes no sense here: use at least 1ms, or leave the key out".to_owned());
    }
    if duration > super::DURATION_MAX {
        return Err("the duration is too long: the limit is 3650d".to_owned());
    }
    Ok(())
}

pub(super) fn check_queue(queue: &str) -> Result<(), String> {
    check_queue_name(queue).map_err(|error| error.to_string())
}

pub(super) fn check_workdir(workdir: &str) -> Result<(), String> {
    let shown: String = workdir.chars().take(80).collect();
    if !workdir.starts_with('/') {
        return Err(format!("`{shown}` is not absolute: start it with `/`"));
    }
    if workdir.split('/').any(|part| part == "..") {
        return Err(format!("`{shown}` contains `..`: write the directory that is meant"));
    }
    if workdir.len() > WORKDIR_BYTES_MAX || workdir.contains(|sign: char| sign.is_control()) {
        return Err(format!("`{shown}` is not a path: use at most {WORKDIR_BYTES_MAX} bytes without control characters"));
    }
    Ok(())
}

pub(super) fn check_env_key(key: &str) -> Result<(), String> {
    let shown: String = key.chars().take(40).collect();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts_well = key.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !starts_well || key.len() > NAME_BYTES_MAX || !key.bytes().all(allowed) {
        return Err(format!(
            "`{shown}` is not the name of an environment variable: use letters, digits and `_`, not starting with a digit"
        ));
    }
    if key.starts_with(RESERVED_ENV_PREFIX) {
        return Err(format!("`{shown}` is reserved: names that start with {RESERVED_ENV_PREFIX} are set by the executor"));
    }
    Ok(())
}

/// Every key of `with` reaches the command as `WITH_NAME`: no two may become the same variable, and none one that `env` sets.
pub(super) fn check_with_keys<'k>(with: impl Iterator<Item = &'k str>, env: impl Iterator<Item = &'k str>) -> Vec<String> {
    let variable = |key: &str| {
        let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
        format!("WITH_{}", key.chars().map(letter).collect::<String>())
    };
    let set: BTreeSet<&str> = env.collect();
    let (mut seen, mut problems) = (BTreeMap::new(), Vec::new());
    for key in with {
        let name = variable(key);
        if set.contains(name.as_str()) {
            problems.push(format!("`{key}` reaches the command as `{name}`, which `env` sets as well: rename one of them"));
        }
        if let Some(other) = seen.insert(name.clone(), key) {
            problems.push(format!("`{other}` and `{key}` both reach the command as `{name}`: rename one of them"));
        }
    }
    problems
}

/// A key of `with`: becomes a member in JSON and in paths.
pub(super) fn check_with_key(key: &str) -> Result<(), String> {
    if key.is_empty() || key.len() > NAME_BYTES_MAX || key.contains(|sign: char| sign.is_control()) {
        let shown: String = key.chars().take(40).collect();
        return Err(format!("`{shown}` is not a key: use 1 to {NAME_BYTES_MAX} bytes without control characters"));
    }
    Ok(())
}

/// The only word of `large_values`; without the key the task fails.
pub(super) fn check_large_values(word: &str) -> Result<(), String> {
    if word == "file" {
        return Ok(());
    }
    let shown: String = word.chars().take(40).collect();
    Err(format!("`{shown}` is not known: write `file` when the script reads $ORCHESTR8_INPUT, or leave the key out"))
}

/// How often a task may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Starts {
    /// Again after a failure or a loss.
    AtLeastOnce,
    /// Never twice.
    AtMostOnce,
}

/// Bounds of a policy, and that it agrees with `at_most_once`.
pub(super) fn check_retry(policy: &RetryPolicy, starts: Starts) -> Vec<FieldProblem> {
    let mut problems = retry::check(policy);
    if starts == Starts::AtMostOnce && policy.max_attempts > 1 {
        let message = format!("{} attempts contradict `at_most_once`: use 1, or remove `at_most_once`", policy.max_attempts);
        problems.push(FieldProblem::new("retry.max_attempts", message));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_values_may_become_the_same_variable() {
        let check = |with: &[&'static str], env: &[&'static str]| check_with_keys(with.iter().copied(), env.iter().copied());
        assert_eq!(check(&["a-b", "c"], &["A_B"]), Vec::<String>::new());
        assert!(matches!(check(&["a-b", "a_b"], &[]).as_slice(), [message] if message.contains("`WITH_A_B`")));
        assert!(matches!(check(&["a.b"], &["WITH_A_B"]).as_slice(), [message] if message.contains("`env`")));
        assert_eq!(check(&["a.b", "c-d", "c_d"], &["WITH_A_B"]).len(), 2, "both are told");
    }
}
