//! Measures orchestr8 beside its floor, prints a table and writes `target/bench/latest.json`; `report` makes the committed picture
//! of that file. See docs/performance.md.

use anyhow::{Context, Result, bail};
use orchestr8_tests::bench::{last, measure, plot, scale::Scale};
use orchestr8_tests::harness::binary::workspace;
use std::process::ExitCode;

/// A requirement was missed, or something did not work.
const EXIT_FAILED: u8 = 1;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    match std::env::args().nth(1).as_deref() {
        None => bench().await,
        Some("report") => {
            plot::write()?.iter().for_each(|file| println!("written to {}", file.display()));
            Ok(ExitCode::SUCCESS)
        }
        Some(other) => bail!("`{other}` is not known: use `report`, or nothing to measure"),
    }
}

async fn bench() -> Result<ExitCode> {
    let last = last::read()?;
    let report = measure(&Scale::from_environment()?).await?;
    let folder = workspace().join("target/bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let file = folder.join("latest.json");
    let json = report.json();
    std::fs::write(&file, format!("{json:#}\n")).with_context(|| format!("{} cannot be written", file.display()))?;
    println!("{}", report.table());
    if let Some(last) = last {
        println!("{}", last::compared(&json, &last));
    }
    println!("written to {}", file.display());
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}
