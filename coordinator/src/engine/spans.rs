//! Spans of executions and of their attempts: made from what the rows say, so that nothing is kept until the end, and with ids that
//! follow from those of the rows, so that whoever says it again says the same.

use orchestr8_core::execution::{Execution, TracedAttempt};
use orchestr8_core::plan::{TaskIndex, TaskKind};
use orchestr8_proto::traces::{AttributeValue, Span, SpanKind, SpanSink, TraceParent};
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};

/// What executors are told to go on with: the attempt's own span where somebody takes spans here, else whatever the caller said.
pub(super) fn traceparent(sink: &SpanSink, execution: &Execution, index: TaskIndex) -> String {
    let Some(trace) = execution.trace else { return String::new() };
    let parent = if sink.wants(trace) { of_attempt(trace, execution, index, execution.task(index).attempt) } else { trace };
    parent.to_string()
}

/// The span of an attempt, from its queueing to its end; none: nobody takes spans of this trace.
pub(super) fn attempt(sink: &SpanSink, execution: &Execution, ended: &TracedAttempt) -> Option<Span> {
    let trace = execution.trace.filter(|trace| sink.wants(*trace))?;
    let planned = execution.plan.task(ended.task);
    let mut attributes: Vec<(&'static str, AttributeValue)> = vec![
        ("orchestr8.workflow_id", execution.id.to_string().into()),
        ("orchestr8.task_id", execution.id.task(ended.task).to_string().into()),
        ("orchestr8.task_name", planned.name.as_str().into()),
        ("orchestr8.attempt", ended.attempt.into()),
        ("orchestr8.queue", planned.queue.as_str().into()),
        ("orchestr8.priority", planned.priority.as_str().into()),
        ("orchestr8.kind", kind(&planned.kind).into()),
        ("orchestr8.status", ended.status.into()),
    ];
    attributes.extend(ended.executor.as_ref().map(|executor| ("orchestr8.executor", executor.as_ref().into())));
    let failed = [TaskStatus::Failed.as_str(), TaskStatus::Retrying.as_str(), "lost"].contains(&ended.status);
    Some(Span {
        name: format!("attempt {}", planned.name),
        kind: SpanKind::Internal,
        context: of_attempt(trace, execution, ended.task, ended.attempt),
        parent: Some(of_execution(trace, execution).span_id),
        // A task that starts at once may seem to start before it was queued: that is on the database's clock, and read from the
        // row after a coordinator's death.
        started_at: [ended.queued_at, ended.started_at].into_iter().flatten().min().unwrap_or(ended.ended_at),
        ended_at: ended.ended_at,
        failure: failed.then(|| ended.error_type.clone().unwrap_or_else(|| ended.status.to_owned())),
        attributes,
        events: ended.started_at.map(|at| ("started", at)).into_iter().collect(),
    })
}

/// The span of an execution that has ended, from its acceptance; none: nobody takes spans of this trace.
pub(super) fn execution(sink: &SpanSink, execution: &Execution) -> Option<Span> {
    let trace = execution.trace.filter(|trace| sink.wants(*trace))?;
    let tasks = i64::try_from(execution.plan.tasks.len()).unwrap_or(i64::MAX);
    Some(Span {
        name: format!("execution {}", execution.plan.name),
        kind: SpanKind::Internal,
        context: of_execution(trace, execution),
        parent: Some(trace.span_id),
        started_at: execution.created_at,
        ended_at: execution.completed_at.unwrap_or(execution.created_at),
        failure: (execution.status == WorkflowStatus::Failed).then(|| execution.status.as_str().to_owned()),
        attributes: vec![
            ("orchestr8.workflow_id", execution.id.to_string().into()),
            ("orchestr8.workflow_name", execution.plan.name.as_str().into()),
            ("orchestr8.tasks", tasks.into()),
            ("orchestr8.status", execution.status.as_str().into()),
        ],
        events: execution.started_at.map(|at| ("started", at)).into_iter().collect(),
    })
}

fn of_execution(trace: TraceParent, execution: &Execution) -> TraceParent {
    trace.span_of("execution", execution.id.0, 0)
}

fn of_attempt(trace: TraceParent, execution: &Execution, index: TaskIndex, attempt: u32) -> TraceParent {
    trace.span_of("attempt", execution.id.task(index).0, attempt)
}

fn kind(kind: &TaskKind) -> String {
    match kind {
        TaskKind::Run { .. } => "run".to_owned(),
        TaskKind::Handler { name } => format!("handler {name}"),
        TaskKind::Sleep { .. } => "sleep".to_owned(),
    }
}
