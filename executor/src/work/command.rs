//! The `run` kind: a script in a fresh directory under the shim, and the verdict on how it ended.
//!
//! The script is a file, run by `sh -e`: it ends at the first command that fails. One that starts with `#!` is run by
//! the interpreter named there, with at most one argument, as the kernel does it; but the file needs no right to be
//! executed, so `run_root` may be mounted `noexec`.

use super::environment::{EnvironmentError, Exchange, environment};
use super::scratch::{Scratch, ScratchError, resolve_workdir};
use super::streams::Captured;
use super::{Assignment, Retryable, WorkReport, WorkResult, WorkSettings, output, timeout_message};
use crate::shim::{Shim, ShimError, ShimReport, ShimSpec, StopSignal};
use orchestr8_proto::ids::RunId;
use orchestr8_proto::wire::{OUTPUT_BYTES_MAX, TAIL_BYTES_MAX};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long stdout and stderr are read after the tree is gone: they have ended, unless something outside holds them.
const DRAIN_MAX: Duration = Duration::from_millis(500);
/// Beyond the grace, for the killing: a shim that has not reported by then is abandoned.
const SHIM_ANSWER_MAX: Duration = Duration::from_secs(15);
/// Of the last line of stderr in a failure's message.
const LAST_LINE_BYTES_MAX: usize = 512;

/// Runs the script to its end; the report's duration is left to the caller.
pub async fn run(settings: &std::sync::Arc<WorkSettings>, assignment: Assignment, script: String, kill: &CancellationToken) -> WorkReport {
    let (run_id, timeout_ms) = (assignment.run_id, assignment.dispatch.timeout_ms);
    let prepared = {
        let settings = settings.clone();
        // With it go the inputs: they may be large, the run may be long, and its directory has them.
        on_disk(move || prepare(&settings, &assignment, &script)).await
    };
    let (scratch, spec) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return failure.into(),
    };
    let mut streams = Streams::new();
    let spawned = Shim::spawn(&settings.shim_program, &spec, Stdio::piped(), Stdio::piped());
    drop(spec);
    let ended = match spawned {
        Ok(mut shim) => streams.watch(&mut shim, settings.grace, kill).await,
        Err(error) => Err(error),
    };
    conclude(Attempt { settings, run_id, timeout_ms, streams, ended }, scratch).await
}

/// What is known when the command has ended.
struct Attempt<'a> {
    settings: &'a WorkSettings,
    run_id: RunId,
    timeout_ms: u64,
    streams: Streams,
    ended: Result<ShimReport, ShimError>,
}

async fn conclude(attempt: Attempt<'_>, scratch: Scratch) -> WorkReport {
    let Attempt { settings, run_id, timeout_ms, streams, ended } = attempt;
    let result = match &ended {
        Ok(report) => match failure(report, timeout_ms, &streams.stderr) {
            Some(failure) => Err(failure),
            None => Ok(()),
        },
        Err(error) => Err(shim_failure(error)),
    };
    let owner = settings.user.map(|(uid, _)| uid);
    let read_output = result.is_ok();
    let file = on_disk(move || {
        // The directory goes when the closure ends.
        if read_output { output::from_file(&scratch.output(), owner) } else { Ok(None) }
    })
    .await;
    let result = match result {
        Err(failure) => failure,
        Ok(()) => completed(file, &streams.stdout),
    };
    let used = ended.ok();
    if let Some(survivors @ 1..) = used.as_ref().map(|report| report.survivors) {
        tracing::warn!(%run_id, survivors, "processes of a command did not die of SIGKILL");
    }
    WorkReport {
        result,
        duration: Duration::ZERO,
        cpu_time: Duration::from_micros(used.as_ref().map_or(0, |report| report.cpu_time_us)),
        memory_peak_bytes: used.map_or(0, |report| report.memory_peak_bytes),
        stdout_tail: streams.stdout.tail(TAIL_BYTES_MAX),
        stderr_tail: streams.stderr.tail(TAIL_BYTES_MAX),
    }
}

fn completed(file: Result<Option<bytes::Bytes>, output::OutputError>, stdout: &Captured) -> WorkResult {
    let output_json = match file {
        Ok(Some(json)) => Ok(json),
        Ok(None) => output::from_stdout(stdout),
        Err(error) => Err(error),
    };
    match output_json {
        Ok(output_json) => WorkResult::Completed { output_json },
        Err(error) => error.into(),
    }
}

/// Both streams of the command.
struct Streams {
    stdout: Captured,
    stderr: Captured,
}

impl Streams {
    fn new() -> Self {
        Self { stdout: Captured::new(OUTPUT_BYTES_MAX), stderr: Captured::new(TAIL_BYTES_MAX) }
    }

    /// Reads both while the shim lives, stops it when `kill` says so, and reads a moment longer.
    async fn watch(&mut self, shim: &mut Shim, grace: Duration, kill: &CancellationToken) -> Result<ShimReport, ShimError> {
        let (stdout, stderr) = (shim.take_stdout(), shim.take_stderr());
        let mut reading = std::pin::pin!(async { tokio::join!(self.stdout.fill(stdout), self.stderr.fill(stderr)) });
        let mut read_all = false;
        let ended = {
            let mut ending = std::pin::pin!(end(shim, grace, kill));
            loop {
                tokio::select! {
                    _ = &mut reading, if !read_all => read_all = true,
                    ended = &mut ending => break ended,
                }
            }
        };
        // What is held open from outside the tree must not hold the attempt.
        if !read_all && tokio::time::timeout(DRAIN_MAX, reading).await.is_err() {
            tracing::warn!("stdout or stderr of a command is still held by a process outside its tree; the rest is not read");
        }
        ended
    }
}

async fn end(shim: &mut Shim, grace: Duration, kill: &CancellationToken) -> Result<ShimReport, ShimError> {
    tokio::select! {
        biased;
        ended = shim.ended() => return ended,
        () = kill.cancelled() => {}
    }
    let stopping = async {
        shim.stop().await;
        shim.ended().await
    };
    if let Ok(ended) = tokio::time::timeout(grace + SHIM_ANSWER_MAX, stopping).await {
        return ended;
    }
    shim.abandon();
    Err(ShimError::Vanished)
}

fn prepare(settings: &WorkSettings, assignment: &Assignment, script: &str) -> Result<(Scratch, ShimSpec), WorkResult> {
    let scratch = Scratch::prepare(settings, assignment.run_id, script, &assignment.dispatch.with_json)?;
    let spec = spec(settings, assignment, script, &scratch)?;
    Ok((scratch, spec))
}

fn spec(settings: &WorkSettings, assignment: &Assignment, script: &str, scratch: &Scratch) -> Result<ShimSpec, WorkResult> {
    let dispatch = &assignment.dispatch;
    let cwd = if dispatch.workdir.is_empty() { scratch.work() } else { resolve_workdir(settings, &dispatch.workdir)? };
    let (input, output) = (scratch.input(), scratch.output());
    Ok(ShimSpec {
        argv: argv(script, &scratch.script()),
        env: environment(settings, assignment, Exchange { input: &input, output: &output })?,
        cwd,
        uid: settings.user.map(|(uid, _)| uid),
        gid: settings.user.map(|(_, gid)| gid),
        timeout_ms: (dispatch.timeout_ms != 0).then_some(dispatch.timeout_ms),
        grace_ms: u64::try_from(settings.grace.as_millis()).unwrap_or(u64::MAX),
        orphan_grace_ms: None,
        stop_signal: StopSignal::Term,
    })
}

/// Who runs the script's file.
fn argv(script: &str, file: &Path) -> Vec<String> {
    let file = file.display().to_string();
    let interpreter = script.strip_prefix("#!").and_then(|rest| rest.lines().next()).map(str::trim).filter(|line| !line.is_empty());
    match interpreter.map(|line| line.split_once([' ', '\t']).unwrap_or((line, ""))) {
        Some((program, "")) => vec![program.into(), file],
        Some((program, argument)) => vec![program.into(), argument.trim().into(), file],
        None => vec!["/bin/sh".into(), "-e".into(), file],
    }
}

impl From<ScratchError> for WorkResult {
    fn from(error: ScratchError) -> Self {
        match error {
            ScratchError::Prepare { .. } => Self::failed("spawn", error.to_string(), Retryable::Yes),
            ScratchError::NoDirectory { .. } | ScratchError::NotAllowed { .. } => Self::failed("workdir", error.to_string(), Retryable::No),
        }
    }
}

impl From<EnvironmentError> for WorkResult {
    fn from(error: EnvironmentError) -> Self {
        let error_type = match error {
            EnvironmentError::ValueTooLarge { .. } | EnvironmentError::AllTooLarge(_) => "value_too_large",
            EnvironmentError::With(_)
            | EnvironmentError::Name(_)
            | EnvironmentError::Reserved(_)
            | EnvironmentError::Nul(_)
            | EnvironmentError::TooLarge(_) => "environment",
        };
        Self::failed(error_type, error.to_string(), Retryable::No)
    }
}

fn shim_failure(error: &ShimError) -> WorkResult {
    let error_type = match error {
        ShimError::Unstarted(_) => return WorkResult::NeverStarted { detail: error.to_string() },
        ShimError::Start { .. } | ShimError::Path(_) | ShimError::Command(_) => "spawn",
        ShimError::Vanished | ShimError::Malformed(_) => "shim",
    };
    WorkResult::failed(error_type, error.to_string(), Retryable::Yes)
}

/// Why the command did not succeed; none, if it did.
fn failure(report: &ShimReport, timeout_ms: u64, stderr: &Captured) -> Option<WorkResult> {
    let (error_type, message) = match (report.exit_code, report.signal) {
        _ if report.timed_out => ("timeout", timeout_message(timeout_ms)),
        _ if report.stopped => ("killed", "the run was told to end".to_owned()),
        (Some(0), _) => return None,
        (Some(code), _) => ("exit", with_last_line(format!("exit code {code}"), stderr)),
        (None, Some(signal)) => ("signal", with_last_line(format!("ended by {}", signal_name(signal)), stderr)),
        (None, None) => ("signal", "the command ended in an unknown way".to_owned()),
    };
    Some(WorkResult::Failed {
        error_type: error_type.into(),
        message,
        exit_code: report.exit_code,
        retryable: Retryable::Yes,
        retry_after: None,
    })
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string())
}

/// The message with the last line of stderr that says anything.
fn with_last_line(message: String, stderr: &Captured) -> String {
    let tail = stderr.tail(TAIL_BYTES_MAX);
    let Some(line) = tail.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).rfind(|line| !line.is_empty()) else {
        return message;
    };
    let line = String::from_utf8_lossy(&line[..line.len().min(LAST_LINE_BYTES_MAX)]).replace('\0', "\u{fffd}");
    format!("{message}: {line}")
}

/// Runs what waits for the disk away from the threads that serve everything else.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and takes this future with it.
            Err(_) => std::future::pending().await,
        },
    }
}
