//! What NATS says of itself, for operators: its version, its clock, its limits, how full the streams are.

use super::{Bus, BusError};
use orchestr8_proto::names;
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A server of which this account says everything within this time, or it counts as silent.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What NATS says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BrokerFacts {
    /// Without secrets.
    pub address: String,
    /// Of the server that this coordinator is connected to.
    pub version: String,
    /// One question and its answer.
    pub round_trip_us: u64,
    /// The server's clock minus this coordinator's.
    pub clock_ahead_us: i64,
    /// Bytes that the account's streams take on disk.
    pub storage_bytes: u64,
    /// Bytes that they may take; null: no limit of the account's own.
    pub storage_bytes_max: Option<u64>,
    /// Both of ours.
    pub streams: Vec<StreamFacts>,
}

/// What NATS says of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamFacts {
    /// Its name.
    pub name: String,
    /// Its messages.
    pub messages: u64,
    /// What they take.
    pub bytes: u64,
    /// What they may take; null: no limit of the stream's own.
    pub bytes_max: Option<u64>,
    /// Of its last message, or of the one before the first.
    pub last_sequence: u64,
    /// Its consumers: four for each queue, and one for each reader of outcomes.
    pub consumers: u64,
    /// Consumers that it may have; null: no limit of the stream's own.
    pub consumers_max: Option<u64>,
    /// Copies that it should have.
    pub replicas: u64,
    /// Copies that are not there or not up to date.
    pub replicas_behind: u64,
    /// Which creation of the stream this is.
    pub incarnation: Option<String>,
}

impl Bus {
    /// What NATS says of itself.
    ///
    /// # Errors
    /// [`BusError::JetStream`] when it does not answer in time, or a stream is missing.
    pub async fn facts(&self) -> Result<BrokerFacts, BusError> {
        let asked = tokio::time::timeout(ANSWER_MAX, self.told()).await;
        asked.map_err(|_| BusError::jetstream("INFO", format!("no answer within {} s", ANSWER_MAX.as_secs())))?
    }

    async fn told(&self) -> Result<BrokerFacts, BusError> {
        let asked_at = Instant::now();
        let tasks = self.stream_info(names::TASKS_STREAM).await?;
        let round_trip = asked_at.elapsed();
        let ours = OffsetDateTime::from(SystemTime::now()) - round_trip / 2;
        let theirs = tasks.get("ts").and_then(Value::as_str).and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        let outcomes = self.stream_info(names::OUTCOMES_STREAM).await?;
        let account = self.info(names::ACCOUNT_INFO.to_owned()).await.map_err(|reason| BusError::jetstream("account INFO", reason))?;
        Ok(BrokerFacts {
            address: self.address.clone(),
            version: self.client.server_info().version,
            round_trip_us: u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX),
            clock_ahead_us: theirs.map_or(0, |theirs| i64::try_from((theirs - ours).whole_microseconds()).unwrap_or(i64::MAX)),
            storage_bytes: number(&account, "/storage"),
            storage_bytes_max: limit(&account, "/limits/max_storage"),
            streams: vec![stream_facts(&tasks), stream_facts(&outcomes)],
        })
    }

    async fn stream_info(&self, name: &str) -> Result<Value, BusError> {
        let info = self.info(format!("$JS.API.STREAM.INFO.{name}")).await;
        info.map_err(|reason| BusError::jetstream(format!("stream {name}"), reason))
    }
}

fn stream_facts(info: &Value) -> StreamFacts {
    let peers = info.pointer("/cluster/replicas").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let replicas = number(info, "/config/num_replicas").max(1);
    let current = peers.iter().filter(|peer| peer["current"] == true && peer["offline"] != true).count() as u64;
    StreamFacts {
        name: info.pointer("/config/name").and_then(Value::as_str).unwrap_or_default().to_owned(),
        messages: number(info, "/state/messages"),
        bytes: number(info, "/state/bytes"),
        bytes_max: limit(info, "/config/max_bytes"),
        last_sequence: number(info, "/state/last_seq"),
        consumers: number(info, "/state/consumer_count"),
        consumers_max: limit(info, "/config/max_consumers"),
        replicas,
        // The leader is not among its peers.
        replicas_behind: (replicas - 1).saturating_sub(current),
        incarnation: info
            .pointer("/config/metadata")
            .and_then(|metadata| metadata[names::METADATA_INCARNATION].as_str())
            .map(str::to_owned),
    }
}

fn number(info: &Value, pointer: &str) -> u64 {
    info.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// What is absent, zero or negative limits nothing.
fn limit(info: &Value, pointer: &str) -> Option<u64> {
    info.pointer(pointer).and_then(Value::as_u64).filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stream_says_what_it_has_and_what_it_lacks() {
        let info = json!({
            "config": {"name": "S", "max_bytes": 100, "max_consumers": -1, "num_replicas": 3, "metadata": {"orchestr8.incarnation": "i"}},
            "state": {"messages": 2, "bytes": 50, "last_seq": 9, "consumer_count": 4},
            "cluster": {"leader": "a", "replicas": [{"name": "b", "current": true}, {"name": "c", "current": true, "offline": true}]},
        });
        let expected = StreamFacts {
            name: "S".into(),
            messages: 2,
            bytes: 50,
            bytes_max: Some(100),
            last_sequence: 9,
            consumers: 4,
            consumers_max: None,
            replicas: 3,
            replicas_behind: 1,
            incarnation: Some("i".into()),
        };
        assert_eq!(stream_facts(&info), expected);
        let single = stream_facts(&json!({"config": {"name": "S", "num_replicas": 1}, "state": {}}));
        assert_eq!((single.replicas_behind, single.incarnation), (0, None));
    }
}
