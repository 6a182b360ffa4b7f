//! The desk without its loop, for simulations: what happened goes in with its time, what is to be done comes out.

use crate::clock::Clock;
use crate::desk::{Desk, Effect};
use crate::settings::ExecutorSettings;
use crate::work::{Assignment, WorkReport};
use async_nats::{Message, Subject};
use bytes::Bytes;
use orchestr8_proto::ids::{Incarnation, RunId};
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// A moment on the executor's clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The monotonic clock.
    pub now: Instant,
    /// The wall clock, Unix microseconds.
    pub wall_us: i64,
}

impl Moment {
    const fn clock(self) -> Clock {
        Clock { now: self.now, wall_us: self.wall_us }
    }
}

/// Something that the executor does.
#[derive(Debug)]
pub enum Act {
    /// It sends a message: subject, subject for the answer, payload.
    Send(Subject, Option<Subject>, Bytes),
    /// It starts something; the token tells when it wants it to end.
    Start(Box<Assignment>, CancellationToken),
}

/// One executor, from its start to its death.
pub struct SimulatedExecutor {
    desk: Desk,
}

impl SimulatedExecutor {
    /// A new process; answers come to subjects below `inbox`.
    #[must_use]
    pub fn new(settings: &ExecutorSettings, inbox: String, now: Instant) -> Self {
        Self { desk: Desk::new(settings, inbox, now) }
    }

    /// Drawn at its start.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.desk.incarnation()
    }

    /// A message or an answer that came to its inbox.
    pub fn receive(&mut self, message: Message, moment: Moment) {
        self.desk.receive(message, moment.clock());
    }

    /// A control message of a coordinator.
    pub fn control(&mut self, payload: Bytes, moment: Moment) {
        self.desk.control(payload, moment.clock());
    }

    /// A coordinator's beat.
    pub fn hear(&mut self, payload: Bytes, moment: Moment) {
        self.desk.hear(payload, moment.clock());
    }

    /// A run ended.
    pub fn ended(&mut self, run: RunId, report: WorkReport, moment: Moment) {
        self.desk.ended(run, report, moment.clock());
    }

    /// The connection is lost.
    pub fn disconnected(&mut self) {
        self.desk.disconnected();
    }

    /// The connection is back.
    pub fn reconnected(&mut self, moment: Moment) {
        self.desk.reconnected(moment.clock());
    }

    /// Time went by; what it does now.
    pub fn acts(&mut self, moment: Moment) -> Vec<Act> {
        self.desk.tick(moment.clock());
        let act = |effect| match effect {
            Effect::Publish(publication) => Some(Act::Send(publication.subject, publication.reply, publication.payload)),
            // The simulation has one server.
            Effect::ChangeServer => None,
        };
        let starts = self.desk.take_starts().into_iter().map(|(assignment, kill)| Act::Start(Box::new(assignment), kill));
        starts.chain(self.desk.take_effects(moment.clock()).into_iter().filter_map(act)).collect()
    }
}
