//! The end of a run: its outcome is kept until it is confirmed, its message answered as soon as it is safe.

use super::answers::Answer;
use super::{Desk, Mode};
use crate::clock::Clock;
use crate::delivery::{ACK, TERM};
use crate::kill_points::{AFTER_RUN_BEFORE_OUTCOME, kill_point};
use crate::messages::{MessageKey, Settled};
use crate::report;
use crate::runs::{Fate, InMessage, Run, Stage, Storage, Unconfirmed};
use crate::work::WorkReport;
use async_nats::Subject;
use orchestr8_proto::ids::RunId;
use orchestr8_proto::wire::Outcome;
use orchestr8_proto::wire::outcome::Result as Told;
use prost::Message;
use std::time::Instant;

impl Desk {
    /// A run ended by itself or because it was told to.
    pub(crate) fn ended(&mut self, run_id: RunId, report: WorkReport, clock: Clock) {
        kill_point(AFTER_RUN_BEFORE_OUTCOME);
        let Some(run) = self.runs.get(run_id) else { return };
        let Stage::Started(started) = &run.stage else { return };
        let (fate, started_at) = (started.fate, started.at);
        match fate {
            Fate::Forget => self.forget(run_id, Settled::Term, clock.now),
            Fate::Report | Fate::GiveBack => {
                let mut outcome = self.blank_outcome(run_id, run);
                report::fill(&mut outcome, report, fate);
                self.keep(run_id, outcome, Some(started_at));
            }
        }
        self.seat_waiting(clock);
    }

    /// Reports what never started.
    pub(super) fn keep_unstarted(&mut self, run_id: RunId, result: Told) {
        let Some(run) = self.runs.get(run_id) else { return };
        let outcome = Outcome { result: Some(result), ..self.blank_outcome(run_id, run) };
        self.keep(run_id, outcome, None);
    }

    /// Forgets a run; its message no longer waits for it.
    pub(super) fn forget(&mut self, run_id: RunId, settled: Settled, now: Instant) {
        let Some(run) = self.runs.remove(run_id) else { return };
        if run.in_message == InMessage::Open {
            self.answer(run.message, settled, now);
        }
    }

    /// The message of a run no longer waits for it.
    pub(super) fn settle(&mut self, run_id: RunId, settled: Settled, now: Instant) {
        let Some(run) = self.runs.get_mut(run_id) else { return };
        if std::mem::replace(&mut run.in_message, InMessage::Settled) == InMessage::Open {
            let message = run.message;
            self.answer(message, settled, now);
        }
    }

    /// One dispatch of a message is done; with the last one the message is answered.
    pub(super) fn answer(&mut self, message: MessageKey, settled: Settled, now: Instant) {
        let Some((ack, settled)) = self.messages.settle(message, settled, now) else { return };
        match settled {
            Settled::Superseded => {}
            Settled::Term => self.publish(ack, None, TERM),
            Settled::Ack => self.acknowledge(ack, now),
            Settled::ConfirmedAck => self.publish(ack, Some(self.reply_to(Answer::Ack(message))), ACK),
        }
    }

    /// Acknowledges a message, but not yet: with the next one, or when none came for a while. A server that removes the last
    /// message of a stream also removes its file and makes a new one, which under single tasks would be its greatest cost.
    fn acknowledge(&mut self, ack: Subject, now: Instant) {
        let before = if matches!(self.mode, Mode::Draining(_)) { Some((ack, now)) } else { self.last_ack.replace((ack, now)) };
        if let Some((ack, _)) = before {
            self.publish(ack, None, ACK);
        }
    }

    /// Sends the ack that was held back, if it was before this time.
    pub(super) fn acknowledge_last(&mut self, held_before: Instant) {
        if let Some((ack, _)) = self.last_ack.take_if(|(_, at)| *at <= held_before) {
            self.publish(ack, None, ACK);
        }
    }

    /// Publishes stored but unconfirmed outcomes again, where `due` says so of the time that was set for them.
    pub(super) fn publish_stored_again(&mut self, due: impl Fn(Instant) -> bool) {
        for (run_id, run) in self.runs.iter_mut() {
            let Stage::Ended(unconfirmed) = &mut run.stage else { continue };
            if matches!(unconfirmed.storage, Storage::Stored(at) if due(at)) {
                unconfirmed.storage = Storage::Again;
                self.outcomes.push(run.task_id.shard(), run_id);
            }
        }
    }

    fn keep(&mut self, run_id: RunId, outcome: Outcome, started_at: Option<Instant>) {
        let unconfirmed =
            Unconfirmed { bytes: outcome.encoded_len(), outcome, started_at, storage: Storage::Unstored, again_after: self.first_again() };
        let Some(()) = self.runs.advance(run_id, |_| (Stage::Ended(Box::new(unconfirmed)), ())) else { return };
        if let Some(run) = self.runs.get(run_id) {
            self.outcomes.push(run.task_id.shard(), run_id);
        }
    }

    fn blank_outcome(&self, run_id: RunId, run: &Run) -> Outcome {
        Outcome {
            task_id: run.task_id.to_bytes(),
            dispatch_id: run.dispatch_id.to_bytes(),
            run_id: run_id.to_bytes(),
            outcome_token: run.outcome_token.clone(),
            incarnation: self.identity.incarnation.to_bytes(),
            executor: self.identity.name.clone(),
            ..Outcome::default()
        }
    }
}
