//! `why`: what a task waits for, or what the tasks of a workflow wait for.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_json};
use super::target::{GivenId, Target, parse_id};
use crate::client::operating::{Reason, Why, WorkflowWhy};
use crate::exit::Exit;
use crate::text::{counted, harmless_line};

/// Say what a task waits for: other tasks, a retry, a timer, a paused queue, executors, room, its turn; or where it runs, or how it ended.
///
/// Of a workflow, its tasks that have not ended are listed, each with the reason that tells most.
#[derive(Debug, clap::Args)]
pub struct WhyArgs {
    /// The id of a task or workflow, or its first 8 or more digits.
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: GivenId,
    #[command(flatten)]
    client: ClientArgs,
}

/// Says it.
///
/// # Errors
/// [`CommandError`].
pub async fn why(args: &WhyArgs) -> Result<Exit, CommandError> {
    let context = Context::new(&args.client)?;
    let target = context.resolve(&args.id).await?;
    let path = format!("{}/why", target.path());
    let answer = context.client.get(&path).await?;
    match (context.format, target) {
        (Format::Json, _) => emit_json(&answer)?,
        (Format::Text, Target::Task(_)) => emit(&lines(&context.client.shaped(&path, &answer)?))?,
        (Format::Text, Target::Workflow(_)) => emit(&workflow_lines(&context.client.shaped(&path, &answer)?))?,
    }
    Ok(Exit::Done)
}

fn lines(why: &Why) -> String {
    let head = format!("{} {} is {} (queue {}, {})", why.task_id, why.name, why.status, why.queue, why.priority);
    let reasons = why.reasons.iter().map(|reason| format!("  {}", harmless_line(&reason.message)));
    std::iter::once(harmless_line(&head)).chain(reasons).collect::<Vec<_>>().join("\n")
}

fn workflow_lines(why: &WorkflowWhy) -> String {
    let (unended, error) = (counted(why.tasks_total, "task"), why.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default());
    let head = format!("{} {} is {}{error}: {unended} not ended", why.workflow_id, why.workflow_name, why.status);
    let told = |task: &Why| {
        let reason = telling(&task.reasons).map(|reason| format!(": {}", reason.message)).unwrap_or_default();
        format!("  {}", harmless_line(&format!("{} {} is {}{reason}", task.task_id, task.name, task.status)))
    };
    let more = why.tasks_total.saturating_sub(why.tasks.len());
    let more = (more > 0).then(|| format!("  and {more} more: `orchestr8 status {}`", why.workflow_id));
    std::iter::once(harmless_line(&head)).chain(why.tasks.iter().map(told)).chain(more).collect::<Vec<_>>().join("\n")
}

/// That it runs says less than what is in the way of its end.
fn telling(reasons: &[Reason]) -> Option<&Reason> {
    reasons.iter().find(|reason| reason.reason != "running").or_else(|| reasons.first())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_a_workflow_each_task_that_has_not_ended_has_a_line() {
        let task = |digit: u32, name: &str, reasons: &[(&str, &str)]| {
            let reasons: Vec<_> = reasons.iter().map(|(word, message)| json!({"reason": word, "message": message})).collect();
            json!({"task_id": format!("0199abcd-0000-7000-8000-00000000000{digit}"), "name": name, "status": "running",
                "queue": "default", "priority": "normal", "reasons": reasons})
        };
        let why = json!({"workflow_id": "0199abcd-0000-7000-8000-000000000000", "workflow_name": "night\u{1b}[2J", "status": "running",
            "error": null, "tasks_total": 22, "tasks": [
                task(1, "a", &[("running", "it runs"), ("silent", "`e1` has been silent")]), task(2, "b", &[("running", "it runs")])]});
        let expected = "0199abcd-0000-7000-8000-000000000000 night is running: 22 tasks not ended\n  \
            0199abcd-0000-7000-8000-000000000001 a is running: `e1` has been silent\n  \
            0199abcd-0000-7000-8000-000000000002 b is running: it runs\n  \
            and 20 more: `orchestr8 status 0199abcd-0000-7000-8000-000000000000`";
        assert_eq!(workflow_lines(&serde_json::from_value(why).expect("an answer")), expected);
    }
}
