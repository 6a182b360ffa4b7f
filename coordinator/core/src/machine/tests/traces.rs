//! Which attempts leave a span, and how they ended: only where somebody traces the execution.

use super::plans::{plan, retry, with};
use super::scene::Scene;
use crate::machine::{Event, Progressed, Reported};
use crate::plan::Plan;
use orchestr8_proto::traces::TraceParent;

fn traced(plan: Plan, effects: &str) -> Scene {
    let mut scene = Scene::start(plan, effects);
    scene.execution.trace = Some(TraceParent::random());
    scene
}

#[test]
fn each_attempt_is_told_once_when_it_ends() {
    let mut scene = traced(with(plan("a"), "a", |task| task.retry = retry(3, 1)), "publish a");
    scene.check(scene.fails("a", 1), "confirm r1, retrying a 1, left a, timer 1s");
    scene.wait(1);
    scene.check(scene.due("a"), "publish a");
    scene.check(scene.claims("a", 2, 1), "left a, r2 holds a, r2 granted");
    scene.check(scene.completes("a", 2), "confirm r2, completed a 2, r2 holds nothing, a completed, ended completed");
    scene.check(scene.completes("a", 2), "confirm r2");
}

#[test]
fn a_lost_run_and_one_that_is_given_back_are_attempts_of_their_own() {
    let mut scene = traced(plan("a"), "publish a");
    scene.check(scene.claims("a", 1, 1), "left a, r1 holds a, r1 granted");
    scene.check(scene.loses("a", 1), "lost a 1, r1 holds nothing, publish a");
    scene.check(scene.drains("a", 2, Progressed::Started), "confirm r2, released a 2, left a, publish a");
    scene.check(scene.drains("a", 3, Progressed::NeverStarted), "confirm r3, left a, publish a");
    scene.check(scene.reports("a", 4, Reported::Unsupported("kind".into())), "confirm r4, left a, timer 1s");
    scene.check(Event::Cancel, "a cancelled, ended cancelled");
}

#[test]
fn what_is_cancelled_in_the_queue_or_cannot_be_sent_ends_its_attempt() {
    let mut scene = traced(plan("a; b"), "publish a, publish b");
    scene.check(scene.undeliverable("a"), "failed a 1, left a, a failed");
    scene.check(scene.cancels("b"), "drop d2, cancelled b 1, left b, b cancelled, ended failed");
}

#[test]
fn who_traces_nothing_gets_nothing() {
    let mut scene = Scene::start(plan("a"), "publish a");
    scene.execution.trace = Some(TraceParent { flags: 0, ..TraceParent::random() });
    scene.check(scene.completes("a", 1), "confirm r1, left a, a completed, ended completed");
}
