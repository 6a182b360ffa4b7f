//! Watermarks of publication for one shard, queue and priority: the row is the outbox.
//!
//! Every dispatch draws a sequence. `published_through` says that everything up to it has its `PubAck`;
//! `tried_through` is saved ahead and bounds what may have been tried. After a crash, what lies between them is
//! published `again`, what lies above is new. What was not tried is *held*: it simply lies above the mark.

use std::collections::{BTreeMap, BTreeSet};

/// How far ahead of the attempts `tried_through` is saved, in dispatches: one small write per so many.
pub const TRIED_AHEAD: i64 = 10_000;
/// Pairs of sequences that are kept of the `PubAcks`.
pub const CHECKPOINTS_MAX: usize = 256;

/// The marks of one shard, queue and priority.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Marks {
    /// Last sequence drawn.
    pub drawn: i64,
    /// Everything up to here has its `PubAck`.
    pub published_through: i64,
    /// Nothing above was ever tried; as saved.
    pub tried_through: i64,
    /// Everything up to here has been handed to the publisher; above it lies what is held.
    pub handed_through: i64,
    /// What was tried before and must be published again: above the first, up to the second.
    pub again: Option<(i64, i64)>,
    /// The highest that was handed over in this life: publishing it once more is `again`.
    pub highest_tried: i64,
    outstanding: BTreeSet<i64>,
    checkpoints: BTreeMap<i64, u64>,
}

impl Marks {
    /// Marks as saved, with the highest sequence that a row has.
    #[must_use]
    pub fn restored(published_through: i64, tried_through: i64, highest_row: i64, checkpoints: &[(i64, u64)]) -> Self {
        let drawn = tried_through.max(highest_row).max(published_through);
        Self {
            drawn,
            published_through,
            tried_through,
            handed_through: tried_through.max(published_through),
            again: (published_through < tried_through).then_some((published_through, tried_through)),
            highest_tried: tried_through,
            checkpoints: checkpoints.iter().copied().collect(),
            ..Self::default()
        }
    }

    /// Draws the next sequence.
    pub fn draw(&mut self) -> i64 {
        self.drawn += 1;
        self.drawn
    }

    /// Whether something is held.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.handed_through < self.drawn
    }

    /// Whether a publication of `sequence` would be one `again` (rule R5).
    #[must_use]
    pub fn may_have_been_tried(&self, sequence: i64) -> bool {
        sequence <= self.highest_tried
    }

    /// The mark to save before `sequence` may be tried, if the saved one is too low.
    #[must_use]
    pub fn tried_through_for(&self, sequence: i64) -> Option<i64> {
        (sequence > self.tried_through).then(|| sequence.saturating_add(TRIED_AHEAD))
    }

    /// Handed to the publisher, in ascending order.
    pub fn handed(&mut self, sequence: i64) {
        self.handed_through = self.handed_through.max(sequence);
        self.highest_tried = self.highest_tried.max(sequence);
        self.outstanding.insert(sequence);
    }

    /// Nothing up to here is to be published any more, whether rows were found or not.
    pub fn passed(&mut self, sequence: i64) {
        self.handed_through = self.handed_through.max(sequence);
        self.advance();
    }

    /// The server stored it under `stream_sequence`.
    pub fn acked(&mut self, sequence: i64, stream_sequence: u64) {
        self.outstanding.remove(&sequence);
        self.keep_checkpoint(sequence, stream_sequence);
        self.advance();
    }

    /// It will never be published: it left the queue, or was refused for good.
    pub fn abandoned(&mut self, sequence: i64) {
        self.outstanding.remove(&sequence);
        self.advance();
    }

    /// The server had no room: it is held again, and so is everything above it.
    pub fn refused_as_full(&mut self, sequence: i64) {
        self.outstanding.remove(&sequence);
        // While a range goes again, later rows of it raise `handed_through`: the range itself must remember this one.
        self.again = self.again.map(|(from, to)| (from.min(sequence - 1), to));
        self.handed_through = self.handed_through.min(sequence - 1);
        self.advance();
    }

    /// It was handed over as new, with all above it, but did not go to the publisher after all: it is held as if it had not been.
    pub fn never_tried(&mut self, sequence: i64) {
        self.highest_tried = self.highest_tried.min(sequence - 1);
        self.refused_as_full(sequence);
    }

    fn advance(&mut self) {
        let next_outstanding = self.outstanding.first().copied().unwrap_or(i64::MAX);
        let untried = self.again.map_or(i64::MAX, |(from, _)| from);
        self.published_through = self.published_through.max((next_outstanding - 1).min(self.handed_through).min(untried));
    }

    fn keep_checkpoint(&mut self, sequence: i64, stream_sequence: u64) {
        // What was stored late lies above its neighbours: the pairs stay ascending in both.
        let floor = self.checkpoints.range(..sequence).next_back().map_or(0, |(_, stored)| *stored);
        let stored = stream_sequence.max(floor);
        self.checkpoints.insert(sequence, stored);
        for (_, later) in self.checkpoints.range_mut(sequence..) {
            *later = (*later).max(stored);
        }
        if self.checkpoints.len() > CHECKPOINTS_MAX {
            let every_other: Vec<i64> = self.checkpoints.keys().copied().skip(1).step_by(2).collect();
            for sequence in every_other {
                self.checkpoints.remove(&sequence);
            }
        }
    }

    /// Pairs of (dispatch sequence, stream sequence), ascending, for the save.
    #[must_use]
    pub fn checkpoints(&self) -> Vec<(i64, u64)> {
        self.checkpoints.iter().map(|(sequence, stream)| (*sequence, *stream)).collect()
    }

    /// Forgets pairs below the oldest queued row.
    pub fn prune_below(&mut self, oldest_queued: i64) {
        let keep_from = self.checkpoints.range(..oldest_queued).next_back().map_or(oldest_queued, |(sequence, _)| *sequence);
        self.checkpoints = self.checkpoints.split_off(&keep_from);
    }

    /// What was to be published again up to here has been handed over.
    pub fn again_handed_through(&mut self, sequence: i64) {
        self.again = self.again.map(|(from, to)| (from.max(sequence), to)).filter(|(from, to)| from < to);
        self.advance();
    }

    /// A range goes again: above the first, up to the second.
    pub fn publish_again(&mut self, (from, to): (i64, i64)) {
        self.published_through = self.published_through.min(from);
        let (known_from, known_to) = self.again.unwrap_or((from, to));
        self.again = Some((known_from.min(from), known_to.max(to)));
    }

    /// The streams were made anew: everything that was ever handed over goes again, with the same ids.
    pub fn stream_changed(&mut self) {
        self.checkpoints.clear();
        self.published_through = 0;
        self.again = (self.handed_through > 0).then_some((0, self.handed_through));
    }

    /// The last dispatch whose message must be at or below `stream_sequence`.
    #[must_use]
    pub fn stored_at_or_below(&self, stream_sequence: u64) -> Option<i64> {
        self.checkpoints.iter().rev().find(|(_, stored)| **stored <= stream_sequence).map(|(sequence, _)| *sequence)
    }

    /// Dispatches that were handed over and have no answer yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_published_mark_follows_the_acks_in_order() {
        let mut marks = Marks::default();
        let [a, b, c] = [marks.draw(), marks.draw(), marks.draw()];
        for sequence in [a, b, c] {
            marks.handed(sequence);
        }
        marks.acked(c, 30);
        assert_eq!(marks.published_through, 0);
        marks.acked(a, 10);
        assert_eq!(marks.published_through, a);
        marks.acked(b, 20);
        assert_eq!(marks.published_through, c);
        assert_eq!(marks.stored_at_or_below(25), Some(b));
    }

    #[test]
    fn what_a_full_subject_refused_is_held_with_all_above() {
        let mut marks = Marks::default();
        for _ in 0..5 {
            let sequence = marks.draw();
            marks.handed(sequence);
        }
        marks.acked(1, 1);
        for sequence in 2..=5 {
            marks.refused_as_full(sequence);
        }
        assert_eq!((marks.published_through, marks.handed_through, marks.holds()), (1, 1, true));
    }

    #[test]
    fn what_was_handed_over_and_did_not_go_is_new_again() {
        let mut marks = Marks::restored(3, 5, 9, &[]);
        (6..=9).for_each(|sequence| marks.handed(sequence));
        (8..=9).for_each(|sequence| marks.never_tried(sequence));
        assert_eq!((marks.handed_through, marks.highest_tried, marks.outstanding()), (7, 7, 2));
        assert!(marks.holds() && marks.may_have_been_tried(7) && !marks.may_have_been_tried(8));
    }

    #[test]
    fn what_is_refused_while_a_range_goes_again_goes_once_more() {
        let mut marks = Marks::restored(0, 100, 100, &[]);
        (1..=8).for_each(|sequence| marks.handed(sequence));
        marks.again_handed_through(8);
        marks.acked(1, 1);
        (2..=8).for_each(|sequence| marks.refused_as_full(sequence));
        assert_eq!((marks.again, marks.published_through), (Some((1, 100)), 1));
        (2..=4).for_each(|sequence| marks.handed(sequence));
        marks.again_handed_through(4);
        (2..=4).for_each(|sequence| marks.acked(sequence, 9));
        assert_eq!((marks.again, marks.published_through), (Some((4, 100)), 4));
    }

    #[test]
    fn the_tried_mark_is_saved_ahead() {
        let mut marks = Marks::restored(3, 5, 9, &[]);
        assert_eq!((marks.drawn, marks.handed_through, marks.again), (9, 5, Some((3, 5))));
        assert_eq!(marks.tried_through_for(5), None);
        assert_eq!(marks.tried_through_for(6), Some(6 + TRIED_AHEAD));
        assert_eq!(marks.draw(), 10, "never a sequence that a row or a try has had");
    }

    #[test]
    fn the_published_mark_waits_for_what_goes_again() {
        let mut marks = Marks::restored(3, 5, 5, &[]);
        let new = marks.draw();
        marks.handed(new);
        marks.acked(new, 1);
        assert_eq!(marks.published_through, 3, "4 and 5 may never have arrived");
        marks.handed(4);
        marks.handed(5);
        marks.again_handed_through(5);
        assert_eq!((marks.again, marks.published_through), (None, 3));
        marks.acked(4, 2);
        marks.acked(5, 3);
        assert_eq!(marks.published_through, new);
    }

    #[test]
    fn checkpoints_stay_bounded_and_keep_their_order() {
        let mut marks = Marks::default();
        for n in 1..10_000u64 {
            let sequence = marks.draw();
            marks.handed(sequence);
            marks.acked(sequence, n * 2);
        }
        assert!(marks.checkpoints().len() <= CHECKPOINTS_MAX);
        assert!(marks.checkpoints().is_sorted());
        marks.prune_below(9_000);
        assert!(marks.checkpoints().len() >= 2);
        assert!(marks.stored_at_or_below(u64::MAX).is_some_and(|sequence| sequence > 9_000));
    }

    proptest! {
        /// Whatever the order of acks and refusals, nothing unanswered lies at or below the mark.
        #[test]
        fn nothing_unanswered_lies_below_the_published_mark(order in proptest::collection::vec((1i64..50, 0u8..3), 0..200)) {
            let mut marks = Marks::default();
            let mut open: BTreeSet<i64> = (1..50).collect();
            (1..50).for_each(|_| { let sequence = marks.draw(); marks.handed(sequence); });
            for (sequence, what) in order {
                match what {
                    0 => { open.remove(&sequence); marks.acked(sequence, 1); }
                    1 => { open.remove(&sequence); marks.abandoned(sequence); }
                    _ => {}
                }
                prop_assert!(open.first().is_none_or(|first| marks.published_through < *first));
            }
        }
    }
}
