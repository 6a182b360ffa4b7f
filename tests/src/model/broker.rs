//! JetStream: a work queue of dispatches and a log of outcomes. Time comes in; what it forgets is an action of the world.

use super::messages::Told;
use orchestr8_proto::ids::{DispatchId, RunId, TaskId};
use std::collections::BTreeMap;

/// A message of the task stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TaskMessage {
    pub(super) task: TaskId,
    pub(super) dispatch: DispatchId,
    pub(super) again: bool,
    pub(super) ask_first: bool,
    pub(super) deliveries: u32,
    pub(super) stored_us: i64,
    /// Delivered and not acknowledged: not again before this.
    pub(super) lent_until_us: Option<i64>,
}

/// What the server answers to a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PubAck {
    Stored(u64),
    Full,
    TooLarge,
    /// INFO is answered, a publication is not.
    Silence,
}

/// The work queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TaskStream {
    pub(super) incarnation: u64,
    next: u64,
    pub(super) messages: BTreeMap<u64, TaskMessage>,
    /// Ids of the duplicate window: where each was stored, and until when it is remembered.
    remembered: BTreeMap<DispatchId, (u64, i64)>,
    /// The consumer's: everything at or below is gone.
    pub(super) room: usize,
    pub(super) latched: bool,
    pub(super) too_large: Option<TaskId>,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OutcomeStream {
    pub(super) incarnation: u64,
    next: u64,
    pub(super) messages: BTreeMap<u64, (i64, Vec<Told>)>,
    /// Outcomes stored so far, lost ones too: where there is no clock, their time.
    pub(super) stored: i64,
    /// Changes when consumers vanish.
    pub(super) consumers: u64,
}

/// Both streams.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Broker {
    pub(super) tasks: TaskStream,
    pub(super) outcomes: OutcomeStream,
    /// How long an id is remembered.
    pub(super) duplicate_window_us: i64,
    pub(super) wipes: u64,
}

/// A stored outcome: whose, and when it was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Witness {
    pub(super) run: RunId,
    time_us: i64,
}

/// What a survey of the consumer finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConsumerState {
    pub(super) ack_floor: u64,
    pub(super) empty: bool,
}

impl Broker {
    /// Fresh streams; sequences start at `first`.
    pub(super) fn new(first: u64, duplicate_window_us: i64) -> Self {
        let tasks = TaskStream {
            incarnation: 1,
            next: first,
            messages: BTreeMap::new(),
            remembered: BTreeMap::new(),
            room: usize::MAX,
            latched: false,
            too_large: None,
        };
        let outcomes = OutcomeStream { incarnation: 1, next: first, messages: BTreeMap::new(), stored: 0, consumers: 1 };
        Self { tasks, outcomes, duplicate_window_us, wipes: 0 }
    }

    /// Everything is gone; the new streams start at `first`.
    pub(super) fn wipe(&mut self, first: u64) {
        let (room, too_large, wipes) = (self.tasks.room, self.tasks.too_large, self.wipes + 1);
        let (consumers, stored) = (self.outcomes.consumers + 1, self.outcomes.stored);
        *self = Self::new(first, self.duplicate_window_us);
        (self.tasks.incarnation, self.outcomes.incarnation, self.wipes) = (wipes + 1, wipes + 1, wipes);
        (self.tasks.room, self.tasks.too_large, self.outcomes.consumers) = (room, too_large, consumers);
        self.outcomes.stored = stored;
    }

    /// The last outcomes are gone, and their sequences are given out again.
    pub(super) fn lose_outcomes(&mut self, count: usize) {
        for _ in 0..count {
            if let Some((sequence, _)) = self.outcomes.messages.pop_last() {
                self.outcomes.next = sequence;
            }
        }
        self.outcomes.consumers += 1;
    }

    /// The last dispatches are gone. The server has forgotten their ids.
    pub(super) fn lose_dispatches(&mut self, count: usize) {
        for _ in 0..count {
            if let Some((sequence, _)) = self.tasks.messages.pop_last() {
                self.tasks.next = sequence;
            }
        }
        self.tasks.remembered.clear();
    }

    /// Stores a dispatch, unless its id is remembered.
    pub(super) fn publish(&mut self, message: TaskMessage) -> PubAck {
        let now_us = message.stored_us;
        let stream = &mut self.tasks;
        if stream.latched {
            return PubAck::Silence;
        }
        if stream.too_large == Some(message.task) {
            return PubAck::TooLarge;
        }
        stream.remembered.retain(|_, (_, until)| *until > now_us);
        if let Some((sequence, _)) = stream.remembered.get(&message.dispatch) {
            return PubAck::Stored(*sequence);
        }
        if stream.messages.len() >= stream.room {
            return PubAck::Full;
        }
        let sequence = stream.next;
        stream.next += 1;
        stream.remembered.insert(message.dispatch, (sequence, now_us.saturating_add(self.duplicate_window_us)));
        stream.messages.insert(sequence, message);
        PubAck::Stored(sequence)
    }

    /// Delivers the oldest message that nobody has.
    pub(super) fn deliver(&mut self, now_us: i64, ack_wait_us: i64) -> Option<(u64, TaskMessage)> {
        let free = |message: &TaskMessage| message.lent_until_us.is_none_or(|until| until <= now_us);
        let (sequence, message) = self.tasks.messages.iter_mut().find(|(_, message)| free(message))?;
        message.deliveries += 1;
        message.lent_until_us = Some(now_us.saturating_add(ack_wait_us));
        Some((*sequence, *message))
    }

    /// An ack or term removes whatever has this sequence: JetStream does not fence.
    pub(super) fn ack(&mut self, sequence: u64) {
        self.tasks.messages.remove(&sequence);
    }

    /// A nak: at once to somebody else.
    pub(super) fn nak(&mut self, sequence: u64) {
        if let Some(message) = self.tasks.messages.get_mut(&sequence) {
            message.lent_until_us = None;
        }
    }

    /// In progress: the ack wait starts over.
    pub(super) fn in_progress(&mut self, sequence: u64, until_us: i64) {
        if let Some(message) = self.tasks.messages.get_mut(&sequence)
            && message.lent_until_us.is_some()
        {
            message.lent_until_us = Some(until_us);
        }
    }

    /// INFO of the consumer.
    pub(super) fn consumer_state(&self) -> ConsumerState {
        let ack_floor = self.tasks.messages.first_key_value().map_or(self.tasks.next, |(sequence, _)| *sequence) - 1;
        ConsumerState { ack_floor, empty: self.tasks.messages.is_empty() }
    }

    /// Stores outcomes.
    pub(super) fn store_outcomes(&mut self, told: Vec<Told>, now_us: i64) -> u64 {
        let sequence = self.outcomes.next;
        self.outcomes.next += 1;
        self.outcomes.stored += 1;
        self.outcomes.messages.insert(sequence, (now_us, told));
        sequence
    }

    /// Stored outcomes of this kind.
    pub(super) fn witnesses(&self, concerned: impl Fn(&Told) -> bool) -> Vec<Witness> {
        let told = self.outcomes.messages.values().flat_map(|(time_us, told)| told.iter().map(|told| (*time_us, told)));
        told.filter(|(_, told)| concerned(told)).map(|(time_us, told)| Witness { run: told.run, time_us }).collect()
    }

    /// Sequence and time of the last outcome.
    pub(super) fn head(&self) -> Option<(u64, i64)> {
        self.outcomes.messages.last_key_value().map(|(sequence, (time_us, _))| (*sequence, *time_us))
    }
}
