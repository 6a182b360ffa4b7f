//! `task --batch`: many tasks from a file, in groups of one transaction each.

use super::CommandError;
use super::context::{Context, Format, emit, emit_json};
use super::definition::shown_name;
use super::task::{PATH, tell_remarks};
use super::values::read_text;
use crate::client::ClientError;
use crate::client::shapes::{Remarks, TaskAccepted};
use crate::exit::Exit;
use crate::text::counted;
use orchestr8_coordinator::api::body::BODY_BYTES_MAX;
use orchestr8_coordinator::api::json;
use orchestr8_coordinator::api::submit::BATCH_TASKS_MAX;
use serde_json::Value;
use std::path::Path;
use uuid::Uuid;

/// Tasks that travel together: as many as one request takes, in tasks and in bytes.
#[derive(Debug, PartialEq)]
struct Group {
    /// The place of the first one in the file, from 0.
    first: usize,
    tasks: Vec<Value>,
    bytes: usize,
}

/// Submits the tasks of a file and prints their ids. Each group has a key of its own, made of the batch's key and the group's place:
/// who submits the same batch under the same key again gets the same ids, also where only a part of it had been accepted.
///
/// What is refused is told with how many had been accepted, and how to go on; the exit code is that of the refusal.
///
/// # Errors
/// [`CommandError`] before anything was submitted, or where stdout takes nothing.
pub async fn batch(context: &Context, file: &Path, key: Option<&str>) -> Result<Exit, CommandError> {
    let tasks = tasks_of(&shown_name(file), &read_text(file)?)?;
    let key = key.map_or_else(|| Uuid::new_v4().to_string(), ToOwned::to_owned);
    let mut told = Told::default();
    let mut refused = None;
    for group in groups(tasks) {
        if let Err(error) = submit(context, group, &key, &mut told).await {
            refused = Some(error);
            break;
        }
    }
    tell_remarks(&Remarks { warnings: told.warnings, replayed: false });
    if told.replayed > 0 {
        eprintln!("submitted before under the same idempotency key, and not started again: {}", counted(told.replayed, "task"));
    }
    if context.format == Format::Json {
        emit_json(&Value::Array(told.answers))?;
    }
    let Some(error) = refused else { return Ok(Exit::Done) };
    error.tell();
    eprintln!("{}", how_to_go_on(&error, told.accepted, &key));
    Ok(error.exit())
}

/// What was not reached may take the same file later; what was refused for its tasks takes a corrected one.
fn how_to_go_on(error: &CommandError, accepted: usize, key: &str) -> String {
    let first = if error.exit() == Exit::Failed { "once the file is corrected, " } else { "" };
    let key = if key.contains(' ') { format!("'{key}'") } else { key.to_owned() };
    let accepted = counted(accepted, "task");
    format!("accepted: {accepted}; {first}the same command with `--idempotency-key {key}` submits the rest, and nothing twice")
}

/// What the groups so far were answered.
#[derive(Debug, Default)]
struct Told {
    accepted: usize,
    /// Of them, those that had been submitted before.
    replayed: usize,
    /// Each once.
    warnings: Vec<String>,
    /// Kept for JSON only: text is printed as it comes.
    answers: Vec<Value>,
}

/// Submits one group and prints its ids.
async fn submit(context: &Context, group: Group, key: &str, told: &mut Told) -> Result<(), CommandError> {
    let (key, first, count) = (format!("{key}/{}", group.first), group.first, group.tasks.len());
    let answer = context.client.submit_as(PATH, &Value::Array(group.tasks), &key).await;
    let answer = answer.map_err(|error| placed(error, first, count))?;
    let accepted: Vec<TaskAccepted> = context.client.shaped(PATH, &answer)?;
    told.accepted += accepted.len();
    told.replayed += accepted.iter().filter(|task| task.remarks.replayed).count();
    for warning in accepted.iter().flat_map(|task| &task.remarks.warnings) {
        if !told.warnings.contains(warning) {
            told.warnings.push(warning.clone());
        }
    }
    match (context.format, answer) {
        (Format::Text, _) => emit(&accepted.iter().map(|task| task.task_id.to_string()).collect::<Vec<_>>().join("\n"))?,
        (Format::Json, Value::Array(answers)) => told.answers.extend(answers),
        (Format::Json, other) => told.answers.push(other),
    }
    Ok(())
}

/// A refusal with the places that the tasks have in the file instead of those in their group, which begins with `first`.
fn placed(error: ClientError, first: usize, count: usize) -> ClientError {
    let ClientError::Refused(mut problem) = error else { return error };
    let in_file = |field: &str| shifted(field, first);
    problem.field = problem.field.as_deref().map(in_file);
    for error in &mut problem.errors {
        error.field = error.field.as_deref().map(in_file);
    }
    let whole = || format!("[{first}] to [{}]", first + count - 1);
    let place = problem.field.clone().filter(|field| field.starts_with('[')).unwrap_or_else(whole);
    problem.detail = format!("{place}: {}", problem.detail);
    ClientError::Refused(problem)
}

/// `[3].timeout` in the group of the 1,000th task is `[1003].timeout`.
fn shifted(field: &str, first: usize) -> String {
    let split = field.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let index = split.and_then(|(index, rest)| Some((index.parse::<usize>().ok()?, rest)));
    index.map_or_else(|| field.to_owned(), |(index, rest)| format!("[{}]{rest}", first + index))
}

/// The tasks of an array, or of lines with one each. They are read as the coordinator reads them: nothing is accepted and ignored.
fn tasks_of(file: &str, text: &str) -> Result<Vec<Value>, CommandError> {
    let wrong = |reason: String| CommandError::Usage(format!("{file}: {reason}"));
    let tasks = if text.trim_start().starts_with('[') {
        match json::read(text.as_bytes()).map_err(|error| wrong(format!("it is not acceptable JSON: {error}")))? {
            Value::Array(tasks) => tasks,
            other => vec![other],
        }
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let task = |(index, line): (usize, &str)| json::read(line.as_bytes()).map_err(|error| wrong(line_refusal(index + 1, &error)));
        lines.map(task).collect::<Result<_, _>>()?
    };
    if tasks.is_empty() { Err(wrong("there is no task in it".into())) } else { Ok(tasks) }
}

fn line_refusal(line: usize, error: &serde_json::Error) -> String {
    // Its own line is always the first.
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or(&said);
    format!("line {line}, column {}: {said}; write a JSON array of tasks, or one JSON object a line", error.column())
}

fn groups(tasks: Vec<Value>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (place, task) in tasks.into_iter().enumerate() {
        // With the comma after it; the brackets of the array count with the first.
        let bytes = task.to_string().len() + 1;
        match groups.last_mut() {
            Some(group) if group.tasks.len() < BATCH_TASKS_MAX && group.bytes + bytes <= BODY_BYTES_MAX => {
                group.tasks.push(task);
                group.bytes += bytes;
            }
            Some(_) | None => groups.push(Group { first: place, tasks: vec![task], bytes: bytes + 2 }),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::problem::{PlacedProblem, Problem};
    use serde_json::json;

    fn read(text: &str) -> Result<Vec<Value>, String> {
        tasks_of("tasks.json", text).map_err(|error| error.to_string())
    }

    #[test]
    fn tasks_come_as_an_array_or_one_a_line() {
        let two = vec![json!({"run": "a"}), json!({"run": "b"})];
        assert_eq!(read(" [{\"run\": \"a\"},\n {\"run\": \"b\"}]\n"), Ok(two.clone()));
        assert_eq!(read("{\"run\": \"a\"}\r\n\n{\"run\": \"b\"}"), Ok(two));
        for (text, said) in [
            ("", "tasks.json: there is no task in it"),
            ("[]", "no task"),
            ("{\"run\": \"a\"}\n\n{\"run\": }", "line 3, column 9: "),
            ("{\n  \"run\": \"a\"\n}", "one JSON object a line"),
            ("{\"run\": \"a\", \"run\": \"b\"}", "the key `run` is given twice;"),
            ("[{\"run\": \"a\"}, ]", "not acceptable JSON: trailing comma at line 1"),
        ] {
            let refused = read(text).expect_err(text);
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn groups_fit_a_request_in_tasks_and_bytes() {
        let firsts = |tasks: Vec<Value>| groups(tasks).iter().map(|group| (group.first, group.tasks.len())).collect::<Vec<_>>();
        assert_eq!(firsts(vec![json!({"handler": "noop"}); 2_500]), [(0, 1_000), (1_000, 1_000), (2_000, 500)]);
        // As a body they are a few bytes longer than their texts.
        let half = |rest: usize| json!({"prompt": "x".repeat(BODY_BYTES_MAX / 2 - rest)});
        assert_eq!(firsts(vec![half(100), half(100), half(100)]), [(0, 2), (2, 1)]);
        let body = |tasks: Vec<Value>| Value::Array(tasks).to_string().len();
        let (fits, over) = (vec![half(15), half(15)], vec![half(15), half(14)]);
        assert_eq!((body(fits.clone()), firsts(fits).len()), (BODY_BYTES_MAX - 1, 1));
        assert_eq!((body(over.clone()), firsts(over).len()), (BODY_BYTES_MAX, 2), "the count is a bound from above");
    }

    #[test]
    fn what_is_left_goes_the_same_way_after_a_correction_if_one_is_needed() {
        let refused = CommandError::Client(ClientError::Refused(Box::new(Problem { status: 400, ..Problem::default() })));
        let of_file = how_to_go_on(&refused, 0, "k");
        assert_eq!(
            of_file,
            "accepted: 0 tasks; once the file is corrected, the same command with `--idempotency-key k` submits the rest, and nothing twice"
        );
        let away = CommandError::Client(ClientError::Unreachable { url: "u".into(), reason: "r".into() });
        assert!(how_to_go_on(&away, 1, "a b").starts_with("accepted: 1 task; the same command with `--idempotency-key 'a b'` "));
    }

    #[test]
    fn a_refusal_names_the_place_in_the_file() {
        let error = |field: &str| PlacedProblem { field: Some(field.into()), message: "must be".into(), ..PlacedProblem::default() };
        let problem = Problem {
            detail: "`timeout` must be".into(),
            field: Some("[3].timeout".into()),
            errors: vec![error("[3].timeout"), error("[4].queue")],
            code: "bad_field".into(),
            ..Problem::default()
        };
        let placed = |problem: Problem| placed(ClientError::Refused(Box::new(problem)), 1_000, 10);
        let ClientError::Refused(told) = placed(problem) else { panic!("it stays a refusal") };
        assert_eq!(told.to_string(), "[1003].timeout: `timeout` must be (bad_field)");
        assert_eq!(told.lines(None), ["[1004].queue: must be"]);
        let whole = Problem { detail: "too large".into(), code: "body_too_large".into(), ..Problem::default() };
        let ClientError::Refused(told) = placed(whole) else { panic!("it stays a refusal") };
        assert_eq!(told.to_string(), "[1000] to [1009]: too large (body_too_large)");
    }
}
