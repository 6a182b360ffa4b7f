//! How fast commands are started: `run` tasks beside bare pairs of shim and `sh`, and `sh` alone.

use super::load;
use super::report::{Bound, Figure, Section};
use super::scale::Scale;
use crate::bench::figures::rate;
use crate::harness::process::bare;
use crate::harness::{Installation, binary};
use anyhow::{Context, Result, ensure};
use orchestr8_executor::shim::{Shim, program_beside};
use serde_json::json;
use std::future::Future;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;
use tokio::process::Command;
use tokio::task::JoinSet;

/// Commands at once, on every side.
const AT_ONCE: u16 = 8;
/// What each of them is.
const SCRIPT: &str = "true";
/// Of the rate of bare pairs.
const PAIRS_MIN: f64 = 0.6;

/// The rates, the middle one of several rounds in turn.
///
/// # Errors
/// When a command fails.
pub async fn commands(scale: &Scale) -> Result<Vec<Figure>> {
    let installation = Installation::start(load::published(AT_ONCE)).await?;
    let task = json!({"run": SCRIPT});
    load::tasks_us(&installation, &task, usize::from(AT_ONCE)).await?;
    let program = program_beside(&binary::orchestr8()?).await;
    let pair_of = move || pair(program.clone());
    let (mut shells, mut pairs, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.repeats {
        shells.push(at_once(scale.commands, shell).await?);
        pairs.push(at_once(scale.commands, pair_of.clone()).await?);
        tasks.push(1e6 / load::tasks_us(&installation, &task, scale.commands).await?);
    }
    installation.finish().await;
    let [shells, pairs, tasks] = [shells, pairs, tasks].map(load::median);
    Ok(vec![
        Section::Commands.shown("sh_alone_per_s", shells),
        Section::Commands.shown("shim_and_sh_per_s", pairs),
        Section::Commands.shown("shim_us", 1e6 / pairs - 1e6 / shells),
        Section::Commands.shown("run_tasks_per_s", tasks),
        Section::Commands.required("run_tasks_to_pairs_ratio", tasks / pairs, Bound::AtLeast(PAIRS_MIN)),
    ])
}

/// So many commands, some at once; a second's worth.
async fn at_once<F, R>(count: usize, one: F) -> Result<f64>
where
    F: Fn() -> R + Clone + Send + 'static,
    R: Future<Output = Result<()>> + Send + 'static,
{
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for number in 0..usize::from(AT_ONCE) {
        let (one, share) = (one.clone(), count / usize::from(AT_ONCE) + usize::from(number < count % usize::from(AT_ONCE)));
        running.spawn(async move {
            for _ in 0..share {
                one().await?;
            }
            anyhow::Ok(())
        });
    }
    running.join_all().await.into_iter().collect::<Result<()>>()?;
    Ok(rate(count, begun.elapsed()))
}

async fn shell() -> Result<()> {
    let status = Command::new("/bin/sh").args(["-c", SCRIPT]).stdin(Stdio::null()).status().await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// As the executor starts a command, without what it does around it.
async fn pair(program: PathBuf) -> Result<()> {
    let spec = bare(["/bin/sh", "-c", SCRIPT].map(str::to_owned).to_vec());
    let mut shim = Shim::spawn(&program, &spec, Stdio::null(), Stdio::null())?;
    shim.started().await?;
    let report = shim.ended().await.context("a pair")?;
    ensure!(report.exit_code == Some(0), "{report:?}");
    Ok(())
}
