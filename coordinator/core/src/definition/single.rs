//! The plan of one task: a workflow named `task` with one task named `task`.

use super::default_retry;
use super::fields::shortened;
use super::rules::{self, FieldProblem, Starts};
use super::tasks::{applies, default_agent_name};
use crate::plan::{DEFAULT_QUEUE, LargeValues, Plan, RetryPolicy, TaskKind, TaskPlan, Template};
use orchestr8_proto::words::Priority;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// The name of the workflow and of its task.
const NAME: &str = "task";

/// The shape of a single task. Its values (`with`, `env`, `prompt`) are in the execution's input under these names: they are data,
/// never templates, so tasks of one shape share one plan.
#[derive(Debug, Clone, PartialEq)]
pub struct SingleTask {
    /// What it does.
    pub kind: TaskKind,
    /// Keys of `input.with`.
    pub with_keys: Vec<String>,
    /// Keys of `input.env`.
    pub env_keys: Vec<String>,
    /// Whether there is an `input.prompt`.
    pub has_prompt: bool,
    /// None: the default of its kind, or one attempt with `at_most_once`.
    pub retry: Option<RetryPolicy>,
    /// Of one attempt; none: no cap.
    pub timeout: Option<Duration>,
    /// Never started twice.
    pub at_most_once: bool,
    /// Within its queue.
    pub priority: Priority,
    /// None: [`DEFAULT_QUEUE`].
    pub queue: Option<String>,
    /// None: a fresh directory.
    pub workdir: Option<String>,
    /// None: values that are too large for a variable are refused; else the word.
    pub large_values: Option<String>,
    /// None: the handler's name, else the kind.
    pub agent_name: Option<String>,
}

/// The plan of a single task.
///
/// # Errors
/// Every field that breaks a rule of definitions.
pub fn single_task(task: SingleTask) -> Result<Plan, Vec<FieldProblem>> {
    let retry = task.retry.clone().unwrap_or_else(|| if task.at_most_once { RetryPolicy::none() } else { default_retry(&task.kind) });
    let problems = problems(&task, &retry);
    if !problems.is_empty() {
        return Err(problems);
    }
    let plan = TaskPlan {
        name: NAME.to_owned(),
        phase: None,
        needs: Vec::new(),
        needs_phases: Vec::new(),
        dependents: Vec::new(),
        with: members("with", &task.with_keys),
        env: members("env", &task.env_keys),
        prompt: task.has_prompt.then(|| Template(Value::from("${{ input.prompt }}"))),
        retry,
        timeout: task.timeout,
        continue_on_failure: false,
        at_most_once: task.at_most_once,
        priority: task.priority,
        queue: task.queue.unwrap_or_else(|| DEFAULT_QUEUE.to_owned()),
        workdir: task.workdir,
        large_values: task.large_values.map_or(LargeValues::Refused, |_| LargeValues::File),
        agent_name: task.agent_name.unwrap_or_else(|| default_agent_name(&task.kind)),
        kind: task.kind,
    };
    // No `output`: the result of a single task is its task's, and is not stored twice.
    Ok(Plan { name: NAME.to_owned(), input_schema: None, output: None, phases: Vec::new(), tasks: vec![plan] })
}

/// For each key the path of its value in the input.
fn members(of: &str, keys: &[String]) -> BTreeMap<String, Template> {
    keys.iter().map(|key| (key.clone(), Template(Value::from(format!("${{{{ input.{of}[{}] }}}}", Value::from(key.as_str())))))).collect()
}

fn problems(task: &SingleTask, retry: &RetryPolicy) -> Vec<FieldProblem> {
    let starts = if task.at_most_once { Starts::AtMostOnce } else { Starts::AtLeastOnce };
    let mut problems = rules::check_retry(retry, starts);
    let mut check = |field: &str, checked: Result<(), String>| {
        if let Err(message) = checked {
            problems.push(FieldProblem::new(field, message));
        }
    };
    check(task.kind.word(), rules::check_kind(&task.kind));
    for (field, is_given) in given(task) {
        if is_given && !applies(field, &task.kind) {
            check(field, Err(format!("it has no effect on a `{}` task: remove it", task.kind.word())));
        }
    }
    for key in &task.with_keys {
        check(&format!("with.{}", shortened(key)), rules::check_with_key(key));
    }
    if let TaskKind::Run { .. } = task.kind {
        let [with, env] = [&task.with_keys, &task.env_keys].map(|keys| keys.iter().map(String::as_str));
        rules::check_with_keys(with, env).into_iter().for_each(|message| check("with", Err(message)));
    }
    for key in &task.env_keys {
        check(&format!("env.{}", shortened(key)), rules::check_env_key(key));
    }
    check("timeout", task.timeout.map_or(Ok(()), rules::check_duration));
    check("queue", task.queue.as_deref().map_or(Ok(()), rules::check_queue));
    check("workdir", task.workdir.as_deref().map_or(Ok(()), rules::check_workdir));
    check("large_values", task.large_values.as_deref().map_or(Ok(()), rules::check_large_values));
    check("agent_name", task.agent_name.as_deref().map_or(Ok(()), rules::check_name));
    problems
}

fn given(task: &SingleTask) -> [(&'static str, bool); 8] {
    [
        ("with", !task.with_keys.is_empty()),
        ("env", !task.env_keys.is_empty()),
        ("prompt", task.has_prompt),
        ("retry", task.retry.is_some()),
        ("timeout", task.timeout.is_some()),
        ("at_most_once", task.at_most_once),
        ("workdir", task.workdir.is_some()),
        ("large_values", task.large_values.is_some()),
    ]
}
