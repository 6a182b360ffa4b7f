//! `shards`: who owns which.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_json};
use super::list::{span, table};
use crate::client::operating::{Shard, ShardList};
use crate::exit::Exit;
use time::OffsetDateTime;

const PATH: &str = "/api/v1/shards";

/// Show who owns which shard since when, how far its outcomes are decided, and what waits for the owner.
///
/// POSITION is saved every few seconds; BEHIND counts the messages of all shards that are stored above it.
#[derive(Debug, clap::Args)]
pub struct ShardsArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Shows them.
///
/// # Errors
/// [`CommandError`].
pub async fn shards(args: &ShardsArgs) -> Result<Exit, CommandError> {
    let context = Context::new(&args.client)?;
    let answer = context.client.get(PATH).await?;
    if context.format == Format::Json {
        emit_json(&answer)?;
        return Ok(Exit::Done);
    }
    let list: ShardList = context.client.shaped(PATH, &answer)?;
    let now = OffsetDateTime::now_utc();
    let rows = list.shards.iter().map(|shard| row(shard, now)).collect();
    emit(&table(&["SHARD", "OWNER", "SINCE", "POSITION", "BEHIND", "INBOX"], rows))?;
    Ok(Exit::Done)
}

fn row(shard: &Shard, now: OffsetDateTime) -> Vec<String> {
    let owner = match (&shard.owner, shard.is_owned) {
        (Some(owner), true) => owner.clone(),
        (Some(owner), false) => format!("nobody (last {owner})"),
        (None, _) => "nobody".to_owned(),
    };
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let since = span(shard.owned_since.map(|since| since.min(now)), None, now);
    vec![shard.shard.to_string(), owner, since, number(shard.outcome_sequence), number(shard.outcomes_behind), shard.inbox.to_string()]
}
