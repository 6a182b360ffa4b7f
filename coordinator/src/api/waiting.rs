//! Waiting for the end of an execution or task, within bounds.

use super::problem::{Code, Problem};
use super::{ApiContext, LISTENERS_MAX};
use crate::engine::news::News;
use orchestr8_proto::ids::ExecutionId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// Runs `read` until it gives an answer: now, and after each change, with what that told, for as long as `patience`; none when there
/// was no answer by then.
///
/// # Errors
/// The first error of `read`, or [`Code::TooManyListeners`].
pub async fn until<T, F>(
    context: &ApiContext,
    execution: ExecutionId,
    patience: Duration,
    mut read: impl FnMut(Option<Arc<News>>) -> F,
) -> Result<Option<T>, Problem>
where
    F: Future<Output = Result<Option<T>, Problem>>,
{
    if patience.is_zero() {
        return read(None).await;
    }
    let _place = place(context)?;
    let watch = context.engine.watch(execution);
    tokio::select! {
        answer = watch.until(patience, context.settings.times.reread(), read) => answer,
        () = context.settings.shutdown.cancelled() => Ok(None),
    }
}

/// A place among those who wait.
///
/// # Errors
/// [`Code::TooManyListeners`] when there is none.
pub fn place(context: &ApiContext) -> Result<OwnedSemaphorePermit, Problem> {
    let detail = format!("{LISTENERS_MAX} event streams and waits are open already: try again, or poll");
    context.listeners.clone().try_acquire_owned().map_err(|_| Problem::new(Code::TooManyListeners, detail))
}
