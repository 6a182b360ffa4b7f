//! `logs`: the end of what a task's attempts wrote.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit_foreign, emit_json};
use super::target::{GivenId, Target, parse_id};
use super::watch::read_tree;
use crate::client::shapes::{Attempt, Task, error_text};
use crate::exit::Exit;
use crate::text::{harmless, harmless_line};
use orchestr8_proto::ids::TaskId;
use orchestr8_proto::words::TaskStatus;
use serde_json::Value;

/// Lines of stderr (else stdout) shown for a failed task.
const FAILURE_LINES_MAX: usize = 60;
/// Tasks of one workflow whose logs are shown at once.
const TASKS_MAX: usize = 200;
/// Why there is nothing of what has ended.
const WROTE_NOTHING: &str = "it wrote none, as handlers and timers never do; `orchestr8 result` has what it returned";
const NEVER_RAN: &str = "it never ran";
/// A run that its executor has not claimed yet, which it does after a second, is nobody's when its task is cancelled.
const CANCELLED_EARLY: &str = "it wrote none, or it was cancelled in its first second, of which nothing is kept";
/// The outcome of an attempt that was handed back.
const RELEASED: &str = "released";
/// The error type of an attempt that a cancel ended.
const CANCELLED: &str = "cancelled";

/// Show the end of what a task's attempts wrote, at most 64 KiB each of stdout and stderr.
///
/// For a workflow: that of each of its tasks that left a trace. The output of an attempt is there once the attempt has ended.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// The id of a task or workflow, or its first 8 or more digits.
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: GivenId,
    /// Only this stream.
    #[arg(long, value_enum, value_name = "STREAM")]
    stream: Option<Stream>,
    /// Only this attempt, from 1.
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    #[command(flatten)]
    client: ClientArgs,
}

/// One of the two streams of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stream {
    /// Its output.
    Stdout,
    /// Its talk.
    Stderr,
}

/// Prints the ends of the streams.
///
/// # Errors
/// [`CommandError`].
pub async fn logs(args: &LogsArgs) -> Result<Exit, CommandError> {
    let context = Context::new(&args.client)?;
    let target = context.resolve(&args.id).await?;
    let ids = match target {
        Target::Task(id) => vec![id],
        Target::Workflow(id) => {
            let tasks = read_tree(&context, id).await?.tasks;
            if tasks.len() > TASKS_MAX {
                return Err(CommandError::Usage(format!(
                    "{} tasks: the logs of at most {TASKS_MAX} are shown at once, name a task",
                    tasks.len()
                )));
            }
            tasks.into_iter().filter(|task| task.attempts > 0).map(|task| task.id).collect()
        }
    };
    let mut answers = Vec::new();
    for id in ids {
        let (task, answer) = detail(&context, id).await?;
        match context.format {
            Format::Text => {
                let text = shown(&task, args);
                emit_foreign_unless_empty(&text)?;
                if let Some(reason) = silence(&task, &text) {
                    eprintln!("{} {reason}", called(&task, target));
                }
            }
            Format::Json => answers.push(answer),
        }
    }
    if context.format == Format::Json {
        emit_json(&Value::Array(answers))?;
    }
    Ok(Exit::Done)
}

/// What of a failed task's output is told with the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excerpt {
    /// The end of stderr, else that of stdout.
    Either,
    /// The end of stderr: its stdout goes to stdout.
    Stderr,
}

/// Tells on stderr why a task failed and the last lines that it wrote.
///
/// # Errors
/// [`CommandError::Client`].
pub async fn tell_failure(context: &Context, id: TaskId, excerpt: Excerpt) -> Result<(), CommandError> {
    let (task, _) = detail(context, id).await?;
    let reason = error_text(task.error_type.as_deref(), task.error.as_deref()).unwrap_or_default();
    eprintln!("\ntask {} failed: {}", harmless_line(&task.name), harmless(&reason));
    let tail = task.attempt_history.last().and_then(|last| last.excerpts(excerpt).into_iter().flatten().find(|tail| !tail.is_empty()));
    let lines = tail.map(|tail| last_lines(tail, FAILURE_LINES_MAX)).unwrap_or_default();
    for line in lines.iter().filter(|line| !is_told(&lines, line, &reason)) {
        eprintln!("  | {}", harmless(line));
    }
    Ok(())
}

/// Writes what the task's last attempt wrote to stdout, as it is: the report of a check that found something is its result.
///
/// # Errors
/// [`CommandError`].
pub async fn emit_last_stdout(context: &Context, id: TaskId) -> Result<(), CommandError> {
    let (task, _) = detail(context, id).await?;
    let stdout = task.attempt_history.last().and_then(|last| last.stdout_tail.as_deref()).unwrap_or_default();
    emit_foreign_unless_empty(stdout)
}

impl Attempt {
    const fn excerpts(&self, excerpt: Excerpt) -> [Option<&String>; 2] {
        match excerpt {
            Excerpt::Either => [self.stderr_tail.as_ref(), self.stdout_tail.as_ref()],
            Excerpt::Stderr => [self.stderr_tail.as_ref(), None],
        }
    }
}

/// Whether the reason, which ends with the last line of stderr, has said all that there is.
fn is_told(lines: &[&str], line: &str, reason: &str) -> bool {
    lines.len() == 1 && !line.trim().is_empty() && reason.ends_with(line.trim())
}

async fn detail(context: &Context, id: TaskId) -> Result<(Task, Value), CommandError> {
    let path = Target::Task(id).path();
    let answer = context.client.get(&path).await?;
    Ok((context.client.shaped(&path, &answer)?, answer))
}

fn emit_foreign_unless_empty(text: &str) -> Result<(), CommandError> {
    if text.is_empty() { Ok(()) } else { emit_foreign(text) }
}

/// What is said of is clear where one task was asked for; a single task has no name of its own.
fn called(task: &Task, asked: Target) -> String {
    match asked {
        Target::Task(_) => "the task".to_owned(),
        Target::Workflow(_) => format!("task `{}`", harmless_line(&task.name)),
    }
}

/// Why there is less to see than the caller may expect, if that is so.
fn silence(task: &Task, shown: &str) -> Option<String> {
    match task.status {
        TaskStatus::Running => {
            Some("still runs: what it writes is shown when this attempt has ended, for there is no live output yet".to_owned())
        }
        TaskStatus::Pending | TaskStatus::Queued | TaskStatus::Retrying | TaskStatus::Waiting if shown.is_empty() => {
            Some(format!("is {}: there is no output yet", task.status))
        }
        TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Skipped | TaskStatus::Cancelled if shown.is_empty() => {
            let ran = task.status == TaskStatus::Completed || task.attempts > 0;
            let why = match (ran, task.status == TaskStatus::Cancelled) {
                (true, true) => CANCELLED_EARLY,
                (true, false) => WROTE_NOTHING,
                (false, _) => NEVER_RAN,
            };
            Some(format!("is {}: no such output is kept: {why}", task.status))
        }
        TaskStatus::Pending
        | TaskStatus::Queued
        | TaskStatus::Retrying
        | TaskStatus::Waiting
        | TaskStatus::Completed
        | TaskStatus::Failed
        | TaskStatus::Skipped
        | TaskStatus::Cancelled => None,
    }
}

fn shown(task: &Task, args: &LogsArgs) -> String {
    let wanted = |attempt: &&Attempt| args.attempt.is_none_or(|number| number == attempt.attempt);
    let mut text = String::new();
    for attempt in task.attempt_history.iter().filter(wanted) {
        let error = error_text(attempt.error_type.as_deref(), attempt.error.as_deref());
        if let Some(why) = error.or_else(|| given_back(task, attempt)) {
            text.push_str(&header(task, attempt, &harmless_line(&why)));
        }
        for (stream, tail) in [(Stream::Stdout, &attempt.stdout_tail), (Stream::Stderr, &attempt.stderr_tail)] {
            let tail = tail.as_deref().unwrap_or_default();
            if tail.is_empty() || args.stream.is_some_and(|only| only != stream) {
                continue;
            }
            text.push_str(&header(task, attempt, stream.name()));
            text.push_str(tail);
            text.push_str(if tail.ends_with('\n') { "" } else { "\n" });
        }
    }
    text
}

/// Why an attempt was handed back: only a drain ends one that had started, and that is no failure.
fn given_back(task: &Task, attempt: &Attempt) -> Option<String> {
    if attempt.outcome == RELEASED && task.attempts == attempt.attempt && task.is_ended_by_loss() {
        return Some("its executor drained and gave it back, which ended the task: at_most_once forbids another start".to_owned());
    }
    let next = if task.status.is_final() && task.attempts == attempt.attempt { "" } else { "; the next attempt began anew" };
    (attempt.outcome == RELEASED).then(|| format!("its executor drained and gave it back, which is no failure and uses up no retry{next}"))
}

impl Stream {
    const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

fn header(task: &Task, attempt: &Attempt, what: &str) -> String {
    let name = harmless_line(&task.name);
    // A run that a cancel ended is kept as a failed one, which is what its executor saw.
    let outcome = if attempt.error_type.as_deref() == Some(CANCELLED) { CANCELLED } else { &attempt.outcome };
    format!("== {name}, attempt {} ({} on {}): {what}\n", attempt.attempt, harmless_line(outcome), harmless_line(&attempt.executor_id))
}

fn last_lines(text: &str, count: usize) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        logs: LogsArgs,
    }

    const ID: &str = "0199abcd-0000-7000-8000-000000000001";

    fn shown_with(words: &[&str]) -> String {
        let attempt = |number: u32| json!({"attempt": number, "outcome": "failed", "executor_id": "e1", "error_type": "exit", "error": "code 3", "stdout_tail": format!("out{number}\n"), "stderr_tail": "err"});
        let task = json!({"task_id": ID, "status": "failed", "name": "build", "attempt_history": [attempt(1), attempt(2)]});
        let words = ["logs", ID].into_iter().chain(words.iter().copied());
        let line = Line::try_parse_from(words).expect("fits");
        shown(&serde_json::from_value(task).expect("a task"), &line.logs)
    }

    #[test]
    fn each_stream_of_each_attempt_has_its_header() {
        assert_eq!(
            shown_with(&["--stream", "stdout", "--attempt", "2"]),
            "== build, attempt 2 (failed on e1): exit: code 3\n== build, attempt 2 (failed on e1): stdout\nout2\n"
        );
        let all = shown_with(&[]);
        assert_eq!(all.matches("== build").count(), 6);
        assert!(all.contains("attempt 1 (failed on e1): stderr\nerr\n=="), "{all}");
    }

    #[test]
    fn what_was_handed_back_or_cancelled_says_so() {
        let released = json!({"attempt": 1, "outcome": "released", "executor_id": "e1", "stdout_tail": "half\n"});
        let cancelled = json!({"attempt": 2, "outcome": "failed", "executor_id": "e2", "error_type": "cancelled", "error": "it was cancelled while it ran"});
        let task = json!({"task_id": ID, "status": "cancelled", "name": "build", "attempts": 2, "attempt_history": [released, cancelled]});
        let mut task: Task = serde_json::from_value(task).expect("a task");
        let line = Line::try_parse_from(["logs", ID]).expect("fits");
        let text = shown(&task, &line.logs);
        let lines: Vec<&str> = text.lines().collect();
        let given_back = "its executor drained and gave it back, which is no failure and uses up no retry";
        assert_eq!(lines[0], format!("== build, attempt 1 (released on e1): {given_back}; the next attempt began anew"));
        assert_eq!(lines[1..3], ["== build, attempt 1 (released on e1): stdout", "half"]);
        assert_eq!(lines[3], "== build, attempt 2 (cancelled on e2): cancelled: it was cancelled while it ran");
        task.attempts = 1;
        task.attempt_history.truncate(1);
        assert!(shown(&task, &line.logs).starts_with(&format!("== build, attempt 1 (released on e1): {given_back}\n")), "it ended with it");
        (task.status, task.error_type) = (TaskStatus::Failed, Some("lost".to_owned()));
        assert!(shown(&task, &line.logs).contains("which ended the task: at_most_once forbids another start"), "it may not start again");
    }

    #[test]
    fn what_is_not_there_is_explained() {
        let silence_of = |status: &str, shown: &str| {
            let task = json!({"task_id": ID, "status": status, "name": "build"});
            silence(&serde_json::from_value(task).expect("a task"), shown)
        };
        assert!(silence_of("running", "").expect("it runs").contains("no live output"));
        assert!(silence_of("running", "the first attempt").is_some(), "what this attempt writes is missing");
        assert!(silence_of("queued", "").expect("it waits").contains("queued") && silence_of("completed", "").is_some());
        assert!(silence_of("skipped", "").is_some_and(|said| said.ends_with("it never ran")), "no attempt");
        assert_eq!((silence_of("retrying", "x"), silence_of("completed", "x")), (None, None));
    }

    #[test]
    fn only_the_last_lines_of_a_failure_are_told() {
        assert_eq!(last_lines("a\nb\nc\n", 2), ["b", "c"]);
        assert_eq!(last_lines("a", 2), ["a"]);
        assert!(is_told(&["oh no "], "oh no ", "exit code 3: oh no"));
        assert!(!is_told(&["first", "oh no"], "oh no", "exit code 3: oh no") && !is_told(&["x"], "x", "exit code 3"));
    }
}
