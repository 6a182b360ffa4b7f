//! `task`: one task without a definition, now or later.

use super::CommandError;
use super::batch::batch;
use super::context::{ClientArgs, Context, Format, emit, emit_foreign, emit_json, shown_value};
use super::target::Target;
use super::values::{object_of, parse_json_pair, parse_key, parse_pair, parse_run_at, parse_span, parse_whole, text_object_of};
use super::wait::{Ended, until_ended};
use crate::client::ClientError;
use crate::client::shapes::{Remarks, TaskAccepted, TaskResult, error_text};
use crate::exit::Exit;
use crate::text::harmless;
use orchestr8_core::definition::{ATTEMPTS_MAX, format_duration};
use orchestr8_proto::words::{Priority, TaskStatus};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// Where tasks go.
pub const PATH: &str = "/api/v1/tasks";
/// The code of a key that stands for something else.
const KEY_REUSED: &str = "key_reused";

/// Run one task: a shell script or a handler of an executor.
///
/// Prints the task's id and returns. With --wait the id goes to stderr and stdout gets its result; the exit code tells the outcome.
#[derive(Debug, clap::Args)]
pub struct TaskArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// A value for the task, NAME=VALUE; the value is JSON where it reads as JSON, else text. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_json_pair)]
    with: Vec<(String, Value)>,
    /// What the task is told: reaches it as a value, and reports as its description.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// An environment variable of the script. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair, conflicts_with = "handler")]
    env: Vec<(String, String)>,
    /// The directory that the script runs in, an absolute path that the executor allows [default: a fresh one].
    #[arg(long, value_name = "DIR", conflicts_with = "handler")]
    workdir: Option<String>,
    /// `file`: values over 128 KiB are only in the file `$ORCHESTR8_INPUT`, which the script reads [default: they fail the task].
    #[arg(long, value_name = "WORD", value_parser = ["file"], conflicts_with = "handler")]
    large_values: Option<String>,
    /// The longest that one attempt may run, for instance 2h [default: no limit].
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    timeout: Option<Duration>,
    /// Further attempts after the first has failed.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = |text: &str| parse_whole(text, 0..=ATTEMPTS_MAX - 1))]
    max_retries: Option<u32>,
    /// The pauses between attempts: `exponential`, or a JSON object such as `{"initial_interval": "5s", "backoff_coefficient": 3}`.
    #[arg(long, value_name = "BACKOFF", value_parser = parse_backoff)]
    retry_backoff: Option<Value>,
    /// Never start it twice: a lost attempt is a failed task, and there are no retries.
    #[arg(long)]
    at_most_once: bool,
    /// How urgent it is within its queue: critical, high, normal or low.
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<Priority>,
    /// Which executors may run it [default: default].
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// The name that reports count it under [default: the handler, else `run`].
    #[arg(long, value_name = "NAME")]
    agent_name: Option<String>,
    #[command(flatten)]
    about: AboutArgs,
    /// Wait for the end and print the result.
    #[arg(long)]
    wait: bool,
    /// With --wait: stop waiting after this time with exit code 124; the task goes on.
    #[arg(long, value_name = "DURATION", value_parser = parse_span, requires = "wait")]
    wait_timeout: Option<Duration>,
    #[command(flatten)]
    client: ClientArgs,
}

/// What the task does.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct WorkArgs {
    /// A script for `sh`. Values reach it as environment variables and a JSON file; its result is what it writes to `$ORCHESTR8_OUTPUT`, else stdout.
    #[arg(long, value_name = "SCRIPT")]
    run: Option<String>,
    /// Code registered in an executor, such as noop or sleep.
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// Many tasks instead, from this file, `-` for stdin: a JSON array of them, or one JSON object a line, with the keys of the API's tasks.
    ///
    /// They are submitted in groups of up to 1,000, each in one transaction. Prints one id a line, in the order of the file.
    #[arg(long, value_name = "FILE", conflicts_with_all = NOT_WITH_BATCH)]
    batch: Option<PathBuf>,
}

/// What each task of a batch says for itself.
const NOT_WITH_BATCH: [&str; 18] = [
    "with",
    "prompt",
    "env",
    "workdir",
    "large_values",
    "timeout",
    "max_retries",
    "retry_backoff",
    "at_most_once",
    "priority",
    "queue",
    "agent_name",
    "tags",
    "metadata",
    "user",
    "run_at",
    "wait",
    "wait_timeout",
];

/// What the submitter says about the work; shared by `task` and `run`.
#[derive(Debug, clap::Args)]
pub struct AboutArgs {
    /// A tag, to find it again with `list --tag`. Repeatable.
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Metadata, NAME=VALUE; the value is JSON where it reads as JSON, else text. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_json_pair)]
    pub metadata: Vec<(String, Value)>,
    /// On whose behalf.
    #[arg(long = "user", value_name = "USER")]
    pub user: Option<String>,
    /// Not before this time: RFC 3339, or a distance such as +2h.
    #[arg(long, value_name = "TIME", value_parser = parse_run_at)]
    pub run_at: Option<String>,
    /// What the submission is known by: who sends the same under the same key again gets the same ids, and nothing runs twice [default: a new one].
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    pub idempotency_key: Option<String>,
}

impl AboutArgs {
    /// Adds what is given to the body of a submission.
    ///
    /// # Errors
    /// [`CommandError::Usage`] for a name given twice.
    pub fn add_to(&self, body: &mut Map<String, Value>) -> Result<(), CommandError> {
        if !self.tags.is_empty() {
            body.insert("tags".into(), json!(self.tags));
        }
        if !self.metadata.is_empty() {
            body.insert("metadata".into(), Value::Object(object_of("--metadata", &self.metadata)?));
        }
        if let Some(user) = &self.user {
            body.insert("user_id".into(), json!(user));
        }
        if let Some(run_at) = &self.run_at {
            body.insert("run_at".into(), json!(run_at));
        }
        Ok(())
    }

    /// Submits under the given key, or a new one.
    ///
    /// # Errors
    /// [`CommandError::Client`].
    pub async fn submit(&self, context: &Context, path: &str, body: &Value) -> Result<Value, CommandError> {
        let Some(key) = &self.idempotency_key else { return Ok(context.client.submit(path, body).await?) };
        Ok(context.client.submit_as(path, body, key).await.map_err(|error| self.with_hint(error))?)
    }

    /// A distance makes another request of what reads the same.
    fn with_hint(&self, error: ClientError) -> ClientError {
        match error {
            ClientError::Refused(mut problem) if problem.code == KEY_REUSED && self.run_at.is_some() => {
                problem.detail.push_str("; a distance such as --run-at +2h is another time with each submission, so write the time itself");
                ClientError::Refused(problem)
            }
            other => other,
        }
    }
}

/// Tells on stderr what the caller may not expect of what was accepted.
pub fn tell_remarks(remarks: &Remarks) {
    for warning in &remarks.warnings {
        eprintln!("warning: {}", harmless(warning));
    }
    if remarks.replayed {
        eprintln!("this was submitted before under the same idempotency key: nothing new was started");
    }
}

/// Submits the task and, if asked, waits for it.
///
/// # Errors
/// [`CommandError`].
pub async fn task(args: &TaskArgs) -> Result<Exit, CommandError> {
    let body = body(args)?;
    let context = Context::new(&args.client)?;
    if let Some(file) = &args.work.batch {
        return batch(&context, file, args.about.idempotency_key.as_deref()).await;
    }
    let answer = args.about.submit(&context, PATH, &body).await?;
    let accepted: TaskAccepted = context.client.shaped(PATH, &answer)?;
    tell_remarks(&accepted.remarks);
    if !args.wait {
        match context.format {
            Format::Text => emit(&accepted.task_id.to_string())?,
            Format::Json => emit_json(&answer)?,
        }
        return Ok(Exit::Done);
    }
    eprintln!("task {}", accepted.task_id);
    let deadline = args.wait_timeout.map(|timeout| Instant::now() + timeout);
    if let Some(ended) = until_ended(&context, Target::Task(accepted.task_id), deadline).await? {
        return show_end(&context, &ended);
    }
    eprintln!("task {} has not ended yet; it goes on: `orchestr8 wait {0}`", accepted.task_id);
    Ok(Exit::TimedOut)
}

/// Prints a task's result, or why there is none.
///
/// # Errors
/// [`CommandError`].
pub fn show_end(context: &Context, ended: &Ended) -> Result<Exit, CommandError> {
    let result: TaskResult = context.client.shaped("result", &ended.answer)?;
    match context.format {
        Format::Json => emit_json(&ended.answer)?,
        Format::Text if result.status == TaskStatus::Completed => emit_foreign(&shown_value(&result.result))?,
        Format::Text => {}
    }
    if result.status != TaskStatus::Completed {
        let reason = error_text(result.error_type.as_deref(), result.error.as_deref());
        let reason = reason.map(|reason| format!(": {}", harmless(&reason))).unwrap_or_default();
        eprintln!("task {} {}{reason}", result.task_id, result.status);
        eprintln!("what it wrote: `orchestr8 logs {}`", result.task_id);
    }
    Ok(ended.exit)
}

fn body(args: &TaskArgs) -> Result<Value, CommandError> {
    let mut body = Map::new();
    let mut add = |name: &str, value: Option<Value>| drop(value.map(|value| body.insert(name.to_owned(), value)));
    let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
    add("run", text(&args.work.run));
    add("handler", text(&args.work.handler));
    add("with", (!args.with.is_empty()).then(|| object_of("--with", &args.with)).transpose()?.map(Value::Object));
    add("prompt", text(&args.prompt));
    add("env", (!args.env.is_empty()).then(|| text_object_of("--env", &args.env)).transpose()?.map(Value::Object));
    add("workdir", text(&args.workdir));
    add("large_values", text(&args.large_values));
    add("timeout", args.timeout.map(|timeout| json!(format_duration(timeout))));
    add("max_retries", args.max_retries.map(|number| json!(number)));
    add("retry_backoff", args.retry_backoff.clone());
    add("at_most_once", args.at_most_once.then_some(json!(true)));
    add("priority", args.priority.map(|priority| json!(priority)));
    add("queue", text(&args.queue));
    add("agent_name", text(&args.agent_name));
    args.about.add_to(&mut body)?;
    Ok(Value::Object(body))
}

fn parse_backoff(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(Value::Object(object)),
        _ if text == "exponential" => Ok(json!(text)),
        Ok(_) | Err(_) => Err("write `exponential`, or a JSON object".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        task: TaskArgs,
    }

    fn parsed(words: &[&str]) -> Result<Value, String> {
        let words = std::iter::once("task").chain(words.iter().copied());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        body(&line.task).map_err(|error| error.to_string())
    }

    #[test]
    fn only_what_is_given_is_sent() {
        assert_eq!(parsed(&["--run", "echo hello"]), Ok(json!({"run": "echo hello"})));
    }

    #[test]
    fn every_flag_becomes_its_field() {
        let words = "--handler noop --with n=3 --with s=x --prompt P --timeout 1h30m --max-retries 2 --retry-backoff exponential --priority high \
            --queue agents --tag a --tag b --metadata k={\"x\":1} --user u --run-at 2026-01-31T14:00:00Z --agent-name reviewer --wait --wait-timeout 5s";
        let expected = json!({
            "handler": "noop", "with": {"n": 3, "s": "x"}, "prompt": "P", "timeout": "1h30m", "max_retries": 2, "retry_backoff": "exponential",
            "priority": "high", "queue": "agents", "tags": ["a", "b"], "metadata": {"k": {"x": 1}}, "user_id": "u",
            "run_at": "2026-01-31T14:00:00Z", "agent_name": "reviewer",
        });
        assert_eq!(parsed(&words.split_whitespace().collect::<Vec<_>>()), Ok(expected));
        let run = parsed(&["--run", "x", "--env", "A=1", "--workdir", "/src", "--large-values", "file", "--at-most-once"]);
        assert_eq!(run, Ok(json!({"run": "x", "env": {"A": "1"}, "workdir": "/src", "large_values": "file", "at_most_once": true})));
    }

    #[test]
    fn what_cannot_work_is_a_usage_error() {
        for words in [
            &[][..],
            &["--run", "x", "--handler", "y"],
            &["--handler", "y", "--env", "A=1"],
            &["--run", "x", "--priority", "urgent"],
            &["--run", "x", "--timeout", "0s"],
            &["--run", "x", "--retry-backoff", "linear"],
            &["--run", "x", "--wait-timeout", "1s"],
            &["--run", "x", "--max-retries", "1000"],
            &["--run", "x", "--with", "a=1", "--with", "a=2"],
        ] {
            assert!(parsed(words).is_err(), "{words:?}");
        }
        let negative = parsed(&["--run", "x", "--max-retries", "-1"]).expect_err("out of range");
        assert!(negative.contains("--max-retries") && negative.contains("a whole number from 0 to 999"), "{negative}");
    }
}
