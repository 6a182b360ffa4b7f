//! The span of a run: in the trace that its dispatch belongs to, under its attempt.

use crate::work::{Assignment, WorkReport, WorkResult};
use orchestr8_proto::traces::{AttributeValue, Span, SpanKind, SpanSink, TraceParent};
use orchestr8_proto::wire::dispatch::Kind;
use time::OffsetDateTime;

/// A run that somebody traces.
pub(crate) struct RunSpan {
    span: Span,
    sink: SpanSink,
}

impl RunSpan {
    /// Begins a span where somebody takes it; what the run starts itself belongs to it from now on.
    pub(crate) fn begin(sink: &SpanSink, assignment: &mut Assignment, executor: &str) -> Option<Self> {
        if !sink.is_on() {
            return None;
        }
        let attempt: TraceParent = assignment.dispatch.traceparent.parse().ok().filter(|attempt| sink.wants(*attempt))?;
        let own = attempt.span_of("run", assignment.run_id.0, 0);
        assignment.dispatch.traceparent = own.to_string();
        let now = OffsetDateTime::now_utc().into();
        let span = Span {
            name: format!("run {}", assignment.dispatch.task_name),
            kind: SpanKind::Consumer,
            context: own,
            parent: Some(attempt.span_id),
            started_at: now,
            ended_at: now,
            failure: None,
            attributes: attributes(assignment, executor),
            events: Vec::new(),
        };
        Some(Self { span, sink: sink.clone() })
    }

    /// The run has ended.
    pub(crate) fn end(mut self, report: &WorkReport) {
        let number = |number: u128| AttributeValue::Number(i64::try_from(number).unwrap_or(i64::MAX));
        let (status, failure) = told(&report.result);
        let added = [
            ("orchestr8.status", status.into()),
            ("orchestr8.cpu_time_us", number(report.cpu_time.as_micros())),
            ("orchestr8.memory_peak_bytes", number(report.memory_peak_bytes.into())),
        ];
        self.span.attributes.extend(added);
        if let WorkResult::Failed { exit_code: Some(code), .. } = &report.result {
            self.span.attributes.push(("process.exit.code", i64::from(*code).into()));
        }
        // The wall clock may be set meanwhile; the duration is what was measured.
        self.span.ended_at = self.span.started_at.after(report.duration);
        self.span.failure = failure;
        self.sink.emit(self.span);
    }
}

fn attributes(assignment: &Assignment, executor: &str) -> Vec<(&'static str, AttributeValue)> {
    let kind = match &assignment.dispatch.kind {
        Some(Kind::Run(_)) => "run".to_owned(),
        Some(Kind::Handler(handler)) => format!("handler {}", handler.name),
        Some(Kind::Reference(_)) | None => "unknown".to_owned(),
    };
    vec![
        ("orchestr8.workflow_id", assignment.task_id.execution().to_string().into()),
        ("orchestr8.task_id", assignment.task_id.to_string().into()),
        ("orchestr8.run_id", assignment.run_id.to_string().into()),
        ("orchestr8.task_name", assignment.dispatch.task_name.as_str().into()),
        ("orchestr8.workflow_name", assignment.dispatch.workflow_name.as_str().into()),
        ("orchestr8.attempt", assignment.dispatch.attempt.into()),
        ("orchestr8.kind", kind.into()),
        ("orchestr8.executor", executor.into()),
    ]
}

/// The state, and a stable word for what went wrong. What an error says is no matter of a trace.
fn told(result: &WorkResult) -> (&'static str, Option<String>) {
    match result {
        WorkResult::Completed { .. } => ("completed", None),
        WorkResult::Failed { error_type, .. } => ("failed", Some(error_type.clone())),
        WorkResult::NeverStarted { .. } => ("never_started", None),
        WorkResult::Unsupported { .. } => ("unsupported", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Retryable;
    use orchestr8_proto::ids::{DispatchId, ExecutionId, RunId};
    use orchestr8_proto::wire::{Dispatch, RunKind};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn assignment(traceparent: &str) -> Assignment {
        let dispatch = Dispatch {
            task_name: "build".into(),
            attempt: 2,
            kind: Some(Kind::Run(RunKind { script: "echo secret".into() })),
            traceparent: traceparent.into(),
            prompt: "secret".into(),
            ..Dispatch::default()
        };
        let task_id = ExecutionId::generate(1, 3, &mut rand::rng()).task(0);
        Assignment { dispatch, task_id, dispatch_id: DispatchId::random(), run_id: RunId::random() }
    }

    fn failed() -> WorkReport {
        let (error_type, message) = ("exit".to_owned(), "secret".to_owned());
        let result = WorkResult::Failed { error_type, message, exit_code: Some(3), retryable: Retryable::Yes, retry_after: None };
        WorkReport { duration: Duration::from_millis(7), ..result.into() }
    }

    #[test]
    fn a_run_has_a_span_under_its_attempt_and_hands_it_on() {
        let taken: Arc<Mutex<Vec<Span>>> = Arc::default();
        let sink = SpanSink::new({
            let taken = Arc::clone(&taken);
            move |span| taken.lock().expect("no panic").push(span)
        });
        let mut assignment = assignment(PARENT);
        RunSpan::begin(&sink, &mut assignment, "e1").expect("sampled").end(&failed());
        let span = taken.lock().expect("no panic").pop().expect("one");
        assert_eq!((assignment.dispatch.traceparent.as_str(), span.name.as_str()), (span.context.to_string().as_str(), "run build"));
        assert_eq!(span.parent, PARENT.parse::<TraceParent>().ok().map(|parent| parent.span_id));
        assert_eq!((span.ended_at.since(span.started_at), span.failure.as_deref()), (Duration::from_millis(7), Some("exit")));
        assert!(span.attributes.contains(&("process.exit.code", 3_i64.into())), "{span:?}");
        assert!(!format!("{span:?}").contains("secret"), "{span:?}");
    }

    #[test]
    fn what_nobody_traces_keeps_what_it_was_given() {
        let on = SpanSink::new(|span| panic!("{span:?}"));
        for (sink, given) in [(&SpanSink::default(), PARENT), (&on, ""), (&on, "junk"), (&on, &PARENT.replace("-01", "-00"))] {
            let mut assignment = assignment(given);
            assert!(RunSpan::begin(sink, &mut assignment, "e1").is_none());
            assert_eq!(assignment.dispatch.traceparent, given);
        }
    }
}
