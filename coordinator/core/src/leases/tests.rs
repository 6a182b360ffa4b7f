//! Beats, silence, takeovers: who is suspect when.

mod replaced;

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

/// Everybody has a name of its own.
fn name(n: u128) -> Arc<str> {
    format!("executor-{n}").into()
}

fn beat(holder: u128, sequence: u64, runs: &[u128]) -> Beat {
    let listed = |n: &u128| Listed { task: task(), dispatch: DispatchId(Uuid::from_u128(*n)), run: run(*n) };
    let runs = runs.iter().map(listed).collect();
    Beat { incarnation: incarnation(holder), executor: name(holder), sequence, runs, last: false }
}

#[test]
fn those_that_fall_silent_together_need_not_reach_their_leases_together() {
    let mut table = LeaseTable::new(TICKS);
    (1..=3).for_each(|n| table.granted(grant(n, n, 0)));
    table.tick();
    // The last beats of two came after the first one's.
    table.beat(&beat(2, 1, &[2]));
    table.beat(&beat(3, 1, &[3]));
    for _ in 0..TICKS.lease - 2 {
        assert_eq!(table.tick().suspects, []);
    }
    let silence = table.tick();
    assert_eq!((silence.suspects, silence.held_back), (vec![], 3), "the first one's lease has ended");
    assert!(!table.is_suspect(run(1)), "no verdict either while losses are held back");
}

/// A lane that began to listen shortly before the silence knows two of three.
#[test]
fn a_common_silence_is_measured_by_all_that_others_know() {
    let mut table = LeaseTable::new(TICKS);
    table.tick();
    (1..=2).for_each(|n| table.granted(grant(n, n, 0)));
    assert_eq!(table.heard(), Heard { executors: 2, late: 0 });
    table.others_heard(Heard { executors: 3, late: 0 });
    (1..TICKS.lease).for_each(|_| drop(table.tick()));
    assert_eq!(table.tick(), Silence { suspects: vec![], held_back: 2 });
    let mut fresh = LeaseTable::new(TICKS);
    (1..=2).for_each(|n| fresh.granted(grant(n, n, 0)));
    fresh.others_heard(Heard { executors: 5, late: 2 });
    (1..TICKS.lease).for_each(|_| drop(fresh.tick()));
    assert_eq!(fresh.tick().suspects.len(), 2, "two of five are no mass");
}

/// A lane that never heard anybody finds the runs of one of three in the rows; the others know that all three are late.
#[test]
fn a_common_silence_that_others_saw_is_believed() {
    let mut table = LeaseTable::new(TICKS);
    table.tick();
    table.found(grant(1, 1, 0), &name(1));
    table.others_heard(Heard { executors: 3, late: 3 });
    (1..=TICKS.lease).for_each(|_| assert_eq!(table.tick().suspects, []));
    assert!(!table.is_suspect(run(1)));
}

#[test]
fn the_last_to_come_back_from_a_common_silence_keeps_the_patience() {
    let mut table = LeaseTable::new(TICKS);
    (1..=3).for_each(|n| table.granted(grant(n, n, 0)));
    (0..=TICKS.lease).for_each(|_| drop(table.tick()));
    for sequence in u64::from(TICKS.lease + 1)..u64::from(TICKS.lease + TICKS.mass_silence_hold - 1) {
        table.beat(&beat(1, sequence, &[1]));
        table.beat(&beat(2, sequence, &[2]));
        assert_eq!(table.tick().suspects, []);
    }
    assert!(!table.is_suspect(run(3)));
    assert_eq!(table.tick().suspects.iter().map(|suspect| suspect.run).collect::<Vec<_>>(), [run(3)]);
}

#[test]
fn a_takeover_by_a_lane_that_listened_grants_no_new_lease() {
    let mut table = LeaseTable::new(TICKS);
    table.beat(&beat(2, 1, &[]));
    for _ in 0..TICKS.lease {
        table.tick();
    }
    // 1 was never heard while we listened, 2 fell silent, the others are heard.
    (3..=6).for_each(|n| drop(table.beat(&beat(n, 1, &[]))));
    (1..=3).for_each(|n| table.found(grant(n, n, 0), &name(n)));
    let suspects: Vec<RunId> = table.tick().suspects.iter().map(|suspect| suspect.run).collect();
    assert_eq!(suspects, [run(1), run(2)]);
}

#[test]
fn a_takeover_by_a_lane_that_could_not_listen_grants_a_full_lease() {
    let mut table = LeaseTable::new(TICKS);
    (0..TICKS.lease).for_each(|_| drop(table.tick()));
    table.grant_full_leases();
    table.found(grant(1, 7, 0), &name(1));
    for _ in 0..TICKS.lease - 1 {
        assert!(table.tick().suspects.is_empty());
    }
    assert_eq!(table.tick().suspects.len(), 1);
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
