//! Messages of the task stream: read, admitted, decided by rule R5, started.

use super::{Desk, Mode};
use crate::clock::Clock;
use crate::delivery::{Delivery, NAK, TERM, nak_after};
use crate::dispatches::{Member, Reading, read};
use crate::freshness::{Evidence, Start};
use crate::kill_points::{AFTER_FETCH_BEFORE_START, kill_point};
use crate::messages::{MessageKey, Settled};
use crate::report::released_unstarted;
use crate::runs::{Arrival, ClaimStage, Doubt, Fate, InMessage, Run, Stage, Started};
use crate::work::Assignment;
use async_nats::{Message, Subject};
use orchestr8_proto::ids::RunId;
use orchestr8_proto::names::HEADER_AGAIN;
use orchestr8_proto::wire::ReleaseReason;
use orchestr8_proto::wire::dispatch::Kind;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// What all dispatches of one delivery have in common.
#[derive(Clone, Copy)]
struct Brought {
    message: MessageKey,
    doubt: Doubt,
    arrived_at: Instant,
    pulled_at: Option<Instant>,
    stored_us: i64,
}

impl Desk {
    /// A message that a pull brought.
    pub(super) fn delivered(&mut self, message: Message, ack: Subject, clock: Clock) {
        let Some(delivery) = Delivery::parse(&ack) else {
            tracing::warn!(%ack, "a message without a reply subject of JetStream was passed over");
            return;
        };
        let since_pull = self.fetcher.delivered(delivery.consumer, clock.now);
        if delivery.left == 0 {
            self.fetcher.emptied(delivery.consumer, clock.now);
        }
        if !self.takes_work() || self.fetcher.is_paused(delivery.consumer) {
            self.publish(ack, None, NAK);
            return;
        }
        let again = message.headers.as_ref().is_some_and(|headers| headers.get(HEADER_AGAIN).is_some());
        let doubt = if delivery.deliveries > 1 || again { Doubt::Doubtful } else { Doubt::None };
        self.deliveries[usize::from(doubt == Doubt::Doubtful)] += 1;
        let (stored_us, sequence) = (delivery.stored_us, delivery.stream_sequence);
        kill_point(AFTER_FETCH_BEFORE_START);
        let (members, unsupported) = match read(message.payload) {
            Reading::Work(members) => (members, None),
            Reading::Unsupported(members, reason) => (members, Some(reason)),
            Reading::Newer(reason) => {
                tracing::warn!(sequence, reason, "a task message of a newer build is left to executors that can read it");
                self.publish(ack, None, nak_after(self.times.ack_wait()));
                return;
            }
            Reading::Unreadable(reason) => {
                tracing::error!(sequence, reason, "a task message cannot be read and is terminated");
                self.publish(ack, None, TERM);
                return;
            }
        };
        if !self.has_room_for(members.len()) {
            self.publish(ack, None, NAK);
            return;
        }
        let key = self.messages.hold(ack, members.len(), clock.now);
        let pulled_at = since_pull.and_then(|age| clock.now.checked_sub(age));
        let brought = Brought { message: key, doubt, arrived_at: clock.now, pulled_at, stored_us };
        for member in members {
            self.admit(member, brought, unsupported.as_deref(), clock);
        }
        self.seat_waiting(clock);
    }

    /// Whether a message of so many dispatches is taken. What bundles bring ends at once, so while one waits for slots, and for
    /// another one, no slot needs to be free: as many messages may wait as there are slots.
    fn has_room_for(&self, dispatches: usize) -> bool {
        if self.runs.seated() < self.identity.slots {
            return true;
        }
        let bundled = dispatches > 1 || !self.queue.is_empty();
        bundled && self.messages_waiting() < self.identity.slots
    }

    /// Messages of which something waits for a slot; theirs lie side by side in the queue.
    fn messages_waiting(&self) -> usize {
        let mut last = None;
        let messages = self.queue.iter().filter_map(|run_id| Some(self.runs.get(*run_id)?.message));
        messages.filter(|message| last.replace(*message) != Some(*message)).count()
    }

    fn takes_work(&self) -> bool {
        matches!(self.mode, Mode::Working) && !self.coordinators.foreign()
    }

    fn admit(&mut self, member: Member, brought: Brought, unsupported: Option<&str>, clock: Clock) {
        if let Some(known) = self.runs.of_dispatch(member.dispatch_id) {
            self.rejoin(known, brought, clock.now);
            return;
        }
        if self.dropped.contains(&member.dispatch_id) {
            self.answer(brought.message, Settled::Term, clock.now);
            return;
        }
        let run_id = RunId::random();
        let unknown_kind = member.dispatch.kind.is_none().then_some("the dispatch is of a kind that this executor's version does not know");
        let run = waiting_run(member, brought);
        self.runs.insert(run_id, run);
        match unsupported.or(unknown_kind) {
            Some(reason) => self.keep_unstarted(run_id, released_unstarted(ReleaseReason::Unsupported, reason)),
            None => self.queue.push_back(run_id),
        }
    }

    /// The dispatch of a run in hand came once more: from now on the run answers to this delivery.
    fn rejoin(&mut self, run_id: RunId, brought: Brought, now: Instant) {
        let Some(run) = self.runs.get_mut(run_id) else { return };
        if let Stage::Waiting(arrival) = &mut run.stage
            && brought.doubt == Doubt::Doubtful
        {
            arrival.doubt = Doubt::Doubtful;
        }
        match run.in_message {
            InMessage::Settled => self.answer(brought.message, Settled::Ack, now),
            InMessage::Open => {
                let before = std::mem::replace(&mut run.message, brought.message);
                self.answer(before, Settled::Superseded, now);
            }
        }
    }

    /// Gives free slots to those who wait, in order of arrival.
    pub(super) fn seat_waiting(&mut self, clock: Clock) {
        while self.runs.seated() < self.identity.slots {
            let Some(run_id) = self.queue.pop_front() else { return };
            self.seat(run_id, clock);
        }
    }

    /// Decides by rule R5 what happens to a dispatch that has a slot.
    fn seat(&mut self, run_id: RunId, clock: Clock) {
        let Some(run) = self.runs.get_mut(run_id) else { return };
        let Stage::Waiting(arrival) = &run.stage else { return };
        let evidence = Evidence {
            doubtful: arrival.doubt == Doubt::Doubtful,
            // Only holders are given inputs.
            ask_first: arrival.dispatch.ask_first || matches!(arrival.dispatch.kind, Some(Kind::Reference(_))),
            since_pull: arrival.pulled_at.map(|at| clock.now.saturating_duration_since(at)),
            since_stored: self.coordinators.since_stored(arrival.stored_us, clock),
        };
        let claim = match evidence.decide(&self.times) {
            Start::AtOnce => return self.start(run_id, clock.now),
            Start::Check => ClaimStage::Checking,
            Start::Ask => ClaimStage::Asked(arrival.doubt),
        };
        run.claim = claim;
        let shard = run.task_id.shard();
        self.runs.advance(run_id, |stage| match stage {
            Stage::Waiting(arrival) => (Stage::Asking(arrival), ()),
            other @ (Stage::Asking(_) | Stage::Started(_) | Stage::Ended(_)) => (other, ()),
        });
        self.claims.want(shard, run_id);
    }

    /// Starts a run that waited for a slot or for its answer.
    pub(super) fn start(&mut self, run_id: RunId, now: Instant) {
        let kill = CancellationToken::new();
        let started = Stage::Started(Started { at: now, kill: kill.clone(), fate: Fate::Report });
        let dispatch = self.runs.advance(run_id, |stage| match stage {
            Stage::Waiting(arrival) | Stage::Asking(arrival) => (started, Some(arrival.dispatch)),
            other @ (Stage::Started(_) | Stage::Ended(_)) => (other, None),
        });
        let Some(Some(dispatch)) = dispatch else { return };
        let run = self.runs.get(run_id).expect("it was there a line ago");
        let assignment = Assignment { dispatch, task_id: run.task_id, dispatch_id: run.dispatch_id, run_id };
        if run.claim == ClaimStage::Unasked {
            self.long_at.push_back((now + self.times.claim_after(), run_id));
        }
        self.starts.push((assignment, kill));
    }
}

fn waiting_run(member: Member, brought: Brought) -> Run {
    let Member { task_id, dispatch_id, dispatch } = member;
    Run {
        task_id,
        dispatch_id,
        outcome_token: dispatch.outcome_token.clone(),
        lease_ms: dispatch.lease_ms,
        message: brought.message,
        in_message: InMessage::Open,
        claim: ClaimStage::Unasked,
        stage: Stage::Waiting(Box::new(Arrival {
            dispatch,
            doubt: brought.doubt,
            arrived_at: brought.arrived_at,
            pulled_at: brought.pulled_at,
            stored_us: brought.stored_us,
        })),
    }
}
