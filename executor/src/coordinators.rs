//! What the beats of the coordinators tell: whether there are any, JetStream's clock, which streams these are. Pure.

use crate::clock::Clock;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::wire::CoordinatorBeat;
use std::time::{Duration, Instant};

/// The offset to JetStream's clock is the greatest of so long: a beat that lay unread in our socket shows a smaller one,
/// with which everything would look fresher than it is. A greater one than the true one only asks more often.
const OFFSET_KEPT: Duration = Duration::from_mins(5);

/// What a beat changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing new.
    Usual,
    /// The streams were created anew: everything that was stored there may be gone.
    NewStreams,
    /// It names no installation: no coordinator says that.
    Nameless,
    /// It comes from another installation; its first such beat in a row.
    Foreign,
    /// Another one from there.
    ForeignStill,
}

/// Everything heard so far.
#[derive(Debug)]
pub(crate) struct Coordinators {
    began_at: Instant,
    heard_at: Instant,
    foreign_at: Option<Instant>,
    installation: Option<String>,
    stream_incarnation: Option<String>,
    /// JetStream's clock minus this machine's, and when it was heard.
    offset_us: Option<(i64, Instant)>,
    /// The last base of protocol times that a beat told, in milliseconds.
    time_base_ms: u32,
}

impl Coordinators {
    /// Nothing heard yet; silence counts from now on.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            began_at: now,
            heard_at: now,
            foreign_at: None,
            installation: None,
            stream_incarnation: None,
            offset_us: None,
            time_base_ms: 0,
        }
    }

    /// Takes in one beat.
    pub(crate) fn hear(&mut self, beat: &CoordinatorBeat, clock: Clock) -> Heard {
        // It would become ours, and every real one foreign.
        if beat.installation.is_empty() {
            return Heard::Nameless;
        }
        if self.installation.get_or_insert_with(|| beat.installation.clone()) != &beat.installation {
            let first = self.foreign_at.is_none();
            self.foreign_at = Some(clock.now);
            return if first { Heard::Foreign } else { Heard::ForeignStill };
        }
        self.heard_at = clock.now;
        if beat.jetstream_now_us > 0 {
            let offset_us = beat.jetstream_now_us.saturating_sub(clock.wall_us);
            let kept = self.offset_us.filter(|(kept_us, at)| *kept_us > offset_us && clock.now < *at + OFFSET_KEPT);
            self.offset_us = kept.or(Some((offset_us, clock.now)));
        }
        if beat.stream_incarnation.is_empty() {
            return Heard::Usual;
        }
        match self.stream_incarnation.replace(beat.stream_incarnation.clone()) {
            Some(before) if before != beat.stream_incarnation => Heard::NewStreams,
            Some(_) | None => Heard::Usual,
        }
    }

    /// Another base of protocol times than `ours_ms`, in milliseconds, where this beat is the first in a row to tell it.
    pub(crate) fn other_time_base_ms(&mut self, beat: &CoordinatorBeat, ours_ms: u32) -> Option<u32> {
        let told_ms = beat.time_base_ms;
        let is_new = told_ms != 0 && std::mem::replace(&mut self.time_base_ms, told_ms) != told_ms;
        (is_new && told_ms != ours_ms).then_some(told_ms)
    }

    /// Whether tasks may be fetched: a coordinator was heard lately, and none of another installation. Who begins waits a moment for
    /// the first beat, which a coordinator sends as soon as it hears of a new executor: it says which queues are paused.
    pub(crate) fn allow_fetching(&mut self, now: Instant, times: &ProtocolTimes) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) <= times.coordinator_silence();
        self.foreign_at = self.foreign_at.filter(|at| recent(*at));
        let told = self.installation.is_some() || now.saturating_duration_since(self.began_at) >= times.base();
        told && self.foreign_at.is_none() && recent(self.heard_at)
    }

    /// Since when no coordinator was heard.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard_at)
    }

    /// Whether a coordinator of another installation beats on these servers.
    pub(crate) fn foreign(&self) -> bool {
        self.foreign_at.is_some()
    }

    /// The installation that this executor belongs to, once known.
    pub(crate) fn installation(&self) -> &str {
        self.installation.as_deref().unwrap_or("(not known yet)")
    }

    /// How long ago JetStream stored something; none while the offset to its clock is not known.
    pub(crate) fn since_stored(&self, stored_us: i64, clock: Clock) -> Option<Duration> {
        let age_us = clock.wall_us.saturating_add(self.offset_us?.0).saturating_sub(stored_us);
        Some(Duration::from_micros(u64::try_from(age_us).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(installation: &str, stream_incarnation: &str, jetstream_now_us: i64) -> CoordinatorBeat {
        CoordinatorBeat {
            schema_version: 1,
            coordinator: "c".into(),
            installation: installation.into(),
            jetstream_now_us,
            stream_incarnation: stream_incarnation.into(),
            executors: 0,
            executors_late: 0,
            paused: None,
            time_base_ms: 0,
        }
    }

    fn later(clock: Clock, seconds: u64) -> Clock {
        Clock { now: clock.now + Duration::from_secs(seconds), wall_us: clock.wall_us + i64::try_from(seconds).unwrap() * 1_000_000 }
    }

    #[test]
    fn a_beat_without_installation_is_nobodys() {
        let (times, start) = (ProtocolTimes::default(), Clock { now: Instant::now(), wall_us: 0 });
        let mut coordinators = Coordinators::new(start.now);
        assert_eq!(coordinators.hear(&beat("", "", 0), start), Heard::Nameless);
        assert_eq!(coordinators.hear(&beat("mine", "", 0), start), Heard::Usual);
        assert!(!coordinators.foreign() && coordinators.allow_fetching(later(start, 1).now, &times));
    }

    #[test]
    fn another_time_base_is_told_once() {
        let mut coordinators = Coordinators::new(Instant::now());
        let mut told = |time_base_ms| coordinators.other_time_base_ms(&CoordinatorBeat { time_base_ms, ..beat("i", "", 0) }, 1_000);
        let bases_ms = [0, 1_000, 2_000, 2_000, 0, 2_000, 1_000, 2_000];
        assert_eq!(bases_ms.map(&mut told), [None, None, Some(2_000), None, None, None, None, Some(2_000)]);
    }

    #[test]
    fn silence_ends_fetching_and_a_beat_starts_it_again() {
        let (times, start) = (ProtocolTimes::default(), Clock { now: Instant::now(), wall_us: 0 });
        let mut coordinators = Coordinators::new(start.now);
        assert!(coordinators.allow_fetching(later(start, 10).now, &times));
        assert!(!coordinators.allow_fetching(later(start, 11).now, &times));
        assert_eq!(coordinators.hear(&beat("i", "", 0), later(start, 12)), Heard::Usual);
        assert!(coordinators.allow_fetching(later(start, 13).now, &times));
    }

    #[test]
    fn who_begins_waits_a_moment_for_the_first_beat() {
        let (times, start) = (ProtocolTimes::default(), Clock { now: Instant::now(), wall_us: 0 });
        let mut coordinators = Coordinators::new(start.now);
        assert!(!coordinators.allow_fetching(start.now, &times) && coordinators.allow_fetching(later(start, 1).now, &times));
        assert_eq!(coordinators.hear(&beat("i", "", 0), start), Heard::Usual);
        assert!(coordinators.allow_fetching(start.now, &times));
    }

    #[test]
    fn another_installation_stops_fetching_until_it_is_gone() {
        let (times, start) = (ProtocolTimes::default(), Clock { now: Instant::now(), wall_us: 0 });
        let mut coordinators = Coordinators::new(start.now);
        coordinators.hear(&beat("mine", "", 0), start);
        assert_eq!(coordinators.hear(&beat("other", "x", 5), later(start, 1)), Heard::Foreign);
        assert_eq!(coordinators.hear(&beat("other", "x", 5), later(start, 2)), Heard::ForeignStill);
        coordinators.hear(&beat("mine", "", 0), later(start, 12));
        assert!(!coordinators.allow_fetching(later(start, 12).now, &times));
        assert!(coordinators.allow_fetching(later(start, 13).now, &times));
        assert_eq!((coordinators.installation(), coordinators.foreign()), ("mine", false));
        assert_eq!(coordinators.since_stored(0, start), None, "a foreign clock is not taken over");
    }

    #[test]
    fn ages_are_measured_on_the_clock_of_jetstream() {
        let start = Clock { now: Instant::now(), wall_us: 1_000_000_000 };
        let mut coordinators = Coordinators::new(start.now);
        assert_eq!(coordinators.since_stored(0, start), None);
        coordinators.hear(&beat("i", "a", 5_000_000_000), start);
        assert_eq!(coordinators.since_stored(4_999_000_000, later(start, 2)), Some(Duration::from_secs(3)));
        assert_eq!(coordinators.since_stored(9_000_000_000, start), Some(Duration::ZERO), "never negative");
    }

    #[test]
    fn a_beat_that_was_read_late_makes_nothing_look_fresher() {
        let start = Clock { now: Instant::now(), wall_us: 1_000_000_000 };
        let mut coordinators = Coordinators::new(start.now);
        coordinators.hear(&beat("i", "a", 1_000_000_000), start);
        coordinators.hear(&beat("i", "a", 1_003_000_000), later(start, 20));
        assert_eq!(coordinators.since_stored(1_001_000_000, later(start, 20)), Some(Duration::from_secs(19)));
        coordinators.hear(&beat("i", "a", 1_022_000_000), later(start, 21));
        assert_eq!(
            coordinators.since_stored(1_021_000_000, later(start, 21)),
            Some(Duration::from_secs(1)),
            "a greater one counts at once"
        );
        coordinators.hear(&beat("i", "a", 1_321_000_000), later(start, 321));
        assert_eq!(coordinators.since_stored(1_321_000_000, later(start, 321)), Some(Duration::ZERO), "the clock was put right long ago");
    }

    #[test]
    fn a_changed_incarnation_is_told_once() {
        let start = Clock { now: Instant::now(), wall_us: 0 };
        let mut coordinators = Coordinators::new(start.now);
        let heard: Vec<_> = ["", "a", "a", "", "b", "b"].iter().map(|name| coordinators.hear(&beat("i", name, 0), start)).collect();
        let expected = [Heard::Usual, Heard::Usual, Heard::Usual, Heard::Usual, Heard::NewStreams, Heard::Usual];
        assert_eq!(heard, expected);
    }
}
