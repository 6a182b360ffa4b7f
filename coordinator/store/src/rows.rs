//! The composite rows of a commit, in the column order of the types in `migrations/0002_commit.sql`.

use orchestr8_core::execution::HistoryEvent;
use orchestr8_proto::timestamp::Timestamp;
use serde_json::Value;
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::types::PgRecordEncoder;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, Postgres};
use sqlx::types::{Json, Uuid};
use std::sync::Arc;
use time::OffsetDateTime;

macro_rules! record {
    ($(#[$doc:meta])* $name:ident as $sql:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type),+ }

        impl sqlx::Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                PgTypeInfo::with_name($sql)
            }
        }

        impl PgHasArrayType for $name {
            fn array_type_info() -> PgTypeInfo {
                PgTypeInfo::array_of($sql)
            }
        }

        impl Encode<'_, Postgres> for $name {
            fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                let mut encoder = PgRecordEncoder::new(buffer);
                $(encoder.encode(&self.$field)?;)+
                encoder.finish();
                Ok(IsNull::No)
            }
        }
    };
}

record! {
    /// A plan that an execution is pinned to.
    PlanRow as "plan_row" {
        /// SHA-256 of the plan's canonical JSON.
        hash: Vec<u8>,
        /// The plan.
        plan: Json<Value>,
    }
}

record! {
    /// What never changes about an execution.
    ExecutionStatic as "execution_static" {
        /// See `workflow_executions.id`.
        id: Uuid,
        /// On whose behalf.
        user_id: Option<String>,
        /// The name in the definition.
        workflow_name: String,
        /// When it was accepted.
        created_at: OffsetDateTime,
        /// The submitter's own.
        metadata: Json<Arc<Value>>,
        /// The submitter's own.
        tags: Json<Vec<String>>,
        /// The plan.
        plan_hash: Vec<u8>,
        /// The input.
        input: Json<Arc<Value>>,
    }
}

record! {
    /// What a commit may change about an execution.
    ExecutionState as "execution_state" {
        /// Which.
        id: Uuid,
        /// The version that is expected in the row.
        version: i64,
        /// A workflow status.
        status: &'static str,
        /// When the first task became ready.
        started_at: Option<OffsetDateTime>,
        /// When the last task ended.
        completed_at: Option<OffsetDateTime>,
        /// The evaluated output; none leaves the column as it is.
        output: Option<Json<Value>>,
        /// Why it failed.
        error: Option<String>,
        /// When somebody cancelled it.
        cancel_requested_at: Option<OffsetDateTime>,
        /// Sequence of the last event.
        event_sequence: i64,
    }
}

record! {
    /// What never changes about a task.
    TaskStatic as "task_static" {
        /// See `task_executions.id`.
        id: Uuid,
        /// Its execution.
        workflow_id: Uuid,
        /// Its name in the plan.
        task_name: String,
        /// For reports.
        agent_name: String,
        /// The prompt, else the name.
        task_description: String,
        /// Its phase.
        phase: Option<String>,
        /// A priority.
        priority: &'static str,
        /// Its queue.
        queue: String,
        /// The shard in its id.
        shard: i32,
        /// Attempts after the first that the policy allows.
        max_retries: i32,
        /// The submitter's own, for single tasks.
        metadata: Json<Arc<Value>>,
        /// When its execution was accepted.
        created_at: OffsetDateTime,
    }
}

record! {
    /// What a commit may change about a task.
    TaskState as "task_state" {
        /// Which.
        id: Uuid,
        /// A task status.
        status: &'static str,
        /// Where it ran last.
        executor_id: Option<Arc<str>>,
        /// Start of the current or last attempt.
        started_at: Option<OffsetDateTime>,
        /// When it ended.
        completed_at: Option<OffsetDateTime>,
        /// A small output; none leaves the column as it is.
        result: Option<Json<Value>>,
        /// The last failure's message.
        error: Option<String>,
        /// The last failure's word.
        error_type: Option<String>,
        /// Attempts after the first.
        retry_count: i32,
        /// While retrying: when the next attempt is due.
        next_retry_at: Option<OffsetDateTime>,
        /// Number of the current or last attempt.
        attempt: i32,
        /// Runs lost in a row.
        losses_in_row: i32,
        /// Releases as unsupported in a row.
        releases_in_row: i32,
        /// The current publication.
        dispatch_id: Option<Uuid>,
        /// Its place within shard, queue and priority.
        dispatch_sequence: Option<i64>,
        /// The holder's run.
        run_id: Option<Uuid>,
        /// The holder's process.
        incarnation: Option<Uuid>,
        /// The claim is granted before the start.
        ask_first: bool,
        /// When a timer changes it.
        due_at: Option<OffsetDateTime>,
    }
}

record! {
    /// The output of a completed task.
    ResultRow as "result_row" {
        /// Which task.
        task_execution_id: Uuid,
        /// The output.
        result_content: Json<Value>,
    }
}

record! {
    /// An attempt that leaves a row.
    AttemptRow as "attempt_row" {
        /// Of which task.
        task_execution_id: Uuid,
        /// From 1.
        attempt: i32,
        /// Which start.
        run_id: Uuid,
        /// Where.
        executor_id: Arc<str>,
        /// When it started.
        started_at: Option<OffsetDateTime>,
        /// When its end was decided.
        ended_at: OffsetDateTime,
        /// completed, failed, released or lost.
        outcome: &'static str,
        /// A stable word.
        error_type: Option<String>,
        /// For people.
        error: Option<String>,
        /// Of the command.
        exit_code: Option<i32>,
        /// User and system time.
        cpu_time_us: i64,
        /// Largest resident size.
        memory_peak_bytes: i64,
        /// The last 64 KiB.
        stdout_tail: Option<String>,
        /// The last 64 KiB.
        stderr_tail: Option<String>,
    }
}

record! {
    /// The events of one execution in one commit.
    HistoryRow as "history_row" {
        /// Which execution.
        workflow_id: Uuid,
        /// Sequence of the first of them.
        sequence: i64,
        /// A JSON array.
        events: Json<Vec<HistoryEvent>>,
    }
}

record! {
    /// The watermarks of a shard, queue and priority.
    MarkRow as "mark_row" {
        /// Which shard.
        shard: i32,
        /// Which queue.
        queue: String,
        /// Which priority.
        priority: &'static str,
        /// Everything up to here has its PubAck.
        published_through: i64,
        /// Nothing above was ever tried.
        tried_through: i64,
        /// The task stream that they belong to.
        stream_incarnation: Option<String>,
        /// Pairs of (dispatch sequence, stream sequence).
        checkpoints: Json<Vec<(i64, u64)>>,
    }
}

record! {
    /// How far the outcomes of a shard are committed.
    PositionRow as "position_row" {
        /// Which shard.
        shard: i32,
        /// Under which lease.
        lease_id: Uuid,
        /// The outcome stream that the position belongs to.
        stream_incarnation: Option<String>,
        /// Everything up to here is committed or is not this shard's.
        outcome_sequence: Option<i64>,
        /// Timestamp of that message on the server's clock.
        outcome_time: Option<OffsetDateTime>,
    }
}

record! {
    /// An idempotency key with the executions that it would make.
    KeyRow as "key_row" {
        /// As given in the header.
        key: String,
        /// SHA-256 of the body.
        body_hash: Vec<u8>,
        /// In the order of the submissions.
        execution_ids: Vec<Uuid>,
    }
}

/// A time for a column.
#[must_use]
pub fn column(time: Option<Timestamp>) -> Option<OffsetDateTime> {
    time.map(OffsetDateTime::from)
}

/// A count for an `int` column, saturating.
#[must_use]
pub fn int(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
