//! Definitions: YAML or JSON text to a valid plan, or every problem with its line.
//!
//! Everything a definition says works or is refused with its line; nothing is accepted and ignored.
//!
//! - `yaml`: text to a tree in which every node knows its line
//! - `problem`: what is wrong, where, and what was probably meant
//! - `fields`: typed reading of mappings
//! - `rules`: names, scripts, paths and bounds, shared with single tasks
//! - `duration`, `retry`: the two values with a form of their own
//! - `tasks`, `document`: the keys of a task, and of the whole
//! - `graph`, `upstream`: names to indexes, cycles, and what a task may read
//! - `input`: what an input lacks; `schema`, `references`: what is wrong with its JSON Schema
//! - `single`: the plan of one task
//! - `drawing`, `hash`: a plan as Mermaid, and its identity

mod document;
mod drawing;
mod duration;
mod fields;
mod graph;
mod hash;
mod input;
mod problem;
mod references;
mod retry;
mod rules;
mod schema;
mod single;
mod tasks;
#[cfg(test)]
mod tests;
mod upstream;
mod yaml;

pub use document::{Parsed, parse};
pub use drawing::mermaid;
pub use duration::{DURATION_MAX, DurationError, format_duration, parse_duration};
pub use hash::plan_hash;
pub use input::{InputProblem, check_input};
pub use problem::{PROBLEMS_MAX, Problem, Problems, nearest, nearest_key};
pub use retry::{ATTEMPTS_MAX, BACKOFF_COEFFICIENT_MAX, NON_RETRYABLE_MAX, default_retry};
pub use rules::{FieldProblem, NAME_BYTES_MAX, SCRIPT_BYTES_MAX};
pub use single::{SingleTask, single_task};
pub use yaml::{NESTING_MAX, VALUES_BYTES_MAX};

/// Longest definition.
pub const SOURCE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Tasks in one definition: below [`orchestr8_proto::ids::TASKS_MAX`], and what the memory of one coordinator bears.
pub const TASKS_MAX: usize = 100_000;
/// Phases in one definition.
pub const PHASES_MAX: usize = 256;
/// Edges in one plan: `needs`, and for each task the phases that its phase needs.
pub const EDGES_MAX: usize = 1_000_000;

const _: () = assert!(TASKS_MAX < orchestr8_proto::ids::TASKS_MAX as usize);
