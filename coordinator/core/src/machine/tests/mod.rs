//! Behaviour of the state machine: sentences about one execution at a time, and properties over random histories.

mod cancels;
mod claims;
mod faults;
mod flow;
mod losses;
mod plans;
mod properties;
mod retries;
mod rows;
mod scene;
mod traces;
mod world;
