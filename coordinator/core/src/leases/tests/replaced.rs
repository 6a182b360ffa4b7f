//! Incarnations whose name a newer one has: how long they are waited for, and by whom that cannot be shortened.

use super::*;
use proptest::prelude::*;

/// An incarnation of a login, by its number.
fn of_login(login: u64, n: u64) -> Incarnation {
    Incarnation(Uuid::from_u64_pair(login, n))
}

/// The first heartbeat of a process: it lists nothing yet.
fn hello(incarnation: Incarnation, executor: &str) -> Beat {
    Beat { incarnation, executor: executor.into(), sequence: 1, runs: Vec::new(), last: false }
}

fn run_of(incarnation: Incarnation, n: u128) -> Grant {
    Grant { incarnation, ..grant(0, n, 1) }
}

fn suspected(table: &mut LeaseTable) -> Vec<RunId> {
    table.tick().suspects.iter().map(|suspect| suspect.run).collect()
}

/// Two executors die and are started again under their names, and once more, as logins that depend on how often.
fn killed_twice(login: impl Fn(u64) -> u64) -> LeaseTable {
    let mut table = LeaseTable::new(TICKS);
    for (n, name) in [(1, "a"), (2, "b")] {
        table.beat(&hello(of_login(login(0), n), name));
        table.granted(run_of(of_login(login(0), n), u128::from(n)));
    }
    for generation in 1..=2 {
        table.tick();
        for (n, name) in [(1, "a"), (2, "b")] {
            table.beat(&hello(of_login(login(generation), 10 * generation + n), name));
        }
    }
    table
}

#[test]
fn those_that_were_replaced_are_lost_when_their_leases_end_and_no_mass() {
    let mut table = killed_twice(|_| 1);
    assert_eq!(table.heard(), Heard { executors: 2, late: 0 });
    assert_eq!(table.standing(of_login(1, 1)), Some(Standing { held_back: false, replaced_by: Some(of_login(1, 21)) }));
    for _ in 2..TICKS.lease - 1 {
        assert_eq!(table.tick(), Silence::default());
    }
    assert_eq!(suspected(&mut table), [run(1), run(2)]);
    assert!(table.is_suspect(run(1)));
}

#[test]
fn a_name_of_another_login_replaces_nobody() {
    let mut table = killed_twice(|generation| 1 + generation);
    assert_eq!(table.heard().executors, 6);
    assert_eq!(table.standing(of_login(1, 1)), Some(Standing::default()));
    for _ in 2..=TICKS.lease + TICKS.mass_silence_hold - 2 {
        assert_eq!(suspected(&mut table), [], "they are silent together");
    }
    assert_eq!(suspected(&mut table), [run(1), run(2)]);
}

/// One of three comes back at once, the others late: their losses are held back until then, and no longer.
#[test]
fn what_is_held_back_is_let_go_as_soon_as_the_newer_one_is_heard() {
    let mut table = LeaseTable::new(TICKS);
    let old = |n: u64| of_login(1, n);
    for (n, name) in [(1, "a"), (2, "b"), (3, "c")] {
        table.beat(&hello(old(n), name));
        table.granted(run_of(old(n), u128::from(n)));
    }
    table.tick();
    table.beat(&hello(old(11), "a"));
    for sequence in 2..=u64::from(TICKS.lease) {
        assert!(table.tick().suspects.len() < 2);
        table.beat(&Beat { sequence, ..hello(old(11), "a") });
    }
    assert_eq!(table.standing(old(2)), Some(Standing { held_back: true, replaced_by: None }));
    assert!(table.is_suspect(run(1)) && !table.is_suspect(run(2)) && !table.is_suspect(run(3)));
    table.beat(&hello(old(12), "b"));
    assert!(table.is_suspect(run(2)) && !table.is_suspect(run(3)), "nobody has taken the third's place");
    assert_eq!(table.standing(old(2)), Some(Standing { held_back: false, replaced_by: Some(old(12)) }));
}

/// Two that were started with one name by mistake both beat: neither is gone.
#[test]
fn whoever_is_heard_again_was_not_replaced() {
    let mut table = LeaseTable::new(TICKS);
    for n in 1..=4 {
        table.beat(&hello(of_login(1, n), "worker"));
    }
    for n in 1..=4 {
        table.beat(&Beat { sequence: 2, ..hello(of_login(1, n), "worker") });
    }
    assert_eq!(table.heard().executors, 4);
    for n in 1..=4 {
        assert_eq!(table.standing(of_login(1, n)), Some(Standing::default()));
    }
    // A late heartbeat is a sign of life as well.
    table.beat(&hello(of_login(1, 5), "worker"));
    table.beat(&hello(of_login(1, 1), "worker"));
    assert_eq!(table.standing(of_login(1, 1)), Some(Standing::default()));
}

/// A coordinator that starts together with the executors finds the runs of their predecessors in the rows.
#[test]
fn whose_run_is_found_in_the_rows_was_replaced_by_its_namesake_that_is_heard() {
    let mut table = LeaseTable::new(TICKS);
    table.beat(&hello(of_login(1, 9), "a"));
    for n in 1..=3 {
        table.found(run_of(of_login(1, n), u128::from(n)), &"a".into());
    }
    table.found(run_of(of_login(2, 4), 4), &"a".into());
    assert_eq!(table.standing(of_login(1, 1)).and_then(|standing| standing.replaced_by), Some(of_login(1, 9)));
    assert_eq!(table.heard(), Heard { executors: 2, late: 0 });
    for sequence in 2..=u64::from(TICKS.lease) {
        assert_eq!(table.tick().suspects, []);
        table.beat(&Beat { sequence, ..hello(of_login(1, 9), "a") });
    }
    assert_eq!(suspected(&mut table), [run(1), run(2), run(3), run(4)]);
}

/// What happens to eight processes of two logins and two names.
#[derive(Debug, Clone, Copy)]
enum Act {
    Beats(usize),
    Claims(usize),
    Tick,
}

const PROCESSES: usize = 8;

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..PROCESSES).prop_map(Act::Beats),
        1 => (0..PROCESSES).prop_map(Act::Claims),
        2 => Just(Act::Tick),
    ];
    proptest::collection::vec(act, 0..200)
}

/// The history of a table, and of each process how many ticks ago it was heard.
struct Told {
    table: LeaseTable,
    silent: [Option<u32>; PROCESSES],
    sequence: u64,
}

fn incarnation_of(process: usize) -> Incarnation {
    of_login(process as u64 / 4, process as u64)
}

fn run_at(process: usize) -> RunId {
    run(process as u128)
}

impl Told {
    fn new() -> Self {
        Self { table: LeaseTable::new(TICKS), silent: [None; PROCESSES], sequence: 1 }
    }

    fn act(&mut self, act: Act, name_of: impl Fn(usize) -> Arc<str>) -> Vec<RunId> {
        match act {
            Act::Beats(process) => {
                self.sequence += 1;
                self.silent[process] = Some(0);
                let lists = self.table.holder(run_at(process)).is_some();
                let runs = if lists { vec![process as u128] } else { Vec::new() };
                let beat = beat(0, self.sequence, &runs);
                self.table.beat(&Beat { incarnation: incarnation_of(process), executor: name_of(process), ..beat });
                Vec::new()
            }
            Act::Claims(process) => {
                if self.silent[process].is_some() {
                    self.table.granted(Grant { beat_sequence: self.sequence, ..run_of(incarnation_of(process), process as u128) });
                }
                Vec::new()
            }
            Act::Tick => {
                self.silent.iter_mut().flatten().for_each(|ticks| *ticks += 1);
                suspected(&mut self.table)
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    /// Whatever others say their names are: nobody is lost before its lease ends, and nobody who was replaced after it.
    #[test]
    fn names_never_shorten_a_lease_and_always_end_a_hold(acts in acts()) {
        let names = |process: usize| Arc::from(["a", "b"][process % 2]);
        let mut told = Told::new();
        for act in acts {
            let lost = told.act(act, names);
            for process in 0..PROCESSES {
                let Some(silent) = told.silent[process].filter(|_| told.table.holder(run_at(process)).is_some()) else { continue };
                let is_lost = lost.contains(&run_at(process)) || told.table.is_suspect(run_at(process));
                prop_assert!(!is_lost || silent >= TICKS.lease, "{process} is lost after {silent}");
                let standing = told.table.standing(incarnation_of(process)).expect("it holds a run");
                if standing.replaced_by.is_some() && silent >= TICKS.lease {
                    prop_assert!(told.table.is_suspect(run_at(process)) && !standing.held_back);
                }
                if silent >= TICKS.lease + TICKS.mass_silence_hold {
                    prop_assert!(told.table.is_suspect(run_at(process)));
                }
            }
        }
    }

    /// Only a process of one's own login and name takes one's place, and only one that was heard later for the first time.
    #[test]
    fn nobody_is_replaced_by_a_stranger_or_an_elder(acts in acts()) {
        let names = |process: usize| Arc::from(["a", "b"][process % 2]);
        let mut told = Told::new();
        let mut first_heard = [None; PROCESSES];
        let mut last_heard = [None; PROCESSES];
        for (at, act) in acts.into_iter().enumerate() {
            if let Act::Beats(process) = act {
                first_heard[process].get_or_insert(at);
                last_heard[process] = Some(at);
            }
            told.act(act, names);
            for (process, last) in last_heard.iter().enumerate() {
                let replaced_by = told.table.standing(incarnation_of(process)).and_then(|standing| standing.replaced_by);
                let Some(other) = replaced_by.map(|other| (0..PROCESSES).find(|one| incarnation_of(*one) == other).expect("one of them"))
                else { continue };
                prop_assert!(other != process && other / 4 == process / 4 && other % 2 == process % 2);
                prop_assert!(first_heard[other] > *last);
            }
        }
    }
}
