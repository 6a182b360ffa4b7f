//! `status` and `result`: one task or workflow.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_foreign, emit_json, shown_value};
use super::target::{GivenId, Target, parse_id};
use super::task::show_end;
use super::values::parse_span;
use super::wait::{ask, until_ended, workflow_end};
use super::watch::{read_tasks, read_tree};
use crate::client::operating::Why;
use crate::client::shapes::{Task, Workflow, error_text};
use crate::exit::Exit;
use crate::text::{harmless, harmless_line, show_duration};
use crate::tree::{Colors, Ids, Look};
use orchestr8_proto::ids::{ExecutionId, TaskId};
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use serde_json::Value;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

/// Lines of a workflow's tree; beyond it, the most telling tasks are shown. `-o json` shows all.
const TREE_LINES_MAX: usize = 500;
/// Columns of a tree that may go into a file.
const TREE_COLUMNS: usize = 200;

/// Show the state of a task or workflow, a workflow with the ids of its tasks; with -o json they are all under `tasks`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// The id of a task or workflow, or its first 8 or more digits.
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: GivenId,
    #[command(flatten)]
    client: ClientArgs,
}

/// Print the result of a task, or the output of a workflow; exit code 1 if it has none because it failed.
#[derive(Debug, clap::Args)]
pub struct ResultArgs {
    /// The id of a task or workflow, or its first 8 or more digits.
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: GivenId,
    /// Wait for the end if it has not ended; without it, exit code 124 tells that it has not.
    #[arg(long)]
    wait: bool,
    /// With --wait: stop waiting after this time with exit code 124; the work goes on.
    #[arg(long, value_name = "DURATION", value_parser = parse_span, requires = "wait")]
    timeout: Option<Duration>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Prints the state.
///
/// # Errors
/// [`CommandError`].
pub async fn status(args: &StatusArgs) -> Result<Exit, CommandError> {
    let context = Context::new(&args.client)?;
    let target = context.resolve(&args.id).await?;
    match (context.format, target) {
        (Format::Json, Target::Workflow(id)) => {
            let mut document = context.about(target).await?;
            document["tasks"] = Value::Array(read_tasks(&context, id).await?);
            emit_json(&document)?;
        }
        (Format::Json, Target::Task(_)) => emit_json(&context.about(target).await?)?,
        (Format::Text, Target::Workflow(id)) => workflow_status(&context, id).await?,
        (Format::Text, Target::Task(id)) => task_status(&context, id).await?,
    }
    Ok(Exit::Done)
}

/// Prints the result; the exit code tells whether there is one.
///
/// # Errors
/// [`CommandError`].
pub async fn result(args: &ResultArgs) -> Result<Exit, CommandError> {
    let context = Context::new(&args.client)?;
    let target = context.resolve(&args.id).await?;
    let ended = if args.wait {
        until_ended(&context, target, args.timeout.map(|timeout| Instant::now() + timeout)).await?
    } else {
        ask(&context, target, None).await?
    };
    match (ended, target) {
        (Some(ended), Target::Task(_)) => show_end(&context, &ended),
        (Some(ended), Target::Workflow(_)) => workflow_result(&context, &ended.answer),
        (None, _) => {
            eprintln!("{target} has not ended yet: `orchestr8 wait {target}`");
            Ok(Exit::TimedOut)
        }
    }
}

fn workflow_result(context: &Context, answer: &Value) -> Result<Exit, CommandError> {
    let workflow: Workflow = context.client.shaped("workflow", answer)?;
    let exit = workflow_end(workflow.status).map_or(Exit::TimedOut, |(_, exit)| exit);
    match context.format {
        Format::Json => emit_json(answer)?,
        Format::Text if exit == Exit::Done => emit_foreign(&shown_value(&workflow.output))?,
        Format::Text => {}
    }
    if exit == Exit::Failed {
        let reason = workflow.error.map(|error| format!(": {}", harmless(&error))).unwrap_or_default();
        eprintln!("workflow {} {}{reason}", workflow.workflow_id, workflow.status);
    }
    Ok(exit)
}

async fn workflow_status(context: &Context, id: ExecutionId) -> Result<(), CommandError> {
    let tree = read_tree(context, id).await?;
    let look = Look { lines_max: TREE_LINES_MAX, columns: TREE_COLUMNS, colors: Colors::Off, ids: Ids::Shown };
    let now = OffsetDateTime::now_utc();
    let mut lines = tree.frame(look, now);
    if tree.status == WorkflowStatus::Pending {
        lines.extend(start_of(context, id).await?.map(|start| format!("starts in {}", due_shown(start, now))));
    }
    emit(&format!("workflow {id}\n{}", lines.join("\n")))
}

/// When a workflow that was submitted for later starts: its first tasks wait for that.
async fn start_of(context: &Context, id: ExecutionId) -> Result<Option<OffsetDateTime>, CommandError> {
    let tasks: Vec<Task> = context.client.shaped("tasks", &Value::Array(read_tasks(context, id).await?))?;
    Ok(tasks.iter().find_map(|task| task.due_at))
}

async fn task_status(context: &Context, id: TaskId) -> Result<(), CommandError> {
    let path = Target::Task(id).path();
    let task: Task = context.client.shaped(&path, &context.client.get(&path).await?)?;
    let lines = task_lines(&task, OffsetDateTime::now_utc());
    // What the task itself says comes from its row alone: nobody writes there that its executor is not heard.
    let silent = if task.status == TaskStatus::Running { silence(context, id).await? } else { None };
    match silent {
        Some(silent) => emit(&format!("{lines}\n{:<9} {}", "silent", harmless_line(&silent))),
        None => emit(&lines),
    }
}

/// That the executor of a running task is not heard; none: it is.
async fn silence(context: &Context, id: TaskId) -> Result<Option<String>, CommandError> {
    let path = format!("{}/why", Target::Task(id).path());
    let why: Why = context.client.shaped(&path, &context.client.get(&path).await?)?;
    Ok(why.reasons.into_iter().find(|reason| reason.reason == "silent").map(|reason| reason.message))
}

fn task_lines(task: &Task, now: OffsetDateTime) -> String {
    let mut lines = vec![("task", task.task_id.to_string()), ("name", harmless_line(&task.name)), ("status", task.status.to_string())];
    let mut add = |name: &'static str, value: Option<String>| lines.extend(value.map(|value| (name, harmless_line(&value))));
    add("workflow", Some(task.task_id.execution().to_string()));
    add("phase", task.phase.clone());
    add("agent", task.agent_name.clone());
    add(whose(task.status), task.executor_id.clone());
    add("attempt", (task.attempts > 0).then(|| attempts_shown(task)));
    let ran = task.started_at.and_then(|started| Duration::try_from(task.completed_at.unwrap_or(now) - started).ok());
    add("time", ran.map(show_duration));
    // An older coordinator tells of retries alone.
    add(timer(task), task.due_at.or(task.next_retry_at).map(|due| due_shown(due, now)));
    add("error", error_text(task.error_type.as_deref(), task.error.as_deref()));
    lines.iter().map(|(name, value)| format!("{name:<9} {value}")).collect::<Vec<_>>().join("\n")
}

/// A task that is to start again still names the executor of its last attempt.
const fn whose(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Pending | TaskStatus::Queued | TaskStatus::Retrying | TaskStatus::Waiting => "last on",
        TaskStatus::Running | TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Skipped | TaskStatus::Cancelled => "executor",
    }
}

/// What happens when a task's timer is due.
const fn timer(task: &Task) -> &'static str {
    match task.status {
        TaskStatus::Retrying => "retry in",
        // A sleep has begun, and is its own attempt.
        TaskStatus::Waiting if task.attempts > 0 => "ends in",
        TaskStatus::Waiting
        | TaskStatus::Pending
        | TaskStatus::Queued
        | TaskStatus::Running
        | TaskStatus::Completed
        | TaskStatus::Failed
        | TaskStatus::Skipped
        | TaskStatus::Cancelled => "starts in",
    }
}

/// `4.0s, at 2026-01-31T14:00:00Z`; what is due already is due `now`.
fn due_shown(due: OffsetDateTime, now: OffsetDateTime) -> String {
    let wait = Duration::try_from(due - now).map_or_else(|_| "now".to_owned(), show_duration);
    let at = due.replace_nanosecond(0).ok().and_then(|due| due.format(&Rfc3339).ok());
    at.map_or_else(|| wait.clone(), |at| format!("{wait}, at {at}"))
}

/// A run that was lost or given back uses up no retry, though the next has the next number; unless it ended the task, which
/// `at_most_once` forbids to start again.
fn attempts_shown(task: &Task) -> String {
    let is_spared = |outcome: &str| outcome == "lost" || outcome == "released";
    let spared = task.attempt_history.iter().filter(|attempt| is_spared(&attempt.outcome)).count();
    let is_end = task.is_ended_by_loss();
    let spared = spared - usize::from(is_end && spared > 0);
    let allowed = u64::from(task.max_attempts) + spared as u64;
    let end = if is_end { " (lost or given back, which ended the task)" } else { "" };
    let spared = if spared > 0 { format!(" ({spared} lost or given back, which uses up no retry)") } else { String::new() };
    format!("{} of {allowed}{spared}{end}", task.attempts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_task_is_shown_with_what_is_known() {
        let task = json!({
            "task_id": "0199abcd-0000-7000-8000-000000000001", "status": "retrying", "name": "build\u{1b}[2J", "agent_name": "run",
            "attempts": 1, "max_attempts": 3, "started_at": "2026-01-01T00:00:00Z", "completed_at": "2026-01-01T00:00:02Z",
            "next_retry_at": "2026-01-01T00:00:07Z", "error_type": "exit", "error": "exit code 1",
        });
        let now = time::macros::datetime!(2026-01-01 00:00:03 UTC);
        let expected = "task      0199abcd-0000-7000-8000-000000000001\nname      build\nstatus    retrying\n\
            workflow  0199abcd-0000-7000-8000-000000000000\nagent     run\nattempt   1 of 3\ntime      2.0s\nretry in  4.0s, at 2026-01-01T00:00:07Z\nerror     exit code 1";
        assert_eq!(task_lines(&serde_json::from_value(task.clone()).expect("a task"), now), expected);
        let once = json!({"task_id": "0199abcd-0000-7000-8000-000000000001", "status": "failed", "attempts": 1, "max_attempts": 1,
            "error_type": "lost", "attempt_history": [{"attempt": 1, "outcome": "lost", "executor_id": "e"}]});
        let once = task_lines(&serde_json::from_value(once).expect("a task"), now);
        assert!(once.contains("attempt   1 of 1 (lost or given back, which ended the task)"), "{once}");
        let waits = |attempts: u32| {
            let task = json!({"task_id": "0199abcd-0000-7000-8000-000000000001", "status": "waiting", "attempts": attempts, "due_at": "2026-01-01T02:00:03.5Z"});
            task_lines(&serde_json::from_value(task).expect("a task"), now)
        };
        assert!(waits(0).ends_with("starts in 2h 00m, at 2026-01-01T02:00:03Z"), "{}", waits(0));
        assert!(waits(1).ends_with("ends in   2h 00m, at 2026-01-01T02:00:03Z"), "{}", waits(1));
        let on = |status: &str| {
            let task = json!({"task_id": "0199abcd-0000-7000-8000-000000000001", "status": status, "executor_id": "e1"});
            task_lines(&serde_json::from_value(task).expect("a task"), now)
        };
        assert!(on("queued").contains("last on   e1") && on("running").contains("executor  e1"), "{}", on("queued"));
        let mut after_a_loss = task;
        after_a_loss["attempts"] = json!(2);
        after_a_loss["attempt_history"] = json!([{"attempt": 1, "outcome": "lost", "executor_id": "e"}]);
        let lines = task_lines(&serde_json::from_value(after_a_loss).expect("a task"), now);
        assert!(lines.contains("attempt   2 of 4 (1 lost or given back, which uses up no retry)"), "{lines}");
    }
}
