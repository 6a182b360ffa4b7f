//! promtool and Prometheus: fetched once by `deploy/observe-tools.sh`, or missing, which is said.

use super::files::in_repository;
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The script's exit code where they are not to be had.
const UNAVAILABLE: i32 = 69;
/// How long fetching may take.
const FETCH_MAX_S: &str = "180";

/// Where they are.
#[derive(Debug, Clone)]
pub struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// The tools, or none where they are not to be had: the test `what` says so and does nothing.
    pub fn find(what: &str) -> Option<Self> {
        static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        match FOUND.get_or_init(|| fetch().map_err(|error| format!("{error:#}"))) {
            Ok(folder) => Some(Self { folder: folder.clone() }),
            Err(reason) => {
                // Past the test runner, which shows nothing of tests that pass.
                writeln!(std::io::stderr(), "\nSKIPPED {what}: promtool and prometheus are missing: {reason}").ok();
                None
            }
        }
    }

    /// The path of `promtool` or `prometheus`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs promtool; what it said, if it is content.
    pub fn promtool(&self, words: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(self.program("promtool"));
        command.args(words).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut running = command.spawn().context("promtool")?;
        running.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
        let output = running.wait_with_output()?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "promtool {words:?}: {said}");
        Ok(said)
    }
}

fn fetch() -> Result<PathBuf> {
    let script = in_repository("deploy/observe-tools.sh");
    let output = Command::new("timeout").arg(FETCH_MAX_S).arg(&script).output().context("deploy/observe-tools.sh")?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // Anything else than what it announces is a fault of the script; a time that is over is a network that is not there.
    let excused = [Some(UNAVAILABLE), Some(124)].contains(&output.status.code());
    assert!(output.status.success() || excused, "{} failed: {said}", script.display());
    ensure!(output.status.success(), "{said}");
    let named = std::env::var_os("ORCHESTR8_TOOLS").map(PathBuf::from);
    Ok(named.unwrap_or_else(|| in_repository(".orchestr8/tools")).join("prometheus"))
}
