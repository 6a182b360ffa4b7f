//! Executors that have fallen silent, as `why`, `doctor` and the list of executors tell it: since when, until when their runs are
//! waited for, and who has taken their place.

use crate::engine::handle::{ExecutorSilence, ExecutorView};
use orchestr8_proto::ids::Incarnation;
use orchestr8_proto::times::ProtocolTimes;
use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;
use uuid::Uuid;

/// Who holds a run, as its row says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder<'a> {
    pub name: &'a str,
    pub incarnation: Incarnation,
}

/// An executor that is not heard.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Silent {
    executor_id: String,
    incarnation: Uuid,
    /// None: this coordinator began to listen after its last heartbeat.
    #[serde(rename = "silent_for_s", serialize_with = "seconds_or_null")]
    pub lasts: Option<Duration>,
    /// For how long its runs are waited for, about; none: at most for a lease.
    #[serde(rename = "lost_in_s", serialize_with = "seconds_or_null")]
    left: Option<Duration>,
    /// More than half of the executors fell silent together: it is waited for for longer than a lease.
    pub held_back: bool,
    /// The newer incarnation that has its name.
    pub replaced_by: Option<Uuid>,
    #[serde(skip)]
    lease: Duration,
}

impl Silent {
    /// What is known of a holder that is not heard; none: it is heard.
    pub(super) fn holder(holder: Holder<'_>, executors: &[ExecutorView], times: ProtocolTimes) -> Option<Self> {
        if let Some(known) = executors.iter().find(|executor| executor.incarnation == holder.incarnation) {
            return Self::executor(known, times);
        }
        // Whoever is heard was heard after it.
        let is_newer = |executor: &&ExecutorView| {
            executor.silence.is_none() && executor.name == holder.name && executor.incarnation.seat() == holder.incarnation.seat()
        };
        Some(Self {
            executor_id: holder.name.to_owned(),
            incarnation: holder.incarnation.0,
            lasts: None,
            left: None,
            held_back: false,
            replaced_by: executors.iter().find(is_newer).map(|executor| executor.incarnation.0),
            lease: times.run_lease(),
        })
    }

    /// What is known of an executor that has fallen silent; none: it is heard.
    pub(super) fn executor(executor: &ExecutorView, times: ProtocolTimes) -> Option<Self> {
        let ExecutorSilence { lasts, standing } = executor.silence?;
        let patience = if standing.held_back { times.mass_silence_hold() } else { Duration::ZERO };
        Some(Self {
            executor_id: executor.name.clone(),
            incarnation: executor.incarnation.0,
            lasts: Some(lasts),
            left: Some((times.run_lease() + patience).saturating_sub(lasts)),
            held_back: standing.held_back,
            replaced_by: standing.replaced_by.map(|incarnation| incarnation.0),
            lease: times.run_lease(),
        })
    }

    /// The part of a sentence that says who it is and since when, and who is there instead.
    pub(super) fn who(&self) -> String {
        let Self { executor_id, incarnation, replaced_by, .. } = self;
        let since = match self.lasts {
            Some(lasts) => format!("has been silent for {:.1} s", lasts.as_secs_f64()),
            None => "has not been heard since this coordinator listens".to_owned(),
        };
        let newer = replaced_by.map(|newer| format!(", and a newer `{executor_id}` (incarnation {newer}) has taken its place"));
        format!("`{executor_id}` (incarnation {incarnation}) {since}{}", newer.unwrap_or_default())
    }
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = self.who();
        match self.left.map(|left| left.as_secs_f64()) {
            None => write!(f, "{who}; its lease ends within {} s", self.lease.as_secs_f64()),
            Some(left_s) if self.held_back => {
                write!(
                    f,
                    "{who}; more than half of the executors fell silent together, so its losses are held back for about {left_s:.1} s"
                )
            }
            Some(left_s) if left_s > 0.0 => write!(f, "{who}; its lease ends in about {left_s:.1} s"),
            Some(_) => write!(f, "{who}; its lease ends now"),
        }
    }
}

#[allow(clippy::ref_option, reason = "serde passes a reference to the field")]
fn seconds_or_null<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use orchestr8_core::leases::Standing;
    use serde_json::json;
    use time::macros::datetime;

    /// The number of an executor named `e1` of login 7.
    pub(in crate::api) fn executor(number: u64) -> ExecutorView {
        ExecutorView {
            name: "e1".into(),
            incarnation: incarnation(number),
            version: "1".into(),
            queues: vec!["gpu".into()],
            handlers: vec!["train".into()],
            slots: 4,
            slots_busy: 1,
            draining: false,
            cordoned: false,
            log_filter: String::new(),
            seen_at: datetime!(2026-01-31 12:00 UTC),
            silence: None,
        }
    }

    pub(in crate::api) fn incarnation(number: u64) -> Incarnation {
        Incarnation(Uuid::from_u64_pair(7, number))
    }

    pub(in crate::api) fn silent_for(lasts_ms: u64, standing: Standing, executor: ExecutorView) -> ExecutorView {
        ExecutorView { silence: Some(ExecutorSilence { lasts: Duration::from_millis(lasts_ms), standing }), ..executor }
    }

    fn said(executors: &[ExecutorView]) -> Option<String> {
        let holder = Holder { name: "e1", incarnation: incarnation(1) };
        Silent::holder(holder, executors, ProtocolTimes::default()).map(|silent| silent.to_string())
    }

    #[test]
    fn a_silent_holder_is_told_with_its_times_and_who_replaced_it() {
        assert_eq!(said(&[executor(1)]), None);
        let who = format!("`e1` (incarnation {})", incarnation(1));
        let alone = silent_for(8_200, Standing::default(), executor(1));
        assert_eq!(said(&[alone]), Some(format!("{who} has been silent for 8.2 s; its lease ends in about 6.8 s")));
        let newer = format!("and a newer `e1` (incarnation {}) has taken its place", incarnation(2));
        let replaced = Standing { held_back: false, replaced_by: Some(incarnation(2)) };
        let replaced = silent_for(16_000, replaced, executor(1));
        assert_eq!(said(&[executor(2), replaced]), Some(format!("{who} has been silent for 16.0 s, {newer}; its lease ends now")));
        let held = silent_for(20_000, Standing { held_back: true, replaced_by: None }, executor(1));
        assert!(said(std::slice::from_ref(&held)).expect("silent").ends_with("so its losses are held back for about 55.0 s"));
        let shown = json!(Silent::executor(&held, ProtocolTimes::default()));
        let expected = json!({"executor_id": "e1", "incarnation": incarnation(1), "silent_for_s": 20.0, "lost_in_s": 55.0, "held_back": true, "replaced_by": null});
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_holder_that_was_never_heard_is_not_that_of_its_name() {
        let who = format!("`e1` (incarnation {}) has not been heard since this coordinator listens", incarnation(1));
        assert_eq!(said(&[]), Some(format!("{who}; its lease ends within 15 s")));
        let newer = format!("{who}, and a newer `e1` (incarnation {}) has taken its place; its lease ends within 15 s", incarnation(2));
        assert_eq!(said(&[executor(2)]), Some(newer));
        let of_another_login = ExecutorView { incarnation: Incarnation(Uuid::from_u64_pair(8, 2)), ..executor(2) };
        let strangers =
            [of_another_login, silent_for(9_000, Standing::default(), executor(3)), ExecutorView { name: "e2".into(), ..executor(4) }];
        assert!(!said(&strangers).expect("not heard").contains("newer"));
    }
}
