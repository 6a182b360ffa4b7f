//! A server that has lost its peers: clients stay connected to it, but JetStream needs a majority and does nothing there.
//! Who sees JetStream fail and work says so here, and is told when another server may do better.

use crate::settings::NatsSettings;
use async_nats::Client;
use std::time::{Duration, Instant};

/// The wait for another server is doubled so often: where no server has a majority, changing all the time helps nobody.
const DOUBLINGS_MAX: u32 = 5;

/// For how long JetStream has done nothing on this connection.
#[derive(Debug)]
pub struct Stranded {
    patience: Duration,
    since: Option<Instant>,
    changes: u32,
}

impl Stranded {
    /// Another server is to be tried when JetStream has failed for `patience`.
    #[must_use]
    pub const fn after(patience: Duration) -> Self {
        Self { patience, since: None, changes: 0 }
    }

    /// JetStream did what it was asked.
    pub const fn works(&mut self) {
        (self.since, self.changes) = (None, 0);
    }

    /// Nothing fails at the moment, which may be because nothing was asked.
    pub const fn stops_failing(&mut self) {
        self.since = None;
    }

    /// It did not do what it was asked. Whether another server is to be tried now; each try doubles the patience for the next one.
    #[must_use]
    pub fn fails(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) < self.patience * (1 << self.changes) {
            return false;
        }
        (self.since, self.changes) = (Some(now), (self.changes + 1).min(DOUBLINGS_MAX));
        true
    }
}

/// Leaves this server for another one, where the client was given several addresses or its server told it of others.
pub async fn change_server(client: &Client, settings: &NatsSettings) {
    let here = client.server_info();
    if settings.addresses.len() > 1 || here.connect_urls.len() > 1 {
        tracing::warn!(server = here.server_name, "JetStream does nothing on this server of NATS: trying another one");
        // A client that has ended is noticed by its state.
        client.force_reconnect().await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_server_is_tried_after_lasting_failure_and_then_less_and_less_often() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut stranded = Stranded::after(7 * second);
        assert!(!stranded.fails(start) && !stranded.fails(start + 6 * second));
        assert!(stranded.fails(start + 7 * second), "it has failed for long enough");
        assert!(!stranded.fails(start + 20 * second), "the next server gets twice the time");
        assert!(stranded.fails(start + 21 * second));
        stranded.stops_failing();
        assert!(!stranded.fails(start + 60 * second), "what failed in between counts anew");
        assert!(!stranded.fails(start + 87 * second) && stranded.fails(start + 88 * second), "but with the same patience");
        stranded.works();
        assert!(!stranded.fails(start + 100 * second) && stranded.fails(start + 107 * second), "success forgets all");
    }

    #[test]
    fn the_patience_has_a_bound() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut stranded = Stranded::after(second);
        let changes = (0..10_000).filter(|tick| stranded.fails(start + *tick * second)).count();
        assert_eq!(changes, 5 + (10_000 - 1 - 31) / 32, "after five doublings, every 32 s");
    }
}
