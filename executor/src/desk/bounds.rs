//! The desk at its bounds, for tests: how long, how many and how much it goes on with.

use super::scene::{Delivered, FIRST, Scene, completed, dispatch, seconds};
use crate::clock::{Clock, Timekeeper};
use crate::settings::tests::settings;
use crate::settings::{ExecutorSettings, UNCONFIRMED_MAX};
use crate::work::{WorkReport, WorkResult};
use bytes::Bytes;
use orchestr8_proto::wire::OUTPUT_BYTES_MAX;
use std::time::Duration;

/// The pulls that left since the last look.
fn pulls(scene: &mut Scene) -> usize {
    scene.act();
    scene.sent.drain(..).filter(|sent| sent.subject.starts_with("$JS.API.CONSUMER.MSG.NEXT")).count()
}

/// Runs one dispatch to its end; nobody stores or confirms its outcome.
fn run_one(scene: &mut Scene, report: WorkReport) {
    scene.deliver(vec![dispatch()], FIRST);
    let run_id = scene.started.pop().expect("there is room").0.run_id;
    scene.end(run_id, report);
}

#[test]
fn what_lay_in_the_socket_of_a_sleeping_machine_is_asked_about() {
    let mut scene = Scene::new();
    let (woken, slept) = (seconds(1_000), seconds(20));
    let keeper = Timekeeper::new(scene.clock.now, woken);
    let slept_us = i64::try_from(slept.as_micros()).unwrap();
    scene.clock = Clock { now: keeper.at(woken + slept), wall_us: scene.clock.wall_us + slept_us };
    scene.deliver(vec![dispatch()], Delivered { age: seconds(19), ..FIRST });
    assert_eq!((scene.started.len(), scene.claims().len()), (0, 1), "another executor may have had it since");
}

#[test]
fn after_ten_seconds_without_a_coordinator_no_pull_leaves_until_one_beats() {
    let mut scene = Scene::new();
    for (second, expected) in [(10, 1), (11, 0), (30, 0)] {
        let at = scene.clock;
        scene.pass(seconds(second));
        // With a new connection every pull is sent anew.
        scene.desk.reconnected(scene.clock);
        assert_eq!(pulls(&mut scene), expected, "second {second}");
        scene.clock = at;
    }
    scene.pass(seconds(31));
    scene.hear("installation");
    assert_eq!(pulls(&mut scene), 1);
}

#[test]
fn four_thousand_unconfirmed_outcomes_stop_the_fetching() {
    let mut scene = Scene::new();
    for number in 0..UNCONFIRMED_MAX {
        assert_eq!(scene.desk.room(scene.clock.now), 2, "after {number} outcomes");
        run_one(&mut scene, completed());
    }
    assert_eq!((UNCONFIRMED_MAX, scene.desk.room(scene.clock.now)), (4_096, 0));
}

#[test]
fn sixty_four_megabytes_of_unconfirmed_outcomes_stop_the_fetching() {
    let mut scene = Scene::new();
    let large = || WorkReport { result: WorkResult::Completed { output_json: Bytes::from(vec![b'1'; OUTPUT_BYTES_MAX]) }, ..completed() };
    let most = 64 * 1024 * 1024 / OUTPUT_BYTES_MAX;
    for number in 1..most {
        run_one(&mut scene, large());
        assert_eq!(scene.desk.room(scene.clock.now), 2, "after {number} outcomes");
    }
    run_one(&mut scene, large());
    assert_eq!((scene.desk.runs.unconfirmed().0, scene.desk.room(scene.clock.now)), (most, 0));
    let (run_id, _) = scene.desk.runs.iter().next().expect("they are kept");
    scene.confirm(&run_id.to_bytes());
    assert_eq!(scene.desk.room(scene.clock.now), 2, "one was confirmed");
}

#[test]
fn the_last_ack_leaves_with_the_next_one_or_after_a_quarter_of_a_base_or_with_the_drain() {
    let mut scene = Scene::new();
    let end_one = |scene: &mut Scene| {
        let ack = scene.deliver(vec![dispatch()], FIRST);
        let run_id = scene.started.pop().expect("there is room").0.run_id;
        scene.end(run_id, completed());
        scene.store_outcomes();
        scene.confirm(&run_id.to_bytes());
        ack
    };
    let first = end_one(&mut scene);
    assert!(scene.answers_sent(&first).is_empty());
    let second = end_one(&mut scene);
    assert_eq!((scene.answers_sent(&first), scene.answers_sent(&second)), (vec!["+ACK".to_owned()], vec![]));
    scene.pass(Duration::from_millis(249));
    assert!(scene.answers_sent(&second).is_empty());
    scene.pass(Duration::from_millis(1));
    assert_eq!(scene.answers_sent(&second), ["+ACK"]);
    let third = end_one(&mut scene);
    let fourth = scene.deliver(vec![dispatch()], FIRST);
    scene.desk.drain(scene.clock);
    scene.act();
    assert_eq!(scene.answers_sent(&third), ["+ACK"]);
    let run_id = scene.started.pop().expect("there is room").0.run_id;
    scene.end(run_id, completed());
    scene.store_outcomes();
    assert_eq!(scene.answers_sent(&fourth), ["+ACK"], "nothing is held back in a drain");
}

#[test]
fn a_drain_waits_for_the_broker_and_then_ten_seconds_for_a_confirmation() {
    let mut scene = Scene::new();
    run_one(&mut scene, completed());
    scene.desk.drain(scene.clock);
    // The first publication gets no answer.
    scene.pass(seconds(24));
    scene.sent.clear();
    scene.pass(seconds(6));
    assert_eq!(scene.store_outcomes().len(), 1);
    scene.pass(Duration::from_millis(1));
    scene.pass(seconds(9));
    assert!(!scene.desk.is_drained(scene.clock.now));
    scene.pass(seconds(1));
    assert!(scene.desk.is_drained(scene.clock.now));
}

#[test]
fn a_drain_without_a_broker_ends_after_a_minute() {
    let mut scene = Scene::with(&ExecutorSettings { drain_timeout: seconds(1), ..settings() });
    run_one(&mut scene, completed());
    scene.desk.drain(scene.clock);
    scene.pass(seconds(59));
    assert!(!scene.desk.is_drained(scene.clock.now));
    scene.pass(seconds(1));
    assert!(scene.desk.is_drained(scene.clock.now));
}
