//! Who holds which run, as their heartbeats tell: claims to take in, runs that are lost (rules R4 and R6).
//!
//! Time is counted in ticks of the owner's own clock, one per beat interval: a pause of the owner grants
//! everybody what the pause took. A verdict from here is only a suspicion; the caller first decides every outcome
//! that was published before the evidence.
//!
//! An incarnation that is silent while a newer one of its name and login is heard is *replaced*: a name is that of one process at a
//! time, so it is gone for good. Its leases last as long as any other's; but its losses are not held back, and in the measure of a
//! common silence it counts neither as silent nor as somebody.

use orchestr8_proto::ids::{DispatchId, Incarnation, RunId, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// Beats newer than the grant in which a claimed run must be missing before it is lost.
pub const MISSING_BEATS: u32 = 2;
/// Executors that must be known before silence of more than half of them is held back.
pub const MASS_SILENCE_EXECUTORS_MIN: usize = 3;
/// So many ticks before the end of its lease an executor is clearly late.
const LATE_TICKS_BEFORE_LEASE: u32 = 2;
/// Silence of an incarnation that said goodbye: longer than any lease, and room to count on.
const GOODBYE_TICKS: u32 = u32::MAX / 2;

/// Executors as one table heard them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Heard {
    /// Those that live or are late.
    pub executors: usize,
    /// Those that are late.
    pub late: usize,
}

/// A granted run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Of which task.
    pub task: TaskId,
    /// The publication it runs.
    pub dispatch: DispatchId,
    /// Sequence of the last heartbeat that was sent before the claim: an older one cannot list it.
    pub granted_at_beat: u64,
    /// Ticks of silence that it survives.
    pub ticks: u32,
    /// Newer beats in a row that did not list it.
    missing: u32,
}

/// A run in a heartbeat, as far as the lease table needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Of which task.
    pub task: TaskId,
    /// The publication.
    pub dispatch: DispatchId,
    /// The start.
    pub run: RunId,
}

/// All parts of one heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Whose.
    pub incarnation: Incarnation,
    /// The executor's name.
    pub executor: Arc<str>,
    /// From 1.
    pub sequence: u64,
    /// All its runs of this owner's shards.
    pub runs: Vec<Listed>,
    /// The incarnation has ended.
    pub last: bool,
}

/// What a heartbeat says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// Listed, but not held as far as this owner knows: claims, to be granted, or runs to be killed.
    pub claims: Vec<RunId>,
    /// Held, but missing from enough newer beats, or their incarnation has ended.
    pub suspects: Vec<Suspect>,
}

/// A run that seems lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Suspect {
    /// Of which task.
    pub task: TaskId,
    /// Which start.
    pub run: RunId,
}

/// What a tick finds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Silence {
    /// Runs of incarnations that have been silent for longer than the lease.
    pub suspects: Vec<Suspect>,
    /// Incarnations that are silent together: more than half of at least three, so nothing is lost yet.
    pub held_back: usize,
}

/// What becomes of the runs of a silent incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Standing {
    /// It fell silent together with many: its losses are held back.
    pub held_back: bool,
    /// A newer incarnation of its name and login was heard after it.
    pub replaced_by: Option<Incarnation>,
}

/// How long silence may last, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseTicks {
    /// A lease that says nothing else.
    pub lease: u32,
    /// Mass silence is held back for this long on top of the lease.
    pub mass_silence_hold: u32,
    /// An incarnation without runs is forgotten after this.
    pub forget: u32,
}

/// The leases of one lane's shards. Ordered maps: equal tables find the same things in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaseTable {
    ticks: LeaseTicks,
    /// For how long every heartbeat could have been heard.
    listening_ticks: u32,
    /// What others know: who began to listen later may know less.
    elsewhere: Heard,
    holders: BTreeMap<Incarnation, Incarnate>,
    of_run: BTreeMap<RunId, Incarnation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Incarnate {
    /// None: it claimed, and its first beat is still to come.
    executor: Option<Arc<str>>,
    runs: BTreeMap<RunId, Lease>,
    silent_ticks: u32,
    /// 0: no beat of it was heard.
    last_sequence: u64,
    /// A newer incarnation of its name and login was heard for the first time since this one was heard last.
    replaced_by: Option<Incarnation>,
    /// It fell silent together with many: its losses are held back until it is heard, whatever the others do.
    held_back: bool,
}

/// A claim that was granted, or a holder that was found in the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Of which task.
    pub task: TaskId,
    /// The publication.
    pub dispatch: DispatchId,
    /// The start.
    pub run: RunId,
    /// Whose.
    pub incarnation: Incarnation,
    /// The beat's number in the claim; 0 when taken from a row.
    pub beat_sequence: u64,
    /// Ticks of silence that it survives; none: the default.
    pub ticks: Option<u32>,
}

impl LeaseTable {
    /// Nobody holds anything.
    #[must_use]
    pub fn new(ticks: LeaseTicks) -> Self {
        Self { ticks, listening_ticks: 0, elsewhere: Heard::default(), holders: BTreeMap::new(), of_run: BTreeMap::new() }
    }

    /// A run was found in the rows of a shard that was taken. Whoever has not been heard for as long as this table listened is
    /// as silent as that: a takeover by a lane that heard the heartbeats all the time grants no new lease, one by a lane that
    /// has just begun to listen grants a full one. Nor can it be told whether an incarnation of the same name is the newer one of
    /// the two; one that is heard counts as that.
    pub fn found(&mut self, grant: Grant, executor: &Arc<str>) {
        if !self.holders.contains_key(&grant.incarnation) {
            // The first tick may have come as soon as it began to listen.
            let silent_ticks = self.listening_ticks.saturating_sub(1);
            let is_heard = |holder: &Incarnate| holder.last_sequence > 0 && holder.silent_ticks < self.late().start;
            let mut others = self.holders.iter().filter(|(other, holder)| holder.is_namesake(**other, (grant.incarnation, executor)));
            let replaced_by = others.find(|(_, holder)| is_heard(holder)).map(|(other, _)| *other);
            let executor = Some(executor.clone());
            self.holders.insert(grant.incarnation, Incarnate { executor, silent_ticks, replaced_by, ..Incarnate::default() });
        }
        self.granted(grant);
    }

    /// A run is held from now on.
    pub fn granted(&mut self, grant: Grant) {
        let ticks = grant.ticks.unwrap_or(self.ticks.lease).max(self.ticks.lease);
        let lease = Lease { task: grant.task, dispatch: grant.dispatch, granted_at_beat: grant.beat_sequence, ticks, missing: 0 };
        self.of_run.insert(grant.run, grant.incarnation);
        self.holders.entry(grant.incarnation).or_default().runs.insert(grant.run, lease);
    }

    /// A run is no longer held: its outcome, loss or cancel is committed.
    pub fn ended(&mut self, run: RunId) {
        if let Some(incarnation) = self.of_run.remove(&run)
            && let Some(holder) = self.holders.get_mut(&incarnation)
        {
            holder.runs.remove(&run);
        }
    }

    /// Who holds the run, as far as this owner knows.
    #[must_use]
    pub fn holder(&self, run: RunId) -> Option<Incarnation> {
        self.of_run.get(&run).copied()
    }

    /// Who holds the run, and of which dispatch of which task, as far as this owner knows.
    #[must_use]
    pub fn lease(&self, run: RunId) -> Option<(Incarnation, &Lease)> {
        let incarnation = self.of_run.get(&run)?;
        Some((*incarnation, self.holders.get(incarnation)?.runs.get(&run)?))
    }

    /// Whether the run seems lost at this moment: silent for longer than its lease, or missing from enough beats.
    #[must_use]
    pub fn is_suspect(&self, run: RunId) -> bool {
        let holder = self.of_run.get(&run).and_then(|incarnation| self.holders.get(incarnation));
        holder
            .and_then(|holder| Some((holder, holder.runs.get(&run)?)))
            .is_some_and(|(holder, lease)| holder.is_overdue(lease, self.ticks) || lease.missing >= MISSING_BEATS)
    }

    /// Runs held in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.of_run.len()
    }

    /// Nobody holds anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.of_run.is_empty()
    }

    /// Takes in a whole heartbeat. An older one than the last is only a sign that somebody lives.
    pub fn beat(&mut self, beat: &Beat) -> Reading {
        let holder = self.holders.entry(beat.incarnation).or_default();
        holder.replaced_by = None;
        if beat.sequence <= holder.last_sequence && !beat.last {
            holder.lives();
            return Reading::default();
        }
        let is_new = holder.last_sequence == 0 && !beat.last;
        if holder.executor.as_ref() != Some(&beat.executor) {
            holder.executor = Some(beat.executor.clone());
        }
        holder.last_sequence = beat.sequence.max(holder.last_sequence);
        holder.silent_ticks = if beat.last { GOODBYE_TICKS } else { 0 };
        holder.held_back = false;
        let listed: BTreeSet<RunId> = beat.runs.iter().map(|run| run.run).collect();
        let suspects = holder.missing(&listed, beat);
        if is_new {
            self.replaces(beat);
        }
        let held_here = |run: &RunId| self.of_run.get(run) == Some(&beat.incarnation);
        let claims = beat.runs.iter().map(|run| run.run).filter(|run| !held_here(run)).collect();
        Reading { claims, suspects }
    }

    /// Whoever had this name and login before is heard no more: otherwise its next beat will say so.
    fn replaces(&mut self, newest: &Beat) {
        let who = (newest.incarnation, &newest.executor);
        let before = self.holders.iter_mut().filter(|(other, holder)| holder.is_namesake(**other, who));
        before.for_each(|(_, holder)| holder.replaced_by = Some(newest.incarnation));
    }

    /// What becomes of the runs of an incarnation, should it stay silent; none: it is not known here, or was forgotten.
    #[must_use]
    pub fn standing(&self, incarnation: Incarnation) -> Option<Standing> {
        let holder = self.holders.get(&incarnation)?;
        let held_back = holder.patience(self.ticks) > 0 && self.late().contains(&holder.silent_ticks);
        Some(Standing { held_back, replaced_by: holder.replaced_by })
    }

    /// Executors that live or are late, as far as this table heard.
    #[must_use]
    pub fn heard(&self) -> Heard {
        let late = self.late();
        let count = |range: Range<u32>| self.silences().filter(|ticks| range.contains(ticks)).count();
        Heard { executors: count(0..late.end), late: count(late) }
    }

    /// What another table heard. Silence is common only measured by all that there are.
    pub fn others_heard(&mut self, heard: Heard) {
        self.elsewhere = heard;
    }

    /// One beat interval has passed on the owner's clock.
    pub fn tick(&mut self) -> Silence {
        self.listening_ticks = self.listening_ticks.saturating_add(1).min(self.ticks.forget);
        for holder in self.holders.values_mut() {
            holder.silent_ticks = holder.silent_ticks.saturating_add(1);
        }
        let forget = self.ticks.forget;
        self.holders.retain(|_, holder| !holder.runs.is_empty() || holder.silent_ticks < forget);
        if self.mass_silence() > 0 {
            let late = self.late();
            self.holders.values_mut().filter(|holder| late.contains(&holder.silent_ticks)).for_each(|holder| holder.held_back = true);
        }
        let (ticks, late) = (self.ticks, self.late());
        let is_held = |holder: &&Incarnate| holder.patience(ticks) > 0 && late.contains(&holder.silent_ticks);
        let held_back = self.holders.values().filter(is_held).count();
        let suspects = self.holders.values().flat_map(|holder| holder.silent(ticks)).collect();
        Silence { suspects, held_back }
    }

    /// Everybody gets a full lease: after a reconnect or a gap nobody could have been heard.
    pub fn grant_full_leases(&mut self) {
        self.listening_ticks = 0;
        self.holders.values_mut().for_each(Incarnate::lives);
    }

    /// Forgets all runs; who was heard when is kept.
    pub fn forget_all(&mut self) {
        self.holders.values_mut().for_each(|holder| holder.runs.clear());
        self.of_run.clear();
    }

    /// Forgets the runs of one shard.
    pub fn forget_shard(&mut self, shard: u16) {
        for holder in self.holders.values_mut() {
            holder.runs.retain(|_, lease| lease.task.shard() != shard);
        }
        let holders = &self.holders;
        self.of_run.retain(|run, incarnation| holders.get(incarnation).is_some_and(|holder| holder.runs.contains_key(run)));
    }

    /// For how long each has been silent that was not replaced.
    fn silences(&self) -> impl Iterator<Item = u32> + '_ {
        self.holders.values().filter(|holder| holder.replaced_by.is_none()).map(|holder| holder.silent_ticks)
    }

    /// Silence of executors that are late, but not gone.
    fn late(&self) -> Range<u32> {
        let LeaseTicks { lease, mass_silence_hold, .. } = self.ticks;
        lease.saturating_sub(LATE_TICKS_BEFORE_LEASE).max(2)..lease.saturating_add(mass_silence_hold)
    }

    /// How many incarnations fell silent together (within one lease), if those are more than half of at least three.
    ///
    /// One that was silent for longer than losses are held back, said goodbye or was replaced is gone: it does not count. Those that fell
    /// silent together do not reach their leases together, since their last beats lie anywhere within one interval: so who is
    /// clearly late already counts as silent.
    fn mass_silence(&self) -> usize {
        let lease = self.ticks.lease;
        let late = self.late();
        let mut silent: Vec<u32> = self.silences().filter(|ticks| late.contains(ticks)).collect();
        silent.sort_unstable();
        let with_first = |first: usize| silent[first..].partition_point(|ticks| ticks - silent[first] < lease);
        let together = (0..silent.len()).map(with_first).max().unwrap_or(0);
        // Who knows more has the better measure, of those that live as of those that are late.
        let all = self.silences().filter(|ticks| *ticks < late.start).count() + together;
        let (all, together) =
            if self.elsewhere.executors > all { (self.elsewhere.executors, together.max(self.elsewhere.late)) } else { (all, together) };
        let overdue = silent.last().is_some_and(|ticks| *ticks >= lease);
        if overdue && all >= MASS_SILENCE_EXECUTORS_MIN && together * 2 > all { together } else { 0 }
    }
}

impl Incarnate {
    /// A sign of life; none from an incarnation that said goodbye, whose last words overtook it.
    fn lives(&mut self) {
        if self.silent_ticks < GOODBYE_TICKS {
            self.silent_ticks = 0;
            self.held_back = false;
        }
    }

    fn missing(&mut self, listed: &BTreeSet<RunId>, beat: &Beat) -> Vec<Suspect> {
        let mut suspects = Vec::new();
        for (run, lease) in &mut self.runs {
            if listed.contains(run) {
                lease.missing = 0;
            } else if beat.sequence > lease.granted_at_beat {
                lease.missing += 1;
            }
            if beat.last || lease.missing >= MISSING_BEATS {
                suspects.push(Suspect { task: lease.task, run: *run });
            }
        }
        suspects
    }

    /// Whether it has this name and login, and is another process.
    fn is_namesake(&self, own: Incarnation, (incarnation, executor): (Incarnation, &Arc<str>)) -> bool {
        own != incarnation && own.seat() == incarnation.seat() && self.executor.as_ref() == Some(executor)
    }

    /// Ticks for which its losses are held back on top of its leases.
    const fn patience(&self, ticks: LeaseTicks) -> u32 {
        if self.held_back && self.replaced_by.is_none() { ticks.mass_silence_hold } else { 0 }
    }

    fn is_overdue(&self, lease: &Lease, ticks: LeaseTicks) -> bool {
        self.silent_ticks >= lease.ticks.saturating_add(self.patience(ticks))
    }

    fn silent(&self, ticks: LeaseTicks) -> impl Iterator<Item = Suspect> + '_ {
        self.runs.iter().filter(move |(_, lease)| self.is_overdue(lease, ticks)).map(|(run, lease)| Suspect { task: lease.task, run: *run })
    }
}

#[cfg(test)]
mod tests;
