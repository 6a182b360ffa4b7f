//! `run`: submits a workflow; follows it or waits for it when asked.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_foreign, emit_json, shown_value};
use super::definition::{Undone, check_text, shown_name};
use super::logs::{Excerpt, emit_last_stdout, tell_failure};
use super::target::Target;
use super::task::{AboutArgs, tell_remarks};
use super::values::{object_of, parse_json_pair, parse_span, read_text};
use super::wait::until_ended;
use super::watch::{follow, read_tree};
use crate::client::shapes::{Workflow, WorkflowAccepted};
use crate::exit::Exit;
use crate::text::{counted, harmless, show_duration};
use crate::tree::{Tree, TreeTask};
use orchestr8_core::definition::check_input;
use orchestr8_proto::ids::ExecutionId;
use orchestr8_proto::words::WorkflowStatus;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;

const PATH: &str = "/api/v1/workflows";
/// Failed tasks whose last output is shown at the end.
const FAILURES_SHOWN_MAX: usize = 8;

/// Run a workflow from a file, or a registered one by its name.
///
/// Prints the workflow's id and returns. With --watch or --wait the id goes to stderr, stdout gets the workflow's
/// output at its end, and the exit code tells the outcome. If it failed, stdout gets what the last failed task wrote there.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// A file with the definition (YAML or JSON), `-` for stdin, or the name of a registered one: NAME or NAME@VERSION.
    #[arg(value_name = "FILE|NAME[@VERSION]")]
    definition: String,
    /// An input, NAME=VALUE; the value is JSON where it reads as JSON, else text. Repeatable; wins over --input-file.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_json_pair)]
    input: Vec<(String, Value)>,
    /// A file with the input as one JSON object, `-` for stdin.
    #[arg(long, value_name = "FILE")]
    input_file: Option<PathBuf>,
    #[command(flatten)]
    about: AboutArgs,
    /// Show its progress on stderr until it has ended: a live tree on a terminal, else one line per change.
    #[arg(long)]
    watch: bool,
    /// Wait until it has ended, without showing progress.
    #[arg(long)]
    wait: bool,
    /// With --watch or --wait: stop waiting after this time with exit code 124; the workflow goes on.
    #[arg(long, visible_alias = "wait-timeout", value_name = "DURATION", value_parser = parse_span)]
    timeout: Option<Duration>,
    /// Without the commands to try next: `dev --ephemeral` removes what they would ask about.
    #[arg(long, hide = true)]
    no_next: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Submits the workflow and does what else is asked.
///
/// # Errors
/// [`CommandError`].
pub async fn run(args: &RunArgs) -> Result<Exit, CommandError> {
    let stays = args.watch || args.wait;
    if args.timeout.is_some() && !stays {
        return Err(CommandError::Usage("--timeout bounds --watch or --wait: give one of them".into()));
    }
    let body = body(args)?;
    let context = Context::new(&args.client)?;
    let answer = args.about.submit(&context, PATH, &body).await?;
    let accepted: WorkflowAccepted = context.client.shaped(PATH, &answer)?;
    tell_remarks(&accepted.remarks);
    if stays {
        eprintln!("workflow {}", accepted.workflow_id);
        return stay(args, &context, accepted.workflow_id).await;
    }
    match context.format {
        Format::Text => emit(&accepted.workflow_id.to_string())?,
        Format::Json => emit_json(&answer)?,
    }
    tell_next(args, accepted.workflow_id, Next::Wait);
    Ok(Exit::Done)
}

/// Checks a definition in a file and its inputs, as the coordinator will; a registered one can only be checked there.
///
/// # Errors
/// [`CommandError`].
pub fn check(given: &str, inputs: &[(String, Value)]) -> Result<(), CommandError> {
    if given == "-" {
        return Err(CommandError::Usage("--run -: stdin is not passed on, so name a file".to_owned()));
    }
    let inputs = Value::Object(object_of("--input", inputs)?);
    if !names_file(given) {
        return Ok(());
    }
    let parsed = check_text(given, &read_text(Path::new(given))?, Undone::Submitted)?;
    check_input(&parsed.plan, &inputs).map_err(|problems| {
        let told: Vec<String> = problems.iter().map(|problem| format!("\n  input{}: {}", problem.pointer, problem.message)).collect();
        CommandError::Input(format!("the input does not fit {given}:{}", harmless(&told.concat())))
    })
}

async fn stay(args: &RunArgs, context: &Context, id: ExecutionId) -> Result<Exit, CommandError> {
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let tree = if args.watch {
        follow(context, id, deadline).await?
    } else {
        let ended = until_ended(context, Target::Workflow(id), deadline).await?;
        if ended.is_some() { Some(read_tree(context, id).await?) } else { None }
    };
    if let Some(tree) = tree {
        let exit = finish(context, id, &tree).await?;
        tell_next(args, id, Next::Status);
        return Ok(exit);
    }
    eprintln!("workflow {id} has not ended yet; it goes on");
    tell_next(args, id, Next::Wait);
    Ok(Exit::TimedOut)
}

/// Prints the output of an ended workflow, or why there is none, and what its parallel tasks gained.
async fn finish(context: &Context, id: ExecutionId, tree: &Tree) -> Result<Exit, CommandError> {
    let path = Target::Workflow(id).path();
    let answer = context.client.get(&path).await?;
    let workflow: Workflow = context.client.shaped(&path, &answer)?;
    match context.format {
        Format::Json => emit_json(&answer)?,
        Format::Text if !workflow.output.is_null() => emit_foreign(&shown_value(&workflow.output))?,
        Format::Text => {}
    }
    let told: Vec<&TreeTask> = tree.failed().take(FAILURES_SHOWN_MAX).collect();
    let reporter = told.last().map(|task| task.id).filter(|_| context.format == Format::Text);
    for failed in &told {
        let excerpt = if reporter == Some(failed.id) { Excerpt::Stderr } else { Excerpt::Either };
        tell_failure(context, failed.id, excerpt).await?;
    }
    if let Some(reporter) = reporter {
        emit_last_stdout(context, reporter).await?;
    }
    let reason = workflow.error.as_deref().filter(|error| !is_told(error, &told));
    let reason = reason.map(|error| format!(": {}", harmless(error))).unwrap_or_default();
    if workflow.status != WorkflowStatus::Completed {
        eprintln!("workflow {id} {}{reason}", workflow.status);
    }
    tell_gain(tree);
    Ok(super::wait::workflow_end(workflow.status).map_or(Exit::Failed, |(_, exit)| exit))
}

/// Whether the reason of a failed workflow is one of the tasks that have been told.
fn is_told(error: &str, told: &[&TreeTask]) -> bool {
    told.iter().any(|task| error.starts_with(&format!("task `{}` failed", task.name)))
}

fn tell_gain(tree: &Tree) {
    let summary = tree.summary(OffsetDateTime::now_utc());
    if let Some(gain) = summary.gain() {
        let (work, wall) = (show_duration(summary.task_time), show_duration(summary.wall_time));
        eprintln!("{}: {work} of task time in {wall} ({gain:.1} x)", counted(tree.tasks.len(), "task"));
    }
}

/// Tells the next commands to try; `first` is the most useful one now.
fn tell_next(args: &RunArgs, id: ExecutionId, first: Next) {
    if !args.no_next {
        let program = std::env::args().next().unwrap_or_else(|| "orchestr8".to_owned());
        eprintln!("{}", next_lines(&program, id, first));
    }
}

/// The program is called as this one was, which need not be on PATH.
fn next_lines(program: &str, id: ExecutionId, first: Next) -> String {
    let first = match first {
        Next::Wait => format!("  {program} wait {id}    until it has ended"),
        Next::Status => format!("  {program} status {id}  every task"),
    };
    format!("next:\n{first}\n  {program} logs {id}    what its tasks wrote\n  {program} list --workflows")
}

/// What to do next with a workflow.
#[derive(Debug, Clone, Copy)]
enum Next {
    Wait,
    Status,
}

fn body(args: &RunArgs) -> Result<Value, CommandError> {
    let mut body = Map::new();
    body.insert("definition".into(), Value::String(definition_text(&args.definition)?));
    let input = input(args)?;
    if !input.is_empty() {
        body.insert("input".into(), Value::Object(input));
    }
    args.about.add_to(&mut body)?;
    Ok(Value::Object(body))
}

/// The text of a file, checked here so that mistakes are shown with the file's name; else the name itself.
fn definition_text(given: &str) -> Result<String, CommandError> {
    if !names_file(given) {
        return Ok(given.to_owned());
    }
    let text = read_text(Path::new(given))?;
    check_text(&shown_name(Path::new(given)), &text, Undone::Submitted)?;
    Ok(text)
}

/// Whether a file is meant: it has a path or an extension of one, or is there.
fn names_file(given: &str) -> bool {
    let path = Path::new(given);
    let extension = path.extension().and_then(|extension| extension.to_str());
    given == "-" || given.contains('/') || matches!(extension, Some("yaml" | "yml" | "json")) || path.is_file()
}

fn input(args: &RunArgs) -> Result<Map<String, Value>, CommandError> {
    let mut input = match &args.input_file {
        None => Map::new(),
        Some(file) => {
            let wrong = |reason: String| CommandError::Usage(format!("--input-file {}: {reason}", file.display()));
            match serde_json::from_str(&read_text(file)?) {
                Ok(Value::Object(object)) => object,
                Ok(_) => return Err(wrong("it must hold one JSON object".into())),
                Err(error) => return Err(wrong(format!("it is not JSON: {error}"))),
            }
        }
    };
    input.extend(object_of("--input", &args.input)?);
    Ok(input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parsed(words: &[&str]) -> Result<Value, String> {
        let words = std::iter::once("run").chain(words.iter().copied());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        body(&line.run).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_is_sent_as_it_is_with_inputs_over_the_file() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), r#"{"a": 1, "b": 2}"#).expect("writable");
        let file = file.path().display().to_string();
        let sent = parsed(&["gates@3", "--input-file", &file, "--input", "b=[3]", "--tag", "nightly", "--user", "u", "--metadata", "m=x"]);
        let expected =
            json!({"definition": "gates@3", "input": {"a": 1, "b": [3]}, "tags": ["nightly"], "user_id": "u", "metadata": {"m": "x"}});
        assert_eq!(sent, Ok(expected));
    }

    #[test]
    fn a_later_start_is_sent_and_a_key_is_no_part_of_the_body() {
        let sent = parsed(&["gates", "--run-at", "2026-01-31T14:00:00Z", "--idempotency-key", "nightly-7"]);
        assert_eq!(sent, Ok(json!({"definition": "gates", "run_at": "2026-01-31T14:00:00Z"})));
        assert!(parsed(&["gates", "--idempotency-key", "two words"]).is_ok());
        assert!(parsed(&["gates", "--idempotency-key", "zwei Wörter"]).expect_err("no ASCII").contains("printable ASCII"));
        assert!(parsed(&["gates", "--run-at", "+2h"]).expect("a distance")["run_at"].as_str().is_some_and(|at| at.ends_with('Z')));
    }

    #[test]
    fn an_input_file_must_hold_an_object() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "[1]").expect("writable");
        let refused = parsed(&["gates", "--input-file", &file.path().display().to_string()]).expect_err("an array");
        assert!(refused.contains("one JSON object"), "{refused}");
    }

    #[test]
    fn what_will_be_run_is_checked_before() {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a temporary file");
        let text = "name: x\ninput: {type: object, required: [n], properties: {n: {type: integer}}}\ntasks: [{name: a, run: 'true'}]\n";
        std::fs::write(file.path(), text).expect("writable");
        let given = file.path().display().to_string();
        assert!(check(&given, &[("n".to_owned(), json!(1))]).is_ok() && check("registered", &[]).is_ok());
        assert!(check(&given, &[]).expect_err("no input").to_string().contains("\"n\" is a required property"));
        assert!(check("missing.yaml", &[]).is_err() && check("-", &[]).is_err());
        std::fs::write(file.path(), "name: x").expect("writable");
        assert!(check(&given, &[]).is_err(), "no tasks");
    }

    #[test]
    fn what_is_next_is_called_as_this_was() {
        let id = ExecutionId::generate(1, 0, &mut rand::rng());
        let lines = next_lines("target/debug/orchestr8", id, Next::Wait);
        assert_eq!(lines.lines().skip(1).filter(|line| line.starts_with("  target/debug/orchestr8 ")).count(), 3, "{lines}");
    }

    #[test]
    fn files_and_names_are_told_apart() {
        assert!(["-", "./gates", "gates.yaml", "a/b.json"].into_iter().all(names_file));
        assert!(!["gates", "gates@3"].into_iter().any(names_file));
        assert!(parsed(&["missing.yaml"]).expect_err("no such file").contains("missing.yaml"));
    }
}
