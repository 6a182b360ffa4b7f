//! The table, the JSON and the requirements.

use super::figures::{Runs, Spread};
use super::meters::CountedBy;
use super::scale::Scale;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What is measured on both sides.
pub const NAMES: [&str; 11] = [
    "w1_single_tasks_per_s",
    "w1_batch_tasks_per_s",
    "one_task_p50_ms",
    "one_task_p99_ms",
    "w2_steps_per_s",
    "w2_step_p50_ms",
    "w3_total_ms",
    "idle_statements_per_s",
    "sleeping_statements_per_s",
    "statements_per_task",
    "wal_bytes_per_task",
];
/// Whose processor time is measured, of ours.
pub const PROCESSES: [&str; 5] = ["coordinator", "executor", "postgres", "nats_server", "client"];
/// What the ratios to the floor must reach; machines differ too much for absolute figures.
const REQUIREMENTS: [(&str, Bound); 7] = [
    ("w1_single_tasks_per_s", Bound::AtLeast(0.33)),
    ("w1_batch_tasks_per_s", Bound::AtLeast(0.45)),
    ("one_task_p50_ms", Bound::AtMost(1.7)),
    ("one_task_p99_ms", Bound::AtMost(3.0)),
    ("w2_steps_per_s", Bound::AtLeast(0.37)),
    ("w2_step_p50_ms", Bound::AtMost(1.5)),
    ("w3_total_ms", Bound::AtMost(4.0)),
];
/// What the ratios to a peer must reach, where it is measured in the same run.
const PEER_REQUIREMENTS: [(&str, &str, Bound); 4] = [
    ("bullmq", "w1_single_tasks_per_s", Bound::AtLeast(1.7)),
    ("bullmq", "w1_batch_tasks_per_s", Bound::AtLeast(1.2)),
    ("bullmq", "one_task_p50_ms", Bound::AtMost(1.0)),
    ("restate", "w2_steps_per_s", Bound::AtLeast(1.9)),
];

const TEXT: &str = "writing to text does not fail";

/// Of a ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// What was measured.
#[derive(Debug)]
pub struct Report {
    ours: BTreeMap<String, Spread>,
    floor: BTreeMap<String, Spread>,
    peers: BTreeMap<String, BTreeMap<String, Spread>>,
    runs: usize,
    tasks: usize,
    counted_by: CountedBy,
}

impl Report {
    /// Of all runs.
    #[must_use]
    pub fn new(runs: &Runs, scale: &Scale, counted_by: CountedBy) -> Self {
        Self { ours: runs.ours(), floor: runs.floor(), peers: runs.peers(), runs: scale.runs, tasks: scale.tasks, counted_by }
    }

    /// Whether every requirement is met; one that was not measured is not, unless it is about a peer.
    #[must_use]
    pub fn passed(&self) -> bool {
        REQUIREMENTS.iter().all(|(name, bound)| self.ratio(name).is_some_and(|ratio| bound.holds(ratio)))
            && self.beside_peers().all(|(.., bound, ratio)| bound.holds(ratio))
    }

    /// `{"NAME": {"median", "min", "max"}, …, "floor": {the same names}, "ratio": {"NAME": median to median}, "requirements": […],
    /// "peers": {"PEER": {the same names}}, "peer_ratio": {"PEER": {"NAME": ours to the peer's}}}`.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut json = nested(&self.ours);
        json.insert("floor".to_owned(), Value::Object(nested(&self.floor)));
        let ratios = self.ours.keys().filter_map(|name| Some((name.clone(), json!(rounded(self.ratio(name)?))))).collect();
        json.insert("ratio".to_owned(), Value::Object(ratios));
        json.insert("requirements".to_owned(), REQUIREMENTS.iter().map(|(name, bound)| self.requirement(name, *bound)).collect());
        let peers = self.peers.iter().map(|(peer, figures)| (peer.clone(), Value::Object(nested(figures)))).collect();
        json.insert("peers".to_owned(), Value::Object(peers));
        let ratios = self.peers.iter().map(|(peer, figures)| (peer.clone(), Value::Object(to_peer(&self.ours, figures)))).collect();
        json.insert("peer_ratio".to_owned(), Value::Object(ratios));
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        json.insert(
            "conditions".to_owned(),
            json!({"runs": self.runs, "w1_tasks": self.tasks, "cores": cores, "statements_counted_by": self.counted_by.word()}),
        );
        Value::Object(json)
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = format!("{:<34}{:>12}{:>26}{:>12}{:>9}\n", "median of each", "ours", "(min .. max)", "floor", "ratio");
        for (name, ours) in &self.ours {
            let spread = format!("({} .. {})", short(ours.min), short(ours.max));
            let floor = self.floor.get(name).map_or("-".to_owned(), |floor| short(floor.median));
            let ratio = self.ratio(name).map_or("-".to_owned(), |ratio| format!("{ratio:.3}"));
            let median = short(ours.median);
            writeln!(table, "{name:<34}{median:>12}{spread:>26}{floor:>12}{ratio:>9}").expect(TEXT);
        }
        for (name, floor) in self.floor.iter().filter(|(name, _)| !self.ours.contains_key(*name)) {
            writeln!(table, "{name:<34}{:>12}{:>26}{:>12}{:>9}", "-", "", short(floor.median), "-").expect(TEXT);
        }
        for (name, bound) in REQUIREMENTS {
            let verdict = match self.ratio(name) {
                Some(ratio) if bound.holds(ratio) => "passed",
                Some(_) | None => "MISSED",
            };
            writeln!(table, "{verdict}: {name} {} the floor's", bound.words()).expect(TEXT);
        }
        for (peer, figures) in &self.peers {
            for (name, ratio) in to_peer(&self.ours, figures) {
                writeln!(table, "{:<34}{:>50}{:>9}", format!("{name} to {peer}'s"), short(figures[&name].median), ratio.to_string())
                    .expect(TEXT);
            }
        }
        for (peer, name, bound, ratio) in self.beside_peers() {
            let verdict = if bound.holds(ratio) { "passed" } else { "MISSED" };
            writeln!(table, "{verdict}: {name} {} {peer}'s", bound.words()).expect(TEXT);
        }
        write!(table, "{} runs; statements counted by {}", self.runs, self.counted_by.word()).expect(TEXT);
        table
    }

    /// Ours to the floor's, medians; none where the floor's is zero.
    fn ratio(&self, name: &str) -> Option<f64> {
        let (ours, floor) = (self.ours.get(name)?.median, self.floor.get(name)?.median);
        (floor > 0.0).then(|| ours / floor)
    }

    /// The requirements about peers that were measured, with their ratios.
    fn beside_peers(&self) -> impl Iterator<Item = (&'static str, &'static str, Bound, f64)> {
        PEER_REQUIREMENTS.into_iter().filter_map(|(peer, name, bound)| {
            let other = self.peers.get(peer)?.get(name)?.median;
            Some((peer, name, bound, self.ours.get(name)?.median / other))
        })
    }

    fn requirement(&self, name: &str, bound: Bound) -> Value {
        let ratio = self.ratio(name);
        json!({"name": name, "must_be": bound.words(), "ratio": ratio.map(rounded), "passed": ratio.is_some_and(|ratio| bound.holds(ratio))})
    }
}

impl Bound {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(bound) => ratio >= bound,
            Self::AtMost(bound) => ratio <= bound,
        }
    }

    fn words(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("at least {bound} of"),
            Self::AtMost(bound) => format!("at most {bound} times"),
        }
    }
}

/// Ours to another's, medians, of what both have.
fn to_peer(ours: &BTreeMap<String, Spread>, others: &BTreeMap<String, Spread>) -> Map<String, Value> {
    let ratio = |(name, other): (&String, &Spread)| Some((name.clone(), json!(rounded(ours.get(name)?.median / other.median))));
    others.iter().filter(|(_, other)| other.median > 0.0).filter_map(ratio).collect()
}

/// `a.b` becomes `{"a": {"b": …}}`.
fn nested(figures: &BTreeMap<String, Spread>) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, spread) in figures {
        match name.split_once('.') {
            None => drop(object.insert(name.clone(), spread.json())),
            Some((outer, inner)) => {
                let within = object.entry(outer).or_insert_with(|| json!({}));
                within[inner] = spread.json();
            }
        }
    }
    object
}

fn rounded(ratio: f64) -> f64 {
    (ratio * 10_000.0).round() / 10_000.0
}

fn short(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::super::figures::Figures;
    use super::*;

    /// Every required figure is 100, but for these two.
    fn side(single: f64, p50: f64) -> Figures {
        let mut figures: Figures = REQUIREMENTS.into_iter().map(|(name, _)| (name.to_owned(), 100.0)).collect();
        figures.insert("w1_single_tasks_per_s".to_owned(), single);
        figures.insert("one_task_p50_ms".to_owned(), p50);
        figures.insert("cpu_us_per_task.postgres".to_owned(), 7.0);
        figures
    }

    fn report(single: f64, p50: f64) -> Report {
        let mut runs = Runs::default();
        runs.push(side(single, p50), side(10_000.0, 2.0));
        Report::new(&runs, &Scale::quick(), CountedBy::Transactions)
    }

    #[test]
    fn a_requirement_is_a_ratio_to_the_floor() {
        assert!(report(3_300.0, 3.4).passed(), "just so");
        assert!(!report(3_299.0, 3.4).passed() && !report(3_300.0, 3.5).passed());
        assert!(report(3_299.0, 3.4).table().contains("MISSED: w1_single_tasks_per_s at least 0.33 of the floor's"));
        for (missed, bound) in REQUIREMENTS {
            let mut ours = side(3_300.0, 3.4);
            ours.insert(missed.to_owned(), if matches!(bound, Bound::AtLeast(_)) { 1.0 } else { 1_000.0 });
            let mut runs = Runs::default();
            runs.push(ours, side(10_000.0, 2.0));
            assert!(!Report::new(&runs, &Scale::quick(), CountedBy::Transactions).passed(), "{missed}");
        }
        let nothing = Report::new(&Runs::default(), &Scale::quick(), CountedBy::Statements);
        assert!(!nothing.passed(), "what was not measured is not met");
    }

    #[test]
    fn a_peer_is_shown_with_its_ratio() {
        let mut runs = Runs::default();
        runs.push(Figures::from([("w3_total_ms".to_owned(), 80.0)]), Figures::new());
        runs.push_peer("bullmq", Figures::from([("w3_total_ms".to_owned(), 320.0), ("unknown".to_owned(), 1.0)]));
        let report = Report::new(&runs, &Scale::quick(), CountedBy::Transactions);
        assert_eq!(report.json()["peer_ratio"], json!({"bullmq": {"w3_total_ms": 0.25}}));
        assert_eq!(report.json()["peers"]["bullmq"]["w3_total_ms"]["median"], 320.0);
        assert!(report.table().contains("w3_total_ms to bullmq's"), "{}", report.table());
    }

    #[test]
    fn a_requirement_about_a_peer_counts_where_the_peer_was_measured() {
        let beside = |peer: &str, single: f64| {
            let mut runs = Runs::default();
            runs.push(side(3_400.0, 3.0), side(10_000.0, 2.0));
            let of_peer = [("w1_single_tasks_per_s".to_owned(), single), ("one_task_p50_ms".to_owned(), 6.0)];
            runs.push_peer(peer, Figures::from(of_peer));
            Report::new(&runs, &Scale::quick(), CountedBy::Transactions)
        };
        assert!(beside("bullmq", 2_000.0).passed() && beside("restate", 3_000.0).passed());
        assert!(!beside("bullmq", 2_010.0).passed());
        assert!(beside("bullmq", 2_010.0).table().contains("MISSED: w1_single_tasks_per_s at least 1.7 of bullmq's"));
    }

    #[test]
    fn the_json_nests_what_is_by_process() {
        let json = report(3_400.0, 3.0).json();
        assert_eq!(json["cpu_us_per_task"]["postgres"], json!({"median": 7.0, "min": 7.0, "max": 7.0}));
        assert_eq!(json["floor"]["one_task_p50_ms"]["median"], 2.0);
        assert_eq!(json["ratio"]["w1_single_tasks_per_s"], 0.34);
        assert_eq!(json["requirements"][2]["passed"], true);
    }
}
