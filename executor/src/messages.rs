//! The JetStream messages in hand: acknowledged when their last dispatch is settled, kept in progress until then. Pure.

use async_nats::Subject;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// A confirmed ack is sent so often, at most; then redelivery and rule R5 take over.
const CONFIRMED_ACK_TRIES: u32 = 5;

/// Names one message in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MessageKey(u64);

/// How a dispatch is done with its message; of several the greatest decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Settled {
    /// A newer delivery of the same dispatch took over: silence.
    Superseded,
    /// Refused, dropped or not understood.
    Term,
    /// Its outcome is stored.
    Ack,
    /// Granted: the server must confirm the ack, the lease is the heartbeat's from now on.
    ConfirmedAck,
}

struct Held {
    ack: Subject,
    dispatches: usize,
    open: usize,
    settled: Settled,
}

struct Unconfirmed {
    ack: Subject,
    sent_at: Instant,
    tries: u32,
}

/// All messages in hand.
pub(crate) struct Messages {
    next: u64,
    held: HashMap<MessageKey, Held>,
    /// When each is to be kept in progress, in order, because the wait is the same for all.
    progress: VecDeque<(Instant, MessageKey)>,
    unconfirmed: HashMap<MessageKey, Unconfirmed>,
    progress_after: Duration,
    confirm_within: Duration,
}

impl Messages {
    /// No messages; `progress_after` is the interval of in-progress, `confirm_within` the wait for a confirmed ack.
    pub(crate) fn new(progress_after: Duration, confirm_within: Duration) -> Self {
        Self { next: 0, held: HashMap::new(), progress: VecDeque::new(), unconfirmed: HashMap::new(), progress_after, confirm_within }
    }

    /// Holds a message of `dispatches` dispatches.
    pub(crate) fn hold(&mut self, ack: Subject, dispatches: usize, now: Instant) -> MessageKey {
        self.next += 1;
        let key = MessageKey(self.next);
        self.held.insert(key, Held { ack, dispatches, open: dispatches, settled: Settled::Superseded });
        self.progress.push_back((now + self.progress_after, key));
        key
    }

    /// One of its dispatches is done; with the last of them the message leaves: where to answer and how.
    pub(crate) fn settle(&mut self, key: MessageKey, settled: Settled, now: Instant) -> Option<(Subject, Settled)> {
        let held = self.held.get_mut(&key)?;
        held.settled = held.settled.max(settled);
        held.open -= 1;
        if held.open > 0 {
            return None;
        }
        let held = self.held.remove(&key)?;
        if held.settled == Settled::ConfirmedAck {
            self.unconfirmed.insert(key, Unconfirmed { ack: held.ack.clone(), sent_at: now, tries: 1 });
        }
        Some((held.ack, held.settled))
    }

    /// Whether all its dispatches are open and there are `dispatches` of them: nothing of it has been decided.
    pub(crate) fn is_whole(&self, key: MessageKey, dispatches: usize) -> bool {
        self.held.get(&key).is_some_and(|held| held.open == dispatches && held.dispatches == dispatches)
    }

    /// Gives a message back whole, whatever is open.
    pub(crate) fn give_back(&mut self, key: MessageKey) -> Option<Subject> {
        self.held.remove(&key).map(|held| held.ack)
    }

    /// The server confirmed an ack.
    pub(crate) fn confirmed(&mut self, key: MessageKey) {
        self.unconfirmed.remove(&key);
    }

    /// Where in-progress is due.
    pub(crate) fn take_progress(&mut self, now: Instant) -> Vec<Subject> {
        let mut due = Vec::new();
        while let Some((_, key)) = self.progress.pop_front_if(|(at, _)| *at <= now) {
            if let Some(held) = self.held.get(&key) {
                due.push(held.ack.clone());
                self.progress.push_back((now + self.progress_after, key));
            }
        }
        due
    }

    /// Everything in hand is due for in-progress: the connection is new.
    pub(crate) fn start_over(&mut self, now: Instant) {
        self.progress.iter_mut().for_each(|(at, _)| *at = now);
        self.unconfirmed.values_mut().for_each(|ack| ack.sent_at = now.checked_sub(self.confirm_within).unwrap_or(now));
    }

    /// Acks to send again because the server did not confirm them.
    pub(crate) fn take_unconfirmed(&mut self, now: Instant) -> Vec<(MessageKey, Subject)> {
        self.unconfirmed.retain(|_, ack| ack.tries < CONFIRMED_ACK_TRIES || now < ack.sent_at + self.confirm_within);
        let confirm_within = self.confirm_within;
        let due = self.unconfirmed.iter_mut().filter(|(_, ack)| now >= ack.sent_at + confirm_within);
        due.map(|(key, ack)| {
            ack.sent_at = now;
            ack.tries += 1;
            (*key, ack.ack.clone())
        })
        .collect()
    }

    /// Whether nothing is in hand and nothing awaits confirmation.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.unconfirmed.is_empty()
    }
}

impl MessageKey {
    /// The key as a token of a subject.
    pub(crate) const fn number(self) -> u64 {
        self.0
    }

    /// The key of a subject's token.
    pub(crate) const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRESS: Duration = Duration::from_secs(5);
    const CONFIRM: Duration = Duration::from_secs(1);

    fn messages() -> (Messages, Instant) {
        (Messages::new(PROGRESS, CONFIRM), Instant::now())
    }

    #[test]
    fn a_bundle_leaves_with_its_last_dispatch_and_the_strongest_answer() {
        let (mut messages, now) = messages();
        let key = messages.hold("a".into(), 3, now);
        assert_eq!(messages.settle(key, Settled::Term, now), None);
        assert_eq!(messages.settle(key, Settled::Ack, now), None);
        assert_eq!(messages.settle(key, Settled::Term, now), Some(("a".into(), Settled::Ack)));
        assert_eq!(messages.settle(key, Settled::Ack, now), None);
        assert!(messages.is_empty());
    }

    #[test]
    fn a_message_is_kept_in_progress_until_it_is_settled() {
        let (mut messages, now) = messages();
        let key = messages.hold("a".into(), 1, now);
        assert_eq!(messages.take_progress(now + PROGRESS / 2), Vec::<Subject>::new());
        assert_eq!(messages.take_progress(now + PROGRESS), vec![Subject::from("a")]);
        assert_eq!(messages.take_progress(now + PROGRESS), Vec::<Subject>::new());
        assert_eq!(messages.take_progress(now + PROGRESS * 2), vec![Subject::from("a")]);
        messages.settle(key, Settled::Term, now);
        assert_eq!(messages.take_progress(now + PROGRESS * 3), Vec::<Subject>::new());
    }

    #[test]
    fn a_confirmed_ack_is_repeated_until_the_server_confirms_it() {
        let (mut messages, now) = messages();
        let keys = [messages.hold("a".into(), 1, now), messages.hold("b".into(), 1, now)];
        for key in keys {
            assert!(messages.settle(key, Settled::ConfirmedAck, now).is_some());
        }
        messages.confirmed(keys[0]);
        assert_eq!(messages.take_unconfirmed(now), vec![]);
        for tries in 2..=CONFIRMED_ACK_TRIES {
            assert_eq!(messages.take_unconfirmed(now + CONFIRM * tries), vec![(keys[1], "b".into())]);
        }
        assert_eq!(messages.take_unconfirmed(now + CONFIRM * (CONFIRMED_ACK_TRIES + 1)), vec![]);
        assert!(messages.is_empty());
    }

    #[test]
    fn what_is_given_back_is_not_settled_again() {
        let (mut messages, now) = messages();
        let key = messages.hold("a".into(), 2, now);
        assert_eq!(messages.give_back(key), Some("a".into()));
        assert_eq!(messages.settle(key, Settled::Ack, now), None);
    }
}
