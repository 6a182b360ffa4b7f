//! The contract between coordinator and executor. No sockets, no clock.
//!
//! - [`wire`]: the messages, their schema version, strict encoding and decoding
//! - [`storable`]: which JSON can be stored and read back
//! - [`ids`]: execution, task, dispatch, run and incarnation ids; time and shard bits
//! - [`exposition`]: how metrics are described and written
//! - [`names`]: subjects, streams, consumers, headers
//! - [`login`]: the name under which a process logs in to NATS; [`rights`]: what each login must be allowed, and why
//! - `newer`: what a build of tomorrow would say, for tests of rolling upgrades
//! - [`mod@reference`]: dispatches whose inputs are fetched in parts
//! - [`tokens`]: HMACs that bind an outcome to its dispatch
//! - [`times`]: every protocol time as a multiple of one base
//! - [`traces`]: trace context, and spans as values; [`log_level`]: what is logged, as a handle
//! - [`timestamp`]: Unix microseconds
//! - [`words`]: priorities and states, by the names that users see

pub mod exposition;
pub mod ids;
pub mod log_level;
pub mod login;
pub mod names;
#[cfg(feature = "kill-points")]
mod newer;
pub mod reference;
pub mod rights;
pub mod storable;
pub mod times;
pub mod timestamp;
pub mod tokens;
pub mod traces;
pub mod wire;
pub mod words;
