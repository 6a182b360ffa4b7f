//! What others answer: the owners of shards, the coordinators' beats, the broker.

use super::Desk;
use crate::clock::Clock;
use crate::coordinators::Heard;
use crate::fetch::{PullStatus, Ticket};
use crate::kill_points::{AFTER_CONFIRM_BEFORE_FORGET, AFTER_GRANT_BEFORE_DOUBLE_ACK, AFTER_OUTCOME_BEFORE_ACK, kill_point};
use crate::messages::{MessageKey, Settled};
use crate::report::released_unstarted;
use crate::runs::{ClaimStage, Fate, Stage, Storage};
use async_nats::{Message, StatusCode};
use bytes::Bytes;
use orchestr8_proto::ids::{DispatchId, RunId, TaskId};
use orchestr8_proto::wire::{self, Control, CoordinatorBeat, ReleaseReason, RunVerdict, Verdict};
use serde::Deserialize;
use std::time::Instant;

/// What JetStream answers to a publish.
#[derive(Debug, Deserialize)]
struct PubAck {
    seq: Option<u64>,
    error: Option<PubAckError>,
}

#[derive(Debug, Deserialize)]
struct PubAckError {
    #[serde(default)]
    description: String,
}

/// What a subject below our inbox stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// A status of a pull.
    Pull(Ticket),
    /// The broker's answer to a message of outcomes.
    Outcomes(u64),
    /// The server confirms an ack.
    Ack(MessageKey),
}

/// Where pulls are answered, below `inbox`: apart from the rest, so that the interest in them alone can end.
pub(crate) fn pulls_subject(inbox: &str) -> String {
    format!("{inbox}.p.*.*")
}

/// Where everything else is answered, below `inbox`.
pub(crate) fn answers_subject(inbox: &str) -> String {
    format!("{inbox}.*.*")
}

impl Answer {
    /// The subject's end for this answer.
    pub(super) fn token(self) -> String {
        match self {
            Self::Pull(ticket) => format!("p.{}.{}", ticket.consumer, ticket.pull),
            Self::Outcomes(flight) => format!("o.{flight}"),
            Self::Ack(key) => format!("a.{}", key.number()),
        }
    }

    fn parse(token: &str) -> Option<Self> {
        let (kind, rest) = token.split_once('.')?;
        match kind {
            "p" => {
                let (consumer, pull) = rest.split_once('.')?;
                Some(Self::Pull(Ticket { consumer: consumer.parse().ok()?, pull: pull.parse().ok()? }))
            }
            "o" => rest.parse().ok().map(Self::Outcomes),
            "a" => rest.parse().ok().map(|number| Self::Ack(MessageKey::from_number(number))),
            _ => None,
        }
    }
}

impl Desk {
    /// The subject for an answer.
    pub(super) fn reply_to(&self, answer: Answer) -> String {
        format!("{}.{}", self.inbox, answer.token())
    }

    /// Anything that came to our inbox: a task message keeps its own subject, an answer has one of ours.
    pub(crate) fn receive(&mut self, mut message: Message, clock: Clock) {
        let token = message.subject.strip_prefix(self.inbox.as_str()).and_then(|rest| rest.strip_prefix('.'));
        let Some(token) = token else {
            if let Some(ack) = message.reply.take() {
                self.delivered(message, ack, clock);
            } else {
                tracing::warn!(subject = %message.subject, "a message without a reply subject was passed over");
            }
            return;
        };
        match Answer::parse(token) {
            Some(Answer::Pull(ticket)) => self.fetcher.status(ticket, pull_status(message.status), clock.now),
            Some(Answer::Outcomes(flight)) => self.outcomes_answered(flight, &message, clock.now),
            // Without a responder the consumer is gone, and the message with it; redelivery asks first.
            Some(Answer::Ack(key)) => self.messages.confirmed(key),
            None => tracing::warn!(subject = %message.subject, "an answer to nothing was passed over"),
        }
    }

    /// A message of a coordinator to this incarnation or to all.
    pub(crate) fn control(&mut self, payload: Bytes, clock: Clock) {
        let control = match wire::decode::<Control>(payload) {
            Ok(control) => control,
            Err(error) => {
                tracing::warn!(%error, "a control message was passed over");
                return;
            }
        };
        for verdict in &control.verdicts {
            self.verdict(verdict, clock);
        }
        for run_id in control.confirmed_run_ids.iter().filter_map(|bytes| RunId::try_from(bytes.as_ref()).ok()) {
            self.confirmed(run_id, clock.now);
        }
        for dispatch_id in control.dropped_dispatch_ids.iter().filter_map(|bytes| DispatchId::try_from(bytes.as_ref()).ok()) {
            self.remember_dropped(dispatch_id, clock.now);
        }
        if let Some(part) = &control.inputs {
            self.take_part(part, clock);
        }
        if control.beat_now {
            self.rhythm.hurry(clock.now);
        }
        self.ordered(control.order, clock);
        self.log_ordered(&control.log_filter, clock);
    }

    /// A beat of a coordinator.
    pub(crate) fn hear(&mut self, payload: Bytes, clock: Clock) {
        let beat = match wire::decode::<CoordinatorBeat>(payload) {
            Ok(beat) => beat,
            Err(error) => {
                tracing::warn!(%error, "a coordinator's beat was passed over");
                return;
            }
        };
        let heard = self.coordinators.hear(&beat, clock);
        match heard {
            Heard::Usual => self.fetcher.retry_unavailable(clock.now),
            Heard::NewStreams => self.take_in_new_streams(clock.now),
            Heard::Foreign => tracing::error!(
                coordinator = beat.coordinator,
                theirs = beat.installation,
                ours = self.coordinators.installation(),
                "a coordinator of another installation uses these NATS servers: fetching stops until it is gone; give each installation its own account"
            ),
            Heard::Nameless => tracing::warn!(coordinator = beat.coordinator, "a coordinator's beat without installation was passed over"),
            Heard::ForeignStill => {}
        }
        if matches!(heard, Heard::Usual | Heard::NewStreams) {
            let ours_ms = self.times.base_ms();
            if let Some(theirs_ms) = self.coordinators.other_time_base_ms(&beat, ours_ms) {
                tracing::warn!(
                    coordinator = beat.coordinator,
                    theirs_ms,
                    ours_ms,
                    "a coordinator has another --time-base than this executor: give all the same, or runs are lost and dispatched again for nothing"
                );
            }
            self.queues_paused(beat.paused.as_ref());
        }
    }

    fn verdict(&mut self, verdict: &RunVerdict, clock: Clock) {
        let word = match wire::known::<Verdict>("verdict", verdict.verdict) {
            Ok(word) => word,
            Err(error) => {
                tracing::warn!(%error, "a verdict was passed over");
                return;
            }
        };
        let Some((run_id, run)) = RunId::try_from(verdict.run_id.as_ref()).ok().and_then(|id| Some((id, self.runs.get(id)?))) else {
            return;
        };
        self.claims.answered(run.task_id.shard());
        match word {
            Verdict::Granted => self.granted(run_id, clock),
            Verdict::Current => self.current(run_id, clock),
            Verdict::Refused => self.turned_down(run_id, clock),
            Verdict::Kill => self.killed(run_id, KillCause::of(verdict), clock),
            Verdict::Unspecified => {}
        }
    }

    fn granted(&mut self, run_id: RunId, clock: Clock) {
        let Some(run) = self.runs.get_mut(run_id) else { return };
        match &run.stage {
            // Nobody asked for a dispatch that has not even a slot.
            Stage::Waiting(_) => return,
            Stage::Started(started) if started.fate == Fate::Forget => return,
            Stage::Asking(_) | Stage::Started(_) | Stage::Ended(_) => {}
        }
        run.claim = ClaimStage::Granted;
        let starts = matches!(run.stage, Stage::Asking(_));
        kill_point(AFTER_GRANT_BEFORE_DOUBLE_ACK);
        self.settle(run_id, Settled::ConfirmedAck, clock.now);
        if starts {
            self.start_or_fetch(run_id, clock);
        }
    }

    fn current(&mut self, run_id: RunId, clock: Clock) {
        let Some(run) = self.runs.get_mut(run_id) else { return };
        // To who asked for a grant, "current" is no answer.
        if run.claim == ClaimStage::Checking && matches!(run.stage, Stage::Asking(_)) {
            run.claim = ClaimStage::Unasked;
            self.start(run_id, clock.now);
        }
    }

    /// Refused: what runs is ended, and nobody waits for its outcome.
    fn turned_down(&mut self, run_id: RunId, clock: Clock) {
        let Some(run) = self.runs.get_mut(run_id) else { return };
        if let Stage::Started(started) = &mut run.stage {
            if started.fate != Fate::Forget {
                tracing::warn!(%run_id, task_id = %run.task_id, "the owner does not want this run: it is ended");
            }
            started.fate = Fate::Forget;
            started.kill.cancel();
            self.settle(run_id, Settled::Term, clock.now);
        } else {
            self.forget(run_id, Settled::Term, clock.now);
            self.seat_waiting(clock);
        }
    }

    /// The owner wants this run to end. Its outcome is reported all the same: a cancel waits for it, and a refused one is confirmed.
    fn killed(&mut self, run_id: RunId, cause: KillCause, clock: Clock) {
        let Some(run) = self.runs.get_mut(run_id) else { return };
        match (&run.stage, run.claim) {
            (Stage::Started(started), _) => {
                if !started.kill.is_cancelled() {
                    cause.log(run_id, run.task_id);
                }
                started.kill.cancel();
                self.settle(run_id, Settled::Term, clock.now);
            }
            (Stage::Ended(_), _) => {}
            // Its grant may be lost and the owner may wait for the holder's end.
            (Stage::Asking(_), ClaimStage::Asked(_) | ClaimStage::Granted) => {
                self.settle(run_id, Settled::Term, clock.now);
                self.keep_unstarted(run_id, released_unstarted(ReleaseReason::Drained, "its owner ended it before it started"));
                self.seat_waiting(clock);
            }
            (Stage::Waiting(_), _) | (Stage::Asking(_), ClaimStage::Unasked | ClaimStage::Checking) => self.turned_down(run_id, clock),
        }
    }

    fn confirmed(&mut self, run_id: RunId, now: Instant) {
        if self.runs.get(run_id).is_some_and(|run| matches!(run.stage, Stage::Ended(_))) {
            kill_point(AFTER_CONFIRM_BEFORE_FORGET);
            self.forget(run_id, Settled::Ack, now);
        }
    }

    fn outcomes_answered(&mut self, flight: u64, message: &Message, now: Instant) {
        if let Some(reason) = refusal(message) {
            self.outcomes_refused(flight, &reason, now);
            return;
        }
        self.stranded.works();
        for run_id in self.outcomes.stored(flight) {
            kill_point(AFTER_OUTCOME_BEFORE_ACK);
            self.settle(run_id, Settled::Ack, now);
            let Some(run) = self.runs.get_mut(run_id) else { continue };
            if let Stage::Ended(unconfirmed) = &mut run.stage {
                unconfirmed.storage = Storage::Stored(now + unconfirmed.again_after);
                unconfirmed.again_after = (unconfirmed.again_after * 2).min(self.times.outcome_again_max());
            }
        }
    }

    /// The broker did not store these outcomes.
    pub(super) fn outcomes_refused(&mut self, flight: u64, reason: &str, now: Instant) {
        if let Some(wait) = self.outcomes.refused(flight, now) {
            tracing::warn!(reason, wait_ms = wait.as_millis(), "outcomes were not stored and are published again");
        }
    }

    fn take_in_new_streams(&mut self, now: Instant) {
        tracing::warn!("the streams were created anew: all unconfirmed outcomes are published again");
        self.fetcher.start_over(now);
        self.outcomes.start_over(now);
        self.publish_stored_again(|_| true);
    }

    fn remember_dropped(&mut self, dispatch_id: DispatchId, now: Instant) {
        if self.dropped.insert(dispatch_id) {
            self.dropped_until.push_back((now + self.times.dropped_dispatch(), dispatch_id));
        }
        self.forget_dropped(now);
        // What only waits is dropped as well; what asked gets its answer from the owner.
        let waits = |stage: &Stage| matches!(stage, Stage::Waiting(_));
        if let Some(run_id) = self.runs.of_dispatch(dispatch_id).filter(|id| self.runs.get(*id).is_some_and(|run| waits(&run.stage))) {
            self.forget(run_id, Settled::Term, now);
        }
    }
}

/// Why the owner wants a run to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KillCause {
    /// Somebody cancelled its task: as it should be.
    Cancelled,
    /// Its task runs elsewhere, or is not known; an older coordinator does not say more.
    Superseded,
}

impl KillCause {
    const fn of(verdict: &RunVerdict) -> Self {
        if verdict.cancelled { Self::Cancelled } else { Self::Superseded }
    }

    fn log(self, run_id: RunId, task_id: TaskId) {
        match self {
            Self::Cancelled => tracing::info!(%run_id, %task_id, "the task was cancelled: its run is ended"),
            Self::Superseded => tracing::warn!(%run_id, %task_id, "the owner does not want this run: it is ended"),
        }
    }
}

fn pull_status(status: Option<StatusCode>) -> PullStatus {
    match status {
        Some(StatusCode::IDLE_HEARTBEAT) => PullStatus::Alive,
        Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => PullStatus::Empty,
        Some(_) | None => PullStatus::Unavailable,
    }
}

/// Why the broker did not store a message; none: it did.
fn refusal(message: &Message) -> Option<String> {
    if message.status.is_some() {
        return Some("no stream takes outcomes".into());
    }
    match serde_json::from_slice::<PubAck>(&message.payload) {
        Ok(PubAck { error: Some(error), .. }) => Some(error.description),
        Ok(PubAck { seq: Some(_), error: None }) => None,
        Ok(PubAck { seq: None, error: None }) => Some("the answer names no sequence".into()),
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_nonsense_is_none() {
        for answer in [Answer::Pull(Ticket { consumer: 3, pull: 9 }), Answer::Outcomes(7), Answer::Ack(MessageKey::from_number(1))] {
            assert_eq!(Answer::parse(&answer.token()), Some(answer));
        }
        for token in ["", "p", "p.1", "p.a.b", "o.", "x.1", "a.-1"] {
            assert_eq!(Answer::parse(token), None, "{token}");
        }
    }
}
