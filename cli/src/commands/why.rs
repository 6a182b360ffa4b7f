//! `why`: what a task waits for.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_json};
use super::target::{GivenId, Target, parse_id};
use crate::client::operating::Why;
use crate::exit::Exit;
use crate::text::harmless_line;

/// Say what a task waits for: other tasks, a retry, a timer, a paused queue, executors, room, its turn; or where it runs, or how it ended.
#[derive(Debug, clap::Args)]
pub struct WhyArgs {
    /// The id of a task, or its first 8 or more digits.
    #[arg(value_name = "TASK", value_parser = parse_id)]
    id: GivenId,
    #[command(flatten)]
    client: ClientArgs,
}

/// Says it.
///
/// # Errors
/// [`CommandError`], also for the id of a workflow.
pub async fn why(args: &WhyArgs) -> Result<Exit, CommandError> {
    let context = Context::new(&args.client)?;
    let target = context.resolve(&args.id).await?;
    if let Target::Workflow(id) = target {
        // Any UUID has the form of one of the two: whether there is such a workflow, the coordinator knows.
        context.about(target).await?;
        let remedy = format!("TASK: {id} is a workflow; pass one of its tasks, which `orchestr8 status {id} -o json` lists");
        return Err(CommandError::Usage(remedy));
    }
    let path = format!("{}/why", target.path());
    let answer = context.client.get(&path).await?;
    match context.format {
        Format::Json => emit_json(&answer)?,
        Format::Text => emit(&lines(&context.client.shaped(&path, &answer)?))?,
    }
    Ok(Exit::Done)
}

fn lines(why: &Why) -> String {
    let head = format!("{} {} is {} (queue {}, {})", why.task_id, why.name, why.status, why.queue, why.priority);
    let reasons = why.reasons.iter().map(|reason| format!("  {}", harmless_line(&reason.message)));
    std::iter::once(harmless_line(&head)).chain(reasons).collect::<Vec<_>>().join("\n")
}
