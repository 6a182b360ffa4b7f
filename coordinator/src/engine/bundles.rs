//! Bundles: dispatches of one lot that travel in one message. Only tasks of handlers that end at once are bundled, for a
//! bundle goes to one executor; how long a handler takes is learnt from its outcomes. Pure.

use crate::bus::publisher::{Again, Member, Publish};
use orchestr8_proto::wire::dispatch::Kind;
use orchestr8_proto::wire::{self, Dispatch, DispatchBatch, SCHEMA_VERSION, WireError};
use orchestr8_store::queue::Lot;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of a bundle, at most: a message larger than this gains nothing by company.
pub const BUNDLE_BYTES_MAX: usize = 64 * 1024;
/// One executor with one slot should be through a bundle after this.
const BUNDLE_TIME: Duration = Duration::from_millis(5);
/// Bundles of a busy lane leave so often: the tasks of several commits share a message, what answers it, and their outcomes.
const BUNDLE_LINGER: Duration = Duration::from_millis(4);
/// A lane is busy when so many dispatches left together, some 1,000 a second; without such company none is waited for.
const BUSY_MIN: usize = 4;
/// Outcomes of a handler that were seen before its tasks are bundled.
const OUTCOMES_MIN: u32 = 8;
/// Handlers of which something is remembered; those beyond travel singly.
const HANDLERS_MAX: usize = 1_024;

/// How long the tasks of each handler take.
#[derive(Debug, Default)]
pub(super) struct Durations {
    by_handler: HashMap<String, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    outcomes: u32,
    /// The longest of late: it fades with each outcome.
    longest: Duration,
}

impl Durations {
    /// A task of this handler ended.
    pub(super) fn ended(&mut self, handler: &str, duration: Duration) {
        if !self.by_handler.contains_key(handler) {
            if self.by_handler.len() >= HANDLERS_MAX {
                return;
            }
            self.by_handler.insert(handler.to_owned(), Seen::default());
        }
        if let Some(seen) = self.by_handler.get_mut(handler) {
            seen.outcomes = seen.outcomes.saturating_add(1);
            seen.longest = duration.max(seen.longest * 7 / 8);
        }
    }

    /// How many tasks of this handler may travel together; at least 1.
    pub(super) fn together(&self, handler: &str, most: usize) -> usize {
        let Some(seen) = self.by_handler.get(handler).filter(|seen| seen.outcomes >= OUTCOMES_MIN) else { return 1 };
        let fitting = BUNDLE_TIME.as_nanos() / seen.longest.as_nanos().max(1);
        usize::try_from(fitting).unwrap_or(usize::MAX).clamp(1, most.max(1))
    }
}

/// One dispatch on its way into a message.
pub(super) struct Passenger {
    /// Which one.
    pub member: Member,
    /// What it says.
    pub dispatch: Dispatch,
    /// Whether it may have been published before: then it travels alone.
    pub again: Again,
    /// How many may travel together.
    pub together: usize,
}

/// Puts dispatches into messages, in their order within each lot.
pub(super) struct Bundler {
    epoch: u64,
    open: HashMap<Arc<Lot>, Open>,
    closed: Closed,
    rhythm: Rhythm,
}

/// Messages that are made.
#[derive(Default)]
pub(super) struct Closed {
    /// In the order in which they are to leave.
    pub messages: Vec<Publish>,
    /// Bytes by which they exceed their dispatches.
    pub frame_bytes: usize,
}

/// When bundles leave: at once, unless the one before was not long ago and carried several.
#[derive(Default)]
struct Rhythm {
    left_at: Option<Instant>,
    /// Dispatches that left together last.
    left: usize,
}

#[derive(Default)]
struct Open {
    members: Vec<Member>,
    dispatches: Vec<Dispatch>,
    bytes: usize,
}

impl Bundler {
    /// No messages yet, for this ownership of the lane.
    pub(super) fn new(epoch: u64) -> Self {
        Self { epoch, open: HashMap::new(), closed: Closed::default(), rhythm: Rhythm::default() }
    }

    /// Whether some wait for company.
    pub(super) fn waits(&self) -> bool {
        !self.open.is_empty()
    }

    /// Adds a dispatch of a lot.
    ///
    /// # Errors
    /// As of [`wire::encode_dispatches`], for a message of this dispatch alone.
    pub(super) fn add(&mut self, lot: &Arc<Lot>, passenger: Passenger) -> Result<(), WireError> {
        let bytes = passenger.dispatch.encoded_len();
        // What is fetched first does not end at once, however short its handler is.
        let fetched = matches!(passenger.dispatch.kind, Some(Kind::Reference(_)));
        let alone = passenger.together == 1 || passenger.again == Again::MayBe || bytes > BUNDLE_BYTES_MAX || fetched;
        let no_room = |open: &Open| alone || open.members.len() >= passenger.together || open.bytes + bytes > BUNDLE_BYTES_MAX;
        if self.open.get(lot).is_some_and(no_room) {
            self.close(lot)?;
        }
        if alone {
            return self.send(lot.clone(), passenger.again, (vec![passenger.member], vec![passenger.dispatch]));
        }
        let open = self.open.entry(lot.clone()).or_default();
        open.members.push(passenger.member);
        open.dispatches.push(passenger.dispatch);
        open.bytes += bytes;
        // For whom would it wait?
        if open.members.len() >= passenger.together { self.close(lot) } else { Ok(()) }
    }

    /// The messages that leave now, and when the others want to be asked for.
    ///
    /// # Errors
    /// As of [`wire::encode_dispatches`]: never for what [`Bundler::add`] took.
    pub(super) fn leave(&mut self, now: Instant) -> Result<(Closed, Option<Instant>), WireError> {
        let waits_until = self.rhythm.waits_until(now);
        if waits_until.is_some() {
            return Ok((std::mem::take(&mut self.closed), waits_until.filter(|_| self.waits())));
        }
        self.leave_all(now).map(|closed| (closed, None))
    }

    /// All messages.
    ///
    /// # Errors
    /// As of [`wire::encode_dispatches`]: never for what [`Bundler::add`] took.
    pub(super) fn leave_all(&mut self, now: Instant) -> Result<Closed, WireError> {
        let lots: Vec<Arc<Lot>> = self.open.keys().cloned().collect();
        let left = self.open.values().map(|open| open.members.len()).sum();
        lots.iter().try_for_each(|lot| self.close(lot))?;
        if left > 0 {
            self.rhythm = Rhythm { left_at: Some(now), left };
        }
        Ok(std::mem::take(&mut self.closed))
    }

    fn close(&mut self, lot: &Arc<Lot>) -> Result<(), WireError> {
        let Some(Open { members, dispatches, .. }) = self.open.remove(lot) else { return Ok(()) };
        self.send(lot.clone(), Again::First, (members, dispatches))
    }

    fn send(&mut self, lot: Arc<Lot>, again: Again, (members, dispatches): (Vec<Member>, Vec<Dispatch>)) -> Result<(), WireError> {
        let bytes: usize = dispatches.iter().map(Message::encoded_len).sum();
        let payload = wire::encode_dispatches(&DispatchBatch { schema_version: SCHEMA_VERSION, dispatches })?;
        self.closed.frame_bytes += payload.len().saturating_sub(bytes);
        self.closed.messages.push(Publish { epoch: self.epoch, lot, members, payload, again });
        Ok(())
    }
}

impl Rhythm {
    /// Until when bundles wait for company; none: they leave at once.
    fn waits_until(&self, now: Instant) -> Option<Instant> {
        let until = self.left_at? + BUNDLE_LINGER;
        (self.left >= BUSY_MIN && now < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::ids::{DispatchId, ExecutionId};
    use orchestr8_proto::reference::refer;
    use orchestr8_proto::words::Priority;

    fn lot(shard: u16) -> Arc<Lot> {
        Arc::new(Lot { shard, queue: "default".to_owned(), priority: Priority::Normal })
    }

    fn passenger(sequence: i64, together: usize, again: Again) -> Passenger {
        let member = Member { sequence, task: ExecutionId::generate(1, 3, &mut rand::rng()).task(0), dispatch: DispatchId::random() };
        Passenger { member, dispatch: Dispatch::default(), again, together }
    }

    fn sequences(messages: &[Publish]) -> Vec<Vec<i64>> {
        messages.iter().map(|message| message.members.iter().map(|member| member.sequence).collect()).collect()
    }

    #[test]
    fn a_handler_is_bundled_once_it_is_known_to_be_short() {
        let mut durations = Durations::default();
        for seen in 0..OUTCOMES_MIN {
            assert_eq!(durations.together("quick", 50), 1, "after {seen}");
            durations.ended("quick", Duration::from_micros(100));
        }
        assert_eq!((durations.together("quick", 50), durations.together("quick", 8), durations.together("other", 50)), (50, 8, 1));
        durations.ended("quick", Duration::from_secs(1));
        assert_eq!(durations.together("quick", 50), 1);
        (0..100).for_each(|_| durations.ended("quick", Duration::from_micros(100)));
        assert_eq!(durations.together("quick", 50), 50, "the long one fades");
        (0..20).for_each(|_| durations.ended("slower", Duration::from_millis(2)));
        assert_eq!(durations.together("slower", 50), 2);
    }

    #[test]
    fn what_nobody_bounds_is_not_remembered_without_end() {
        let mut durations = Durations::default();
        (0..HANDLERS_MAX * 2).for_each(|number| durations.ended(&number.to_string(), Duration::ZERO));
        assert_eq!(durations.by_handler.len(), HANDLERS_MAX);
    }

    #[test]
    fn dispatches_of_a_lot_travel_together_in_their_order() {
        let mut bundler = Bundler::new(1);
        let (one, two) = (lot(1), lot(2));
        for sequence in 1..=5 {
            bundler.add(&one, passenger(sequence, 3, Again::First)).expect("small");
            bundler.add(&two, passenger(sequence, 1, Again::First)).expect("small");
        }
        let messages = bundler.leave_all(Instant::now()).expect("small").messages;
        let (ones, twos): (Vec<Publish>, Vec<Publish>) = messages.into_iter().partition(|message| message.lot == one);
        assert_eq!(sequences(&ones), [vec![1, 2, 3], vec![4, 5]]);
        assert_eq!(sequences(&twos), [[1], [2], [3], [4], [5]]);
        let read = wire::decode_dispatches(&ones[0].payload).expect("as it was written");
        assert_eq!(read.dispatches.len(), 3);
    }

    fn enter(bundler: &mut Bundler, count: i64) {
        let lot = lot(1);
        (1..=count).for_each(|sequence| bundler.add(&lot, passenger(sequence, 50, Again::First)).expect("small"));
    }

    fn left((closed, until): (Closed, Option<Instant>)) -> (Vec<Vec<i64>>, Option<Instant>) {
        (sequences(&closed.messages), until)
    }

    #[test]
    fn bundles_of_a_busy_lane_wait_for_company_and_not_for_long() {
        let (mut bundler, start) = (Bundler::new(1), Instant::now());
        let busy = i64::try_from(BUSY_MIN).expect("few");
        enter(&mut bundler, busy);
        assert_eq!(left(bundler.leave(start).expect("small")), (vec![(1..=busy).collect()], None), "it was not busy before");
        let soon = start + BUNDLE_LINGER / 2;
        enter(&mut bundler, 1);
        assert_eq!(left(bundler.leave(soon).expect("small")), (vec![], Some(start + BUNDLE_LINGER)));
        enter(&mut bundler, 2);
        assert!(bundler.waits());
        let long = start + BUNDLE_LINGER;
        assert_eq!(left(bundler.leave(long).expect("small")), (vec![vec![1, 1, 2]], None));
        assert!(!bundler.waits());
        enter(&mut bundler, 1);
        assert_eq!(left(bundler.leave(long).expect("small")), (vec![vec![1]], None), "three are not many");
    }

    #[test]
    fn what_waits_for_nobody_leaves_a_busy_lane_at_once() {
        let (mut bundler, now, lot) = (Bundler::new(1), Instant::now(), lot(1));
        enter(&mut bundler, 50);
        enter(&mut bundler, 20);
        bundler.leave(now).expect("small");
        bundler.add(&lot, passenger(1, 50, Again::First)).expect("small");
        bundler.add(&lot, passenger(2, 1, Again::First)).expect("small");
        enter(&mut bundler, 50);
        let messages = vec![vec![1], vec![2], (1..=50).collect()];
        assert_eq!(left(bundler.leave(now).expect("small")), (messages, None), "in their order");
        bundler.add(&lot, passenger(3, 50, Again::First)).expect("small");
        assert_eq!(left(bundler.leave(now).expect("small")), (vec![], Some(now + BUNDLE_LINGER)));
        assert_eq!(sequences(&bundler.leave_all(now).expect("small").messages), [[3]]);
    }

    #[test]
    fn what_may_have_been_published_before_and_what_is_large_or_fetched_travel_alone() {
        let mut bundler = Bundler::new(1);
        let lot = lot(1);
        let large = Passenger {
            dispatch: Dispatch { prompt: "x".repeat(BUNDLE_BYTES_MAX), ..Dispatch::default() },
            ..passenger(3, 50, Again::First)
        };
        bundler.add(&lot, passenger(1, 50, Again::First)).expect("small");
        bundler.add(&lot, passenger(2, 50, Again::MayBe)).expect("small");
        bundler.add(&lot, large).expect("not too large for a message");
        bundler.add(&lot, passenger(4, 50, Again::First)).expect("small");
        bundler.add(&lot, passenger(5, 50, Again::First)).expect("small");
        let (fetched, _) = refer(Dispatch { prompt: "x".repeat(BUNDLE_BYTES_MAX), ..Dispatch::default() });
        bundler.add(&lot, Passenger { dispatch: fetched, ..passenger(6, 50, Again::First) }).expect("small");
        bundler.add(&lot, passenger(7, 50, Again::First)).expect("small");
        let messages = bundler.leave_all(Instant::now()).expect("small").messages;
        assert_eq!(sequences(&messages), [vec![1], vec![2], vec![3], vec![4, 5], vec![6], vec![7]]);
    }
}
