//! The database's clock, as this process estimates it between two answers of the database.

use orchestr8_proto::timestamp::Timestamp;
use std::time::Instant;

/// An estimate of the database's clock that never runs backwards.
#[derive(Debug)]
pub struct DatabaseClock {
    known: Timestamp,
    at: Instant,
    last: Timestamp,
}

impl DatabaseClock {
    /// The clock as the database just told it.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { known: now, at: Instant::now(), last: now }
    }

    /// The database told its clock again.
    pub fn told(&mut self, now: Timestamp) {
        (self.known, self.at) = (now, Instant::now());
    }

    /// Now, without remembering it.
    #[must_use]
    pub fn peek(&self) -> Timestamp {
        self.last.max(self.known.after(self.at.elapsed()))
    }

    /// Now, never earlier than what this returned before.
    pub fn now(&mut self) -> Timestamp {
        self.last = self.peek();
        self.last
    }
}
