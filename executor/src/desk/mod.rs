//! The desk: the one owner of everything that this executor holds. No sockets and no clock: what happened comes in with
//! its time, what is to be done comes out as effects.
//!
//! - `arrivals`: messages, the decision of rule R5, the start
//! - `answers`: verdicts, confirmations, beats of coordinators, answers of the broker
//! - `endings`: the end of a run, its outcome, the ack of its message
//! - `departures`: pulls, claims, outcomes and heartbeats that may leave now
//! - `clockwork`: what happens by time and after a reconnect
//! - `figures`: how it is, in numbers
//! - `drain`: giving everything back in order
//! - `references`: inputs that are fetched before the start
//! - `orders`: what operators want: no new work, or none of a queue

mod answers;
mod arrivals;
#[cfg(test)]
mod bounds;
#[cfg(test)]
mod bundles;
mod clockwork;
mod departures;
mod drain;
mod endings;
#[cfg(test)]
mod fetching;
mod figures;
mod orders;
mod references;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod tests;

pub(crate) use answers::{answers_subject, pulls_subject};
pub(crate) use figures::Figures;

use crate::beats::{Identity, Rhythm};
use crate::claims::ClaimLanes;
use crate::clock::Clock;
use crate::coordinators::Coordinators;
use crate::fetch::Fetcher;
use crate::inputs::Fetches;
use crate::messages::Messages;
use crate::outcomes::OutcomeLanes;
use crate::runs::Runs;
use crate::settings::ExecutorSettings;
use crate::work::Assignment;
use async_nats::Subject;
use bytes::Bytes;
use drain::Drain;
use orchestr8_nats::Stranded;
use orchestr8_proto::ids::{DispatchId, Incarnation, RunId};
use orchestr8_proto::times::ProtocolTimes;
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Dispatches of cancelled tasks that are remembered, at most; beyond it the oldest is forgotten (its outcome would not count).
const DROPPED_MAX: usize = 65_536;

/// Something to run, until it ends or the token is cancelled.
pub(crate) type NewRun = (Assignment, CancellationToken);

/// Something else to do.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Send a message.
    Publish(Publication),
    /// Leave this server for another one, if there is one.
    ChangeServer,
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publication {
    /// Where.
    pub subject: Subject,
    /// Where the answer goes.
    pub reply: Option<Subject>,
    /// What.
    pub payload: Bytes,
}

/// Whether there is a connection to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Up,
    Down,
}

/// Whether new work is taken.
enum Mode {
    Working,
    /// An operator wants no new work here.
    Cordoned,
    Draining(Drain),
}

/// Everything that this executor holds.
pub(crate) struct Desk {
    identity: Identity,
    /// All answers come to subjects below it.
    inbox: String,
    times: ProtocolTimes,
    unconfirmed_max: usize,
    unconfirmed_bytes_max: usize,
    drain_timeout: Duration,
    mode: Mode,
    line: Line,
    fetcher: Fetcher,
    messages: Messages,
    /// The ack of the message that was done with last, and since when it is held back.
    last_ack: Option<(Subject, Instant)>,
    runs: Runs,
    /// Runs that wait for a slot, in order of arrival.
    queue: VecDeque<RunId>,
    /// When each started run is long enough to be claimed, in order, because the limit is the same for all.
    long_at: VecDeque<(Instant, RunId)>,
    claims: ClaimLanes,
    inputs: Fetches,
    outcomes: OutcomeLanes,
    stranded: Stranded,
    rhythm: Rhythm,
    coordinators: Coordinators,
    dropped: HashSet<DispatchId>,
    dropped_until: VecDeque<(Instant, DispatchId)>,
    /// The consumers that did not answer at the last look, so that a change is logged once.
    unavailable: usize,
    /// Messages that came for the first time, and again.
    deliveries: [u64; 2],
    starts: Vec<NewRun>,
    effects: Vec<Effect>,
}

impl Desk {
    /// An empty desk; answers will come to subjects below `inbox`.
    pub(crate) fn new(settings: &ExecutorSettings, inbox: String, now: Instant) -> Self {
        let times = settings.times;
        let identity = Identity {
            incarnation: settings.nats.login.as_ref().map_or_else(Incarnation::random, |login| login.incarnation(&mut rand::rng())),
            name: settings.name.clone(),
            queues: settings.queues.clone(),
            handlers: settings.work.handlers.names().map(ToOwned::to_owned).collect(),
            slots: settings.slots,
            log: settings.log.clone(),
        };
        Self {
            identity,
            inbox,
            times,
            unconfirmed_max: settings.unconfirmed_max,
            unconfirmed_bytes_max: settings.unconfirmed_bytes_max,
            drain_timeout: settings.drain_timeout,
            mode: Mode::Working,
            line: Line::Up,
            fetcher: Fetcher::new(&settings.queues, &times),
            messages: Messages::new(times.in_progress(), times.base()),
            last_ack: None,
            runs: Runs::default(),
            queue: VecDeque::new(),
            long_at: VecDeque::new(),
            claims: ClaimLanes::new(times.claim_again()),
            inputs: Fetches::new(&times),
            outcomes: OutcomeLanes::new(&times),
            stranded: Stranded::after(times.bus_silence()),
            rhythm: Rhythm::new(times.beat(), now),
            coordinators: Coordinators::new(now),
            dropped: HashSet::new(),
            dropped_until: VecDeque::new(),
            unavailable: 0,
            deliveries: [0; 2],
            starts: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// This process's identity.
    pub(crate) const fn incarnation(&self) -> Incarnation {
        self.identity.incarnation
    }

    /// What is to start now, in order.
    pub(crate) fn take_starts(&mut self) -> Vec<NewRun> {
        std::mem::take(&mut self.starts)
    }

    /// What else is to be done, in order; what may leave now is added to it.
    pub(crate) fn take_effects(&mut self, clock: Clock) -> Vec<Effect> {
        self.depart(clock);
        std::mem::take(&mut self.effects)
    }

    /// How long nothing needs to happen by time.
    pub(crate) fn patience(&self) -> Duration {
        let restless = !self.messages.is_empty()
            || self.last_ack.is_some()
            || !self.claims.is_idle()
            || !self.inputs.is_idle()
            || !self.outcomes.is_idle()
            || self.fetcher.awaits_answer();
        match self.mode {
            Mode::Working | Mode::Cordoned if !restless => self.times.base() / 2,
            Mode::Working | Mode::Cordoned | Mode::Draining(_) => self.times.base() / 20,
        }
    }

    fn publish(&mut self, subject: impl Into<Subject>, reply: Option<String>, payload: Bytes) {
        // Without a connection nothing is kept for later: everything that matters is sent anew after a reconnect.
        if self.line == Line::Up {
            self.effects.push(Effect::Publish(Publication { subject: subject.into(), reply: reply.map(Into::into), payload }));
        }
    }

    /// Slots for which messages may be fetched now.
    fn room(&mut self, now: Instant) -> usize {
        let (outcomes, bytes) = self.runs.unconfirmed();
        let confirmed_enough = outcomes < self.unconfirmed_max && bytes < self.unconfirmed_bytes_max;
        match self.mode {
            Mode::Working if confirmed_enough && self.coordinators.allow_fetching(now, &self.times) => {
                self.identity.slots.saturating_sub(self.runs.unended())
            }
            Mode::Working | Mode::Cordoned | Mode::Draining(_) => 0,
        }
    }
}
