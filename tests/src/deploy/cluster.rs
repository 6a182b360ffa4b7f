//! `make k8s-test` has a verdict of its own: it finds what it is there to find.

use crate::harness::binary::workspace;
use anyhow::{Result, ensure};
use std::process::Command;

#[test]
fn the_verdict_on_a_cluster_finds_each_broken_promise() -> Result<()> {
    let folder = workspace().join("tests/k8s");
    let output = Command::new("python3").args(["-B", "-m", "unittest", "discover", "--start-directory"]).arg(folder).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && !said.contains("Ran 0 tests"), "{said}");
    Ok(())
}
