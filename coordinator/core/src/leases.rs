//! Who holds which run, as their heartbeats tell: claims to take in, runs that are lost (rules R4 and R6).
//!
//! Time is counted in ticks of the owner's own clock, one per beat interval: a pause of the owner grants
//! everybody what the pause took. A verdict from here is only a suspicion; the caller first decides every outcome
//! that was published before the evidence.

use orchestr8_proto::ids::{DispatchId, Incarnation, RunId, TaskId};
use std::collections::{BTreeMap, BTreeSet};

/// Beats newer than the grant in which a claimed run must be missing before it is lost.
pub const MISSING_BEATS: u32 = 2;
/// Executors that must be known before silence of more than half of them is held back.
pub const MASS_SILENCE_EXECUTORS_MIN: usize = 3;
/// Silence of an incarnation that said goodbye: longer than any lease, and room to count on.
const GOODBYE_TICKS: u32 = u32::MAX / 2;

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
    holders: BTreeMap<Incarnation, Incarnate>,
    of_run: BTreeMap<RunId, Incarnation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Incarnate {
    runs: BTreeMap<RunId, Lease>,
    silent_ticks: u32,
    last_sequence: u64,
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
        Self { ticks, holders: BTreeMap::new(), of_run: BTreeMap::new() }
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

    /// Whether the run seems lost at this moment: silent for longer than its lease, or missing from enough beats.
    #[must_use]
    pub fn is_suspect(&self, run: RunId) -> bool {
        let holder = self.of_run.get(&run).and_then(|incarnation| self.holders.get(incarnation));
        holder
            .and_then(|holder| Some((holder, holder.runs.get(&run)?)))
            .is_some_and(|(holder, lease)| holder.silent_ticks >= lease.ticks || lease.missing >= MISSING_BEATS)
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
        if beat.sequence <= holder.last_sequence && !beat.last {
            holder.lives();
            return Reading::default();
        }
        holder.last_sequence = beat.sequence.max(holder.last_sequence);
        holder.silent_ticks = if beat.last { GOODBYE_TICKS } else { 0 };
        let listed: BTreeSet<RunId> = beat.runs.iter().map(|run| run.run).collect();
        let suspects = holder.missing(&listed, beat);
        let held_here = |run: &RunId| self.of_run.get(run) == Some(&beat.incarnation);
        let claims = beat.runs.iter().map(|run| run.run).filter(|run| !held_here(run)).collect();
        Reading { claims, suspects }
    }

    /// One beat interval has passed on the owner's clock.
    pub fn tick(&mut self) -> Silence {
        for holder in self.holders.values_mut() {
            holder.silent_ticks = holder.silent_ticks.saturating_add(1);
        }
        let forget = self.ticks.forget;
        self.holders.retain(|_, holder| !holder.runs.is_empty() || holder.silent_ticks < forget);
        let held_back = self.mass_silence();
        let patience = if held_back > 0 { self.ticks.mass_silence_hold } else { 0 };
        let suspects = self.holders.values().flat_map(|holder| holder.silent(patience)).collect();
        Silence { suspects, held_back }
    }

    /// Everybody gets a full lease: after a takeover, a reconnect or a pause nobody could have been heard.
    pub fn grant_full_leases(&mut self) {
        self.holders.values_mut().for_each(Incarnate::lives);
    }

    /// Forgets the runs of one shard.
    pub fn forget_shard(&mut self, shard: u16) {
        for holder in self.holders.values_mut() {
            holder.runs.retain(|_, lease| lease.task.shard() != shard);
        }
        let holders = &self.holders;
        self.of_run.retain(|run, incarnation| holders.get(incarnation).is_some_and(|holder| holder.runs.contains_key(run)));
    }

    /// How many incarnations fell silent together (within one lease), if those are more than half of at least three.
    ///
    /// One that was silent for longer than losses are held back, or said goodbye, is gone: it does not count.
    fn mass_silence(&self) -> usize {
        let LeaseTicks { lease, mass_silence_hold, .. } = self.ticks;
        let held_back = lease..lease.saturating_add(mass_silence_hold);
        let silences = || self.holders.values().map(|holder| holder.silent_ticks);
        let mut silent: Vec<u32> = silences().filter(|ticks| held_back.contains(ticks)).collect();
        silent.sort_unstable();
        let with_first = |first: usize| silent[first..].partition_point(|ticks| ticks - silent[first] < lease);
        let together = (0..silent.len()).map(with_first).max().unwrap_or(0);
        let all = silences().filter(|ticks| *ticks < lease).count() + together;
        if all >= MASS_SILENCE_EXECUTORS_MIN && together * 2 > all { together } else { 0 }
    }
}

impl Incarnate {
    /// A sign of life; none from an incarnation that said goodbye, whose last words overtook it.
    fn lives(&mut self) {
        if self.silent_ticks < GOODBYE_TICKS {
            self.silent_ticks = 0;
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

    fn silent(&self, patience: u32) -> impl Iterator<Item = Suspect> + '_ {
        let overdue = move |lease: &Lease| self.silent_ticks >= lease.ticks.saturating_add(patience);
        self.runs.iter().filter(move |(_, lease)| overdue(lease)).map(|(run, lease)| Suspect { task: lease.task, run: *run })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::ids::ExecutionId;
    use uuid::Uuid;

    const TICKS: LeaseTicks = LeaseTicks { lease: 5, mass_silence_hold: 20, forget: 100 };

    fn incarnation(n: u128) -> Incarnation {
        Incarnation(Uuid::from_u128(n))
    }

    fn run(n: u128) -> RunId {
        RunId(Uuid::from_u128(n))
    }

    fn task() -> TaskId {
        ExecutionId(Uuid::nil()).task(0)
    }

    fn grant(holder: u128, n: u128, beat_sequence: u64) -> Grant {
        let dispatch = DispatchId(Uuid::from_u128(n));
        Grant { task: task(), dispatch, run: run(n), incarnation: incarnation(holder), beat_sequence, ticks: None }
    }

    fn beat(holder: u128, sequence: u64, runs: &[u128]) -> Beat {
        let listed = |n: &u128| Listed { task: task(), dispatch: DispatchId(Uuid::from_u128(*n)), run: run(*n) };
        Beat { incarnation: incarnation(holder), sequence, runs: runs.iter().map(listed).collect(), last: false }
    }

    #[test]
    fn a_run_missing_from_two_beats_newer_than_its_grant_is_suspect() {
        let mut table = LeaseTable::new(TICKS);
        table.granted(grant(1, 7, 4));
        assert_eq!(table.beat(&beat(1, 4, &[])), Reading::default(), "sent before the claim");
        assert_eq!(table.beat(&beat(1, 5, &[])), Reading::default(), "one may have been on its way");
        assert_eq!(table.beat(&beat(1, 6, &[])).suspects, [Suspect { task: task(), run: run(7) }]);
    }

    #[test]
    fn a_beat_that_lists_the_run_starts_the_count_anew() {
        let mut table = LeaseTable::new(TICKS);
        table.granted(grant(1, 7, 0));
        for sequence in (1..20).step_by(2) {
            assert_eq!(table.beat(&beat(1, sequence, &[])), Reading::default());
            assert_eq!(table.beat(&beat(1, sequence + 1, &[7])), Reading::default());
        }
    }

    #[test]
    fn a_late_beat_is_no_evidence() {
        let mut table = LeaseTable::new(TICKS);
        table.granted(grant(1, 7, 0));
        table.beat(&beat(1, 9, &[7]));
        for sequence in 1..9 {
            assert_eq!(table.beat(&beat(1, sequence, &[])), Reading::default());
        }
    }

    #[test]
    fn a_late_beat_claims_nothing_and_revives_nobody_who_said_goodbye() {
        let mut table = LeaseTable::new(TICKS);
        table.granted(grant(1, 7, 0));
        table.beat(&beat(1, 9, &[7]));
        assert_eq!(table.beat(&beat(1, 8, &[6, 7])), Reading::default());
        table.beat(&Beat { last: true, ..beat(1, 10, &[]) });
        table.beat(&beat(1, 9, &[7]));
        table.grant_full_leases();
        assert_eq!(table.tick().suspects, [Suspect { task: task(), run: run(7) }]);
    }

    #[test]
    fn an_unknown_run_is_a_claim() {
        let mut table = LeaseTable::new(TICKS);
        assert_eq!(table.beat(&beat(1, 1, &[7])).claims, [run(7)]);
        table.granted(grant(2, 7, 0));
        assert_eq!(table.beat(&beat(1, 2, &[7])).claims, [run(7)], "held by another");
    }

    #[test]
    fn silence_longer_than_the_lease_is_suspect_and_a_full_lease_starts_anew() {
        let mut table = LeaseTable::new(TICKS);
        table.granted(grant(1, 7, 0));
        (0..4).for_each(|_| assert_eq!(table.tick(), Silence::default()));
        table.grant_full_leases();
        (0..4).for_each(|_| assert_eq!(table.tick(), Silence::default()));
        assert_eq!(table.tick().suspects.len(), 1);
    }

    #[test]
    fn a_longer_lease_of_its_own_is_kept() {
        let mut table = LeaseTable::new(TICKS);
        table.granted(Grant { ticks: Some(8), ..grant(1, 7, 0) });
        (0..7).for_each(|_| assert_eq!(table.tick(), Silence::default()));
        assert_eq!(table.tick().suspects.len(), 1);
    }

    #[test]
    fn mass_silence_is_held_back_but_not_for_ever() {
        let mut table = LeaseTable::new(TICKS);
        for n in 1..=3 {
            table.beat(&beat(n, 1, &[]));
            table.granted(grant(n, n, 0));
        }
        (0..4).for_each(|_| assert_eq!(table.tick(), Silence::default()));
        (0..20).for_each(|_| assert_eq!(table.tick(), Silence { suspects: vec![], held_back: 3 }));
        assert_eq!(table.tick().suspects.len(), 3);
    }

    #[test]
    fn executors_that_die_one_after_the_other_are_not_a_mass() {
        let mut table = LeaseTable::new(TICKS);
        let mut sequence = 0;
        for dying in 2..8 {
            table.granted(grant(dying, dying, 0));
            for tick in 1..=5 {
                sequence += 1;
                table.beat(&beat(1, sequence, &[]));
                let silence = table.tick();
                assert_eq!((silence.suspects.len(), silence.held_back), (usize::from(tick == 5), 0));
            }
            table.ended(run(dying));
        }
    }

    #[test]
    fn one_of_three_is_not_a_mass() {
        let mut table = LeaseTable::new(TICKS);
        for n in 1..=3 {
            table.granted(grant(n, n, 0));
        }
        for sequence in 1..=5 {
            table.beat(&beat(1, sequence, &[1]));
            table.beat(&beat(2, sequence, &[2]));
            let silence = table.tick();
            assert_eq!((silence.suspects.len(), silence.held_back), (usize::from(sequence == 5), 0));
        }
    }

    #[test]
    fn the_last_beat_gives_up_what_is_still_held() {
        let mut table = LeaseTable::new(TICKS);
        table.granted(grant(1, 7, 3));
        let reading = table.beat(&Beat { last: true, ..beat(1, 4, &[]) });
        assert_eq!(reading.suspects, [Suspect { task: task(), run: run(7) }]);
    }

    #[test]
    fn what_has_ended_is_no_longer_held() {
        let mut table = LeaseTable::new(TICKS);
        table.granted(grant(1, 7, 0));
        assert_eq!(table.holder(run(7)), Some(incarnation(1)));
        table.ended(run(7));
        assert_eq!((table.holder(run(7)), table.is_empty()), (None, true));
        table.granted(grant(1, 8, 0));
        table.forget_shard(0);
        assert!(table.is_empty());
    }
}
