//! Failed attempts and what follows them.

use super::plans::{plan, retry, with};
use super::scene::{Scene, failed, failed_for_good};
use crate::execution::AttemptOutcome;
use crate::machine::Reported;
use crate::plan::{Plan, RetryPolicy};

fn retried(policy: RetryPolicy) -> Plan {
    with(plan("a"), "a", |a| a.retry = policy)
}

#[test]
fn a_failed_attempt_waits_for_its_backoff_and_is_queued_anew() {
    let mut scene = Scene::start(retried(retry(3, 2)), "publish a");
    scene.check(scene.fails("a", 1), "confirm r1, left a, timer 2s");
    scene.shows("a retrying; running");
    scene.wait(1);
    scene.check(scene.due("a"), "");
    scene.wait(1);
    scene.check(scene.due("a"), "publish a");
    assert_eq!((scene.task("a").attempt, scene.task("a").retry_count), (2, 1));
    scene.check(scene.fails("a", 2), "confirm r2, left a, timer 4s");
}

#[test]
fn a_zero_wait_is_queued_in_the_same_commit() {
    let mut scene = Scene::start(retried(retry(2, 0)), "publish a");
    let first = scene.fails("a", 1);
    scene.check(first.clone(), "confirm r1, left a, publish a");
    scene.check(first, "confirm r1");
    scene.check(scene.fails("a", 2), "confirm r2, left a, a failed, ended failed");
}

#[test]
fn a_claimed_attempt_that_fails_gives_its_lease_back() {
    let mut scene = Scene::start(retried(retry(2, 1)), "publish a");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(scene.fails("a", 1), "confirm r1, r1 holds nothing, timer 1s");
    assert_eq!(scene.changes.attempts[0].outcome, AttemptOutcome::Failed);
}

#[test]
fn the_last_attempt_is_the_last() {
    let mut scene = Scene::start(retried(retry(1, 1)), "publish a");
    scene.check(scene.fails("a", 1), "confirm r1, left a, a failed, ended failed");
    assert_eq!(scene.task("a").retry_count, 0);
}

#[test]
fn useless_retries_are_not_tried() {
    let mut scene = Scene::start(retried(retry(3, 1)), "publish a");
    scene.check(scene.reports("a", 1, failed_for_good("exit")), "confirm r1, left a, a failed, ended failed");
    let refusing = RetryPolicy { non_retryable: vec!["usage".into()], ..retry(3, 1) };
    let mut scene = Scene::start(retried(refusing), "publish a");
    scene.check(scene.reports("a", 1, failed("usage", 0)), "confirm r1, left a, a failed, ended failed");
}

#[test]
fn who_asks_for_a_later_retry_gets_it() {
    let mut scene = Scene::start(retried(retry(3, 1)), "publish a");
    scene.check(scene.reports("a", 1, failed("exit", 90)), "confirm r1, left a, timer 90s");
}

#[test]
fn an_attempt_that_completes_leaves_no_failure_behind() {
    let mut scene = Scene::start(retried(retry(2, 0)), "publish a");
    scene.check(scene.fails("a", 1), "confirm r1, left a, publish a");
    scene.check(scene.completes("a", 2), "confirm r2, left a, a completed, ended completed");
    assert_eq!((scene.task("a").failure.as_ref(), scene.task("a").retry_count), (None, 1));
}

#[test]
fn an_unsupported_kind_comes_back_after_a_growing_wait_with_the_same_number() {
    let mut scene = Scene::start(retried(retry(1, 1)), "publish a");
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        scene
            .check(scene.reports("a", 1, Reported::Unsupported("no handler `a`".into())), &format!("confirm r1, left a, timer {seconds}s"));
        assert_eq!(scene.task("a").started_at, None, "it never started");
        scene.wait(seconds);
        scene.check(scene.due("a"), "publish a");
        assert_eq!((scene.task("a").attempt, scene.task("a").retry_count), (1, 0));
    }
    scene.check(scene.completes("a", 2), "confirm r2, left a, a completed, ended completed");
}
