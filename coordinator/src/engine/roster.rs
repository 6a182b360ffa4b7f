//! The executors that are heard: heartbeats put together from their parts, and what they say about themselves.

use super::handle::ExecutorView;
use super::untrusted;
use orchestr8_core::leases::{Beat, Listed};
use orchestr8_proto::ids::{DispatchId, Incarnation, RunId, TaskId};
use orchestr8_proto::wire::{Heartbeat, HeldRun};
use std::collections::{BTreeMap, HashMap};
use time::OffsetDateTime;

/// Parts of one heartbeat, at most: 16 × 4,096 runs, more than an executor has slots.
const PARTS_MAX: u32 = 16;
/// Queues and handlers of one executor that are shown.
const NAMES_MAX: usize = 256;
/// Executors that are known at once; what is beyond is not shown, but served.
const EXECUTORS_MAX: usize = 10_000;
/// Beat intervals without a heartbeat after which an executor is no longer shown.
const SHOWN_TICKS: u32 = 5;

/// Executors by incarnation.
#[derive(Debug, Default)]
pub struct Roster {
    known: BTreeMap<Incarnation, Known>,
    /// Somebody is new, or says something new of itself, since it was taken.
    news: bool,
}

#[derive(Debug)]
struct Known {
    view: ExecutorView,
    silent_ticks: u32,
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
    /// The label.
    pub executor: String,
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
        if parts > PARTS_MAX || beat.part == 0 || beat.part > parts {
            return None;
        }
        let is_new = !self.known.contains_key(&incarnation);
        if is_new && self.known.len() >= EXECUTORS_MAX {
            return None;
        }
        let known =
            self.known.entry(incarnation).or_insert_with(|| Known { view: view(&beat, incarnation), silent_ticks: 0, collecting: None });
        known.silent_ticks = 0;
        let before = std::mem::replace(&mut known.view, view(&beat, incarnation));
        self.news |= is_new || (before.draining, before.cordoned) != (beat.draining, beat.cordoned);
        let collecting = known.collecting.take().filter(|collecting| collecting.sequence == beat.sequence);
        let mut collecting = collecting.unwrap_or_else(|| Collecting { sequence: beat.sequence, parts: HashMap::new() });
        collecting.parts.insert(beat.part, beat.runs);
        if collecting.parts.len() < parts as usize {
            known.collecting = Some(collecting);
            return None;
        }
        let runs = collecting.parts.into_values().flatten().collect();
        if beat.last {
            self.known.remove(&incarnation);
        }
        Some(Complete { incarnation, executor: beat.executor, sequence: beat.sequence, runs, last: beat.last })
    }

    /// Whether somebody is new, or says something new of itself, since the last look.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// One beat interval has passed.
    pub fn tick(&mut self) {
        self.known.retain(|_, known| {
            known.silent_ticks += 1;
            known.silent_ticks <= SHOWN_TICKS
        });
    }

    /// The queues that they serve.
    #[must_use]
    pub fn queues(&self) -> Vec<String> {
        self.known.values().flat_map(|known| known.view.queues.iter().cloned()).collect()
    }

    /// The executors that are heard.
    #[must_use]
    pub fn views(&self) -> Vec<ExecutorView> {
        self.known.values().map(|known| known.view.clone()).collect()
    }
}

fn view(beat: &Heartbeat, incarnation: Incarnation) -> ExecutorView {
    ExecutorView {
        name: untrusted::name(&beat.executor).to_string(),
        incarnation,
        version: untrusted::name(&beat.version).to_string(),
        queues: shown(&beat.queues),
        handlers: shown(&beat.handlers),
        slots: beat.slots,
        slots_busy: beat.slots_busy,
        draining: beat.draining,
        cordoned: beat.cordoned,
        seen_at: OffsetDateTime::now_utc(),
    }
}

fn shown(names: &[String]) -> Vec<String> {
    names.iter().take(NAMES_MAX).map(|name| untrusted::name(name).to_string()).collect()
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
        Beat { incarnation: self.incarnation, sequence: self.sequence, runs, last: self.last }
    }
}
