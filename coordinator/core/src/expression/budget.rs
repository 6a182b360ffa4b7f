//! The tree with every step counted, so that an evaluation ends soon whatever the values are.
//!
//! CEL without recursion always ends, but two nested macros over a large list, or a doubling of strings inside one, would hold a
//! lane for minutes. The evaluator has no hook for that, so the tree is rewritten: every value that is about to be copied,
//! compared or gone through passes `@spend`, which takes the value's weight from the budget; every range of a macro passes
//! `@range`, which takes the work of all its rounds in advance and puts the keys of a map in order (the evaluator's own order is
//! random, and replaying the same events must give the same state).

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, operators};
use cel::common::types::{CelDouble, CelInt, CelList, CelMap, CelMapKey, CelString, DYN_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::{Env, ExecutionError};
use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// The variable that holds the budget; no source can spell it.
pub(super) const BUDGET: &str = "@budget";
const SPEND: &str = "@spend";
const RANGE: &str = "@range";
const POSITION: &str = "@position";
/// Bytes of a string that weigh as much as one value.
const BYTES_PER_STEP: usize = 32;

/// The standard functions and the counting ones.
pub(super) static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    for (name, arguments, function) in [(SPEND, 2, spend as cel::common::functions::Function), (RANGE, 3, range), (POSITION, 2, position)] {
        env.add_overload(name, name, (0..arguments).map(|_| DYN_TYPE).collect(), function).expect("names that no standard function has");
    }
    Arc::new(env)
});

/// Steps that are left; shared by all clones.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<AtomicU64>);

impl Budget {
    /// A fresh budget.
    pub fn new(steps: u64) -> Self {
        Self(Arc::new(AtomicU64::new(steps)))
    }

    /// Whether more was asked for than there was; from then on nothing is granted.
    pub fn is_exhausted(&self) -> bool {
        self.left() == 0
    }

    /// Takes `steps`; false when there are not enough.
    pub fn take(&self, steps: u64) -> bool {
        let left = self.left().saturating_sub(steps);
        self.0.store(left, Ordering::Relaxed);
        left > 0
    }

    fn left(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

static BUDGET_TYPE: Type = Type::new_unspecified_type("budget");

impl Val for Budget {
    fn get_type(&self) -> &Type {
        &BUDGET_TYPE
    }

    fn cel_type() -> &'static Type {
        &BUDGET_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Budget {}

/// Rewrites a checked tree so that its evaluation is counted.
pub(super) fn counted(node: IdedExpr) -> IdedExpr {
    let expr = match node.expr {
        Expr::Call(call) => Expr::Call(counted_call(call)),
        Expr::List(list) => Expr::List(ListExpr::new(list.elements.into_iter().map(spent).collect())),
        Expr::Map(mut map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    entry.key = spent(std::mem::take(&mut entry.key));
                    entry.value = spent(std::mem::take(&mut entry.value));
                }
            }
            Expr::Map(map)
        }
        Expr::Select(mut select) => {
            *select.operand = counted(*select.operand);
            Expr::Select(select)
        }
        Expr::Comprehension(fold) => Expr::Comprehension(Box::new(counted_fold(*fold))),
        expr @ (Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified) => expr,
    };
    IdedExpr { id: node.id, expr }
}

fn counted_call(mut call: CallExpr) -> CallExpr {
    let passes_through =
        [operators::CONDITIONAL, operators::LOGICAL_AND, operators::LOGICAL_OR, operators::LOGICAL_NOT, operators::NOT_STRICTLY_FALSE];
    let treat: fn(IdedExpr) -> IdedExpr = if passes_through.contains(&call.func_name.as_str()) { counted } else { spent };
    if call.func_name == operators::INDEX {
        call.args =
            std::mem::take(&mut call.args).into_iter().zip([operand as fn(_) -> _, positioned]).map(|(arg, treat)| treat(arg)).collect();
        return call;
    }
    call.target = call.target.take().map(|target| Box::new(treat(*target)));
    call.args =
        std::mem::take(&mut call.args).into_iter().map(|arg| if is_accumulation(&arg) { counted(arg) } else { treat(arg) }).collect();
    call
}

/// The evaluator appends in place only where it finds `@result + [x]` exactly: neither side may be wrapped.
fn is_accumulation(arg: &IdedExpr) -> bool {
    match &arg.expr {
        Expr::Ident(name) => name.starts_with('@'),
        Expr::List(_) => true,
        _ => false,
    }
}

/// What is indexed: a member of a variable is borrowed and costs nothing.
fn operand(node: IdedExpr) -> IdedExpr {
    match &node.expr {
        Expr::Ident(_) | Expr::Select(_) => counted(node),
        Expr::Call(call) if call.func_name == operators::INDEX => counted(node),
        _ => spent(node),
    }
}

fn positioned(node: IdedExpr) -> IdedExpr {
    call(POSITION, vec![counted(node)])
}

fn spent(node: IdedExpr) -> IdedExpr {
    match node.expr {
        Expr::Literal(_) => node,
        _ => call(SPEND, vec![counted(node)]),
    }
}

fn counted_fold(mut fold: ComprehensionExpr) -> ComprehensionExpr {
    let work = weight_of_tree(&fold.loop_cond) + weight_of_tree(&fold.loop_step);
    let work = IdedExpr { id: 0, expr: Expr::Literal(LiteralValue::Int(CelInt::from(work))) };
    fold.iter_range = call(RANGE, vec![counted(fold.iter_range), work]);
    fold.accu_init = counted(fold.accu_init);
    fold.loop_cond = counted(fold.loop_cond);
    fold.loop_step = counted(fold.loop_step);
    fold.result = counted(fold.result);
    fold
}

fn call(name: &str, mut args: Vec<IdedExpr>) -> IdedExpr {
    args.insert(0, IdedExpr { id: 0, expr: Expr::Ident(BUDGET.to_owned()) });
    IdedExpr { id: 0, expr: Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }) }
}

/// Nodes that one round of a macro goes through, those of nested macros once.
fn weight_of_tree(node: &IdedExpr) -> i64 {
    1 + match &node.expr {
        Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).map(weight_of_tree).sum(),
        Expr::List(list) => list.elements.iter().map(weight_of_tree).sum(),
        Expr::Map(map) => map
            .entries
            .iter()
            .map(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => weight_of_tree(&entry.key) + weight_of_tree(&entry.value),
                EntryExpr::StructField(_) => 0,
            })
            .sum(),
        Expr::Select(select) => weight_of_tree(&select.operand),
        Expr::Comprehension(fold) => weight_of_tree(&fold.iter_range) + weight_of_tree(&fold.loop_step),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => 0,
    }
}

fn spend<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = args.pop().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    charge(&args, value.as_ref(), 0)?;
    Ok(value)
}

fn range<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let work = args.pop().and_then(|work| work.downcast_ref::<CelInt>().map(|work| *work.inner())).unwrap_or(1);
    let value = args.pop().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    let rounds = value.as_sizer().map_or(0, |sizer| *sizer.size().inner());
    charge(&args, value.as_ref(), rounds.saturating_mul(work).unsigned_abs())?;
    let Some(map) = value.downcast_ref::<CelMap>() else { return Ok(value) };
    let mut keys: Vec<&CelMapKey<'v>> = map.inner().keys().collect();
    keys.sort();
    Ok(CowVal::owned(CelList::from(keys.into_iter().map(|key| key.inner().clone_as_boxed()).collect::<Vec<_>>())))
}

/// An index with a fraction is refused here: the evaluator's own error would copy the whole list, at every turn of a macro.
fn position<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = args.pop().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    charge(&args, value.as_ref(), 0)?;
    if value.downcast_ref::<CelDouble>().is_some() {
        return Err(ExecutionError::function_error("[]", "an index is a whole number or a string"));
    }
    Ok(value)
}

fn charge(args: &[CowVal<'_, '_>], value: &dyn Val, rounds: u64) -> Result<(), ExecutionError> {
    let budget = args.first().and_then(|budget| budget.downcast_ref::<Budget>()).ok_or(ExecutionError::MissingArgumentOrTarget)?;
    let granted = budget.take(rounds) && weigh(value, budget);
    if granted { Ok(()) } else { Err(ExecutionError::function_error("budget", "too many steps")) }
}

/// Takes one step for each value inside, and stops as soon as the budget does.
fn weigh(value: &dyn Val, budget: &Budget) -> bool {
    if let Some(text) = value.downcast_ref::<CelString>() {
        return budget.take(steps_of_text(text.inner()));
    }
    if let Some(list) = value.downcast_ref::<CelList>() {
        return budget.take(1) && list.inner().iter().all(|item| weigh(item.as_ref(), budget));
    }
    if let Some(map) = value.downcast_ref::<CelMap>() {
        return budget.take(1) && map.inner().iter().all(|(key, item)| weigh(key.inner(), budget) && weigh(item.as_ref(), budget));
    }
    budget.take(1)
}

/// Steps that a text costs.
pub(super) fn steps_of_text(text: &str) -> u64 {
    1 + u64::try_from(text.len() / BYTES_PER_STEP).unwrap_or(u64::MAX - 1)
}
