//! `wait`: until work has ended, however long that takes and whatever restarts meanwhile.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_json};
use super::target::{GivenId, Target, parse_id};
use super::values::parse_span;
use crate::client::shapes::{TaskResult, Workflow};
use crate::client::{ClientError, Pauses};
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
/// Without `--timeout`, a coordinator may be away this long: longer than a restart, shorter than forever.
pub const ABSENCE_MAX: Duration = Duration::from_mins(10);
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
        Err(error) if error.is_passing() => Ok(Value::Null),
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
        before.extend(ask(context, *target, None).await.or_else(|error| if error.is_passing() { Ok(None) } else { Err(error) })?);
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
/// [`CommandError::Client`]: refused, or away for [`ABSENCE_MAX`] where there is no deadline.
pub async fn until_ended(context: &Context, target: Target, deadline: Option<Instant>) -> Result<Option<Ended>, CommandError> {
    let mut absent_since = None;
    let mut pauses = Pauses::default();
    loop {
        let asked = Instant::now();
        if deadline.is_some_and(|deadline| asked >= deadline) {
            return Ok(None);
        }
        let round = deadline.map_or(ROUND, |deadline| ROUND.min(deadline - asked));
        match ask(context, target, Some(round)).await {
            Ok(Some(ended)) => return Ok(Some(ended)),
            Ok(None) => {
                absent_since = None;
                if asked.elapsed() >= ROUND_MIN.min(round) {
                    pauses = Pauses::default();
                    continue;
                }
            }
            Err(error) if error.is_passing() => {
                let since = *absent_since.get_or_insert_with(|| {
                    eprintln!("{error}; trying again");
                    asked
                });
                if deadline.is_none() && since.elapsed() > ABSENCE_MAX {
                    return Err(error.into());
                }
                pauses.told(&error);
            }
            Err(error) => return Err(error.into()),
        }
        pauses.pause(deadline).await;
    }
}

/// Asks once; none: it has not ended.
async fn ask(context: &Context, target: Target, round: Option<Duration>) -> Result<Option<Ended>, ClientError> {
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
    use orchestr8_proto::ids::ExecutionId;

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
