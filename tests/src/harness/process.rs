//! A coordinator or executor as a real process of the `orchestr8` binary, or another program that must not outlive the test.
//!
//! It runs under the shim, so that it ends when this process does, however that ends. The shim is also why
//! everything below a killed process is gone at once: the process's own shims are its descendants.

use super::{binary, wait_for};
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orchestr8_executor::shim::{Shim, ShimReport, ShimSpec, StopSignal};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// How long an orderly stop may take before the tree is killed.
const GRACE_MS: u64 = 15_000;
/// From its start until it has its handlers of signals.
const SIGNALS_WITHIN: Duration = Duration::from_secs(30);
/// What a process sees of our environment.
const PASSED_VARIABLES: [&str; 6] = ["PATH", "HOME", "LANG", "TZ", "RUST_LOG", "RUST_BACKTRACE"];

/// What to run.
#[derive(Debug, Clone)]
pub struct ProcessPlan {
    /// For people, and the name of the log.
    pub name: String,
    /// What runs; none: the `orchestr8` binary.
    pub program: Option<PathBuf>,
    /// The words after the program.
    pub words: Vec<String>,
    /// Added to the environment.
    pub environment: Vec<(String, String)>,
    /// Gets stdout and stderr of every start.
    pub log: PathBuf,
}

/// A process that can be started many times.
#[derive(Debug)]
pub struct Process {
    plan: ProcessPlan,
    shim: Option<Shim>,
    pid: i32,
}

impl Process {
    /// Starts it; it is not necessarily ready.
    ///
    /// # Errors
    /// When the binary is missing or does not start.
    pub async fn start(plan: ProcessPlan) -> Result<Self> {
        let mut process = Self { plan, shim: None, pid: 0 };
        process.spawn().await?;
        Ok(process)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.plan.log
    }

    /// Replaces the environment that the next start adds, for instance to set a kill point.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.plan.environment.retain(|(known, _)| known != name);
        self.plan.environment.push((name.to_owned(), value.to_owned()));
    }

    /// SIGKILL; returns when it and everything below it is gone.
    ///
    /// # Errors
    /// When the shim cannot tell.
    pub async fn kill(&mut self) -> Result<ShimReport> {
        self.signal(Signal::SIGKILL)?;
        self.ended().await
    }

    /// SIGTERM; returns when it ended by itself, or was killed after the grace.
    ///
    /// # Errors
    /// When the shim cannot tell.
    pub async fn terminate(&mut self) -> Result<ShimReport> {
        self.until_it_takes_signals().await?;
        self.shim.as_mut().with_context(|| format!("{} does not run", self.plan.name))?.stop().await;
        self.ended().await
    }

    /// SIGTERM to it alone, not to the processes below it as well; it may go on.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn ask_to_end(&self) -> Result<()> {
        self.until_it_takes_signals().await?;
        self.signal(Signal::SIGTERM)
    }

    /// A program that has only just been started is ended by SIGTERM itself, not in order. Others than ours may never take it.
    async fn until_it_takes_signals(&self) -> Result<()> {
        if self.plan.program.is_some() {
            return Ok(());
        }
        let status = format!("/proc/{}/status", self.pid);
        let look = async || {
            // Without that file it has ended by itself.
            let Ok(text) = std::fs::read_to_string(&status) else { return Ok(Some(())) };
            let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).context("a line of the signals that it takes")?;
            let caught = u64::from_str_radix(caught.trim(), 16)?;
            Ok((caught & (1 << (Signal::SIGTERM as u64 - 1)) != 0).then_some(()))
        };
        wait_for(&format!("{} to take SIGTERM", self.plan.name), SIGNALS_WITHIN, look).await
    }

    /// SIGSTOP: it stands still, with its connections open.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Starts it again after it ended, with the same words.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> Result<()> {
        if self.shim.is_some() {
            self.terminate().await?;
        }
        self.spawn().await
    }

    /// Waits until it ends by itself, for instance at a kill point.
    ///
    /// # Errors
    /// When it does not run or the shim cannot tell.
    pub async fn ended(&mut self) -> Result<ShimReport> {
        let shim = self.shim.as_mut().with_context(|| format!("{} does not run", self.plan.name))?;
        let report = shim.ended().await?;
        self.shim = None;
        Ok(report)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.shim.as_ref().with_context(|| format!("{} does not run", self.plan.name))?;
        kill(Pid::from_raw(self.pid), signal).with_context(|| format!("{signal} to {}", self.plan.name))
    }

    async fn spawn(&mut self) -> Result<()> {
        let orchestr8 = binary::orchestr8()?;
        let log = OpenOptions::new().create(true).append(true).open(&self.plan.log).context("the log")?;
        let errors = log.try_clone()?;
        let mut shim =
            Shim::spawn(&orchestr8, &self.spec(self.plan.program.as_deref().unwrap_or(&orchestr8)), Stdio::from(log), Stdio::from(errors))?;
        self.pid = shim.started().await?;
        self.shim = Some(shim);
        Ok(())
    }

    fn spec(&self, program: &Path) -> ShimSpec {
        let mut argv = vec![program.to_string_lossy().into_owned()];
        argv.extend(self.plan.words.iter().cloned());
        let passed = PASSED_VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
        let env: BTreeMap<String, String> = passed.chain(self.plan.environment.iter().cloned()).collect();
        let cwd = self.plan.log.parent().unwrap_or(Path::new("/")).to_path_buf();
        ShimSpec { env, cwd, ..bare(argv) }
    }
}

/// A command with nothing around it: no environment, no longest time, in the root directory.
pub(crate) fn bare(argv: Vec<String>) -> ShimSpec {
    ShimSpec {
        argv,
        env: BTreeMap::new(),
        cwd: PathBuf::from("/"),
        uid: None,
        gid: None,
        timeout_ms: None,
        grace_ms: GRACE_MS,
        orphan_grace_ms: None,
        stop_signal: StopSignal::Term,
    }
}
