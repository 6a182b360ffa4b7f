//! How much of everything `make bench-flat` takes.

use super::report::Section;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// Overrides how many executions lie in the tables at most.
pub const ROWS_VARIABLE: &str = "FLAT_ROWS";
/// Names the sections to measure, separated by spaces; all when unset.
pub const ONLY_VARIABLE: &str = "FLAT_ONLY";
/// A hundred million rows in each table are a day.
const ROWS_MAX: usize = 100_000_000;

/// The size of a measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// What is measured.
    pub sections: Vec<Section>,
    /// Tasks of one measurement; a wider execution has more.
    pub tasks: usize,
    /// How often each size is measured; the median counts.
    pub repeats: usize,
    /// Executions of one task in the tables, ascending.
    pub rows: Vec<usize>,
    /// Independent tasks of one execution, ascending.
    pub widths: Vec<usize>,
    /// Tasks between the first and the last of one execution, ascending.
    pub fans: Vec<usize>,
    /// Executions alive, ascending.
    pub alive: Vec<usize>,
    /// Tasks of the execution that is read again.
    pub reloaded: usize,
    /// The sleep of the task whose end has it read again; the new coordinator is there before.
    pub nap: Duration,
    /// Claimed tasks that sleep.
    pub sleepers: usize,
    /// The executors on which they sleep.
    pub beds: usize,
    /// How long they are watched.
    pub watched: Duration,
    /// Tasks in the queue whose memory is measured.
    pub queued: usize,
    /// Submissions per second.
    pub rate: usize,
    /// For how long they come.
    pub rate_for: Duration,
    /// Executors at once, ascending, from 1.
    pub executors: Vec<usize>,
    /// How long each number of executors has work.
    pub executors_for: Duration,
    /// Commands that are started.
    pub commands: usize,
}

impl Scale {
    /// What the requirements are about.
    #[must_use]
    pub fn full() -> Self {
        Self {
            sections: Section::ALL.to_vec(),
            tasks: 10_000,
            repeats: 3,
            rows: vec![10, 10_000, 1_000_000],
            widths: vec![10, 100, 1_000, 10_000],
            fans: vec![10, 1_000, 10_000, 99_998],
            alive: vec![1, 1_000, 100_000],
            reloaded: 100_000,
            nap: Duration::from_secs(20),
            sleepers: 10_000,
            beds: 20,
            watched: Duration::from_secs(30),
            queued: 1_000_000,
            rate: 2_000,
            rate_for: Duration::from_secs(20),
            executors: vec![1, 2, 4, 8],
            executors_for: Duration::from_secs(5),
            commands: 2_000,
        }
    }

    /// Some seconds, so that a test can run it all; the figures say nothing.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            tasks: 200,
            repeats: 1,
            rows: vec![10, 100],
            widths: vec![10, 100],
            fans: vec![10, 100],
            alive: vec![1, 100],
            reloaded: 1_000,
            nap: Duration::from_secs(5),
            sleepers: 40,
            beds: 2,
            watched: Duration::from_secs(1),
            queued: 21_000,
            rate: 100,
            rate_for: Duration::from_secs(1),
            executors: vec![1, 2],
            executors_for: Duration::from_secs(1),
            commands: 20,
            ..Self::full()
        }
    }

    /// As the environment says.
    ///
    /// # Errors
    /// When a variable has a value that means nothing.
    pub fn from_environment() -> Result<Self> {
        let full = Self::full();
        let rows = match std::env::var(ROWS_VARIABLE) {
            Ok(text) if !text.is_empty() => sizes(&text)?,
            Ok(_) | Err(_) => full.rows,
        };
        let sections = match std::env::var(ONLY_VARIABLE) {
            Ok(text) if !text.trim().is_empty() => named(&text)?,
            Ok(_) | Err(_) => full.sections,
        };
        Ok(Self { sections, rows, ..full })
    }
}

/// From ten to the number, each a thousand times the one before.
fn sizes(text: &str) -> Result<Vec<usize>> {
    let most: usize = text.parse().with_context(|| format!("{ROWS_VARIABLE} is {text:?}: use a number from 100 to {ROWS_MAX}"))?;
    ensure!((100..=ROWS_MAX).contains(&most), "{ROWS_VARIABLE} is {most}: use 100 to {ROWS_MAX}");
    let below = std::iter::successors(Some(10), |size| Some(size * 1_000)).take_while(|size| *size < most);
    Ok(below.chain([most]).collect())
}

fn named(text: &str) -> Result<Vec<Section>> {
    let section = |word: &str| {
        let known = Section::ALL.into_iter().find(|section| section.word() == word);
        known.with_context(|| format!("{ONLY_VARIABLE} names {word:?}: use some of {}", Section::ALL.map(Section::word).join(" ")))
    };
    text.split_whitespace().map(section).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_end_with_the_number_given() {
        assert_eq!(sizes("1000000").expect("a number"), [10, 10_000, 1_000_000]);
        assert_eq!(sizes("10000000").expect("a number"), [10, 10_000, 10_000_000]);
        assert!(sizes("many").is_err() && sizes("7").is_err());
    }

    #[test]
    fn an_unknown_section_is_refused_with_the_known_ones() {
        assert_eq!(named("quiet rows").expect("both are known"), [Section::Quiet, Section::Rows]);
        assert!(named("quite").expect_err("a typing error").to_string().contains("rows"));
    }
}
