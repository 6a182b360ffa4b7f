//! The executor: fetches, claims and runs tasks, and reports how they ended. Knows nothing of Postgres.
//!
//! - [`settings`]: what an executor is told, and what is wrong with it
//! - [`mod@serve`]: the loop around the desk; [`link`]: the connection to NATS; `patience`: waits between tries
//! - `desk`: the one owner of everything in hand; pure, like all that it is made of:
//!   - `delivery`, `dispatches`: a message and what is in it
//!   - [`freshness`]: rule R5, who asks before the start
//!   - `fetch`: sweeps and parked pulls; `messages`: acks; `claims`: questions to owners; `inputs`: what is too large for a message; `outcomes`: publications
//!   - `runs`: from arrival to confirmation; `report`: what an outcome tells; `beats`: heartbeats (rule R4)
//!   - `clock`: the time that all of it goes by; `coordinators`: silence, installation, JetStream's clock
//! - [`simulation`]: the desk on a virtual clock, for tests of the protocol
//! - [`work`]: one attempt; [`handlers`]: code that runs inside the executor; [`shim`]: the small process around a command
//! - [`metrics`]: what is counted; `probes`: where it is shown; `spans`: what a trace shows of a run
//! - [`secrecy`]: what commands of the same user must not read
//! - [`kill_points`]: where fault tests end or stop the process

pub mod freshness;
pub mod handlers;
pub mod kill_points;
pub mod link;
pub mod metrics;
pub mod secrecy;
pub mod serve;
pub mod settings;
pub mod shim;
pub mod simulation;
pub mod work;

mod beats;
mod claims;
mod clock;
mod coordinators;
mod delivery;
mod desk;
mod dispatches;
mod fetch;
mod inputs;
mod messages;
mod outcomes;
mod patience;
mod probes;
mod report;
mod runs;
mod spans;

pub use serve::{ExecutorError, serve};
pub use settings::ExecutorSettings;
