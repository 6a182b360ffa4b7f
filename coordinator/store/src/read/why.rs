//! What a task waits for, as far as the database knows.

use super::{ReadError, word};
use orchestr8_core::plan::{Plan, TaskKind};
use orchestr8_proto::ids::{ExecutionId, Incarnation, TaskId};
use orchestr8_proto::words::{Priority, TaskStatus, WorkflowStatus};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// Upstream tasks that are named, at most; they are counted all.
pub const UPSTREAM_SHOWN_MAX: usize = 20;
/// Queued tasks that are counted in one shard and priority, at most: the oldest, so that the count is a bound from below.
const AHEAD_COUNTED_MAX: i64 = 1_000;

/// Tasks of a workflow whose reasons are told, at most; they are counted all.
const UNENDED_SHOWN_MAX: i64 = 20;

const WHY: &str =
    "select t.task_name, t.workflow_id, t.status, t.queue, t.priority, t.executor_id, t.incarnation, t.started_at, t.completed_at,
        t.error, t.error_type, t.attempt, t.max_retries, t.releases_in_row, t.due_at, coalesce(t.queued_at, t.created_at) as queued_at,
        greatest(0, extract(epoch from clock_timestamp() - coalesce(t.queued_at, t.created_at)))::float8 as queued_for_s,
        t.dispatch_sequence, m.published_through, m.tried_through, w.cancel_requested_at, q.paused_at, q.reason as paused_reason, p.plan
    from task_executions t join workflow_executions w on w.id = t.workflow_id join plans p on p.hash = w.plan_hash
    left join dispatch_marks m on m.shard = t.shard and m.queue = t.queue and m.priority = t.priority
    left join paused_queues q on q.queue = t.queue
    where t.id = $1";

const UPSTREAM: &str = "select id, task_name, status from task_executions
    where id = any ($1) and status not in ('completed', 'failed', 'skipped', 'cancelled') order by id";

/// Within a shard and priority the oldest come first by index; a more urgent priority counts whole.
const AHEAD: &str = "select coalesce(sum(a.tasks), 0)::bigint as tasks, coalesce(bool_or(a.tasks = $5), false) as is_more
    from shards s cross join unnest($2::text[]) as u (priority) cross join lateral (
        select count(*) as tasks from (
            select t.id, coalesce(t.queued_at, t.created_at) as queued_at from task_executions t
            where t.shard = s.shard and t.status = 'queued' and t.queue = $1 and t.priority = u.priority
            order by t.dispatch_sequence limit $5) o
        where u.priority <> $3 or o.queued_at < $4) a";

const WORKFLOW: &str = "select workflow_name, status, error from workflow_executions where id = $1";

/// What only waits for other tasks says least.
const UNENDED: &str = "select id, count(*) over () as tasks_total from task_executions
    where id > $1 and id <= $2 and status not in ('completed', 'failed', 'skipped', 'cancelled')
    order by status = 'pending', id limit $3";

pub(super) const STATEMENTS: &[(&str, &str)] =
    &[("why", WHY), ("why upstream", UPSTREAM), ("why ahead", AHEAD), ("why workflow", WORKFLOW), ("why unended", UNENDED)];

/// An execution, and those of its tasks that have not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unended {
    /// The name in the definition.
    pub workflow_name: String,
    /// Its state.
    pub status: WorkflowStatus,
    /// Why it failed.
    pub error: Option<String>,
    /// The first twenty: in the order of the definition, those that only wait for others last.
    pub tasks: Vec<TaskId>,
    /// All of them.
    pub tasks_total: i64,
}

/// What the database knows of a task's waiting.
#[derive(Debug, Clone, PartialEq)]
pub struct WhyFacts {
    /// Its name in the definition.
    pub name: String,
    /// The execution it belongs to.
    pub workflow_id: Uuid,
    /// Its state.
    pub status: TaskStatus,
    /// Which executors may run it.
    pub queue: String,
    /// Within its queue.
    pub priority: Priority,
    /// The handler that it needs.
    pub handler: Option<String>,
    /// Name of the executor that ran it last.
    pub executor_id: Option<String>,
    /// The process that holds its run.
    pub incarnation: Option<Incarnation>,
    /// It is never started twice.
    pub at_most_once: bool,
    /// Start of the attempt that counted.
    pub started_at: Option<OffsetDateTime>,
    /// When its end was committed.
    pub completed_at: Option<OffsetDateTime>,
    /// Message of the last failure.
    pub error: Option<String>,
    /// Stable word for it.
    pub error_type: Option<String>,
    /// Attempts so far, the current one included.
    pub attempts: i32,
    /// Attempts in all that the policy allows.
    pub max_attempts: i32,
    /// How often it was given back as unsupported since its last attempt that began.
    pub releases: i32,
    /// When its timer is due.
    pub due_at: Option<OffsetDateTime>,
    /// When it was queued last.
    pub queued_at: OffsetDateTime,
    /// How long ago that was, on the database's clock.
    pub queued_for: Duration,
    /// Where it stands towards the marks of its shard, queue and priority, as they were saved last.
    pub publication: Publication,
    /// When somebody cancelled its execution.
    pub cancel_requested_at: Option<OffsetDateTime>,
    /// Since when its queue is paused, and why.
    pub paused: Option<(OffsetDateTime, Option<String>)>,
    /// Upstream tasks that have not ended, the first [`UPSTREAM_SHOWN_MAX`] of them.
    pub upstream: Vec<Upstream>,
    /// All upstream tasks that have not ended.
    pub upstream_count: usize,
    /// Queued tasks that go before it.
    pub ahead: Ahead,
}

/// Where a queued task stands towards the saved marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publication {
    /// It is not queued, or JetStream has it.
    Done,
    /// It may have been tried; the marks are saved every few seconds.
    Open,
    /// It was never tried.
    Never,
}

/// An upstream task that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// Its id.
    pub task_id: Uuid,
    /// Its name in the definition.
    pub name: String,
    /// Its state.
    pub status: TaskStatus,
}

/// How many go before a queued task: those of more urgent priorities, and of its own those that were queued earlier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Ahead {
    /// Tasks.
    pub tasks: i64,
    /// There may be more: not all are counted.
    pub is_more: bool,
}

/// What a task waits for.
///
/// # Errors
/// [`ReadError`].
pub async fn facts(db: &mut PgConnection, id: TaskId) -> Result<Option<WhyFacts>, ReadError> {
    let Some(row) = sqlx::query(WHY).bind(id.0).fetch_optional(&mut *db).await? else { return Ok(None) };
    let plan = row.try_get::<Json<Plan>, _>("plan")?.0;
    let mut facts = of_row(&row, &plan, id)?;
    match facts.status {
        TaskStatus::Pending => {
            let rows = sqlx::query(UPSTREAM).bind(upstream_ids(&plan, id)).fetch_all(&mut *db).await?;
            facts.upstream_count = rows.len();
            facts.upstream = rows.iter().take(UPSTREAM_SHOWN_MAX).map(upstream).collect::<Result<_, _>>()?;
        }
        TaskStatus::Queued => facts.ahead = ahead(db, &facts).await?,
        TaskStatus::Running
        | TaskStatus::Retrying
        | TaskStatus::Waiting
        | TaskStatus::Completed
        | TaskStatus::Failed
        | TaskStatus::Skipped
        | TaskStatus::Cancelled => {}
    }
    Ok(Some(facts))
}

/// The tasks of an execution that have not ended; none: there is no such execution.
///
/// # Errors
/// [`ReadError`].
pub async fn unended(db: &mut PgConnection, id: ExecutionId) -> Result<Option<Unended>, ReadError> {
    let Some(workflow) = sqlx::query(WORKFLOW).bind(id.0).fetch_optional(&mut *db).await? else { return Ok(None) };
    let rows = sqlx::query(UNENDED).bind(id.0).bind(id.last_task().0).bind(UNENDED_SHOWN_MAX).fetch_all(db).await?;
    Ok(Some(Unended {
        workflow_name: workflow.try_get("workflow_name")?,
        status: word(&workflow, "status")?,
        error: workflow.try_get("error")?,
        tasks: rows.iter().map(|row| row.try_get("id").map(TaskId)).collect::<Result<_, _>>()?,
        tasks_total: rows.first().map_or(Ok(0), |row| row.try_get("tasks_total"))?,
    }))
}

async fn ahead(db: &mut PgConnection, facts: &WhyFacts) -> Result<Ahead, ReadError> {
    let priorities: Vec<&str> = Priority::ALL.iter().filter(|other| **other <= facts.priority).map(|other| other.as_str()).collect();
    let query = sqlx::query(AHEAD).bind(&facts.queue).bind(priorities).bind(facts.priority.as_str()).bind(facts.queued_at);
    let row = query.bind(AHEAD_COUNTED_MAX).fetch_one(db).await?;
    Ok(Ahead { tasks: row.try_get("tasks")?, is_more: row.try_get("is_more")? })
}

fn of_row(row: &PgRow, plan: &Plan, id: TaskId) -> Result<WhyFacts, ReadError> {
    let status = word(row, "status")?;
    let handler = plan.tasks.get(id.index() as usize).and_then(|task| match &task.kind {
        TaskKind::Handler { name } => Some(name.clone()),
        TaskKind::Run { .. } | TaskKind::Sleep { .. } => None,
    });
    let paused_at: Option<OffsetDateTime> = row.try_get("paused_at")?;
    let paused_reason: Option<String> = row.try_get("paused_reason")?;
    Ok(WhyFacts {
        name: row.try_get("task_name")?,
        workflow_id: row.try_get("workflow_id")?,
        status,
        queue: row.try_get("queue")?,
        priority: word(row, "priority")?,
        handler,
        executor_id: row.try_get("executor_id")?,
        incarnation: row.try_get::<Option<Uuid>, _>("incarnation")?.map(Incarnation),
        at_most_once: plan.tasks.get(id.index() as usize).is_some_and(|task| task.at_most_once),
        started_at: row.try_get("started_at")?,
        completed_at: row.try_get("completed_at")?,
        error: row.try_get("error")?,
        error_type: row.try_get("error_type")?,
        attempts: row.try_get("attempt")?,
        max_attempts: row.try_get::<i32, _>("max_retries")?.saturating_add(1),
        releases: row.try_get("releases_in_row")?,
        due_at: row.try_get("due_at")?,
        queued_at: row.try_get("queued_at")?,
        queued_for: Duration::try_from_secs_f64(row.try_get("queued_for_s")?).unwrap_or_default(),
        publication: publication(row, status)?,
        cancel_requested_at: row.try_get("cancel_requested_at")?,
        paused: paused_at.map(|at| (at, paused_reason)),
        upstream: Vec::new(),
        upstream_count: 0,
        ahead: Ahead::default(),
    })
}

fn publication(row: &PgRow, status: TaskStatus) -> Result<Publication, ReadError> {
    let sequence: Option<i64> = row.try_get("dispatch_sequence")?;
    let Some(sequence) = sequence.filter(|_| status == TaskStatus::Queued) else { return Ok(Publication::Done) };
    let mark = |column| row.try_get::<Option<i64>, _>(column).map(|mark| mark.unwrap_or(0));
    let (published_through, tried_through) = (mark("published_through")?, mark("tried_through")?);
    Ok(match sequence {
        sequence if sequence <= published_through => Publication::Done,
        sequence if sequence <= tried_through => Publication::Open,
        _ => Publication::Never,
    })
}

fn upstream_ids(plan: &Plan, id: TaskId) -> Vec<Uuid> {
    let Some(planned) = plan.tasks.get(id.index() as usize) else { return Vec::new() };
    let in_needed_phase = |task: &orchestr8_core::plan::TaskPlan| task.phase.is_some_and(|phase| planned.needs_phases.contains(&phase));
    let of_phases = (0_u32..).zip(&plan.tasks).filter(|(_, task)| in_needed_phase(task)).map(|(index, _)| index);
    planned.needs.iter().copied().chain(of_phases).map(|index| id.execution().task(index).0).collect()
}

fn upstream(row: &PgRow) -> Result<Upstream, ReadError> {
    Ok(Upstream { task_id: row.try_get("id")?, name: row.try_get("task_name")?, status: word(row, "status")? })
}
