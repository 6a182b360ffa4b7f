//! Runs that are lost or given back.

use super::plans::{plan, retry, with};
use super::scene::{LOSS_RESET, Scene};
use crate::execution::AttemptOutcome;
use crate::machine::Progressed::{NeverStarted, Started};
use crate::plan::Plan;

fn once() -> Plan {
    with(plan("a"), "a", |a| a.at_most_once = true)
}

/// The task's run `run` is claimed, and lost `after_seconds`.
fn lose(scene: &mut Scene, run: u64, after_seconds: u64) {
    scene.check(scene.asks("a", run), &format!("left a, r{run} holds a, r{run} granted"));
    scene.wait(after_seconds);
    scene.check(scene.loses("a", run), &format!("r{run} holds nothing, publish a"));
}

#[test]
fn a_lost_run_is_dispatched_again_under_a_new_id_and_asks_first() {
    let mut scene = Scene::start(plan("a"), "publish a");
    let old = scene.task("a").dispatch.expect("it is queued");
    let late = scene.completes("a", 1);
    lose(&mut scene, 1, 15);
    let new = scene.task("a").dispatch.expect("it is queued again");
    assert!(new.id != old.id && new.ask_first && !old.ask_first);
    assert_eq!((scene.task("a").attempt, scene.task("a").retry_count), (2, 0));
    assert_eq!(scene.changes.attempts[0].outcome, AttemptOutcome::Lost);
    let told: Vec<_> = scene.changes.history.iter().map(|event| (event.kind, event.executor.as_deref())).collect();
    assert_eq!(told, [("task.lost", Some("executor-1")), ("task.queued", None)], "nobody has the next attempt yet");
    scene.check(late, "confirm r1");
    scene.check(scene.claims("a", 1, 60), "left a, r1 holds a, r1 granted");
}

#[test]
fn only_the_holder_can_be_lost() {
    let mut scene = Scene::start(plan("a"), "publish a");
    scene.check(scene.loses("a", 1), "");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(scene.loses("a", 2), "");
    scene.check(scene.completes("a", 1), "confirm r1, r1 holds nothing, a completed, ended completed");
    scene.check(scene.loses("a", 1), "");
}

#[test]
fn five_losses_in_a_row_are_a_failure() {
    let mut scene = Scene::start(plan("a"), "publish a");
    (1..5).for_each(|run| lose(&mut scene, run, 15));
    scene.check(scene.asks("a", 5), "left a, r5 holds a, r5 granted");
    scene.check(scene.loses("a", 5), "r5 holds nothing, a failed, ended failed");
    assert_eq!(scene.task("a").failure.as_ref().map(|failure| failure.error_type.as_str()), Some("lost"));
}

#[test]
fn ten_healthy_minutes_start_the_count_anew() {
    let mut scene = Scene::start(plan("a"), "publish a");
    (1..5).for_each(|run| lose(&mut scene, run, 15));
    lose(&mut scene, 5, LOSS_RESET.as_secs());
    assert_eq!(scene.task("a").losses_in_row, 1);
    (6..9).for_each(|run| lose(&mut scene, run, 15));
    scene.check(scene.asks("a", 9), "left a, r9 holds a, r9 granted");
    scene.check(scene.loses("a", 9), "r9 holds nothing, a failed, ended failed");
}

#[test]
fn an_outcome_of_its_own_starts_the_count_anew() {
    let mut scene = Scene::start(with(plan("a"), "a", |a| a.retry = retry(2, 0)), "publish a");
    (1..5).for_each(|run| lose(&mut scene, run, 15));
    scene.check(scene.fails("a", 5), "confirm r5, left a, publish a");
    (6..10).for_each(|run| lose(&mut scene, run, 15));
    scene.shows("a queued; running");
}

#[test]
fn a_drain_is_never_counted() {
    let mut scene = Scene::start(plan("a"), "publish a");
    for run in 1..20 {
        scene.check(scene.asks("a", run), &format!("left a, r{run} holds a, r{run} granted"));
        scene.check(scene.drains("a", run, Started), &format!("confirm r{run}, r{run} holds nothing, publish a"));
    }
    let task = scene.task("a");
    assert_eq!((task.attempt, task.retry_count, task.losses_in_row), (20, 0, 0));
}

#[test]
fn what_never_started_keeps_its_number() {
    let mut scene = Scene::start(plan("a"), "publish a");
    scene.check(scene.drains("a", 1, NeverStarted), "confirm r1, left a, publish a");
    assert_eq!((scene.task("a").attempt, scene.changes.attempts.len()), (1, 0));
    scene.check(scene.drains("a", 2, Started), "confirm r2, left a, publish a");
    let told: Vec<_> = scene.changes.history.iter().map(|event| (event.kind, event.executor.as_deref())).collect();
    assert_eq!(told, [("task.released", Some("executor-2")), ("task.queued", None)], "history says why it is queued again");
    assert_eq!((scene.task("a").attempt, scene.changes.attempts.len()), (2, 1));
}

#[test]
fn a_drain_does_not_take_the_question_from_a_dispatch_that_was_lost() {
    let mut scene = Scene::start(plan("a"), "publish a");
    lose(&mut scene, 1, 15);
    scene.check(scene.drains("a", 2, NeverStarted), "confirm r2, left a, publish a");
    assert!(scene.task("a").dispatch.is_some_and(|dispatch| dispatch.ask_first));
}

#[test]
fn at_most_once_ends_with_its_loss() {
    let mut scene = Scene::start(once(), "publish a");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(scene.loses("a", 1), "r1 holds nothing, a failed, ended failed");
    assert_eq!(scene.task("a").failure.as_ref().map(|failure| failure.error_type.as_str()), Some("lost"));
}

#[test]
fn at_most_once_ends_with_the_drain_of_what_had_started() {
    let mut scene = Scene::start(once(), "publish a");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(scene.drains("a", 1, Started), "confirm r1, r1 holds nothing, a failed, ended failed");
    assert_eq!(scene.task("a").failure.as_ref().map(|failure| failure.error_type.as_str()), Some("lost"));
}

#[test]
fn at_most_once_comes_back_if_it_never_started() {
    let mut scene = Scene::start(once(), "publish a");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(scene.drains("a", 1, NeverStarted), "confirm r1, r1 holds nothing, publish a");
    scene.check(scene.asks("a", 2), "left a, r2 holds a, r2 granted");
    scene.check(scene.completes("a", 2), "confirm r2, r2 holds nothing, a completed, ended completed");
}

#[test]
fn a_loss_that_is_final_can_be_passed() {
    let passable = with(plan("a; b < a"), "a", |a| (a.at_most_once, a.continue_on_failure) = (true, true));
    let mut scene = Scene::start(passable, "publish a");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(scene.loses("a", 1), "r1 holds nothing, a failed, publish b");
}
