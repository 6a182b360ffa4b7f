//! What the shim beside each running command costs, in both programs that may be one.

use crate::harness::process::bare;
use crate::harness::{binary, wait_for};
use crate::scene::SOON;
use anyhow::{Context, Result, ensure};
use orchestr8_executor::shim::{Shim, program_beside};
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// A line `NAME: VALUE` of a file of `/proc`; none: this kernel does not say it.
fn said(process: &str, file: &str, name: &str) -> Result<Option<String>> {
    let path = format!("/proc/{process}/{file}");
    let text = fs::read_to_string(&path).with_context(|| path)?;
    Ok(text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned()))
}

#[tokio::test]
async fn a_shim_takes_no_huge_pages_and_its_command_may() -> Result<()> {
    if said("self", "status", "THP_enabled")?.as_deref() != Some("1") {
        println!("left out: huge pages are forbidden here, or this kernel does not say whether they are");
        return Ok(());
    }
    let whole = binary::orchestr8()?;
    let small = program_beside(&whole).await;
    ensure!(small != whole, "the small program was built as well");
    takes_none(&whole).await?;
    takes_none(&small).await
}

async fn takes_none(program: &Path) -> Result<()> {
    let spec = bare(["/bin/sleep", "1000"].map(str::to_owned).to_vec());
    let mut shim = Shim::spawn(program, &spec, Stdio::null(), Stdio::null())?;
    let command = shim.started().await?.to_string();
    ensure!(said(&command, "status", "THP_enabled")?.as_deref() == Some("1"), "what the command inherits");
    let parent = said(&command, "status", "PPid")?.context("every process has a parent")?;
    let forbidden = async || Ok((said(&parent, "status", "THP_enabled")?.as_deref() == Some("0")).then_some(()));
    wait_for("the shim to forbid them to itself again", SOON, forbidden).await?;
    let huge = said(&parent, "smaps_rollup", "AnonHugePages")?;
    ensure!(huge.as_deref() == Some("0 kB"), "{huge:?} of huge pages");
    shim.stop().await;
    shim.ended().await?;
    Ok(())
}
