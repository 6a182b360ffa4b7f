//! Measures whether the cost of a task stays the same however much there is, prints a table and writes `target/bench/flat.json`.
//! See docs/performance.md.

use anyhow::{Context, Result};
use orchestr8_tests::flat::{measure, scale::Scale};
use orchestr8_tests::harness::binary::workspace;
use std::process::ExitCode;

/// A requirement was missed, or something did not work.
const EXIT_FAILED: u8 = 1;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let report = measure(&Scale::from_environment()?).await;
    let folder = workspace().join("target/bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let file = folder.join("flat.json");
    std::fs::write(&file, format!("{:#}\n", report.json())).with_context(|| format!("{} cannot be written", file.display()))?;
    println!("{}\nwritten to {}", report.table(), file.display());
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}
