//! Pure decisions of the coordinator. No async, no clock, no randomness, no SQL, no NATS: time and ids come in as values.
//!
//! - [`definition`]: YAML or JSON text to a valid plan, or every problem with its line
//! - [`plan`]: the resolved definition that the state machine walks
//! - [`expression`]: CEL in `${{ }}`
//! - [`execution`]: the live state of one execution, and what a batch changed in it
//! - [`machine`]: one event into one execution
//! - [`retry`]: when a failed attempt is followed by another
//! - [`leases`]: who holds which run, and who seems lost
//! - [`inquiries`]: no verdict before the outcomes that were published before it
//! - [`marks`]: how far the queued rows have been published
//! - [`shares`]: how many shards each lane should own

pub mod definition;
pub mod execution;
pub mod expression;
pub mod inquiries;
pub mod leases;
pub mod machine;
pub mod marks;
pub mod plan;
pub mod retry;
pub mod shares;
