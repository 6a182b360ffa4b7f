//! What happens by time, and after the connection was lost and found.

use super::answers::Answer;
use super::{DROPPED_MAX, Desk, Effect, Line};
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
        self.look_for_a_majority(now);
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

    /// A server that takes no outcomes, or has none of our consumers, may have lost the others of its cluster.
    fn look_for_a_majority(&mut self, now: Instant) {
        if self.line == Line::Down {
            return;
        }
        if !self.outcomes.are_refused() && !self.fetcher.is_cut_off() {
            self.stranded.stops_failing();
        } else if self.stranded.fails(now) {
            self.effects.push(Effect::ChangeServer);
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

#[cfg(test)]
mod tests {
    use super::super::scene::{FIRST, Scene, completed, dispatch, message, seconds};
    use async_nats::{Message, StatusCode};
    use bytes::Bytes;
    use orchestr8_proto::wire::OutcomeBatch;

    /// A second in which the server answers all outcomes as one without the stream does.
    fn refuse_for_a_second(scene: &mut Scene) {
        for (sent, _) in scene.take::<OutcomeBatch>("orchestr8.outcome.3") {
            let reply = sent.reply.expect("outcomes want an answer");
            let nobody = Message { status: Some(StatusCode::NO_RESPONDERS), ..message(&reply, Bytes::new()) };
            scene.desk.receive(nobody, scene.clock);
        }
        scene.pass(seconds(1));
        scene.park();
    }

    #[test]
    fn a_server_that_stores_no_outcomes_for_long_is_left() {
        let mut scene = Scene::new();
        scene.deliver(vec![dispatch()], FIRST);
        let run_id = scene.run_id(0);
        scene.end(run_id, completed());
        for _ in 0..7 {
            refuse_for_a_second(&mut scene);
        }
        assert_eq!(scene.servers_left, 0, "it may be away for a moment");
        refuse_for_a_second(&mut scene);
        assert_eq!(scene.servers_left, 1);
        for _ in 0..13 {
            refuse_for_a_second(&mut scene);
        }
        assert_eq!(scene.servers_left, 1, "the next one has twice the time");
        refuse_for_a_second(&mut scene);
        assert_eq!(scene.servers_left, 2);
    }

    #[test]
    fn a_server_that_stores_them_stays() {
        let mut scene = Scene::new();
        scene.deliver(vec![dispatch()], FIRST);
        let run_id = scene.run_id(0);
        scene.end(run_id, completed());
        for _ in 0..2 {
            refuse_for_a_second(&mut scene);
        }
        while scene.store_outcomes().is_empty() {
            scene.pass(seconds(1));
        }
        // Later its silence in this scene would count.
        for _ in 0..10 {
            scene.pass(seconds(1));
            scene.park();
        }
        assert_eq!(scene.servers_left, 0);
    }
}
