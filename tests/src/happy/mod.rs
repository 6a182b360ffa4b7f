//! What works when nothing goes wrong, through API and command line.

mod cancels;
pub mod cli;
mod commands;
mod events;
mod keys;
mod metrics;
mod reading;
mod tasks;
pub mod workflows;
