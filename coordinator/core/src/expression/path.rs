//! Plain paths: `input.a.b`, `input.with["key"]`, `tasks.build.output[0]`. Looked up without CEL, without copies.

use super::{ExpressionError, shown};
use serde_json::Value;

/// A variable and the members to follow from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    /// `input`, `tasks` or `workflow`; not checked here.
    pub root: String,
    /// In order.
    pub steps: Vec<Step>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Of an object.
    Key(String),
    /// Of an array, from 0.
    Index(usize),
}

impl Path {
    /// The path that `source` spells; none when it is any other expression.
    pub fn parse(source: &str) -> Option<Self> {
        let (root, mut rest) = identifier(source)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = step(rest)?;
            steps.push(step);
            rest = after;
        }
        Some(Self { root: root.to_owned(), steps })
    }
}

/// Follows `steps` from `value`, which is called `within` in errors.
pub(super) fn follow<'v>(source: &str, within: &str, value: &'v Value, steps: &[Step]) -> Result<&'v Value, ExpressionError> {
    let mut value = value;
    for (done, step) in steps.iter().enumerate() {
        let next = match step {
            Step::Key(key) => value.get(key),
            Step::Index(index) => value.get(index),
        };
        value = next.ok_or_else(|| missing(source, value, &spelled(within, &steps[..done]), step))?;
    }
    Ok(value)
}

fn missing(source: &str, value: &Value, within: &str, step: &Step) -> ExpressionError {
    let key = match step {
        Step::Key(key) => key.clone(),
        Step::Index(index) => index.to_string(),
    };
    ExpressionError::Missing { expression: shown(source), key, within: format!("`{within}`"), available: available(value) }
}

/// What a value has, by name: keys only, never values.
pub(super) fn available(value: &Value) -> String {
    const KEYS_SHOWN: usize = 10;
    match value {
        Value::Object(entries) if entries.is_empty() => "it is empty".to_owned(),
        Value::Object(entries) => {
            let keys: Vec<String> = entries.keys().take(KEYS_SHOWN).map(|key| shown(key)).collect();
            let more = if entries.len() > KEYS_SHOWN { ", …" } else { "" };
            format!("it has: {}{more}", keys.join(", "))
        }
        Value::Array(items) => format!("it is a list of {}", items.len()),
        Value::Null => "it is null".to_owned(),
        Value::Bool(_) => "it is a boolean".to_owned(),
        Value::Number(_) => "it is a number".to_owned(),
        Value::String(_) => "it is a string".to_owned(),
    }
}

fn spelled(within: &str, steps: &[Step]) -> String {
    let spelled_step = |step: &Step| match step {
        Step::Key(key) if identifier(key).is_some_and(|(_, rest)| rest.is_empty()) => format!(".{key}"),
        Step::Key(key) => format!("[{key:?}]"),
        Step::Index(index) => format!("[{index}]"),
    };
    std::iter::once(within.to_owned()).chain(steps.iter().map(spelled_step)).collect()
}

fn step(rest: &str) -> Option<(Step, &str)> {
    if let Some(rest) = rest.strip_prefix('.') {
        let (name, after) = identifier(rest)?;
        return Some((Step::Key(name.to_owned()), after));
    }
    let rest = rest.strip_prefix('[')?;
    if rest.starts_with('"') {
        let (key, after) = quoted(rest)?;
        return Some((Step::Key(key), after.strip_prefix(']')?));
    }
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let index = rest[..digits].parse().ok()?;
    Some((Step::Index(index), rest[digits..].strip_prefix(']')?))
}

fn identifier(text: &str) -> Option<(&str, &str)> {
    let length = text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    starts_well.then(|| text.split_at(length))
}

/// A string in double quotes, with the escapes of JSON (which are CEL's too).
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let key = values.next()?.ok()?;
    Some((key, &text[values.byte_offset()..]))
}
