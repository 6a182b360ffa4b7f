//! The runtime stage of the image, around this machine's binary.

use super::tools::{fetched, skipped};
use crate::harness::binary;
use anyhow::{Result, ensure};
use std::process::Command;

/// What the script says when something is missing.
const MISSING: i32 = 69;

#[test]
fn the_runtime_stage_runs_this_binary_as_an_ordinary_user() -> Result<()> {
    let what = "the image's runtime stage";
    // The base takes a minute: `make image-test` makes it.
    if fetched("debian-bookworm.tar", what).is_none() {
        return Ok(());
    }
    let output = Command::new(binary::workspace().join("deploy/image-test.sh")).arg(binary::orchestr8()?).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(MISSING) {
        skipped(what, said.trim());
        return Ok(());
    }
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("uid=10001") && said.contains("size: "), "{said}");
    Ok(())
}
