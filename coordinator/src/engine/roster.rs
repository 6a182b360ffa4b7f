//! The executors that are heard, and those that have fallen silent: heartbeats put together from their parts, and what they say
//! about themselves.

use super::board::{ExecutorView, LastBeat, Sighting};
use super::untrusted;
use orchestr8_core::leases::{Beat, Listed, Standing};
use orchestr8_proto::ids::{DispatchId, Incarnation, RunId, TaskId};
use orchestr8_proto::wire::{HELD_RUNS_MAX, Heartbeat, HeldRun};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use time::OffsetDateTime;

/// Parts of one heartbeat, at most: 16 × 4,096 runs, more than an executor has slots.
const PARTS_MAX: u32 = 16;
/// Heartbeats of which parts are missing, at once: who has more runs than fit into one part sends the parts together.
const COLLECTING_MAX: usize = 16;
/// Queues and handlers of one executor that are shown.
const NAMES_MAX: usize = 256;
/// Queues and handlers of all executors together, in bytes: some 1,600 for each of as many executors as there may be. Whoever comes
/// when they are used up is known and served, and shown without them.
const NAMES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a name takes beside its letters.
const NAME_BYTES: usize = size_of::<String>() + 16;
/// Executors that are known at once; nobody hears the heartbeats of who is beyond.
const EXECUTORS_MAX: usize = 10_000;
/// Beat intervals without a heartbeat after which an executor is no longer shown: for longer than its losses may be held back,
/// nobody need ask where it is.
const SHOWN_TICKS: u32 = 26;
/// The same while more than half of the room is taken: a run's lease. Those that are heard need it.
const SHOWN_TICKS_CROWDED: u32 = 5;

/// Executors by incarnation.
#[derive(Debug, Default)]
pub struct Roster {
    known: BTreeMap<Incarnation, Known>,
    /// What the names in `known` take.
    names_bytes: usize,
    /// Somebody is new, or says something new of itself, since it was taken.
    news: bool,
}

#[derive(Debug)]
struct Known {
    view: ExecutorView,
    last_beat: LastBeat,
    silent_ticks: u32,
    /// Who had taken its place at the last look: the table of leases forgets who holds nothing sooner than the roster does.
    replaced_by: Option<Incarnation>,
    collecting: Option<Collecting>,
}

#[derive(Debug)]
struct Collecting {
    sequence: u64,
    parts: HashMap<u32, Vec<HeldRun>>,
}

/// A whole heartbeat.
#[derive(Debug)]
pub struct Complete {
    /// Whose.
    pub incarnation: Incarnation,
    /// The label, as rows and lists have it.
    pub executor: Arc<str>,
    /// From 1.
    pub sequence: u64,
    /// All runs, with their tokens.
    pub runs: Vec<HeldRun>,
    /// The incarnation has ended.
    pub last: bool,
}

impl Roster {
    /// Takes in one part; gives the heartbeat when it is whole. Malformed ones are refused.
    pub fn part(&mut self, beat: Heartbeat) -> Option<Complete> {
        let incarnation = Incarnation::try_from(beat.incarnation.as_ref()).ok()?;
        let parts = beat.parts.max(1);
        if parts > PARTS_MAX || beat.part == 0 || beat.part > parts || beat.runs.len() > HELD_RUNS_MAX {
            return None;
        }
        let is_new = !self.known.contains_key(&incarnation);
        if is_new && self.known.len() >= EXECUTORS_MAX {
            return None;
        }
        let before = self.known.get(&incarnation).map_or(0, |known| names_bytes(&known.view));
        let view = view(&beat, incarnation, NAMES_BYTES_MAX - (self.names_bytes - before));
        self.names_bytes = self.names_bytes - before + names_bytes(&view);
        let new = || Known { view: view.clone(), last_beat: LastBeat::first(), silent_ticks: 0, replaced_by: None, collecting: None };
        let known = self.known.entry(incarnation).or_insert_with(new);
        known.last_beat.again();
        (known.silent_ticks, known.replaced_by) = (0, None);
        let before = std::mem::replace(&mut known.view, view);
        let shown = |view: &ExecutorView| (view.draining, view.cordoned);
        self.news |= is_new || shown(&before) != shown(&known.view) || before.log_filter != known.view.log_filter;
        let collecting = known.collecting.take().filter(|collecting| collecting.sequence == beat.sequence);
        let mut collecting = collecting.unwrap_or_else(|| Collecting { sequence: beat.sequence, parts: HashMap::new() });
        collecting.parts.insert(beat.part, beat.runs);
        if collecting.parts.len() < parts as usize {
            known.collecting = Some(collecting);
            self.make_room(incarnation);
            return None;
        }
        let runs = collecting.parts.into_values().flatten().collect();
        if beat.last
            && let Some(gone) = self.known.remove(&incarnation)
        {
            self.names_bytes -= names_bytes(&gone.view);
        }
        Some(Complete { incarnation, executor: untrusted::name(&beat.executor), sequence: beat.sequence, runs, last: beat.last })
    }

    /// Gives one incomplete heartbeat of another up, where there are too many.
    fn make_room(&mut self, newest: Incarnation) {
        let mut incomplete = self.known.iter_mut().filter(|(_, known)| known.collecting.is_some());
        if incomplete.by_ref().nth(COLLECTING_MAX).is_some() {
            let others = self.known.iter_mut().filter(|(incarnation, _)| **incarnation != newest);
            if let Some((_, other)) = others.into_iter().find(|(_, known)| known.collecting.is_some()) {
                other.collecting = None;
            }
        }
    }

    /// Whether somebody is new, or says something new of itself, since the last look.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// One beat interval has passed, in which everybody could be heard.
    pub fn tick(&mut self) {
        let is_crowded = self.known.len() > EXECUTORS_MAX / 2 || self.names_bytes > NAMES_BYTES_MAX / 2;
        let shown_ticks = if is_crowded { SHOWN_TICKS_CROWDED } else { SHOWN_TICKS };
        self.known.retain(|_, known| {
            known.silent_ticks += 1;
            known.silent_ticks <= shown_ticks
        });
        self.names_bytes = self.known.values().map(|known| names_bytes(&known.view)).sum();
    }

    /// Nobody could be heard until now: whoever is silent from now on is that anew.
    pub fn listens_anew(&mut self) {
        for known in self.known.values_mut() {
            known.last_beat.listened_to();
            known.silent_ticks = 0;
        }
    }

    /// The queues that they serve.
    #[must_use]
    pub fn queues(&self) -> Vec<String> {
        self.known.values().flat_map(|known| known.view.queues.iter().cloned()).collect()
    }

    /// Whether one of them serves the queue.
    #[must_use]
    pub fn serves(&self, queue: &str) -> bool {
        self.known.values().any(|known| known.view.queues.iter().any(|served| served == queue))
    }

    /// All of them, with what becomes of the runs of each, should it be silent.
    #[must_use]
    pub(crate) fn sightings(&mut self, standing: impl Fn(Incarnation) -> Option<Standing>) -> Vec<Sighting> {
        let sighting = |known: &mut Known| {
            let standing = standing(known.view.incarnation).unwrap_or_default();
            known.replaced_by = standing.replaced_by.or(known.replaced_by);
            let standing = Standing { replaced_by: known.replaced_by, ..standing };
            Sighting { view: known.view.clone(), last_beat: known.last_beat.clone(), standing }
        };
        self.known.values_mut().map(sighting).collect()
    }
}

/// What an executor says of itself, without the names where they take more than is left.
fn view(beat: &Heartbeat, incarnation: Incarnation, bytes_left: usize) -> ExecutorView {
    let (queues, handlers) = (shown(&beat.queues), shown(&beat.handlers));
    let fits = bytes_of(&queues) + bytes_of(&handlers) <= bytes_left;
    let (queues, handlers) = if fits { (queues, handlers) } else { (Vec::new(), Vec::new()) };
    ExecutorView {
        name: untrusted::name(&beat.executor).to_string(),
        incarnation,
        version: untrusted::name(&beat.version).to_string(),
        queues,
        handlers,
        slots: beat.slots,
        slots_busy: beat.slots_busy,
        draining: beat.draining,
        cordoned: beat.cordoned,
        log_filter: untrusted::log_filter(&beat.log_filter),
        seen_at: OffsetDateTime::now_utc(),
        silence: None,
    }
}

fn shown(names: &[String]) -> Vec<String> {
    names.iter().take(NAMES_MAX).map(|name| untrusted::name(name).to_string()).collect()
}

fn names_bytes(view: &ExecutorView) -> usize {
    bytes_of(&view.queues) + bytes_of(&view.handlers)
}

fn bytes_of(names: &[String]) -> usize {
    names.iter().map(|name| name.len() + NAME_BYTES).sum()
}

impl Complete {
    /// What the lease table needs of it; runs of other shards and malformed ones are left out.
    #[must_use]
    pub fn beat(&self, owned: impl Fn(u16) -> bool) -> Beat {
        let listed = |run: &HeldRun| {
            let task = TaskId::try_from(run.task_id.as_ref()).ok().filter(|task| owned(task.shard()))?;
            let dispatch = DispatchId::try_from(run.dispatch_id.as_ref()).ok()?;
            Some(Listed { task, dispatch, run: RunId::try_from(run.run_id.as_ref()).ok()? })
        };
        let runs = self.runs.iter().filter_map(listed).collect();
        Beat { incarnation: self.incarnation, executor: self.executor.clone(), sequence: self.sequence, runs, last: self.last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::times::ProtocolTimes;
    use orchestr8_proto::wire::SCHEMA_VERSION;

    fn part(incarnation: Incarnation, part: u32, runs: usize) -> Heartbeat {
        let runs = vec![HeldRun::default(); runs];
        let incarnation = incarnation.to_bytes();
        Heartbeat { schema_version: SCHEMA_VERSION, incarnation, sequence: 1, part, parts: 2, runs, ..Heartbeat::default() }
    }

    #[test]
    fn whoever_falls_silent_stays_known_for_longer_than_its_losses_may_be_held_back() {
        let times = ProtocolTimes::default();
        assert!(times.beat() * (SHOWN_TICKS - 1) >= times.run_lease() + times.mass_silence_hold());
        assert_eq!(times.beat() * SHOWN_TICKS_CROWDED, times.run_lease());
        let (mut roster, one) = (Roster::default(), Incarnation::random());
        roster.part(naming(one, 1, 1));
        (0..SHOWN_TICKS).for_each(|_| roster.tick());
        let standing = Standing { held_back: true, replaced_by: None };
        let seen = roster.sightings(|_| Some(standing));
        assert_eq!((seen.len(), seen[0].standing), (1, standing));
        roster.listens_anew();
        (0..SHOWN_TICKS).for_each(|_| roster.tick());
        assert_eq!(roster.sightings(|_| None).len(), 1, "nobody could be heard before");
        roster.tick();
        assert!(roster.sightings(|_| None).is_empty());
    }

    #[test]
    fn who_was_replaced_stays_that_until_it_is_heard() {
        let (mut roster, one) = (Roster::default(), Incarnation::random());
        roster.part(naming(one, 1, 1));
        let replaced = Standing { held_back: false, replaced_by: Some(Incarnation::random()) };
        assert_eq!(roster.sightings(|_| Some(replaced))[0].standing, replaced);
        assert_eq!(roster.sightings(|_| None)[0].standing, replaced, "its leases are forgotten");
        roster.part(naming(one, 1, 2));
        assert_eq!(roster.sightings(|_| None)[0].standing, Standing::default());
    }

    #[test]
    fn incomplete_heartbeats_are_few_and_their_parts_small() {
        let mut roster = Roster::default();
        for _ in 0..10 * COLLECTING_MAX {
            assert!(roster.part(part(Incarnation::random(), 1, 1)).is_none());
        }
        assert_eq!(roster.known.values().filter(|known| known.collecting.is_some()).count(), COLLECTING_MAX);
        let late = Incarnation::random();
        assert!(roster.part(part(late, 1, HELD_RUNS_MAX + 1)).is_none());
        assert!(roster.part(part(late, 2, 1)).is_none(), "the part was too large");
        assert!(roster.part(part(late, 1, HELD_RUNS_MAX)).is_some_and(|whole| whole.runs.len() == HELD_RUNS_MAX + 1));
    }

    /// A whole heartbeat of an executor that names so many queues, each as long as a name may be.
    fn naming(incarnation: Incarnation, queues: usize, sequence: u64) -> Heartbeat {
        let queues = (0..queues).map(|number| format!("{number:0>255}")).collect();
        let incarnation = incarnation.to_bytes();
        Heartbeat { schema_version: SCHEMA_VERSION, incarnation, sequence, part: 1, parts: 1, queues, ..Heartbeat::default() }
    }

    #[test]
    fn the_names_of_all_executors_together_are_bounded_and_all_are_served() {
        let kept = |roster: &Roster| roster.known.values().map(|known| names_bytes(&known.view)).sum::<usize>();
        let mut roster = Roster::default();
        let honest = Incarnation::random();
        assert!(roster.part(naming(honest, 2, 1)).is_some());
        for _ in 0..2 * NAMES_BYTES_MAX / (NAMES_MAX * 255) {
            assert!(roster.part(naming(Incarnation::random(), NAMES_MAX + 1, 1)).is_some(), "its runs count");
        }
        assert!((NAMES_BYTES_MAX * 9 / 10..=NAMES_BYTES_MAX).contains(&kept(&roster)), "{}", kept(&roster));
        assert_eq!(kept(&roster), roster.names_bytes);
        assert!(roster.part(naming(honest, 2, 2)).is_some());
        assert_eq!(roster.known[&honest].view.queues.len(), 2, "who was there before keeps its names");
        let late = Incarnation::random();
        assert!(roster.part(naming(late, NAMES_MAX, 1)).is_some());
        assert!(roster.known[&late].view.queues.is_empty());
        for _ in 0..=SHOWN_TICKS_CROWDED {
            roster.tick();
        }
        assert!(roster.part(naming(late, NAMES_MAX, 2)).is_some());
        assert_eq!((roster.known[&late].view.queues.len(), roster.names_bytes), (NAMES_MAX, kept(&roster)), "those that are gone give way");
        assert!(roster.part(Heartbeat { last: true, ..naming(late, 1, 3) }).is_some());
        assert_eq!(roster.names_bytes, 0);
    }
}
