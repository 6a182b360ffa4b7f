//! Keeping what an executor knows from the commands that run as its own user.

use nix::sys::prctl::set_dumpable;

/// Closes this process's memory and the environment that it was started with (`/proc/<pid>/mem`, `/proc/<pid>/environ`) to
/// other processes of the same user, and to core dumps. Root reads them all the same.
///
/// It lasts until the next `exec`, so what this process starts is as open as ever: a shim, which gets no environment.
///
/// # Errors
/// What the system said, where it does not know the facility or forbids it.
pub fn close_memory() -> std::io::Result<()> {
    Ok(set_dumpable(false)?)
}
