//! What `make bench-flat` found: a table, JSON, and whether the requirements are met.

use serde_json::{Value, json};
use std::fmt::Write as _;

const TEXT: &str = "writing to text does not fail";

/// What belongs together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// From few rows in the tables to many.
    Rows,
    /// From few tasks in one execution to many.
    Width,
    /// From a small fan-out to a large one.
    Fan,
    /// From one execution alive to many.
    Alive,
    /// A large execution is read again.
    Reload,
    /// Claimed tasks that sleep.
    Quiet,
    /// The memory of a long queue.
    Queued,
    /// The latency of submissions at a fixed rate.
    Submission,
    /// From one executor to eight.
    Executors,
    /// How fast commands are started.
    Commands,
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Where it belongs.
    pub section: Section,
    /// With its unit at the end.
    pub name: String,
    /// What was measured.
    pub value: f64,
    /// What it must be, if anything is required.
    pub bound: Option<Bound>,
}

/// Of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

/// All figures.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

impl Section {
    /// In the order in which they are measured.
    pub const ALL: [Self; 10] = [
        Self::Rows,
        Self::Width,
        Self::Fan,
        Self::Alive,
        Self::Reload,
        Self::Quiet,
        Self::Queued,
        Self::Submission,
        Self::Executors,
        Self::Commands,
    ];

    /// In tables, JSON and the environment.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Width => "width",
            Self::Fan => "fan",
            Self::Alive => "alive",
            Self::Reload => "reload",
            Self::Quiet => "quiet",
            Self::Queued => "queued",
            Self::Submission => "submission",
            Self::Executors => "executors",
            Self::Commands => "commands",
        }
    }

    /// A figure of this section that is only shown.
    #[must_use]
    pub fn shown(self, name: impl Into<String>, value: f64) -> Figure {
        Figure { section: self, name: name.into(), value, bound: None }
    }

    /// A figure of this section with a requirement.
    #[must_use]
    pub fn required(self, name: impl Into<String>, value: f64, bound: Bound) -> Figure {
        Figure { bound: Some(bound), ..self.shown(name, value) }
    }
}

impl Figure {
    /// Whether its requirement, if it has one, is met.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.bound.is_none_or(|bound| bound.holds(self.value))
    }

    fn verdict(&self) -> String {
        match self.bound {
            None => String::new(),
            Some(bound) => format!("{}: {}", if self.passed() { "passed" } else { "MISSED" }, bound.words()),
        }
    }

    fn json(&self) -> Value {
        let value = (self.value * 1_000.0).round() / 1_000.0;
        let mut json = json!({"section": self.section.word(), "name": self.name, "value": value});
        if let Some(bound) = self.bound {
            json["must_be"] = bound.words().into();
            json["passed"] = self.passed().into();
        }
        json
    }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn words(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("at least {bound}"),
            Self::AtMost(bound) => format!("at most {bound}"),
        }
    }
}

impl Report {
    /// Adds what a section found.
    pub fn extend(&mut self, figures: Vec<Figure>) {
        self.figures.extend(figures);
    }

    /// Whether every requirement among the figures is met, and there is one at all.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.figures.iter().any(|figure| figure.bound.is_some()) && self.figures.iter().all(Figure::passed)
    }

    /// The figures, in the order of their measurement.
    #[must_use]
    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }

    /// `{"figures": [{"section", "name", "value", "must_be"?, "passed"?}], "passed", "conditions"}`.
    #[must_use]
    pub fn json(&self) -> Value {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let figures: Vec<Value> = self.figures.iter().map(Figure::json).collect();
        json!({"figures": figures, "passed": self.passed(), "conditions": {"cores": cores}})
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = String::new();
        for figure in &self.figures {
            let Figure { section, name, value, .. } = figure;
            let places = if *value >= 100.0 { 0 } else { 2 };
            writeln!(table, "{:<12}{name:<46}{value:>14.places$}  {}", section.word(), figure.verdict()).expect(TEXT);
        }
        write!(table, "{}", if self.passed() { "every requirement is met" } else { "not every requirement is met" }).expect(TEXT);
        table
    }
}

/// The figures of one cost at several sizes: each is shown, and the largest must be at most a fifth above the smallest.
#[must_use]
pub fn flatness(section: Section, unit: &str, costs: &[(usize, f64)]) -> Vec<Figure> {
    let mut figures: Vec<Figure> = costs.iter().map(|(size, cost)| section.shown(format!("{size}_{unit}"), *cost)).collect();
    if let ([(smallest, base), .., (largest, cost)], true) = (costs, costs.iter().all(|(_, cost)| *cost > 0.0)) {
        figures.push(section.required(format!("{largest}_to_{smallest}_ratio"), cost / base, Bound::AtMost(FLAT_RATIO_MAX)));
    }
    figures
}

/// Within 20 %.
pub const FLAT_RATIO_MAX: f64 = 1.2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_that_grows_by_more_than_a_fifth_is_missed() {
        let report = |last: f64| {
            let mut report = Report::default();
            report.extend(flatness(Section::Rows, "us_per_task", &[(10, 100.0), (1_000, 150.0), (1_000_000, last)]));
            report
        };
        assert!(report(120.0).passed() && report(50.0).passed());
        assert!(!report(121.0).passed());
        assert!(report(121.0).table().contains("MISSED: at most 1.2"), "{}", report(121.0).table());
        assert!(!Report::default().passed(), "what was not measured is not met");
    }

    #[test]
    fn the_json_names_each_requirement() {
        let mut report = Report::default();
        report.extend(vec![Section::Quiet.required("statements_per_s", 0.5, Bound::AtMost(1.0)), Section::Quiet.shown("x", 1.0)]);
        let json = report.json();
        assert_eq!(
            json["figures"][0],
            json!({"section": "quiet", "name": "statements_per_s", "value": 0.5, "must_be": "at most 1", "passed": true})
        );
        assert_eq!(json["figures"][1]["passed"], Value::Null);
    }
}
