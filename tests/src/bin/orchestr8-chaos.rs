//! `orchestr8-chaos`: faults at random on a whole installation; prints what came of it and writes `target/chaos/latest.json`.

use anyhow::{Context, Result};
use orchestr8_tests::chaos::run;
use orchestr8_tests::chaos::settings::Settings;
use orchestr8_tests::harness::binary::workspace;
use std::process::ExitCode;

/// A promise was broken, or something did not work.
const EXIT_FAILED: u8 = 1;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let report = run(&Settings::from_environment()?).await?;
    let folder = workspace().join("target/chaos");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let file = folder.join("latest.json");
    std::fs::write(&file, format!("{:#}\n", report.json())).with_context(|| format!("{} cannot be written", file.display()))?;
    println!("{}\nwritten to {}", report.table(), file.display());
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}
