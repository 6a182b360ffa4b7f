//! Other programs that a user could take instead, measured in the same run: each by its script under `tests/peers`.

use super::figures::Figures;
use crate::harness::binary::workspace;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Names the peers, separated by spaces; none when unset.
pub const PEERS_VARIABLE: &str = "PEERS";
/// The folders under `tests/peers`.
const KNOWN: [&str; 2] = ["bullmq", "restate"];
/// A script ends with this where its peer is not to be had; it has said why.
const EXIT_UNAVAILABLE: i32 = 69;
/// The first run installs and compiles what the peer needs.
const RUN_MAX: Duration = Duration::from_mins(20);

/// Those that are measured.
#[derive(Debug, Default)]
pub struct Peers(Vec<&'static str>);

/// One line of a script.
#[derive(Debug, Deserialize)]
struct Line {
    name: String,
    value: f64,
}

impl Peers {
    /// As the environment says.
    ///
    /// # Errors
    /// When it names one that is not known.
    pub fn from_environment() -> Result<Self> {
        std::env::var(PEERS_VARIABLE).map_or_else(|_| Ok(Self::default()), |text| Self::named(&text))
    }

    fn named(text: &str) -> Result<Self> {
        let known = |word: &str| {
            let known = KNOWN.into_iter().find(|known| *known == word);
            known.with_context(|| format!("{PEERS_VARIABLE} names {word:?}: use some of {}", KNOWN.join(" ")))
        };
        Ok(Self(text.split_whitespace().map(known).collect::<Result<_>>()?))
    }

    /// Runs each once. One that is not to be had is left out from now on.
    ///
    /// # Errors
    /// When one fails.
    pub async fn run(&mut self) -> Result<Vec<(&'static str, Figures)>> {
        let mut seen = Vec::new();
        for name in std::mem::take(&mut self.0) {
            eprintln!("  {name}");
            if let Some(figures) = run(name).await.with_context(|| format!("the peer {name}"))? {
                self.0.push(name);
                seen.push((name, figures));
            } else {
                eprintln!("skipped: {name} is not to be had here; its script says why above");
            }
        }
        Ok(seen)
    }
}

async fn run(name: &str) -> Result<Option<Figures>> {
    let script = workspace().join("tests/peers").join(name).join("run.sh");
    let mut command = Command::new(script);
    command.arg(kept(name)).stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = tokio::time::timeout(RUN_MAX, command.output()).await.context("it takes too long")??;
    if output.status.code() == Some(EXIT_UNAVAILABLE) {
        return Ok(None);
    }
    ensure!(output.status.success(), "{}", output.status);
    figures(&String::from_utf8(output.stdout)?).map(Some)
}

/// Where a peer keeps its packages and its servers' files: none of it is ours.
fn kept(name: &str) -> PathBuf {
    workspace().join("target/bench/peers").join(name)
}

fn figures(lines: &str) -> Result<Figures> {
    let line = |line: &str| {
        let Line { name, value } = serde_json::from_str(line).with_context(|| format!("no figure: {line}"))?;
        Ok((name, value))
    };
    lines.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::NAMES;
    use super::*;

    #[test]
    fn an_unknown_peer_is_refused_with_the_known_ones() {
        assert_eq!(Peers::named(" restate bullmq ").expect("both are known").0, ["restate", "bullmq"]);
        assert!(Peers::named("").expect("none").0.is_empty());
        assert!(Peers::named("bulmq").expect_err("a typing error").to_string().contains("bullmq restate"));
    }

    #[test]
    fn a_line_of_a_script_is_a_figure() {
        let figures = figures("{\"name\": \"w3_total_ms\", \"value\": 2.5}\n").expect("a figure");
        assert_eq!(figures, Figures::from([("w3_total_ms".to_owned(), 2.5)]));
        assert!(super::figures("ready\n").is_err());
    }

    /// So that ratios are of the same things.
    #[test]
    fn the_scripts_know_only_names_of_ours() -> Result<()> {
        for name in KNOWN {
            let load = std::fs::read_to_string(workspace().join("tests/peers").join(name).join("load.mjs"))?;
            let named: Vec<&str> = load.split('"').filter(|word| word.ends_with("_ms") || word.ends_with("_per_s")).collect();
            assert!(named.len() >= 6, "{name}: {named:?}");
            for figure in named {
                assert!(NAMES.contains(&figure), "{name}: {figure}");
            }
        }
        Ok(())
    }
}
