//! One task as callers submit it: an execution of the workflow `task`, its values as data in the input.

use super::fields::{Fields, Submitter, refused};
use super::problem::{Code, Finding, Problem};
use super::shapes::{Planned, Shapes};
use super::submit::check_input_size;
use crate::engine::handle::Submission;
use orchestr8_core::definition::{
    ATTEMPTS_MAX, BACKOFF_COEFFICIENT_MAX, FieldProblem, NAME_BYTES_MAX, NON_RETRYABLE_MAX, SCRIPT_BYTES_MAX, SingleTask, default_retry,
};
use orchestr8_core::plan::{RetryPolicy, TaskKind};
use orchestr8_proto::words::Priority;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use time::OffsetDateTime;

/// Bytes of a prompt, at most; with the other values it must also fit the input.
pub const PROMPT_BYTES_MAX: usize = 256 * 1024;
/// Keys in `with` and in `env`, at most.
pub const VALUES_MAX: usize = 1_000;
/// Bytes of a path of a working directory, at most.
const WORKDIR_BYTES_MAX: usize = 4_096;

/// Keys of the API that this version does not deliver.
const NOT_YET: [&str; 18] = [
    "http",
    "agent",
    "sleep",
    "workflow",
    "approval",
    "signal",
    "callback_url",
    "on_completion",
    "on_failure",
    "deadline",
    "queue_timeout",
    "idle_timeout",
    "labels",
    "workspace",
    "outputs",
    "artifacts",
    "on_disconnect",
    "foreach",
];

/// One task of a request, its keys read and typed.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRequest {
    shape: SingleTask,
    input: Value,
    submitter: Submitter,
    run_at: Option<OffsetDateTime>,
}

impl TaskRequest {
    /// Reads the keys of one task.
    ///
    /// # Errors
    /// [`Code::BadField`] or [`Code::NotYet`] with the key.
    pub fn read(value: Value) -> Result<Self, Problem> {
        let mut fields = Fields::new(value, "a task")?;
        fields.refuse_not_yet(&NOT_YET)?;
        let kind = kind(&mut fields)?;
        let at_most_once = fields.flag("at_most_once")?;
        let starts = if at_most_once { Starts::Once } else { Starts::AsTheKindSays };
        let retry = retry(&mut fields, &kind, starts)?;
        let values = Values::read(&mut fields)?;
        let shape = SingleTask {
            with_keys: values.with.keys().cloned().collect(),
            env_keys: values.env.keys().cloned().collect(),
            has_prompt: values.prompt.is_some(),
            retry,
            timeout: fields.duration("timeout")?,
            at_most_once,
            priority: priority(&mut fields)?,
            queue: fields.text("queue", NAME_BYTES_MAX)?,
            workdir: fields.text("workdir", WORKDIR_BYTES_MAX)?,
            large_values: fields.text("large_values", NAME_BYTES_MAX)?,
            agent_name: fields.text("agent_name", NAME_BYTES_MAX)?,
            kind,
        };
        let (submitter, run_at) = (fields.submitter()?, fields.time("run_at")?);
        fields.finish()?;
        Ok(Self { shape, input: values.into_input()?, submitter, run_at })
    }

    /// The execution that it stands for.
    ///
    /// # Errors
    /// [`Code::BadField`] with every key that breaks a rule of tasks.
    pub fn into_submission(self, shapes: &Shapes) -> Result<Submission, Problem> {
        let Planned { plan, hash: plan_hash } = shapes.planned(self.shape).map_err(|problems| rules_broken(&problems))?;
        let Submitter { user_id, tags, metadata } = self.submitter;
        let (input, metadata) = (Arc::new(self.input), Arc::new(metadata));
        Ok(Submission { plan, plan_hash, input, user_id, metadata, tags, run_at: self.run_at, trace: None })
    }
}

/// What reaches the task as data.
struct Values {
    with: Map<String, Value>,
    env: Map<String, Value>,
    prompt: Option<String>,
}

impl Values {
    fn read(fields: &mut Fields) -> Result<Self, Problem> {
        let (with, env) = (fields.object("with")?, fields.object("env")?);
        for (name, values) in [("with", &with), ("env", &env)] {
            if values.len() > VALUES_MAX {
                return Err(refused(name, &Value::Null, &format!("has {} keys: use at most {VALUES_MAX}", values.len())));
            }
        }
        if let Some((key, _)) = env.iter().find(|(_, value)| !value.is_string()) {
            return Err(refused(&format!("env.{key}"), &Value::Null, "must be text: write numbers in quotes"));
        }
        Ok(Self { with, env, prompt: fields.text("prompt", PROMPT_BYTES_MAX)? })
    }

    /// What the paths in the plan of a single task read.
    fn into_input(self) -> Result<Value, Problem> {
        let mut input = Map::new();
        for (name, values) in [("with", self.with), ("env", self.env)] {
            if !values.is_empty() {
                input.insert(name.to_owned(), Value::Object(values));
            }
        }
        if let Some(prompt) = self.prompt {
            input.insert("prompt".to_owned(), Value::String(prompt));
        }
        let input = Value::Object(input);
        check_input_size("with, env and prompt together", &input)?;
        Ok(input)
    }
}

/// How often a task may be started when nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Starts {
    Once,
    AsTheKindSays,
}

fn kind(fields: &mut Fields) -> Result<TaskKind, Problem> {
    match (fields.text("run", SCRIPT_BYTES_MAX)?, fields.text("handler", NAME_BYTES_MAX)?) {
        (Some(script), None) => Ok(TaskKind::Run { script }),
        (None, Some(name)) => Ok(TaskKind::Handler { name }),
        (None, None) => Err(Problem::new(Code::BadField, "a task needs `run` (a shell script) or `handler` (a name)").at("run")),
        (Some(_), Some(_)) => Err(Problem::new(Code::BadField, "a task has `run` or `handler`, not both: submit two tasks").at("handler")),
    }
}

fn priority(fields: &mut Fields) -> Result<Priority, Problem> {
    let Some(word) = fields.text("priority", NAME_BYTES_MAX)? else { return Ok(Priority::Normal) };
    word.parse().map_err(|error| Problem::new(Code::BadField, format!("`priority`: {error}")).at("priority").with_value(&json!(word)))
}

/// None: neither key is given, so the default of the kind holds.
fn retry(fields: &mut Fields, kind: &TaskKind, starts: Starts) -> Result<Option<RetryPolicy>, Problem> {
    let max_retries = fields.number("max_retries", ATTEMPTS_MAX - 1)?;
    let backoff = fields.value("retry_backoff");
    if max_retries.is_none() && backoff.is_none() {
        return Ok(None);
    }
    let default = match starts {
        Starts::Once => RetryPolicy::none(),
        Starts::AsTheKindSays => default_retry(kind),
    };
    let policy = match backoff {
        None => default,
        Some(Value::String(word)) if word == "exponential" => default,
        Some(Value::Object(object)) => {
            policy(Value::Object(object), &default, max_retries).map_err(|problem| problem.within("retry_backoff"))?
        }
        Some(other) => {
            let remedy = "must be \"exponential\", or an object such as {\"initial_interval\": \"1s\", \"backoff_coefficient\": 2}";
            return Err(refused("retry_backoff", &other, remedy));
        }
    };
    let max_attempts = max_retries.map_or(policy.max_attempts, |retries| retries + 1);
    Ok(Some(RetryPolicy { max_attempts, ..policy }))
}

fn policy(object: Value, default: &RetryPolicy, max_retries: Option<u32>) -> Result<RetryPolicy, Problem> {
    let mut fields = Fields::new(object, "retry_backoff")?;
    let max_attempts = fields.number("max_attempts", ATTEMPTS_MAX)?;
    if let (Some(max_attempts), Some(_)) = (max_attempts, max_retries) {
        return Err(refused("max_attempts", &json!(max_attempts), "contradicts `max_retries`: give one of them"));
    }
    let initial_interval = fields.duration("initial_interval")?.unwrap_or(default.initial_interval);
    let policy = RetryPolicy {
        max_attempts: max_attempts.unwrap_or(default.max_attempts),
        initial_interval,
        backoff_coefficient: fields.factor("backoff_coefficient", (1.0, BACKOFF_COEFFICIENT_MAX))?.unwrap_or(default.backoff_coefficient),
        max_interval: fields.duration("max_interval")?.unwrap_or(default.max_interval.max(initial_interval)),
        jitter: fields.factor("jitter", (0.0, 1.0))?.unwrap_or(default.jitter),
        non_retryable: fields.texts("non_retryable", (NON_RETRYABLE_MAX, NAME_BYTES_MAX))?,
    };
    fields.finish()?;
    Ok(policy)
}

/// The keys of a definition under the names that this request has for them.
fn rules_broken(problems: &[FieldProblem]) -> Problem {
    let named = |problem: &FieldProblem| match problem.field.strip_prefix("retry") {
        Some(".max_attempts") => "max_retries".to_owned(),
        Some(rest) => format!("retry_backoff{rest}"),
        None => problem.field.clone(),
    };
    let finding = |problem: &FieldProblem| {
        let (path, message) = (named(problem), problem.message.clone());
        Finding { line: None, column: None, path, message, suggestion: None }
    };
    let findings: Vec<Finding> = problems.iter().map(finding).collect();
    let detail = findings.iter().map(|finding| format!("`{}`: {}", finding.path, finding.message)).collect::<Vec<_>>().join("; ");
    let field = findings.first().map(|finding| finding.path.clone()).unwrap_or_default();
    Problem::new(Code::BadField, detail).at(field).with_findings(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_core::plan::LargeValues;
    use std::time::Duration;

    fn submission(value: &Value) -> Submission {
        TaskRequest::read(value.clone())
            .and_then(|request| request.into_submission(&Shapes::default()))
            .unwrap_or_else(|problem| panic!("{problem:?}"))
    }

    fn check_refused(value: &Value, code: Code, part: &str) {
        let shown = value.to_string();
        let problem = TaskRequest::read(value.clone()).and_then(|request| request.into_submission(&Shapes::default())).expect_err(&shown);
        assert_eq!(problem.code(), code, "{shown}: {problem:?}");
        assert!(format!("{problem:?}").contains(part), "{shown}: {problem:?}");
    }

    #[test]
    fn every_key_reaches_the_plan_or_the_input() {
        let submission = submission(&json!({
            "run": "make", "prompt": "say ${{ hi }}", "with": {"a b": 1}, "env": {"X": "y"}, "timeout": "2h", "max_retries": 2,
            "retry_backoff": {"initial_interval": "5s", "backoff_coefficient": 3, "max_interval": 60, "jitter": 0, "non_retryable": ["exit"]},
            "priority": "high", "queue": "gpu", "workdir": "/srv", "large_values": "file", "agent_name": "builder", "tags": ["t"], "metadata": {"m": 1},
            "user_id": "u", "run_at": "2030-01-01T00:00:00+01:00",
        }));
        let task = submission.plan.task(0);
        assert_eq!(*submission.input, json!({"with": {"a b": 1}, "env": {"X": "y"}, "prompt": "say ${{ hi }}"}));
        assert_eq!(task.with["a b"].0, json!("${{ input.with[\"a b\"] }}"));
        assert_eq!(task.large_values, LargeValues::File);
        assert_eq!(task.timeout, Some(Duration::from_hours(2)));
        assert_eq!((task.retry.max_attempts, task.retry.initial_interval, task.retry.jitter), (3, Duration::from_secs(5), 0.0));
        assert_eq!(
            (task.retry.max_interval, task.retry.non_retryable.as_slice()),
            (Duration::from_mins(1), ["exit".to_owned()].as_slice())
        );
        assert_eq!((task.priority, task.queue.as_str(), task.agent_name.as_str()), (Priority::High, "gpu", "builder"));
        assert_eq!(
            (submission.user_id.as_deref(), submission.tags, &*submission.metadata),
            (Some("u"), vec!["t".to_owned()], &json!({"m": 1}))
        );
        assert_eq!(submission.run_at, Some(time::macros::datetime!(2029-12-31 23:00:00 UTC)));
    }

    #[test]
    fn retries_follow_the_first_attempt() {
        let attempts = |value: Value| submission(&value).plan.task(0).retry.max_attempts;
        assert_eq!(attempts(json!({"handler": "noop"})), 3);
        assert_eq!(attempts(json!({"handler": "noop", "max_retries": 0})), 1);
        assert_eq!(attempts(json!({"handler": "noop", "max_retries": 4, "retry_backoff": "exponential"})), 5);
        assert_eq!(attempts(json!({"handler": "noop", "at_most_once": true})), 1);
        assert_eq!(attempts(json!({"handler": "noop", "retry_backoff": {"max_attempts": 7}})), 7);
    }

    #[test]
    fn tasks_of_one_shape_share_a_plan() {
        let of = |prompt: &str| submission(&json!({"handler": "noop", "prompt": prompt})).plan_hash;
        assert_eq!(of("a"), of("b"));
        assert_ne!(of("a"), submission(&json!({"handler": "noop"})).plan_hash);
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_key() {
        for (value, part) in [
            (json!({}), "needs `run`"),
            (json!({"run": "x", "handler": "y"}), "not both"),
            (json!({"run": "x", "timeout": "soon"}), "`timeout` must be a duration"),
            (json!({"run": "x", "priority": "urgent"}), "use one of critical, high, normal, low"),
            (json!({"run": "x", "queue": "A.B"}), "is not a queue name"),
            (json!({"run": "x", "workdir": "tmp"}), "is not absolute"),
            (json!({"run": "x", "large_values": "drop"}), "write `file`"),
            (json!({"handler": "x", "large_values": "file"}), "no effect"),
            (json!({"run": "x", "env": {"1X": "y"}}), "environment variable"),
            (json!({"run": "x", "env": {"X": 1}}), "env.X"),
            (json!({"run": "x", "max_retries": -1}), "from 0 to 999"),
            (json!({"run": "x", "retry_backoff": "linear"}), "exponential"),
            (json!({"run": "x", "retry_backoff": {"jitter": 2}}), "retry_backoff.jitter"),
            (json!({"run": "x", "retry_backoff": {"jiter": 1}}), "is not a known key"),
            (json!({"run": "x", "max_retries": 1, "retry_backoff": {"max_attempts": 3}}), "contradicts `max_retries`"),
            (json!({"run": "x", "max_retries": 1, "at_most_once": true}), "max_retries"),
            (json!({"run": "x", "run_at": "tomorrow"}), "RFC 3339"),
            (json!({"run": "x", "prompt": "p".repeat(300_000)}), "1 to 262144 bytes"),
            (json!({"run": "x", "with": {"a": "p".repeat(600_000)}}), "512 KiB"),
            (json!({"run": "x", "comand": "y"}), "`comand` is not a known key"),
            (json!("echo"), "must be a JSON object"),
        ] {
            check_refused(&value, Code::BadField, part);
        }
        for key in NOT_YET {
            check_refused(&json!({"run": "x", key: "y"}), Code::NotYet, key);
        }
    }
}
