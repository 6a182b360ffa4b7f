//! Needs, phases, skips, timers, outputs and verdicts.

use super::plans::{plan, with};
use super::scene::{Scene, failed_for_good};
use crate::machine::{Event, Reported};
use crate::plan::{TaskKind, Template};
use orchestr8_proto::timestamp::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;

#[test]
fn a_dependent_starts_when_the_last_of_its_needs_has_completed() {
    let mut scene = Scene::start(plan("a; b; c < a b"), "publish a, publish b");
    scene.check(scene.completes("a", 1), "confirm r1, left a, a completed");
    scene.check(scene.completes("b", 2), "confirm r2, left b, b completed, publish c");
    scene.check(scene.completes("c", 3), "confirm r3, left c, c completed, ended completed");
}

#[test]
fn a_failure_skips_what_follows_and_lets_the_siblings_finish() {
    let mut scene = Scene::start(plan("a; b; c < a b; d < c"), "publish a, publish b");
    scene.check(scene.fails("a", 1), "confirm r1, left a, a failed, c skipped, d skipped");
    scene.shows("a failed, b queued, c skipped, d skipped; running");
    scene.check(scene.completes("b", 2), "confirm r2, left b, b completed, ended failed");
    assert_eq!(scene.execution.error.as_deref(), Some("task `a` failed: it ended with exit"));
}

#[test]
fn a_failure_that_may_be_passed_starts_what_follows() {
    let mut scene = Scene::start(with(plan("a; b < a"), "a", |a| a.continue_on_failure = true), "publish a");
    scene.check(scene.fails("a", 1), "confirm r1, left a, a failed, publish b");
    scene.check(scene.completes("b", 2), "confirm r2, left b, b completed, ended completed");
    assert_eq!(scene.execution.error, None);
}

#[test]
fn a_phase_starts_when_every_task_of_the_one_before_has_ended() {
    let mut scene = Scene::start(plan("a @one; b @one; c @two << one; d @two << one"), "publish a, publish b");
    scene.check(scene.completes("b", 2), "confirm r2, left b, b completed");
    scene.check(scene.completes("a", 1), "confirm r1, left a, a completed, publish c, publish d");
}

#[test]
fn the_last_task_of_a_phase_that_fails_starts_nothing() {
    let mut scene = Scene::start(plan("a @one; b << one; c < b"), "publish a");
    scene.check(scene.fails("a", 1), "confirm r1, left a, a failed, b skipped, c skipped, ended failed");
}

#[test]
fn a_failure_in_a_phase_skips_what_waits_for_the_phase_at_once() {
    let mut scene = Scene::start(plan("a @one; b @one; c @two << one; d << two"), "publish a, publish b");
    scene.check(scene.fails("a", 1), "confirm r1, left a, a failed, c skipped, d skipped");
    scene.check(scene.completes("b", 2), "confirm r2, left b, b completed, ended failed");
}

#[test]
fn a_skipped_task_ends_its_phase_without_starting_the_next() {
    let mut scene = Scene::start(plan("x; a @one; b @one < x; c << one"), "publish x, publish a");
    scene.check(scene.completes("a", 1), "confirm r1, left a, a completed");
    scene.check(scene.fails("x", 2), "confirm r2, left x, x failed, b skipped, c skipped, ended failed");
}

#[test]
fn a_failure_that_may_be_passed_ends_its_phase_and_starts_the_next() {
    let gates = with(plan("a @gates; b @gates; report << gates"), "a", |a| a.continue_on_failure = true);
    let mut scene = Scene::start(gates, "publish a, publish b");
    scene.check(scene.fails("a", 1), "confirm r1, left a, a failed");
    scene.check(scene.completes("b", 2), "confirm r2, left b, b completed, publish report");
    scene.check(scene.completes("report", 3), "confirm r3, left report, report completed, ended completed");
}

#[test]
fn a_task_that_needs_a_task_and_its_phase_waits_for_both() {
    let mut scene = Scene::start(plan("a @one; b @one; c < a << one"), "publish a, publish b");
    scene.check(scene.completes("a", 1), "confirm r1, left a, a completed");
    assert_eq!(scene.task("c").upstreams_remaining, 1);
    scene.check(scene.completes("b", 2), "confirm r2, left b, b completed, publish c");
}

#[test]
fn a_task_blocked_twice_is_skipped_once() {
    let mut scene = Scene::start(plan("a @one; b < a << one; c < a b"), "publish a");
    scene.check(scene.fails("a", 1), "confirm r1, left a, a failed, b skipped, c skipped, ended failed");
}

#[test]
fn a_sleep_is_a_timer_and_holds_no_slot() {
    let nap = |task: &mut crate::plan::TaskPlan| task.kind = TaskKind::Sleep { duration: Duration::from_mins(1) };
    let mut scene = Scene::start(with(plan("a; b < a; c < b"), "b", nap), "publish a");
    scene.check(scene.completes("a", 1), "confirm r1, left a, a completed, timer 60s");
    scene.shows("a completed, b waiting, c pending; running");
    scene.wait(59);
    scene.check(scene.due("b"), "");
    scene.wait(1);
    scene.check(scene.due("b"), "b completed, publish c");
    scene.check(scene.due("b"), "");
}

#[test]
fn nothing_starts_before_run_at() {
    let mut scene = Scene::start_at(plan("a; b; c < a"), Some(Timestamp(30_000_000)), "timer 30s, timer 30s");
    scene.shows("a waiting, b waiting, c pending; pending");
    scene.check(scene.due("a"), "");
    scene.wait(30);
    scene.check(scene.due("a"), "publish a");
    scene.shows("a queued, b waiting, c pending; running");
    scene.check(scene.due("b"), "publish b");
    assert_eq!(scene.execution.started_at, Some(Timestamp(30_000_000)));
}

#[test]
fn a_sleep_begins_at_run_at() {
    let nap = with(plan("a"), "a", |a| a.kind = TaskKind::Sleep { duration: Duration::from_secs(5) });
    let mut scene = Scene::start_at(nap, Some(Timestamp(1_000_000)), "timer 1s");
    scene.wait(1);
    scene.check(scene.due("a"), "timer 5s");
    scene.wait(5);
    scene.check(scene.due("a"), "a completed, ended completed");
}

#[test]
fn a_run_at_in_the_past_is_now() {
    let scene = Scene::start_at(plan("a"), Some(Timestamp(0)), "publish a");
    scene.shows("a queued; running");
}

#[test]
fn the_output_is_evaluated_before_the_execution_completes() {
    let with_output = || crate::plan::Plan { output: Some(Template(json!("${{ 1 }}"))), ..plan("a") };
    let mut scene = Scene::start(with_output(), "publish a");
    scene.check(Event::OutputEvaluated(Ok(Value::Null)), "");
    scene.check(scene.completes("a", 1), "confirm r1, left a, a completed, evaluate");
    scene.shows("a completed; running");
    scene.check(Event::OutputEvaluated(Ok(json!(1))), "ended completed");
    assert_eq!(scene.execution.output, Some(json!(1)));
    scene.check(Event::OutputEvaluated(Ok(json!(2))), "");

    let mut scene = Scene::start(with_output(), "publish a");
    scene.check(scene.completes("a", 1), "confirm r1, left a, a completed, evaluate");
    scene.check(Event::OutputEvaluated(Err("no such key".into())), "ended failed");
    assert_eq!(scene.execution.error.as_deref(), Some("the workflow's output cannot be evaluated: no such key"));
}

#[test]
fn a_failed_execution_has_no_output() {
    let mut scene = Scene::start(crate::plan::Plan { output: Some(Template(json!(1))), ..plan("a") }, "publish a");
    scene.check(scene.fails("a", 1), "confirm r1, left a, a failed, ended failed");
}

#[test]
fn an_output_is_kept_and_a_null_is_not() {
    let mut scene = Scene::start(plan("a; b"), "publish a, publish b");
    scene.check(scene.completes("a", 1), "confirm r1, left a, a completed");
    assert_eq!(scene.changes.results, [(0, json!(7))]);
    scene.check(scene.reports("b", 2, Reported::Completed(Value::Null)), "confirm r2, left b, b completed, ended completed");
    assert_eq!(scene.changes.results, []);
}

#[test]
fn what_cannot_be_delivered_has_failed() {
    let mut scene = Scene::start(plan("a; b < a"), "publish a");
    scene.check(scene.undeliverable("a"), "left a, a failed, b skipped, ended failed");
    assert_eq!(scene.task("a").failure.as_ref().map(|failure| failure.error_type.as_str()), Some("too_large"));
    scene.check(scene.undeliverable("a"), "");
}

#[test]
fn what_runs_was_delivered() {
    let mut scene = Scene::start(plan("a"), "publish a");
    scene.check(scene.asks("a", 1), "left a, r1 holds a, r1 granted");
    scene.check(scene.undeliverable("a"), "");
    scene.shows("a running; running");
}

#[test]
fn a_task_that_the_plan_does_not_have_changes_nothing() {
    let mut scene = Scene::start(plan("a"), "publish a");
    let Event::Outcome(_, report) = scene.reports("a", 1, failed_for_good("exit")) else { unreachable!("reports an outcome") };
    scene.check(Event::Outcome(7, report), "confirm r1");
    scene.check(Event::Lost(7, super::scene::run_id(1)), "");
    scene.check(Event::Due(7), "");
    scene.check(Event::CancelTask(7), "");
    scene.shows("a queued; running");
}
