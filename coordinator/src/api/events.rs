//! `GET /api/v1/workflows/{id}/events`: the history of an execution as a stream of server-sent events, with resume.

use super::parameters::{Parameters, Segment, sequence_number};
use super::problem::Problem;
use super::{ApiContext, ids, waiting};
use crate::engine::watch::Watch;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use orchestr8_proto::ids::ExecutionId;
use orchestr8_store::read::events::{self, History, NumberedEvent};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// A comment is sent after this much silence, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A client whose stream breaks is asked to come back after this.
const COME_BACK_AFTER: Duration = Duration::from_secs(1);
/// One wait for the next commit; the stream then waits again.
const PATIENCE: Duration = Duration::from_hours(1);

/// What one stream has sent, and what it will send.
struct Follower {
    context: ApiContext,
    id: ExecutionId,
    watch: Watch,
    pending: VecDeque<NumberedEvent>,
    after: u64,
    _place: OwnedSemaphorePermit,
}

/// Sends what happened after `Last-Event-ID` (else `after`, else all), then what happens; ends after the final event.
///
/// A client that has seen the final event already gets 204, which tells an `EventSource` not to come back.
pub(super) async fn follow(
    State(context): State<ApiContext>,
    Segment(id): Segment,
    headers: HeaderMap,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let after = parameters.number("after")?;
    parameters.finish()?;
    let after = last_event_id(&headers)?.or(after);
    let id = ids::execution(&context, &id).await?;
    let place = waiting::place(&context)?;
    let watch = context.engine.watch(id);
    let history = read(&context, id, after.unwrap_or(0)).await?.ok_or_else(|| Problem::not_found("workflow", id))?;
    if history.events.is_empty() && history.status.is_final() && after.is_some() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let pending = history.events.into();
    let follower = Follower { context, id, watch, pending, after: after.unwrap_or(0), _place: place };
    let stream = futures::stream::unfold(follower, Follower::next);
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("alive")).into_response())
}

impl Follower {
    /// The next event; none at the end, at a shutdown, and when reading fails: the client comes back with `Last-Event-ID`.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        while self.pending.is_empty() {
            let history = self.wait_for_more().await?;
            if history.is_some_and(|history| self.take(history).is_none()) {
                return None;
            }
        }
        let numbered = self.pending.pop_front()?;
        self.after = numbered.sequence;
        Some((Ok(message(&numbered)), self))
    }

    /// None: nothing will come. None within: nothing came for a long time.
    async fn wait_for_more(&self) -> Option<Option<History>> {
        let reread = self.context.settings.times.reread();
        let news = async |_| {
            let history = read(&self.context, self.id, self.after).await?;
            Ok::<_, Problem>(history.map_or(Some(None), |history| is_news(&history).then_some(Some(history))))
        };
        tokio::select! {
            read = self.watch.until(PATIENCE, reread, news) => match read {
                Ok(Some(Some(history))) => Some(Some(history)),
                Ok(None) => Some(None),
                Ok(Some(None)) | Err(_) => None,
            },
            () = self.context.settings.shutdown.cancelled() => None,
        }
    }

    /// None: it was the end.
    fn take(&mut self, history: History) -> Option<()> {
        self.pending = history.events.into();
        (!self.pending.is_empty()).then_some(())
    }
}

/// Something to send, or the end.
fn is_news(history: &History) -> bool {
    !history.events.is_empty() || history.status.is_final()
}

fn message(numbered: &NumberedEvent) -> Event {
    Event::default().id(numbered.sequence.to_string()).retry(COME_BACK_AFTER).data(numbered.event.to_string())
}

async fn read(context: &ApiContext, id: ExecutionId, after: u64) -> Result<Option<History>, Problem> {
    Ok(events::after(&context.reads, id, after).await?)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(header) = headers.get("last-event-id") else { return Ok(None) };
    sequence_number("Last-Event-ID", &String::from_utf8_lossy(header.as_bytes())).map(Some)
}
