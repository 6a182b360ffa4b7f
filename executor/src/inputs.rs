//! The inputs of dispatches by reference: which run asks for which part when, before it starts. Pure.
//!
//! Only holders ask, so a heartbeat lists the run meanwhile, and the owner's verdicts end it like any that has not started. Each
//! has one part under way; what stays unanswered is asked again. A new owner serves the rest: the hash decides.

use crate::settings::FETCHING_BYTES_MAX;
use bytes::Bytes;
use orchestr8_proto::ids::RunId;
use orchestr8_proto::reference::{Gathered, Gathering, ReferenceError};
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::wire::InputsPart;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bases without a part after which a run is given back: longer than any change of owners.
const PATIENCE_BASES: u32 = 60;

/// The inputs that this executor fetches.
#[derive(Debug)]
pub(crate) struct Fetches {
    /// Those for which there is no room yet, in order.
    waiting: VecDeque<Fetch>,
    /// In order of their begin.
    active: Vec<Fetch>,
    again_after: Duration,
    patience: Duration,
}

#[derive(Debug)]
struct Fetch {
    run: RunId,
    gathering: Gathering,
    asked_at: Option<Instant>,
    /// The last part came, or the first ask could leave.
    heard_at: Instant,
    /// What came as a whole was not what was referred to: it is begun anew once, since two owners may have served it.
    has_begun_anew: bool,
}

/// What a part made of a fetch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// More is to come, or nothing was waited for.
    Nothing,
    /// The next part may be asked for.
    More,
    /// All of it.
    All(Bytes),
    /// It cannot be had.
    Failed(ReferenceError),
}

impl Fetches {
    /// Fetches that ask again by these times.
    pub(crate) fn new(times: &ProtocolTimes) -> Self {
        Self { waiting: VecDeque::new(), active: Vec::new(), again_after: times.claim_again(), patience: times.base() * PATIENCE_BASES }
    }

    /// A run became the holder of a dispatch with these inputs. Said again, it changes nothing.
    pub(crate) fn want(&mut self, run: RunId, gathering: Gathering, now: Instant) {
        if !self.waiting.iter().chain(&self.active).any(|fetch| fetch.run == run) {
            self.waiting.push_back(Fetch { run, gathering, asked_at: None, heard_at: now, has_begun_anew: false });
        }
    }

    /// Nothing is to be fetched.
    pub(crate) fn is_idle(&self) -> bool {
        self.active.is_empty() && self.waiting.is_empty()
    }

    /// The asks that may leave now: run and offset. Runs that are no longer wanted are forgotten.
    pub(crate) fn take_due(&mut self, now: Instant, is_wanted: impl Fn(RunId) -> bool) -> Vec<(RunId, u64)> {
        self.active.retain(|fetch| is_wanted(fetch.run));
        self.waiting.retain(|fetch| is_wanted(fetch.run));
        let mut bytes: usize = self.active.iter().map(|fetch| fetch.gathering.bytes()).sum();
        // One is always fetched, however large.
        while let Some(next) = self.waiting.pop_front_if(|next| bytes == 0 || bytes + next.gathering.bytes() <= FETCHING_BYTES_MAX) {
            bytes += next.gathering.bytes();
            self.active.push(Fetch { heard_at: now, ..next });
        }
        let again_after = self.again_after;
        let due = self.active.iter_mut().filter(|fetch| fetch.asked_at.is_none_or(|at| at + again_after <= now));
        due.map(|fetch| {
            fetch.asked_at = Some(now);
            (fetch.run, fetch.gathering.offset())
        })
        .collect()
    }

    /// A part came.
    pub(crate) fn take(&mut self, run: RunId, part: &InputsPart, now: Instant) -> Fetched {
        let Some(position) = self.active.iter().position(|fetch| fetch.run == run) else { return Fetched::Nothing };
        let fetch = &mut self.active[position];
        match fetch.gathering.take(part) {
            Gathered::Nothing => return Fetched::Nothing,
            Gathered::All(inputs) => {
                self.active.remove(position);
                return Fetched::All(inputs);
            }
            Gathered::Changed if fetch.has_begun_anew => {
                self.active.remove(position);
                return Fetched::Failed(ReferenceError::Changed);
            }
            Gathered::Changed => fetch.has_begun_anew = true,
            Gathered::More => {}
        }
        (fetch.asked_at, fetch.heard_at) = (None, now);
        Fetched::More
    }

    /// Runs whose patience has ended; they are forgotten.
    pub(crate) fn take_late(&mut self, now: Instant) -> Vec<RunId> {
        let patience = self.patience;
        self.active.extract_if(.., |fetch| fetch.heard_at + patience <= now).map(|fetch| fetch.run).collect()
    }

    /// The connection is new: everything is asked for again, with fresh patience.
    pub(crate) fn start_over(&mut self, now: Instant) {
        self.active.iter_mut().for_each(|fetch| (fetch.asked_at, fetch.heard_at) = (None, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::reference::{PART_BYTES, part, refer};
    use orchestr8_proto::wire::{Dispatch, ReferenceKind, dispatch};

    fn referred(fill: char, bytes: usize) -> (ReferenceKind, Bytes) {
        let (referring, inputs) = refer(Dispatch { prompt: String::from(fill).repeat(bytes), ..Dispatch::default() });
        let Some(dispatch::Kind::Reference(reference)) = referring.kind else { panic!("it refers") };
        (reference, inputs)
    }

    fn wanting(reference: &ReferenceKind, now: Instant) -> (Fetches, RunId) {
        let (mut fetches, run) = (Fetches::new(&ProtocolTimes::default()), RunId::random());
        fetches.want(run, Gathering::new(reference).expect("usable"), now);
        (fetches, run)
    }

    fn at(inputs: &Bytes, offset: u64) -> InputsPart {
        InputsPart { run_id: Bytes::new(), offset, part: part(inputs, offset).expect("there is one") }
    }

    const AGAIN: Duration = Duration::from_secs(3);

    #[test]
    fn parts_are_asked_for_one_after_the_other_and_again_when_nobody_answers() {
        let ((reference, inputs), now) = (referred('a', 2 * PART_BYTES), Instant::now());
        let (mut fetches, run) = wanting(&reference, now);
        fetches.want(run, Gathering::new(&reference).expect("usable"), now);
        let next = PART_BYTES as u64;
        assert_eq!(fetches.take_due(now, |_| true), [(run, 0)]);
        assert_eq!(fetches.take_due(now + AGAIN / 2, |_| true), []);
        assert_eq!(fetches.take_due(now + AGAIN, |_| true), [(run, 0)]);
        assert_eq!(fetches.take(run, &at(&inputs, 0), now), Fetched::More);
        assert_eq!(fetches.take_due(now + AGAIN, |_| true), [(run, next)], "the next one at once");
        assert_eq!(fetches.take(run, &at(&inputs, 0), now), Fetched::Nothing, "it came twice");
        fetches.start_over(now);
        assert_eq!(fetches.take_due(now, |_| true), [(run, next)], "what has come is kept");
        assert_eq!(fetches.take(run, &at(&inputs, next), now), Fetched::More);
        assert_eq!(fetches.take(run, &at(&inputs, 2 * next), now), Fetched::All(inputs));
        assert!(fetches.is_idle());
    }

    #[test]
    fn what_two_owners_made_differently_is_begun_anew_once() {
        let ((reference, ours), (_, theirs), now) = (referred('a', PART_BYTES), referred('b', PART_BYTES), Instant::now());
        let (mut fetches, run) = wanting(&reference, now);
        fetches.take_due(now, |_| true);
        assert_eq!(fetches.take(run, &at(&theirs, 0), now), Fetched::More);
        assert_eq!(fetches.take(run, &at(&ours, PART_BYTES as u64), now), Fetched::More);
        assert_eq!(fetches.take_due(now, |_| true), [(run, 0)], "anew");
        assert_eq!(fetches.take(run, &at(&ours, 0), now), Fetched::More);
        assert_eq!(fetches.take(run, &at(&ours, PART_BYTES as u64), now), Fetched::All(ours));
        let (mut fetches, run) = wanting(&reference, now);
        fetches.take_due(now, |_| true);
        for (offset, expected) in [
            (0, Fetched::More),
            (PART_BYTES as u64, Fetched::More),
            (0, Fetched::More),
            (PART_BYTES as u64, Fetched::Failed(ReferenceError::Changed)),
        ] {
            assert_eq!(fetches.take(run, &at(&theirs, offset), now), expected);
        }
        assert!(fetches.is_idle());
    }

    #[test]
    fn no_more_is_fetched_at_once_than_memory_allows_and_what_is_not_wanted_makes_room() {
        let now = Instant::now();
        let large = ReferenceKind { bytes: (FETCHING_BYTES_MAX / 2) as u64, ..referred('a', 1).0 };
        let mut fetches = Fetches::new(&ProtocolTimes::default());
        let runs: Vec<RunId> = (0..4).map(|_| RunId::random()).collect();
        for run in &runs {
            fetches.want(*run, Gathering::new(&large).expect("usable"), now);
        }
        assert_eq!(fetches.take_due(now, |_| true), [(runs[0], 0), (runs[1], 0)]);
        assert_eq!(fetches.take_due(now, |_| true), []);
        assert_eq!(fetches.take_due(now, |run| run != runs[0] && run != runs[2]), [(runs[3], 0)]);
        let whole = ReferenceKind { bytes: FETCHING_BYTES_MAX as u64, ..large };
        let (mut fetches, run) = wanting(&whole, now);
        assert_eq!(fetches.take_due(now, |_| true), [(run, 0)]);
    }

    #[test]
    fn whoever_gets_no_part_for_a_minute_gives_up_but_not_who_waits_for_room() {
        let (now, minute) = (Instant::now(), Duration::from_mins(1));
        let whole = ReferenceKind { bytes: FETCHING_BYTES_MAX as u64, ..referred('a', 1).0 };
        let (mut fetches, first) = wanting(&whole, now);
        let second = RunId::random();
        fetches.want(second, Gathering::new(&whole).expect("usable"), now);
        assert_eq!(fetches.take_due(now, |_| true), [(first, 0)]);
        assert_eq!(fetches.take_late(now + Duration::from_millis(59_999)), []);
        assert_eq!(fetches.take_late(now + minute), [first]);
        assert_eq!(fetches.take_due(now + minute, |_| true), [(second, 0)]);
        assert_eq!(fetches.take_late(now + minute), [], "its patience begins now");
        fetches.start_over(now + minute * 2);
        assert_eq!(fetches.take_late(now + minute * 2), [], "nobody could answer without a connection");
    }
}
