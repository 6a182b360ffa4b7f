//! One task as callers submit it: an execution of the workflow `task`, its values as data in the input.

use super::fields::{Fields, Submitter, refused};
use super::problem::{Code, Finding, Problem};
use super::refusals::{ERRORS_MAX, Refusals};
use super::shapes::{Planned, Shapes};
use super::submit::check_input_size;
use crate::engine::handle::Submission;
use orchestr8_core::definition::{
    ATTEMPTS_MAX, BACKOFF_COEFFICIENT_MAX, FieldProblem, NAME_BYTES_MAX, NON_RETRYABLE_MAX, SCRIPT_BYTES_MAX, SingleTask, default_retry,
    single_task,
};
use orchestr8_core::plan::{RetryPolicy, TaskKind};
use orchestr8_proto::names::QUEUE_NAME_BYTES_MAX;
use orchestr8_proto::words::Priority;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
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
    /// [`Code::BadField`] or [`Code::NotYet`] with every key that is wrong.
    pub fn read(value: Value) -> Result<Self, Problem> {
        let (mut fields, mut refusals) = (Fields::new(value, "a task")?, Refusals::default());
        fields.refuse_not_yet(&NOT_YET, &mut refusals);
        let kind = kind(&mut fields, &mut refusals);
        let values = Values::read(&mut fields, &mut refusals);
        let shape = shape(kind, &values, &mut fields, &mut refusals);
        let (submitter, run_at) = (fields.submitter(&mut refusals), refusals.or_default(fields.time("run_at")));
        let input = refusals.or_default(values.into_input());
        refusals.keep(fields.finish());
        if !refusals.is_empty() {
            refusals.keep(rules_broken_beside(&refusals, &shape));
        }
        refusals.finish()?;
        Ok(Self { shape, input, submitter, run_at })
    }

    /// The execution that it stands for.
    ///
    /// # Errors
    /// [`Code::BadField`] with every key that breaks a rule of tasks.
    pub fn into_submission(self, shapes: &Shapes) -> Result<Submission, Problem> {
        let given = Given::of(&self.shape);
        let Planned { plan, hash: plan_hash } = shapes.planned(self.shape).map_err(|problems| rules_broken(&problems, &given))?;
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
    fn read(fields: &mut Fields, refusals: &mut Refusals) -> Self {
        // The values of `env` are not shown: variables may be secret, and answers are logged.
        let unshown = |name: &str, remedy: &str| refused(name, &Value::Null, remedy);
        let env = fields.object("env").map_err(|_| unshown("env", "must be an object"));
        let (with, env) = (refusals.or_default(fields.object("with")), refusals.or_default(env));
        for (name, values) in [("with", &with), ("env", &env)] {
            if values.len() > VALUES_MAX {
                let remedy = format!("has {} keys: use at most {VALUES_MAX}", values.len());
                refusals.keep::<()>(Err(unshown(name, &remedy)));
            }
        }
        for (key, _) in env.iter().filter(|(_, value)| !value.is_string()).take(ERRORS_MAX) {
            refusals.keep::<()>(Err(unshown(&format!("env.{key}"), "must be text: write numbers in quotes")));
        }
        Self { with, env, prompt: refusals.or_default(fields.text("prompt", PROMPT_BYTES_MAX)) }
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
        check_input_size("with", "`with`, `env` and `prompt` together have", &input)?;
        Ok(input)
    }
}

/// How often a task may be started when nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Starts {
    Once,
    AsTheKindSays,
}

fn shape(kind: TaskKind, values: &Values, fields: &mut Fields, refusals: &mut Refusals) -> SingleTask {
    let at_most_once = refusals.or_default(fields.flag("at_most_once"));
    let starts = if at_most_once { Starts::Once } else { Starts::AsTheKindSays };
    SingleTask {
        with_keys: values.with.keys().cloned().collect(),
        env_keys: values.env.keys().cloned().collect(),
        has_prompt: values.prompt.is_some(),
        retry: retry(fields, &kind, starts, refusals),
        timeout: refusals.or_default(fields.duration("timeout")),
        at_most_once,
        priority: refusals.keep(priority(fields)).unwrap_or(Priority::Normal),
        queue: refusals.or_default(fields.text("queue", QUEUE_NAME_BYTES_MAX)),
        workdir: refusals.or_default(fields.text("workdir", WORKDIR_BYTES_MAX)),
        large_values: refusals.or_default(fields.text("large_values", NAME_BYTES_MAX)),
        agent_name: refusals.or_default(fields.text("agent_name", NAME_BYTES_MAX)),
        kind,
    }
}

/// Where it is refused, what the other keys are judged by.
fn kind(fields: &mut Fields, refusals: &mut Refusals) -> TaskKind {
    let some_script = || TaskKind::Run { script: "true".to_owned() };
    let run = refusals.keep(fields.text("run", SCRIPT_BYTES_MAX));
    let handler = refusals.keep(fields.text("handler", NAME_BYTES_MAX));
    let wrong = match (run, handler) {
        (Some(Some(script)), Some(None)) => return TaskKind::Run { script },
        (Some(None), Some(Some(name))) => return TaskKind::Handler { name },
        (Some(None), None) => return TaskKind::Handler { name: "noop".to_owned() },
        (None, _) | (Some(Some(_)), None) => return some_script(),
        (Some(None), Some(None)) => Problem::new(Code::BadField, "a task needs `run` (a shell script) or `handler` (a name)").at("run"),
        (Some(Some(_)), Some(Some(_))) => {
            Problem::new(Code::BadField, "a task has `run` or `handler`, not both: submit two tasks").at("handler")
        }
    };
    refusals.keep::<()>(Err(wrong));
    some_script()
}

fn priority(fields: &mut Fields) -> Result<Priority, Problem> {
    let word = match fields.value("priority") {
        None => return Ok(Priority::Normal),
        Some(Value::String(word)) => word,
        Some(other) => return Err(refused("priority", &other, "must be one of the words critical, high, normal, low")),
    };
    word.parse().map_err(|error| Problem::new(Code::BadField, format!("`priority`: {error}")).at("priority").with_value(&json!(word)))
}

/// None: neither key is given, so the default of the kind holds.
fn retry(fields: &mut Fields, kind: &TaskKind, starts: Starts, refusals: &mut Refusals) -> Option<RetryPolicy> {
    let max_retries = refusals.or_default(fields.number("max_retries", ATTEMPTS_MAX - 1));
    let backoff = fields.value("retry_backoff");
    if max_retries.is_none() && backoff.is_none() {
        return None;
    }
    let default = match starts {
        Starts::Once => RetryPolicy::none(),
        Starts::AsTheKindSays => default_retry(kind),
    };
    let policy = backoff_policy(backoff, default, max_retries, refusals);
    let max_attempts = max_retries.map_or(policy.max_attempts, |retries| retries + 1);
    Some(RetryPolicy { max_attempts, ..policy })
}

fn backoff_policy(backoff: Option<Value>, default: RetryPolicy, max_retries: Option<u32>, refusals: &mut Refusals) -> RetryPolicy {
    match backoff {
        None => default,
        Some(Value::String(word)) if word == "exponential" => default,
        Some(Value::Object(object)) => {
            let mut within = Refusals::default();
            let policy = policy(Fields::of(object), &default, max_retries, &mut within);
            refusals.keep(within.finish().map_err(|problem| problem.within("retry_backoff")));
            policy
        }
        Some(other) => {
            let remedy = "must be \"exponential\", or an object such as {\"initial_interval\": \"1s\", \"backoff_coefficient\": 2}";
            refusals.keep::<()>(Err(refused("retry_backoff", &other, remedy)));
            default
        }
    }
}

/// What is refused stands for something within its bounds, so that the rules of the others can be looked at.
fn policy(mut fields: Fields, default: &RetryPolicy, max_retries: Option<u32>, refusals: &mut Refusals) -> RetryPolicy {
    let max_attempts = refusals.or_default(fields.number("max_attempts", ATTEMPTS_MAX));
    if let (Some(max_attempts), Some(_)) = (max_attempts, max_retries) {
        let both = refused("max_attempts", &json!(max_attempts), "contradicts `max_retries`: give one of them");
        refusals.keep::<()>(Err(both));
    }
    // One that is refused contradicts no `max_interval`.
    let initial_interval = refusals.keep(fields.duration("initial_interval")).unwrap_or(Some(Duration::from_millis(1)));
    let initial_interval = initial_interval.unwrap_or(default.initial_interval);
    let coefficient = refusals.or_default(fields.factor("backoff_coefficient", (1.0, BACKOFF_COEFFICIENT_MAX)));
    let max_interval = refusals.or_default(fields.duration("max_interval"));
    let policy = RetryPolicy {
        max_attempts: max_attempts.unwrap_or(default.max_attempts),
        initial_interval,
        backoff_coefficient: coefficient.unwrap_or(default.backoff_coefficient),
        max_interval: max_interval.unwrap_or(default.max_interval.max(initial_interval)),
        jitter: refusals.or_default(fields.factor("jitter", (0.0, 1.0))).unwrap_or(default.jitter),
        non_retryable: refusals.or_default(fields.texts("non_retryable", (NON_RETRYABLE_MAX, NAME_BYTES_MAX))),
    };
    refusals.keep(fields.finish());
    policy
}

/// The rules that keys break which could be read, beside those that are refused already.
fn rules_broken_beside(refusals: &Refusals, shape: &SingleTask) -> Result<(), Problem> {
    let Err(problems) = single_task(shape.clone()) else { return Ok(()) };
    let problems: Vec<FieldProblem> = problems.into_iter().filter(|problem| !refusals.name(&named(problem))).collect();
    if problems.is_empty() { Ok(()) } else { Err(rules_broken(&problems, &Given::of(shape))) }
}

/// The key of a definition under the name that this request has for it.
fn named(problem: &FieldProblem) -> String {
    match problem.field.strip_prefix("retry") {
        Some(".max_attempts") => "max_retries".to_owned(),
        Some(rest) => format!("retry_backoff{rest}"),
        None => problem.field.clone(),
    }
}

/// The values of keys that can break a rule, to show them with it.
struct Given {
    queue: Option<String>,
    workdir: Option<String>,
    large_values: Option<String>,
    agent_name: Option<String>,
    max_retries: Option<u32>,
}

impl Given {
    fn of(shape: &SingleTask) -> Self {
        Self {
            queue: shape.queue.clone(),
            workdir: shape.workdir.clone(),
            large_values: shape.large_values.clone(),
            agent_name: shape.agent_name.clone(),
            max_retries: shape.retry.as_ref().map(|retry| retry.max_attempts.saturating_sub(1)),
        }
    }

    fn value(&self, key: &str) -> Option<Value> {
        let text = match key {
            "max_retries" => return self.max_retries.map(Value::from),
            "queue" => &self.queue,
            "workdir" => &self.workdir,
            "large_values" => &self.large_values,
            "agent_name" => &self.agent_name,
            _ => return None,
        };
        text.as_deref().map(Value::from)
    }
}

fn rules_broken(problems: &[FieldProblem], given: &Given) -> Problem {
    let finding = |problem: &FieldProblem| {
        let (path, message) = (named(problem), problem.message.clone());
        let value = given.value(&path);
        Finding { line: None, column: None, path, message, suggestion: None, value }
    };
    let findings: Vec<Finding> = problems.iter().map(finding).collect();
    let detail = findings.iter().map(|finding| format!("`{}`: {}", finding.path, finding.message)).collect::<Vec<_>>().join("; ");
    let field = findings.first().map(|finding| finding.path.clone()).unwrap_or_default();
    let value = findings.first().and_then(|finding| finding.value.clone());
    let problem = Problem::new(Code::BadField, detail).at(field).with_findings(findings);
    let problem = if let Some(value) = value { problem.with_value(&value) } else { problem };
    Problem::of_all(vec![problem]).expect("it is one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_core::plan::LargeValues;

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

    /// The fields that a refusal names, in its order.
    fn fields_refused(value: &Value) -> Vec<String> {
        let problem = TaskRequest::read(value.clone()).and_then(|request| request.into_submission(&Shapes::default())).expect_err("wrong");
        problem.document()["errors"]
            .as_array()
            .expect("errors")
            .iter()
            .map(|error| error["field"].as_str().expect("text").to_owned())
            .collect()
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let wrong = json!({
            "run": "", "handler": 5, "agent": "x", "with": [], "env": {"A": 1, "B": 2}, "max_retries": -1,
            "retry_backoff": {"jitter": 7, "jiter": 1, "max_interval": "soon"}, "timeout": "soon", "priority": "urgent", "queue": 7,
            "tags": ["a,b"], "metadata": 3, "user_id": "", "run_at": "tomorrow", "comand": "y", "colour": "red",
        });
        let fields = [
            "agent",
            "run",
            "handler",
            "with",
            "env.A",
            "env.B",
            "max_retries",
            "retry_backoff.max_interval",
            "retry_backoff.jitter",
            "retry_backoff.jiter",
            "timeout",
            "priority",
            "queue",
            "tags",
            "metadata",
            "user_id",
            "run_at",
            "colour",
            "comand",
        ];
        assert_eq!(fields_refused(&wrong), fields);
        // Rules are looked at beside what could not be read, and each field is named once.
        let wrong = json!({"run": "x", "timeout": "soon", "queue": "A.B", "workdir": "tmp", "env": {"1X": 5}});
        assert_eq!(fields_refused(&wrong), ["env.1X", "timeout", "queue", "workdir"]);
        assert_eq!(fields_refused(&json!({"run": "x", "queue": "A.B", "workdir": "tmp"})), ["queue", "workdir"]);
        assert_eq!(fields_refused(&json!({"run": "x", "timeout": 0})), ["timeout"]);
        // Neither of the same mapping, nor where it is not known what the task does.
        let wrong =
            json!({"run": "x", "env": {"A": 5, "1B": "y"}, "retry_backoff": {"jitter": 7, "initial_interval": "9s", "max_interval": "1s"}});
        assert_eq!(fields_refused(&wrong), ["env.A", "retry_backoff.jitter", "retry_backoff.max_interval", "env.1B"]);
        let wrong = json!({"run": "x", "retry_backoff": {"initial_interval": "soon", "max_interval": "1ms"}, "at_most_once": true, "max_retries": 1});
        assert_eq!(fields_refused(&wrong), ["retry_backoff.initial_interval", "max_retries"]);
        assert_eq!(fields_refused(&json!({"handler": 5, "queue": "A.B", "workdir": "/srv"})), ["handler", "workdir", "queue"]);
        assert_eq!(fields_refused(&json!({"queue": "A.B", "workdir": "/srv"})), ["run", "queue"]);
    }

    #[test]
    fn what_is_refused_is_shown_with_its_value() {
        for (value, field, shown) in [
            (json!({"run": "x", "queue": "A.B"}), "queue", json!("A.B")),
            (json!({"run": "x", "large_values": "drop"}), "large_values", json!("drop")),
            (json!({"run": "x", "max_retries": 1, "at_most_once": true}), "max_retries", json!(1)),
            (json!({"run": "x", "priority": 7}), "priority", json!(7)),
        ] {
            let problem = TaskRequest::read(value.clone()).and_then(|request| request.into_submission(&Shapes::default()));
            let document = problem.expect_err(field).document();
            assert_eq!((&document["field"], &document["value"]), (&json!(field), &shown), "{document}");
            assert_eq!((&document["errors"][0]["field"], &document["errors"][0]["value"]), (&json!(field), &shown), "{document}");
        }
        for (env, field) in [(json!({"PIN": 271_828}), "env.PIN"), (json!("PIN=271828"), "env")] {
            let secret = TaskRequest::read(json!({"run": "x", "env": env})).expect_err(field).document();
            assert!(secret["field"] == field && !secret.to_string().contains("271828"), "{secret}");
        }
        let word = TaskRequest::read(json!({"run": "x", "priority": 7})).expect_err("no word");
        assert!(word.detail().contains("critical, high, normal, low"), "{word:?}");
        let queue = TaskRequest::read(json!({"run": "x", "queue": 7})).expect_err("no text");
        assert!(queue.detail().contains("1 to 64 bytes"), "{queue:?}");
        let large = TaskRequest::read(json!({"run": "x", "with": {"a": "x".repeat(600_000)}})).expect_err("too large");
        assert!(large.detail().contains("`with`, `env` and `prompt` together") && large.document()["field"] == "with", "{large:?}");
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
