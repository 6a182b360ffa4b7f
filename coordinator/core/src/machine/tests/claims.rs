//! Who may run a dispatch, and whose outcome counts.

use super::plans::{plan, retry, with};
use super::scene::{Scene, failed};
use crate::execution::AttemptOutcome;
use crate::plan::{TaskKind, TaskPlan};
use orchestr8_proto::timestamp::Timestamp;

#[test]
fn a_claim_makes_its_run_the_holder() {
    let mut scene = Scene::start(plan("a"), "publish a");
    scene.wait(9);
    scene.check(scene.claims("a", 1, 4), "left a, r1 holds a, r1 granted");
    scene.shows("a running; running");
    assert_eq!(scene.task("a").started_at, Some(Timestamp(5_000_000)));
    assert_eq!(scene.task("a").executor.as_deref(), Some("executor-1"));
    let [running] = scene.changes.history.as_slice() else { panic!("one event: {:?}", scene.changes.history) };
    assert_eq!((running.kind, running.started_at), ("task.running", Some(Timestamp(5_000_000))), "not the time of the claim");
}

#[test]
fn a_completed_script_exited_with_zero_and_a_handler_has_no_exit_code() {
    let script = |a: &mut TaskPlan| a.kind = TaskKind::Run { script: "true".into() };
    for (plan, exit_code) in [(with(plan("a"), "a", script), Some(0)), (plan("a"), None)] {
        let mut scene = Scene::start(plan, "publish a");
        scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
        scene.check(scene.completes("a", 1), "confirm r1, r1 holds nothing, a completed, ended completed");
        assert_eq!(scene.changes.attempts[0].usage.exit_code, exit_code);
    }
}

#[test]
fn a_repeated_claim_gets_the_same_grant_and_changes_nothing() {
    let mut scene = Scene::start(plan("a"), "publish a");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(scene.asks("a", 1), "r1 holds a, r1 granted");
    assert_eq!(scene.changes, crate::execution::Changes::default());
}

#[test]
fn another_run_is_refused_or_killed_by_whether_it_started() {
    let mut scene = Scene::start(plan("a"), "publish a");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(scene.asks("a", 2), "r2 refused");
    scene.check(scene.claims("a", 2, 3), "r2 killed");
    scene.shows("a running; running");
}

#[test]
fn a_claim_for_a_stale_dispatch_is_refused_or_killed() {
    let mut scene = Scene::start(with(plan("a"), "a", |a| a.retry = retry(2, 0)), "publish a");
    let (asking, running) = (scene.asks("a", 1), scene.claims("a", 2, 3));
    scene.check(scene.fails("a", 3), "confirm r3, left a, publish a");
    scene.check(asking, "r1 refused");
    scene.check(running, "r2 killed");
    scene.check(scene.completes("a", 4), "confirm r4, left a, a completed, ended completed");
    scene.check(scene.claims("a", 5, 3), "r5 killed");
}

#[test]
fn a_check_says_whether_the_dispatch_is_current_and_free() {
    let mut scene = Scene::start(plan("a"), "publish a");
    scene.check(scene.checks("a", 1), "r1 current");
    scene.shows("a queued; running");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(scene.checks("a", 2), "r2 refused");
    scene.check(scene.checks("a", 1), "r1 current");
    scene.check(scene.completes("a", 1), "confirm r1, r1 holds nothing, a completed, ended completed");
    scene.check(scene.checks("a", 2), "r2 refused");
}

#[test]
fn an_outcome_of_another_run_than_the_holder_does_not_count() {
    let mut scene = Scene::start(plan("a"), "publish a");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(scene.completes("a", 2), "confirm r2");
    scene.check(scene.completes("a", 1), "confirm r1, r1 holds nothing, a completed, ended completed");
}

#[test]
fn an_outcome_counts_once() {
    let mut scene = Scene::start(plan("a; b < a"), "publish a");
    let outcome = scene.completes("a", 1);
    scene.check(outcome.clone(), "confirm r1, left a, a completed, publish b");
    scene.check(outcome, "confirm r1");
    scene.check(scene.reports("a", 2, failed("exit", 0)), "confirm r2");
    scene.shows("a completed, b queued; running");
}

#[test]
fn a_claimed_attempt_leaves_a_row_and_a_short_one_does_not() {
    let mut scene = Scene::start(plan("a; b"), "publish a, publish b");
    scene.check(scene.completes("a", 1), "confirm r1, left a, a completed");
    assert_eq!(scene.changes.attempts, []);
    scene.check(scene.asks("b", 2), "left b, r2 holds b, r2 granted");
    scene.check(scene.completes("b", 2), "confirm r2, r2 holds nothing, b completed, ended completed");
    assert_eq!(scene.changes.attempts[0].outcome, AttemptOutcome::Completed);
}

#[test]
fn only_a_dispatch_that_may_start_once_or_was_lost_before_asks_first() {
    let scene = Scene::start(with(plan("a; b"), "a", |a| a.at_most_once = true), "publish a, publish b");
    let asks = |name| scene.task(name).dispatch.is_some_and(|dispatch| dispatch.ask_first);
    assert_eq!((asks("a"), asks("b")), (true, false));
}
