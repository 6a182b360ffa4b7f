//! How far the readers of outcomes are ahead of what is committed, and behind what is stored.

use super::Bus;
use orchestr8_proto::names;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The readers of this coordinator that read at the moment. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct OutcomeReaders {
    live: Arc<Mutex<Vec<Weak<Progress>>>>,
}

/// How far one reader is; it counts for as long as its reader holds it.
pub struct Progress {
    bus: Bus,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    consumer: Option<String>,
    /// Messages of its consumer that it has read.
    read: u64,
    /// The stream sequences of those that are not committed, in order.
    uncommitted: VecDeque<u64>,
}

impl OutcomeReaders {
    /// A reader begins.
    #[must_use]
    pub fn begin(&self, bus: Bus) -> Arc<Progress> {
        let progress = Arc::new(Progress { bus, state: Mutex::default() });
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|reader| reader.strong_count() > 0);
        live.push(Arc::downgrade(&progress));
        progress
    }

    /// Messages that are stored for these readers and not committed; none where nobody reads, or NATS does not tell.
    pub async fn lag(&self) -> Option<u64> {
        let live: Vec<Arc<Progress>> = self.live.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
        if live.is_empty() {
            return None;
        }
        let mut sum = 0_u64;
        for reader in live {
            sum = sum.saturating_add(reader.lag().await?);
        }
        Some(sum)
    }
}

impl Progress {
    /// It reads from this consumer.
    pub(super) fn reads_from(&self, consumer: &str) {
        self.state().consumer = Some(consumer.to_owned());
    }

    /// One more message was read.
    pub(super) fn read(&self, stream_sequence: u64) {
        let mut state = self.state();
        state.read += 1;
        state.uncommitted.push_back(stream_sequence);
    }

    /// Everything up to here is committed.
    pub(super) fn committed(&self, stream_sequence: u64) {
        self.state().committed(stream_sequence);
    }

    async fn lag(&self) -> Option<u64> {
        let consumer = self.state().consumer.clone()?;
        let subject = format!("$JS.API.CONSUMER.INFO.{}.{consumer}", names::OUTCOMES_STREAM);
        let info = self.bus.info(subject).await.ok()?;
        self.state().lag(&info)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn committed(&mut self, stream_sequence: u64) {
        while self.uncommitted.front().is_some_and(|read| *read <= stream_sequence) {
            self.uncommitted.pop_front();
        }
    }

    /// Not delivered, delivered but not read, read but not committed. The INFO may be older than what was read since.
    fn lag(&self, info: &Value) -> Option<u64> {
        let pending = info.get("num_pending").and_then(Value::as_u64)?;
        let delivered = info.pointer("/delivered/consumer_seq").and_then(Value::as_u64)?;
        Some(pending + delivered.saturating_sub(self.read) + u64::try_from(self.uncommitted.len()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_lag_is_what_is_stored_and_not_committed() {
        let mut state = State { consumer: None, read: 3, uncommitted: [10, 14, 15].into() };
        let info =
            |pending: u64, delivered: u64| json!({"num_pending": pending, "delivered": {"consumer_seq": delivered, "stream_seq": 99}});
        assert_eq!(state.lag(&info(0, 3)), Some(3), "read, not committed");
        assert_eq!(state.lag(&info(7, 5)), Some(7 + 2 + 3), "and not read");
        assert_eq!(state.lag(&info(0, 2)), Some(3), "the INFO is older than the last message");
        state.committed(14);
        assert_eq!(state.lag(&info(0, 3)), Some(1));
        state.committed(20);
        assert_eq!(state.lag(&info(0, 3)), Some(0));
        assert_eq!(state.lag(&json!({"error": {}})), None, "unknown is not zero");
    }
}
