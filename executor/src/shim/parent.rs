//! The side that starts a shim: tells it what to run, hears how it went.

use super::process::blocked_signals;
use super::{NO_HUGE_PAGES, ShimEvent, ShimReport, ShimSpec};
use bytes::{Buf, Bytes};
use nix::sys::prctl::get_thp_disable;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// Why there is no command, or no report on it.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The shim's binary cannot be started: the executor's configuration or machine is at fault.
    #[error("cannot start the shim `{program}`: {error}; set `shim_program` to the path of `orchestr8-shim` or `orchestr8`")]
    Start {
        /// The binary that was named.
        program: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The command's directory has no text form.
    #[error("the directory `{}` is not UTF-8: choose another `run_root` or `workdir`", .0.display())]
    Path(PathBuf),
    /// The shim runs, the command could not be started: program, directory and reason.
    #[error("{0}")]
    Command(String),
    /// The shim ended without a report (killed, out of memory); the command's process group was killed.
    #[error("the shim that watched the command ended without a report; was it killed, or out of memory?")]
    Vanished,
    /// The shim was asked to end before it could do anything: the command never started.
    #[error("the shim was ended by {0} before it started the command")]
    Unstarted(Signal),
    /// The shim wrote what is no event: another version, or not the shim.
    #[error("the shim wrote what is no event: {0}")]
    Malformed(String),
}

/// A shim that closed its socket has ended within this time, or is ended.
const END_SEEN_MAX: Duration = Duration::from_millis(500);

/// A running shim. Dropping it closes its socket, upon which the shim ends the command's tree by itself.
#[derive(Debug)]
pub struct Shim {
    child: Child,
    events: Lines<BufReader<OwnedReadHalf>>,
    control: OwnedWriteHalf,
    unsent: Bytes,
    command: Option<i32>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Shim {
    /// Starts `PROGRAM shim`; the command itself starts with the first call of [`Shim::started`] or [`Shim::ended`].
    ///
    /// The shim gets nothing of our environment, so it has no secrets that the command's user could read from `/proc`.
    ///
    /// # Errors
    /// [`ShimError::Start`], [`ShimError::Path`].
    pub fn spawn(program: &Path, spec: &ShimSpec, stdout: Stdio, stderr: Stdio) -> Result<Self, ShimError> {
        let failed = |error| ShimError::Start { program: program.to_owned(), error };
        let unsent = spec_line(spec)?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let (events, control) = UnixStream::from_std(ours).map_err(failed)?.into_split();
        // Nothing that would need fork and exec (uid, group, `pre_exec`): slow in a large parent.
        let mut command = Command::new(program);
        command.arg("shim").env_clear().stdin(OwnedFd::from(theirs)).stdout(stdout).stderr(stderr);
        // Whoever ends the executor's group leaves the command to the executor. Costs nothing: it is one of posix_spawn's own.
        command.process_group(0);
        // Where huge pages are forbidden to us, they are to the shim anyway, and shall stay so for the command.
        if get_thp_disable() == Ok(false) {
            command.env(NO_HUGE_PAGES.0, NO_HUGE_PAGES.1);
        }
        let mut child = command.spawn().map_err(failed)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Ok(Self { child, events: BufReader::new(events).lines(), control, unsent, command: None, stdout, stderr })
    }

    /// The command's stdout, where a pipe was asked for; once.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.stdout.take()
    }

    /// The command's stderr, where a pipe was asked for; once.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.stderr.take()
    }

    /// Waits until the command runs; its process id. Can be dropped and called again.
    ///
    /// # Errors
    /// Every [`ShimError`] but `Start` and `Path`.
    pub async fn started(&mut self) -> Result<i32, ShimError> {
        self.send_spec().await;
        match self.command {
            Some(pid) => Ok(pid),
            None => match self.event().await? {
                ShimEvent::Started(pid) => {
                    self.command = Some(pid);
                    Ok(pid)
                }
                ShimEvent::SpawnError(reason) => Err(ShimError::Command(reason)),
                ShimEvent::Ended(report) => Err(ShimError::Malformed(format!("{report:?} before its start"))),
            },
        }
    }

    /// Asks for the end of the tree; [`Shim::ended`] tells when it came. A second call changes nothing.
    pub async fn stop(&mut self) {
        self.send_spec().await;
        // A shim that is gone needs no word; `ended` finds out.
        self.control.write_all(b"stop\n").await.ok();
    }

    /// Waits until the command ended and nothing of its tree is left. Can be dropped and called again.
    ///
    /// # Errors
    /// Every [`ShimError`] but `Start` and `Path`.
    pub async fn ended(&mut self) -> Result<ShimReport, ShimError> {
        self.started().await?;
        let report = match self.event().await? {
            ShimEvent::Ended(report) => report,
            other @ (ShimEvent::Started(_) | ShimEvent::SpawnError(_)) => {
                return Err(ShimError::Malformed(format!("{other:?} after its start")));
            }
        };
        // It exits by itself now; its exit code says nothing more.
        self.child.wait().await.ok();
        Ok(report)
    }

    /// Kills the shim itself and the command's process group: the last resort for a shim that does not answer.
    pub fn abandon(&mut self) {
        // Both may be gone already, which is what is wanted.
        self.child.start_kill().ok();
        if let Some(group) = self.command {
            killpg(Pid::from_raw(group), Signal::SIGKILL).ok();
        }
    }

    /// Sends what is left of the spec; a shim that is gone shows as end of file on its events.
    async fn send_spec(&mut self) {
        while self.unsent.has_remaining() {
            if self.control.write_buf(&mut self.unsent).await.is_err() {
                self.unsent.clear();
            }
        }
    }

    async fn event(&mut self) -> Result<ShimEvent, ShimError> {
        if let Ok(Some(line)) = self.events.next_line().await {
            return serde_json::from_str(&line).map_err(|_| ShimError::Malformed(line));
        }
        let asked_to_end = self.ended_by().await.filter(|signal| blocked_signals().contains(*signal));
        self.abandon();
        // It blocks these before it starts anything, so they can only have met it before.
        Err(asked_to_end.filter(|_| self.command.is_none()).map_or(ShimError::Vanished, ShimError::Unstarted))
    }

    /// The signal that ended a shim that says nothing more.
    async fn ended_by(&mut self) -> Option<Signal> {
        let ended = tokio::time::timeout(END_SEEN_MAX, self.child.wait()).await;
        Signal::try_from(ended.ok()?.ok()?.signal()?).ok()
    }
}

fn spec_line(spec: &ShimSpec) -> Result<Bytes, ShimError> {
    // The only value that JSON cannot hold is a path that is not UTF-8.
    let mut line = serde_json::to_vec(spec).map_err(|_| ShimError::Path(spec.cwd.clone()))?;
    line.push(b'\n');
    Ok(line.into())
}
