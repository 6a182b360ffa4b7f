//! Everything that talks to NATS: connection, streams and consumers, publishing, reading outcomes, control messages.
//!
//! Nothing here decides. What leaves a lane comes through here after its fence held (rule R3); what arrives becomes
//! an [`crate::engine::input::Input`].

pub mod connect;
pub mod control;
pub mod deafness;
pub mod facts;
pub mod gauges;
pub mod lag;
pub mod listen;
pub mod parts;
pub mod publisher;
pub mod reader;
pub mod streams;
pub mod survey;

pub use connect::{Bus, BusError};
