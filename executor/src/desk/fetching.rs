//! The desk with dispatches by reference, for tests: granted, then fetched in parts, then started.

use super::scene::{Delivered, FIRST, Scene, dispatch, seconds};
use bytes::Bytes;
use orchestr8_proto::reference::{INPUTS_BYTES_LARGEST, PART_BYTES, part, refer};
use orchestr8_proto::wire::dispatch::Kind;
use orchestr8_proto::wire::outcome::Result as Told;
use orchestr8_proto::wire::{ClaimBatch, Control, Dispatch, InputsAsk, InputsPart, Outcome, ReferenceKind, ReleaseReason, Verdict};

/// A dispatch of a little more than two parts, what it refers to, and what travels.
fn large() -> (Dispatch, Bytes, Dispatch) {
    let whole = Dispatch { prompt: "x".repeat(2 * PART_BYTES), ask_first: true, ..dispatch() };
    let (referring, inputs) = refer(whole.clone());
    (whole, inputs, referring)
}

fn asks(scene: &mut Scene) -> Vec<InputsAsk> {
    scene.take::<ClaimBatch>("orchestr8.claim.3").into_iter().flat_map(|(_, batch)| batch.inputs).collect()
}

fn serve(scene: &mut Scene, ask: &InputsAsk, inputs: &Bytes) {
    let part = part(inputs, ask.offset).expect("a part begins there");
    scene.control(Control { inputs: Some(InputsPart { run_id: ask.run_id.clone(), offset: ask.offset, part }), ..Control::default() });
}

/// Delivered and granted; the subject of its ack, and the first ask.
fn granted(scene: &mut Scene, referring: Dispatch) -> (String, InputsAsk) {
    let ack = scene.deliver(vec![referring], FIRST);
    let claim = scene.claims().remove(0);
    scene.verdict(&claim.run_id, Verdict::Granted);
    let mut asked = asks(scene);
    assert_eq!((asked.len(), scene.started.len()), (1, 0), "it is not started with nothing");
    (ack, asked.remove(0))
}

fn is_unstarted(outcomes: &[Outcome], reason: ReleaseReason) -> bool {
    matches!(outcomes, [Outcome { result: Some(Told::Released(told)), .. }] if told.reason == i32::from(reason) && told.never_started)
}

#[test]
fn a_granted_run_starts_with_all_of_its_inputs_and_is_listed_meanwhile() {
    let mut scene = Scene::new();
    let (whole, inputs, referring) = large();
    let (ack, first) = granted(&mut scene, referring);
    assert_eq!((first.offset, &first.outcome_token), (0, &whole.outcome_token));
    serve(&mut scene, &first, &inputs);
    let second = asks(&mut scene).remove(0);
    assert_eq!(second.offset, PART_BYTES as u64);
    scene.verdict(&first.run_id, Verdict::Granted);
    assert!(scene.started.is_empty() && asks(&mut scene).is_empty(), "granted again it goes on as before");
    scene.pass(seconds(3));
    let beats = scene.beats();
    let listed = &beats.last().expect("they go on").runs;
    assert_eq!((listed.len(), listed[0].started, &listed[0].run_id), (1, false, &first.run_id));
    let again = asks(&mut scene).remove(0);
    assert_eq!(again, second, "nobody answered");
    serve(&mut scene, &again, &inputs);
    serve(&mut scene, &again, &inputs);
    let third = asks(&mut scene).remove(0);
    serve(&mut scene, &third, &inputs);
    assert_eq!(scene.started.len(), 1);
    assert_eq!(scene.started[0].0.dispatch, whole);
    assert_eq!(scene.answers(&ack)[0], "+ACK?");
    serve(&mut scene, &third, &inputs);
    assert_eq!((scene.started.len(), asks(&mut scene).len()), (1, 0));
}

#[test]
fn who_does_not_hold_it_asks_for_nothing() {
    let mut scene = Scene::new();
    let (_, inputs, referring) = large();
    scene.deliver(vec![Dispatch { ask_first: false, ..referring }], FIRST);
    assert_eq!((scene.started.len(), asks(&mut scene).len()), (0, 0));
    scene.pass(seconds(3));
    let claim = scene.claims().remove(0);
    let part = part(&inputs, 0).expect("the first");
    scene.control(Control { inputs: Some(InputsPart { run_id: claim.run_id.clone(), offset: 0, part }), ..Control::default() });
    scene.verdict(&claim.run_id, Verdict::Refused);
    assert_eq!((scene.started.len(), asks(&mut scene).len(), scene.desk.runs.unended()), (0, 0, 0));
}

#[test]
fn what_ends_a_run_ends_its_fetching() {
    type End = fn(&mut Scene, &InputsAsk);
    let end: [(&str, End); 3] = [
        ("killed", |scene, ask| scene.verdict(&ask.run_id, Verdict::Kill)),
        ("refused", |scene, ask| scene.verdict(&ask.run_id, Verdict::Refused)),
        ("drained", |scene, _| {
            scene.desk.drain(scene.clock);
            scene.act();
        }),
    ];
    for (name, end) in end {
        let mut scene = Scene::new();
        let (_, inputs, referring) = large();
        let (_, ask) = granted(&mut scene, referring);
        end(&mut scene, &ask);
        let outcomes = scene.store_outcomes();
        serve(&mut scene, &ask, &inputs);
        scene.pass(seconds(30));
        assert_eq!((scene.started.len(), asks(&mut scene).len(), scene.desk.runs.unended()), (0, 0, 0), "{name}");
        assert!(is_unstarted(&outcomes, ReleaseReason::Drained) || name == "refused" && outcomes.is_empty(), "{name}: {outcomes:?}");
    }
}

#[test]
fn a_run_whose_inputs_nobody_serves_is_given_back_after_a_minute_with_a_connection() {
    let mut scene = Scene::new();
    let (_, inputs, referring) = large();
    let (_, ask) = granted(&mut scene, referring);
    scene.desk.disconnected();
    scene.pass(seconds(600));
    scene.desk.reconnected(scene.clock);
    scene.act();
    assert_eq!(asks(&mut scene), std::slice::from_ref(&ask), "asked at once on the new connection");
    for _ in 0..19 {
        scene.pass(seconds(3));
        assert_eq!(asks(&mut scene), std::slice::from_ref(&ask));
    }
    scene.pass(seconds(3));
    assert!(is_unstarted(&scene.store_outcomes(), ReleaseReason::Unsupported));
    serve(&mut scene, &ask, &inputs);
    assert_eq!((scene.started.len(), scene.desk.runs.unended(), asks(&mut scene).len()), (0, 0, 0));
}

#[test]
fn inputs_that_cannot_be_had_are_given_back() {
    let (_, inputs, referring) = large();
    let (_, others) = refer(Dispatch { prompt: "y".repeat(2 * PART_BYTES), ..dispatch() });
    let mut scene = Scene::new();
    let (_, ask) = granted(&mut scene, referring.clone());
    let mut asked = vec![ask];
    for _ in 0..6 {
        serve(&mut scene, &asked.remove(0), &others);
        asked = asks(&mut scene);
    }
    assert!(is_unstarted(&scene.store_outcomes(), ReleaseReason::Unsupported), "they were begun anew once");
    let (bytes, sha256) = (INPUTS_BYTES_LARGEST as u64 + 1, Bytes::from_static(&[0; 32]));
    let beyond = Dispatch { kind: Some(Kind::Reference(ReferenceKind { bytes, sha256 })), ..referring };
    let mut scene = Scene::new();
    scene.deliver(vec![beyond], Delivered { times: 2, ..FIRST });
    let claim = scene.claims().remove(0);
    scene.verdict(&claim.run_id, Verdict::Granted);
    assert!(asks(&mut scene).is_empty());
    assert!(is_unstarted(&scene.store_outcomes(), ReleaseReason::Unsupported));
    assert!(inputs.len() > 2 * PART_BYTES);
}
