//! Heartbeats: when the next one is due, and what it says (rule R4). Pure.

use crate::runs::{Run, Runs};
use orchestr8_proto::ids::{Incarnation, RunId};
use orchestr8_proto::log_level::LogControl;
use orchestr8_proto::wire::{HELD_RUNS_MAX, Heartbeat, HeldRun, SCHEMA_VERSION};
use std::time::{Duration, Instant};

/// Who beats; but for what it logs the same in all heartbeats of one process.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Drawn at the start of the process.
    pub incarnation: Incarnation,
    /// The label for people.
    pub name: String,
    /// The queues that it serves.
    pub queues: Vec<String>,
    /// The handlers that it knows.
    pub handlers: Vec<String>,
    /// How many runs it takes at a time.
    pub slots: usize,
    /// What it logs.
    pub log: LogControl,
}

/// What this executor is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// It goes on.
    Working,
    /// It takes nothing new until it is told to.
    Cordoned,
    /// It takes nothing new, and gives back what it cannot end in time.
    Draining,
    /// This is its last heartbeat.
    Last,
}

/// When heartbeats are due.
#[derive(Debug)]
pub(crate) struct Rhythm {
    sequence: u64,
    sent_at: Option<Instant>,
    next_at: Instant,
    interval: Duration,
}

impl Rhythm {
    /// The first is due at once.
    pub(crate) const fn new(interval: Duration, now: Instant) -> Self {
        Self { sequence: 0, sent_at: None, next_at: now, interval }
    }

    /// Somebody wants one at once; at most ten in an interval are given.
    pub(crate) fn hurry(&mut self, now: Instant) {
        let earliest = self.sent_at.map_or(now, |sent| sent + self.interval / 10);
        self.next_at = self.next_at.min(earliest.max(now));
    }

    /// Whether one is due.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.next_at
    }

    /// Sequence of the last one; 0 before the first.
    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Begins the next one and says its sequence.
    pub(crate) fn begin(&mut self, now: Instant) -> u64 {
        self.sequence += 1;
        self.sent_at = Some(now);
        self.next_at = now + self.interval;
        self.sequence
    }
}

/// The parts of one heartbeat: at least one, each listing up to [`HELD_RUNS_MAX`] runs.
pub(crate) fn heartbeat(identity: &Identity, runs: &Runs, outlook: Outlook, (sequence, now): (u64, Instant)) -> Vec<Heartbeat> {
    let held: Vec<HeldRun> = runs.iter().filter(|(_, run)| run.is_listed()).map(|(id, run)| held_run(id, run, now)).collect();
    let mut lists: Vec<Vec<HeldRun>> = held.chunks(HELD_RUNS_MAX).map(<[HeldRun]>::to_vec).collect();
    if lists.is_empty() {
        lists.push(Vec::new());
    }
    let (parts, runs_busy) = (count(lists.len()), runs.seated());
    let part = |(index, runs): (usize, Vec<HeldRun>)| Heartbeat {
        schema_version: SCHEMA_VERSION,
        incarnation: identity.incarnation.to_bytes(),
        executor: identity.name.clone(),
        sequence,
        part: count(index + 1),
        parts,
        runs,
        queues: identity.queues.clone(),
        handlers: identity.handlers.clone(),
        slots: count(identity.slots),
        slots_busy: count(runs_busy),
        draining: matches!(outlook, Outlook::Draining | Outlook::Last),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        last: outlook == Outlook::Last,
        cordoned: outlook == Outlook::Cordoned,
        log_filter: identity.log.current(),
    };
    lists.into_iter().enumerate().map(part).collect()
}

fn held_run(id: RunId, run: &Run, now: Instant) -> HeldRun {
    let started_at = run.started_at();
    HeldRun {
        task_id: run.task_id.to_bytes(),
        dispatch_id: run.dispatch_id.to_bytes(),
        run_id: id.to_bytes(),
        started: started_at.is_some(),
        lease_ms: run.lease_ms,
        running_for_us: running_for_us(started_at, now),
        outcome_token: run.outcome_token.clone(),
    }
}

/// Microseconds since a start; 0 without one.
pub(crate) fn running_for_us(started_at: Option<Instant>, now: Instant) -> u64 {
    started_at.map_or(0, |at| u64::try_from(now.saturating_duration_since(at).as_micros()).unwrap_or(u64::MAX))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_come_every_interval_and_hurried_ones_are_bounded() {
        let (interval, start) = (Duration::from_secs(3), Instant::now());
        let mut rhythm = Rhythm::new(interval, start);
        assert!(rhythm.is_due(start));
        assert_eq!(rhythm.begin(start), 1);
        assert!(!rhythm.is_due(start + interval / 2) && rhythm.is_due(start + interval));
        rhythm.hurry(start);
        assert!(!rhythm.is_due(start + interval / 11) && rhythm.is_due(start + interval / 10));
        assert_eq!((rhythm.begin(start + interval / 10), rhythm.sequence()), (2, 2));
    }
}
