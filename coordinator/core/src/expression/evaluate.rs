//! Values in, value out.

use super::budget::{self, BUDGET, Budget, ENVIRONMENT};
use super::path::{self, Path, Step};
use super::program::{Program, Tree, task_of};
use super::template::{self, Segment};
use super::{ExpressionError, RESULT_BYTES_MAX, STEPS_MAX, on_large_stack, shown};
use crate::plan::Template;
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt};
use cel::common::value::Val;
use cel::{Context, ExecutionError};
use orchestr8_proto::storable;
use orchestr8_proto::words::TaskStatus;
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What expressions can read.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The execution's input.
    pub input: &'a Value,
    /// An object with `id` and `name`.
    pub workflow: &'a Value,
    /// At least the tasks that the template reads (see [`super::reads`]), by name.
    pub tasks: &'a BTreeMap<String, TaskView>,
}

/// One task, as an expression sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskView {
    /// Final, since only upstreams can be read.
    pub status: TaskStatus,
    /// The output; null when there is none.
    pub output: Arc<Value>,
}

/// What the templates that are evaluated with it may still cost together.
#[derive(Debug)]
pub struct Steps {
    budget: Budget,
    result_bytes_max: usize,
}

impl Default for Steps {
    /// [`STEPS_MAX`], and [`RESULT_BYTES_MAX`] for each result.
    fn default() -> Self {
        Self::with_results(RESULT_BYTES_MAX)
    }
}

impl Steps {
    /// [`STEPS_MAX`], and so many bytes for each result, as JSON.
    #[must_use]
    pub fn with_results(bytes_max: usize) -> Self {
        Self { budget: Budget::new(STEPS_MAX), result_bytes_max: bytes_max }
    }
}

/// The value of a template.
///
/// Pure, and bounded: at most the steps that are left, and the bytes of a result that they allow.
///
/// # Errors
/// What is missing or went wrong, naming the expression; never the values.
pub fn evaluate(template: &Template, scope: &Scope<'_>, steps: &Steps) -> Result<Value, ExpressionError> {
    let bytes_max = steps.result_bytes_max;
    let value = Evaluation { scope, budget: steps.budget.clone(), bytes_max, bytes_left: bytes_max }.value(&template.0)?;
    storable::check(&value)?;
    Ok(value)
}

/// What parsing one expression costs, in steps.
const PARSE_STEPS: u64 = 500;
/// Copying is cheaper than evaluating.
const VALUES_COPIED_PER_STEP: u64 = 4;

struct Evaluation<'a> {
    scope: &'a Scope<'a>,
    budget: Budget,
    bytes_max: usize,
    bytes_left: usize,
}

impl<'a> Evaluation<'a> {
    fn value(&mut self, template: &Value) -> Result<Value, ExpressionError> {
        match template {
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect::<Result<_, _>>().map(Value::Array),
            Value::Object(entries) => {
                let entries = entries.iter().map(|(key, item)| Ok((key.clone(), self.value(item)?)));
                entries.collect::<Result<Map<_, _>, _>>().map(Value::Object)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(template.clone()),
        }
    }

    fn text(&mut self, text: &str) -> Result<Value, ExpressionError> {
        let segments = template::split(text).into_iter().collect::<Result<Vec<_>, _>>()?;
        if let [Segment::Expression(source)] = segments.as_slice() {
            return self.expression(source).map(Cow::into_owned);
        }
        let mut joined = String::new();
        for segment in segments {
            match segment {
                Segment::Literal(literal) => joined.push_str(literal),
                Segment::Expression(source) => match &*self.expression(source)? {
                    Value::String(text) => joined.push_str(text),
                    other => joined.push_str(&other.to_string()),
                },
            }
        }
        Ok(Value::String(joined))
    }

    fn expression(&mut self, source: &str) -> Result<Cow<'a, Value>, ExpressionError> {
        let value = match Program::parse(source)? {
            Program::Path(path) => self.path(source, &path)?,
            Program::Tree(tree) => Cow::Owned(on_large_stack(|| self.tree(source, tree))?),
        };
        self.bytes_left = bytes_left_after(&value, self.bytes_left).ok_or(ExpressionError::ResultTooLarge(self.bytes_max))?;
        Ok(value)
    }

    fn path(&self, source: &str, path: &Path) -> Result<Cow<'a, Value>, ExpressionError> {
        let Some(name) = task_of(path) else {
            let root = if path.root == "workflow" { self.scope.workflow } else { self.scope.input };
            return path::follow(source, &path.root, root, &path.steps).map(Cow::Borrowed);
        };
        let task = self.task(source, name)?;
        match &path.steps[1..] {
            [] => Ok(Cow::Owned(serde_json::json!({ "status": task.status, "output": *task.output }))),
            [Step::Key(member), ..] if member == "status" => Ok(Cow::Owned(Value::from(task.status.as_str()))),
            [_, rest @ ..] => path::follow(source, &format!("tasks.{name}.output"), &task.output, rest).map(Cow::Borrowed),
        }
    }

    fn task(&self, source: &str, name: &str) -> Result<&'a TaskView, ExpressionError> {
        self.scope.tasks.get(name).ok_or_else(|| ExpressionError::Missing {
            expression: shown(source),
            key: name.to_owned(),
            within: "`tasks`".to_owned(),
            available: "no task of this name lies upstream".to_owned(),
        })
    }

    fn tree(&self, source: &str, tree: Tree) -> Result<Value, ExpressionError> {
        self.charge_for_preparation(source, &tree)?;
        let mut context = Context::with_env(ENVIRONMENT.clone());
        context.add_variable_as_val(BUDGET, Box::new(self.budget.clone()));
        context.add_variable_as_val("workflow", in_cel(self.scope.workflow));
        if tree.reads_input {
            context.add_variable_as_val("input", in_cel(self.scope.input));
        }
        context.add_variable_as_val("tasks", self.tasks_in_cel(source, &tree.tasks)?);
        let counted = budget::counted(tree.root);
        let result = cel::Value::resolve_val(&counted, &context);
        if self.budget.is_exhausted() {
            return Err(ExpressionError::TooExpensive(shown(source)));
        }
        let failed = |message| ExpressionError::Evaluation { expression: shown(source), message };
        let result = result.map_err(|error| failed(explained(&error)))?;
        in_json(result.as_ref(), &mut { self.bytes_left }).map_err(|error| match error {
            NotJson::TooLarge => ExpressionError::ResultTooLarge(self.bytes_max),
            NotJson::Kind(message) => failed(message),
        })
    }

    /// Parsing the source and copying what it reads is work too: a template with thousands of expressions does it thousands of times.
    fn charge_for_preparation(&self, source: &str, tree: &Tree) -> Result<(), ExpressionError> {
        let outputs = tree.tasks.iter().filter_map(|name| self.scope.tasks.get(name)).map(|task| &*task.output);
        let input = tree.reads_input.then_some(self.scope.input);
        let values: u64 = outputs.chain(input).map(values_in).sum();
        let granted = self.budget.take(PARSE_STEPS + values / VALUES_COPIED_PER_STEP);
        if granted { Ok(()) } else { Err(ExpressionError::TooExpensive(shown(source))) }
    }

    fn tasks_in_cel(&self, source: &str, names: &BTreeSet<String>) -> Result<Box<dyn Val + 'a>, ExpressionError> {
        let mut tasks: HashMap<CelMapKey<'a>, Box<dyn Val + 'a>> = HashMap::new();
        for name in names {
            let task = self.task(source, name)?;
            let members: HashMap<CelMapKey<'a>, Box<dyn Val + 'a>> = HashMap::from([
                (CelMapKey::from("output"), in_cel(&task.output)),
                (CelMapKey::from("status"), Box::new(CelString::from(task.status.as_str())) as Box<dyn Val>),
            ]);
            tasks.insert(CelMapKey::from(name.clone()), Box::new(CelMap::from(members)));
        }
        Ok(Box::new(CelMap::from(tasks)))
    }
}

fn values_in(value: &Value) -> u64 {
    1 + match value {
        Value::Array(items) => items.iter().map(values_in).sum(),
        Value::Object(entries) => entries.values().map(values_in).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// A JSON value as CEL's; strings are borrowed.
fn in_cel<'v>(value: &'v Value) -> Box<dyn Val + 'v> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(flag) => Box::new(CelBool::from(*flag)),
        Value::Number(number) => number_in_cel(number),
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Array(items) => Box::new(CelList::from(items.iter().map(in_cel).collect::<Vec<_>>())),
        Value::Object(entries) => {
            let entries: HashMap<CelMapKey<'v>, Box<dyn Val + 'v>> =
                entries.iter().map(|(key, item)| (CelMapKey::from(key.as_str()), in_cel(item))).collect();
            Box::new(CelMap::from(entries))
        }
    }
}

fn number_in_cel<'v>(number: &Number) -> Box<dyn Val + 'v> {
    match (number.as_i64(), number.as_u64()) {
        (Some(int), _) => Box::new(CelInt::from(int)),
        (None, Some(uint)) => Box::new(CelUInt::from(uint)),
        (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
    }
}

enum NotJson {
    TooLarge,
    Kind(String),
}

fn in_json(value: &dyn Val, bytes_left: &mut usize) -> Result<Value, NotJson> {
    if let Some(list) = value.downcast_ref::<CelList>() {
        return list.inner().iter().map(|item| in_json(item.as_ref(), bytes_left)).collect::<Result<_, _>>().map(Value::Array);
    }
    if let Some(map) = value.downcast_ref::<CelMap>() {
        return map_in_json(map, bytes_left).map(Value::Object);
    }
    let scalar = scalar_in_json(value)?;
    *bytes_left = bytes_left_after(&scalar, *bytes_left).ok_or(NotJson::TooLarge)?;
    Ok(scalar)
}

fn map_in_json(map: &CelMap<'_>, bytes_left: &mut usize) -> Result<Map<String, Value>, NotJson> {
    let mut object = Map::new();
    for (key, item) in map.inner() {
        let CelMapKey::String(key) = key else {
            return Err(NotJson::Kind("a key of the resulting map is not a string: convert it with string()".to_owned()));
        };
        object.insert(key.inner().to_owned(), in_json(item.as_ref(), bytes_left)?);
    }
    Ok(object)
}

fn scalar_in_json(value: &dyn Val) -> Result<Value, NotJson> {
    if let Some(text) = value.downcast_ref::<CelString>() {
        return Ok(Value::from(text.inner()));
    }
    if let Some(int) = value.downcast_ref::<CelInt>() {
        return Ok(Value::from(*int.inner()));
    }
    if let Some(flag) = value.downcast_ref::<CelBool>() {
        return Ok(Value::from(*flag.inner()));
    }
    if let Some(uint) = value.downcast_ref::<CelUInt>() {
        return Ok(Value::from(*uint.inner()));
    }
    if let Some(double) = value.downcast_ref::<CelDouble>() {
        let not_finite = || NotJson::Kind("the result is a number that JSON does not have (infinite, or not a number)".to_owned());
        return Number::from_f64(*double.inner()).map(Value::Number).ok_or_else(not_finite);
    }
    if value.downcast_ref::<CelNull>().is_some() {
        return Ok(Value::Null);
    }
    Err(NotJson::Kind(format!("the result has the type `{}`, which JSON does not have: convert it with string()", value.get_type().name())))
}

/// What is left of a budget of bytes after this value as JSON (about); none when it does not fit.
fn bytes_left_after(value: &Value, left: usize) -> Option<usize> {
    const SCALAR_BYTES: usize = 4;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => left.checked_sub(SCALAR_BYTES),
        Value::String(text) => left.checked_sub(text.len() + 2),
        Value::Array(items) => items.iter().try_fold(left.checked_sub(2)?, |left, item| bytes_left_after(item, left)),
        Value::Object(entries) => {
            entries.iter().try_fold(left.checked_sub(2)?, |left, (key, item)| bytes_left_after(item, left.checked_sub(key.len() + 3)?))
        }
    }
}

/// Why an evaluation failed, without the values: they may be secret, and large.
fn explained(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("there is no key `{}`: correct the name, or test it with has() first", shown(key)),
        ExecutionError::NoSuchOverload(overload) => format!("{overload}: convert with int(), double() or string() first"),
        ExecutionError::UndeclaredReference(name) => format!("`{name}` does not exist for these values"),
        ExecutionError::UnexpectedType { got, want } => format!("a value of type {want} is needed, this is {got}"),
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            format!("{operator} does not work on {} and {}: convert one of them first", left.type_of(), right.type_of())
        }
        ExecutionError::ValuesNotComparable(left, right) => {
            format!("{} and {} cannot be compared: convert one of them first", left.type_of(), right.type_of())
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "it divides by zero".to_owned(),
        ExecutionError::Overflow(operator, ..) => format!("{operator} overflows 64 bits: use double()"),
        ExecutionError::IndexOutOfBounds(_) => "an index lies outside its list: test size() first".to_owned(),
        ExecutionError::DuplicateKey(_) => "a map has the same key twice".to_owned(),
        ExecutionError::FunctionError { function, message } => format!("{function}: {}", shown(message)),
        _ => "a value has a type that does not fit here: convert it with string(), int() or double()".to_owned(),
    }
}
