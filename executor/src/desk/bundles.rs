//! The desk with bundles, for tests: several dispatches in one message, more than there are slots.

use super::scene::{FIRST, Scene, completed, dispatch, seconds};
use orchestr8_proto::wire::outcome::Result as Told;
use orchestr8_proto::wire::{Dispatch, ReleaseReason};
use std::time::Duration;

/// Half a base: who waits longer for a slot is given back.
const PATIENCE: Duration = Duration::from_millis(500);
/// And just before.
const ALMOST: Duration = Duration::from_millis(499);

fn bundle(dispatches: usize) -> Vec<Dispatch> {
    (0..dispatches).map(|_| dispatch()).collect()
}

/// Ends the `index`th run that started, and lets the broker store its outcome.
fn end(scene: &mut Scene, index: usize) {
    let run_id = scene.run_id(index);
    scene.end(run_id, completed());
    scene.store_outcomes();
}

#[test]
fn as_many_messages_wait_for_slots_as_there_are_slots() {
    let mut scene = Scene::new();
    let first = scene.deliver(bundle(6), FIRST);
    let second = scene.deliver(bundle(3), FIRST);
    let surplus = scene.deliver(bundle(2), FIRST);
    let single = scene.deliver(bundle(1), FIRST);
    assert_eq!((scene.answers(&surplus), scene.answers(&single)), (vec!["-NAK".to_owned()], vec!["-NAK".to_owned()]));
    for index in 0..4 {
        end(&mut scene, index);
    }
    assert_eq!(scene.started.len(), 6, "all of the first have a slot or had one");
    let single = scene.deliver(bundle(1), FIRST);
    assert!(scene.answers(&single).is_empty(), "one message waits, and there are two slots");
    for index in 4..10 {
        end(&mut scene, index);
    }
    scene.store_outcomes();
    for ack in [first, second, single] {
        assert_eq!(scene.answers(&ack), ["+ACK"]);
    }
}

#[test]
fn whoever_waits_behind_long_runs_is_given_back() {
    let mut scene = Scene::new();
    let begun = scene.deliver(bundle(4), FIRST);
    let whole = scene.deliver(bundle(2), FIRST);
    scene.pass(ALMOST);
    assert!(scene.answers(&whole).is_empty());
    scene.pass(PATIENCE.saturating_sub(ALMOST));
    assert_eq!(scene.answers(&whole), ["-NAK"], "nothing of it was begun: somebody else gets it as it is");
    let told = scene.store_outcomes();
    let released = |result: &Option<Told>| matches!(result, Some(Told::Released(told)) if told.reason == i32::from(ReleaseReason::Drained) && told.never_started);
    assert_eq!(told.iter().filter(|outcome| released(&outcome.result)).count(), 2, "{told:?}");
    assert!(scene.answers(&begun).is_empty());
    end(&mut scene, 0);
    end(&mut scene, 1);
    scene.store_outcomes();
    assert_eq!((scene.answers(&begun), scene.started.len()), (vec!["+ACK".to_owned()], 2));
    scene.pass(seconds(1));
    assert_eq!(scene.started.len(), 2, "what was given back does not start");
}
