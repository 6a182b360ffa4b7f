//! What must survive: killed and paused processes, servers that die, stores that are wiped.

mod coordinators;
mod endings;
mod executors;
mod figures;
mod flights;
mod kill_points;
mod load;
mod pressure;
mod servers;
mod sharing;
mod starts;
mod upgrades;
