//! Finding and killing every descendant of this process, however it was forked, and reaping what is dead.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};
use std::collections::{HashMap, HashSet};

/// Freezing stops when a pass finds nobody new; a tree that forks faster than this many passes is killed as it is.
const FREEZE_PASSES_MAX: u32 = 32;

/// Whether any child is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Children {
    /// At least one lives.
    Left,
    /// None: and so no descendant, since orphans become this process' children.
    Gone,
}

/// Reaps every dead child without waiting and hands each to `dead`.
pub fn reap(mut dead: impl FnMut(Pid, WaitStatus)) -> Children {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Children::Left,
            Ok(status) => status.pid().into_iter().for_each(|pid| dead(pid, status)),
            Err(Errno::EINTR) => {}
            Err(_) => return Children::Gone,
        }
    }
}

/// Sends SIGKILL to every descendant; how many there were.
///
/// They are stopped first, until a look finds nobody new: a tree that keeps forking would outrun the killing.
pub fn kill_descendants() -> usize {
    let mut frozen = HashSet::new();
    for _ in 0..FREEZE_PASSES_MAX {
        let known = frozen.len();
        for pid in descendants().into_iter().filter(|pid| frozen.insert(*pid)) {
            signal(pid, Signal::SIGSTOP);
        }
        if frozen.len() == known {
            break;
        }
    }
    for pid in &frozen {
        signal(*pid, Signal::SIGKILL);
    }
    frozen.len()
}

/// Signals a process; one that is gone already is no error, one that may not be signalled shows as a survivor.
fn signal(pid: Pid, signal: Signal) {
    kill(pid, signal).ok();
}

/// Living descendants of this process, as `/proc` shows them now.
fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (pid, parent) in processes() {
        children.entry(parent).or_default().push(pid);
    }
    let mut found = children.remove(&getpid().as_raw()).unwrap_or_default();
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    found.into_iter().map(Pid::from_raw).collect()
}

/// Every process that is not dead already, with its parent.
fn processes() -> impl Iterator<Item = (i32, i32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        Some((pid, living_parent(&stat)?))
    })
}

/// The parent in the text of `/proc/PID/stat`, `PID (NAME) STATE PARENT …`; none for a zombie.
///
/// The name may hold anything, `)` and spaces too, so the last `)` ends it.
fn living_parent(stat: &[u8]) -> Option<i32> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_whatever_the_name_holds() {
        assert_eq!(living_parent(b"12 (sh) S 7 12 12 0"), Some(7));
        assert_eq!(living_parent(b"12 (a) R 1 (\xff) S 8 12 12"), Some(8));
        assert_eq!(living_parent(b"12 (sh) Z 7 12 12 0"), None);
        assert_eq!(living_parent(b"12 (sh"), None);
    }
}
