//! What is deployed: the chart, rendered and checked; what it starts must be what the binary understands.
//!
//! - [`rendering`]: helm on the seven sets of values, and the manifests as JSON
//! - `golden`: the manifests are those that were reviewed
//! - `schemas`: Kubernetes 1.29 to 1.36, KEDA and the Prometheus operator would take them
//! - `rules`: our own: images, limits, probes, restricted security
//! - `commands`: every flag is one of the binary's, and nats-server takes its configuration
//! - `compose`: the same of `deploy/compose.yaml`; `composed`: its processes, with its own configuration, run the quality gates
//! - `demand`, `external_metrics`, `trigger`: what an autoscaler is told; `deletion_cost`: what a cluster is told of executors' pods
//! - `image`: the runtime stage around this machine's binary, and the list of its crates
//! - `cluster`: the verdict of `make k8s-test`
//! - `texts`: the values' schema and the chart's README fit the values
//!
//! Tools come from `deploy/tools.sh`. A test whose tool is missing says so and does nothing.

mod cluster;
mod commands;
mod compose;
mod composed;
mod deletion_cost;
mod demand;
mod external_metrics;
mod golden;
mod image;
mod rendering;
mod rules;
mod schemas;
mod texts;
mod tools;
pub mod trigger;
