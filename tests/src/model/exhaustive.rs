//! The exhaustive check: every state within the bounds, by breadth.

use super::plans::{handler_task, plan_of};
use super::reference::Violation;
use super::rules::{Rule, Rules};
use super::world::{Action, Budget, World};
use orchestr8_core::plan::{Plan, RetryPolicy, TaskPlan};
use orchestr8_proto::ids::ExecutionId;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::time::Duration;
use uuid::Uuid;

const ENDS: &str = "it ends";

/// One question to the checker: a plan, the rules, and what may go wrong.
#[derive(Debug, Clone)]
struct Protocol {
    plan: Plan,
    rules: Rules,
    budget: Budget,
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(ExecutionId(Uuid::nil()), self.plan.clone(), (self.rules, self.budget))]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(world.actions());
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        world.apply(action);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn never(world: &World, violations: &[Violation]) -> bool {
            violations.iter().all(|violation| !world.reference.violations.contains(violation))
        }
        vec![
            Property::always("an outcome counts once, and for its own dispatch", |_, world| {
                never(world, &[Violation::CountedTwice, Violation::CountedForAnother, Violation::CountedWithoutRun])
            }),
            Property::always("at_most_once starts at most once", |_, world| never(world, &[Violation::StartedTwice])),
            Property::always("no dispatch is granted to two runs", |_, world| never(world, &[Violation::GrantedTwice])),
            Property::always("what is confirmed is decided", |_, world| never(world, &[Violation::ConfirmedUndecided])),
            Property::always("no verdict goes over an outcome", |_, world| never(world, &[Violation::VerdictBeforeOutcome])),
            Property::always("a quiet finish ends everything", |_, world: &World| world.is_done() || world.finishes_quietly()),
            Property::sometimes(ENDS, |_, world: &World| world.is_done()),
        ]
    }
}

/// What the one task of a model is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It completes.
    Single,
    /// It may fail, and is tried again at once.
    Retried,
    /// It is never started twice.
    Once,
}

impl Kind {
    fn plan(self) -> Plan {
        let max_attempts = if self == Self::Retried { 2 } else { 1 };
        let retry = RetryPolicy { max_attempts, initial_interval: Duration::ZERO, ..RetryPolicy::none() };
        plan_of(vec![TaskPlan { retry, at_most_once: self == Self::Once, ..handler_task("a") }])
    }
}

/// The counterexamples within these bounds, as lists of actions; it must be possible to end.
fn counterexamples(kind: Kind, rules: Rules, budget: Budget) -> Vec<String> {
    let protocol = Protocol { plan: kind.plan(), rules, budget };
    let checker = protocol.checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let mut found = Vec::new();
    for (name, path) in checker.discoveries() {
        if name != ENDS {
            let violations = path.last_state().reference.violations.clone();
            let actions: Vec<String> = path.into_actions().iter().map(|action| format!("  {action:?}")).collect();
            found.push(format!("not true: {name} {violations:?}\n{}", actions.join("\n")));
        }
    }
    eprintln!("{kind:?}, {rules}: {} states, {} counterexamples", checker.unique_state_count(), found.len());
    assert!(!found.is_empty() || checker.discoveries().contains_key(ENDS), "nothing ever ends");
    found
}

fn holds(kind: Kind, budget: Budget) {
    let found = counterexamples(kind, Rules::default(), budget);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn is_found(broken: Rule, kind: Kind, budget: Budget) {
    let found = counterexamples(kind, Rules::without(broken), budget);
    assert!(!found.is_empty(), "{broken:?} is broken and nobody sees it");
}

const NOTHING: Budget = Budget {
    doubts: 0,
    takeovers: 0,
    deaths: 0,
    redeliveries: 0,
    wipes: 0,
    tails: 0,
    failovers: 0,
    losses: 0,
    beats: 0,
    ticks: 0,
    surveys: 0,
    saves: 0,
};

#[test]
fn a_message_that_is_delivered_twice() {
    holds(Kind::Retried, Budget { redeliveries: 1, ..NOTHING });
    holds(Kind::Once, Budget { redeliveries: 3, beats: 2, surveys: 1, ..NOTHING });
}

#[test]
fn a_commit_whose_end_is_unknown() {
    holds(Kind::Retried, Budget { doubts: 1, ..NOTHING });
    holds(Kind::Single, Budget { doubts: 1, redeliveries: 1, ..NOTHING });
    holds(Kind::Once, Budget { doubts: 2, redeliveries: 1, saves: 1, beats: 1, ..NOTHING });
}

#[test]
fn two_lanes_that_both_believe_that_they_own_the_shard() {
    holds(Kind::Retried, Budget { takeovers: 1, ..NOTHING });
    holds(Kind::Single, Budget { takeovers: 1, redeliveries: 1, ..NOTHING });
    holds(Kind::Once, Budget { takeovers: 1, redeliveries: 1, losses: 1, saves: 1, ..NOTHING });
}

#[test]
fn an_executor_that_dies() {
    holds(Kind::Single, Budget { deaths: 1, ticks: 1, ..NOTHING });
    holds(Kind::Once, Budget { deaths: 1, redeliveries: 1, ticks: 1, beats: 1, ..NOTHING });
}

#[test]
fn a_silence_that_ends() {
    holds(Kind::Single, Budget { ticks: 1, beats: 2, ..NOTHING });
    holds(Kind::Once, Budget { ticks: 1, beats: 2, redeliveries: 1, ..NOTHING });
}

#[test]
fn a_broker_that_is_wiped() {
    holds(Kind::Single, Budget { wipes: 1, surveys: 1, ..NOTHING });
    holds(Kind::Once, Budget { wipes: 1, surveys: 1, redeliveries: 1, takeovers: 1, ..NOTHING });
}

#[test]
fn a_lost_tail_of_the_outcomes_written_over() {
    holds(Kind::Retried, Budget { tails: 1, ..NOTHING });
    holds(Kind::Once, Budget { tails: 2, saves: 1, redeliveries: 1, ticks: 1, ..NOTHING });
}

#[test]
fn a_database_that_goes_back_by_one_commit() {
    holds(Kind::Single, Budget { failovers: 1, ..NOTHING });
    holds(Kind::Once, Budget { failovers: 1, beats: 2, saves: 1, ..NOTHING });
}

#[test]
fn rule_1_broken_is_found() {
    is_found(Rule::R1, Kind::Retried, Budget { takeovers: 1, ..NOTHING });
}

#[test]
fn rule_2_broken_is_found() {
    is_found(Rule::R2, Kind::Retried, Budget { doubts: 1, ..NOTHING });
}

#[test]
fn rule_3_broken_is_found() {
    is_found(Rule::R3, Kind::Once, Budget { takeovers: 1, redeliveries: 1, ..NOTHING });
}

#[test]
fn rule_4_broken_is_found() {
    is_found(Rule::R4, Kind::Single, Budget { deaths: 1, ..NOTHING });
}

#[test]
fn rule_5_broken_is_found() {
    is_found(Rule::R5, Kind::Once, Budget { redeliveries: 1, ..NOTHING });
}

#[test]
fn rule_6_broken_is_found() {
    is_found(Rule::R6, Kind::Single, Budget { redeliveries: 1, ..NOTHING });
}
