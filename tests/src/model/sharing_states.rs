//! Every state of lanes that join, die, stand still and are cut off from NATS, in any order, while shards are shared.
//!
//! At any time no shard is owned twice under one lease, and no commit from before a take passes for one of after it. Where
//! nothing goes wrong any more, no history goes in circles, and each ends with the fair shares.

use super::sharing::{Action, Faults, Planted, Sharing, count};
use orchestr8_core::shares::fair_share;
use std::collections::{HashMap, VecDeque};

const NOTHING: Faults = Faults { joins: 0, deaths: 0, stalls: 0, cuts: 0, doubts: 0, flights: 0 };

/// What is wrong somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    OwnedTwice,
    CommittedStale,
    /// Hand-overs without end.
    Circles,
    /// At rest, but not with the fair shares.
    Unfair,
}

/// Every state that can be reached, and from each the states that follow quietly.
#[derive(Default)]
struct States {
    numbers: HashMap<Sharing, usize>,
    /// By which action from which state.
    reached: Vec<Option<(usize, Action)>>,
    quiet: Vec<Vec<usize>>,
}

impl States {
    fn all(first: Sharing) -> Self {
        let mut states = Self::default();
        let mut new = VecDeque::new();
        states.number((first, None), &mut new);
        while let Some((number, state)) = new.pop_front() {
            for action in state.quiet_actions() {
                let next = state.after(action);
                if next != state {
                    let next = states.number((next, Some((number, action))), &mut new);
                    states.quiet[number].push(next);
                }
            }
            for action in state.faulty_actions() {
                states.number((state.after(action), Some((number, action))), &mut new);
            }
        }
        states
    }

    fn number(&mut self, (state, by): (Sharing, Option<(usize, Action)>), new: &mut VecDeque<(usize, Sharing)>) -> usize {
        let fresh = self.reached.len();
        if let Some(known) = self.numbers.get(&state) {
            return *known;
        }
        self.numbers.insert(state.clone(), fresh);
        self.reached.push(by);
        self.quiet.push(Vec::new());
        new.push_back((fresh, state));
        fresh
    }

    /// The first state that is wrong, by its number.
    fn wrong(&self) -> Option<(Wrong, usize)> {
        let mut found: Vec<(usize, Wrong)> = Vec::new();
        for (state, number) in &self.numbers {
            let rests = self.quiet[*number].is_empty();
            let wrong = [
                (owned_twice(state), Wrong::OwnedTwice),
                (state.committed_stale, Wrong::CommittedStale),
                (rests && !is_fair(state), Wrong::Unfair),
            ];
            found.extend(wrong.into_iter().filter(|(is, _)| *is).map(|(_, wrong)| (*number, wrong)));
        }
        found.extend(self.first_in_circles().map(|number| (number, Wrong::Circles)));
        found.into_iter().min_by_key(|(number, _)| *number).map(|(number, wrong)| (wrong, number))
    }

    /// States are taken away once all that follow quietly are: what is left goes in circles, or leads there.
    fn first_in_circles(&self) -> Option<usize> {
        let mut before = vec![Vec::new(); self.quiet.len()];
        for (number, next) in self.quiet.iter().enumerate() {
            next.iter().for_each(|next| before[*next].push(number));
        }
        let mut left: Vec<usize> = self.quiet.iter().map(Vec::len).collect();
        let mut resting: Vec<usize> = (0..left.len()).filter(|number| left[*number] == 0).collect();
        while let Some(number) = resting.pop() {
            for before in &before[number] {
                left[*before] -= 1;
                if left[*before] == 0 {
                    resting.push(*before);
                }
            }
        }
        left.iter().position(|left| *left > 0)
    }

    fn path(&self, number: usize) -> String {
        let mut actions = Vec::new();
        let mut at = number;
        while let Some((before, action)) = self.reached[at] {
            actions.push(format!("  {action:?}"));
            at = before;
        }
        actions.reverse();
        actions.join("\n")
    }
}

fn owned_twice(state: &Sharing) -> bool {
    let held = |shard: usize| state.lanes.iter().filter_map(move |lane| lane.held[shard]);
    (0..state.shards.len()).any(|shard| held(shard).any(|lease| held(shard).filter(|other| *other == lease).count() > 1))
}

/// Every living lane has its share, everything is owned, and everybody knows it.
fn is_fair(state: &Sharing) -> bool {
    let all = count(&state.shards);
    let mut owned_by_all = 0;
    for (index, lane) in state.lanes.iter().enumerate().filter(|(_, lane)| lane.alive) {
        let known = lane.held.iter().zip(&state.shards).all(|(held, row)| held.is_none() || *held == row.lease);
        let owned = count(lane.held.iter().flatten());
        if !known || owned != fair_share(all, state.standing(index)) {
            return false;
        }
        owned_by_all += owned;
    }
    owned_by_all == all || state.lanes.iter().all(|lane| !lane.alive)
}

fn visit(shards: usize, planted: Planted, faults: Faults) -> Option<(Wrong, String)> {
    let states = States::all(Sharing::new(shards, planted, faults));
    let wrong = states.wrong().map(|(wrong, number)| (wrong, states.path(number)));
    eprintln!("{shards} shards, {planted:?}, {faults:?}: {} states, {:?}", states.reached.len(), wrong.as_ref().map(|(wrong, _)| wrong));
    wrong
}

fn holds(shards: usize, faults: Faults) {
    if let Some((wrong, path)) = visit(shards, Planted::Nothing, faults) {
        panic!("{wrong:?} after\n{path}");
    }
}

#[test]
fn lanes_that_join_and_die() {
    holds(3, Faults { joins: 3, ..NOTHING });
    holds(3, Faults { joins: 2, deaths: 2, ..NOTHING });
}

#[test]
fn lanes_that_are_cut_off_from_nats() {
    holds(3, Faults { joins: 2, cuts: 3, ..NOTHING });
    holds(2, Faults { joins: 2, deaths: 1, cuts: 2, ..NOTHING });
}

#[test]
fn statements_whose_answers_are_lost() {
    holds(2, Faults { joins: 2, doubts: 1, stalls: 1, ..NOTHING });
}

#[test]
fn commits_that_arrive_late() {
    holds(2, Faults { joins: 2, stalls: 1, flights: 1, ..NOTHING });
}

#[test]
fn planted_bugs_of_sharing_are_found() {
    let stalls = Faults { joins: 2, stalls: 1, flights: 1, ..NOTHING };
    let found = |planted, faults| visit(2, planted, faults).map(|(wrong, _)| wrong);
    assert_eq!(found(Planted::TakeWithoutNewLease, stalls), Some(Wrong::OwnedTwice));
    assert_eq!(found(Planted::LeaseOfTheLane, stalls), Some(Wrong::CommittedStale));
    assert_eq!(found(Planted::TakeMoreThanTheShare, Faults { joins: 2, ..NOTHING }), Some(Wrong::Circles));
}
