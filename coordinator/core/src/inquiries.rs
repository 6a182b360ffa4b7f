//! Rule R6: no verdict of a loss, a vanished message or a doubtful claim before the shard has decided the last outcome
//! that was published before the evidence. A reader that ended proves nothing: what was read with it is asked about anew.

use std::collections::{BTreeMap, BTreeSet};

/// Evidence of one shard that waits for its question to be asked, at most: what is beyond comes again, as all of it does.
pub const EVIDENCE_MAX: usize = 16_384;

/// The questions that are open, by shard. `D` is what waits for a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Inquiries<D> {
    open: BTreeMap<u16, Inquiry<D>>,
    last: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Inquiry<D> {
    /// Evidence that came after the question under way was asked.
    next: Vec<D>,
    /// Evidence that the question under way is about.
    asked: Vec<D>,
    state: State,
}

impl<D> Default for Inquiries<D> {
    fn default() -> Self {
        Self { open: BTreeMap::new(), last: 0 }
    }
}

impl<D> Default for Inquiry<D> {
    fn default() -> Self {
        Self { next: Vec::new(), asked: Vec::new(), state: State::Idle }
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    #[default]
    Idle,
    /// Number of the question.
    Asking(u64),
    /// The last outcome that must be decided first.
    Waiting(u64),
}

impl<D> Inquiry<D> {
    fn put_back(&mut self) {
        self.state = State::Idle;
        let asked = std::mem::take(&mut self.asked);
        self.next.splice(0..0, asked);
    }
}

impl<D> Inquiries<D> {
    /// Evidence for a verdict in this shard; not kept where [`EVIDENCE_MAX`] waits already.
    pub fn add(&mut self, shard: u16, doubt: D) {
        let next = &mut self.open.entry(shard).or_default().next;
        if next.len() < EVIDENCE_MAX {
            next.push(doubt);
        }
    }

    /// Shards to ask about now, with the number of the question.
    pub fn questions(&mut self) -> Vec<(u16, u64)> {
        let mut questions = Vec::new();
        for (shard, inquiry) in &mut self.open {
            if inquiry.state == State::Idle && !inquiry.next.is_empty() {
                self.last += 1;
                inquiry.asked = std::mem::take(&mut inquiry.next);
                inquiry.state = State::Asking(self.last);
                questions.push((*shard, self.last));
            }
        }
        questions
    }

    /// The answer: the sequence of the last outcome, 0 for none at all; without an answer the question is asked again.
    pub fn answered(&mut self, shard: u16, question: u64, head: Option<u64>) {
        let Some(inquiry) = self.open.get_mut(&shard).filter(|inquiry| inquiry.state == State::Asking(question)) else { return };
        if let Some(head) = head {
            inquiry.state = State::Waiting(head);
        } else {
            inquiry.put_back();
        }
    }

    /// The reader starts anew: what was read with the old one proves nothing.
    pub fn reader_changed(&mut self) {
        for inquiry in self.open.values_mut().filter(|inquiry| inquiry.state != State::Idle) {
            inquiry.put_back();
        }
    }

    /// What may be decided now that every shard has decided its outcomes up to `position(shard)`.
    pub fn decidable(&mut self, position: impl Fn(u16) -> u64) -> Vec<D> {
        let mut decidable = Vec::new();
        for (shard, inquiry) in &mut self.open {
            if let State::Waiting(head) = inquiry.state
                && position(*shard) >= head
            {
                inquiry.state = State::Idle;
                decidable.append(&mut inquiry.asked);
            }
        }
        self.open.retain(|_, inquiry| inquiry.state != State::Idle || !inquiry.next.is_empty());
        decidable
    }

    /// All that waits for a verdict.
    pub fn waiting(&self) -> impl Iterator<Item = &D> {
        self.open.values().flat_map(|inquiry| inquiry.asked.iter().chain(&inquiry.next))
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Forgets what is asked about these shards: their next owner sees the evidence too.
    pub fn forget_shards(&mut self, shards: &BTreeSet<u16>) {
        self.open.retain(|shard, _| !shards.contains(shard));
    }

    /// Forgets everything, for a recovery: evidence comes again.
    pub fn clear(&mut self) {
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_waits_until_the_last_outcome_is_decided() {
        let mut inquiries = Inquiries::default();
        inquiries.add(3, "doubt");
        let [(3, question)] = inquiries.questions()[..] else { panic!("one question") };
        assert!(inquiries.decidable(|_| u64::MAX).is_empty(), "not answered yet");
        inquiries.answered(3, question, Some(10));
        assert!(inquiries.decidable(|_| 9).is_empty());
        assert_eq!(inquiries.decidable(|_| 10).len(), 1);
        assert!(inquiries.is_empty());
    }

    #[test]
    fn later_evidence_asks_its_own_question() {
        let mut inquiries = Inquiries::default();
        inquiries.add(3, "doubt");
        let first = inquiries.questions();
        inquiries.add(3, "doubt");
        assert!(inquiries.questions().is_empty(), "one question at a time");
        inquiries.answered(3, first[0].1, Some(0));
        assert_eq!(inquiries.decidable(|_| 0).len(), 1);
        assert_eq!(inquiries.questions().len(), 1);
    }

    #[test]
    fn evidence_that_nobody_answers_stays_within_its_bound() {
        let mut inquiries = Inquiries::default();
        inquiries.add(3, 0);
        let [(3, question)] = inquiries.questions()[..] else { panic!("one question") };
        (0..2 * EVIDENCE_MAX).for_each(|number| inquiries.add(3, number));
        assert_eq!(inquiries.waiting().count(), 1 + EVIDENCE_MAX);
        inquiries.answered(3, question, Some(0));
        assert_eq!(inquiries.decidable(|_| 0).len(), 1);
    }

    #[test]
    fn a_failed_question_and_a_new_reader_ask_again() {
        let mut inquiries = Inquiries::default();
        inquiries.add(3, "doubt");
        let first = inquiries.questions();
        inquiries.answered(3, first[0].1, None);
        let second = inquiries.questions();
        inquiries.answered(3, first[0].1, Some(0));
        assert!(inquiries.decidable(|_| 0).is_empty(), "the old question's answer means nothing");
        inquiries.answered(3, second[0].1, Some(5));
        inquiries.reader_changed();
        assert!(inquiries.decidable(|_| 5).is_empty());
        assert_eq!(inquiries.questions().len(), 1);
    }
}
