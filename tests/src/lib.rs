//! Tests against real servers, and what they stand on. All of them are one binary, so that servers start once.
//!
//! - [`harness`]: private servers, coordinators and executors as real processes that can be killed and paused
//! - [`mod@bench`]: `make bench`, the workloads beside the floor and peers
//! - [`backlog`]: queues of many tasks, and what they cost the coordinator
//! - [`flat`]: whether the cost of a task stays the same however much there is
//! - [`chaos`]: `make chaos`, faults at random and a comparison with what really ran
//! - `harness_itself`: its own tests
//! - `dev_servers`: `orchestr8 dev --servers-only`: nothing orphaned, data that survives, resets, locks
//! - `scene`, `ledger`: the words of the tests below: an installation, and a record of what really ran
//! - `tour`, `reports`, `definitions`: what the documents show, run as written; `document`: their fenced blocks
//! - `quality_gates`: the example of that name, gate by gate
//! - `shim`: what the process beside each command costs
//! - `happy`: what works when nothing goes wrong, through API and command line
//! - `operating`: what operators look at and order; `backup`: a dump, restored into a fresh installation
//! - `traces`: one trace across processes, logs for machines, and no secret in either
//! - `faults`: processes and servers that die, stores that are wiped
//! - `inputs`: inputs that are too large for a message
//! - `hostile`: forged and malformed messages, wrong requests, servers that do not fit
//! - `secure`: the least rights on NATS, and TLS on every connection
//! - `store`: every statement against the migrated schema, comments, plans of the hot queries
//! - `observe`: metrics, their table, dashboards, alerts and runbooks; against promtool and Prometheus where they are to be had
//! - `model`: the protocol, checked exhaustively and simulated on a virtual clock; needs no servers
//! - `deploy`: the chart and what is composed, where the tools are to be had
//! - `form`: the arrows between the crates, the lengths of functions and files

pub mod backlog;
pub mod bench;
pub mod chaos;
pub mod flat;
pub mod harness;

#[cfg(test)]
mod harness_itself;

#[cfg(test)]
mod dev_servers;

#[cfg(test)]
mod dev_words;

#[cfg(test)]
mod ledger;

#[cfg(test)]
mod scene;

#[cfg(test)]
mod backup;

#[cfg(test)]
mod shim;

#[cfg(test)]
mod happy;

#[cfg(test)]
mod operating;

#[cfg(test)]
mod traces;

#[cfg(test)]
mod faults;

#[cfg(test)]
mod inputs;

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod secure;

#[cfg(test)]
mod store;

#[cfg(test)]
mod observe;

#[cfg(test)]
mod deploy;

#[cfg(test)]
mod form;

#[cfg(test)]
mod model;

#[cfg(test)]
mod document;

#[cfg(test)]
mod definitions;

#[cfg(test)]
mod quality_gates;

#[cfg(test)]
mod api_examples;

#[cfg(test)]
mod makefile;

#[cfg(test)]
mod tour;

#[cfg(test)]
mod reports;
