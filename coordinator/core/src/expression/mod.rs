//! Expressions: CEL inside `${{ }}` in templates. What they may read, what they may cost, and what they evaluate to.
//!
//! A string that is exactly one `${{ expression }}` becomes the expression's JSON value; in any other string the results are
//! interpolated as text (strings as they are, other values as JSON). Templates nest in objects and arrays; keys are never templates.
//!
//! Variables: `input`, `tasks.<name>.output`, `tasks.<name>.status`, `workflow.id`, `workflow.name`. A task name that is not a CEL
//! identifier is written `tasks["a-b"]`.
//!
//! An expression cannot hang its caller: source, nodes and depth are bounded when it is checked, and every evaluation has a budget
//! of steps (see `budget`). A plain path such as `input.with["key"]` is looked up directly and copies nothing but its result.
//!
//! - `template`: strings into literals and expressions
//! - `path`: the plain paths
//! - `program`: CEL source to a checked syntax tree, and what it reads
//! - `budget`: the tree with every step counted
//! - `evaluate`: values in, value out
//! - `stack`: where parser and evaluator recurse

mod budget;
mod evaluate;
mod path;
mod program;
mod stack;
mod template;
#[cfg(test)]
mod tests;

pub use evaluate::{Scope, Steps, TaskView, evaluate};
pub(crate) use stack::on_large_stack;

use crate::plan::{Plan, TaskIndex, Template};
use orchestr8_proto::storable::Unstorable;
use serde_json::Value;
use std::collections::BTreeSet;
use template::Segment;

/// Longest expression between `${{` and `}}`.
pub const EXPRESSION_BYTES_MAX: usize = 8 * 1024;
/// Operators, member accesses and brackets in one expression: what bounds the depth of its tree before it is parsed.
pub const OPERATORS_MAX: usize = 100;
/// Nodes of one expression's tree, macros expanded.
pub const NODES_MAX: usize = 1_000;
/// Macros (`map`, `filter`, `all`, `exists`, `exists_one`) inside each other.
pub const NESTED_MACROS_MAX: usize = 2;
/// Source of all the expressions of one template that are more than plain paths.
pub const TEMPLATE_CEL_BYTES_MAX: usize = 64 * 1024;
/// Mistakes that are looked for in one template.
const ERRORS_MAX: usize = 50;
/// Steps that the expressions of all the templates of one task may take together, and those of a workflow's output.
pub const STEPS_MAX: u64 = 2_000_000;
/// Largest result of one template, as JSON, unless [`Steps`] say otherwise.
pub const RESULT_BYTES_MAX: usize = 1024 * 1024;

/// Why a template is not valid, or has no value here.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ExpressionError {
    /// `${{` without its end; the author must close it.
    #[error("`${{{{` is never closed by `}}}}` in `{0}`")]
    Unterminated(String),
    /// Nothing between the braces.
    #[error("an expression is empty: write what it reads between `${{{{` and `}}}}`, for instance `${{{{ input.name }}}}`")]
    Empty,
    /// A bound on the expression itself.
    #[error("expression `{expression}` has {found} {what}, the limit is {limit}: split it over several keys or tasks")]
    TooComplex {
        /// The source, shortened.
        expression: String,
        /// What there is too much of.
        what: &'static str,
        /// How many there are, at least.
        found: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// Not CEL.
    #[error("expression `{expression}` is not valid: {message}")]
    Syntax {
        /// The source, shortened.
        expression: String,
        /// What is wrong, and where in the expression.
        message: String,
    },
    /// A variable, member or function that does not exist.
    #[error("expression `{expression}` reads `{name}`, which does not exist: {remedy}")]
    Unknown {
        /// The source, shortened.
        expression: String,
        /// What was read or called.
        name: String,
        /// What can be used instead.
        remedy: String,
        /// The nearest known name.
        suggestion: Option<String>,
    },
    /// `tasks` used other than with a fixed name.
    #[error(
        "expression `{0}` uses `tasks` without a fixed name: write `tasks.<name>` or `tasks[\"<name>\"]`, so that it is known what is read"
    )]
    DynamicTasks(String),
    /// A key or index is not there at run time.
    #[error(
        "expression `{expression}` reads `{key}`, which {within} does not have ({available}): correct the name, or test it with `has()` first"
    )]
    Missing {
        /// The source, shortened.
        expression: String,
        /// The key or index.
        key: String,
        /// The path that was looked into.
        within: String,
        /// What is there instead.
        available: String,
    },
    /// The evaluation failed.
    #[error("expression `{expression}` cannot be evaluated: {message}")]
    Evaluation {
        /// The source, shortened.
        expression: String,
        /// Why; without the values, which may be secret.
        message: String,
    },
    /// The values that were put into the template make it too deep, or hold what cannot be stored.
    #[error("the result {0}")]
    Unstorable(#[from] Unstorable),
    /// More than [`STEPS_MAX`].
    #[error("expression `{0}` takes more than {STEPS_MAX} steps: let a task compute this")]
    TooExpensive(String),
    /// More than so many bytes.
    #[error("the result is larger than {0} bytes: pass a reference, or let a task compute this")]
    ResultTooLarge(usize),
}

impl ExpressionError {
    /// The nearest known name, where there is one.
    #[must_use]
    pub fn suggestion(&self) -> Option<&str> {
        match self {
            Self::Unknown { suggestion, .. } => suggestion.as_deref(),
            Self::Unterminated(_)
            | Self::Empty
            | Self::TooComplex { .. }
            | Self::Syntax { .. }
            | Self::DynamicTasks(_)
            | Self::Missing { .. }
            | Self::Evaluation { .. }
            | Self::TooExpensive(_)
            | Self::Unstorable(_)
            | Self::ResultTooLarge(_) => None,
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checked {
    /// The tasks that are read, by name.
    pub tasks: BTreeSet<String>,
    /// Bytes of source that are more than plain paths: what checking costs.
    pub cel_bytes: usize,
    /// Everything that is not valid, in the order of the text.
    pub errors: Vec<ExpressionError>,
}

/// Checks every expression of a template and says which tasks it reads, by name.
///
/// Whether the names exist, and whether they lie upstream, is for the caller, who knows the graph.
///
/// # Errors
/// The first expression that is not valid.
pub fn check(template: &Value) -> Result<Checked, ExpressionError> {
    let mut checked = check_all(template);
    if checked.errors.is_empty() { Ok(checked) } else { Err(checked.errors.swap_remove(0)) }
}

/// The same, with all that is not valid. An expression that is no CEL, and a `${{` without its end, hide what else is wrong within
/// them.
#[must_use]
pub fn check_all(template: &Value) -> Checked {
    let mut checked = Checked::default();
    check_into(template, &mut checked);
    checked
}

/// Whether a text holds an expression (or the start of one).
#[must_use]
pub fn has_expression(text: &str) -> bool {
    text.contains(template::OPEN)
}

/// The tasks that a checked template reads, in order and once each.
///
/// Costs one pass over the plan's names when there are any.
#[must_use]
pub fn reads(template: &Template, plan: &Plan) -> Vec<TaskIndex> {
    let names = check(&template.0).unwrap_or_default().tasks;
    if names.is_empty() {
        return Vec::new();
    }
    (0..).zip(&plan.tasks).filter(|(_, task)| names.contains(&task.name)).map(|(index, _)| index).collect()
}

fn check_into(template: &Value, checked: &mut Checked) {
    match template {
        Value::String(text) => check_text(text, checked),
        Value::Array(items) => items.iter().for_each(|item| check_into(item, checked)),
        Value::Object(entries) => entries.values().for_each(|item| check_into(item, checked)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn check_text(text: &str, checked: &mut Checked) {
    for segment in template::split(text) {
        match segment {
            Ok(Segment::Literal(_)) => {}
            Ok(Segment::Expression(source)) => check_expression(source, checked),
            Err(error) => checked.errors.push(error),
        }
        if checked.cel_bytes > TEMPLATE_CEL_BYTES_MAX || checked.errors.len() >= ERRORS_MAX {
            return;
        }
    }
}

fn check_expression(source: &str, checked: &mut Checked) {
    match program::Program::parse(source) {
        Ok(program) => {
            if matches!(program, program::Program::Tree(_)) {
                checked.cel_bytes += source.len();
            }
            checked.tasks.extend(program.task_names());
        }
        Err(mistakes) => {
            checked.errors.extend(mistakes.errors);
            checked.tasks.extend(mistakes.tasks);
        }
    }
    if checked.cel_bytes > TEMPLATE_CEL_BYTES_MAX {
        let (what, found, limit) = ("bytes together with the others of its template", checked.cel_bytes, TEMPLATE_CEL_BYTES_MAX);
        checked.errors.push(ExpressionError::TooComplex { expression: shown(source), what, found, limit });
    }
}

/// The source as it appears in a message: one line, not too long.
fn shown(source: &str) -> String {
    const SHOWN_CHARS: usize = 120;
    let line = source.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= SHOWN_CHARS {
        return line;
    }
    line.chars().take(SHOWN_CHARS).chain("…".chars()).collect()
}
