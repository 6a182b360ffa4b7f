//! The Makefile finds the programs where cargo puts them.

use crate::harness::binary;
use anyhow::{Context, Result};
use std::process::Command;

/// What `make -n` would do.
fn planned(target: &str, folder: Option<&str>) -> Result<Option<String>> {
    let mut make = Command::new("make");
    make.args(["-n", target])
        .current_dir(binary::workspace())
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("MAKEFLAGS")
        .envs(folder.map(|it| ("CARGO_TARGET_DIR", it)));
    match make.output() {
        Ok(output) => Ok(Some(String::from_utf8(output.stdout)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: there is no `make` here");
            Ok(None)
        }
        Err(error) => Err(error).context("make -n"),
    }
}

#[test]
fn the_programs_are_those_that_cargo_has_built_also_elsewhere() -> Result<()> {
    let own = binary::workspace().join("target");
    let programs = [
        ("dev", "debug/orchestr8 dev"),
        ("bench", "release/orchestr8-bench"),
        ("bench-flat", "release/orchestr8-bench-flat"),
        ("bench-report", "release/orchestr8-bench report"),
        ("chaos", "debug/orchestr8-chaos"),
    ];
    for (target, program) in programs {
        for folder in [None, Some("/elsewhere/target")] {
            let expected = format!("{}/{program}", folder.map_or_else(|| own.display().to_string(), str::to_owned));
            let Some(plan) = planned(target, folder)? else { return Ok(()) };
            assert!(plan.contains(&expected), "{expected}\n{plan}");
        }
    }
    Ok(())
}
