//! The pulls of one executor, played through by hand.

use super::*;
use std::collections::HashSet;

const ROOM: usize = 5;

fn fetcher(queues: &[&str]) -> (Fetcher, Instant) {
    let queues: Vec<String> = queues.iter().map(|queue| (*queue).to_owned()).collect();
    (Fetcher::new(&queues, &ProtocolTimes::default()), Instant::now())
}

fn name(request: &PullRequest) -> &str {
    request.subject.rsplit('.').next().expect("a consumer")
}

/// Steps with empty answers until pulls are parked; the names asked in order, and the parked requests.
fn sweep_empty(fetcher: &mut Fetcher, now: Instant) -> (Vec<String>, Vec<PullRequest>) {
    let mut asked = Vec::new();
    loop {
        let requests = fetcher.step(ROOM, now);
        if requests.iter().any(|request| request.body.contains("expires")) || requests.is_empty() {
            return (asked, requests);
        }
        asked.push(name(&requests[0]).to_owned());
        fetcher.status(requests[0].ticket, PullStatus::Empty, now);
    }
}

#[test]
fn an_empty_sweep_asks_by_priority_and_then_parks_everywhere() {
    let (mut fetcher, now) = fetcher(&["a"]);
    let (asked, parked) = sweep_empty(&mut fetcher, now);
    assert_eq!(asked, ["a-critical", "a-high", "a-normal", "a-low"]);
    assert_eq!(parked.len(), 4);
    assert_eq!(parked[0].subject, "$JS.API.CONSUMER.MSG.NEXT.ORCHESTR8_TASKS.a-critical");
    assert_eq!(parked[0].body, r#"{"batch":1,"expires":30000000000,"idle_heartbeat":5000000000}"#);
    assert_eq!(fetcher.step(ROOM, now), vec![], "everything is parked");
}

#[test]
fn a_consumer_that_is_empty_again_is_parked_without_being_asked() {
    let (mut fetcher, now) = fetcher(&["a"]);
    sweep_empty(&mut fetcher, now);
    fetcher.delivered("a-normal", now);
    fetcher.emptied("a-normal", now);
    let requests = fetcher.step(ROOM, now);
    assert_eq!(requests.iter().map(name).collect::<Vec<_>>(), ["a-normal"]);
    assert!(requests[0].body.contains("expires"), "{requests:?}");
    // With more behind it the rest is asked for at once.
    fetcher.delivered("a-normal", now);
    let requests = fetcher.step(ROOM, now);
    assert!(requests.len() == 1 && requests[0].body.contains("no_wait"), "{requests:?}");
}

#[test]
fn queues_take_turns_within_a_priority() {
    let (mut fetcher, now) = fetcher(&["a", "b"]);
    let (first, _) = sweep_empty(&mut fetcher, now);
    fetcher.start_over(now);
    let (second, _) = sweep_empty(&mut fetcher, now);
    assert_eq!(first[..4], ["a-critical", "b-critical", "a-high", "b-high"]);
    assert_eq!(second[..4], ["b-critical", "a-critical", "b-high", "a-high"]);
}

#[test]
fn one_sweep_in_eight_starts_with_the_least_urgent() {
    let (mut fetcher, now) = fetcher(&["a"]);
    let firsts: Vec<String> = (0..REVERSED_EVERY)
        .map(|_| {
            let request = fetcher.step(1, now).remove(0);
            fetcher.delivered(name(&request), now);
            name(&request).to_owned()
        })
        .collect();
    assert_eq!(firsts.iter().filter(|first| *first == "a-critical").count(), 7);
    assert_eq!(firsts[7], "a-low");
}

#[test]
fn reversed_sweeps_begin_with_every_priority_below_the_most_urgent_and_with_every_queue() {
    let orders: Vec<Vec<usize>> = (0..4).map(|turn| (0..4).map(|place| reversed(place, turn).0).collect()).collect();
    assert_eq!(orders, [[3, 2, 1, 0], [2, 3, 1, 0], [1, 3, 2, 0], [3, 2, 1, 0]]);
    let (mut fetcher, _) = fetcher(&["a", "b"]);
    let mut firsts = Vec::new();
    for reversal in 0..6 {
        fetcher.turn = reversal * REVERSED_EVERY + REVERSED_EVERY - 1;
        firsts.push(fetcher.consumers[fetcher.place(0)].name.clone());
        let all: HashSet<usize> = (0..8).map(|position| fetcher.place(position)).collect();
        assert_eq!(all.len(), 8, "each is asked once");
    }
    assert_eq!(firsts, ["a-low", "a-normal", "a-high", "b-low", "b-normal", "b-high"]);
}

#[test]
fn under_load_nothing_is_parked_and_empty_consumers_are_passed_over() {
    let (mut fetcher, now) = fetcher(&["a"]);
    let mut asked = Vec::new();
    for _ in 0..6 {
        loop {
            let requests = fetcher.step(2, now);
            assert_eq!(requests.len(), 1, "{requests:?}");
            assert!(requests[0].body.contains("no_wait"), "{requests:?}");
            asked.push(name(&requests[0]).to_owned());
            if name(&requests[0]) == "a-normal" {
                (0..2).for_each(|_| assert!(fetcher.delivered("a-normal", now).is_some()));
                break;
            }
            fetcher.status(requests[0].ticket, PullStatus::Empty, now);
        }
    }
    assert_eq!(asked[..4], ["a-critical", "a-high", "a-normal", "a-normal"]);
    let later = fetcher.step(2, now + EMPTY_FOR);
    assert_eq!(name(&later[0]), "a-critical", "what was empty is looked at again");
}

#[test]
fn a_parked_pull_that_delivers_is_followed_by_a_request_for_all_slots() {
    let (mut fetcher, now) = fetcher(&["a"]);
    sweep_empty(&mut fetcher, now);
    assert_eq!(fetcher.delivered("a-high", now + Duration::from_secs(2)), Some(Duration::from_secs(2)));
    let requests = fetcher.step(ROOM - 1, now);
    assert_eq!((requests.len(), name(&requests[0])), (1, "a-high"));
    assert_eq!(requests[0].body, r#"{"batch":4,"no_wait":true}"#);
    fetcher.status(requests[0].ticket, PullStatus::Empty, now);
    let parked = fetcher.step(ROOM - 1, now);
    assert_eq!((parked.len(), name(&parked[0])), (1, "a-high"), "the others are still parked");
}

#[test]
fn without_room_or_while_an_answer_is_awaited_nothing_is_asked() {
    let (mut fetcher, now) = fetcher(&["a"]);
    assert_eq!(fetcher.step(0, now), vec![]);
    assert_eq!(fetcher.step(ROOM, now).len(), 1);
    assert!(fetcher.awaits_answer());
    assert_eq!(fetcher.step(ROOM, now), vec![]);
}

#[test]
fn a_missing_consumer_is_asked_again_after_a_second_or_a_coordinators_beat() {
    let (mut fetcher, now) = fetcher(&["a"]);
    for _ in 0..4 {
        let request = fetcher.step(ROOM, now).remove(0);
        fetcher.status(request.ticket, PullStatus::Unavailable, now);
    }
    assert_eq!(fetcher.unavailable().count(), 4);
    assert_eq!(fetcher.step(ROOM, now + Duration::from_millis(999)), vec![]);
    fetcher.retry_unavailable(now);
    assert_eq!(fetcher.step(ROOM, now).len(), 1);
}

#[test]
fn lost_pulls_are_noticed() {
    let (mut fetcher, now) = fetcher(&["a"]);
    let (_, parked) = sweep_empty(&mut fetcher, now);
    let alive = now + Duration::from_secs(10);
    fetcher.status(parked[0].ticket, PullStatus::Alive, alive);
    fetcher.notice_lost(now + Duration::from_secs(13));
    let again: Vec<_> = fetcher.step(ROOM, alive + Duration::from_secs(3));
    assert_eq!(name(&again[0]), "a-high", "the critical one is alive");
    fetcher.notice_lost(alive + Duration::from_secs(6));
    assert!(!fetcher.awaits_answer(), "a request without answer is given up");
    assert_eq!(fetcher.unavailable().collect::<Vec<_>>(), ["a-high"]);
}

#[test]
fn a_silent_consumer_does_not_hold_up_the_others() {
    let (mut fetcher, now) = fetcher(&["a"]);
    assert_eq!(name(&fetcher.step(ROOM, now)[0]), "a-critical");
    let later = now + Duration::from_millis(251);
    fetcher.notice_lost(later);
    assert_eq!(name(&fetcher.step(ROOM, later)[0]), "a-high");
    assert!(fetcher.delivered("a-critical", later).is_some(), "its late answer still counts");
}

#[test]
fn after_pulls_were_given_up_no_pull_tells_how_fresh_a_message_is_until_none_can_be_of_them() {
    let (mut fetcher, now) = fetcher(&["a"]);
    sweep_empty(&mut fetcher, now);
    fetcher.start_over(now + Duration::from_secs(20));
    // The parked pull is served for 30 s, and its last message is redelivered 15 s later.
    for (second, known) in [(21, None), (44, None), (45, Some(Duration::ZERO))] {
        let at = now + Duration::from_secs(second);
        let request = fetcher.step(1, at).remove(0);
        assert_eq!((name(&request), fetcher.delivered("a-critical", at)), ("a-critical", known), "second {second}");
    }
}

#[test]
fn old_and_foreign_statuses_change_nothing() {
    let (mut fetcher, now) = fetcher(&["a"]);
    let request = fetcher.step(ROOM, now).remove(0);
    fetcher.status(Ticket { consumer: 99, pull: 1 }, PullStatus::Empty, now);
    fetcher.status(Ticket { pull: request.ticket.pull + 1, ..request.ticket }, PullStatus::Unavailable, now);
    assert!(fetcher.awaits_answer());
    assert_eq!(fetcher.delivered("other-low", now), None);
}

#[test]
fn a_paused_queue_is_passed_over_and_the_others_are_not() {
    let (mut fetcher, now) = fetcher(&["a", "b"]);
    assert!(fetcher.pause(&["b".to_owned(), "elsewhere".to_owned()]) && !fetcher.pause(&["b".to_owned()]), "told once");
    assert_eq!((fetcher.paused(), fetcher.is_paused("b-low"), fetcher.is_paused("a-low")), (vec!["b"], true, false));
    let (asked, parked) = sweep_empty(&mut fetcher, now);
    assert_eq!(asked, ["a-critical", "a-high", "a-normal", "a-low"]);
    assert_eq!(parked.len(), 4);
    assert!(fetcher.pause(&[]));
    let (asked, parked) = sweep_empty(&mut fetcher, now);
    assert!(asked.iter().all(|name| name.starts_with("b-")) && parked.len() == 4, "{asked:?}: the others are parked already");
}
