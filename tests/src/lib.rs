//! Tests against real servers, and what they stand on. All of them are one binary, so that servers start once.
//!
//! - [`harness`]: private servers, coordinators and executors as real processes that can be killed and paused
//! - `harness_itself`: its own tests
//! - `dev_servers`: `orchestr8 dev --servers-only`: nothing orphaned, data that survives, resets, locks

pub mod harness;

#[cfg(test)]
mod harness_itself;

#[cfg(test)]
mod dev_servers;
