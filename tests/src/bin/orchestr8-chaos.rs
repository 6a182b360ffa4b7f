//! `orchestr8-chaos`: faults at random on a whole installation, then a queue of a million tasks; prints what came of it and
//! writes `target/chaos/latest.json`.

use anyhow::{Context, Result};
use orchestr8_tests::backlog::drained;
use orchestr8_tests::chaos::run;
use orchestr8_tests::chaos::settings::Settings;
use orchestr8_tests::harness::binary::workspace;
use std::process::ExitCode;

/// A promise was broken, or something did not work.
const EXIT_FAILED: u8 = 1;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let settings = Settings::from_environment()?;
    let report = run(&settings).await?;
    let mut json = report.json();
    let mut passed = report.is_good();
    println!("{}", report.table());
    if settings.queue_tasks > 0 {
        let drained = drained(settings.queue_tasks).await?;
        json["queue"] = drained.json;
        passed &= drained.is_good;
        println!("{}{}", if drained.is_good { "" } else { "BROKEN: the coordinator's memory grows with its queue: " }, drained.text);
    }
    json["passed"] = passed.into();
    let folder = workspace().join("target/chaos");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let file = folder.join("latest.json");
    std::fs::write(&file, format!("{json:#}\n")).with_context(|| format!("{} cannot be written", file.display()))?;
    println!("written to {}", file.display());
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}
