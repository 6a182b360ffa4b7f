//! The shim: a small process between an executor (or `orchestr8 dev`) and one command, which ends the command's
//! whole tree when it is told to, when its time is up, or when its parent dies.
//!
//! - `beside`: which program is started as one
//! - `parent`: [`Shim`], the side that starts it and listens
//! - `process`: [`run_shim`], the process itself: `orchestr8-shim`, else `orchestr8 shim`, single-threaded
//! - `signals`: those that whoever started this process had ignored
//! - `tree`: finding and killing every descendant
//!
//! The two speak lines over a Unix socket, which is the shim's stdin. In: one [`ShimSpec`] as JSON, later `stop`.
//! Out: [`ShimEvent`]s as JSON: `started` or `spawn_error`, and `ended` as the last. End of file on the socket is the
//! parent's death and means the same as `stop`, with a grace of its own. stdout and stderr are the command's own; its stdin is `/dev/null`.
//!
//! Why not less: a uid change clears `PR_SET_PDEATHSIG`, which moreover fires when a *thread* dies; a process group is
//! left by `setsid`. The shim is a child subreaper, so whatever the command leaves behind becomes the shim's child.
//! It is spawned without group, uid or `pre_exec`, which would make spawning from a large process slow; it sets
//! them for the command itself. It lives in a session of its own, so that Ctrl-C at a terminal does not reach it and
//! no command can wait for a terminal's password; it uses no huge pages (`NO_HUGE_PAGES`); and it blocks `INT`, `TERM`, `HUP` and `QUIT`: the parent decides.

mod beside;
mod parent;
mod process;
mod signals;
#[cfg(test)]
pub(crate) mod tests;
mod tree;

pub use beside::{SMALL_VERSION, program_beside};
pub use parent::{Shim, ShimError};
pub use process::run_shim;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The one variable that a shim has, where the executor may use huge pages. It tells the allocator of the whole program (mimalloc) to
/// ask the kernel for none, and every shim to forbid them to itself once its command has started: with them each command that runs
/// costs 4 MiB, for a process that needs a few pages, and its start a tenth more.
const NO_HUGE_PAGES: (&str, &str) = ("MIMALLOC_ALLOW_THP", "0");

/// The first line that a shim reads: what to run and how. Whatever changes here counts up `beside::SMALL_VERSION`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShimSpec {
    /// Program and arguments. A program without `/` is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The complete environment; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// The directory in which the command starts.
    pub cwd: PathBuf,
    /// The command's user; none: the shim's own. When given, supplementary groups are dropped.
    pub uid: Option<u32>,
    /// The command's group; none: the shim's own.
    pub gid: Option<u32>,
    /// The longest the command may run, on the shim's clock; none: no limit.
    pub timeout_ms: Option<u64>,
    /// Between `stop_signal` and SIGKILL to the whole tree.
    pub grace_ms: u64,
    /// The same once the parent has died and there may be nobody left to end in order for; none: `grace_ms`.
    #[serde(default)]
    pub orphan_grace_ms: Option<u64>,
    /// What asks the command's process group to end.
    pub stop_signal: StopSignal,
}

/// What asks a command to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// SIGTERM, the usual.
    Term,
    /// SIGINT: Postgres' fast shutdown.
    Int,
    /// SIGQUIT: Postgres' immediate shutdown.
    Quit,
}

/// One line that a shim writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShimEvent {
    /// The command runs and has this process id, which is also its process group.
    Started(i32),
    /// It could not be started: program, directory and reason. Nothing follows.
    SpawnError(String),
    /// It ended and nothing of its tree is left. Nothing follows.
    Ended(ShimReport),
}

/// How the command ended and what its tree used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimReport {
    /// Its exit code, where it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended it, where one did.
    pub signal: Option<i32>,
    /// The end was asked for because `timeout_ms` had passed.
    pub timed_out: bool,
    /// The end was asked for by the parent, or by its death.
    pub stopped: bool,
    /// User and system time of every process of the tree.
    pub cpu_time_us: u64,
    /// Largest resident set of any one process of the tree; at least the shim's own, a few MB.
    pub memory_peak_bytes: u64,
    /// Processes that did not die of SIGKILL in time (in uninterruptible sleep, or of a user that may not be signalled).
    #[serde(default)]
    pub survivors: u32,
}
