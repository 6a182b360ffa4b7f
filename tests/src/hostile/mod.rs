//! What others may send or configure: nothing of it breaks anything, and what is wrong is told clearly.

mod api;
mod connections;
mod flood;
mod ids;
mod messages;
mod outputs;
mod plans;
mod poison;
mod queues;
mod servers;
