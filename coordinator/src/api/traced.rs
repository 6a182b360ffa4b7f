//! The span of a submission: the beginning of a trace, or one more span in that of the caller (`traceparent`, W3C Trace Context).

use super::ApiContext;
use super::problem::Problem;
use crate::engine::handle::Submission;
use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::traces::{AttributeValue, Span, SpanKind, TraceParent};
use rand::RngExt;
use serde_json::Value;
use time::OffsetDateTime;

/// What a request that submits something is answered.
pub(super) type Answer = Result<(StatusCode, Json<Value>), Problem>;

/// Accepts a request that submits something, within its span.
pub(super) async fn answered(
    context: &ApiContext,
    headers: &HeaderMap,
    route: &'static str,
    accept: impl AsyncFnOnce(&Traced) -> Answer,
) -> Answer {
    let traced = Traced::begin(context, headers);
    let answer = accept(&traced).await;
    traced.end(context, route, &answer);
    answer
}

/// A request that submits something.
pub(super) struct Traced {
    /// The caller's span.
    parent: Option<TraceParent>,
    /// The request's own; none: nobody here takes it.
    own: Option<TraceParent>,
    started_at: Timestamp,
}

impl Traced {
    /// What the caller says of its trace. One that is none is passed over, as the standard says.
    fn begin(context: &ApiContext, headers: &HeaderMap) -> Self {
        let parent = parent(headers);
        let sink = &context.settings.spans;
        let own = match parent {
            Some(parent) => sink.wants(parent).then(|| parent.child()),
            None => (sink.is_on() && rand::rng().random::<f64>() < context.settings.trace_ratio).then(TraceParent::random),
        };
        Self { parent, own, started_at: OffsetDateTime::now_utc().into() }
    }

    /// What is submitted belongs to this span, or to the caller's where there is no own.
    pub fn mark(&self, submissions: &mut [Submission]) {
        submissions.iter_mut().for_each(|submission| submission.trace = self.own.or(self.parent));
    }

    /// The request is answered.
    fn end(self, context: &ApiContext, route: &'static str, answer: &Answer) {
        let Some(own) = self.own else { return };
        let status = answer.as_ref().map_or_else(|problem| problem.code().status(), |(status, _)| *status);
        let mut attributes: Vec<(&'static str, AttributeValue)> = vec![
            ("http.request.method", "POST".into()),
            ("http.route", route.into()),
            ("http.response.status_code", i64::from(status.as_u16()).into()),
        ];
        match answer {
            Ok((_, Json(Value::Array(items)))) => {
                attributes.push(("orchestr8.executions", i64::try_from(items.len()).unwrap_or(i64::MAX).into()));
            }
            Ok((_, Json(one))) => attributes.extend(one["workflow_id"].as_str().map(|id| ("orchestr8.workflow_id", id.into()))),
            Err(problem) => attributes.push(("error.type", problem.code().word().into())),
        }
        context.settings.spans.emit(Span {
            name: format!("POST {route}"),
            kind: SpanKind::Server,
            context: own,
            parent: self.parent.map(|parent| parent.span_id),
            started_at: self.started_at,
            ended_at: OffsetDateTime::now_utc().into(),
            // What the caller did wrong is no failure of ours.
            failure: answer.as_ref().err().filter(|_| status.is_server_error()).map(|problem| problem.code().word().to_owned()),
            attributes,
            events: Vec::new(),
        });
    }
}

fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut given = headers.get_all("traceparent").iter();
    let one = given.next()?;
    one.to_str().ok().filter(|_| given.next().is_none())?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_caller_has_one_span_or_none() {
        const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut headers = HeaderMap::new();
        assert_eq!(parent(&headers), None);
        headers.insert("traceparent", HeaderValue::from_static(GOOD));
        assert_eq!(parent(&headers).map(|parent| parent.to_string()).as_deref(), Some(GOOD));
        headers.append("traceparent", HeaderValue::from_static(GOOD));
        assert_eq!(parent(&headers), None, "which one?");
        headers.insert("traceparent", HeaderValue::from_static("00-abc"));
        assert_eq!(parent(&headers), None);
    }
}
