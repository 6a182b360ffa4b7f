//! `wait`: until work has ended, however long that takes and whatever restarts meanwhile.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_json};
use super::target::{GivenId, Target, parse_id};
use super::values::parse_span;
use crate::client::shapes::{TaskResult, Workflow};
use crate::client::{ClientError, Pauses, SUBMIT_PATIENCE};
use crate::exit::Exit;
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The server holds one question this long, at most.
const ROUND: Duration = Duration::from_secs(30);
/// An answer that comes back sooner, and says that nothing has ended, is followed by a pause.
const ROUND_MIN: Duration = Duration::from_secs(1);
/// Without `--timeout`, a coordinator that answered before may be away this long: longer than a restart, shorter than forever.
pub const ABSENCE_MAX: Duration = Duration::from_mins(10);
/// With `--timeout`, an answer to the last question may be so late; then there is none.
const LATE_MAX: Duration = Duration::from_secs(2);
/// Ids of one command: each holds a question open at the server.
const IDS_MAX: usize = 256;

/// Wait until tasks or workflows have ended.
///
/// Prints one line per id as it ends: the id and its final state. With -o json: all ids with their states, at the end. Survives restarts of the coordinator.
#[derive(Debug, clap::Args)]
pub struct WaitArgs {
    /// Ids of tasks or workflows, or their first 8 or more digits; at most 256.
    #[arg(required = true, value_name = "ID", value_parser = parse_id)]
    ids: Vec<GivenId>,
    /// Return as soon as one of them has ended, successful or not.
    #[arg(long, conflicts_with = "all")]
    any: bool,
    /// Return when all of them have ended [default].
    #[arg(long)]
    all: bool,
    /// Stop waiting after this time with exit code 124; the work goes on. For instance 30m, 2h, 90s.
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    timeout: Option<Duration>,
    #[command(flatten)]
    client: ClientArgs,
}

/// How something ended, with the coordinator's whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// What.
    pub target: Target,
    /// Its final state, as shown.
    pub status: &'static str,
    /// The success or not.
    pub exit: Exit,
    /// The result of a task, or the whole workflow.
    pub answer: Value,
}

/// Waits; the exit code tells the outcome.
///
/// # Errors
/// [`CommandError`] when something cannot be waited for.
pub async fn wait(args: &WaitArgs) -> Result<Exit, CommandError> {
    if args.ids.len() > IDS_MAX {
        return Err(CommandError::Usage(format!(
            "{} ids are given, the limit is {IDS_MAX}: wait for some after the others, or for their workflow",
            args.ids.len()
        )));
    }
    let context = Context::new(&args.client)?;
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let mut targets = Vec::new();
    for id in &args.ids {
        let target = context.resolve(id).await?;
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    let ended = if args.any { first_of(&context, &targets, deadline).await? } else { all_of(&context, &targets, deadline).await? };
    if context.format == Format::Json {
        let statuses = futures::future::try_join_all(targets.iter().map(|target| status_now(&context, *target, &ended))).await?;
        emit_json(&report(&targets, &statuses))?;
    }
    let needed = if args.any { 1 } else { targets.len() };
    let exit = verdict(&ended, needed);
    if exit == Exit::TimedOut {
        eprintln!("{}", unended(&targets, &ended));
    }
    Ok(exit)
}

/// What still goes on when the time is over.
fn unended(targets: &[Target], ended: &[Ended]) -> String {
    let open = targets.iter().filter(|target| !ended.iter().any(|ended| ended.target == **target));
    let lines: Vec<String> = open.map(|target| format!("{target} has not ended yet; it goes on")).collect();
    lines.join("\n")
}

/// 0 when enough completed, 1 when enough ended but not well, 124 when too few ended.
fn verdict(ended: &[Ended], needed: usize) -> Exit {
    let completed = ended.iter().filter(|ended| ended.exit == Exit::Done).count();
    match (completed >= needed, ended.len() >= needed) {
        (true, _) => Exit::Done,
        (false, true) => Exit::Failed,
        (false, false) => Exit::TimedOut,
    }
}

/// The state that it ended in, else the one that it is in now; null while nobody can tell.
async fn status_now(context: &Context, target: Target, ended: &[Ended]) -> Result<Value, CommandError> {
    if let Some(ended) = ended.iter().find(|ended| ended.target == target) {
        return Ok(json!(ended.status));
    }
    match context.client.get(&target.path()).await {
        Ok(answer) => Ok(answer["status"].clone()),
        Err(error) if context.client.may_pass(&error) => Ok(Value::Null),
        Err(error) => Err(error.into()),
    }
}

fn report(targets: &[Target], statuses: &[Value]) -> Value {
    targets.iter().zip(statuses).map(|(target, status)| json!({"id": target.to_string(), "status": status})).collect()
}

async fn all_of(context: &Context, targets: &[Target], deadline: Option<Instant>) -> Result<Vec<Ended>, CommandError> {
    let mut waiting = ask_all(context, targets, deadline);
    let mut ended = Vec::new();
    while let Some(answer) = waiting.join_next().await {
        if let Some(one) = answer.expect("a wait does not panic")? {
            tell(context, &one)?;
            ended.push(one);
        }
    }
    Ok(ended)
}

/// The first that ends; if several had ended before, all of those, so that the answer does not depend on chance.
async fn first_of(context: &Context, targets: &[Target], deadline: Option<Instant>) -> Result<Vec<Ended>, CommandError> {
    let mut before = Vec::new();
    for target in targets {
        before.extend(
            ask(context, *target, None).await.or_else(|error| if context.client.may_pass(&error) { Ok(None) } else { Err(error) })?,
        );
    }
    if before.is_empty() {
        let mut waiting = ask_all(context, targets, deadline);
        while let Some(answer) = waiting.join_next().await {
            if let Some(one) = answer.expect("a wait does not panic")? {
                before.push(one);
                break;
            }
        }
    }
    for one in &before {
        tell(context, one)?;
    }
    Ok(before)
}

fn ask_all(context: &Context, targets: &[Target], deadline: Option<Instant>) -> JoinSet<Result<Option<Ended>, CommandError>> {
    let mut waiting = JoinSet::new();
    for target in targets.iter().copied() {
        let context = context.clone();
        waiting.spawn(async move { until_ended(&context, target, deadline).await });
    }
    waiting
}

fn tell(context: &Context, ended: &Ended) -> Result<(), CommandError> {
    match context.format {
        Format::Text => emit(&format!("{} {}", ended.target, ended.status)),
        Format::Json => Ok(()),
    }
}

/// Asks until it has ended, or until `deadline`; none: the time is over.
///
/// # Errors
/// [`CommandError::Client`]: refused, never answered until `deadline`, or away for longer than [`patience`] where there is none.
pub async fn until_ended(context: &Context, target: Target, deadline: Option<Instant>) -> Result<Option<Ended>, CommandError> {
    let mut absence: Option<Absence> = None;
    let mut pauses = Pauses::default();
    loop {
        let asked = Instant::now();
        let round = deadline.map_or(ROUND, |deadline| ROUND.min(deadline.saturating_duration_since(asked)));
        let mut is_held = false;
        match ask_until(context, target, round, deadline).await {
            Ok(Some(ended)) => return Ok(Some(ended)),
            Ok(None) => {
                absence = None;
                is_held = asked.elapsed() >= ROUND_MIN.min(round);
            }
            Err(error) if context.client.may_pass(&error) => {
                pauses.told(&error);
                if absence.is_none() {
                    eprintln!("{error}; trying again");
                }
                let since = absence.map_or(asked, |absence| absence.since);
                if deadline.is_none() && since.elapsed() > patience(context) {
                    return Err(error.into());
                }
                absence = Some(Absence { since, error });
            }
            Err(error) => return Err(error.into()),
        }
        if is_held {
            pauses = Pauses::default();
        } else {
            pauses.pause(deadline).await;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return time_is_over(context, absence);
        }
    }
}

/// A coordinator that does not answer at the moment.
#[derive(Debug)]
struct Absence {
    since: Instant,
    error: ClientError,
}

/// How long a coordinator may be away: one that never answered may not be there at all.
fn patience(context: &Context) -> Duration {
    if context.client.was_answered() { ABSENCE_MAX } else { SUBMIT_PATIENCE }
}

/// Nobody can say of work that was never asked about that it goes on.
fn time_is_over(context: &Context, absence: Option<Absence>) -> Result<Option<Ended>, CommandError> {
    match absence {
        Some(Absence { error, .. }) if !context.client.was_answered() => Err(error.into()),
        Some(_) | None => Ok(None),
    }
}

/// As [`ask`], but a server that accepts and never answers does not hold anybody for longer than was said.
async fn ask_until(context: &Context, target: Target, round: Duration, deadline: Option<Instant>) -> Result<Option<Ended>, ClientError> {
    let asking = ask(context, target, Some(round));
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline + LATE_MAX, asking).await.unwrap_or_else(|_| Err(context.client.unanswered())),
        None => asking.await,
    }
}

/// Asks once; none: it has not ended.
///
/// # Errors
/// [`ClientError`].
pub async fn ask(context: &Context, target: Target, round: Option<Duration>) -> Result<Option<Ended>, ClientError> {
    let path = match target {
        Target::Task(_) => format!("{}/result", target.path()),
        Target::Workflow(_) => target.path(),
    };
    let answer = match round {
        Some(round) => context.client.get_waiting(&path, round).await?,
        None => context.client.get(&path).await?,
    };
    let state = match target {
        Target::Task(_) => task_end(context.client.shaped::<TaskResult>(&path, &answer)?.status),
        Target::Workflow(_) => workflow_end(context.client.shaped::<Workflow>(&path, &answer)?.status),
    };
    Ok(state.map(|(status, exit)| Ended { target, status, exit, answer }))
}

fn task_end(status: TaskStatus) -> Option<(&'static str, Exit)> {
    let exit = match status {
        TaskStatus::Completed => Exit::Done,
        TaskStatus::Failed | TaskStatus::Skipped | TaskStatus::Cancelled => Exit::Failed,
        TaskStatus::Pending | TaskStatus::Queued | TaskStatus::Running | TaskStatus::Retrying | TaskStatus::Waiting => return None,
    };
    Some((status.as_str(), exit))
}

/// The state and the exit code of a workflow that has ended.
#[must_use]
pub fn workflow_end(status: WorkflowStatus) -> Option<(&'static str, Exit)> {
    let exit = match status {
        WorkflowStatus::Completed => Exit::Done,
        WorkflowStatus::Failed | WorkflowStatus::Cancelled => Exit::Failed,
        WorkflowStatus::Pending | WorkflowStatus::Running | WorkflowStatus::Paused => return None,
    };
    Some((status.as_str(), exit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::client::address::{Address, AddressOptions};
    use orchestr8_proto::ids::ExecutionId;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Longer than a refused connection takes, and an answer.
    const SOON: Duration = Duration::from_millis(400);

    async fn somewhere() -> (TcpListener, Context) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let token_file = folder.path().join("token");
        std::fs::write(&token_file, "the-token").expect("writable");
        let options = AddressOptions { url: Some(url), token_file: Some(token_file), ..AddressOptions::default() };
        let client = Client::new(Address::find(&options, folder.path()).expect("named")).expect("a client");
        (listener, Context { client, format: Format::Text })
    }

    #[tokio::test]
    async fn of_work_that_nobody_was_asked_about_nothing_is_said() {
        let (listener, context) = somewhere().await;
        drop(listener);
        let target = Target::Workflow(ExecutionId::generate(1, 0, &mut rand::rng()));
        let error = until_ended(&context, target, Some(Instant::now() + SOON)).await.expect_err("nobody is there");
        assert!(error.exit() == Exit::Unavailable && error.to_string().contains(context.client.url()), "{error}");
        assert_eq!(patience(&context), SUBMIT_PATIENCE);
    }

    #[tokio::test]
    async fn who_accepts_and_never_answers_holds_nobody_for_long() {
        let (listener, context) = somewhere().await;
        let target = Target::Workflow(ExecutionId::generate(1, 0, &mut rand::rng()));
        tokio::time::pause();
        let (begun, deadline) = (Instant::now(), Instant::now() + Duration::from_mins(2));
        let error = until_ended(&context, target, Some(deadline)).await.expect_err("nobody answers");
        assert!(
            error.exit() == Exit::Unavailable && begun.elapsed() <= Duration::from_mins(2) + LATE_MAX * 2,
            "{error} {:?}",
            begun.elapsed()
        );
        drop(listener);
    }

    #[tokio::test]
    async fn a_coordinator_that_answered_may_be_away() {
        let (listener, context) = somewhere().await;
        let id = ExecutionId::generate(1, 0, &mut rand::rng());
        let body = json!({"workflow_id": id, "workflow_name": "w", "status": "running", "created_at": "2026-01-01T00:00:00Z"}).to_string();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            assert!(stream.read(&mut [0; 4_096]).await.expect("a request") > 0);
            stream.write_all(answer.as_bytes()).await.expect("the client reads");
        });
        let ended = until_ended(&context, Target::Workflow(id), Some(Instant::now() + SOON)).await;
        server.await.expect("served once, then gone");
        assert!(matches!(ended, Ok(None)), "{ended:?}");
        assert_eq!(patience(&context), ABSENCE_MAX);
    }

    fn ended(exits: &[Exit]) -> Vec<Ended> {
        let id = ExecutionId::generate(0, 0, &mut rand::rng());
        let one = |exit: &Exit| Ended { target: Target::Workflow(id), status: "x", exit: *exit, answer: Value::Null };
        exits.iter().map(one).collect()
    }

    #[test]
    fn the_exit_code_tells_all_or_any() {
        assert_eq!(verdict(&ended(&[Exit::Done, Exit::Done]), 2), Exit::Done);
        assert_eq!(verdict(&ended(&[Exit::Done, Exit::Failed]), 2), Exit::Failed);
        assert_eq!(verdict(&ended(&[Exit::Done]), 2), Exit::TimedOut);
        assert_eq!(verdict(&ended(&[Exit::Failed, Exit::Done]), 1), Exit::Done);
        assert_eq!(verdict(&ended(&[Exit::Failed]), 1), Exit::Failed);
        assert_eq!(verdict(&[], 1), Exit::TimedOut);
    }

    #[test]
    fn what_goes_on_is_named() {
        let one = ended(&[Exit::Done]);
        let other = Target::Workflow(ExecutionId::generate(1, 0, &mut rand::rng()));
        assert_eq!(unended(&[one[0].target, other], &one), format!("{other} has not ended yet; it goes on"));
    }

    #[test]
    fn exactly_the_final_states_end_a_wait() {
        assert!(TaskStatus::ALL.iter().all(|status| task_end(*status).is_some() == status.is_final()));
        assert!(WorkflowStatus::ALL.iter().all(|status| workflow_end(*status).is_some() == status.is_final()));
    }

    #[test]
    fn the_report_names_every_id_once() {
        let one = ended(&[Exit::Done]);
        let other = Target::Workflow(ExecutionId::generate(1, 0, &mut rand::rng()));
        let report = report(&[one[0].target, other], &[json!("x"), json!("running")]);
        assert_eq!(report, json!([{"id": one[0].target.to_string(), "status": "x"}, {"id": other.to_string(), "status": "running"}]));
    }
}
