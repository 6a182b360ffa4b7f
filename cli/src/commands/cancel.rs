//! `cancel`: ends a task or workflow before its time.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_json};
use super::target::{GivenId, parse_id};
use crate::exit::Exit;
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use serde_json::Value;

/// Cancel a task or workflow.
///
/// Prints `cancelled`, or `cancelling` while what runs is being ended: `orchestr8 wait` tells its end.
#[derive(Debug, clap::Args)]
pub struct CancelArgs {
    /// The id of a task or workflow, or its first 8 or more digits.
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: GivenId,
    #[command(flatten)]
    client: ClientArgs,
}

/// Cancels.
///
/// # Errors
/// [`CommandError::Client`], also when it has ended already.
pub async fn cancel(args: &CancelArgs) -> Result<Exit, CommandError> {
    let context = Context::new(&args.client)?;
    let target = context.resolve(&args.id).await?;
    let answer = context.client.command(&format!("{}/cancel", target.path())).await?;
    match context.format {
        Format::Json => emit_json(&answer)?,
        Format::Text => emit(&format!("{target} {}", shown_state(answer.get("status").and_then(Value::as_str))))?,
    }
    Ok(Exit::Done)
}

/// What has not ended has been told to: `running` would read as if nothing had happened.
fn shown_state(status: Option<&str>) -> &str {
    let is_final = |status: &&str| {
        status.parse().is_ok_and(|status: TaskStatus| status.is_final())
            || status.parse().is_ok_and(|status: WorkflowStatus| status.is_final())
    };
    status.filter(is_final).unwrap_or("cancelling")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_been_told_to_end_is_cancelling() {
        let states = [Some("cancelled"), Some("running"), Some("retrying"), None].map(shown_state);
        assert_eq!(states, ["cancelled", "cancelling", "cancelling", "cancelling"]);
    }
}
