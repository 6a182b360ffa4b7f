//! One attempt, from a decoded dispatch to its report: a command under the shim, or a registered handler.
//!
//! - `command`: the `run` kind: script, shim, verdict on how the command ended
//! - `environment`: the variables of the command
//! - `folder`: the folder of one executor below `run_root`, and what dead ones left there
//! - `scratch`: the fresh directory of an attempt, and which working directories are allowed
//! - `streams`: stdout and stderr, read continuously, the end of them kept
//! - `output`: which JSON value the attempt produced
//!
//! Nothing here talks to a coordinator.

mod command;
mod environment;
pub(crate) mod folder;
mod output;
mod scratch;
mod streams;
#[cfg(test)]
mod tests;

pub use folder::FolderError;
pub(crate) use folder::{Folder, sweep};

use crate::handlers::{HandlerContext, HandlerError, Handlers};
use bytes::Bytes;
use futures::FutureExt;
use orchestr8_proto::ids::{DispatchId, RunId, TaskId};
use orchestr8_proto::wire;
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What an executor may run and where; from its configuration.
#[derive(Debug, Clone)]
pub struct WorkSettings {
    /// What is started with `shim` as its only argument: see [`program_beside`](crate::shim::program_beside).
    pub shim_program: PathBuf,
    /// Fresh directories of attempts are made below it; created (0711) when absent. Only the executor's user may write there.
    /// Several executors may share it: each has a folder of its own in it, and removes those of dead ones.
    pub run_root: PathBuf,
    /// Directories in which (and below which) a task may name its `workdir`.
    pub workdirs_allowed: Vec<PathBuf>,
    /// Base environment of every command (`PATH`, `HOME`, `LANG` …); nothing else is inherited.
    pub environment: BTreeMap<String, String>,
    /// uid and gid of commands, when the executor runs as root; none: the executor's own.
    pub user: Option<(u32, u32)>,
    /// Between asking a command or handler to end and forcing it.
    pub grace: Duration,
    /// The code that `handler` tasks may name.
    pub handlers: Handlers,
}

/// One decoded dispatch, ready to run.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// What to do.
    pub dispatch: wire::Dispatch,
    /// The dispatch's task, decoded.
    pub task_id: TaskId,
    /// The dispatch's id, decoded.
    pub dispatch_id: DispatchId,
    /// Drawn for this start; names the fresh directory.
    pub run_id: RunId,
}

/// Whether the retry policy may try again after this failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retryable {
    /// Another attempt may end differently.
    Yes,
    /// No attempt can succeed, whatever the policy says.
    No,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkResult {
    /// It did what it should.
    Completed {
        /// One JSON value, at most [`wire::OUTPUT_BYTES_MAX`].
        output_json: Bytes,
    },
    /// It did not.
    Failed {
        /// A stable word: `exit signal timeout killed spawn shim workdir environment value_too_large input output output_too_large panic`,
        /// or the handler's own.
        error_type: String,
        /// For people: what happened and what to do.
        message: String,
        /// The command's exit code, where it had one.
        exit_code: Option<i32>,
        /// Whether another attempt makes sense.
        retryable: Retryable,
        /// The earliest next attempt that a handler asked for.
        retry_after: Option<Duration>,
    },
    /// Nothing was started, and nothing is wrong with the task.
    NeverStarted {
        /// What kept it from starting.
        detail: String,
    },
    /// This executor does not know the kind or the handler; nothing was started.
    Unsupported {
        /// What exactly, for `why`.
        detail: String,
    },
}

/// One attempt as the outcome tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkReport {
    /// How it ended.
    pub result: WorkResult,
    /// From its start to its end, on this machine's monotonic clock.
    pub duration: Duration,
    /// User and system time of the command's whole tree; zero for handlers.
    pub cpu_time: Duration,
    /// Largest resident set of any one process of the tree; zero for handlers.
    pub memory_peak_bytes: u64,
    /// The last [`wire::TAIL_BYTES_MAX`] of stdout, as raw bytes.
    pub stdout_tail: Bytes,
    /// The last [`wire::TAIL_BYTES_MAX`] of stderr, as raw bytes.
    pub stderr_tail: Bytes,
}

/// Runs one attempt to its end.
///
/// `kill` is triggered by a kill verdict, by `on_disconnect` or by the end of a drain: then the tree is stopped
/// (within `grace`, then by force) and the result is `Failed` with error type `killed`. Whatever the task does, this
/// returns; it never panics for a handler's sake. Dropping the future stops the tree too, without a report.
pub async fn run(settings: Arc<WorkSettings>, mut assignment: Assignment, kill: CancellationToken) -> WorkReport {
    use wire::dispatch::Kind;
    let started = Instant::now();
    let mut report = match assignment.dispatch.kind.take() {
        Some(Kind::Run(run)) => command::run(&settings, assignment, run.script, &kill).await,
        Some(Kind::Handler(handler)) => run_handler(&settings, assignment, &handler.name, &kill).await.into(),
        Some(Kind::Reference(_)) => WorkResult::Unsupported { detail: "the inputs of the dispatch were not fetched".into() }.into(),
        None => WorkResult::Unsupported { detail: "the dispatch is of a kind that this executor's version does not know".into() }.into(),
    };
    report.duration = started.elapsed();
    report
}

impl WorkResult {
    /// A failure that says only what and why.
    fn failed(error_type: &str, message: impl Into<String>, retryable: Retryable) -> Self {
        Self::Failed { error_type: error_type.to_owned(), message: message.into(), exit_code: None, retryable, retry_after: None }
    }
}

impl From<WorkResult> for WorkReport {
    /// The report of what used no process.
    fn from(result: WorkResult) -> Self {
        Self {
            result,
            duration: Duration::ZERO,
            cpu_time: Duration::ZERO,
            memory_peak_bytes: 0,
            stdout_tail: Bytes::new(),
            stderr_tail: Bytes::new(),
        }
    }
}

impl From<HandlerError> for WorkResult {
    fn from(error: HandlerError) -> Self {
        let HandlerError { error_type, message, retryable, retry_after } = error;
        Self::Failed { error_type, message, exit_code: None, retryable, retry_after }
    }
}

async fn run_handler(settings: &WorkSettings, assignment: Assignment, name: &str, kill: &CancellationToken) -> WorkResult {
    let Some(handler) = settings.handlers.get(name) else {
        return WorkResult::Unsupported { detail: unknown_handler(settings, name) };
    };
    let wire::Dispatch { with_json, prompt, attempt, timeout_ms, .. } = assignment.dispatch;
    let with = match environment::with_object(&with_json) {
        Ok(with) => serde_json::Value::Object(with),
        Err(error) => return WorkResult::failed("input", error.to_string(), Retryable::No),
    };
    // They may be large, and the handler has its own.
    drop(with_json);
    let cancelled = kill.child_token();
    let prompt = (!prompt.is_empty()).then_some(prompt);
    let context = HandlerContext { with, prompt, attempt, cancelled: cancelled.clone() };
    // The call itself can panic too, so it happens inside the guarded future.
    let mut work = Box::pin(AssertUnwindSafe(async move { handler(context).await }).catch_unwind());
    let interrupted = tokio::select! {
        biased;
        ended = &mut work => return handler_result(ended),
        () = kill.cancelled() => WorkResult::failed("killed", "the run was told to end", Retryable::Yes),
        () = time_out(timeout_ms) => WorkResult::failed("timeout", timeout_message(timeout_ms), Retryable::Yes),
    };
    cancelled.cancel();
    // Its answer no longer matters, but it may have something to put in order.
    if tokio::time::timeout(settings.grace, work).await.is_err() {
        tracing::warn!(handler = name, "the handler did not end when it was cancelled; it was dropped");
    }
    interrupted
}

type HandlerEnd = Result<Result<serde_json::Value, HandlerError>, Box<dyn Any + Send>>;

fn handler_result(ended: HandlerEnd) -> WorkResult {
    match ended {
        Ok(Ok(value)) => match output::from_value(&value) {
            Ok(output_json) => WorkResult::Completed { output_json },
            Err(error) => error.into(),
        },
        Ok(Err(error)) => error.into(),
        Err(panic) => WorkResult::failed("panic", format!("the handler panicked: {}", panic_message(&*panic)), Retryable::Yes),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

fn unknown_handler(settings: &WorkSettings, name: &str) -> String {
    let known = settings.handlers.names().collect::<Vec<_>>().join(", ");
    format!("handler `{name}` is not registered in this executor, which knows: {known}")
}

/// Ends after `timeout_ms`; never, if that is 0.
async fn time_out(timeout_ms: u64) {
    if timeout_ms == 0 {
        std::future::pending::<()>().await;
    } else {
        tokio::time::sleep(Duration::from_millis(timeout_ms)).await;
    }
}

fn timeout_message(timeout_ms: u64) -> String {
    let seconds = Duration::from_millis(timeout_ms).as_secs_f64();
    format!("the attempt ran longer than its `timeout` of {seconds} s: raise `timeout`, or make it faster")
}
