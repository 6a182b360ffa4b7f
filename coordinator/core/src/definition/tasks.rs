//! The keys of a task.

use super::fields::{Fields, Read, Reader, joined, shortened};
use super::problem::Problem;
use super::rules::{self, Starts, check_env_key, check_queue, check_retry, check_with_key, check_workdir};
use super::yaml::{Content, Node, Position};
use super::{default_retry, retry};
use crate::plan::{DEFAULT_QUEUE, LargeValues, PhaseIndex, RetryPolicy, TaskKind, TaskPlan, Template};
use orchestr8_proto::words::Priority;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

const KEYS: [&str; 17] = [
    "name",
    "run",
    "handler",
    "sleep",
    "needs",
    "with",
    "env",
    "prompt",
    "retry",
    "timeout",
    "continue_on_failure",
    "at_most_once",
    "priority",
    "queue",
    "workdir",
    "large_values",
    "agent_name",
];
const KINDS: [&str; 3] = ["run", "handler", "sleep"];
/// Part of the language, but not built yet.
const LATER: [&str; 17] = [
    "when",
    "foreach",
    "deadline",
    "queue_timeout",
    "idle_timeout",
    "labels",
    "workspace",
    "outputs",
    "artifacts",
    "on_disconnect",
    "on_completion",
    "on_failure",
    "http",
    "agent",
    "workflow",
    "approval",
    "signal",
];
/// Those of them that say what the task does.
const LATER_KINDS: [&str; 5] = ["http", "agent", "workflow", "approval", "signal"];

/// A task as it is written: names are not resolved yet.
pub(super) struct Draft {
    /// Where its name stands, or it begins.
    pub position: Position,
    /// Such as `tasks[2]` or `phases[0].tasks[2]`.
    pub path: String,
    /// Names in `needs`.
    pub needs: Vec<(String, Position)>,
    /// Names in its expressions.
    pub reads: Vec<Read>,
    /// Everything else; `needs`, `needs_phases` and `dependents` are empty.
    pub plan: TaskPlan,
}

/// Where a task belongs.
pub(super) struct Place {
    pub path: String,
    pub phase: Option<PhaseIndex>,
}

/// Whether a key means anything for a kind; what would have no effect is refused.
pub(super) fn applies(key: &str, kind: &TaskKind) -> bool {
    match kind {
        TaskKind::Run { .. } => true,
        TaskKind::Handler { .. } => !["env", "workdir", "large_values"].contains(&key),
        TaskKind::Sleep { .. } => ["name", "sleep", "needs", "continue_on_failure", "agent_name"].contains(&key),
    }
}

/// Reads one task. None only when it is no mapping; without a name it is read all the same, and nobody can refer to it.
pub(super) fn read(reader: &mut Reader, node: &Node, place: Place) -> Option<Draft> {
    let fields = reader.fields_or_later(node, &place.path, (&KEYS, &LATER))?;
    let kind = kind(reader, &fields, node);
    let (name, position) = reader.name(&fields, "the task").unwrap_or_else(|| (String::new(), node.position));
    if let Some(kind) = &kind {
        refuse_what_has_no_effect(reader, &fields, kind);
    }
    let kind = kind.unwrap_or_else(|| stand_in(&fields));
    let mut reads = Vec::new();
    let needs = reader.names(&fields, "needs");
    let plan = plan(reader, &fields, (name, place.phase, kind), &mut reads);
    Some(Draft { position, path: place.path, needs, reads, plan })
}

fn plan(
    reader: &mut Reader,
    fields: &Fields<'_>,
    (name, phase, kind): (String, Option<PhaseIndex>, TaskKind),
    reads: &mut Vec<Read>,
) -> TaskPlan {
    let at_most_once = reader.flag(fields, "at_most_once");
    let starts = if at_most_once { Starts::AtMostOnce } else { Starts::AtLeastOnce };
    let (with, env) = (templates(reader, fields, ("with", check_with_key), reads), env(reader, fields, reads));
    if let TaskKind::Run { .. } = kind
        && let Some(position) = fields.key_position("with")
    {
        for message in rules::check_with_keys(with.keys().map(String::as_str), env.keys().map(String::as_str)) {
            reader.problems.add(position, &fields.path("with"), message);
        }
    }
    TaskPlan {
        name,
        phase,
        needs: Vec::new(),
        needs_phases: Vec::new(),
        dependents: Vec::new(),
        with,
        env,
        prompt: prompt(reader, fields, reads),
        retry: retry_policy(reader, fields, &kind, starts),
        timeout: reader.duration(fields, "timeout"),
        continue_on_failure: reader.flag(fields, "continue_on_failure"),
        at_most_once,
        priority: priority(reader, fields),
        queue: reader.checked_text(fields, "queue", check_queue).unwrap_or(DEFAULT_QUEUE).to_owned(),
        workdir: reader.checked_text(fields, "workdir", check_workdir).map(str::to_owned),
        large_values: reader
            .checked_text(fields, "large_values", rules::check_large_values)
            .map_or(LargeValues::Refused, |_| LargeValues::File),
        agent_name: reader.checked_text(fields, "agent_name", rules::check_name).map_or_else(|| default_agent_name(&kind), str::to_owned),
        kind,
    }
}

/// The handler's name, else the kind.
pub(super) fn default_agent_name(kind: &TaskKind) -> String {
    match kind {
        TaskKind::Handler { name } => name.clone(),
        TaskKind::Run { .. } | TaskKind::Sleep { .. } => kind.word().to_owned(),
    }
}

/// What a task of no known kind is read as, to hear of its other keys.
fn stand_in(fields: &Fields<'_>) -> TaskKind {
    let runs = fields.get("run").is_some();
    if runs { TaskKind::Run { script: "true".to_owned() } } else { TaskKind::Handler { name: "noop".to_owned() } }
}

fn kind(reader: &mut Reader, fields: &Fields<'_>, node: &Node) -> Option<TaskKind> {
    let given: Vec<&str> = KINDS.iter().copied().filter(|kind| fields.get(kind).is_some()).collect();
    let has_later_kind = LATER_KINDS.iter().any(|kind| fields.get(kind).is_some());
    match given.as_slice() {
        [key] => Some(read_kind(reader, fields, key)),
        [] if has_later_kind => None,
        [] => {
            reader.problems.add(node.position, fields.prefix(), "the task does nothing: add one of run, handler, sleep".to_owned());
            None
        }
        [_, second, ..] => {
            let message = format!("the task has {}: use exactly one of run, handler, sleep", given.join(" and "));
            let position = fields.key_position(second).unwrap_or(node.position);
            reader.problems.add(position, &fields.path(second), message);
            // Which of them is meant is not known, but each can be wrong by itself.
            given.iter().for_each(|key| drop(read_kind(reader, fields, key)));
            None
        }
    }
}

/// What cannot be read is still of this kind, with a stand-in: the other keys are judged by it.
fn read_kind(reader: &mut Reader, fields: &Fields<'_>, key: &str) -> TaskKind {
    let kind = match key {
        "run" => TaskKind::Run { script: reader.text(fields, key).unwrap_or("true").to_owned() },
        "handler" => TaskKind::Handler { name: reader.text(fields, key).unwrap_or("noop").to_owned() },
        _ => TaskKind::Sleep { duration: reader.duration(fields, key).unwrap_or(Duration::from_secs(1)) },
    };
    if let (Err(message), Some(node)) = (rules::check_kind(&kind), fields.get(key)) {
        reader.problems.add(node.position, &fields.path(key), message);
    }
    kind
}

fn refuse_what_has_no_effect(reader: &mut Reader, fields: &Fields<'_>, kind: &TaskKind) {
    for key in KEYS.iter().filter(|key| !applies(key, kind) && !KINDS.contains(key)) {
        if let Some(position) = fields.key_position(key) {
            let message = format!("`{key}` has no effect on a `{}` task: remove it", kind.word());
            reader.problems.add(position, &fields.path(key), message);
        }
    }
}

type KeyRule = fn(&str) -> Result<(), String>;

fn templates(reader: &mut Reader, fields: &Fields<'_>, (key, rule): (&str, KeyRule), reads: &mut Vec<Read>) -> BTreeMap<String, Template> {
    let Some(node) = fields.get(key) else { return BTreeMap::new() };
    let Content::Mapping(entries) = &node.content else {
        reader.wrong_type(node, &fields.path(key), "a mapping of names to values");
        return BTreeMap::new();
    };
    let mut templates = BTreeMap::new();
    for entry in entries {
        let path = joined(&fields.path(key), &entry.key);
        if let Err(message) = rule(&entry.key) {
            reader.problems.add(entry.position, &path, message);
        }
        templates.insert(entry.key.clone(), reader.template(&entry.value, &path, reads));
    }
    templates
}

fn env(reader: &mut Reader, fields: &Fields<'_>, reads: &mut Vec<Read>) -> BTreeMap<String, Template> {
    if let Some(Content::Mapping(entries)) = fields.get("env").map(|node| &node.content) {
        for entry in entries {
            let is_text = matches!(&entry.value.content, Content::Scalar(Value::String(_) | Value::Number(_) | Value::Bool(_)));
            if !is_text {
                reader.wrong_type(&entry.value, &joined(&fields.path("env"), &entry.key), "a string, a number or a boolean");
            }
        }
    }
    templates(reader, fields, ("env", check_env_key), reads)
}

fn prompt(reader: &mut Reader, fields: &Fields<'_>, reads: &mut Vec<Read>) -> Option<Template> {
    reader.text(fields, "prompt")?;
    fields.get("prompt").map(|node| reader.template(node, &fields.path("prompt"), reads))
}

fn priority(reader: &mut Reader, fields: &Fields<'_>) -> Priority {
    let Some(word) = reader.text(fields, "priority") else { return Priority::Normal };
    word.parse().unwrap_or_else(|_| {
        let known = || Priority::ALL.iter().map(|known| known.as_str());
        let message = format!("`{}` is not a priority: use one of {}", shortened(word), known().collect::<Vec<_>>().join(", "));
        let position = fields.get("priority").map_or(fields.position, |node| node.position);
        reader.problems.add_unknown(Problem::at(position, &fields.path("priority"), message), word, known());
        Priority::Normal
    })
}

fn retry_policy(reader: &mut Reader, fields: &Fields<'_>, kind: &TaskKind, starts: Starts) -> RetryPolicy {
    let Some(node) = fields.get("retry") else {
        return if starts == Starts::AtMostOnce { RetryPolicy::none() } else { default_retry(kind) };
    };
    let mut policy = retry::read(reader, node, &fields.path("retry"));
    if starts == Starts::AtMostOnce && !retry::names_attempts(node) {
        policy.max_attempts = 1;
    }
    for problem in check_retry(&policy, starts) {
        let key = problem.field.strip_prefix("retry.").unwrap_or_default();
        let position = retry::position_of(node, key);
        reader.problems.add(position, &fields.path(&problem.field), problem.message);
    }
    policy
}
