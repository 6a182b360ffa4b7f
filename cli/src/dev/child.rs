//! A child process under the shim, started again with backoff when it dies, stopped and started on order.

use super::files::FileError;
use super::place::open_lock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orchestr8_executor::shim::{Shim, ShimError, ShimReport, ShimSpec};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// The wait before the first restart; doubles with each death in a row.
const RESTART_FIRST: Duration = Duration::from_millis(200);
/// The longest wait before a restart.
const RESTART_MAX: Duration = Duration::from_secs(15);
/// A child that lived this long was healthy: the backoff begins anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// A log that has grown beyond this is emptied at the next start.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How much of a log's end is shown when a child dies.
const LOG_TAIL_BYTES: u64 = 2_000;
/// How long the processes of a `dev` that was killed may take to stop: the longest grace of any child, and then some.
const PREDECESSOR_MAX: Duration = Duration::from_secs(45);
/// Between two looks whether they are gone.
const PREDECESSOR_INTERVAL: Duration = Duration::from_millis(20);
/// What the shim may take beyond the grace to kill and reap a tree, before it is abandoned.
const SHIM_MARGIN: Duration = Duration::from_secs(12);

/// Why a child does not run.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// Its log cannot be written.
    #[error(transparent)]
    Log(#[from] FileError),
    /// The shim or the program did not start.
    #[error("{name} did not start: {source}")]
    Start {
        /// The child's name.
        name: String,
        /// Why.
        source: ShimError,
    },
    /// The processes of a killed `dev` still hold the data.
    #[error("{name}: a process of an earlier `orchestr8 dev` still runs after {} s: end it; its log is {}", PREDECESSOR_MAX.as_secs(), log.display())]
    Predecessor {
        /// The child's name.
        name: String,
        /// The log, which the process holds.
        log: PathBuf,
    },
    /// The program ended with an error.
    #[error("{name} failed ({how}); the end of {}:\n{tail}", log.display())]
    Failed {
        /// The child's name.
        name: String,
        /// Its exit code or signal.
        how: String,
        /// Where all of its words are.
        log: PathBuf,
        /// Its last words.
        tail: String,
    },
    /// The task that keeps the child is gone, which happens only while everything stops.
    #[error("{0} is no longer kept")]
    NotKept(String),
}

/// A command, the name under which people know it, and where its words go.
#[derive(Debug, Clone)]
pub struct ChildPlan {
    /// Shown to people.
    pub name: String,
    /// What to run.
    pub shim: ShimSpec,
    /// Gets stdout and stderr. Its lock is held by every process of the tree, so a locked log tells of a living one.
    pub log: PathBuf,
}

/// How a kept child is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Its process, while there is one.
    pub pid: Option<i32>,
    /// How often it died without being asked to.
    pub deaths: u32,
}

/// What can be asked of a kept child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Start it, if it does not run.
    Start,
    /// End it in its own way; it stays down until [`Order::Start`].
    Stop,
    /// End it by SIGKILL; it stays down until [`Order::Start`].
    Kill,
}

/// The handle of a kept child. When it is dropped, the shim ends the child.
#[derive(Debug)]
pub struct Kept {
    name: String,
    orders: mpsc::Sender<(Order, oneshot::Sender<Result<(), ChildError>>)>,
    health: watch::Receiver<Health>,
}

impl Kept {
    /// Starts the child and keeps it running from now on.
    ///
    /// # Errors
    /// [`ChildError`] when the first start fails.
    pub async fn start(plan: ChildPlan) -> Result<Self, ChildError> {
        let (orders, inbox) = mpsc::channel(1);
        let (tell, health) = watch::channel(Health::default());
        let name = plan.name.clone();
        let log = lock_log(&plan).await?;
        let mut keeper = Keeper { plan, log, shim: None, health: tell, restart: RESTART_FIRST };
        keeper.start().await?;
        tokio::spawn(keeper.keep(inbox));
        Ok(Self { name, orders, health })
    }

    /// How it is now.
    #[must_use]
    pub fn health(&self) -> Health {
        *self.health.borrow()
    }

    /// Carries out the order and returns when it is done: a stopped tree is gone, a started process runs.
    ///
    /// # Errors
    /// [`ChildError`] when it cannot be done.
    pub async fn order(&self, order: Order) -> Result<(), ChildError> {
        let (done, answer) = oneshot::channel();
        let gone = || ChildError::NotKept(self.name.clone());
        self.orders.send((order, done)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Runs a command to its end.
///
/// # Errors
/// [`ChildError::Failed`] with its last words unless it exits with 0.
pub async fn run_to_end(plan: ChildPlan) -> Result<(), ChildError> {
    let log = lock_log(&plan).await?;
    let failed = |source| ChildError::Start { name: plan.name.clone(), source };
    let mut shim = spawn(&plan, &log).map_err(failed)?;
    let report = shim.ended().await.map_err(failed)?;
    if report.exit_code == Some(0) {
        return Ok(());
    }
    let tail = tail_of(&plan.log);
    Err(ChildError::Failed { how: how_it_ended(&report), tail, log: plan.log.clone(), name: plan.name })
}

/// The last lines of a log, for people.
#[must_use]
pub fn tail_of(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let from = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default().trim_end().to_owned()
}

/// The task that owns the shim.
struct Keeper {
    plan: ChildPlan,
    log: File,
    shim: Option<Shim>,
    health: watch::Sender<Health>,
    restart: Duration,
}

impl Keeper {
    async fn keep(mut self, mut inbox: mpsc::Receiver<(Order, oneshot::Sender<Result<(), ChildError>>)>) {
        let mut restart_at: Option<tokio::time::Instant> = None;
        let mut started_at = Instant::now();
        loop {
            let asked = tokio::select! {
                asked = inbox.recv() => asked,
                report = ended(&mut self.shim) => {
                    restart_at = Some(tokio::time::Instant::now() + self.died(&report, started_at));
                    continue;
                }
                () = wait_until(restart_at) => {
                    started_at = Instant::now();
                    restart_at = match self.start().await {
                        Ok(()) => {
                            self.runs_again();
                            None
                        }
                        Err(error) => Some(tokio::time::Instant::now() + self.not_started(&error)),
                    };
                    continue;
                }
            };
            let Some((order, done)) = asked else { return };
            (restart_at, started_at) = (None, Instant::now());
            let result = self.obey(order).await;
            done.send(result).ok(); // Who asked may have stopped waiting.
        }
    }

    async fn obey(&mut self, order: Order) -> Result<(), ChildError> {
        match order {
            Order::Start if self.shim.is_some() => Ok(()),
            Order::Start => self.start().await,
            Order::Stop => self.stop().await,
            Order::Kill => self.kill().await,
        }
    }

    async fn start(&mut self) -> Result<(), ChildError> {
        let failed = |source| ChildError::Start { name: self.plan.name.clone(), source };
        let mut shim = spawn(&self.plan, &self.log).map_err(failed)?;
        let pid = shim.started().await.map_err(failed)?;
        self.shim = Some(shim);
        self.health.send_modify(|health| health.pid = Some(pid));
        Ok(())
    }

    async fn stop(&mut self) -> Result<(), ChildError> {
        let Some(mut shim) = self.shim.take() else { return Ok(()) };
        shim.stop().await;
        let limit = Duration::from_millis(self.plan.shim.grace_ms) + SHIM_MARGIN;
        if tokio::time::timeout(limit, shim.ended()).await.is_err() {
            shim.abandon();
        }
        self.health.send_modify(|health| health.pid = None);
        Ok(())
    }

    async fn kill(&mut self) -> Result<(), ChildError> {
        if let Some(pid) = self.health.borrow().pid {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok(); // Gone already is what is wanted.
        }
        self.stop().await
    }

    /// Takes note of a death that nobody asked for; how long to wait before the next start.
    fn died(&mut self, report: &Result<ShimReport, ShimError>, started_at: Instant) -> Duration {
        self.shim = None;
        self.health.send_modify(|health| *health = Health { pid: None, deaths: health.deaths.saturating_add(1) });
        if started_at.elapsed() > HEALTHY_AFTER {
            self.restart = RESTART_FIRST;
        }
        let how = report.as_ref().map_or_else(ToString::to_string, how_it_ended);
        let wait = self.next_wait();
        eprintln!("{} ended ({how}), starts again in {} ms; its log is {}", self.plan.name, wait.as_millis(), self.plan.log.display());
        wait
    }

    fn runs_again(&self) {
        if let Some(pid) = self.health.borrow().pid {
            eprintln!("{} runs again (process {pid})", self.plan.name);
        }
    }

    fn not_started(&mut self, error: &ChildError) -> Duration {
        self.health.send_modify(|health| health.deaths = health.deaths.saturating_add(1));
        let wait = self.next_wait();
        eprintln!("{error}; the next try is in {} ms", wait.as_millis());
        wait
    }

    fn next_wait(&mut self) -> Duration {
        let wait = self.restart;
        self.restart = wait.saturating_mul(2).min(RESTART_MAX);
        wait
    }
}

fn spawn(plan: &ChildPlan, log: &File) -> Result<Shim, ShimError> {
    let program = own_program()?;
    let stdio = || log.try_clone().map(Stdio::from).map_err(|error| ShimError::Start { program: plan.log.clone(), error });
    Shim::spawn(&program, &plan.shim, stdio()?, stdio()?)
}

/// The `orchestr8` binary that runs now.
///
/// # Errors
/// [`ShimError::Start`] when the system does not tell.
pub fn own_program() -> Result<PathBuf, ShimError> {
    std::env::current_exe().map_err(|error| ShimError::Start { program: PathBuf::from("orchestr8"), error })
}

/// Waits, within a bound, until no process holds any log of the folder.
pub async fn wait_for_predecessors(logs: &Path) {
    for entry in std::fs::read_dir(logs).into_iter().flatten().flatten() {
        if let Ok(log) = open_lock(&entry.path()) {
            wait_for_lock(&log).await;
        }
    }
}

/// Opens the log and waits until no process of an earlier `dev` holds it: then none uses the data either.
async fn lock_log(plan: &ChildPlan) -> Result<File, ChildError> {
    let log = open_lock(&plan.log)?;
    if !wait_for_lock(&log).await {
        return Err(ChildError::Predecessor { name: plan.name.clone(), log: plan.log.clone() });
    }
    if log.metadata().is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
        log.set_len(0).map_err(super::files::failed(&plan.log, "the log could not be emptied"))?;
    }
    Ok(log)
}

/// Whether the lock was had in time.
async fn wait_for_lock(log: &File) -> bool {
    let deadline = Instant::now() + PREDECESSOR_MAX;
    while log.try_lock().is_err() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(PREDECESSOR_INTERVAL).await;
    }
    true
}

/// The end of the child; never, while there is none.
async fn ended(shim: &mut Option<Shim>) -> Result<ShimReport, ShimError> {
    match shim {
        Some(shim) => shim.ended().await,
        None => std::future::pending().await,
    }
}

async fn wait_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn how_it_ended(report: &ShimReport) -> String {
    match (report.exit_code, report.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "without a status".to_owned(),
    }
}
