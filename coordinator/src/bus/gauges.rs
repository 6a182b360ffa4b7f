//! How full the streams are: asked at a scrape, of NATS alone.

use super::Bus;
use orchestr8_proto::names;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// One stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamSize {
    /// Which one.
    pub stream: &'static str,
    /// Messages in it.
    pub messages: i64,
    /// Bytes of them.
    pub bytes: i64,
    /// Its own limit, where it has one.
    pub bytes_max: Option<i64>,
}

/// The connection that is asked. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Broker {
    bus: Arc<OnceLock<Bus>>,
}

impl Broker {
    /// There is a connection; the first one is asked from now on.
    pub fn connected(&self, bus: &Bus) {
        self.bus.get_or_init(|| bus.clone());
    }

    /// The sizes of the streams that answer.
    pub async fn stream_sizes(&self) -> Vec<StreamSize> {
        let Some(bus) = self.bus.get() else { return Vec::new() };
        let mut sizes = Vec::new();
        for stream in [names::TASKS_STREAM, names::OUTCOMES_STREAM] {
            let info = bus.info(format!("$JS.API.STREAM.INFO.{stream}")).await;
            sizes.extend(info.ok().and_then(|info| size(stream, &info)));
        }
        sizes
    }
}

fn size(stream: &'static str, info: &Value) -> Option<StreamSize> {
    let number = |path: &str| info.pointer(path).and_then(Value::as_i64);
    let bytes_max = number("/config/max_bytes").filter(|limit| *limit > 0);
    Some(StreamSize { stream, messages: number("/state/messages")?, bytes: number("/state/bytes")?, bytes_max })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stream_without_a_limit_of_its_own_has_none() {
        let info = |limit: i64| json!({"config": {"max_bytes": limit}, "state": {"messages": 3, "bytes": 400}});
        let expected = StreamSize { stream: "S", messages: 3, bytes: 400, bytes_max: Some(900) };
        assert_eq!(size("S", &info(900)), Some(expected));
        assert_eq!(size("S", &info(-1)), Some(StreamSize { bytes_max: None, ..expected }));
        assert_eq!(size("S", &json!({"error": {}})), None);
    }
}
