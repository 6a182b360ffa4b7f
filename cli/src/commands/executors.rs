//! `executors`: who is heard, who has fallen silent; cordon, uncordon, drain.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_json};
use super::list::{span, table};
use crate::client::operating::{Executor, ExecutorList};
use crate::exit::Exit;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use time::OffsetDateTime;

const PATH: &str = "/api/v1/executors";

/// Look at executors, and tell one to take no new work.
///
/// What is ordered holds until the executor's process ends: one that is started again takes work.
#[derive(Debug, clap::Args)]
pub struct ExecutorsArgs {
    #[command(subcommand)]
    command: ExecutorsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ExecutorsCommand {
    /// List the executors that are heard, and those that have lately fallen silent.
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Take no new work; what runs goes on.
    Cordon(OneArgs),
    /// Take work again, also after a drain.
    Uncordon(OneArgs),
    /// Take no new work, and hand back what still runs when the executor's --drain-timeout is over. The process stays: end it when `list` shows no busy slot.
    Drain(OneArgs),
}

#[derive(Debug, clap::Args)]
struct OneArgs {
    /// The name of an executor; where several share it, the incarnation that `executors list -o json` shows.
    #[arg(value_name = "EXECUTOR")]
    executor: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// Lists or orders. An order is answered when the executor's heartbeat shows it.
///
/// # Errors
/// [`CommandError`].
pub async fn executors(args: &ExecutorsArgs) -> Result<Exit, CommandError> {
    match &args.command {
        ExecutorsCommand::List { client } => list(&Context::new(client)?).await?,
        ExecutorsCommand::Cordon(one) => order(one, "cordon").await?,
        ExecutorsCommand::Uncordon(one) => order(one, "uncordon").await?,
        ExecutorsCommand::Drain(one) => order(one, "drain").await?,
    }
    Ok(Exit::Done)
}

async fn list(context: &Context) -> Result<(), CommandError> {
    let answer = context.client.get(PATH).await?;
    if context.format == Format::Json {
        return emit_json(&answer);
    }
    let list: ExecutorList = context.client.shaped(PATH, &answer)?;
    let now = OffsetDateTime::now_utc();
    let rows = list.executors.iter().map(|executor| row(executor, now)).collect();
    emit(&table(&["EXECUTOR", "STATE", "SLOTS", "QUEUES", "VERSION", "LAST HEARD"], rows))
}

fn row(executor: &Executor, now: OffsetDateTime) -> Vec<String> {
    let slots = format!("{}/{}", executor.slots_busy, executor.slots);
    let seen = format!("{} ago", span(Some(executor.seen_at.min(now)), None, now));
    vec![executor.executor_id.clone(), state(executor), slots, executor.queues.join(","), executor.version.clone(), seen]
}

fn state(executor: &Executor) -> String {
    match (&executor.state, executor.replaced_by) {
        (Some(state), Some(_)) => format!("{state}, replaced"),
        (Some(state), None) => state.clone(),
        (None, _) => "unknown".to_owned(),
    }
}

async fn order(one: &OneArgs, word: &str) -> Result<(), CommandError> {
    let context = Context::new(&one.client)?;
    let path = format!("{PATH}/{}/{word}", utf8_percent_encode(&one.executor, NON_ALPHANUMERIC));
    let answer = context.client.command(&path).await?;
    match context.format {
        Format::Json => emit_json(&answer),
        Format::Text => {
            let executor: Executor = context.client.shaped(&path, &answer)?;
            emit(&format!("{} {}", executor.executor_id, state(&executor)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use time::macros::datetime;

    #[test]
    fn a_silent_executor_says_so_and_since_when() {
        let listed = json!({"executor_id": "e1", "state": "silent", "version": "1", "queues": ["a", "b"], "slots": 4, "slots_busy": 2,
            "cordoned": false, "draining": false, "seen_at": "2026-01-01T00:00:00Z", "silent_for_s": 9.0,
            "replaced_by": "0199abcd-0000-7000-8000-000000000001"});
        let shown =
            |listed: &serde_json::Value| row(&serde_json::from_value(listed.clone()).expect("one"), datetime!(2026-01-01 00:00:09 UTC));
        assert_eq!(shown(&listed), ["e1", "silent, replaced", "2/4", "a,b", "1", "9.0s ago"]);
        let mut alone = listed;
        alone["replaced_by"] = json!(null);
        assert_eq!(shown(&alone)[1], "silent");
    }
}
