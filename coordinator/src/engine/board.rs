//! The executors as callers see them: who is heard, who has fallen silent, and what operators want of them.

use orchestr8_core::leases::Standing;
use orchestr8_proto::ids::Incarnation;
use orchestr8_proto::wire::ExecutorOrder;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;

/// One executor as its heartbeats describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorView {
    /// Its name, a label.
    pub name: String,
    /// The process: what identifies it.
    pub incarnation: Incarnation,
    /// Of the program, as it says.
    pub version: String,
    /// Queues it fetches from.
    pub queues: Vec<String>,
    /// Handlers it has.
    pub handlers: Vec<String>,
    /// Tasks it runs at once, at most.
    pub slots: u32,
    /// Tasks it runs now.
    pub slots_busy: u32,
    /// It takes no new work, and gives back what it has.
    pub draining: bool,
    /// It takes no new work, because an operator said so.
    pub cordoned: bool,
    /// What it logs, as it says; empty: an older version says nothing.
    pub log_filter: String,
    /// When its last heartbeat came, on this machine's clock.
    pub seen_at: OffsetDateTime,
    /// It has fallen silent; none: it is heard.
    pub silence: Option<ExecutorSilence>,
}

/// That an executor is not heard, though it has not said goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExecutorSilence {
    /// For how long it could have been heard and was not.
    pub lasts: Duration,
    /// What becomes of its runs.
    pub standing: Standing,
}

impl ExecutorView {
    /// Whether it takes new work of this queue.
    #[must_use]
    pub fn serves(&self, queue: &str) -> bool {
        !self.draining && !self.cordoned && self.queues.iter().any(|served| served == queue)
    }
}

/// Who would take new work, as the lanes' last look saw it: every submission is looked up here, however many executors there are.
#[derive(Debug, Default)]
pub struct Offers {
    handlers_by_queue: HashMap<String, HashSet<String>>,
}

impl Offers {
    /// What these executors offer; those that are silent offer nothing.
    #[must_use]
    pub fn of<'a>(executors: impl IntoIterator<Item = &'a ExecutorView>) -> Self {
        let mut offers = Self::default();
        for executor in executors {
            for queue in executor.queues.iter().filter(|queue| executor.silence.is_none() && executor.serves(queue)) {
                offers.handlers_by_queue.entry(queue.clone()).or_default().extend(executor.handlers.iter().cloned());
            }
        }
        offers
    }

    /// The handlers of those who serve a queue; none: nobody does.
    #[must_use]
    pub fn handlers(&self, queue: &str) -> Option<&HashSet<String>> {
        self.handlers_by_queue.get(queue)
    }
}

/// What an operator wants of an executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Whether it takes work.
    Work(ExecutorOrder),
    /// What it logs from now on: a filter that is one.
    Log(String),
}

/// Why the executors are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// A beat interval is over.
    Tick,
    /// Somebody is new, or says something new.
    News,
}

/// When an executor was heard last: its lane writes it with each heartbeat, whoever asks reads it.
#[derive(Debug, Clone)]
pub(crate) struct LastBeat(Arc<Mutex<BeatTimes>>);

#[derive(Debug, Clone, Copy)]
struct BeatTimes {
    /// Its silence counts from here: the last heartbeat, or the end of a time in which nobody could be heard.
    heard_at: Instant,
    /// The last heartbeat.
    seen_at: OffsetDateTime,
}

impl LastBeat {
    /// A first heartbeat comes now.
    pub(crate) fn first() -> Self {
        Self(Arc::new(Mutex::new(BeatTimes { heard_at: Instant::now(), seen_at: OffsetDateTime::now_utc() })))
    }

    /// Another one comes now.
    pub(crate) fn again(&self) {
        *self.times() = BeatTimes { heard_at: Instant::now(), seen_at: OffsetDateTime::now_utc() };
    }

    /// From now on it can be heard again.
    pub(crate) fn listened_to(&self) {
        self.times().heard_at = Instant::now();
    }

    fn times(&self) -> MutexGuard<'_, BeatTimes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An executor, and when a lane heard it.
#[derive(Debug, Clone)]
pub(crate) struct Sighting {
    /// As it was at the look.
    pub view: ExecutorView,
    /// As it is.
    pub last_beat: LastBeat,
    /// What becomes of its runs, should it be silent.
    pub standing: Standing,
}

/// What one look of a lane at its roster saw.
#[derive(Debug)]
pub(crate) struct Look {
    pub sightings: Vec<Sighting>,
    pub occasion: Occasion,
    /// Who is not heard for as long counts as silent.
    pub silent_after: Duration,
    /// Until when silence grows without another look: a lane that is held up, or has no connection, hears nobody, and that is not
    /// their silence.
    pub tells_until: Instant,
}

/// What the lanes of this process saw last.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    sightings: Vec<Sighting>,
    offers: Arc<Offers>,
    silent_after: Duration,
    tells_until: Option<Instant>,
    /// Beat intervals for which the lanes have listened, all together.
    beats_listened: usize,
}

impl Board {
    /// All that are known, those that have fallen silent among them.
    pub(super) fn executors(&self) -> Vec<ExecutorView> {
        let seen = self.seen();
        let now = Instant::now().min(seen.tells_until.unwrap_or_else(Instant::now));
        seen.sightings.iter().map(|sighting| sighting.at(now, seen.silent_after)).collect()
    }

    /// What those offer that were heard at the last look.
    pub(super) fn offers(&self) -> Arc<Offers> {
        self.seen().offers.clone()
    }

    /// Beat intervals for which the lanes have listened, all together.
    pub(super) fn beats_listened(&self) -> usize {
        self.seen().beats_listened
    }

    /// A lane that can hear executors has looked.
    pub(super) fn show(&self, look: Look) {
        let now = Instant::now();
        let views: Vec<ExecutorView> = look.sightings.iter().map(|sighting| sighting.at(now, look.silent_after)).collect();
        let offers = Arc::new(Offers::of(&views));
        let mut seen = self.seen();
        (seen.sightings, seen.offers) = (look.sightings, offers);
        (seen.silent_after, seen.tells_until) = (look.silent_after, Some(look.tells_until));
        match look.occasion {
            Occasion::Tick => seen.beats_listened = seen.beats_listened.saturating_add(1),
            Occasion::News => {}
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sighting {
    /// Where a newer incarnation has its name, half the time is enough.
    fn at(&self, now: Instant, silent_after: Duration) -> ExecutorView {
        let BeatTimes { heard_at, seen_at } = *self.last_beat.times();
        let lasts = now.saturating_duration_since(heard_at);
        let silent_after = if self.standing.replaced_by.is_some() { silent_after / 2 } else { silent_after };
        let silence = (lasts >= silent_after).then_some(ExecutorSilence { lasts, standing: self.standing });
        // A process that another took the place of runs nothing any more, whatever it said last.
        let is_gone = silence.is_some_and(|silence| silence.standing.replaced_by.is_some());
        let slots_busy = if is_gone { 0 } else { self.view.slots_busy };
        ExecutorView { slots_busy, seen_at, silence, ..self.view.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT_AFTER: Duration = Duration::from_secs(8);

    fn sighting(last_beat: LastBeat) -> Sighting {
        let view = ExecutorView {
            name: "e".into(),
            incarnation: Incarnation::random(),
            version: String::new(),
            queues: vec!["q".into()],
            handlers: vec!["h".into()],
            slots: 1,
            slots_busy: 1,
            draining: false,
            cordoned: false,
            log_filter: String::new(),
            seen_at: OffsetDateTime::UNIX_EPOCH,
            silence: None,
        };
        Sighting { view, last_beat, standing: Standing::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_grows_while_the_lane_looks() {
        let (board, last_beat) = (Board::default(), LastBeat::first());
        let look = || {
            let tells_until = Instant::now() + Duration::from_secs(3);
            let sightings = vec![sighting(last_beat.clone())];
            board.show(Look { sightings, occasion: Occasion::Tick, silent_after: SILENT_AFTER, tells_until });
        };
        let silent_for_s = || board.executors()[0].silence.map(|silence| silence.lasts.as_secs());
        for second in 0..10 {
            look();
            assert_eq!(silent_for_s(), (second >= SILENT_AFTER.as_secs()).then_some(second));
            let offers = board.offers();
            assert_eq!(offers.handlers("q").is_some_and(|handlers| handlers.contains("h")), second < SILENT_AFTER.as_secs());
            assert_eq!(offers.handlers("other"), None);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(silent_for_s(), Some(12), "since then the lane hears nobody");
        let replaced = Standing { replaced_by: Some(Incarnation::random()), ..Standing::default() };
        let view = Sighting { standing: replaced, ..sighting(last_beat.clone()) }.at(Instant::now(), Duration::from_secs(140));
        assert_eq!(view.silence.map(|silence| (silence.lasts.as_secs(), silence.standing)), Some((70, replaced)));
        assert_eq!((view.slots_busy, board.executors()[0].slots_busy), (0, 1), "who has a successor runs nothing");
        last_beat.again();
        assert_eq!(silent_for_s(), None, "a heartbeat counts at once");
    }
}
