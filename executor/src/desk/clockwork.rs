//! What happens by time, and after the connection was lost and found.

use super::answers::Answer;
use super::{DROPPED_MAX, Desk, Line};
use crate::clock::Clock;
use crate::delivery::{ACK, IN_PROGRESS};
use crate::kill_points::{AFTER_START_BEFORE_CLAIM, kill_point};
use crate::runs::{ClaimStage, Doubt, Stage};
use orchestr8_proto::ids::RunId;
use std::time::Instant;

/// An ack is held back for a base divided by this, at most: far less than the wait for it.
const ACK_HELD_BASES: u32 = 4;

impl Desk {
    /// Everything that is due by now; called at least every [`Desk::patience`].
    pub(crate) fn tick(&mut self, clock: Clock) {
        let now = clock.now;
        self.claim_long_runs(now);
        for (shard, run_id) in self.claims.take_again(now) {
            self.ask_again(shard, run_id);
        }
        for ack in self.messages.take_progress(now) {
            self.publish(ack, None, IN_PROGRESS);
        }
        for (key, ack) in self.messages.take_unconfirmed(now) {
            let reply = self.reply_to(Answer::Ack(key));
            self.publish(ack, Some(reply), ACK);
        }
        for flight in self.outcomes.lost(now) {
            self.outcomes_refused(flight, "the broker did not answer", now);
        }
        if self.runs.unconfirmed().0 > 0 {
            self.publish_stored_again(|at| at <= now);
        }
        self.acknowledge_last(now.checked_sub(self.times.base() / ACK_HELD_BASES).unwrap_or(now));
        self.give_back_waiting(now);
        self.fetcher.notice_lost(now);
        self.log_unavailable();
        self.forget_dropped(now);
        self.give_up_late(clock);
        self.advance_drain(now);
    }

    /// The connection is lost: nothing is sent until it is back.
    pub(crate) fn disconnected(&mut self) {
        self.line = Line::Down;
    }

    /// The connection is back: whatever may have been lost with the old one is sent anew.
    pub(crate) fn reconnected(&mut self, clock: Clock) {
        self.line = Line::Up;
        self.fetcher.start_over(clock.now);
        self.outcomes.start_over(clock.now);
        self.messages.start_over(clock.now);
        self.inputs.start_over(clock.now);
        for (shard, run_id) in self.claims.start_over() {
            self.ask_again(shard, run_id);
        }
        self.rhythm.hurry(clock.now);
        self.tick(clock);
    }

    /// Forgets the dispatches that were dropped long enough ago, and the oldest beyond the bound.
    pub(super) fn forget_dropped(&mut self, now: Instant) {
        let over = self.dropped_until.len().saturating_sub(DROPPED_MAX);
        let due = self.dropped_until.iter().skip(over).take_while(|(until, _)| *until <= now).count();
        for (_, dispatch_id) in self.dropped_until.drain(..over + due) {
            self.dropped.remove(&dispatch_id);
        }
    }

    fn claim_long_runs(&mut self, now: Instant) {
        while let Some((_, run_id)) = self.long_at.pop_front_if(|(at, _)| *at <= now) {
            let Some(run) = self.runs.get_mut(run_id) else { continue };
            let goes_on = matches!(&run.stage, Stage::Started(started) if !started.kill.is_cancelled());
            if goes_on && run.claim == ClaimStage::Unasked {
                kill_point(AFTER_START_BEFORE_CLAIM);
                run.claim = ClaimStage::Asked(Doubt::None);
                let shard = run.task_id.shard();
                self.claims.want(shard, run_id);
            }
        }
    }

    /// Asks again unless the answer came or the run ended meanwhile.
    fn ask_again(&mut self, shard: u16, run_id: RunId) {
        let Some(run) = self.runs.get(run_id) else { return };
        let unanswered = match run.claim {
            ClaimStage::Asked(_) | ClaimStage::Checking => true,
            ClaimStage::Unasked | ClaimStage::Granted => false,
        };
        let wants = match &run.stage {
            Stage::Asking(_) => true,
            // What was told to end needs no grant any more; heartbeats list it until its outcome is confirmed.
            Stage::Started(started) => !started.kill.is_cancelled(),
            Stage::Waiting(_) | Stage::Ended(_) => false,
        };
        if unanswered && wants {
            self.claims.want(shard, run_id);
        }
    }

    fn log_unavailable(&mut self) {
        let missing: Vec<&str> = self.fetcher.unavailable().collect();
        let before = std::mem::replace(&mut self.unavailable, missing.len());
        if before == 0 && !missing.is_empty() {
            tracing::warn!(consumers = missing.join(","), "consumers are missing or do not answer: asking until they do");
        } else if before > 0 && missing.is_empty() {
            tracing::info!("all consumers answer");
        }
    }
}
