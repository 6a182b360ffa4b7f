//! The retry policy: its default, its bounds, and how a definition writes it.

use super::fields::{Fields, Reader};
use super::rules::{FieldProblem, check_duration};
use super::yaml::{Content, Node, Position};
use crate::plan::{RetryPolicy, TaskKind};
use serde_json::Value;
use std::time::Duration;

/// Attempts of one task, at most.
pub const ATTEMPTS_MAX: u32 = 1_000;
/// Largest factor between two waits.
pub const BACKOFF_COEFFICIENT_MAX: f64 = 100.0;
/// Error types in `non_retryable`, at most.
pub const NON_RETRYABLE_MAX: usize = 100;

const KEYS: [&str; 6] = ["max_attempts", "initial_interval", "backoff_coefficient", "max_interval", "jitter", "non_retryable"];

/// The policy of a task that names none: three attempts for `run` and `handler`, one for a timer.
#[must_use]
pub fn default_retry(kind: &TaskKind) -> RetryPolicy {
    match kind {
        TaskKind::Run { .. } | TaskKind::Handler { .. } => RetryPolicy::usual(),
        TaskKind::Sleep { .. } => RetryPolicy::none(),
    }
}

/// Everything that lies outside its bounds.
pub(super) fn check(policy: &RetryPolicy) -> Vec<FieldProblem> {
    let mut problems = Vec::new();
    let mut refuse = |field: &str, message: String| problems.push(FieldProblem::new(&format!("retry.{field}"), message));
    if !(1..=ATTEMPTS_MAX).contains(&policy.max_attempts) {
        refuse("max_attempts", format!("{} is out of bounds: use 1 to {ATTEMPTS_MAX}", policy.max_attempts));
    }
    for (field, interval) in [("initial_interval", policy.initial_interval), ("max_interval", policy.max_interval)] {
        if let Err(message) = check_duration(interval) {
            refuse(field, message);
        }
    }
    if policy.max_interval < policy.initial_interval {
        refuse("max_interval", "it is shorter than `initial_interval`: use at least that".to_owned());
    }
    if !(1.0..=BACKOFF_COEFFICIENT_MAX).contains(&policy.backoff_coefficient) {
        refuse("backoff_coefficient", format!("{} is out of bounds: use 1 to {BACKOFF_COEFFICIENT_MAX}", policy.backoff_coefficient));
    }
    if !(0.0..=1.0).contains(&policy.jitter) {
        refuse("jitter", format!("{} is out of bounds: use 0 to 1", policy.jitter));
    }
    if policy.non_retryable.len() > NON_RETRYABLE_MAX {
        refuse("non_retryable", format!("{} error types: use at most {NON_RETRYABLE_MAX}", policy.non_retryable.len()));
    }
    problems
}

/// Reads `retry`: a mapping, or a bare number of attempts. Bounds are checked by the caller, who knows the whole task; what cannot be
/// read is reported and stands for something within them.
pub(super) fn read(reader: &mut Reader, node: &Node, path: &str) -> RetryPolicy {
    let default = RetryPolicy { max_attempts: 3, ..RetryPolicy::none() };
    match &node.content {
        Content::Scalar(Value::Number(_)) => RetryPolicy { max_attempts: attempts(reader, node, path), ..default },
        Content::Mapping(_) => match reader.fields(node, path, &KEYS) {
            Some(fields) => from_fields(reader, &fields, &default),
            None => default,
        },
        Content::Scalar(_) | Content::List(_) | Content::Unreadable => {
            reader.wrong_type(node, path, "a mapping, or the number of attempts");
            default
        }
    }
}

/// Whether the number of attempts is written down.
pub(super) fn names_attempts(node: &Node) -> bool {
    match &node.content {
        Content::Scalar(Value::Number(_)) => true,
        Content::Mapping(entries) => entries.iter().any(|entry| entry.key == "max_attempts"),
        Content::Scalar(_) | Content::List(_) | Content::Unreadable => false,
    }
}

/// Where a key of the policy stands; where the policy does, when it is not written.
pub(super) fn position_of(node: &Node, key: &str) -> Position {
    match &node.content {
        Content::Mapping(entries) => entries.iter().find(|entry| entry.key == key).map_or(node.position, |entry| entry.value.position),
        Content::Scalar(_) | Content::List(_) | Content::Unreadable => node.position,
    }
}

fn from_fields(reader: &mut Reader, fields: &Fields<'_>, default: &RetryPolicy) -> RetryPolicy {
    let max_attempts = fields.get("max_attempts").map(|node| attempts(reader, node, &fields.path("max_attempts")));
    // One that cannot be read contradicts no `max_interval`.
    let stand_in = if fields.get("initial_interval").is_some() { Duration::from_millis(1) } else { default.initial_interval };
    let initial_interval = reader.duration(fields, "initial_interval").unwrap_or(stand_in);
    let max_interval = reader.duration(fields, "max_interval").unwrap_or(default.max_interval.max(initial_interval));
    RetryPolicy {
        max_attempts: max_attempts.unwrap_or(default.max_attempts),
        initial_interval,
        backoff_coefficient: reader.number(fields, "backoff_coefficient").unwrap_or(default.backoff_coefficient),
        max_interval,
        jitter: reader.number(fields, "jitter").unwrap_or(default.jitter),
        non_retryable: reader.names(fields, "non_retryable").into_iter().map(|(name, _)| name).collect(),
    }
}

fn attempts(reader: &mut Reader, node: &Node, path: &str) -> u32 {
    let number = match &node.content {
        Content::Scalar(Value::Number(number)) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        Content::Scalar(_) | Content::List(_) | Content::Mapping(_) | Content::Unreadable => None,
    };
    number.unwrap_or_else(|| {
        reader.wrong_type(node, path, &format!("a whole number from 1 to {ATTEMPTS_MAX}"));
        1
    })
}
