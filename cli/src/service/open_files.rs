//! Open files, of which every connection is one: the system's limit, and what it leaves for the API's connections.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that a coordinator needs besides the API's connections: those to Postgres and NATS, logs, and some to spare.
const OTHER_FILES: u64 = 256;

/// As many of these connections as the system allows; raises the limit of this process where it may. Says so when they are fewer.
#[must_use]
pub fn room_for(connections_max: usize) -> usize {
    let wanted = u64::try_from(connections_max).unwrap_or(u64::MAX).saturating_add(OTHER_FILES);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return connections_max };
    let raised = wanted.min(hard);
    let allowed = if raised > soft && setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_ok() { raised } else { soft };
    let room = room(connections_max, allowed);
    if room < connections_max {
        tracing::warn!(
            open_files_max = allowed,
            connections_max = room,
            "the system allows fewer open files than --connections-max {connections_max} needs: raise its limit (ulimit -n, LimitNOFILE of systemd)"
        );
    }
    room
}

/// What the limit leaves, at least one connection.
fn room(connections_max: usize, files_max: u64) -> usize {
    let left = usize::try_from(files_max.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX);
    connections_max.min(left).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        for (wanted, files, granted) in [(8_192, 1_024, 768), (8_192, 1 << 20, 8_192), (10, 266, 10), (10, 100, 1)] {
            assert_eq!(room(wanted, files), granted, "{wanted} of {files}");
        }
    }

    #[test]
    fn this_process_may_have_what_it_is_granted() {
        let room = room_for(300);
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        assert!(u64::try_from(room).expect("small") + OTHER_FILES <= soft || room == 1, "{room} of {soft}");
    }
}
