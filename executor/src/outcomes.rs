//! When outcomes travel to their shard's subject, and when again. Pure.
//!
//! One publish per shard at a time; what ends meanwhile goes together in the next message. Nothing is dropped: what the
//! broker did not store is tried again with patience, what no coordinator confirmed is published again.

use crate::patience::Patience;
use orchestr8_proto::ids::RunId;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::wire::{BATCH_ITEMS_MAX, MESSAGE_BYTES_MAX};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Room for the schema version and for the tag and length in front of each outcome.
const FRAME_BYTES_MAX: usize = 8;

struct Lane {
    waiting: VecDeque<RunId>,
    flight: Option<Flight>,
    blocked_until: Option<Instant>,
    patience: Patience,
}

struct Flight {
    number: u64,
    runs: Vec<RunId>,
    sent_at: Instant,
}

/// One message of outcomes to publish.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    /// Whose subject.
    pub shard: u16,
    /// Comes back with the broker's answer.
    pub flight: u64,
    /// Whose outcomes.
    pub runs: Vec<RunId>,
}

/// The outcomes of one executor, by shard.
pub(crate) struct OutcomeLanes {
    lanes: HashMap<u16, Lane>,
    waiting: BTreeSet<u16>,
    flights: BTreeMap<u64, u16>,
    next_flight: u64,
    shortest_wait: Duration,
    longest_wait: Duration,
    answer_within: Duration,
}

impl OutcomeLanes {
    /// Empty lanes.
    pub(crate) fn new(times: &ProtocolTimes) -> Self {
        Self {
            lanes: HashMap::new(),
            waiting: BTreeSet::new(),
            flights: BTreeMap::new(),
            next_flight: 0,
            shortest_wait: times.base() / 4,
            longest_wait: times.in_progress(),
            answer_within: times.claim_again(),
        }
    }

    /// The outcome of `run` is to be published.
    pub(crate) fn push(&mut self, shard: u16, run: RunId) {
        let (shortest, longest) = (self.shortest_wait, self.longest_wait);
        let lane = self.lanes.entry(shard).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            flight: None,
            blocked_until: None,
            patience: Patience::between(shortest, longest),
        });
        lane.waiting.push_back(run);
        self.waiting.insert(shard);
    }

    /// The messages that may be published now. `bytes_of` tells the encoded size of an outcome, none if it was forgotten.
    pub(crate) fn depart(&mut self, now: Instant, bytes_of: impl Fn(RunId) -> Option<usize>) -> Vec<Departure> {
        let shards: Vec<u16> =
            self.waiting.iter().copied().filter(|shard| self.lanes.get(shard).is_some_and(|lane| lane.is_open(now))).collect();
        shards.into_iter().filter_map(|shard| self.depart_from(shard, now, &bytes_of)).collect()
    }

    /// The broker stored the message: its runs.
    pub(crate) fn stored(&mut self, flight: u64) -> Vec<RunId> {
        let Some(landed) = self.land(flight) else { return Vec::new() };
        let lane = self.lanes.get_mut(&landed.0).expect("a flight has a lane");
        lane.patience.reset();
        lane.blocked_until = None;
        landed.1.runs
    }

    /// The broker refused the message or is not there: the same outcomes are tried again after a wait, which is returned.
    pub(crate) fn refused(&mut self, flight: u64, now: Instant) -> Option<Duration> {
        let (shard, landed) = self.land(flight)?;
        let lane = self.lanes.get_mut(&shard).expect("a flight has a lane");
        landed.runs.into_iter().rev().for_each(|run| lane.waiting.push_front(run));
        let wait = lane.patience.next_wait();
        lane.blocked_until = Some(now + wait);
        self.waiting.insert(shard);
        Some(wait)
    }

    /// The flights without an answer for too long; the caller refuses them.
    pub(crate) fn lost(&self, now: Instant) -> Vec<u64> {
        let is_lost = |flight: &Flight| now > flight.sent_at + self.answer_within;
        self.lanes.values().filter_map(|lane| lane.flight.as_ref()).filter(|flight| is_lost(flight)).map(|flight| flight.number).collect()
    }

    /// Everything under way is published again at once: the connection is new.
    pub(crate) fn start_over(&mut self, now: Instant) {
        for flight in self.flights.keys().copied().collect::<Vec<_>>() {
            self.refused(flight, now);
        }
        for lane in self.lanes.values_mut() {
            lane.blocked_until = None;
            lane.patience.reset();
        }
    }

    /// Whether the broker did not store what it was sent last for some shard.
    pub(crate) fn are_refused(&self) -> bool {
        self.lanes.values().any(|lane| lane.blocked_until.is_some())
    }

    /// Whether nothing waits and nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.flights.is_empty()
    }

    fn land(&mut self, flight: u64) -> Option<(u16, Flight)> {
        let shard = self.flights.remove(&flight)?;
        let landed = self.lanes.get_mut(&shard).and_then(|lane| lane.flight.take()).expect("one flight per lane");
        Some((shard, landed))
    }

    fn depart_from(&mut self, shard: u16, now: Instant, bytes_of: &impl Fn(RunId) -> Option<usize>) -> Option<Departure> {
        let lane = self.lanes.get_mut(&shard)?;
        let runs = lane.take_message(bytes_of);
        if lane.waiting.is_empty() {
            self.waiting.remove(&shard);
        }
        if runs.is_empty() {
            return None;
        }
        self.next_flight += 1;
        let number = self.next_flight;
        lane.flight = Some(Flight { number, runs: runs.clone(), sent_at: now });
        self.flights.insert(number, shard);
        Some(Departure { shard, flight: number, runs })
    }
}

impl Lane {
    fn is_open(&self, now: Instant) -> bool {
        self.flight.is_none() && self.blocked_until.is_none_or(|until| until <= now)
    }

    /// Takes what fits into one message; at least one outcome, which fits by itself.
    fn take_message(&mut self, bytes_of: &impl Fn(RunId) -> Option<usize>) -> Vec<RunId> {
        let (mut runs, mut bytes) = (Vec::new(), FRAME_BYTES_MAX);
        while let Some(run) = self.waiting.front().copied() {
            let size = bytes_of(run).map(|size| size + FRAME_BYTES_MAX);
            let fits = size.is_none_or(|size| bytes + size <= MESSAGE_BYTES_MAX) && runs.len() < BATCH_ITEMS_MAX;
            if !fits && !runs.is_empty() {
                break;
            }
            self.waiting.pop_front();
            if let Some(size) = size {
                bytes += size;
                runs.push(run);
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes() -> OutcomeLanes {
        OutcomeLanes::new(&ProtocolTimes::default())
    }

    fn runs(count: usize) -> Vec<RunId> {
        (0..count).map(|_| RunId::random()).collect()
    }

    #[test]
    fn what_ends_during_a_publish_travels_in_one_message() {
        let (mut lanes, now, runs) = (lanes(), Instant::now(), runs(4));
        lanes.push(3, runs[0]);
        let first = lanes.depart(now, |_| Some(100));
        assert_eq!(first, vec![Departure { shard: 3, flight: 1, runs: runs[..1].to_vec() }]);
        runs[1..].iter().for_each(|run| lanes.push(3, *run));
        assert_eq!(lanes.depart(now, |_| Some(100)), vec![]);
        assert_eq!(lanes.stored(1), runs[..1].to_vec());
        assert_eq!(lanes.depart(now, |_| Some(100))[0].runs, runs[1..].to_vec());
        assert_eq!(lanes.stored(2).len(), 3);
        assert!(lanes.is_idle() && lanes.stored(2).is_empty());
    }

    #[test]
    fn messages_are_bounded_in_bytes_and_forgotten_outcomes_do_not_travel() {
        let (mut lanes, now, runs) = (lanes(), Instant::now(), runs(5));
        for run in &runs {
            lanes.push(0, *run);
        }
        let bytes_of = |run: RunId| (run != runs[0]).then_some(MESSAGE_BYTES_MAX / 2 - 2 * FRAME_BYTES_MAX);
        let first = lanes.depart(now, bytes_of);
        assert_eq!(first[0].runs, runs[1..3].to_vec());
        lanes.stored(first[0].flight);
        assert_eq!(lanes.depart(now, bytes_of)[0].runs, runs[3..].to_vec());
    }

    #[test]
    fn a_refused_message_is_tried_again_in_order_after_a_wait() {
        let (mut lanes, now, runs) = (lanes(), Instant::now(), runs(2));
        lanes.push(0, runs[0]);
        lanes.depart(now, |_| Some(1));
        lanes.push(0, runs[1]);
        let wait = lanes.refused(1, now).expect("it was under way");
        assert_eq!(lanes.depart(now, |_| Some(1)), vec![]);
        assert_eq!(lanes.depart(now + wait, |_| Some(1))[0].runs, runs);
        assert_eq!(lanes.refused(1, now), None, "an old answer changes nothing");
    }

    #[test]
    fn an_unanswered_message_is_noticed_and_a_new_connection_repeats_it_at_once() {
        let (mut lanes, now, runs) = (lanes(), Instant::now(), runs(1));
        lanes.push(0, runs[0]);
        lanes.depart(now, |_| Some(1));
        assert!(lanes.lost(now + Duration::from_secs(3)).is_empty());
        assert_eq!(lanes.lost(now + Duration::from_secs(4)), vec![1]);
        lanes.start_over(now);
        assert_eq!(lanes.depart(now, |_| Some(1))[0].runs, runs);
    }
}
