//! The desk as a whole: events in, effects out.

use super::scene::{Again, Delivered, FIRST, SECOND, Scene, completed, dispatch, killed, message, seconds};
use crate::settings::ExecutorSettings;
use crate::settings::tests::settings;
use bytes::Bytes;
use orchestr8_proto::ids::RunId;
use orchestr8_proto::wire::outcome::Result as Told;
use orchestr8_proto::wire::{ClaimKind, Control, Dispatch, DispatchBatch, Outcome, OutcomeBatch, ReleaseReason, RunVerdict, Verdict};
use std::time::Duration;

#[test]
fn a_short_task_starts_at_once_and_is_acked_when_its_outcome_is_stored() {
    let mut scene = Scene::new();
    let ack = scene.deliver(vec![dispatch()], FIRST);
    let run_id = scene.run_id(0);
    scene.end(run_id, completed());
    assert_eq!(scene.answers(&ack), Vec::<String>::new(), "not before it is stored");
    let outcomes = scene.store_outcomes();
    assert_eq!(outcomes[0].run_id, run_id.to_bytes());
    assert!(matches!(&outcomes[0].result, Some(Told::Completed(told)) if told.output_json == "1"));
    assert_eq!(scene.answers(&ack), ["+ACK"]);
    assert!(scene.claims().is_empty());
    scene.confirm(&run_id.to_bytes());
    assert_eq!(scene.desk.runs.unconfirmed(), (0, 0));
}

#[test]
fn doubt_asks_first_and_a_grant_starts_and_acks_with_confirmation() {
    for (delivered, dispatch, doubtful) in [
        (SECOND, dispatch(), true),
        (Delivered { again: Again::Yes, ..FIRST }, dispatch(), true),
        (FIRST, Dispatch { ask_first: true, ..dispatch() }, false),
    ] {
        let mut scene = Scene::new();
        let ack = scene.deliver(vec![dispatch], delivered);
        assert!(scene.started.is_empty());
        let claim = scene.claims().remove(0);
        assert_eq!((claim.kind, claim.doubtful, claim.running_for_us), (ClaimKind::Claim.into(), doubtful, 0));
        scene.verdict(&claim.run_id, Verdict::Current);
        assert!(scene.started.is_empty(), "`current` is no grant");
        scene.verdict(&claim.run_id, Verdict::Granted);
        assert_eq!(scene.started.len(), 1);
        assert_eq!(scene.answers(&ack), ["+ACK?"]);
        scene.pass(seconds(2));
        assert_eq!(scene.answers(&ack), ["+ACK?"], "repeated until the server confirms it");
        assert!(scene.claims().is_empty(), "a granted run does not ask again");
    }
}

#[test]
fn a_refused_dispatch_is_terminated_and_frees_its_slot_silently() {
    let mut scene = Scene::new();
    let ack = scene.deliver(vec![dispatch()], SECOND);
    let claim = scene.claims().remove(0);
    scene.verdict(&claim.run_id, Verdict::Refused);
    assert_eq!(scene.answers(&ack), ["+TERM"]);
    assert_eq!((scene.desk.runs.unended(), scene.started.len()), (0, 0));
    assert!(scene.store_outcomes().is_empty());
}

#[test]
fn a_stale_first_delivery_is_checked_and_claimed_later_as_usual() {
    let mut scene = Scene::new();
    scene.deliver(vec![dispatch()], Delivered { age: seconds(31), ..FIRST });
    let check = scene.claims().remove(0);
    assert_eq!(check.kind, i32::from(ClaimKind::Check));
    scene.verdict(&check.run_id, Verdict::Current);
    assert_eq!(scene.started.len(), 1);
    scene.pass(seconds(1));
    assert_eq!(scene.claims().remove(0).kind, i32::from(ClaimKind::Claim));
}

#[test]
fn a_long_run_is_claimed_and_asks_again_until_it_is_answered() {
    let mut scene = Scene::new();
    let ack = scene.deliver(vec![dispatch()], FIRST);
    scene.pass(Duration::from_millis(999));
    assert!(scene.claims().is_empty());
    scene.pass(Duration::from_millis(1));
    let claim = scene.claims().remove(0);
    assert_eq!(claim.running_for_us, 1_000_000);
    scene.pass(seconds(3));
    assert_eq!(scene.claims().len(), 1);
    scene.pass(seconds(3));
    assert_eq!(scene.claims().len(), 1);
    assert_eq!(scene.answers(&ack), ["+WPI"], "in progress while nobody answers");
    scene.verdict(&claim.run_id, Verdict::Granted);
    assert_eq!(scene.answers(&ack), ["+ACK?"]);
    scene.pass(seconds(6));
    assert!(!scene.answers(&ack).contains(&"+WPI".to_owned()), "the lease is the heartbeat's now");
}

#[test]
fn a_killed_run_is_ended_and_reported_a_refused_one_is_not() {
    for (verdict, reported) in [(Verdict::Kill, 1), (Verdict::Refused, 0)] {
        let mut scene = Scene::new();
        let ack = scene.deliver(vec![dispatch()], FIRST);
        let run_id = scene.run_id(0);
        scene.pass(seconds(1));
        scene.verdict(&run_id.to_bytes(), verdict);
        assert!(scene.started[0].1.is_cancelled());
        assert_eq!(scene.answers(&ack), ["+TERM"]);
        assert_eq!(scene.desk.runs.seated(), 1, "until it has ended");
        scene.end(run_id, killed());
        assert_eq!(scene.store_outcomes().len(), reported);
        assert_eq!((scene.desk.runs.unended(), scene.desk.runs.unconfirmed().0), (0, reported));
    }
}

#[test]
fn heartbeats_list_what_was_asked_for_until_it_is_confirmed() {
    let mut scene = Scene::new();
    scene.deliver(vec![dispatch()], FIRST);
    scene.deliver(vec![dispatch()], SECOND);
    scene.pass(seconds(3));
    let beat = scene.beats().pop().expect("one each interval");
    let mut started: Vec<bool> = beat.runs.iter().map(|run| run.started).collect();
    started.sort_unstable();
    assert_eq!((started, beat.slots_busy, beat.parts, beat.part), (vec![false, true], 2, 1, 1));
    let run_id = scene.run_id(0);
    scene.end(run_id, completed());
    scene.store_outcomes();
    scene.pass(seconds(3));
    assert_eq!(scene.beats().pop().expect("the next").runs.len(), 2, "stored is not confirmed");
    scene.confirm(&run_id.to_bytes());
    scene.control(Control { beat_now: true, ..Control::default() });
    scene.pass(Duration::from_millis(300));
    let beat = scene.beats().pop().expect("one at once");
    assert_eq!((beat.runs.len(), beat.sequence), (1, 4));
}

#[test]
fn a_bundle_waits_for_slots_and_is_acked_as_a_whole() {
    let mut scene = Scene::new();
    let ack = scene.deliver((0..3).map(|_| dispatch()).collect(), FIRST);
    assert_eq!(scene.started.len(), 2);
    let (first, second) = (scene.run_id(0), scene.run_id(1));
    scene.end(first, completed());
    assert_eq!(scene.started.len(), 3);
    scene.end(second, completed());
    scene.store_outcomes();
    scene.store_outcomes();
    assert_eq!(scene.answers(&ack), Vec::<String>::new());
    let third = scene.run_id(2);
    scene.end(third, completed());
    scene.store_outcomes();
    assert_eq!(scene.answers(&ack), ["+ACK"]);
}

#[test]
fn a_surplus_is_handed_back_at_once() {
    let mut scene = Scene::new();
    scene.deliver(vec![dispatch()], FIRST);
    scene.deliver(vec![dispatch()], FIRST);
    let surplus = scene.deliver(vec![dispatch()], FIRST);
    assert_eq!(scene.answers(&surplus), ["-NAK"]);
    assert_eq!(scene.started.len(), 2);
}

#[test]
fn a_redelivery_of_what_is_in_hand_starts_nothing() {
    let mut scene = Scene::new();
    let dispatch = dispatch();
    let before = scene.deliver(vec![dispatch.clone()], FIRST);
    let after = scene.deliver(vec![dispatch.clone()], SECOND);
    let run_id = scene.run_id(0);
    scene.end(run_id, completed());
    scene.store_outcomes();
    assert_eq!((scene.started.len(), scene.answers(&before), scene.answers(&after)), (1, vec![], vec!["+ACK".to_owned()]));
    let late = scene.deliver(vec![dispatch], SECOND);
    assert_eq!(scene.answers(&late), ["+ACK"], "its outcome is stored");
}

#[test]
fn what_cannot_be_run_is_given_back_and_what_cannot_be_read_is_terminated() {
    let mut scene = Scene::new();
    let kindless = scene.deliver(vec![Dispatch { kind: None, ..dispatch() }], FIRST);
    let newer = DispatchBatch { schema_version: 2, dispatches: vec![dispatch()] };
    scene.deliver_bytes(prost::Message::encode_to_vec(&newer).into(), FIRST);
    let garbage = scene.deliver_bytes(Bytes::from_static(b"\xff\xff"), FIRST);
    assert_eq!(scene.answers(&garbage), ["+TERM"]);
    let other_ids = Dispatch { task_id: Bytes::from_static(b"of tomorrow"), ..dispatch() };
    let other_ids = DispatchBatch { schema_version: 2, dispatches: vec![other_ids] };
    let tomorrow = scene.deliver_bytes(prost::Message::encode_to_vec(&other_ids).into(), FIRST);
    assert_eq!(scene.answers(&tomorrow), [r#"-NAK {"delay":15000000000}"#], "another executor may know it");
    let mut told = scene.store_outcomes();
    told.extend(scene.store_outcomes());
    let unsupported = |outcome: &Outcome| matches!(&outcome.result, Some(Told::Released(told)) if told.reason == i32::from(ReleaseReason::Unsupported) && told.never_started);
    assert!(told.len() == 2 && told.iter().all(unsupported), "{told:?}");
    assert_eq!(scene.answers(&kindless), ["+ACK"]);
}

#[test]
fn dropped_dispatches_are_not_started_for_a_while() {
    let mut scene = Scene::new();
    let dispatch = dispatch();
    scene.control(Control { dropped_dispatch_ids: vec![dispatch.dispatch_id.clone(), Bytes::from_static(b"no id")], ..Control::default() });
    let dropped = scene.deliver(vec![dispatch.clone()], FIRST);
    assert_eq!((scene.answers(&dropped), scene.started.len()), (vec!["+TERM".to_owned()], 0));
    scene.pass(seconds(30));
    scene.deliver(vec![dispatch], SECOND);
    assert_eq!(scene.claims().len(), 1, "forgotten: the owner decides");
}

#[test]
fn unconfirmed_outcomes_are_published_again_with_growing_waits() {
    let mut scene = Scene::new();
    scene.deliver(vec![dispatch()], FIRST);
    let run_id = scene.run_id(0);
    scene.end(run_id, completed());
    assert_eq!(scene.store_outcomes().len(), 1);
    for wait in [10, 20, 40] {
        scene.pass(seconds(wait - 1));
        assert_eq!(scene.store_outcomes().len(), 0, "before {wait} s");
        scene.pass(seconds(1));
        assert_eq!(scene.store_outcomes().len(), 1, "after {wait} s");
    }
}

#[test]
fn an_outcome_that_the_broker_refuses_is_kept_and_tried_again() {
    let mut scene = Scene::new();
    let ack = scene.deliver(vec![dispatch()], FIRST);
    let run_id = scene.run_id(0);
    scene.end(run_id, completed());
    for payload in [r#"{"error":{"code":503,"description":"maximum bytes exceeded"}}"#, "not json", "{}"] {
        let (publication, _) = scene.take::<OutcomeBatch>("orchestr8.outcome.3").remove(0);
        scene.desk.receive(message(&publication.reply.unwrap(), Bytes::from_static(payload.as_bytes())), scene.clock);
        assert_eq!(scene.answers(&ack), Vec::<String>::new(), "{payload}");
        scene.pass(Duration::from_millis(1_500));
    }
    assert_eq!(scene.store_outcomes().len(), 1);
    assert_eq!(scene.answers(&ack), ["+ACK"]);
}

#[test]
fn too_many_unconfirmed_outcomes_stop_the_fetching() {
    let mut scene = Scene::with(&ExecutorSettings { unconfirmed_max: 1, ..settings() });
    scene.deliver(vec![dispatch()], FIRST);
    assert_eq!(scene.desk.room(scene.clock.now), 1);
    let run_id = scene.run_id(0);
    scene.end(run_id, completed());
    assert_eq!(scene.desk.room(scene.clock.now), 0);
    scene.confirm(&run_id.to_bytes());
    assert_eq!(scene.desk.room(scene.clock.now), 2);
}

#[test]
fn silence_and_a_foreign_installation_stop_the_fetching() {
    let mut scene = Scene::new();
    scene.pass(seconds(11));
    assert_eq!(scene.desk.room(scene.clock.now), 0);
    scene.hear("installation");
    assert_eq!(scene.desk.room(scene.clock.now), 2);
    scene.hear("another");
    assert_eq!(scene.desk.room(scene.clock.now), 0);
    let handed_back = scene.deliver(vec![dispatch()], FIRST);
    assert_eq!(scene.answers(&handed_back), ["-NAK"]);
}

#[test]
fn a_new_connection_repeats_what_may_be_lost() {
    let mut scene = Scene::new();
    scene.deliver(vec![dispatch()], FIRST);
    let asking = scene.deliver(vec![dispatch()], SECOND);
    let run_id = scene.run_id(0);
    assert_eq!(scene.claims().len(), 1);
    scene.sent.clear();
    scene.desk.disconnected();
    scene.end(run_id, completed());
    assert!(scene.store_outcomes().is_empty(), "nothing is sent without a connection");
    scene.desk.reconnected(scene.clock);
    scene.act();
    assert_eq!(scene.claims().len(), 1);
    assert_eq!(scene.answers(&asking), ["+WPI"]);
    assert_eq!(scene.store_outcomes().len(), 1);
    let pulls = scene.sent.iter().filter(|sent| sent.subject.starts_with("$JS.API.CONSUMER.MSG.NEXT")).count();
    assert_eq!(pulls, 1, "the sweep starts over");
}

#[test]
fn an_outcome_under_way_is_sent_again_on_a_new_connection() {
    let mut scene = Scene::new();
    scene.deliver(vec![dispatch()], FIRST);
    let run_id = scene.run_id(0);
    scene.end(run_id, completed());
    scene.sent.clear();
    scene.desk.disconnected();
    scene.desk.reconnected(scene.clock);
    scene.act();
    assert_eq!(scene.store_outcomes().len(), 1);
}

#[test]
fn without_a_connection_nothing_is_sent() {
    let mut scene = Scene::new();
    scene.deliver(vec![dispatch()], FIRST);
    scene.sent.clear();
    scene.desk.disconnected();
    scene.pass(seconds(6));
    assert_eq!(scene.sent, vec![]);
}

#[test]
fn garbage_from_coordinators_changes_nothing() {
    let mut scene = Scene::new();
    scene.deliver(vec![dispatch()], FIRST);
    scene.desk.control(Bytes::from_static(b"\xff\xff"), scene.clock);
    scene.desk.hear(Bytes::from_static(b"\xff\xff"), scene.clock);
    let run_id = scene.run_id(0).to_bytes();
    let verdicts = [(Bytes::from_static(b"x"), 1), (run_id.clone(), 0), (run_id.clone(), 99), (RunId::random().to_bytes(), 3)];
    let verdicts = verdicts.into_iter().map(|(run_id, verdict)| RunVerdict { run_id, verdict, cancelled: false }).collect();
    scene.control(Control { verdicts, confirmed_run_ids: vec![run_id], ..Control::default() });
    scene.desk.receive(message("_INBOX.x.z.9", Bytes::new()), scene.clock);
    scene.desk.receive(message("orchestr8.task.default.normal", Bytes::new()), scene.clock);
    assert!(!scene.started[0].1.is_cancelled());
    assert_eq!(scene.desk.runs.seated(), 1);
}

#[test]
fn a_drain_gives_back_what_has_not_started() {
    let mut scene = Scene::new();
    let checking = scene.deliver(vec![dispatch()], Delivered { age: seconds(31), ..FIRST });
    scene.deliver(vec![dispatch()], SECOND);
    scene.desk.drain(scene.clock);
    scene.act();
    assert_eq!(scene.answers(&checking), ["-NAK"]);
    let released = scene.store_outcomes().remove(0);
    assert!(
        matches!(&released.result, Some(Told::Released(told)) if told.never_started && told.reason == i32::from(ReleaseReason::Drained))
    );
    assert!(!scene.desk.is_drained(scene.clock.now));
    let late = scene.deliver(vec![dispatch()], FIRST);
    assert_eq!(scene.answers(&late), ["-NAK"]);
    scene.confirm(&released.run_id);
    assert!(scene.desk.is_drained(scene.clock.now));
    scene.desk.say_farewell(scene.clock);
    scene.act();
    assert!(scene.beats().pop().expect("the last").last);
}

#[test]
fn a_drain_lets_runs_end_then_kills_them_and_waits_a_while_for_confirmations() {
    let mut scene = Scene::new();
    scene.deliver(vec![dispatch()], FIRST);
    assert!(scene.beats().is_empty(), "the first one went before");
    scene.desk.drain(scene.clock);
    scene.pass(seconds(29));
    assert!(!scene.started[0].1.is_cancelled());
    assert!(scene.beats().iter().all(|beat| beat.draining && !beat.last));
    scene.pass(seconds(1));
    assert!(scene.started[0].1.is_cancelled() && !scene.desk.is_drained(scene.clock.now));
    let run_id = scene.run_id(0);
    scene.end(run_id, killed());
    let told = scene.store_outcomes().remove(0).result;
    assert!(matches!(told, Some(Told::Released(told)) if !told.never_started));
    scene.pass(Duration::from_millis(1));
    scene.pass(seconds(9));
    assert!(!scene.desk.is_drained(scene.clock.now));
    scene.pass(seconds(1));
    assert!(scene.desk.is_drained(scene.clock.now));
}

#[test]
fn a_stalled_executor_asks_about_what_lay_in_its_socket() {
    // A message came at the first second of a stall and is read after it; all pulls were given up and sent again meanwhile.
    type WayBack = fn(&mut Scene);
    let ways_back: [WayBack; 2] = [|scene| scene.pass(Duration::ZERO), |scene| scene.desk.reconnected(scene.clock)];
    for way_back in ways_back {
        let mut scene = Scene::new();
        scene.stall(seconds(20));
        way_back(&mut scene);
        scene.park();
        scene.deliver(vec![dispatch()], Delivered { age: seconds(19), ..FIRST });
        assert_eq!((scene.started.len(), scene.claims().len()), (0, 1), "another executor may have had it since");
        scene.deliver(vec![dispatch()], FIRST);
        assert_eq!(scene.started.len(), 1, "what was just stored is fresh without any pull");
    }
}

#[test]
fn a_kill_that_is_repeated_changes_nothing() {
    let mut scene = Scene::new();
    let ack = scene.deliver(vec![dispatch()], FIRST);
    let run_id = scene.run_id(0);
    scene.pass(seconds(1));
    assert_eq!(scene.claims().len(), 1);
    for _ in 0..3 {
        scene.verdict(&run_id.to_bytes(), Verdict::Kill);
        scene.pass(seconds(3));
    }
    assert!(scene.claims().is_empty(), "what ends needs no grant");
    assert_eq!(scene.answers(&ack), ["+TERM"]);
    assert_eq!(scene.beats().pop().expect("one each interval").runs.len(), 1, "listed until it is confirmed");
    scene.end(run_id, killed());
    let outcomes = scene.store_outcomes();
    assert!(matches!(&outcomes[..], [Outcome { result: Some(Told::Failed(_)), .. }]), "{outcomes:?}");
    scene.verdict(&run_id.to_bytes(), Verdict::Kill);
    assert_eq!((scene.store_outcomes().len(), scene.desk.runs.unconfirmed().0), (0, 1));
    scene.confirm(&run_id.to_bytes());
    assert_eq!((scene.desk.runs.unconfirmed().0, scene.answers(&ack)), (0, vec![]));
}

#[test]
fn a_kill_before_the_start_gives_the_run_back_if_it_may_be_the_holder() {
    let mut scene = Scene::new();
    let asked = scene.deliver(vec![dispatch()], SECOND);
    let checked = scene.deliver(vec![dispatch()], Delivered { age: seconds(31), ..FIRST });
    let claims = scene.claims();
    let (claim, check) = (&claims[0].run_id, &scene.desk.runs.iter().find(|(id, _)| id.to_bytes() != claims[0].run_id).expect("two").0);
    scene.verdict(claim, Verdict::Kill);
    scene.verdict(&check.to_bytes(), Verdict::Kill);
    assert_eq!((scene.answers(&asked), scene.answers(&checked)), (vec!["+TERM".to_owned()], vec!["+TERM".to_owned()]));
    scene.verdict(claim, Verdict::Granted);
    assert_eq!((scene.started.len(), scene.desk.runs.unended()), (0, 0), "a grant that comes too late starts nothing");
    let outcomes = scene.store_outcomes();
    let [outcome] = &outcomes[..] else { panic!("only a holder is waited for: {outcomes:?}") };
    assert!(matches!(&outcome.result, Some(Told::Released(told)) if told.never_started) && outcome.run_id == claim, "{outcome:?}");
    scene.confirm(claim);
    assert_eq!(scene.desk.runs.unconfirmed(), (0, 0));
}

#[test]
fn a_kill_frees_the_slot_of_what_had_not_started() {
    let mut scene = Scene::with(&ExecutorSettings { slots: 1, ..settings() });
    scene.deliver(vec![dispatch(), dispatch()], SECOND);
    let first = scene.claims().remove(0).run_id;
    scene.verdict(&first, Verdict::Kill);
    assert_ne!(scene.claims().remove(0).run_id, first, "the next asks");
}

#[test]
fn a_kill_while_the_outcome_is_not_stored_leaves_the_outcome_as_it_is() {
    let mut scene = Scene::new();
    let ack = scene.deliver(vec![dispatch()], FIRST);
    let run_id = scene.run_id(0);
    scene.pass(seconds(1));
    scene.end(run_id, completed());
    scene.verdict(&run_id.to_bytes(), Verdict::Kill);
    assert_eq!(scene.answers(&ack), Vec::<String>::new(), "not before it is stored");
    let outcomes = scene.store_outcomes();
    assert!(matches!(&outcomes[..], [Outcome { result: Some(Told::Completed(_)), .. }]), "{outcomes:?}");
    assert_eq!(scene.answers(&ack), ["+ACK"]);
}

#[test]
fn a_kill_and_a_drain_report_a_run_once_as_its_owner_ended_it() {
    // The drain's time is up while the killed run puts things in order; and the other way round.
    for killed_first in [true, false] {
        let mut scene = Scene::new();
        scene.deliver(vec![dispatch()], FIRST);
        let run_id = scene.run_id(0);
        scene.pass(seconds(1));
        if killed_first {
            scene.verdict(&run_id.to_bytes(), Verdict::Kill);
        }
        scene.desk.drain(scene.clock);
        scene.pass(seconds(30));
        scene.verdict(&run_id.to_bytes(), Verdict::Kill);
        assert!(scene.started[0].1.is_cancelled() && !scene.desk.is_drained(scene.clock.now));
        scene.end(run_id, killed());
        let told = scene.store_outcomes().remove(0).result;
        assert_eq!(matches!(told, Some(Told::Failed(_))), killed_first, "{told:?}");
        assert!(!scene.desk.is_drained(scene.clock.now), "not confirmed");
        scene.confirm(&run_id.to_bytes());
        assert!(scene.desk.is_drained(scene.clock.now));
    }
}

#[test]
fn a_drain_publishes_again_what_nobody_confirmed() {
    // Stored, but its stream was deleted before its owner read it.
    let mut scene = Scene::new();
    scene.deliver(vec![dispatch()], FIRST);
    scene.end(scene.run_id(0), completed());
    assert_eq!(scene.store_outcomes().len(), 1);
    scene.desk.drain(scene.clock);
    scene.act();
    assert_eq!(scene.store_outcomes().len(), 1);
    scene.pass(seconds(2));
    assert_eq!(scene.store_outcomes().len(), 1, "and once more before the drain gives up");
}

#[test]
fn a_drain_ends_as_soon_as_its_short_tasks_have() {
    let mut scene = Scene::new();
    scene.deliver(vec![dispatch()], FIRST);
    scene.desk.drain(scene.clock);
    scene.pass(seconds(2));
    let run_id = scene.run_id(0);
    assert!(!scene.started[0].1.is_cancelled() && !scene.desk.is_drained(scene.clock.now));
    scene.end(run_id, completed());
    let told = scene.store_outcomes().remove(0).result;
    assert!(matches!(told, Some(Told::Completed(_))), "{told:?}");
    scene.confirm(&run_id.to_bytes());
    assert!(scene.desk.is_drained(scene.clock.now));
}
