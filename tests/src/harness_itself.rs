//! The harness itself: a process that is paused, killed and started again; a wait that gives up.

use crate::harness::process::ProcessPlan;
use crate::harness::servers::is_alive;
use crate::harness::{Process, binary, wait_for};
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// Far above what any of these steps takes.
const SOON: Duration = Duration::from_secs(30);

/// A process of the real binary that has children of its own and ends by itself: its stdin is empty.
fn plan(log: &Path) -> ProcessPlan {
    let data = binary::workspace().join(".orchestr8");
    let words = ["dev", "--servers-only", "--only", "nats", "--ephemeral", "--data"];
    let words = words.into_iter().map(str::to_owned).chain([data.to_string_lossy().into_owned()]).collect();
    let tools = ("ORCHESTR8_TOOLS".to_owned(), data.join("tools").to_string_lossy().into_owned());
    ProcessPlan { name: "servers".to_owned(), program: None, words, environment: vec![tools], log: log.to_path_buf() }
}

/// The letter of the process's state, as in `T` for stopped.
fn state_of(pid: i32) -> Option<char> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    status.rsplit_once(')')?.1.trim_start().chars().next()
}

#[tokio::test]
async fn a_process_is_paused_killed_and_started_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("servers.log");
    let mut process = Process::start(plan(&log)).await?;
    let first = process.pid();
    process.pause()?;
    wait_for("it to stand still", SOON, async || Ok((state_of(first) == Some('T')).then_some(()))).await?;
    process.resume()?;
    let report = process.kill().await?;
    assert!(report.signal == Some(9) || report.exit_code == Some(0), "killed, unless it was done before: {report:?}");
    assert!(!is_alive(first) && process.pause().is_err());
    process.restart().await?;
    assert_ne!(process.pid(), first);
    let report = process.ended().await?;
    assert_eq!(report.exit_code, Some(0), "{}", std::fs::read_to_string(&log)?);
    assert!(std::fs::read_to_string(&log)?.contains("\"nats_url\":\"nats://"), "its words are in its log");
    Ok(())
}

#[tokio::test]
async fn a_wait_in_vain_says_for_what_and_why() {
    let nothing: Result<()> = wait_for("a miracle", Duration::from_millis(1), async || Ok(None)).await;
    assert!(nothing.expect_err("it does not come").to_string().contains("a miracle"));
    let failing: Result<()> = wait_for("an answer", Duration::from_millis(1), async || anyhow::bail!("nobody is there")).await;
    assert!(failing.expect_err("it does not come").to_string().contains("nobody is there"));
}
