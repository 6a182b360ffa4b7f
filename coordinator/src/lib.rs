//! The coordinator: keeps the truth in Postgres and publishes ready tasks to JetStream.
//!
//! - [`engine`]: gather, load, step, commit, act; leases and recovery
//! - [`bus`]: everything that talks to NATS
//! - [`api`]: REST over the engine's handle and the store's reads
//! - [`deletion_cost`]: tells a Kubernetes cluster which executors' pods are busy
//! - [`metrics`]: every metric, its name, unit and help
//! - [`settings`], [`startup`]: what a coordinator is told, and how it starts and ends
//! - [`kill_points`]: where a test may kill it

pub mod api;
pub mod bus;
pub mod deletion_cost;
pub mod engine;
pub mod kill_points;
pub mod metrics;
pub mod settings;
pub mod startup;

pub use api::access::{Token, TokenError};
pub use api::tls::ApiCertificate;
pub use orchestr8_store::migrate::OpenError;
pub use settings::{CoordinatorError, CoordinatorSettings};
pub use startup::run;
