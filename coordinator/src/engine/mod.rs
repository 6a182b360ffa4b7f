//! The engine: one way in. Every change to a workflow is an event that passes through the lane that owns its shard.
//!
//! ```text
//! gather   what arrived while the last commit ran                      lane, intake, untrusted
//! load     the executions they touch: cache, else one query            batch, cache
//! step     core::machine::step, in place                               batch
//! commit   every row and the fence in one round trip                   batch
//! act      because the fence held: publish, answer, confirm, wake      act, dispatches
//! ```
//! Submissions of callers pass through the same steps beside it, as `flights` on a connection of their own.
//! Shards are shared with other lanes by `sharing`, which send each other `mail`; any doubt runs the one `recovery`, and what is gone from NATS is made again (`deleted`). No verdict without an `inquiry`. Inputs that are too large for a message are served by `references`. What dispatches read of upstream tasks is loaded by `outputs`. What is not published yet lies above the
//! marks of its lot (`lots`). Which executors are heard stands on the `board`. What ended may be a span (`spans`), and who waits gets the `news`. [`handle`] is what the API holds.

mod act;
mod batch;
pub(crate) mod board;
mod bundles;
pub mod cache;
mod clock;
mod deleted;
mod dispatches;
mod flights;
pub mod handle;
pub mod input;
mod inquiry;
mod intake;
pub mod lane;
mod lots;
mod mail;
pub mod news;
mod orders;
mod outputs;
mod recovery;
mod references;
mod roster;
mod served;
mod sharing;
mod spans;
mod untrusted;
pub mod watch;
pub mod work;
