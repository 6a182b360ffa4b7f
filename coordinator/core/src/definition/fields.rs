//! Typed reading of mappings: every key is known, every value has the type that is expected.

use super::problem::{Collector, Problem};
use super::yaml::{Content, Entry, Node, Position};
use super::{parse_duration, rules};
use crate::expression;
use crate::plan::Template;
use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;

/// Source of all expressions of one definition that are more than plain paths: parsing them is what takes time.
const CEL_BYTES_MAX: usize = 512 * 1024;
/// What an expression counts that is not valid.
const FAILED_CHECK_BYTES: usize = 1024;

/// The keys of one mapping.
pub(super) struct Fields<'n> {
    prefix: String,
    /// Where the mapping starts.
    pub position: Position,
    entries: HashMap<&'n str, &'n Entry>,
}

/// A task name in a template, and where.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub task: String,
    pub position: Position,
    pub path: String,
}

impl<'n> Fields<'n> {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// Where a key stands.
    pub fn key_position(&self, key: &str) -> Option<Position> {
        self.entries.get(key).map(|entry| entry.position)
    }

    /// The path of the mapping.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The path of a key.
    pub fn path(&self, key: &str) -> String {
        joined(&self.prefix, key)
    }
}

/// `prefix.key`, or the key alone at the top.
pub(super) fn joined(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// Reads values and keeps what is wrong with them.
#[derive(Debug)]
pub(super) struct Reader {
    pub problems: Collector,
    /// What is left of [`CEL_BYTES_MAX`]; none when it is used up and reported.
    cel_bytes_left: Option<usize>,
}

impl Reader {
    /// Continues with the problems found so far.
    pub fn new(problems: Collector) -> Self {
        Self { problems, cel_bytes_left: Some(CEL_BYTES_MAX) }
    }

    /// The keys of a mapping, each one of `known`; none when it is no mapping.
    pub fn fields<'n>(&mut self, node: &'n Node, path: &str, known: &[&str]) -> Option<Fields<'n>> {
        self.fields_or_later(node, path, (known, &[]))
    }

    /// Like [`Self::fields`]; a key of `later` is refused as not yet supported.
    pub fn fields_or_later<'n>(&mut self, node: &'n Node, path: &str, (known, later): (&[&str], &[&str])) -> Option<Fields<'n>> {
        let Content::Mapping(entries) = &node.content else {
            self.wrong_type(node, path, &format!("a mapping with {}", known.join(", ")));
            return None;
        };
        for entry in entries {
            let key = entry.key.as_str();
            let path = joined(path, key);
            if later.contains(&key) {
                self.problems.add(entry.position, &path, format!("`{key}` is not yet supported: remove it"));
            } else if !known.contains(&key) {
                let problem =
                    Problem::at(entry.position, &path, format!("unknown key `{}`: use one of {}", shortened(key), known.join(", ")));
                self.problems.add_unknown_key(problem, key, known);
            }
        }
        let entries = entries.iter().map(|entry| (entry.key.as_str(), entry)).collect();
        Some(Fields { prefix: path.to_owned(), position: node.position, entries })
    }

    /// Records that a value has another type than expected; not where the value could not be read at all.
    pub fn wrong_type(&mut self, node: &Node, path: &str, expected: &str) {
        if !matches!(node.content, Content::Unreadable) {
            self.problems.add(node.position, path, format!("this is {}, expected is {expected}", node.described()));
        }
    }

    /// A string.
    pub fn text<'n>(&mut self, fields: &Fields<'n>, key: &str) -> Option<&'n str> {
        let node = fields.get(key)?;
        if let Content::Scalar(Value::String(text)) = &node.content {
            return Some(text);
        }
        let remedy = if matches!(node.content, Content::Scalar(_)) { "a string (put it in quotes)" } else { "a string" };
        self.wrong_type(node, &fields.path(key), remedy);
        None
    }

    /// A string that satisfies a rule.
    pub fn checked_text<'n>(&mut self, fields: &Fields<'n>, key: &str, rule: fn(&str) -> Result<(), String>) -> Option<&'n str> {
        let text = self.text(fields, key)?;
        if let (Err(message), Some(node)) = (rule(text), fields.get(key)) {
            self.problems.add(node.position, &fields.path(key), message);
        }
        Some(text)
    }

    /// A name that must be there.
    pub fn name(&mut self, fields: &Fields<'_>, what: &str) -> Option<(String, Position)> {
        let Some(node) = fields.get("name") else {
            self.problems.add(fields.position, &fields.path("name"), format!("{what} has no name: add `name`"));
            return None;
        };
        let name = self.checked_text(fields, "name", rules::check_name)?;
        Some((name.to_owned(), node.position))
    }

    /// A boolean; false when absent.
    pub fn flag(&mut self, fields: &Fields<'_>, key: &str) -> bool {
        match fields.get(key).map(|node| (node, &node.content)) {
            Some((_, Content::Scalar(Value::Bool(flag)))) => *flag,
            Some((node, _)) => {
                self.wrong_type(node, &fields.path(key), "true or false");
                false
            }
            None => false,
        }
    }

    /// A number.
    pub fn number(&mut self, fields: &Fields<'_>, key: &str) -> Option<f64> {
        let node = fields.get(key)?;
        if let Content::Scalar(Value::Number(number)) = &node.content {
            return number.as_f64();
        }
        self.wrong_type(node, &fields.path(key), "a number");
        None
    }

    /// A duration above zero: text, or a number of seconds.
    pub fn duration(&mut self, fields: &Fields<'_>, key: &str) -> Option<Duration> {
        let node = fields.get(key)?;
        let parsed = match &node.content {
            Content::Scalar(Value::String(text)) if expression::has_expression(text) => {
                Err("a duration cannot be an expression yet: write it as 90s, 2h or 1h30m".to_owned())
            }
            Content::Scalar(Value::String(text)) => parse_duration(text).map_err(|error| error.to_string()),
            Content::Scalar(Value::Number(number)) => {
                let seconds = number.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                seconds.ok_or_else(|| format!("{number} is not a number of seconds: use a positive number, or text such as 90s"))
            }
            Content::Scalar(_) | Content::List(_) | Content::Mapping(_) | Content::Unreadable => {
                self.wrong_type(node, &fields.path(key), "a duration such as 90s or 1h30m, or a number of seconds");
                return None;
            }
        };
        match parsed.and_then(|duration| rules::check_duration(duration).map(|()| duration)) {
            Ok(duration) => Some(duration),
            Err(message) => {
                self.problems.add(node.position, &fields.path(key), message);
                None
            }
        }
    }

    /// A list.
    pub fn list<'n>(&mut self, fields: &Fields<'n>, key: &str, of: &str) -> Option<&'n [Node]> {
        let node = fields.get(key)?;
        if let Content::List(items) = &node.content {
            return Some(items);
        }
        self.wrong_type(node, &fields.path(key), of);
        None
    }

    /// A list of strings, each with its position; a repeated one is a problem.
    pub fn names(&mut self, fields: &Fields<'_>, key: &str) -> Vec<(String, Position)> {
        let mut names: Vec<(String, Position)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for (index, node) in self.list(fields, key, "a list of names, such as [build, test]").unwrap_or_default().iter().enumerate() {
            let path = format!("{}[{index}]", fields.path(key));
            match &node.content {
                Content::Scalar(Value::String(name)) if seen.insert(name) => names.push((name.clone(), node.position)),
                Content::Scalar(Value::String(name)) => {
                    self.problems.add(node.position, &path, format!("`{}` is named twice: remove one", shortened(name)));
                }
                Content::Scalar(_) | Content::List(_) | Content::Mapping(_) | Content::Unreadable => {
                    self.wrong_type(node, &path, "a name (put it in quotes)");
                }
            }
        }
        names
    }

    /// A template: every expression is checked where it stands; the tasks that it reads go to `reads`.
    pub fn template(&mut self, node: &Node, path: &str, reads: &mut Vec<Read>) -> Template {
        self.expressions(node, path, reads);
        Template(node.to_json())
    }

    fn expressions(&mut self, node: &Node, path: &str, reads: &mut Vec<Read>) {
        match &node.content {
            Content::Scalar(Value::String(text)) if !expression::has_expression(text) => {}
            Content::Scalar(text @ Value::String(_)) => self.expression(text, (node.position, path), reads),
            Content::Scalar(_) | Content::Unreadable => {}
            Content::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.expressions(item, &format!("{path}[{index}]"), reads);
                }
            }
            Content::Mapping(entries) => {
                for entry in entries {
                    self.expressions(&entry.value, &joined(path, &entry.key), reads);
                }
            }
        }
    }

    fn expression(&mut self, text: &Value, (position, path): (Position, &str), reads: &mut Vec<Read>) {
        let Some(left) = self.cel_bytes_left else { return };
        let checked = expression::check_all(text);
        self.cel_bytes_left = left.checked_sub(checked.cel_bytes + FAILED_CHECK_BYTES * checked.errors.len());
        for error in checked.errors {
            let suggestion = error.suggestion().map(str::to_owned);
            self.problems.push(Problem { suggestion, ..Problem::at(position, path, error.to_string()) });
        }
        reads.extend(checked.tasks.into_iter().map(|task| Read { task, position, path: path.to_owned() }));
        if self.cel_bytes_left.is_none() {
            let message = format!(
                "all expressions up to here have more than {CEL_BYTES_MAX} bytes: let tasks compute this (plain paths do not count)"
            );
            self.problems.add(position, path, message);
        }
    }
}

/// A word in a message: not longer than it has to be.
pub(super) fn shortened(word: &str) -> String {
    const SHOWN_CHARS: usize = 60;
    if word.chars().count() <= SHOWN_CHARS { word.to_owned() } else { word.chars().take(SHOWN_CHARS).chain("…".chars()).collect() }
}
