//! What is wrong, where, and what was probably meant.

use super::yaml::Position;
use serde::Serialize;
use std::fmt;

/// Problems reported in one pass; what lies beyond is found in the next.
pub const PROBLEMS_MAX: usize = 50;
/// Names compared for one suggestion.
const CANDIDATES_MAX: usize = 1_000;
/// Longest name that gets a suggestion, in bytes.
const SUGGESTED_BYTES_MAX: usize = 64;

/// Keys that other tools have for the same thing, and ours: no typing mistake leads from one to the other.
const KEYS_ELSEWHERE: [(&str, &str); 12] = [
    ("depends_on", "needs"),
    ("dependsOn", "needs"),
    ("depends", "needs"),
    ("dependencies", "needs"),
    ("after", "needs"),
    ("command", "run"),
    ("cmd", "run"),
    ("script", "run"),
    ("environment", "env"),
    ("cwd", "workdir"),
    ("working_directory", "workdir"),
    ("allow_failure", "continue_on_failure"),
];

/// One thing that is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What it is about, such as `tasks[2].retry.max_attempts`; empty for the text as a whole.
    pub path: String,
    /// What is wrong and how to put it right.
    pub message: String,
    /// The nearest known word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

/// All problems of one pass, in the order of the text; at least one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, " (did you mean `{suggestion}`?)"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl Problem {
    /// A problem without a suggestion.
    pub(super) fn at(position: Position, path: &str, message: String) -> Self {
        Self { line: position.line, column: position.column, path: path.to_owned(), message, suggestion: None }
    }
}

/// Gathers the problems of one pass.
#[derive(Debug, Default)]
pub(super) struct Collector {
    problems: Vec<Problem>,
}

impl Collector {
    /// Adds a problem.
    pub fn add(&mut self, position: Position, path: &str, message: String) {
        self.push(Problem::at(position, path, message));
    }

    /// Adds a problem with the nearest of the known words, which are not looked at when there are too many problems already.
    pub fn add_unknown<'k>(&mut self, problem: Problem, word: &str, known: impl Iterator<Item = &'k str>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.push(Problem { suggestion: nearest(word, known), ..problem });
        }
    }

    /// Adds a problem with the nearest of the known keys.
    pub fn add_unknown_key(&mut self, problem: Problem, key: &str, known: &[&str]) {
        if self.problems.len() < PROBLEMS_MAX {
            self.push(Problem { suggestion: nearest_key(key, known), ..problem });
        }
    }

    /// Adds a problem; beyond [`PROBLEMS_MAX`] it is dropped.
    pub fn push(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    /// How many there are so far.
    pub fn len(&self) -> usize {
        self.problems.len()
    }

    /// Whether there is nothing wrong so far.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// All problems, in the order of the text.
    pub fn into_problems(mut self) -> Problems {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        Problems(self.problems)
    }
}

/// The known key that another tool's or a mistyped key was probably meant to be.
#[must_use]
pub fn nearest_key(key: &str, known: &[&str]) -> Option<String> {
    let meant = KEYS_ELSEWHERE.iter().find(|(elsewhere, ours)| *elsewhere == key && known.contains(ours));
    meant.map(|(_, ours)| (*ours).to_owned()).or_else(|| nearest(key, known.iter().copied()))
}

/// The known word that `word` was probably meant to be: a typing mistake or two away.
#[must_use]
pub fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
    if word.len() > SUGGESTED_BYTES_MAX {
        return None;
    }
    let distance_max = (word.chars().count() * 2).div_ceil(5).clamp(1, 3);
    let close = known.take(CANDIDATES_MAX).filter(|known| !known.is_empty() && known.len().abs_diff(word.len()) <= distance_max);
    let measured = close.map(|known| (strsim::osa_distance(word, known), known));
    measured.filter(|(distance, _)| *distance <= distance_max).min().map(|(_, known)| known.to_owned())
}
