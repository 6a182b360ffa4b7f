//! Tests against real servers, and what they stand on. All of them are one binary, so that servers start once.
//!
//! - [`harness`]: private servers, coordinators and executors as real processes that can be killed and paused
//! - [`bench`]: `make bench`, the workloads beside the floor
//! - `harness_itself`: its own tests
//! - `dev_servers`: `orchestr8 dev --servers-only`: nothing orphaned, data that survives, resets, locks
//! - `scene`, `ledger`: the words of the tests below: an installation, and a record of what really ran
//! - `happy`: what works when nothing goes wrong, through API and command line

pub mod bench;
pub mod harness;

#[cfg(test)]
mod harness_itself;

#[cfg(test)]
mod dev_servers;

#[cfg(test)]
mod ledger;

#[cfg(test)]
mod scene;

#[cfg(test)]
mod happy;
