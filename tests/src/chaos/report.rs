//! The table, the JSON and whether every requirement was met.

use super::broker::Servers;
use super::rounds::Recovered;
use super::settings::Settings;
use super::verdict::{Complaint, FALSE_LOSS, Verdict};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

const TEXT: &str = "writing to text does not fail";
/// Complaints that the table shows; the JSON has all.
const SHOWN_MAX: usize = 20;

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// Of the run.
    pub settings: Settings,
    /// What became of the promises.
    pub verdict: Verdict,
    /// Each round.
    pub recovered: Vec<Recovered>,
    /// Executions that a database that went back had lost; they were submitted again under their keys.
    pub lost_with_database: usize,
    /// Processes that ended by themselves.
    pub exits: Vec<String>,
}

/// The rounds of one kind.
#[derive(Debug, Default)]
struct Figures {
    count: usize,
    watched: Vec<Duration>,
    bound: Duration,
}

impl Report {
    /// Whether every promise was kept and every bound held.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.complaints().is_empty()
    }

    /// What was broken, false losses apart.
    #[must_use]
    pub fn complaints_besides_false_losses(&self) -> Vec<Complaint> {
        self.complaints().into_iter().filter(|complaint| !complaint.starts_with(FALSE_LOSS)).collect()
    }

    /// `{"accepted", "ended", "lost", …, "faults": {KIND: {"count", "worst_recovery_s", "median_recovery_s", "bound_s"}}, "complaints": […]}`.
    #[must_use]
    pub fn json(&self) -> Value {
        let all = self.all();
        let faults: Map<String, Value> = self.by_kind().into_iter().map(|(kind, figures)| (kind, figures.json())).collect();
        let mut json = json!({
            "seed": self.settings.seed,
            "seconds": self.settings.duration.as_secs(),
            "servers": match self.settings.servers { Servers::One => "one", Servers::Cluster => "cluster" },
            "time_base_ms": self.settings.time_base.as_millis(),
            "worst_recovery_s": all.worst(),
            "median_recovery_s": all.median(),
            "faults": faults,
            "exits": self.exits,
            "complaints": self.complaints(),
            "passed": self.is_good(),
        });
        for (name, count) in self.counts() {
            json[name] = json!(count);
        }
        json
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = format!("{:<44}{:>6}{:>12}{:>12}{:>10}\n", "fault", "times", "worst s", "median s", "bound s");
        for (kind, figures) in self.by_kind() {
            let (worst, median, bound) = (shown(figures.worst()), shown(figures.median()), figures.bound.as_secs_f64());
            writeln!(table, "{kind:<44}{:>6}{worst:>12}{median:>12}{bound:>10.1}", figures.count).expect(TEXT);
        }
        let all = self.all();
        writeln!(table, "{:<44}{:>6}{:>12}{:>12}", "all", all.count, shown(all.worst()), shown(all.median())).expect(TEXT);
        for (name, count) in self.counts() {
            write!(table, "{name} {count}  ").expect(TEXT);
        }
        let complaints = self.complaints();
        complaints.iter().take(SHOWN_MAX).for_each(|one| write!(table, "\nBROKEN: {one}").expect(TEXT));
        write!(table, "\n{}", if complaints.is_empty() { "passed".to_owned() } else { format!("MISSED: {} complaints", complaints.len()) })
            .expect(TEXT);
        table
    }

    fn counts(&self) -> [(&'static str, usize); 9] {
        let verdict = &self.verdict;
        [
            ("accepted", verdict.accepted),
            ("ended", verdict.ended),
            ("lost", verdict.lost.len()),
            ("counted_twice", verdict.counted_twice.len()),
            ("stuck", verdict.stuck.len()),
            ("false_losses", verdict.false_losses.len()),
            ("started_twice", verdict.started_twice.len()),
            ("wrong", verdict.wrong.len()),
            ("lost_with_database", self.lost_with_database),
        ]
    }

    fn complaints(&self) -> Vec<Complaint> {
        let mut complaints = self.verdict.complaints();
        complaints.extend(self.recovered.iter().filter_map(|recovered| self.late(recovered)));
        complaints
    }

    fn late(&self, recovered: &Recovered) -> Option<Complaint> {
        let bound = self.bound(recovered);
        let when = format!("{:.1} s: {}", recovered.begun.as_secs_f64(), recovered.round);
        match recovered.recovery {
            None => Some(format!("at {when}: work did not run again")),
            Some(taken) if taken > bound => {
                Some(format!("at {when}: work ran again after {:.1} s, allowed are {:.1} s", taken.as_secs_f64(), bound.as_secs_f64()))
            }
            Some(_) => None,
        }
    }

    fn bound(&self, recovered: &Recovered) -> Duration {
        self.settings.bases(recovered.round.bound()) + self.settings.slack()
    }

    fn by_kind(&self) -> BTreeMap<String, Figures> {
        let mut by_kind: BTreeMap<String, Figures> = BTreeMap::new();
        for recovered in &self.recovered {
            let figures = by_kind.entry(recovered.round.kind()).or_default();
            figures.add(recovered.recovery);
            figures.bound = self.bound(recovered);
        }
        by_kind
    }

    fn all(&self) -> Figures {
        let mut all = Figures::default();
        self.recovered.iter().for_each(|recovered| all.add(recovered.recovery));
        all
    }
}

impl Figures {
    fn add(&mut self, recovery: Option<Duration>) {
        self.count += 1;
        self.watched.extend(recovery);
        self.watched.sort_unstable();
    }

    /// None where one did not recover, or there is none.
    fn worst(&self) -> Option<f64> {
        self.watched.last().filter(|_| self.watched.len() == self.count).map(Duration::as_secs_f64)
    }

    /// Of an even number, the mean of the two in the middle.
    fn median(&self) -> Option<f64> {
        let seconds = |place: usize| self.watched.get(place).map(Duration::as_secs_f64);
        Some(f64::midpoint(seconds(self.watched.len().checked_sub(1)? / 2)?, seconds(self.watched.len() / 2)?))
    }

    fn json(&self) -> Value {
        json!({
            "count": self.count,
            "worst_recovery_s": self.worst(),
            "median_recovery_s": self.median(),
            "bound_s": self.bound.as_secs_f64(),
        })
    }
}

fn shown(seconds: Option<f64>) -> String {
    seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.2}"))
}
