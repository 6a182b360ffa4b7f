//! `queues`: depths, pausing, resuming.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_json};
use super::list::{table, with_query};
use crate::client::operating::{Queue, QueueAnswer, QueueList};
use crate::exit::Exit;
use crate::text::{harmless_line, show_duration};
use orchestr8_proto::names::check_queue_name;
use orchestr8_proto::words::Priority;
use std::time::Duration;

const PATH: &str = "/api/v1/queues";

/// Look at queues, pause and resume them.
///
/// A paused queue dispatches nothing new, at any coordinator and also after restarts, until it is resumed. What executors have taken goes on; submissions are accepted and wait.
#[derive(Debug, clap::Args)]
pub struct QueuesArgs {
    #[command(subcommand)]
    command: QueuesCommand,
}

#[derive(Debug, clap::Subcommand)]
enum QueuesCommand {
    /// List queues that have tasks or executors, or are paused. Slots of an executor of several queues show in each.
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Dispatch nothing new of a queue.
    Pause {
        #[command(flatten)]
        one: OneArgs,
        /// Why, for those who look.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let a paused queue go on; exit code 1 if it is not paused.
    Resume(OneArgs),
}

#[derive(Debug, clap::Args)]
struct OneArgs {
    /// The name of a queue.
    #[arg(value_name = "QUEUE", value_parser = queue_name)]
    queue: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// Lists, pauses or resumes.
///
/// # Errors
/// [`CommandError`].
pub async fn queues(args: &QueuesArgs) -> Result<Exit, CommandError> {
    match &args.command {
        QueuesCommand::List { client } => list(&Context::new(client)?).await?,
        QueuesCommand::Pause { one, reason } => {
            let reason: Vec<(&str, String)> = reason.iter().map(|reason| ("reason", reason.clone())).collect();
            command(one, &with_query(&format!("{PATH}/{}/pause", one.queue), &reason)).await?;
        }
        QueuesCommand::Resume(one) => command(one, &format!("{PATH}/{}/resume", one.queue)).await?,
    }
    Ok(Exit::Done)
}

async fn list(context: &Context) -> Result<(), CommandError> {
    let answer = context.client.get(PATH).await?;
    if context.format == Format::Json {
        return emit_json(&answer);
    }
    let list: QueueList = context.client.shaped(PATH, &answer)?;
    let head = ["QUEUE", "STATE", "CRITICAL", "HIGH", "NORMAL", "LOW", "OLDEST", "RUNNING", "RETRYING", "EXECUTORS", "SLOTS", "REASON"];
    emit(&table(&head, list.queues.iter().map(row).collect()))
}

fn row(queue: &Queue) -> Vec<String> {
    let depths = Priority::ALL.iter().map(|priority| queue.queued.get(priority).copied().unwrap_or(0).to_string());
    let oldest = queue.oldest_queued_age_s.and_then(|age| Duration::try_from_secs_f64(age).ok()).map(show_duration).unwrap_or_default();
    let state = if queue.paused.is_some() { "paused" } else { "active" };
    let reason = queue.paused.as_ref().and_then(|paused| paused.reason.clone()).unwrap_or_default();
    let slots = format!("{}/{}", queue.slots_busy, queue.slots);
    let rest = [oldest, queue.running.to_string(), queue.retrying.to_string(), queue.executors.to_string(), slots, reason];
    [queue.queue.clone(), state.to_owned()].into_iter().chain(depths).chain(rest).collect()
}

async fn command(one: &OneArgs, path: &str) -> Result<(), CommandError> {
    let context = Context::new(&one.client)?;
    let answer = context.client.command(path).await?;
    let told: QueueAnswer = context.client.shaped(path, &answer)?;
    for warning in &told.warnings {
        eprintln!("warning: {}", harmless_line(warning));
    }
    match context.format {
        Format::Json => emit_json(&answer),
        Format::Text => emit(&format!("{} {}", one.queue, told.status)),
    }
}

/// Names become parts of paths: what is no name is refused here.
fn queue_name(text: &str) -> Result<String, String> {
    check_queue_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}
