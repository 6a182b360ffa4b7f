//! Requests that another coordinator decides, because it owns the shard: they are stored in its inbox, and the caller's answer
//! waits until the owner has decided them.

use super::ApiContext;
use super::problem::{Code, Problem};
use super::submit::COMMIT_TIMEOUT;
use crate::engine::handle::{CancelAnswer, CancelTarget, CommandError};
use orchestr8_proto::ids::{ExecutionId, TaskId};
use orchestr8_proto::words::TaskStatus;
use orchestr8_store::read::{executions, inbox, tasks};
use std::time::Duration;
use uuid::Uuid;

/// The owner is nudged and nudges back; a lost nudge costs so much.
const REREAD: Duration = Duration::from_millis(200);

/// Waits until the owner has decided a cancel, and reads what came of it. None: not within the time of a commit.
///
/// # Errors
/// [`Code::Unavailable`] when the database does not answer.
pub async fn cancelled(
    context: &ApiContext,
    target: CancelTarget,
    event: Uuid,
) -> Result<Option<Result<CancelAnswer, CommandError>>, Problem> {
    let execution = target.execution();
    let decided = async |_| Ok::<_, Problem>((!inbox::waits(&context.reads, execution, event).await?).then_some(()));
    if context.engine.watch(execution).until(COMMIT_TIMEOUT, REREAD, decided).await?.is_none() {
        return Ok(None);
    }
    let answer = match target {
        CancelTarget::Workflow(id) => executions::status(&context.reads, id).await?.map(CancelAnswer::of_workflow),
        CancelTarget::Task(id) => task_status(context, id).await?.map(CancelAnswer::of_task),
    };
    Ok(Some(answer.unwrap_or(Err(CommandError::NotFound))))
}

/// Waits until the owner has made an execution that was sent to it, at most for the time of a commit: it is stored in any case.
///
/// # Errors
/// [`Code::Unavailable`] when the database does not answer.
pub async fn made(context: &ApiContext, id: ExecutionId) -> Result<(), Problem> {
    let read = async |_| Ok::<_, Problem>(executions::status(&context.reads, id).await?.map(|_| ()));
    if context.engine.watch(id).until(COMMIT_TIMEOUT, REREAD, read).await?.is_none() {
        let detail = format!("`{id}` is stored, but no coordinator has started it yet: try again with the same Idempotency-Key");
        return Err(Problem::new(Code::Unavailable, detail));
    }
    Ok(())
}

async fn task_status(context: &ApiContext, id: TaskId) -> Result<Option<TaskStatus>, Problem> {
    Ok(tasks::brief(&context.reads, id).await?.map(|task| task.status))
}
