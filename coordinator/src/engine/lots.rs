//! The lots of a lane (shard, queue, priority): their marks, and the room that the broker has for each queue.

use crate::bus::publisher::Again;
use orchestr8_core::marks::Marks;
use orchestr8_proto::ids::TaskId;
use orchestr8_proto::wire::PausedQueues;
use orchestr8_proto::words::Priority;
use orchestr8_store::queue::Lot;
use orchestr8_store::rows::MarkRow;
use sqlx::types::Json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::time::Instant;

/// Publications that may wait for their PubAck at once.
pub const PUBLISHING_MAX: usize = 8_192;
/// Bytes of publications that may wait for their `PubAck` at once.
pub const PUBLISHING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Rows that are fed in one pass of one lot.
const FEED_ROWS_MAX: usize = 512;

/// The marks of one lot.
#[derive(Debug)]
pub struct LotState {
    /// Its identity, shared with the publisher.
    pub lot: Arc<Lot>,
    /// How far it has been published.
    pub marks: Marks,
    /// The task stream that the saved marks belong to.
    pub stream: Option<String>,
    /// What of it is in the stream.
    pub stored: Stored,
    /// Something changed since the last save.
    pub dirty: bool,
    /// The broker said that it is full: not before this.
    pub full_until: Option<Instant>,
    /// When a dispatch was queued or handed over last.
    pub used_at: Instant,
    /// Some of it is queued by a commit that has no answer yet: no row tells of it.
    pub flies: bool,
    /// Its marks have a row: it is found again.
    pub has_row: bool,
}

impl LotState {
    /// Nothing of it is in the stream, under way or to be published.
    fn is_idle(&self) -> bool {
        self.stored.len() == 0 && self.marks.outstanding() == 0 && self.marks.again.is_none() && !self.marks.holds()
    }
}

/// All lots of a lane.
pub struct Lots {
    by_lot: HashMap<Arc<Lot>, LotState>,
    /// Dispatches of a queue and priority that are in the stream, as far as this lane knows.
    stored: HashMap<(String, Priority), u64>,
    /// Dispatches of one queue and priority in the stream, of all lanes together.
    subject_max: u64,
    /// This lane's share of it.
    room_max: u64,
    publishing: usize,
    publishing_bytes: usize,
    /// Queues without room for anything, in order.
    paused: Vec<String>,
    /// Rows that are fed at once: fewer while their messages are large, or take long to make.
    feed_rows: usize,
}

/// Which dispatches of a lot are in the stream, by identity: an event that comes twice counts once.
#[derive(Debug, Default)]
pub struct Stored {
    /// Rows up to `found_through` that were queued when the lot was restored.
    found: u64,
    found_through: i64,
    /// Handed over since.
    handed: BTreeSet<i64>,
}

impl Stored {
    fn add(&mut self, sequence: i64) -> bool {
        sequence > self.found_through && self.handed.insert(sequence)
    }

    fn remove(&mut self, sequence: i64) -> bool {
        if sequence > self.found_through {
            return self.handed.remove(&sequence);
        }
        let counted = sequence > 0 && self.found > 0;
        self.found -= u64::from(counted);
        counted
    }

    fn len(&self) -> u64 {
        self.found + self.handed.len() as u64
    }
}

impl Lots {
    /// No lots; each queue and priority has room for `subject_max` dispatches, of all lanes together.
    #[must_use]
    pub fn new(subject_max: u64) -> Self {
        Self {
            by_lot: HashMap::new(),
            stored: HashMap::new(),
            subject_max,
            room_max: subject_max,
            publishing: 0,
            publishing_bytes: 0,
            paused: Vec::new(),
            feed_rows: FEED_ROWS_MAX,
        }
    }

    /// This lane owns `owned` of `all` shards: so much of the room is its own, at least one dispatch.
    pub fn share_is(&mut self, owned: usize, all: usize) {
        let share = u128::from(self.subject_max) * owned as u128 / (all.max(1) as u128);
        self.room_max = u64::try_from(share).unwrap_or(u64::MAX).max(1);
    }

    /// These queues are paused, and no others.
    pub fn pause(&mut self, queues: &[String]) {
        queues.clone_into(&mut self.paused);
    }

    /// The queues that are paused, as executors are told.
    #[must_use]
    pub fn paused(&self) -> PausedQueues {
        PausedQueues { queues: self.paused.clone() }
    }

    /// Forgets the lots of these shards; what of them waits for its `PubAck` still counts as under way.
    pub fn forget_shards(&mut self, shards: &BTreeSet<u16>) {
        let stored = &mut self.stored;
        self.by_lot.retain(|lot, state| {
            let stays = !shards.contains(&lot.shard);
            if !stays && let Some(all) = stored.get_mut(&(lot.queue.clone(), lot.priority)) {
                *all = all.saturating_sub(state.stored.len());
            }
            stays
        });
    }

    /// Forgets everything, for a recovery.
    pub fn clear(&mut self) {
        self.by_lot.clear();
        self.stored.clear();
        (self.publishing, self.publishing_bytes) = (0, 0);
    }

    /// A lot as it was found in the rows, with this many rows at or below its published mark.
    pub fn restore(&mut self, lot: Lot, marks: Marks, stream: Option<String>, found: u64) {
        let lot = Arc::new(lot);
        *self.stored.entry((lot.queue.clone(), lot.priority)).or_default() += found;
        let stored = Stored { found, found_through: marks.published_through, handed: BTreeSet::new() };
        self.by_lot.insert(
            lot.clone(),
            LotState { lot, marks, stream, stored, dirty: false, full_until: None, used_at: Instant::now(), flies: false, has_row: true },
        );
    }

    /// The lot; it begins when its first task is queued.
    pub fn lot(&mut self, shard: u16, queue: &str, priority: Priority, stream: Option<&str>) -> &mut LotState {
        let (lot, used_at) = (Arc::new(Lot { shard, queue: queue.to_owned(), priority }), Instant::now());
        let state = self.by_lot.entry(lot.clone()).or_insert_with(|| LotState {
            lot,
            marks: Marks::default(),
            stream: stream.map(str::to_owned),
            stored: Stored::default(),
            dirty: false,
            full_until: None,
            used_at,
            flies: false,
            has_row: false,
        });
        state.used_at = used_at;
        state
    }

    /// Lots without anything since that time, at most so many.
    #[must_use]
    pub fn idle_since(&self, since: Instant, count_max: usize) -> Vec<Arc<Lot>> {
        let idle = self.by_lot.values().filter(|state| state.used_at < since && state.is_idle());
        idle.map(|state| state.lot.clone()).take(count_max).collect()
    }

    /// Forgets a lot whose marks are gone: its next dispatch begins anew.
    pub fn forget(&mut self, lot: &Lot) {
        self.by_lot.remove(lot);
    }

    /// The lot, if it is known.
    pub fn get(&mut self, lot: &Lot) -> Option<&mut LotState> {
        self.by_lot.get_mut(lot)
    }

    /// All lots.
    pub fn iter(&self) -> impl Iterator<Item = &LotState> {
        self.by_lot.values()
    }

    /// Its mark is saved: it may be tried up to here.
    pub fn tries(&mut self, lot: &Lot, through: i64) {
        if let Some(state) = self.by_lot.get_mut(lot) {
            state.marks.tried_through = state.marks.tried_through.max(through);
            state.has_row = true;
        }
    }

    /// A commit that queues some of it is on its way.
    pub fn takes_off(&mut self, lot: &Lot) {
        self.by_lot.get_mut(lot).into_iter().for_each(|state| state.flies = true);
    }

    /// That commit has its answer.
    pub fn lands(&mut self, lot: &Lot) {
        self.by_lot.get_mut(lot).into_iter().for_each(|state| state.flies = false);
    }

    /// How many more dispatches of the lot's queue and priority may be handed to the publisher.
    #[must_use]
    pub fn room(&self, lot: &Lot) -> usize {
        if self.is_crowded() || self.paused.contains(&lot.queue) {
            return 0;
        }
        let stored = self.stored.get(&(lot.queue.clone(), lot.priority)).copied().unwrap_or(0);
        let room = usize::try_from(self.room_max.saturating_sub(stored)).unwrap_or(usize::MAX);
        room.min(PUBLISHING_MAX.saturating_sub(self.publishing))
    }

    /// Whether as many bytes wait for their `PubAck` as may.
    #[must_use]
    pub const fn is_crowded(&self) -> bool {
        self.publishing_bytes >= PUBLISHING_BYTES_MAX
    }

    /// How many rows of the lot are to be read now.
    #[must_use]
    pub fn rows_to_feed(&self, lot: &Lot) -> usize {
        self.room(lot).min(self.feed_rows)
    }

    /// Messages were made; `postponed` of those that were wanted were too much.
    pub fn made(&mut self, postponed: usize) {
        self.feed_rows = if postponed > 0 { (self.feed_rows / 2).max(1) } else { (self.feed_rows * 2).min(FEED_ROWS_MAX) };
    }

    /// One is handed to the publisher.
    pub fn handed(&mut self, lot: &Lot, sequence: i64) {
        let Some(state) = self.by_lot.get_mut(lot) else { return };
        state.marks.handed(sequence);
        state.used_at = Instant::now();
        state.dirty = true;
        self.publishing += 1;
        if state.stored.add(sequence) {
            *self.stored.entry((lot.queue.clone(), lot.priority)).or_default() += 1;
        }
    }

    /// What was handed over has this size.
    pub const fn sized(&mut self, bytes: usize) {
        self.publishing_bytes = self.publishing_bytes.saturating_add(bytes);
    }

    /// The publisher answered about a message of so many dispatches and bytes; 0 bytes for what never reached it.
    pub const fn answered(&mut self, dispatches: usize, bytes: usize) {
        self.publishing = self.publishing.saturating_sub(dispatches);
        self.publishing_bytes = self.publishing_bytes.saturating_sub(bytes);
    }

    /// One was handed over in the marks, but will not be published: it is no longer wanted.
    pub fn not_wanted(&mut self, lot: &Lot, sequence: i64) {
        self.answered(1, 0);
        self.left_queue(lot, sequence);
    }

    /// One was handed over in the marks, but there is no room or time to make its message now: it is held, with all above it.
    pub fn postponed(&mut self, lot: &Lot, sequence: i64, again: Again) {
        self.answered(1, 0);
        self.not_stored(lot, sequence);
        let Some(state) = self.by_lot.get_mut(lot) else { return };
        match again {
            Again::First => state.marks.never_tried(sequence),
            Again::MayBe => state.marks.refused_as_full(sequence),
        }
        state.dirty = true;
    }

    /// A row that cannot be read was not handed over. It counts as stored, so that the next survey looks for its message: it is gone
    /// then, and the row is fed again.
    pub fn unread(&mut self, lot: &Lot, sequence: i64) {
        self.answered(1, 0);
        self.abandoned(lot, sequence);
    }

    /// A dispatch left the queue: if it was in the stream, there is room for another, and nobody waits for its `PubAck`.
    pub fn left_queue(&mut self, lot: &Lot, sequence: i64) {
        self.not_stored(lot, sequence);
        self.abandoned(lot, sequence);
    }

    fn abandoned(&mut self, lot: &Lot, sequence: i64) {
        if let Some(state) = self.by_lot.get_mut(lot) {
            state.marks.abandoned(sequence);
            state.dirty = true;
        }
    }

    /// One that was counted is not in the stream.
    pub fn not_stored(&mut self, lot: &Lot, sequence: i64) {
        let removed = self.by_lot.get_mut(lot).is_some_and(|state| state.stored.remove(sequence));
        if removed && let Some(stored) = self.stored.get_mut(&(lot.queue.clone(), lot.priority)) {
            *stored = stored.saturating_sub(1);
        }
    }

    /// Lots whose marks belong to another creation of the task stream go again, with the same ids: nothing of them is
    /// stored. Gives how many there are.
    pub fn stream_is(&mut self, incarnation: &str) -> usize {
        let mut changed = 0;
        for state in self.by_lot.values_mut().filter(|state| state.stream.as_deref() != Some(incarnation)) {
            let stored = std::mem::take(&mut state.stored).len();
            if let Some(all) = self.stored.get_mut(&(state.lot.queue.clone(), state.lot.priority)) {
                *all = all.saturating_sub(stored);
            }
            state.marks.stream_changed();
            state.stream = Some(incarnation.to_owned());
            state.dirty = true;
            changed += 1;
        }
        changed
    }

    /// Rows whose message is gone are published again, if they are still queued.
    pub fn vanished(&mut self, lot: &Lot, rows: &[(TaskId, i64)]) {
        let Some(state) = self.by_lot.get_mut(lot) else { return };
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return };
        tracing::warn!(queue = %lot.queue, priority = %lot.priority, rows = rows.len(), "queued tasks whose message is gone are published again");
        state.marks.publish_again((first.1 - 1, last.1));
        for (_, sequence) in rows {
            self.not_stored(lot, *sequence);
        }
    }

    /// When a lot that was full may be tried again.
    #[must_use]
    pub fn next_try(&self) -> Option<Instant> {
        let now = Instant::now();
        self.by_lot.values().filter(|state| state.marks.holds()).filter_map(|state| state.full_until).filter(|at| *at > now).min()
    }

    /// Publications without answer.
    #[must_use]
    pub const fn publishing(&self) -> usize {
        self.publishing
    }

    /// Queues with dispatches in the stream.
    #[must_use]
    pub fn queues_stored(&self) -> Vec<String> {
        let mut queues: Vec<String> = self.stored.iter().filter(|(_, stored)| **stored > 0).map(|((queue, _), _)| queue.clone()).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// Dispatches that lie above their mark, by queue. Those that were cancelled meanwhile count until they are passed over.
    #[must_use]
    pub fn held(&self) -> BTreeMap<String, i64> {
        let mut held = BTreeMap::new();
        for state in self.by_lot.values() {
            *held.entry(state.lot.queue.clone()).or_default() += (state.marks.drawn - state.marks.handed_through).max(0);
        }
        held
    }

    /// Whether something is to be published again.
    #[must_use]
    pub fn has_again(&self) -> bool {
        self.by_lot.values().any(|state| state.marks.again.is_some())
    }

    /// The marks to save with the renewal.
    pub fn dirty_marks(&mut self) -> Vec<MarkRow> {
        self.by_lot
            .values_mut()
            .filter(|state| state.dirty)
            .map(|state| {
                (state.dirty, state.has_row) = (false, true);
                mark_row(state)
            })
            .collect()
    }
}

/// The row of a lot's marks.
#[must_use]
pub fn mark_row(state: &LotState) -> MarkRow {
    MarkRow {
        shard: i32::from(state.lot.shard),
        queue: state.lot.queue.clone(),
        priority: state.lot.priority.as_str(),
        published_through: state.marks.published_through,
        tried_through: state.marks.tried_through,
        stream_incarnation: state.stream.clone(),
        checkpoints: Json(state.marks.checkpoints()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_queue_has_no_room_and_the_others_keep_theirs() {
        let mut lots = Lots::new(10);
        let lot = |queue: &str| Lot { shard: 0, queue: queue.into(), priority: Priority::Normal };
        lots.pause(&["a".into()]);
        assert_eq!((lots.room(&lot("a")), lots.room(&lot("b"))), (0, 10));
        assert_eq!(lots.paused().queues, ["a"]);
        lots.pause(&[]);
        assert_eq!(lots.room(&lot("a")), 10);
    }

    fn lot(lots: &mut Lots) -> (Arc<Lot>, i64) {
        let state = lots.lot(3, "default", Priority::Normal, Some("i"));
        (state.lot.clone(), state.marks.draw())
    }

    #[test]
    fn a_lot_is_idle_when_nothing_of_it_is_anywhere() {
        let mut lots = Lots::new(10);
        let later = || Instant::now() + std::time::Duration::from_secs(1);
        let (lot, sequence) = lot(&mut lots);
        assert!(lots.idle_since(later(), 9).is_empty(), "held");
        lots.handed(&lot, sequence);
        assert!(lots.idle_since(later(), 9).is_empty(), "under way");
        lots.get(&lot).expect("known").marks.acked(sequence, 7);
        assert!(lots.idle_since(later(), 9).is_empty(), "in the stream");
        lots.left_queue(&lot, sequence);
        assert_eq!(lots.idle_since(later(), 9), std::slice::from_ref(&lot));
        let used_at = lots.get(&lot).expect("known").used_at;
        assert!(lots.idle_since(later(), 0).is_empty() && lots.idle_since(used_at, 9).is_empty());
        lots.forget(&lot);
        assert_eq!((lots.iter().count(), lots.room(&lot)), (0, 10));
    }

    #[test]
    fn what_is_postponed_is_held_and_less_is_fed_at_once() {
        let mut lots = Lots::new(1_000);
        let (lot, first) = lot(&mut lots);
        lots.handed(&lot, first);
        lots.sized(PUBLISHING_BYTES_MAX);
        assert!(lots.is_crowded() && lots.rows_to_feed(&lot) == 0);
        lots.answered(1, PUBLISHING_BYTES_MAX);
        assert_eq!(lots.rows_to_feed(&lot), FEED_ROWS_MAX);
        let second = lots.get(&lot).expect("known").marks.draw();
        lots.handed(&lot, second);
        lots.postponed(&lot, second, Again::First);
        lots.made(1);
        assert_eq!((lots.rows_to_feed(&lot), lots.publishing()), (FEED_ROWS_MAX / 2, 0));
        let marks = &lots.get(&lot).expect("known").marks;
        assert!(marks.holds() && !marks.may_have_been_tried(second));
    }
}
