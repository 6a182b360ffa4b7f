//! The drain: nothing new starts, what runs may end, what cannot is given back, and outcomes are waited for.

use super::{Desk, Mode};
use crate::beats::Outlook;
use crate::clock::Clock;
use crate::delivery::NAK;
use crate::messages::MessageKey;
use crate::report::released_unstarted;
use crate::runs::{ClaimStage, Fate, Run, Stage, Storage};
use orchestr8_proto::ids::RunId;
use orchestr8_proto::wire::ReleaseReason;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Bases to wait for confirmations once the broker has stored every outcome.
const CONFIRM_WAIT_BASES: u32 = 10;
/// Bases after which a drain publishes an outcome for the first time again: where its stream was deleted with it, nobody will
/// confirm it, and the process would end without it.
const AGAIN_BASES: u32 = 2;
/// Bases to wait for the broker to store outcomes after the last run ended; then the tasks run again elsewhere.
const STORE_WAIT_BASES: u32 = 60;

/// Longer drains are cut to this: a thousand days.
const DRAIN_TIMEOUT_MAX: Duration = Duration::from_hours(24_000);

/// Who wants a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The process is to end, and ends when it is drained.
    Shutdown,
    /// An operator, who may take it back.
    Order,
}

/// How far a drain is.
pub(super) struct Drain {
    pub(super) cause: Cause,
    /// When what still runs is ended.
    deadline: Instant,
    /// Since when nothing runs.
    idle_since: Option<Instant>,
    /// Since when the broker has every outcome.
    stored_since: Option<Instant>,
}

impl Desk {
    /// The process is to end: unstarted work is given back, started runs may go on until the drain's timeout.
    pub(crate) fn drain(&mut self, clock: Clock) {
        self.begin_drain(Cause::Shutdown, clock);
    }

    /// A drain that is under way goes on; one that was ordered ends with the process where that is to end.
    pub(super) fn begin_drain(&mut self, cause: Cause, clock: Clock) {
        if let Mode::Draining(drain) = &mut self.mode {
            if cause == Cause::Shutdown {
                drain.cause = cause;
            }
            return;
        }
        let running = self.runs.seated();
        tracing::info!(running, timeout_s = self.drain_timeout.as_secs(), "draining: no new work is taken");
        // A timeout beyond what the clock can tell must not be a panic.
        let deadline = clock.now.checked_add(self.drain_timeout.min(DRAIN_TIMEOUT_MAX)).unwrap_or(clock.now);
        self.mode = Mode::Draining(Drain { cause, deadline, idle_since: None, stored_since: None });
        self.acknowledge_last(clock.now);
        self.give_back_unstarted();
        self.hasten_outcomes();
        self.rhythm.hurry(clock.now);
        self.advance_drain(clock.now);
    }

    /// Whether the process is to end and nothing is left to wait for.
    pub(crate) fn is_drained(&self, now: Instant) -> bool {
        let Mode::Draining(drain) = &self.mode else { return false };
        if drain.cause == Cause::Order {
            return false;
        }
        let base = self.times.base();
        let waited = |since: Option<Instant>, bases: u32| since.is_some_and(|at| now >= at + base * bases);
        if self.runs.unended() > 0 {
            return false;
        }
        self.runs.unconfirmed().0 == 0 || waited(drain.stored_since, CONFIRM_WAIT_BASES) || waited(drain.idle_since, STORE_WAIT_BASES)
    }

    /// The last heartbeat: this incarnation holds nothing any more.
    pub(crate) fn say_farewell(&mut self, clock: Clock) {
        let (outcomes, _) = self.runs.unconfirmed();
        if outcomes > 0 {
            tracing::warn!(outcomes, "the executor ends before these outcomes were confirmed");
        }
        self.beat(Outlook::Last, clock.now);
    }

    /// Kills what runs for too long, and notes when all has ended and all is stored.
    pub(super) fn advance_drain(&mut self, now: Instant) {
        let stored = self.runs.iter().all(|(_, run)| is_stored(run));
        let ended = self.runs.unended() == 0;
        let Mode::Draining(drain) = &mut self.mode else { return };
        if !ended {
            drain.idle_since = None;
            if now >= drain.deadline {
                self.kill_all();
            }
            return;
        }
        drain.idle_since.get_or_insert(now);
        if stored {
            drain.stored_since.get_or_insert(now);
        }
    }

    /// The wait before an outcome that nobody confirmed is published again for the first time.
    pub(super) fn first_again(&self) -> Duration {
        match self.mode {
            Mode::Draining(_) => self.times.base() * AGAIN_BASES,
            Mode::Working | Mode::Cordoned => self.times.outcome_again(),
        }
    }

    /// What is stored but unconfirmed is published again now, and soon again: the drain waits for it.
    fn hasten_outcomes(&mut self) {
        let again_after = self.first_again();
        for (_, run) in self.runs.iter_mut() {
            if let Stage::Ended(unconfirmed) = &mut run.stage {
                unconfirmed.again_after = again_after;
            }
        }
        self.publish_stored_again(|_| true);
    }

    fn kill_all(&mut self) {
        for (run_id, run) in self.runs.iter_mut() {
            let Stage::Started(started) = &mut run.stage else { continue };
            // What its owner has ended already is reported as that.
            if started.fate == Fate::Report && !started.kill.is_cancelled() {
                tracing::warn!(%run_id, task_id = %run.task_id, "the drain ends this run");
                started.fate = Fate::GiveBack;
            }
            started.kill.cancel();
        }
    }

    /// Gives back what is unstarted: nothing starts any more.
    fn give_back_unstarted(&mut self) {
        self.queue.clear();
        let all = self.runs.iter().map(|(run_id, _)| run_id).collect();
        self.give_back_of(all, "the executor is draining");
    }

    /// Gives back what waits for a slot for too long: the tasks before it turned out to be long ones.
    pub(super) fn give_back_waiting(&mut self, now: Instant) {
        let patience = self.times.base() / 2;
        let mut late = Vec::new();
        while let Some(run_id) = self.queue.pop_front_if(|run_id| match self.runs.get(*run_id).map(|run| &run.stage) {
            Some(Stage::Waiting(arrival)) => arrival.arrived_at + patience <= now,
            Some(Stage::Asking(_) | Stage::Started(_) | Stage::Ended(_)) => false,
            None => true,
        }) {
            late.push(run_id);
        }
        if !late.is_empty() {
            self.give_back_of(late, "no slot came free");
        }
    }

    /// Naks whole messages of which nothing was begun; reports the rest as released, never started.
    fn give_back_of(&mut self, runs: Vec<RunId>, reason: &str) {
        let mut unbegun: HashMap<MessageKey, Vec<RunId>> = HashMap::new();
        let mut begun = Vec::new();
        for run_id in runs {
            let Some(run) = self.runs.get(run_id) else { continue };
            match (&run.stage, run.claim) {
                (Stage::Started(_) | Stage::Ended(_), _) => {}
                // The owner may have made it the holder already: only a report frees the dispatch at once.
                (Stage::Waiting(_) | Stage::Asking(_), ClaimStage::Asked(_) | ClaimStage::Granted) => begun.push(run_id),
                (Stage::Waiting(_) | Stage::Asking(_), ClaimStage::Unasked | ClaimStage::Checking) => {
                    unbegun.entry(run.message).or_default().push(run_id);
                }
            }
        }
        for (message, runs) in unbegun {
            if self.messages.is_whole(message, runs.len()) {
                self.give_back(message, &runs);
            } else {
                begun.extend(runs);
            }
        }
        for run_id in begun {
            self.keep_unstarted(run_id, released_unstarted(ReleaseReason::Drained, reason));
        }
    }

    fn give_back(&mut self, message: MessageKey, runs: &[RunId]) {
        for run_id in runs {
            self.runs.remove(*run_id);
        }
        if let Some(ack) = self.messages.give_back(message) {
            self.publish(ack, None, NAK);
        }
    }
}

fn is_stored(run: &Run) -> bool {
    match &run.stage {
        Stage::Ended(unconfirmed) => unconfirmed.storage != Storage::Unstored,
        Stage::Waiting(_) | Stage::Asking(_) | Stage::Started(_) => false,
    }
}
