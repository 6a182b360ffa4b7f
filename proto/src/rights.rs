//! What each login of a NATS server must be allowed, and why: no more than this.
//!
//! Rights alone do not keep an executor within its queues: where it may ask JetStream anything, it chooses the subject of the
//! answer, and the server publishes there with rights of its own, be that the subject that deletes a stream. So every login of
//! executors has an account of its own, into which these very subjects are imported: answers stay in it.

use crate::login::Login;
use crate::names::{self, OUTCOMES_STREAM, TASKS_STREAM};
use crate::words::Priority;

/// One subject that a login needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// The subject, perhaps with wildcards.
    pub subject: String,
    /// What it is for, as half a sentence.
    pub why: String,
}

/// All that a login needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// Subjects that it publishes to.
    pub publish: Vec<Right>,
    /// Subjects that it subscribes to.
    pub subscribe: Vec<Right>,
}

/// What the executors of a login need to serve `queues`; without a login their own subjects are not bound to anybody.
#[must_use]
pub fn of_executors(login: Option<&Login>, queues: &[String]) -> Rights {
    let consumers = || queues.iter().flat_map(|queue| Priority::ALL.iter().map(|priority| names::consumer_name(queue, *priority)));
    let mut publish: Vec<Right> =
        consumers().map(|consumer| right(names::next_subject(&consumer), format!("fetches tasks of {consumer}"))).collect();
    publish.extend(consumers().map(|consumer| right(names::ack_subjects(&consumer), format!("acknowledges and hands back {consumer}"))));
    let beats = login.map_or_else(|| names::BEAT_SUBJECTS.to_owned(), |login| names::beats_of_seat(login.seat()));
    let control = login.map_or_else(|| names::CONTROL_SUBJECTS.to_owned(), |login| names::control_of_seat(login.seat()));
    publish.extend([
        right(names::OUTCOME_SUBJECTS, "tells how runs ended; counts only with the token of its dispatch"),
        right(names::CLAIM_SUBJECTS, "asks to hold a task; counts only with the token of its dispatch"),
        right(beats, "tells what it runs, as itself alone"),
        right(names::OWN_RIGHTS, "asks at its start which rights it has"),
    ]);
    let subscribe = vec![
        right(inbox(login), "is answered, and gets the tasks it fetches"),
        right(control, "hears what is decided about its own runs"),
        right(names::CONTROL_ALL, "hears what concerns all executors"),
        right(names::COORDINATOR_BEATS, "hears that coordinators live"),
    ];
    Rights { publish, subscribe }
}

/// What coordinators need; they trust each other, and share a login.
#[must_use]
pub fn of_coordinators(login: Option<&Login>) -> Rights {
    let mut publish = vec![
        right(names::QUEUE_SUBJECTS, "publishes tasks"),
        right(names::OUTCOME_SUBJECTS, "tries whether outcomes can be stored"),
        right(names::CONTROL_SUBJECTS, "answers claims, confirms outcomes"),
        right(names::CONTROL_ALL, "tells all executors something"),
        right(names::COORDINATOR_BEATS, "tells executors that it lives"),
        right(names::NUDGES, "hints to other coordinators"),
        right(inbox(login), "answers a hint of another coordinator"),
    ];
    for stream in [TASKS_STREAM, OUTCOMES_STREAM] {
        for (action, why) in [("INFO", "looks at"), ("CREATE", "makes"), ("UPDATE", "adds replicas to"), ("DELETE", "makes anew")] {
            publish.push(right(format!("$JS.API.STREAM.{action}.{stream}"), format!("{why} the stream")));
        }
    }
    let of_outcomes = |action: &str| format!("$JS.API.{action}.{OUTCOMES_STREAM}");
    publish.extend([
        right(of_outcomes("STREAM.PURGE"), "removes outcomes that every shard has committed"),
        right(of_outcomes("STREAM.MSG.GET"), "looks for the last outcome of a shard"),
        right(format!("$JS.API.CONSUMER.CREATE.{TASKS_STREAM}.>"), "makes the consumers of queues"),
        right(format!("$JS.API.CONSUMER.INFO.{TASKS_STREAM}.*"), "counts what is queued"),
        right(of_outcomes("CONSUMER.CREATE"), "makes its reader of outcomes"),
        right(format!("{}.>", of_outcomes("CONSUMER.CREATE")), "makes its reader of outcomes"),
        right(format!("{}.*", of_outcomes("CONSUMER.INFO")), "asks how far its reader is"),
        right(format!("{}.*", of_outcomes("CONSUMER.MSG.NEXT")), "reads outcomes"),
        right(of_outcomes("CONSUMER.LIST"), "looks for readers that have not read everything"),
        right(names::ACCOUNT_INFO, "asks how much is stored, and may be"),
        right(names::OWN_RIGHTS, "asks at its start which rights it has"),
    ]);
    let subscribe = vec![
        right(inbox(login), "is answered"),
        right(names::CLAIM_SUBJECTS, "hears claims"),
        right(names::BEAT_SUBJECTS, "hears what executors run"),
        right(names::COORDINATOR_BEATS, "hears other coordinators"),
        right(names::NUDGES, "hears hints of other coordinators"),
        right(names::ADVISORIES, "hears that a stream or consumer was deleted"),
    ];
    Rights { publish, subscribe }
}

fn right(subject: impl Into<String>, why: impl Into<String>) -> Right {
    Right { subject: subject.into(), why: why.into() }
}

fn inbox(login: Option<&Login>) -> String {
    login.map_or_else(|| "_INBOX.>".to_owned(), |login| format!("{}.>", login.inbox_prefix()))
}

/// Whether a grant of `granted` reaches every subject of `needed`, wildcards and all.
#[must_use]
pub fn covers(granted: &str, needed: &str) -> bool {
    let mut needed = needed.split('.');
    for token in granted.split('.') {
        match (token, needed.next()) {
            (">", Some(_)) => return true,
            (_, None) | ("*", Some(">")) => return false,
            ("*", Some(_)) => {}
            (literal, Some(found)) if literal == found => {}
            (_, Some(_)) => return false,
        }
    }
    needed.next().is_none()
}

/// Whether one subject at least belongs to both.
#[must_use]
pub fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(left), Some(right)) if left == "*" || right == "*" || left == right => {}
            (None | Some(_), None | Some(_)) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;

    fn login(name: &str) -> Login {
        name.parse().expect("a name")
    }

    fn reaches(rights: &[Right], subject: &str) -> bool {
        rights.iter().any(|right| covers(&right.subject, subject))
    }

    #[test]
    fn a_grant_covers_what_lies_within_it() {
        for (granted, needed) in
            [("a.b", "a.b"), ("a.*", "a.b"), ("a.*", "a.*"), ("a.>", "a.*.c"), (">", "a"), ("a.>", "a.>"), ("*.>", "a.>")]
        {
            assert!(covers(granted, needed), "{granted} {needed}");
        }
        for (granted, needed) in
            [("a.b", "a.*"), ("a.*", "a.>"), ("a.*", "a.b.c"), ("a.>", "a"), ("a.b", "a"), ("a", "a.b"), ("a.*.c", "a.b.>")]
        {
            assert!(!covers(granted, needed), "{granted} {needed}");
        }
    }

    #[test]
    fn a_refusal_counts_where_it_touches_something() {
        assert!(overlap("a.*", "*.b") && overlap("a.>", "a.b.c") && overlap("a", "a") && overlap("a.b", "a.>"));
        assert!(!overlap("a.*", "b.*") && !overlap("a", "a.b") && !overlap("a.>", "b") && !overlap("a.>", "a"));
    }

    #[test]
    fn executors_reach_their_own_queues_and_themselves_alone() {
        let own = login("builders");
        let Rights { publish, subscribe } = of_executors(Some(&own), &["a".to_owned()]);
        let (me, other) = (own.incarnation(&mut rand::rng()), login("others").incarnation(&mut rand::rng()));
        for allowed in [names::next_subject("a-low"), names::outcome_subject(7), names::claim_subject(3), names::beat_subject(me)] {
            assert!(reaches(&publish, &allowed), "{allowed}");
        }
        let strange = [
            names::next_subject("b-low"),
            names::ack_subjects("b-low"),
            names::next_subject("*"),
            names::beat_subject(other),
            names::beat_subject(Incarnation::random()),
            names::task_subject("a", Priority::Normal),
            names::control_subject(me),
            names::NUDGES.to_owned(),
            names::COORDINATOR_BEATS.to_owned(),
            names::CONTROL_ALL.to_owned(),
            format!("$JS.API.STREAM.INFO.{TASKS_STREAM}"),
        ];
        for refused in strange {
            assert!(!reaches(&publish, &refused), "{refused}");
        }
        for refused in [names::OUTCOME_SUBJECTS, names::CLAIM_SUBJECTS, names::BEAT_SUBJECTS, names::CONTROL_SUBJECTS, "_INBOX.>", ">"] {
            assert!(!reaches(&subscribe, refused), "{refused}");
        }
        assert!(reaches(&subscribe, &names::control_subject(me)) && !reaches(&subscribe, &names::control_subject(other)));
    }

    #[test]
    fn what_one_side_says_the_other_hears() {
        let (executors, coordinators) = (of_executors(Some(&login("e")), &["a".to_owned()]), of_coordinators(Some(&login("c"))));
        for (said, heard) in [(&executors.publish, &coordinators.subscribe), (&coordinators.publish, &executors.subscribe)] {
            let ours = said.iter().filter(|right| right.subject.starts_with("orchestr8.") && !right.subject.contains(".task."));
            let both = ours.filter(|right| heard.iter().any(|other| overlap(&right.subject, &other.subject)));
            assert!(both.count() >= 2, "claims and beats, or control and beats");
        }
    }
}
