//! What executors are told, and what operators want: beats, paused queues, executors without new work, a look at NATS. Nothing of it
//! is an event of an execution.

use super::board::{Look, Occasion, Order};
use super::lane::Lane;
use crate::bus::BusError;
use crate::bus::facts::BrokerFacts;
use orchestr8_core::leases::Silence;
use orchestr8_proto::ids::Incarnation;
use orchestr8_proto::wire::{CoordinatorBeat, Nudge, SCHEMA_VERSION};
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use tokio::time::Instant;

impl Lane {
    /// The coordinator's beat, and a tick of every lease. Both come from here, so that a wedged lane falls silent.
    pub(super) fn beat(&mut self) {
        self.leases.others_heard(self.parts.heard.borrow().heard);
        // Without a connection nobody can be heard: silence means nothing. A lane without shards listens as well, so that it
        // knows who is silent when it takes some.
        let silence = if self.connected {
            self.roster.tick();
            let silence = self.leases.tick();
            self.show_executors(Occasion::Tick);
            silence
        } else {
            Silence::default()
        };
        if !self.owns_shards() {
            return;
        }
        self.parts.metrics.losses_held_back(silence.held_back);
        if silence.held_back > 0 {
            tracing::error!(executors = silence.held_back, "more than half of the executors fell silent together; losses are held back");
        }
        silence.suspects.into_iter().for_each(|suspect| self.suspect(suspect));
        self.say_beat();
    }

    /// Nobody could be heard until now: everybody gets a full lease, and whoever is silent is that from now on.
    pub(super) fn listen_anew(&mut self) {
        self.leases.grant_full_leases();
        self.roster.listens_anew();
    }

    fn show_executors(&mut self, occasion: Occasion) {
        let times = self.parts.times;
        let sightings = self.roster.sightings(|incarnation| self.leases.standing(incarnation));
        let (silent_after, tells_until) = (times.executor_silence(), Instant::now() + times.beat());
        self.parts.handle.show_executors(Look { sightings, occasion, silent_after, tells_until });
    }

    /// What the database says with each renewal. Executors hear of a change at once, and then with every beat; what is held here
    /// is fed as soon as its queue goes on.
    pub(super) fn queues_are_paused(&mut self, queues: &[String]) {
        let before = self.lots.paused();
        if before.queues == queues {
            return;
        }
        let (before, now): (BTreeSet<&String>, BTreeSet<&String>) = (before.queues.iter().collect(), queues.iter().collect());
        let (paused, resumed): (Vec<_>, Vec<_>) = (now.difference(&before).collect(), before.difference(&now).collect());
        tracing::info!(?paused, ?resumed, "queues");
        self.lots.pause(queues);
        self.parts.handle.show_paused(queues);
        if self.owns_shards() {
            self.say_beat();
        }
    }

    /// Queues were paused or resumed here: this lane looks soon, and so do the others.
    pub(super) fn queues_changed(&mut self) {
        self.look_soon();
        self.parts.speaker.nudge(&Nudge { queues_changed: true, ..Nudge::default() });
    }

    /// The next renewal comes soon; a flood of hints must not become one of statements.
    pub(super) fn look_soon(&mut self) {
        let next = self.renewed_at + self.parts.times.claim_after() / 20;
        self.alarms.renewal = self.alarms.renewal.min(next);
    }

    /// Who begins to fetch wants to hear first which queues are paused, and who gave an order waits to see it obeyed. Many at once
    /// share one beat.
    pub(super) fn announce_soon(&mut self) {
        self.alarms.announce.get_or_insert_with(|| Instant::now() + self.parts.times.claim_after() / 10);
    }

    pub(super) fn announce(&mut self) {
        if self.alarms.announce.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.alarms.announce = None;
        if self.connected {
            self.show_executors(Occasion::News);
        }
        if self.owns_shards() {
            self.say_beat();
        }
    }

    /// Executors fetch only while they hear one.
    pub(super) fn say_beat(&self) {
        let ours_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| i64::try_from(now.as_micros()).unwrap_or(0));
        let heard = self.leases.heard();
        let beat = CoordinatorBeat {
            schema_version: SCHEMA_VERSION,
            coordinator: self.parts.name.clone(),
            installation: self.parts.installation.id.to_string(),
            jetstream_now_us: self.server_clock_offset_us.map_or(0, |offset| ours_us.saturating_add(offset)),
            stream_incarnation: self.incarnations.as_ref().map(|incarnations| incarnations.outcomes.clone()).unwrap_or_default(),
            executors: u32::try_from(heard.executors).unwrap_or(u32::MAX),
            executors_late: u32::try_from(heard.late).unwrap_or(u32::MAX),
            paused: Some(self.lots.paused()),
            time_base_ms: self.parts.times.base_ms(),
        };
        self.parts.speaker.coordinator_beat(&beat);
    }

    pub(super) fn order_executor(&self, incarnation: Incarnation, order: Order) {
        self.parts.speaker.order(incarnation, order);
    }

    /// Beside the lane: whoever asks may wait, the lane must not.
    pub(super) fn ask_broker(&self, reply: oneshot::Sender<Result<BrokerFacts, BusError>>) {
        let bus = self.parts.bus.clone();
        tokio::spawn(async move {
            reply.send(bus.facts().await).ok();
        });
    }
}
