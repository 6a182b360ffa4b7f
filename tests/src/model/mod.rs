//! The protocol of claim, lease, loss, confirmation and outcome as a model, over the real decision code.
//!
//! Real: `machine::step`, `leases`, `marks`, `inquiries` (rule R6), the executor's `freshness` (rule R5), and in the simulation
//! its whole desk. Told in the plainest way: the lane around them (`coordinator`, `lane`), Postgres (`database`), JetStream
//! (`broker`), and for the exhaustive check a small executor (`executor`). `reference` keeps a ledger of what really started
//! and ended, and knows no rule: it says what must never happen.
//!
//! - `exhaustive`: every state of one task, one or two lanes and two executors, within bounded faults (`world`, `steps`);
//!   from every state a quiet finish must end everything. No clock: any time may pass between any two steps.
//! - `seeds`: random faults in an installation on a virtual clock (`simulation`, `site`); `histories`: named ones.
//! - `rules`: each rule can be broken in the glue, and must then be found.
//! - `sharing_states`: every state of lanes that share shards (`sharing`), over the real `shares`, within bounded faults.
//!
//! The protocol is told of one shard: whoever owns none hears the heartbeats all the same, and writes into its inbox (`mail`).
//! Not modelled: outcomes of several shards in one stream, batches that are refused for their data, drains, bundles, wire formats.

mod broker;
mod coordinator;
mod database;
mod executor;
mod exhaustive;
mod histories;
mod lane;
mod mail;
mod messages;
mod plans;
mod reference;
mod rules;
mod seeds;
mod sharing;
mod sharing_states;
mod simulation;
mod site;
mod steps;
mod world;
