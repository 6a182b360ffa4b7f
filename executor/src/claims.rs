//! When claims and checks travel to the owner of their shard. Pure.
//!
//! The first goes at once; those that come while it is unanswered go together in the next message; what stays
//! unanswered is asked again.

use orchestr8_proto::ids::RunId;
use orchestr8_proto::wire::BATCH_ITEMS_MAX;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
struct Lane {
    unanswered_since: Option<Instant>,
    waiting: Vec<RunId>,
}

/// The claims of one executor, by shard.
#[derive(Debug)]
pub(crate) struct ClaimLanes {
    lanes: HashMap<u16, Lane>,
    /// Shards with claims that have not been sent.
    waiting: BTreeSet<u16>,
    /// What was asked and when it is asked again, in order, because the wait is the same for all.
    again: VecDeque<(Instant, u16, RunId)>,
    again_after: Duration,
}

impl ClaimLanes {
    /// Lanes that ask again after `again_after`.
    pub(crate) fn new(again_after: Duration) -> Self {
        Self { lanes: HashMap::new(), waiting: BTreeSet::new(), again: VecDeque::new(), again_after }
    }

    /// `run` wants an answer from the owner of `shard`.
    pub(crate) fn want(&mut self, shard: u16, run: RunId) {
        self.lanes.entry(shard).or_default().waiting.push(run);
        self.waiting.insert(shard);
    }

    /// The owner of `shard` answered something: the next message may go.
    pub(crate) fn answered(&mut self, shard: u16) {
        if let Some(lane) = self.lanes.get_mut(&shard) {
            lane.unanswered_since = None;
        }
    }

    /// The messages that may be sent now: shard and runs.
    pub(crate) fn take_ready(&mut self, now: Instant) -> Vec<(u16, Vec<RunId>)> {
        let open = |lane: &Lane| lane.unanswered_since.is_none_or(|since| now >= since + self.again_after);
        let ready: Vec<u16> = self.waiting.iter().copied().filter(|shard| self.lanes.get(shard).is_some_and(open)).collect();
        ready.into_iter().map(|shard| (shard, self.take_lane(shard, now))).collect()
    }

    /// The runs whose question is due again; the caller passes those on that still want an answer.
    pub(crate) fn take_again(&mut self, now: Instant) -> Vec<(u16, RunId)> {
        let due = self.again.iter().take_while(|(at, ..)| *at <= now).count();
        self.again.drain(..due).map(|(_, shard, run)| (shard, run)).collect()
    }

    /// Everything asked is due again at once: the connection is new.
    pub(crate) fn start_over(&mut self) -> Vec<(u16, RunId)> {
        for lane in self.lanes.values_mut() {
            lane.unanswered_since = None;
        }
        self.again.drain(..).map(|(_, shard, run)| (shard, run)).collect()
    }

    /// Whether something waits to be sent or to be asked again.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.again.is_empty()
    }

    fn take_lane(&mut self, shard: u16, now: Instant) -> Vec<RunId> {
        let lane = self.lanes.entry(shard).or_default();
        lane.unanswered_since = Some(now);
        let rest = lane.waiting.split_off(lane.waiting.len().min(BATCH_ITEMS_MAX));
        let runs = std::mem::replace(&mut lane.waiting, rest);
        if lane.waiting.is_empty() {
            self.waiting.remove(&shard);
        }
        self.again.extend(runs.iter().map(|run| (now + self.again_after, shard, *run)));
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGAIN: Duration = Duration::from_secs(3);

    #[test]
    fn the_first_goes_at_once_and_the_next_travel_together_after_its_answer() {
        let (mut lanes, now) = (ClaimLanes::new(AGAIN), Instant::now());
        let runs: Vec<_> = (0..3).map(|_| RunId::random()).collect();
        lanes.want(7, runs[0]);
        assert_eq!(lanes.take_ready(now), vec![(7, vec![runs[0]])]);
        lanes.want(7, runs[1]);
        lanes.want(7, runs[2]);
        assert_eq!(lanes.take_ready(now), vec![]);
        lanes.answered(7);
        assert_eq!(lanes.take_ready(now), vec![(7, runs[1..].to_vec())]);
    }

    #[test]
    fn shards_do_not_wait_for_each_other() {
        let (mut lanes, now) = (ClaimLanes::new(AGAIN), Instant::now());
        let (one, two) = (RunId::random(), RunId::random());
        lanes.want(1, one);
        lanes.take_ready(now);
        lanes.want(2, two);
        assert_eq!(lanes.take_ready(now), vec![(2, vec![two])]);
    }

    #[test]
    fn the_unanswered_are_asked_again_and_do_not_block_the_lane_for_longer() {
        let (mut lanes, now) = (ClaimLanes::new(AGAIN), Instant::now());
        let (first, second) = (RunId::random(), RunId::random());
        lanes.want(1, first);
        lanes.take_ready(now);
        lanes.want(1, second);
        assert_eq!(lanes.take_again(now + AGAIN / 2), vec![]);
        assert_eq!(lanes.take_ready(now + AGAIN / 2), vec![]);
        assert_eq!(lanes.take_again(now + AGAIN), vec![(1, first)]);
        lanes.want(1, first);
        assert_eq!(lanes.take_ready(now + AGAIN), vec![(1, vec![second, first])]);
        assert!(!lanes.is_idle());
    }

    #[test]
    fn a_message_is_bounded_and_the_rest_follows() {
        let (mut lanes, now) = (ClaimLanes::new(AGAIN), Instant::now());
        (0..=BATCH_ITEMS_MAX).for_each(|_| lanes.want(1, RunId::random()));
        assert_eq!(lanes.take_ready(now)[0].1.len(), BATCH_ITEMS_MAX);
        lanes.answered(1);
        assert_eq!(lanes.take_ready(now)[0].1.len(), 1);
    }

    #[test]
    fn a_new_connection_asks_everything_again() {
        let (mut lanes, now) = (ClaimLanes::new(AGAIN), Instant::now());
        let run = RunId::random();
        lanes.want(1, run);
        lanes.take_ready(now);
        assert_eq!(lanes.start_over(), vec![(1, run)]);
        lanes.want(1, run);
        assert_eq!(lanes.take_ready(now), vec![(1, vec![run])]);
    }
}
