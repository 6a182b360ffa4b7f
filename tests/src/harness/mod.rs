//! Real servers and real processes for tests and benchmarks, with nothing left behind however the test ends.
//!
//! - [`binary`]: where the `orchestr8` binary is
//! - [`servers`]: Postgres and nats-server through `orchestr8 dev --servers-only`; they end with this process
//! - [`process`]: a coordinator or executor: kill, pause, terminate, restart
//! - [`installation`]: a database, a nats-server, coordinators, executors, an API client
//! - [`proxy`], [`disk`], [`memory`]: a way that can be slowed, a disk that can be filled, what a process has in memory
//! - [`api`]: HTTP with the token
//! - [`waiting`]: polling for a condition instead of sleeping

pub mod api;
pub mod binary;
pub mod disk;
pub mod installation;
pub mod memory;
pub mod process;
pub mod proxy;
pub mod servers;
pub mod waiting;

pub use api::Api;
pub use installation::{Installation, InstallationOptions, PostgresScope};
pub use process::Process;
pub use servers::{Servers, Which};
pub use waiting::wait_for;
