//! `GET /api/v1/tasks/{id}/why`: what a task waits for, or what became of it; and the same for what a workflow waits for.

use super::ApiContext;
use super::ids;
use super::parameters::{Parameters, Segment};
use super::problem::Problem;
use super::silence::{Holder, Silent};
use crate::engine::handle::ExecutorView;
use axum::Json;
use axum::extract::State;
use orchestr8_proto::ids::TaskId;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::words::TaskStatus;
use orchestr8_store::read::why::{self, Publication, Upstream, WhyFacts};
use orchestr8_store::read::{ReadError, rfc3339, rfc3339_or_null};
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One thing that a task waits for, or what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
enum Reason {
    /// It waits for nothing any more.
    Ended {
        status: TaskStatus,
        #[serde(serialize_with = "rfc3339_or_null")]
        completed_at: Option<OffsetDateTime>,
        error: Option<String>,
    },
    /// It runs.
    Running {
        executor_id: String,
        #[serde(serialize_with = "rfc3339_or_null")]
        started_at: Option<OffsetDateTime>,
        attempt: i32,
    },
    /// Its executor is not heard: unless it comes back, the run is lost.
    Silent {
        #[serde(flatten)]
        silent: Silent,
        #[serde(skip)]
        then: &'static str,
    },
    /// Somebody cancelled its execution: its run has to end.
    Cancelling {
        #[serde(serialize_with = "rfc3339")]
        requested_at: OffsetDateTime,
    },
    /// Other tasks must end first.
    Upstream { tasks: Vec<Upstream>, tasks_total: usize },
    /// The last attempt failed.
    Backoff {
        #[serde(serialize_with = "rfc3339_or_null")]
        until: Option<OffsetDateTime>,
        attempts: i32,
        max_attempts: i32,
        error: Option<String>,
    },
    /// Executors gave it back, because they do not know what it needs.
    Unsupported {
        #[serde(serialize_with = "rfc3339_or_null")]
        until: Option<OffsetDateTime>,
        releases: i32,
        error: Option<String>,
    },
    /// A sleep, or the time that it was submitted for.
    Timer {
        #[serde(serialize_with = "rfc3339_or_null")]
        until: Option<OffsetDateTime>,
    },
    /// An operator paused its queue.
    PausedQueue {
        queue: String,
        #[serde(serialize_with = "rfc3339")]
        paused_at: OffsetDateTime,
        paused_reason: Option<String>,
    },
    /// No executor takes work of its queue.
    NobodyServesQueue { queue: String, executors_not_taking: Vec<String> },
    /// Executors serve its queue, but none has its handler.
    NobodyHasHandler { queue: String, handler: String, executors: Vec<String> },
    /// JetStream has no room for it.
    Held { queue: String, priority: &'static str },
    /// Others go first.
    Behind { tasks: i64, is_more: bool, slots: u32, slots_busy: u32 },
    /// Nothing is in its way: it starts in a moment.
    AboutToStart,
}

/// `GET /api/v1/tasks/{id}/why`.
pub(super) async fn why(State(context): State<ApiContext>, Segment(id): Segment, parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let id = ids::task(&context, &id).await?;
    let mut connection = context.reads.acquire().await.map_err(ReadError::from)?;
    let facts = why::facts(&mut connection, id).await?.ok_or_else(|| Problem::not_found("task", id))?;
    Ok(Json(Outlook::of(&context).told(id, &facts)))
}

/// `GET /api/v1/workflows/{id}/why`: its tasks that have not ended, each with its reasons.
pub(super) async fn of_workflow(
    State(context): State<ApiContext>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let id = ids::execution(&context, &id).await?;
    let mut connection = context.reads.acquire().await.map_err(ReadError::from)?;
    let unended = why::unended(&mut connection, id).await?.ok_or_else(|| Problem::not_found("workflow", id))?;
    let outlook = Outlook::of(&context);
    let mut tasks = Vec::new();
    for task in unended.tasks {
        // Retention may have taken it meanwhile.
        tasks.extend(why::facts(&mut connection, task).await?.map(|facts| outlook.told(task, &facts)));
    }
    Ok(Json(json!({
        "workflow_id": id,
        "workflow_name": unended.workflow_name,
        "status": unended.status,
        "error": unended.error,
        "tasks": tasks,
        "tasks_total": unended.tasks_total,
    })))
}

/// What this coordinator knows besides the rows.
struct Outlook {
    /// Those that have fallen silent among them; none: it is too early to say who lives.
    executors: Option<Vec<ExecutorView>>,
    times: ProtocolTimes,
}

impl Outlook {
    fn of(context: &ApiContext) -> Self {
        let executors = context.engine.has_listened().then(|| context.engine.all_executors());
        Self { executors, times: context.settings.times }
    }

    fn told(&self, id: TaskId, facts: &WhyFacts) -> Value {
        let reasons: Vec<Value> = self.reasons(facts).iter().map(shown).collect();
        json!({
            "task_id": id,
            "workflow_id": facts.workflow_id,
            "name": facts.name,
            "status": facts.status,
            "queue": facts.queue,
            "priority": facts.priority,
            "reasons": reasons,
        })
    }

    /// What holds it, the first first.
    fn reasons(&self, facts: &WhyFacts) -> Vec<Reason> {
        match facts.status {
            TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Skipped | TaskStatus::Cancelled => {
                let error = (facts.status == TaskStatus::Failed).then(|| error(facts)).flatten();
                vec![Reason::Ended { status: facts.status, completed_at: facts.completed_at, error }]
            }
            TaskStatus::Running => self.running(facts),
            TaskStatus::Pending if facts.upstream_count > 0 => {
                vec![Reason::Upstream { tasks: facts.upstream.clone(), tasks_total: facts.upstream_count }]
            }
            TaskStatus::Pending | TaskStatus::Waiting => match facts.due_at {
                until @ Some(_) => vec![Reason::Timer { until }],
                None => vec![Reason::AboutToStart],
            },
            TaskStatus::Retrying => vec![retrying(facts)],
            TaskStatus::Queued => self.queued(facts),
        }
    }

    fn running(&self, facts: &WhyFacts) -> Vec<Reason> {
        let executor_id = facts.executor_id.clone().unwrap_or_default();
        let (started_at, attempt) = (facts.started_at, facts.attempts);
        let cancelling = facts.cancel_requested_at.map(|requested_at| Reason::Cancelling { requested_at });
        let silent = facts
            .incarnation
            .zip(self.executors.as_deref())
            .and_then(|(incarnation, executors)| Silent::holder(Holder { name: &executor_id, incarnation }, executors, self.times));
        let silent = silent.map(|silent| Reason::Silent { silent, then: after_its_loss(facts) });
        [Some(Reason::Running { executor_id, started_at, attempt }), cancelling, silent].into_iter().flatten().collect()
    }

    fn queued(&self, facts: &WhyFacts) -> Vec<Reason> {
        let queue = || facts.queue.clone();
        let mut reasons = Vec::new();
        if let Some((paused_at, reason)) = &facts.paused {
            reasons.push(Reason::PausedQueue { queue: queue(), paused_at: *paused_at, paused_reason: reason.clone() });
        }
        let executors = self.executors.as_deref();
        let heard: Option<Vec<&ExecutorView>> = executors.map(|all| all.iter().filter(|executor| executor.silence.is_none()).collect());
        reasons.extend(heard.as_deref().and_then(|executors| nobody(facts, executors)));
        let is_held = match facts.publication {
            Publication::Done => false,
            // Marks are saved with every renewal: then they tell for certain.
            Publication::Open => facts.queued_for > self.times.shard_renewal() * 3,
            Publication::Never => true,
        };
        if is_held && facts.paused.is_none() {
            reasons.push(Reason::Held { queue: queue(), priority: facts.priority.as_str() });
        }
        let serving = heard.iter().flatten().filter(|executor| executor.serves(&facts.queue));
        let slots = serving.clone().map(|executor| executor.slots).fold(0, u32::saturating_add);
        let slots_busy = serving.map(|executor| executor.slots_busy).fold(0, u32::saturating_add);
        if facts.ahead.tasks > 0 || (slots > 0 && slots_busy >= slots) {
            reasons.push(Reason::Behind { tasks: facts.ahead.tasks, is_more: facts.ahead.is_more, slots, slots_busy });
        }
        if reasons.is_empty() {
            reasons.push(Reason::AboutToStart);
        }
        reasons
    }
}

/// A reason with its sentence.
fn shown(reason: &Reason) -> Value {
    let mut document = json!(reason);
    document["message"] = json!(reason.to_string());
    document
}

/// What becomes of a task whose run is lost.
const fn after_its_loss(facts: &WhyFacts) -> &'static str {
    match (facts.cancel_requested_at, facts.at_most_once) {
        (Some(_), _) => "is cancelled",
        (None, true) => "fails as lost (at_most_once)",
        (None, false) => "is dispatched again",
    }
}

fn retrying(facts: &WhyFacts) -> Reason {
    let (until, error) = (facts.due_at, error(facts));
    if facts.releases > 0 {
        return Reason::Unsupported { until, releases: facts.releases, error };
    }
    Reason::Backoff { until, attempts: facts.attempts, max_attempts: facts.max_attempts, error }
}

/// Why no executor takes it.
fn nobody(facts: &WhyFacts, executors: &[&ExecutorView]) -> Option<Reason> {
    let queue = facts.queue.clone();
    let names = |of: &dyn Fn(&ExecutorView) -> bool| {
        executors.iter().filter(|executor| of(executor)).map(|executor| executor.name.clone()).collect()
    };
    let serving: Vec<&&ExecutorView> = executors.iter().filter(|executor| executor.serves(&queue)).collect();
    if serving.is_empty() {
        let executors_not_taking = names(&|executor| executor.queues.contains(&facts.queue));
        return Some(Reason::NobodyServesQueue { queue, executors_not_taking });
    }
    let handler = facts.handler.clone().filter(|handler| !serving.iter().any(|one| one.handlers.contains(handler)))?;
    Some(Reason::NobodyHasHandler { executors: names(&|executor| executor.serves(&facts.queue)), queue, handler })
}

fn error(facts: &WhyFacts) -> Option<String> {
    let message = facts.error.as_deref();
    let told = |word: &str, message: &str| {
        // Most of a command's failures begin with their word: `exit code 3`.
        if message.split(' ').next() == Some(word) { message.to_owned() } else { format!("{word}: {message}") }
    };
    facts.error_type.as_deref().map(|word| message.map_or_else(|| word.to_owned(), |message| told(word, message)))
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let because = |reason: &Option<String>| reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        match self {
            Self::Ended { status, completed_at, error } => write!(f, "it has ended: {status} at {}{}", at(*completed_at), because(error)),
            Self::Running { executor_id, started_at, attempt } => {
                write!(f, "attempt {attempt} runs on `{executor_id}` since {}", at(*started_at))
            }
            Self::Silent { silent, then } => write!(f, "{silent}, then the task {then}"),
            Self::Cancelling { requested_at } => write!(f, "it was cancelled at {}: its run has to end first", at(Some(*requested_at))),
            Self::Upstream { tasks, tasks_total } => {
                let named: Vec<String> = tasks.iter().map(|task| format!("`{}` ({})", task.name, task.status)).collect();
                let more = tasks_total.saturating_sub(tasks.len());
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                write!(f, "it waits for {}{more}", named.join(", "))
            }
            Self::Backoff { until, attempts, max_attempts, error } => {
                write!(f, "attempt {attempts} of {max_attempts} failed{}; the next is due at {}", because(error), at(*until))
            }
            Self::Unsupported { until, releases, error } => write!(
                f,
                "executors gave it back {releases} times as not supported{}; it is tried again at {}: start one that knows its kind and handler",
                because(error),
                at(*until)
            ),
            Self::Timer { until } => write!(f, "it waits until {}", at(*until)),
            Self::PausedQueue { queue, paused_at, paused_reason } => write!(
                f,
                "queue `{queue}` is paused since {}{}: `orchestr8 queues resume {queue}`",
                at(Some(*paused_at)),
                because(paused_reason)
            ),
            Self::NobodyServesQueue { queue, executors_not_taking } if executors_not_taking.is_empty() => {
                write!(f, "no executor serves queue `{queue}`: start one with --queues {queue}")
            }
            Self::NobodyServesQueue { queue, executors_not_taking } => {
                let named = executors_not_taking.join("`, `");
                write!(f, "the executors of queue `{queue}` take no new work (`{named}`): uncordon one, or start another")
            }
            Self::NobodyHasHandler { queue, handler, executors } => {
                write!(f, "no executor of queue `{queue}` has handler `{handler}` (`{}`): start one that has it", executors.join("`, `"))
            }
            Self::Held { queue, priority } => write!(
                f,
                "it is held in Postgres: JetStream has no room for queue `{queue}` at priority {priority}, or is away; it is published as others leave"
            ),
            Self::Behind { tasks, is_more, slots, slots_busy } => {
                let ahead = match (tasks, is_more) {
                    (1, false) => "1 queued task goes before it".to_owned(),
                    (tasks, false) => format!("{tasks} queued tasks go before it"),
                    (tasks, true) => format!("{tasks} or more queued tasks go before it"),
                };
                write!(f, "{ahead}; as of the executors' last heartbeats {slots_busy} of {slots} slots are busy")
            }
            Self::AboutToStart => f.write_str("nothing is in its way: it starts in a moment"),
        }
    }
}

fn at(time: Option<OffsetDateTime>) -> String {
    let whole = time.and_then(|time| time.replace_nanosecond(0).ok()?.format(&Rfc3339).ok());
    whole.unwrap_or_else(|| "a time that is not known".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::silence::tests::{self, incarnation, silent_for};
    use super::*;
    use orchestr8_core::leases::Standing;
    use orchestr8_proto::words::Priority;
    use orchestr8_store::read::why::Ahead;
    use std::time::Duration;
    use time::macros::datetime;
    use uuid::Uuid;

    const NOON: OffsetDateTime = datetime!(2026-01-31 12:00 UTC);

    fn facts(status: TaskStatus) -> WhyFacts {
        WhyFacts {
            name: "build".into(),
            workflow_id: Uuid::nil(),
            status,
            queue: "gpu".into(),
            priority: Priority::Normal,
            handler: Some("train".into()),
            executor_id: Some("e1".into()),
            incarnation: Some(incarnation(1)),
            at_most_once: false,
            started_at: Some(NOON),
            completed_at: None,
            error: Some("code 3".into()),
            error_type: Some("exit".into()),
            attempts: 2,
            max_attempts: 3,
            releases: 0,
            due_at: None,
            queued_at: NOON,
            queued_for: Duration::from_mins(1),
            publication: Publication::Done,
            cancel_requested_at: None,
            paused: None,
            upstream: Vec::new(),
            upstream_count: 0,
            ahead: Ahead::default(),
        }
    }

    fn executor() -> ExecutorView {
        tests::executor(1)
    }

    /// The sentences.
    fn said(facts: &WhyFacts, executors: &[ExecutorView]) -> Vec<String> {
        let outlook = Outlook { executors: Some(executors.to_vec()), times: ProtocolTimes::default() };
        outlook.reasons(facts).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_waits_for_time_or_others_says_for_whom() {
        let due = WhyFacts { due_at: Some(NOON), ..facts(TaskStatus::Retrying) };
        assert_eq!(said(&due, &[]), ["attempt 2 of 3 failed (exit: code 3); the next is due at 2026-01-31T12:00:00Z"]);
        let doubled = WhyFacts { error: Some("exit code 3".into()), ..due.clone() };
        assert!(said(&doubled, &[])[0].starts_with("attempt 2 of 3 failed (exit code 3);"));
        let unsupported = said(&WhyFacts { releases: 4, ..due.clone() }, &[]).remove(0);
        assert!(unsupported.starts_with("executors gave it back 4 times as not supported (exit: code 3)"), "{unsupported}");
        assert_eq!(said(&WhyFacts { status: TaskStatus::Waiting, ..due }, &[]), ["it waits until 2026-01-31T12:00:00Z"]);
        let upstream = vec![Upstream { task_id: Uuid::nil(), name: "test".into(), status: TaskStatus::Running }];
        let pending = WhyFacts { upstream, upstream_count: 3, ..facts(TaskStatus::Pending) };
        assert_eq!(said(&pending, &[]), ["it waits for `test` (running) and 2 more"]);
    }

    #[test]
    fn what_runs_says_where_and_whether_it_is_heard() {
        let running = facts(TaskStatus::Running);
        assert_eq!(said(&running, &[executor()]), ["attempt 2 runs on `e1` since 2026-01-31T12:00:00Z"]);
        let cancelled = WhyFacts { cancel_requested_at: Some(NOON), ..running.clone() };
        let silent = said(&cancelled, &[]);
        assert!(silent.len() == 3 && silent[1].starts_with("it was cancelled") && silent[2].contains("has not been heard"), "{silent:?}");
        assert!(silent[2].ends_with("within 15 s, then the task is cancelled"), "{silent:?}");
        // One of the same name is not the one that holds the run.
        let silent = silent_for(8_200, Standing::default(), executor());
        let again = said(&running, &[silent.clone(), tests::executor(2)]);
        assert!(again.len() == 2 && again[1].ends_with("lease ends in about 6.8 s, then the task is dispatched again"), "{again:?}");
        let once = said(&WhyFacts { at_most_once: true, ..running }, &[silent]);
        assert!(once[1].ends_with("then the task fails as lost (at_most_once)"), "{once:?}");
        let ended = WhyFacts { completed_at: Some(NOON), ..facts(TaskStatus::Failed) };
        assert_eq!(said(&ended, &[]), ["it has ended: failed at 2026-01-31T12:00:00Z (exit: code 3)"]);
    }

    #[test]
    fn what_is_queued_names_everything_in_its_way() {
        let queued = facts(TaskStatus::Queued);
        assert_eq!(said(&queued, &[executor()]), ["nothing is in its way: it starts in a moment"]);
        assert!(said(&queued, &[])[0].contains("no executor serves queue `gpu`"));
        let early = Outlook { executors: None, times: ProtocolTimes::default() };
        assert_eq!(early.reasons(&queued), [Reason::AboutToStart], "too early to say");
        assert_eq!(early.reasons(&facts(TaskStatus::Running)).len(), 1, "too early to say");
        let silent = silent_for(8_000, Standing::default(), executor());
        assert!(said(&queued, &[silent])[0].contains("no executor serves queue `gpu`"), "it is not heard");
        let cordoned = said(&queued, &[ExecutorView { cordoned: true, ..executor() }]);
        assert!(cordoned[0].contains("take no new work (`e1`)"), "{cordoned:?}");
        let without = said(&queued, &[ExecutorView { handlers: Vec::new(), ..executor() }]);
        assert!(without[0].contains("has handler `train`"), "{without:?}");
        let paused = WhyFacts { paused: Some((NOON, Some("night".into()))), publication: Publication::Never, ..queued.clone() };
        let paused = said(&paused, &[executor()]);
        assert!(paused.len() == 1 && paused[0].contains("paused since 2026-01-31T12:00:00Z (night)"), "{paused:?}");
        let busy = said(&WhyFacts { ahead: Ahead { tasks: 7, is_more: true }, ..queued }, &[ExecutorView { slots_busy: 4, ..executor() }]);
        assert_eq!(busy, ["7 or more queued tasks go before it; as of the executors' last heartbeats 4 of 4 slots are busy"]);
        let one = Ahead { tasks: 1, is_more: false };
        let behind_one = said(&WhyFacts { ahead: one, ..facts(TaskStatus::Queued) }, &[executor()]);
        assert!(
            behind_one[0].starts_with("1 queued task goes before it; as of the executors' last heartbeats 1 of 4 slots"),
            "{behind_one:?}"
        );
    }

    #[test]
    fn what_was_tried_is_held_only_once_the_marks_must_have_moved() {
        let open = WhyFacts { publication: Publication::Open, ..facts(TaskStatus::Queued) };
        assert!(said(&open, &[executor()])[0].contains("held in Postgres"));
        let fresh = WhyFacts { queued_for: Duration::from_secs(1), ..open.clone() };
        assert!(!said(&fresh, &[executor()])[0].contains("held"), "the marks are saved every few seconds");
        assert!(said(&WhyFacts { publication: Publication::Never, ..fresh }, &[executor()])[0].contains("held"));
    }
}
