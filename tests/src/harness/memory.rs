//! The memory of processes.

use anyhow::{Context, Result};

/// What a process has in memory now and had at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub resident_bytes: u64,
    /// Resident at most, since its start.
    pub peak_bytes: u64,
}

impl Memory {
    /// Of a process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: i32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        Ok(Self { resident_bytes: bytes(&status, "VmRSS:")?, peak_bytes: bytes(&status, "VmHWM:")? })
    }
}

fn bytes(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| line.to_owned())?;
    Ok(kib * 1024)
}
