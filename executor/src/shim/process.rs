//! The shim process itself: one thread, one command, one loop over the parent's socket, SIGCHLD and the clock.

use super::signals::hear_ignored;
use super::tree::{Children, kill_descendants, reap};
use super::{NO_HUGE_PAGES, ShimEvent, ShimReport, ShimSpec, StopSignal};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_child_subreaper, set_thp_disable};
use nix::sys::resource::{Resource, Usage, UsageWho, getrusage, setrlimit};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeVal;
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, setsid};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// A longer first line is no spec: variables have at most 1.5 MiB together, which JSON may escape to six times as much.
const SPEC_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long killed processes may take to die before the shim reports them as survivors.
const REAP_MAX: Duration = Duration::from_secs(10);
/// Between two looks for descendants that escaped a killing pass.
const REAP_INTERVAL: Duration = Duration::from_millis(20);
/// The one word that a parent says after the spec.
const STOP_LINE: &[u8] = b"stop\n";
/// Started wrongly (`EX_USAGE`).
const EXIT_USAGE: u8 = 64;

/// Is the shim: reads its spec from the socket on stdin, runs the command, reports and exits.
///
/// Must be called from a process with a single thread (it blocks signals for the calling thread).
#[must_use]
pub fn run_shim() -> ExitCode {
    let Some(socket) = stdin_socket() else {
        eprintln!("`orchestr8 shim` is started by an executor, with a socket as its stdin; it is no command for people");
        return ExitCode::from(EXIT_USAGE);
    };
    let mut parent = BufReader::new(socket);
    let event = match isolated(&mut parent).and_then(|(spec, signals)| Supervisor::start(&spec, signals, &mut parent)) {
        Ok(supervisor) => supervisor.run(&mut parent),
        Err(reason) => ShimEvent::SpawnError(reason),
    };
    tell(parent.get_mut(), &event);
    ExitCode::SUCCESS
}

/// The command under watch.
struct Supervisor {
    command: Pid,
    signals: SignalFd,
    stop_signal: Signal,
    grace: Duration,
    orphan_grace: Duration,
    phase: Phase,
    end: Option<WaitStatus>,
    timed_out: bool,
    stopped: bool,
    parent_lives: bool,
    heard: Vec<u8>,
}

/// What the supervisor waits for besides the command's own end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The command may run until then.
    Running { until: Option<Instant> },
    /// The command's group was asked to end and may take until then.
    Stopping { until: Instant },
    /// Every descendant got SIGKILL; more of them are looked for until then.
    Killing { until: Instant },
}

/// Why the command is asked to end.
#[derive(Clone, Copy)]
enum StopCause {
    Timeout,
    Parent,
    ParentsDeath,
}

impl Supervisor {
    fn start(spec: &ShimSpec, signals: SignalFd, parent: &mut BufReader<UnixStream>) -> Result<Self, String> {
        let command = with_huge_pages(|| spawn(spec))?;
        tell(parent.get_mut(), &ShimEvent::Started(command.as_raw()));
        let until = spec.timeout_ms.and_then(|timeout_ms| Instant::now().checked_add(Duration::from_millis(timeout_ms)));
        Ok(Self {
            command,
            signals,
            stop_signal: spec.stop_signal.into(),
            grace: Duration::from_millis(spec.grace_ms),
            orphan_grace: Duration::from_millis(spec.orphan_grace_ms.unwrap_or(spec.grace_ms)),
            phase: Phase::Running { until },
            end: None,
            timed_out: false,
            stopped: false,
            parent_lives: true,
            heard: Vec::new(),
        })
    }

    /// Watches until nothing of the tree is left, or [`REAP_MAX`] after its killing.
    fn run(mut self, parent: &mut BufReader<UnixStream>) -> ShimEvent {
        loop {
            let children = self.reap();
            if children == Children::Gone {
                return ShimEvent::Ended(self.report(0));
            }
            if let Some(survivors) = self.advance(Instant::now()) {
                return ShimEvent::Ended(self.report(survivors));
            }
            self.wait(parent);
        }
    }

    fn reap(&mut self) -> Children {
        reap(|pid, status| {
            if pid == self.command {
                self.end = Some(status);
            }
        })
    }

    /// Moves on by the clock and by the command's end; the number of survivors when it is time to give up.
    fn advance(&mut self, now: Instant) -> Option<u32> {
        match self.phase {
            Phase::Running { .. } if self.end.is_some() => self.kill(now),
            Phase::Running { until: Some(until) } if now >= until => self.stop(StopCause::Timeout, now),
            // Others of the group were asked to end too: they get the rest of the grace, what left the group does not.
            Phase::Stopping { until } if now >= until || (self.end.is_some() && self.group_is_gone()) => self.kill(now),
            Phase::Running { .. } | Phase::Stopping { .. } => {}
            Phase::Killing { until } => {
                let living = kill_descendants();
                if now >= until {
                    return Some(u32::try_from(living).unwrap_or(u32::MAX));
                }
            }
        }
        None
    }

    fn stop(&mut self, cause: StopCause, now: Instant) {
        let until = match cause {
            StopCause::Timeout | StopCause::Parent => now + self.grace,
            StopCause::ParentsDeath => now + self.orphan_grace,
        };
        match self.phase {
            Phase::Running { .. } if self.end.is_none() => {}
            // Who was asked already may have been given more time by a parent that then died.
            Phase::Stopping { until: given } => {
                self.phase = Phase::Stopping { until: given.min(until) };
                return;
            }
            Phase::Running { .. } | Phase::Killing { .. } => return,
        }
        match cause {
            StopCause::Timeout => self.timed_out = true,
            StopCause::Parent | StopCause::ParentsDeath => self.stopped = true,
        }
        // The group may be gone this very moment: then the next reaping sees it.
        killpg(self.command, self.stop_signal).ok();
        self.phase = Phase::Stopping { until };
    }

    fn kill(&mut self, now: Instant) {
        // A reaped leader's number may soon be another's.
        if self.end.is_none() {
            killpg(self.command, Signal::SIGKILL).ok();
        }
        kill_descendants();
        self.phase = Phase::Killing { until: now + REAP_MAX };
    }

    fn group_is_gone(&self) -> bool {
        killpg(self.command, None).is_err()
    }

    /// Sleeps until something happens: a child died, the parent spoke or died, or the phase's time is up.
    fn wait(&mut self, parent: &mut BufReader<UnixStream>) {
        // What came right behind the spec was read with it, and poll knows nothing of it.
        if !parent.buffer().is_empty() {
            return self.listen(parent);
        }
        let readable = {
            let mut watched =
                [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN), PollFd::new(parent.get_ref().as_fd(), PollFlags::POLLIN)];
            let count = if self.parent_lives { 2 } else { 1 };
            // An interrupted poll is one that saw nothing.
            poll(&mut watched[..count], self.poll_timeout()).ok();
            watched[..count].iter().map(|fd| fd.any().unwrap_or(false)).collect::<Vec<_>>()
        };
        if readable[0] {
            while let Ok(Some(_)) = self.signals.read_signal() {}
        }
        if readable.get(1) == Some(&true) {
            self.listen(parent);
        }
    }

    fn listen(&mut self, parent: &mut BufReader<UnixStream>) {
        let cause = match self.hear(parent) {
            Heard::Nothing => return,
            Heard::Stop => StopCause::Parent,
            Heard::End => {
                self.parent_lives = false;
                StopCause::ParentsDeath
            }
        };
        self.stop(cause, Instant::now());
    }

    /// Reads what is there. Only called when there is something, so it does not block.
    fn hear(&mut self, parent: &mut BufReader<UnixStream>) -> Heard {
        let length = match parent.fill_buf() {
            Ok([]) => return Heard::End,
            Ok(text) => {
                self.heard.extend_from_slice(text);
                text.len()
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Heard::Nothing,
            Err(_) => return Heard::End,
        };
        parent.consume(length);
        let stop = self.heard.windows(STOP_LINE.len()).any(|word| word == STOP_LINE);
        // A word may come in two pieces.
        let kept_from = self.heard.len().saturating_sub(STOP_LINE.len() - 1);
        self.heard.drain(..kept_from);
        if stop { Heard::Stop } else { Heard::Nothing }
    }

    fn poll_timeout(&self) -> PollTimeout {
        let until = match self.phase {
            Phase::Running { until } => until,
            Phase::Stopping { until } => Some(until),
            Phase::Killing { .. } => Some(Instant::now() + REAP_INTERVAL),
        };
        let Some(until) = until else { return PollTimeout::NONE };
        // Rounded up, so that the time is over when poll returns; a wait beyond poll's range is taken in parts.
        let left_ms = until.saturating_duration_since(Instant::now()).as_micros().div_ceil(1_000);
        PollTimeout::from(u16::try_from(left_ms).unwrap_or(u16::MAX))
    }

    fn report(&self, survivors: u32) -> ShimReport {
        let (exit_code, signal) = match self.end {
            Some(WaitStatus::Exited(_, code)) => (Some(code), None),
            Some(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal as i32)),
            _ => (None, None),
        };
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok();
        ShimReport {
            exit_code,
            signal,
            timed_out: self.timed_out,
            stopped: self.stopped,
            cpu_time_us: usage.as_ref().map_or(0, |usage| microseconds(usage.user_time()) + microseconds(usage.system_time())),
            memory_peak_bytes: usage.as_ref().map_or(0, memory_peak_bytes),
            survivors,
        }
    }
}

impl From<StopSignal> for Signal {
    fn from(signal: StopSignal) -> Self {
        match signal {
            StopSignal::Term => Self::SIGTERM,
            StopSignal::Int => Self::SIGINT,
            StopSignal::Quit => Self::SIGQUIT,
        }
    }
}

/// What the parent's socket had to say.
enum Heard {
    Nothing,
    Stop,
    End,
}

fn stdin_socket() -> Option<UnixStream> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
    let socket = UnixStream::from(stdin);
    socket.local_addr().ok().map(|_| socket)
}

fn read_spec(parent: &mut BufReader<UnixStream>) -> Result<ShimSpec, String> {
    let mut line = Vec::new();
    parent.by_ref().take(SPEC_BYTES_MAX).read_until(b'\n', &mut line).map_err(|error| format!("the shim cannot read its spec: {error}"))?;
    serde_json::from_slice(&line).map_err(|error| format!("the shim's spec is malformed: {error}"))
}

/// Isolates first: a signal to the executor's whole group must not end a shim that still waits for its spec.
fn isolated(parent: &mut BufReader<UnixStream>) -> Result<(ShimSpec, SignalFd), String> {
    let signals = isolate().map_err(|errno| format!("the shim cannot prepare itself: {errno}"))?;
    hear_ignored().map_err(|error| format!("the shim cannot see to ignored signals: {error}"))?;
    Ok((read_spec(parent)?, signals))
}

/// A session of its own, signals blocked, orphans adopted, no core dumps.
fn isolate() -> nix::Result<SignalFd> {
    // Fails only for a group leader, which has been given a group of its own already.
    setsid().ok();
    blocked_signals().thread_block()?;
    set_child_subreaper(true)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let mut watched = SigSet::empty();
    watched.add(Signal::SIGCHLD);
    SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// What the shim does not die of, and SIGCHLD, which it reads from a descriptor.
pub(super) fn blocked_signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGCHLD].into_iter().collect()
}

/// What starts here may use huge pages again: the shim's own restraint would be inherited.
fn with_huge_pages<T>(start: impl FnOnce() -> T) -> T {
    if std::env::var_os(NO_HUGE_PAGES.0).is_none() {
        return start();
    }
    // On a kernel that refuses, the command does without, and nothing else changes.
    set_thp_disable(false).ok();
    let started = start();
    set_thp_disable(true).ok();
    started
}

fn spawn(spec: &ShimSpec) -> Result<Pid, String> {
    let (program, arguments) = spec.argv.split_first().ok_or("`argv` is empty: there is nothing to start")?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&spec.env).current_dir(&spec.cwd).stdin(Stdio::null()).process_group(0);
    if let Some(gid) = spec.gid {
        command.gid(gid);
    }
    if let Some(uid) = spec.uid {
        // As root this also clears the supplementary groups.
        command.uid(uid);
    }
    // A command inherits the mask and must be able to be asked to end, so nothing is blocked for the moment of its
    // spawning. A child that dies in that moment is seen by the first reaping.
    SigSet::empty().thread_set_mask().expect("an empty mask is valid");
    let spawned = command.spawn();
    blocked_signals().thread_block().expect("it was blocked before");
    let child = spawned.map_err(|error| format!("cannot start `{program}` in {}: {error}", spec.cwd.display()))?;
    Ok(Pid::from_raw(i32::try_from(child.id()).expect("Linux process ids are positive i32")))
}

/// Writes one event; a parent that is gone cannot be told.
fn tell(parent: &mut UnixStream, event: &ShimEvent) {
    let mut line = serde_json::to_vec(event).expect("events are plain values");
    line.push(b'\n');
    parent.write_all(&line).ok();
}

fn microseconds(time: TimeVal) -> u64 {
    u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_usec()).unwrap_or(0)
}

/// `ru_maxrss` is in KiB on Linux.
fn memory_peak_bytes(usage: &Usage) -> u64 {
    u64::try_from(usage.max_rss()).unwrap_or(0) * 1024
}
