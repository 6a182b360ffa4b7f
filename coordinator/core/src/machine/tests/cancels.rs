//! Cancelled executions and tasks.

use super::plans::{plan, retry, with};
use super::scene::{Scene, failed};
use crate::execution::AttemptOutcome;
use crate::machine::Event::Cancel;
use crate::machine::Progressed::Started;
use crate::machine::Reported;
use crate::plan::TaskKind;
use orchestr8_proto::timestamp::Timestamp;
use std::time::Duration;

/// Task `a` is running, `b` waits for it, and the execution is being cancelled.
fn cancelling() -> Scene {
    let mut scene = Scene::start(with(plan("a; b < a"), "a", |a| a.retry = retry(3, 1)), "publish a");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(Cancel, "r1 cancelled, timer 25s, b cancelled");
    scene
}

#[test]
fn what_is_queued_is_dropped_and_ends_at_once() {
    let mut scene = Scene::start(plan("a; b < a"), "publish a");
    let late = scene.completes("a", 1);
    scene.check(Cancel, "drop d1, left a, a cancelled, b cancelled, ended cancelled");
    scene.check(late, "confirm r1");
    scene.check(scene.claims("a", 2, 3), "r2 cancelled");
    scene.check(Cancel, "");
}

#[test]
fn what_runs_is_killed_and_ends_with_its_outcome() {
    let mut scene = cancelling();
    scene.shows("a running, b cancelled; running");
    scene.check(scene.fails("a", 1), "confirm r1, r1 holds nothing, a cancelled, ended cancelled");
    assert_eq!(scene.changes.attempts[0].outcome, AttemptOutcome::Failed);
}

#[test]
fn what_was_ended_by_a_cancel_says_so_and_what_failed_by_itself_says_that() {
    for (reported, told) in [("killed", "cancelled"), ("exit", "exit")] {
        let mut scene = cancelling();
        scene.check(scene.reports("a", 1, failed(reported, 0)), "confirm r1, r1 holds nothing, a cancelled, ended cancelled");
        let failure = scene.changes.attempts[0].failure.as_ref().expect("it failed");
        assert_eq!(failure.error_type, told);
    }
}

#[test]
fn what_runs_is_killed_and_ends_with_its_loss() {
    let mut scene = cancelling();
    scene.check(scene.loses("a", 1), "r1 holds nothing, a cancelled, ended cancelled");
    assert_eq!(scene.changes.attempts[0].outcome, AttemptOutcome::Lost);
}

#[test]
fn what_runs_is_killed_and_ends_with_its_drain() {
    let mut scene = cancelling();
    scene.check(scene.drains("a", 1, Started), "confirm r1, r1 holds nothing, a cancelled, ended cancelled");
    assert_eq!(scene.changes.attempts[0].outcome, AttemptOutcome::Released);
    let mut scene = cancelling();
    let unsupported = scene.reports("a", 1, Reported::Unsupported(String::new()));
    scene.check(unsupported, "confirm r1, r1 holds nothing, a cancelled, ended cancelled");
}

#[test]
fn what_runs_is_killed_and_ends_when_patience_does() {
    let mut scene = cancelling();
    scene.wait(24);
    scene.check(scene.due("a"), "");
    scene.wait(1);
    scene.check(scene.due("a"), "r1 holds nothing, a cancelled, ended cancelled");
    scene.check(scene.completes("a", 1), "confirm r1");
}

#[test]
fn a_completion_that_commits_first_wins() {
    let mut scene = cancelling();
    scene.check(scene.completes("a", 1), "confirm r1, r1 holds nothing, a completed, ended cancelled");
    let mut scene = Scene::start(plan("a"), "publish a");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(Cancel, "r1 cancelled, timer 25s");
    scene.check(scene.completes("a", 1), "confirm r1, r1 holds nothing, a completed, ended completed");
    scene.check(Cancel, "");
}

#[test]
fn a_repeated_cancel_kills_again_and_does_not_prolong() {
    let mut scene = cancelling();
    scene.wait(20);
    scene.check(Cancel, "r1 cancelled");
    assert_eq!(scene.execution.cancel_requested_at, Some(Timestamp(0)));
    assert_eq!(scene.task("a").due_at, Some(Timestamp(25_000_000)));
}

#[test]
fn a_claim_of_what_is_being_cancelled_is_killed_since_its_end_is_waited_for() {
    let mut scene = cancelling();
    scene.check(scene.claims("a", 1, 3), "r1 cancelled");
    scene.check(scene.asks("a", 1), "r1 cancelled");
    scene.check(scene.checks("a", 1), "r1 refused");
}

#[test]
fn what_waits_for_a_retry_or_a_timer_ends_at_once() {
    let mut scene = Scene::start(with(plan("a"), "a", |a| a.retry = retry(3, 1)), "publish a");
    scene.check(scene.fails("a", 1), "confirm r1, left a, timer 1s");
    scene.check(Cancel, "a cancelled, ended cancelled");
    scene.wait(1);
    scene.check(scene.due("a"), "");
    let nap = with(plan("a"), "a", |a| a.kind = TaskKind::Sleep { duration: Duration::from_mins(1) });
    let mut scene = Scene::start(nap, "timer 60s");
    scene.check(Cancel, "a cancelled, ended cancelled");
    let mut scene = Scene::start_at(plan("a; b < a"), Some(Timestamp(60_000_000)), "timer 60s");
    scene.check(Cancel, "a cancelled, b cancelled, ended cancelled");
}

#[test]
fn what_failed_before_the_cancel_stays_failed_and_the_execution_is_cancelled() {
    let mut scene = Scene::start(plan("a; b"), "publish a, publish b");
    scene.check(scene.fails("a", 1), "confirm r1, left a, a failed");
    scene.check(Cancel, "drop d2, left b, b cancelled, ended cancelled");
    scene.shows("a failed, b cancelled; cancelled");
}

#[test]
fn one_cancelled_task_skips_what_follows_it_only() {
    let mut scene = Scene::start(plan("a; b < a; c"), "publish a, publish c");
    scene.check(scene.cancels("a"), "drop d1, left a, a cancelled, b skipped");
    scene.check(scene.cancels("a"), "");
    scene.check(scene.completes("c", 1), "confirm r1, left c, c completed, ended cancelled");
    scene.shows("a cancelled, b skipped, c completed; cancelled");
}

#[test]
fn one_cancelled_task_does_not_hide_a_failure() {
    let mut scene = Scene::start(plan("a; b"), "publish a, publish b");
    scene.check(scene.cancels("a"), "drop d1, left a, a cancelled");
    scene.check(scene.fails("b", 1), "confirm r1, left b, b failed, ended failed");
}

#[test]
fn one_cancelled_task_of_a_phase_starts_nothing_after_it() {
    let mut scene = Scene::start(plan("a @one; b @one; c << one"), "publish a, publish b");
    scene.check(scene.completes("a", 1), "confirm r1, left a, a completed");
    scene.check(scene.cancels("b"), "drop d2, left b, b cancelled, c skipped, ended cancelled");
}

#[test]
fn one_running_task_is_killed_and_ends_with_its_outcome() {
    let mut scene = Scene::start(with(plan("a; b < a"), "a", |a| a.retry = retry(3, 0)), "publish a");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(scene.cancels("a"), "r1 cancelled, timer 25s");
    scene.check(scene.fails("a", 1), "confirm r1, r1 holds nothing, a cancelled, b skipped, ended cancelled");
}
