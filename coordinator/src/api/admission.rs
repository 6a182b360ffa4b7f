//! How much of what callers submit may be in memory at once: beyond it they are told to come again.

use super::ApiContext;
use super::body::{BODY_BYTES_MAX, JsonBody};
use super::problem::{Code, Problem};
use crate::metrics::SubmissionRefusal;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of submissions between their arrival and their commit, at most: a slow database must not fill the memory.
pub const SUBMISSION_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A refused submission is taken in for so long.
const PASS_OVER_MAX: Duration = Duration::from_secs(5);
/// The smallest submission counts this much: what is made of it is larger than its text.
const BYTES_MIN: usize = 4 * 1024;

/// A submission for which there was room.
#[derive(Debug)]
pub struct Admitted {
    /// The room that it takes, from before its body is read until the engine has answered.
    pub room: OwnedSemaphorePermit,
    /// What was submitted.
    pub body: JsonBody,
}

impl FromRequest<ApiContext> for Admitted {
    type Rejection = Problem;

    async fn from_request(request: Request, context: &ApiContext) -> Result<Self, Problem> {
        let permits = u32::try_from(room_bytes(request.headers())).unwrap_or(u32::MAX);
        let Ok(permit) = context.submissions.clone().try_acquire_many_owned(permits) else {
            context.metrics.submission_refused(SubmissionRefusal::Overloaded);
            pass_over(request).await;
            return Err(overloaded());
        };
        let body = JsonBody::from_request(request, context).await?;
        Ok(Self { room: permit, body })
    }
}

/// A body of unknown length may be as large as any; one that is too large is refused when it is read.
fn room_bytes(headers: &HeaderMap) -> usize {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(BODY_BYTES_MAX).clamp(BYTES_MIN, BODY_BYTES_MAX)
}

/// Takes the body in and keeps nothing of it: who is still sending when the connection ends may never see the answer.
async fn pass_over(request: Request) {
    let mut left = BODY_BYTES_MAX;
    let mut chunks = request.into_body().into_data_stream();
    let all = async {
        while let Some(Ok(chunk)) = chunks.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                return;
            }
        }
    };
    // Who sends more slowly learns it by the end of the connection.
    tokio::time::timeout(PASS_OVER_MAX, all).await.ok();
}

fn overloaded() -> Problem {
    let limit_mib = SUBMISSION_BYTES_MAX / (1024 * 1024);
    let detail =
        format!("submissions of {limit_mib} MiB wait for the database already, and nothing of this one was stored: try again later");
    Problem::new(Code::Overloaded, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_submission_takes_what_it_says_and_as_much_as_it_may_where_it_does_not() {
        let mut headers = HeaderMap::new();
        assert_eq!(room_bytes(&headers), BODY_BYTES_MAX);
        for (length, bytes) in [("7", BYTES_MIN), ("500000", 500_000), ("99999999999", BODY_BYTES_MAX), ("many", BODY_BYTES_MAX)] {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static(length));
            assert_eq!(room_bytes(&headers), bytes, "{length}");
        }
    }
}
