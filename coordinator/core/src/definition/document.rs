//! The keys of a definition as a whole.

use super::fields::{Fields, Read, Reader};
use super::graph::{self, PhaseDraft};
use super::problem::{Collector, Problems};
use super::tasks::{self, Draft, Place};
use super::yaml::{self, Content, Node, Position};
use super::{PHASES_MAX, TASKS_MAX, schema};
use crate::expression::on_large_stack;
use crate::plan::{PhaseIndex, Plan, Template};
use serde_json::Value;

const KEYS: [&str; 6] = ["name", "description", "input", "output", "phases", "tasks"];
const LATER: [&str; 12] = [
    "on_failure",
    "on_completion",
    "schedule",
    "timeout",
    "deadline",
    "concurrency",
    "env",
    "defaults",
    "labels",
    "artifacts",
    "webhooks",
    "notifications",
];
const EMPTY: &str = "the definition is empty: write a mapping with name and tasks";
const PHASE_KEYS: [&str; 4] = ["name", "weight", "needs", "tasks"];
const PHASE_LATER: [&str; 5] = ["when", "foreach", "timeout", "deadline", "continue_on_failure"];

/// A definition that can be executed.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// What to execute; carries the name.
    pub plan: Plan,
    /// What the author says about it.
    pub description: Option<String>,
}

/// Reads a definition, YAML or JSON.
///
/// # Errors
/// Every problem of the pass (at most [`super::PROBLEMS_MAX`]), in the order of the text. Text that is no YAML is one problem.
pub fn parse(source: &str) -> Result<Parsed, Problems> {
    on_large_stack(|| {
        let mut problems = Collector::default();
        let root = yaml::read(source, &mut problems);
        let mut reader = Reader::new(problems);
        if root.is_none() && reader.problems.is_empty() {
            reader.problems.add(Position { line: 1, column: 1 }, "", EMPTY.to_owned());
        }
        let parsed = root.and_then(|root| document(&mut reader, &root));
        match parsed {
            Some(parsed) if reader.problems.is_empty() => Ok(parsed),
            Some(_) | None => Err(reader.problems.into_problems()),
        }
    })
}

/// What was read before names are resolved.
#[derive(Default)]
pub(super) struct Drafts {
    pub tasks: Vec<Draft>,
    pub phases: Vec<PhaseDraft>,
    /// Names in the expressions of `output`.
    pub output_reads: Vec<Read>,
}

fn document(reader: &mut Reader, root: &Node) -> Option<Parsed> {
    if matches!(root.content, Content::Scalar(Value::Null)) {
        reader.problems.add(root.position, "", EMPTY.to_owned());
        return None;
    }
    if !matches!(root.content, Content::Mapping(_)) {
        reader.wrong_type(root, "", "a mapping with name and tasks, or name and phases");
        return None;
    }
    let fields = reader.fields_or_later(root, "", (&KEYS, &LATER))?;
    let name = reader.name(&fields, "the workflow");
    let description = reader.text(&fields, "description").map(str::to_owned);
    let input_schema = input_schema(reader, &fields);
    let mut drafts = Drafts::default();
    let output = fields.get("output").map(|node| reader.template(node, "output", &mut drafts.output_reads));
    read_tasks(reader, &fields, &mut drafts);
    let header = Header { name: name.map(|(name, _)| name).unwrap_or_default(), input_schema, output };
    graph::resolved(reader, drafts, header).map(|plan| Parsed { plan, description })
}

/// What a plan has besides its tasks and phases.
pub(super) struct Header {
    pub name: String,
    pub input_schema: Option<Value>,
    pub output: Option<Template>,
}

fn input_schema(reader: &mut Reader, fields: &Fields<'_>) -> Option<Value> {
    let node = fields.get("input")?;
    if !matches!(node.content, Content::Mapping(_)) {
        reader.wrong_type(node, "input", "a JSON Schema, such as {type: object}");
        return None;
    }
    let value = node.to_json();
    schema::check(reader, node, &value);
    Some(value)
}

fn read_tasks(reader: &mut Reader, fields: &Fields<'_>, drafts: &mut Drafts) {
    match (fields.get("phases"), fields.get("tasks")) {
        (Some(_), None) => read_phases(reader, fields, drafts),
        (None, Some(_)) => read_list(reader, fields, None, drafts),
        (None, None) => {
            reader.problems.add(fields.position, "", "the workflow has no tasks: add `tasks`, or `phases` with tasks".to_owned());
        }
        (Some(_), Some(node)) => {
            let position = fields.key_position("tasks").unwrap_or(node.position);
            reader.problems.add(position, "tasks", "`tasks` and `phases` are both given: use exactly one of them".to_owned());
            read_phases(reader, fields, drafts);
            read_list(reader, fields, None, drafts);
        }
    }
}

fn read_list(reader: &mut Reader, fields: &Fields<'_>, phase: Option<PhaseIndex>, drafts: &mut Drafts) {
    let Some(items) = reader.list(fields, "tasks", "a list of tasks") else { return };
    let position = fields.get("tasks").map_or(fields.position, |node| node.position);
    if items.is_empty() {
        reader.problems.add(position, &fields.path("tasks"), "the list is empty: add at least one task".to_owned());
    }
    if drafts.tasks.len() + items.len() > TASKS_MAX {
        let message = format!("the definition has more than {TASKS_MAX} tasks here: split it into several workflows");
        reader.problems.add(position, &fields.path("tasks"), message);
        return;
    }
    for (index, node) in items.iter().enumerate() {
        let place = Place { path: format!("{}[{index}]", fields.path("tasks")), phase };
        drafts.tasks.extend(tasks::read(reader, node, place));
    }
}

fn read_phases(reader: &mut Reader, fields: &Fields<'_>, drafts: &mut Drafts) {
    let Some(items) = reader.list(fields, "phases", "a list of phases") else { return };
    let is_meant = fields.get("tasks").is_none();
    if (items.is_empty() && is_meant) || items.len() > PHASES_MAX {
        let message = format!("there are {} phases: use 1 to {PHASES_MAX}", items.len());
        reader.problems.add(fields.get("phases").map_or(fields.position, |node| node.position), "phases", message);
        return;
    }
    for (index, node) in items.iter().enumerate() {
        read_phase(reader, node, format!("phases[{index}]"), drafts);
    }
}

fn read_phase(reader: &mut Reader, node: &Node, path: String, drafts: &mut Drafts) {
    let phase = PhaseIndex::try_from(drafts.phases.len()).expect("at most PHASES_MAX");
    let Some(fields) = reader.fields_or_later(node, &path, (&PHASE_KEYS, &PHASE_LATER)) else { return };
    let (name, position) = reader.name(&fields, "the phase").unwrap_or_else(|| (String::new(), node.position));
    let needs = fields.get("needs").map(|_| reader.names(&fields, "needs"));
    let weight = weight(reader, &fields);
    drafts.phases.push(PhaseDraft { name, position, path, needs, weight });
    if fields.get("tasks").is_none() {
        reader.problems.add(node.position, &fields.path("tasks"), "the phase has no tasks: add `tasks`".to_owned());
    }
    read_list(reader, &fields, Some(phase), drafts);
}

fn weight(reader: &mut Reader, fields: &Fields<'_>) -> f64 {
    let weight = reader.number(fields, "weight").unwrap_or(1.0);
    if weight <= 0.0 || !weight.is_finite() {
        let position = fields.get("weight").map_or(fields.position, |node| node.position);
        reader.problems.add(position, &fields.path("weight"), format!("the weight {weight} is not positive: use a number above 0"));
    }
    weight
}
