//! The executor's loop: takes in what happened, lets the desk decide, does what it says.

use crate::clock::{Clock, Timekeeper};
use crate::desk::{Desk, Effect, NewRun, Publication, answers_subject, pulls_subject};
use crate::link::{LineState, Link, LinkError, connect};
use crate::metrics::Metrics;
use crate::probes;
use crate::settings::{ExecutorSettings, ProbeSettings, SettingsError};
use crate::spans::RunSpan;
use crate::work::{self, Assignment, Folder, FolderError, Retryable, WorkReport, WorkResult, WorkSettings};
use async_nats::{Client, Subscriber};
use futures::{FutureExt, StreamExt};
use orchestr8_proto::ids::RunId;
use orchestr8_proto::names::{CONTROL_ALL, COORDINATOR_BEATS, control_subject};
use orchestr8_proto::rights;
use orchestr8_proto::traces::SpanSink;
use orchestr8_proto::wire::dispatch::Kind;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Events taken in at once, at most: a burst shares one message, and none waits for long.
const BURST_MAX: usize = 256;
/// The server is given this long to let the pulls go; without an answer they end with the connection.
const LET_GO_WITHIN: Duration = Duration::from_secs(1);
/// The last heartbeat is given this long to leave.
const FAREWELL_WITHIN: Duration = Duration::from_secs(1);

/// Why an executor ended.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// It was told something that cannot work.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is nowhere to run anything.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The address for metrics and probes cannot be used.
    #[error("cannot listen on {address} (--metrics-listen): {reason}; end what has it, or name another address with --metrics-listen")]
    Probes {
        /// What was asked for.
        address: SocketAddr,
        /// The system's words.
        reason: String,
    },
    /// There is no connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The client refused a subscription, or ended.
    #[error("the NATS client ended: {0}")]
    Client(String),
}

/// What comes from outside.
struct Inputs {
    /// Messages of pulls, and what the server says of the pulls.
    pulls: Subscriber,
    /// What the rest of our requests is answered.
    answers: Subscriber,
    control: Subscriber,
    control_all: Subscriber,
    coordinators: Subscriber,
    reports: mpsc::UnboundedReceiver<(RunId, WorkReport)>,
}

/// One thing that happened.
enum Input {
    Inbox(async_nats::Message),
    Control(async_nats::Message),
    Coordinator(async_nats::Message),
    Report(RunId, Box<WorkReport>),
    Line(LineState),
    Tick,
    Shutdown,
    /// The client ended by itself.
    Gone,
}

/// Carries effects out, and tells the time.
struct Outputs {
    time: Timekeeper,
    link: Link,
    work: Arc<WorkSettings>,
    metrics: Metrics,
    spans: SpanSink,
    executor: Arc<str>,
    reports: mpsc::UnboundedSender<(RunId, WorkReport)>,
}

/// Runs an executor until `shutdown` is cancelled and its drain is over.
///
/// Takes tasks of its queues, runs them and reports how they ended. Survives the loss of the server, of streams and of
/// consumers, for as long as it takes.
///
/// # Errors
/// [`ExecutorError`] when it cannot start: settings that cannot work, a `run_root` that cannot be used, or no connection.
pub async fn serve(mut settings: ExecutorSettings, shutdown: CancellationToken) -> Result<(), ExecutorError> {
    settings.check()?;
    let run_root = settings.work.run_root.clone();
    // Removed at the end, when nothing runs any more.
    let folder = Folder::claim(&run_root)?;
    folder.path().clone_into(&mut settings.work.run_root);
    // There may be much to remove, and nothing waits for it.
    tokio::task::spawn_blocking(move || work::sweep(&run_root));
    let metrics = Metrics::new(settings.work.run_root.clone());
    let _probes = answer_probes(settings.probes.as_ref(), &metrics).await?;
    let link = match connect(&settings.nats, &settings.name, settings.startup_patience, &shutdown).await {
        Err(LinkError::Shutdown) => return Ok(()),
        other => other?,
    };
    let inbox = link.client.new_inbox();
    let time = Timekeeper::start();
    let mut desk = Desk::new(&settings, inbox.clone(), time.clock().now);
    let (reports_in, reports) = mpsc::unbounded_channel();
    let mut inputs = subscribe(&link.client, &inbox, &desk, reports).await?;
    check_rights(&settings, &link).await?;
    tracing::info!(
        name = settings.name,
        incarnation = %desk.incarnation(),
        queues = settings.queues.join(","),
        slots = settings.slots,
        "the executor takes work"
    );
    let (executor, spans) = (settings.name.as_str().into(), settings.spans);
    let mut outputs = Outputs { time, link, work: Arc::new(settings.work), metrics, spans, executor, reports: reports_in };
    work_until_drained(&mut desk, &mut inputs, &mut outputs, &shutdown).await?;
    desk.say_farewell(time.clock());
    outputs.carry_out(desk.take_effects(time.clock())).await;
    if tokio::time::timeout(FAREWELL_WITHIN, outputs.link.client.flush()).await.is_err() {
        tracing::warn!("the last heartbeat may not have left");
    }
    Ok(())
}

/// A login that lacks a right would be silently idle, or lose its runs.
async fn check_rights(settings: &ExecutorSettings, link: &Link) -> Result<(), LinkError> {
    let needed = rights::of_executors(settings.nats.login.as_ref(), &settings.queues);
    let checked = orchestr8_nats::check_rights(&link.client, &settings.nats, &needed, &link.violations).await;
    checked.map_err(|lacking| LinkError::Forbidden { addresses: settings.nats.shown(), lacking })
}

/// They are answered for as long as the handle lives.
async fn answer_probes(settings: Option<&ProbeSettings>, metrics: &Metrics) -> Result<Option<JoinSet<()>>, ExecutorError> {
    let Some(settings) = settings else { return Ok(None) };
    let refused = |(address, reason)| ExecutorError::Probes { address, reason };
    probes::serve(settings, metrics.clone()).await.map(Some).map_err(refused)
}

async fn subscribe(
    client: &Client,
    inbox: &str,
    desk: &Desk,
    reports: mpsc::UnboundedReceiver<(RunId, WorkReport)>,
) -> Result<Inputs, ExecutorError> {
    let failed = |error: async_nats::SubscribeError| ExecutorError::Client(error.to_string());
    Ok(Inputs {
        pulls: client.subscribe(pulls_subject(inbox)).await.map_err(failed)?,
        answers: client.subscribe(answers_subject(inbox)).await.map_err(failed)?,
        control: client.subscribe(control_subject(desk.incarnation())).await.map_err(failed)?,
        control_all: client.subscribe(CONTROL_ALL).await.map_err(failed)?,
        coordinators: client.subscribe(COORDINATOR_BEATS).await.map_err(failed)?,
        reports,
    })
}

async fn work_until_drained(
    desk: &mut Desk,
    inputs: &mut Inputs,
    outputs: &mut Outputs,
    shutdown: &CancellationToken,
) -> Result<(), ExecutorError> {
    let tick = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(tick);
    let mut state = outputs.link.state.clone();
    let mut told = false;
    let time = outputs.time;
    loop {
        if outputs.start_all(desk.take_starts()) {
            // Then their outcomes leave with what asks for more, in one write.
            tokio::task::yield_now().await;
            take_what_is_there(desk, inputs, time);
            outputs.start_all(desk.take_starts());
        }
        outputs.carry_out(desk.take_effects(time.clock())).await;
        outputs.metrics.show(desk.figures(time.clock().now));
        if desk.is_drained(time.clock().now) {
            return Ok(());
        }
        // Idle may have turned into busy: then the next tick is sooner.
        let soonest = tokio::time::Instant::now() + desk.patience();
        if soonest < tick.deadline() {
            tick.as_mut().reset(soonest);
        }
        let input = tokio::select! {
            input = inputs.next() => input,
            changed = state.changed() => changed.map_or(Input::Gone, |()| Input::Line(*state.borrow_and_update())),
            () = &mut tick => Input::Tick,
            () = shutdown.cancelled(), if !told => Input::Shutdown,
        };
        match &input {
            Input::Gone => return Err(ExecutorError::Client("its connection was closed for good".into())),
            Input::Shutdown => {
                told = true;
                desk.drain(time.clock());
                // Before anything else is sent: each command to the client may end its patience with what is under way.
                for message in inputs.let_pulls_go().await {
                    desk.receive(message, time.clock());
                }
            }
            Input::Line(LineState::Down(_)) => outputs.metrics.connection_lost(),
            Input::Tick => tick.as_mut().reset(tokio::time::Instant::now() + desk.patience()),
            Input::Inbox(_) | Input::Control(_) | Input::Coordinator(_) | Input::Report(..) | Input::Line(LineState::Up(_)) => {}
        }
        if matches!(input, Input::Report(..)) {
            // Short tasks that began together end together: what waits for this worker to run it belongs to this burst.
            tokio::task::yield_now().await;
        }
        take_in(desk, input, time.clock());
        take_what_is_there(desk, inputs, time);
    }
}

impl Inputs {
    /// The next thing from outside. Safe to drop between two polls: nothing is taken before it is returned.
    async fn next(&mut self) -> Input {
        tokio::select! {
            // It ends before the others in a drain.
            Some(message) = self.pulls.next() => Input::Inbox(message),
            message = self.answers.next() => message.map_or(Input::Gone, Input::Inbox),
            Some((run_id, report)) = self.reports.recv() => Input::Report(run_id, Box::new(report)),
            message = self.control.next() => message.map_or(Input::Gone, Input::Control),
            message = self.control_all.next() => message.map_or(Input::Gone, Input::Control),
            message = self.coordinators.next() => message.map_or(Input::Gone, Input::Coordinator),
        }
    }

    /// Ends the interest in our pulls, without which the server serves none of them; what they brought until then.
    ///
    /// A parked pull that outlived its executor would take a message with it, which nobody sees before the ack wait.
    /// A server passes over pulls without interest, and what it cannot deliver goes to the next one at once. The client
    /// may take the subscription's end for done before the server's answer when anything else wakes it meanwhile: what
    /// comes in that one round trip and is not seen here waits for the ack wait after all.
    async fn let_pulls_go(&mut self) -> Vec<async_nats::Message> {
        // An error says that the client has ended, and so the pulls have.
        self.pulls.drain().await.ok();
        let mut brought = Vec::new();
        let taken = async {
            while let Some(message) = self.pulls.next().await {
                brought.push(message);
            }
        };
        if tokio::time::timeout(LET_GO_WITHIN, taken).await.is_err() {
            tracing::warn!("the server did not let the pulls go in time: what they bring now comes again after the ack wait");
        }
        brought
    }
}

/// What has arrived shares the effects of what was taken in before: one message of outcomes instead of many.
fn take_what_is_there(desk: &mut Desk, inputs: &mut Inputs, time: Timekeeper) {
    for _ in 1..BURST_MAX {
        let Some(input) = inputs.next().now_or_never() else { break };
        take_in(desk, input, time.clock());
    }
}

fn take_in(desk: &mut Desk, input: Input, clock: Clock) {
    match input {
        Input::Inbox(message) => desk.receive(message, clock),
        Input::Control(message) => desk.control(message.payload, clock),
        Input::Coordinator(message) => desk.hear(message.payload, clock),
        Input::Report(run_id, report) => desk.ended(run_id, *report, clock),
        Input::Line(LineState::Up(2..)) => desk.reconnected(clock),
        Input::Line(LineState::Down(_)) => desk.disconnected(),
        Input::Tick => desk.tick(clock),
        // The first connection is the one that everything so far was sent on; the drain has begun, and that there is no
        // client any more ended the loop.
        Input::Line(LineState::Up(0 | 1)) | Input::Shutdown | Input::Gone => {}
    }
}

impl Outputs {
    /// Starts them; whether some of them may end at once.
    fn start_all(&self, starts: Vec<NewRun>) -> bool {
        let mut short = false;
        for (assignment, kill) in starts {
            short |= matches!(assignment.dispatch.kind, Some(Kind::Handler(_)));
            self.start(assignment, kill);
        }
        short
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish(publication) => self.publish(publication).await,
                Effect::ChangeServer => self.link.change_server().await,
            }
        }
    }

    /// Hands a message to the client; gives it up when the connection is lost, because a reconnect sends everything anew.
    async fn publish(&mut self, publication: Publication) {
        let Publication { subject, reply, payload } = publication;
        let client = &self.link.client;
        let handed_over = async {
            match reply {
                Some(reply) => client.publish_with_reply(subject, reply, payload).await,
                None => client.publish(subject, payload).await,
            }
        };
        let lost = self.link.state.wait_for(|state| matches!(state, LineState::Down(_)));
        tokio::select! {
            biased;
            result = handed_over => {
                if let Err(error) = result {
                    tracing::warn!(%error, "a message was not sent");
                }
            }
            _ = lost => {}
        }
    }

    fn start(&self, mut assignment: Assignment, kill: CancellationToken) {
        let (run_id, task_id, attempt) = (assignment.run_id, assignment.task_id, assignment.dispatch.attempt);
        tracing::debug!(workflow_id = %task_id.execution(), %task_id, %run_id, shard = task_id.shard(), attempt, "a run starts");
        let span = RunSpan::begin(&self.spans, &mut assignment, &self.executor);
        let (settings, metrics, reports) = (self.work.clone(), self.metrics.clone(), self.reports.clone());
        tokio::spawn(async move {
            // A run that ends without a report would hold its slot for ever.
            let report = AssertUnwindSafe(work::run(settings, assignment, kill)).catch_unwind().await.unwrap_or_else(|_| panicked());
            metrics.run_ended(&report);
            span.into_iter().for_each(|span| span.end(&report));
            tracing::debug!(workflow_id = %task_id.execution(), %task_id, %run_id, shard = task_id.shard(), attempt, "a run ended");
            if reports.send((run_id, report)).is_err() {
                tracing::debug!(%run_id, "a run ended after its executor");
            }
        });
    }
}

fn panicked() -> WorkReport {
    let message = "the executor failed while it ran this attempt: its log tells more".to_owned();
    WorkResult::Failed { error_type: "panic".into(), message, exit_code: None, retryable: Retryable::Yes, retry_after: None }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::settings;
    use crate::work::folder::tests::{abandoned, names};

    /// No test waits longer for anything.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn an_executor_has_a_folder_while_it_lives_and_removes_those_of_dead_ones() {
        let place = tempfile::tempdir().expect("a directory");
        let dead = abandoned(place.path());
        let mut settings = settings();
        // Nobody listens there, so it tries to connect until it is told to end.
        settings.nats.addresses = vec!["nats://127.0.0.1:1".to_owned()];
        settings.startup_patience = PATIENCE;
        settings.work.run_root = place.path().to_owned();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(settings, shutdown.clone()));
        let swept = async {
            while dead.exists() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, swept).await.expect("the folder of the dead one is removed");
        assert_eq!(names(place.path()).len(), 1, "its own");
        shutdown.cancel();
        let ended = tokio::time::timeout(PATIENCE, serving).await.expect("in time").expect("no panic");
        assert!(ended.is_ok() && names(place.path()).is_empty(), "{ended:?}");
    }
}
