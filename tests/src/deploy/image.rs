//! The image: its runtime stage around this machine's binary, built and run without a daemon; and the list of what is in the binary.

use crate::harness::binary;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::Write;
use std::process::Command;

/// What `deploy/image-test.sh` ends with where something is missing.
const MISSING: i32 = 69;

#[test]
fn the_runtime_stage_runs_the_binary() -> Result<()> {
    let script = binary::workspace().join("deploy/image-test.sh");
    let output = Command::new("sh").arg(&script).arg(binary::orchestr8()?).output().context("sh")?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => {}
        Some(MISSING) => {
            // Past the test runner, which shows nothing of tests that pass.
            writeln!(std::io::stderr(), "\nSKIPPED the image: {}", complained.trim()).ok();
            return Ok(());
        }
        code => bail!("{}: {code:?}: {said}{complained}", script.display()),
    }
    for line in ["built twice: ", "user: uid=10001", "orchestr8 0.1.0", "crates listed: ", "size: "] {
        ensure!(said.contains(line), "`{line}` is missing in {said}");
    }
    Ok(())
}

/// The whole build takes too long for this suite: `make image-test` makes it. What it is told is looked at before what it needs.
#[test]
fn an_image_is_built_for_known_machines_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let script = binary::workspace().join("deploy/image-whole.sh");
    let output = Command::new("sh").arg(script).arg(folder.path()).args(["arm64", "riscv64"]).output().context("sh")?;
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(64) && complained.contains("ARCH=riscv64: use amd64, arm64"), "{output:?}");
    Ok(())
}

#[test]
fn the_layer_of_dependencies_has_every_manifest() -> Result<()> {
    let read = |file: &str| std::fs::read_to_string(binary::workspace().join(file)).with_context(|| file.to_owned());
    let (manifest, dockerfile) = (read("Cargo.toml")?, read("deploy/Dockerfile")?);
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = [")?.strip_suffix(']')).context("members, in one line")?;
    for member in members.split(", ").map(|member| member.trim_matches('"')) {
        let line = format!("COPY {member}/Cargo.toml {member}/\n");
        ensure!(dockerfile.contains(&line), "deploy/Dockerfile lacks `{}`", line.trim());
    }
    Ok(())
}

#[test]
fn the_list_of_crates_is_that_of_the_lock_file() -> Result<()> {
    let list = || Command::new("python3").arg(binary::workspace().join("deploy/sbom.py")).output().context("python3");
    let (output, again) = (list()?, list()?);
    ensure!(output.status.success() && output.stdout == again.stdout, "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(document["bomFormat"] == "CycloneDX" && document["metadata"]["component"]["name"] == "orchestr8", "{}", document["metadata"]);
    let components = document["components"].as_array().context("components")?;
    let named = |name: &str| components.iter().find(|component| component["name"] == name);
    let tokio = named("tokio").context("tokio is not listed")?;
    ensure!(tokio["hashes"][0]["content"].as_str().is_some_and(|hash| hash.len() == 64), "{tokio}");
    ensure!(components.len() > 200 && named("stateright").is_none(), "{} crates, or those of the tests", components.len());
    Ok(())
}
