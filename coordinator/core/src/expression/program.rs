//! CEL source to a checked syntax tree, and what it reads.

use super::path::{Path, Step};
use super::{EXPRESSION_BYTES_MAX, ExpressionError, NESTED_MACROS_MAX, NODES_MAX, OPERATORS_MAX, on_large_stack, shown};
use cel::Env;
use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};
use std::collections::BTreeSet;

/// The variables.
const ROOTS: [&str; 3] = ["input", "tasks", "workflow"];
/// What `tasks.<name>` has.
const TASK_MEMBERS: [&str; 2] = ["output", "status"];
/// What `workflow` has.
const WORKFLOW_MEMBERS: [&str; 2] = ["id", "name"];
/// Names of types, for conversions and `type()`.
const TYPES: [&str; 8] = ["bool", "double", "int", "list", "map", "null_type", "string", "uint"];
/// Functions that can be called, besides the macros.
const FUNCTIONS: [&str; 11] = ["bool", "contains", "double", "dyn", "endsWith", "int", "size", "startsWith", "string", "type", "uint"];
/// What the parser makes of operators and macros.
const OPERATORS: [&str; 18] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::NOT_STRICTLY_FALSE,
    operators::IN,
];

/// What is wrong with an expression; at least one thing.
#[derive(Debug)]
pub(super) struct Mistakes {
    /// In the order of the source, each once.
    pub errors: Vec<ExpressionError>,
    /// The tasks that it reads all the same, by name.
    pub tasks: BTreeSet<String>,
}

impl From<ExpressionError> for Mistakes {
    fn from(error: ExpressionError) -> Self {
        Self { errors: vec![error], tasks: BTreeSet::new() }
    }
}

impl From<Mistakes> for ExpressionError {
    fn from(mistakes: Mistakes) -> Self {
        mistakes.errors.into_iter().next().expect("there is at least one")
    }
}

/// A checked expression.
#[derive(Debug)]
pub(super) enum Program {
    /// A plain path.
    Path(Path),
    /// Anything else.
    Tree(Tree),
}

/// A syntax tree and what it reads.
#[derive(Debug)]
pub(super) struct Tree {
    /// Macros expanded.
    pub root: IdedExpr,
    /// By name.
    pub tasks: BTreeSet<String>,
    /// Whether `input` is among the variables.
    pub reads_input: bool,
}

impl Program {
    /// Parses and checks one expression. Source that is too long or no CEL is one mistake, whatever else it says.
    pub fn parse(source: &str) -> Result<Self, Mistakes> {
        bounded("bytes", source.len(), (EXPRESSION_BYTES_MAX, source))?;
        let mut checker = Checker { source, tasks: BTreeSet::new(), reads_input: false, bound: Vec::new(), nodes: 0, errors: Vec::new() };
        if let Some(path) = Path::parse(source)
            && ROOTS.contains(&path.root.as_str())
        {
            checker.path(&path);
            checker.finish()?;
            return Ok(Self::Path(path));
        }
        bounded("operators and brackets", operator_count(source), (OPERATORS_MAX, source))?;
        on_large_stack(|| {
            let root = parse_tree(source)?;
            checker.node(&root, 0);
            let (tasks, reads_input) = checker.finish()?;
            Ok(Self::Tree(Tree { root, tasks, reads_input }))
        })
    }

    /// The tasks that it reads.
    pub fn task_names(&self) -> BTreeSet<String> {
        match self {
            Self::Path(path) => task_of(path).into_iter().map(str::to_owned).collect(),
            Self::Tree(tree) => tree.tasks.clone(),
        }
    }
}

/// The task that a path reads.
pub(super) fn task_of(path: &Path) -> Option<&str> {
    match (path.root.as_str(), path.steps.first()) {
        ("tasks", Some(Step::Key(name))) => Some(name),
        _ => None,
    }
}

fn parse_tree(source: &str) -> Result<IdedExpr, ExpressionError> {
    Env::stdlib().with_optional_support(false).parser().error_recovery_limit(1).parse(source).map_err(|errors| {
        let message = errors.errors.first().map_or_else(
            || "it is not an expression".to_owned(),
            |error| format!("{} (line {}, column {} of the expression)", shown(&error.msg), error.pos.0.max(1), error.pos.1.max(0) + 1),
        );
        ExpressionError::Syntax { expression: shown(source), message }
    })
}

/// Signs outside identifiers and strings: every level of the tree costs at least one.
fn operator_count(source: &str) -> usize {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte.is_ascii_whitespace() || !byte.is_ascii();
    let mut quote = None;
    let mut escaped = false;
    let mut count = 0;
    for byte in source.bytes() {
        match quote {
            Some(open) if byte == open && !escaped => quote = None,
            Some(_) => escaped = byte == b'\\' && !escaped,
            None if byte == b'"' || byte == b'\'' => (quote, escaped) = (Some(byte), false),
            None if !word(byte) => count += 1,
            None => {}
        }
    }
    count + source.matches(" in ").count()
}

fn bounded(what: &'static str, found: usize, (limit, source): (usize, &str)) -> Result<(), ExpressionError> {
    if found <= limit { Ok(()) } else { Err(ExpressionError::TooComplex { expression: shown(source), what, found, limit }) }
}

/// Walks a tree once: bounds, names, and what it reads. A mistake does not end the walk, so that all are found.
struct Checker<'a> {
    source: &'a str,
    tasks: BTreeSet<String>,
    reads_input: bool,
    /// Variables of the macros around the node.
    bound: Vec<String>,
    nodes: usize,
    errors: Vec<ExpressionError>,
}

impl Checker<'_> {
    /// Its tasks, and whether it reads the input, where nothing is wrong.
    fn finish(self) -> Result<(BTreeSet<String>, bool), Mistakes> {
        if self.errors.is_empty() { Ok((self.tasks, self.reads_input)) } else { Err(Mistakes { errors: self.errors, tasks: self.tasks }) }
    }

    /// Macros are expanded into several nodes that say the same.
    fn refuse(&mut self, error: ExpressionError) {
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    fn path(&mut self, path: &Path) {
        match (path.root.as_str(), path.steps.as_slice()) {
            ("tasks", [Step::Key(name), rest @ ..]) => {
                self.tasks.insert(name.clone());
                if let Some(member) = rest.first() {
                    self.member(member, &TASK_MEMBERS);
                }
            }
            ("tasks", _) => self.refuse(ExpressionError::DynamicTasks(shown(self.source))),
            ("workflow", [member, ..]) => self.member(member, &WORKFLOW_MEMBERS),
            _ => {}
        }
    }

    fn member(&mut self, member: &Step, known: &[&str]) {
        let name = match member {
            Step::Key(name) => name.clone(),
            Step::Index(index) => index.to_string(),
        };
        if !known.contains(&name.as_str()) {
            self.refuse(self.unknown(&name, known));
        }
    }

    fn node(&mut self, node: &IdedExpr, macros: usize) {
        self.nodes += 1;
        if let Err(error) = bounded("nodes", self.nodes, (NODES_MAX, self.source)) {
            // Said once; what lies beyond is not looked at.
            if self.nodes == NODES_MAX + 1 {
                self.refuse(error);
            }
            return;
        }
        match &node.expr {
            Expr::Literal(_) => {}
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => self.select(select, macros),
            Expr::Call(call) if call.func_name == operators::INDEX => self.index(&call.args, macros),
            Expr::Call(call) => {
                self.function(&call.func_name);
                call.target.iter().map(|target| &**target).chain(&call.args).for_each(|part| self.node(part, macros));
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.node(element, macros)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => [&entry.key, &entry.value].into_iter().for_each(|part| self.node(part, macros)),
                EntryExpr::StructField(field) => self.refuse(self.unknown(&field.field, &[])),
            }),
            Expr::Comprehension(fold) => self.fold(fold, macros + 1),
            Expr::Struct(fields) => self.refuse(self.unknown(&fields.type_name, &[])),
            Expr::Unspecified => {
                self.refuse(ExpressionError::Syntax { expression: shown(self.source), message: "a part of it is missing".to_owned() });
            }
        }
    }

    fn variable(&mut self, name: &str) {
        self.reads_input |= name == "input";
        match name {
            "tasks" => self.refuse(ExpressionError::DynamicTasks(shown(self.source))),
            _ if ROOTS.contains(&name) || TYPES.contains(&name) || self.bound.iter().any(|bound| bound == name) => {}
            _ => self.refuse(self.unknown(name, &ROOTS)),
        }
    }

    fn function(&mut self, name: &str) {
        if !FUNCTIONS.contains(&name) && !OPERATORS.contains(&name) {
            self.refuse(self.unknown(&format!("{name}()"), &FUNCTIONS));
        }
    }

    fn select(&mut self, select: &SelectExpr, macros: usize) {
        self.access(&select.operand, Some(Step::Key(select.field.clone())), macros);
    }

    fn index(&mut self, args: &[IdedExpr], macros: usize) {
        let [operand, index] = args else { return self.refuse(self.unknown(operators::INDEX, &[])) };
        let key = match &index.expr {
            Expr::Literal(LiteralValue::String(key)) => Some(Step::Key(key.inner().to_owned())),
            _ => None,
        };
        self.node(index, macros);
        self.access(operand, key, macros);
    }

    /// A member of `operand`; `key` is none when it is computed.
    fn access(&mut self, operand: &IdedExpr, key: Option<Step>, macros: usize) {
        let computed = || Step::Key("[…]".to_owned());
        match &operand.expr {
            Expr::Ident(name) if name == "tasks" => match key {
                Some(Step::Key(task)) => {
                    self.tasks.insert(task);
                }
                Some(Step::Index(_)) | None => self.refuse(ExpressionError::DynamicTasks(shown(self.source))),
            },
            Expr::Ident(name) if name == "workflow" => self.member(&key.unwrap_or_else(computed), &WORKFLOW_MEMBERS),
            _ if is_task(operand) => {
                self.member(&key.unwrap_or_else(computed), &TASK_MEMBERS);
                self.node(operand, macros);
            }
            _ => self.node(operand, macros),
        }
    }

    fn fold(&mut self, fold: &ComprehensionExpr, macros: usize) {
        if let Err(error) = bounded("nested macros", macros, (NESTED_MACROS_MAX, self.source)) {
            return self.refuse(error);
        }
        if ROOTS.contains(&fold.iter_var.as_str()) || TYPES.contains(&fold.iter_var.as_str()) {
            let message = format!("`{}` cannot be the variable of a macro: it has a meaning already", fold.iter_var);
            self.refuse(ExpressionError::Syntax { expression: shown(self.source), message });
        }
        self.node(&fold.iter_range, macros - 1);
        let before = self.bound.len();
        self.bound.extend([fold.iter_var.clone(), fold.accu_var.clone()]);
        [&fold.accu_init, &fold.loop_cond, &fold.loop_step, &fold.result].into_iter().for_each(|part| self.node(part, macros));
        self.bound.truncate(before);
    }

    fn unknown(&self, name: &str, known: &[&str]) -> ExpressionError {
        let remedy = match known {
            [] => "this is not part of the expressions here".to_owned(),
            _ if name == "item" => "`foreach` is not yet supported".to_owned(),
            _ => format!("use one of {} (a task named a-b is written tasks[\"a-b\"])", known.join(", ")),
        };
        let suggestion = crate::definition::nearest(name.trim_end_matches("()"), known.iter().copied());
        ExpressionError::Unknown { expression: shown(self.source), name: name.to_owned(), remedy, suggestion }
    }
}

/// Whether a node is `tasks.<name>`.
fn is_task(node: &IdedExpr) -> bool {
    let names_tasks = |operand: &IdedExpr| matches!(&operand.expr, Expr::Ident(name) if name == "tasks");
    match &node.expr {
        Expr::Select(select) => names_tasks(&select.operand),
        Expr::Call(call) if call.func_name == operators::INDEX => call.args.first().is_some_and(names_tasks),
        _ => false,
    }
}
