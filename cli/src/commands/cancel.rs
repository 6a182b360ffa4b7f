//! `cancel`: ends a task or workflow before its time.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_json};
use super::target::{GivenId, parse_id};
use crate::exit::Exit;
use serde_json::Value;

/// Cancel a task or workflow.
///
/// Prints the state that it is in then: running tasks are asked to end first, so that it can still be `running`.
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
        Format::Text => emit(&format!("{target} {}", answer.get("status").and_then(Value::as_str).unwrap_or("cancelling")))?,
    }
    Ok(Exit::Done)
}
