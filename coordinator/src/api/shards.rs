//! `GET /api/v1/shards`: who owns which shard since when, how far its outcomes are decided, and what waits for its owner.

use super::ApiContext;
use super::parameters::Parameters;
use super::problem::Problem;
use crate::bus::facts::{BrokerFacts, StreamFacts};
use axum::Json;
use axum::extract::State;
use orchestr8_proto::names::OUTCOMES_STREAM;
use orchestr8_store::read::operating::{self, ShardRecord};
use serde_json::{Value, json};

/// `GET /api/v1/shards`. `outcomes_behind` is null where NATS does not answer, or the position belongs to another creation of the stream.
pub(super) async fn list(State(context): State<ApiContext>, parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let shards = operating::shards(&context.reads).await?;
    let broker = context.engine.ask_broker().await.and_then(Result::ok);
    let stream = broker.as_ref().and_then(outcomes);
    let shown: Vec<Value> = shards.iter().map(|shard| shown(shard, stream)).collect();
    Ok(Json(json!({ "shards": shown })))
}

/// The stream of outcomes.
pub(super) fn outcomes(broker: &BrokerFacts) -> Option<&StreamFacts> {
    broker.streams.iter().find(|stream| stream.name == OUTCOMES_STREAM)
}

/// Messages of all shards that are stored above the saved position. Positions are saved with each renewal of the lease, so some are
/// always behind while work flows, and those without outcomes move on with the minute's survey.
pub(super) fn behind(shard: &ShardRecord, stream: Option<&StreamFacts>) -> Option<u64> {
    let stream = stream.filter(|stream| stream.incarnation.is_some() && stream.incarnation == shard.stream_incarnation)?;
    let decided = u64::try_from(shard.outcome_sequence?).ok()?;
    Some(stream.last_sequence.saturating_sub(decided))
}

fn shown(shard: &ShardRecord, stream: Option<&StreamFacts>) -> Value {
    let mut document = json!(shard);
    document["outcomes_behind"] = json!(behind(shard, stream));
    document
}
