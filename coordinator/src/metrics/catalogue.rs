//! The name, the labels and the help of every metric of the coordinator. The table in `docs/metrics.md` is made from it.

use orchestr8_proto::exposition::Described;

/// See its help.
pub const SUBMISSIONS: Described =
    Described::counter("orchestr8_submissions_total", &[], "Workflow executions committed for callers; a single task is one");
/// See its help.
pub const SUBMISSIONS_REFUSED: Described = Described::counter(
    "orchestr8_submissions_refused_total",
    &["reason"],
    "Well-formed submissions that were not taken: overloaded (too much waits for the database already), unavailable, key_reused, refused",
);
/// See its help.
pub const HTTP_REQUESTS: Described =
    Described::counter("orchestr8_http_requests_total", &["method", "route", "status"], "Requests answered, by route and status");
/// See its help.
pub const HTTP_REQUEST_DURATION: Described = Described::histogram(
    "orchestr8_http_request_duration_seconds",
    &["route"],
    "From a request's head to its answer's head; waits included",
);
/// See its help.
pub const TASKS: Described = Described::gauge(
    "orchestr8_tasks",
    &["queue", "priority", "state"],
    "Unfinished tasks of all shards that are queued, running, retrying or waiting, held ones included; the same on each coordinator, so take the maximum",
);
/// See its help.
pub const QUEUE_DEMAND: Described = Described::gauge(
    "orchestr8_queue_demand_slots",
    &["queue"],
    "Slots that queued and running tasks want, of all shards: what to scale executors by; take the maximum",
);
/// See its help.
pub const OLDEST_QUEUED_AGE: Described = Described::gauge(
    "orchestr8_oldest_queued_age_seconds",
    &["queue"],
    "Since when the oldest queued task of the queue waits for an executor, of all shards; absent where nothing is queued; take the maximum",
);
/// See its help.
pub const TASKS_ENDED: Described =
    Described::counter("orchestr8_tasks_ended_total", &["queue", "status"], "Tasks that reached a final state");
/// See its help.
pub const TASK_QUEUE_WAIT: Described = Described::histogram(
    "orchestr8_task_queue_wait_seconds",
    &["queue"],
    "From the moment that an attempt was queued to its start; of a task without upstream, from its submission",
);
/// See its help.
pub const TASK_DURATION: Described = Described::histogram(
    "orchestr8_task_duration_seconds",
    &["queue"],
    "From the start of a task's last attempt to its end; tasks that never started are left out",
);
/// See its help.
pub const WORKFLOW_DURATION: Described = Described::histogram(
    "orchestr8_workflow_duration_seconds",
    &["status"],
    "From the submission of an execution to its end; a single task is an execution",
);
/// See its help.
pub const OUTCOMES: Described = Described::counter(
    "orchestr8_outcomes_total",
    &["result"],
    "Outcomes decided, by what they said: completed, failed, released (given back by an executor that stops, or that does not know the kind)",
);
/// See its help.
pub const ATTEMPT_FAILURES: Described = Described::counter(
    "orchestr8_attempt_failures_total",
    &["error_type"],
    "Attempts that failed or were lost, followed by another or not; error types beyond the first 64 are shown as other",
);
/// See its help.
pub const RETRIES: Described =
    Described::counter("orchestr8_retries_total", &[], "Attempts after a task's first that were queued: after failures, losses and drains");
/// See its help.
pub const RUNS_LOST: Described = Described::counter("orchestr8_runs_lost_total", &[], "Runs declared lost: their executor fell silent");
/// See its help.
pub const LOSSES_HELD_BACK: Described = Described::gauge(
    "orchestr8_losses_held_back_executors",
    &[],
    "Executors that are silent together, more than half of at least three: nothing of them is declared lost yet",
);
/// See its help.
pub const CLAIMS: Described = Described::counter("orchestr8_claims_total", &["result"], "Claims of executors answered: granted, refused");
/// See its help.
pub const PUBLISHES: Described = Described::counter("orchestr8_publishes_total", &[], "Dispatches that the broker stored");
/// See its help.
pub const PUBLISHES_AGAIN: Described =
    Described::counter("orchestr8_publishes_again_total", &[], "Dispatches published again with the same ids");
/// See its help.
pub const PUBLISHES_REFUSED: Described = Described::counter(
    "orchestr8_publishes_refused_total",
    &["reason"],
    "Dispatches that the broker refused: full (the subject's bound; they are held), no_storage (its disk or its limit), too_large (their task fails)",
);
/// See its help.
pub const HELD_DISPATCHES: Described = Described::gauge(
    "orchestr8_held_dispatches",
    &["queue"],
    "Dispatches of this coordinator's shards that wait in Postgres because the broker has no room, about; take the sum",
);
/// See its help.
pub const OUTCOME_LAG: Described = Described::gauge(
    "orchestr8_outcome_lag",
    &[],
    "Messages of the outcome stream for the shards of this coordinator that are not committed: not read yet, or read and not committed; take the sum; absent while it reads none, because it owns no shard or Postgres or NATS is away",
);
/// See its help.
pub const STREAM_MESSAGES: Described =
    Described::gauge("orchestr8_stream_messages", &["stream"], "Messages in a stream; take the maximum; absent while NATS is away");
/// See its help.
pub const STREAM_BYTES: Described = Described::gauge("orchestr8_stream_bytes", &["stream"], "Bytes in a stream; take the maximum");
/// See its help.
pub const STREAM_BYTES_MAX: Described =
    Described::gauge("orchestr8_stream_bytes_max", &["stream"], "The stream's own limit, where it has one");
/// See its help.
pub const EXECUTORS: Described =
    Described::gauge("orchestr8_executors", &["queue"], "Executors heard lately that fetch from the queue; take the maximum");
/// See its help.
pub const EXECUTORS_DRAINING: Described =
    Described::gauge("orchestr8_executors_draining", &[], "Executors heard lately that take no new work; take the maximum");
/// See its help.
pub const QUEUE_SLOTS: Described = Described::gauge(
    "orchestr8_queue_slots",
    &["queue"],
    "Slots of the executors that fetch from the queue; one that fetches from several counts in each; take the maximum",
);
/// See its help.
pub const QUEUE_SLOTS_BUSY: Described =
    Described::gauge("orchestr8_queue_slots_busy", &["queue"], "Of those, slots in use, by tasks of whichever queue; take the maximum");
/// See its help.
pub const SHARDS_OWNED: Described = Described::gauge("orchestr8_shards_owned", &[], "Shards owned by this coordinator");
/// See its help.
pub const SHARDS_DUE: Described =
    Described::gauge("orchestr8_shards_due", &[], "Shards that are this coordinator's fair share; 0 while it is cut off from NATS alone");
/// See its help.
pub const SHARDS_TAKEN: Described = Described::counter(
    "orchestr8_shards_taken_total",
    &[],
    "Vacant shards taken: at the start, and from coordinators that stopped or died",
);
/// See its help.
pub const SHARDS_HANDED_OVER: Described = Described::counter(
    "orchestr8_shards_handed_over_total",
    &[],
    "Shards given to others, because there are more lanes now or NATS is not heard",
);
/// See its help.
pub const SHARDS_RECOVERED: Described =
    Described::counter("orchestr8_shards_recovered_total", &[], "Shards whose state was read anew, after they were taken or after a doubt");
/// See its help.
pub const DOUBTS: Described = Described::counter(
    "orchestr8_doubts_total",
    &["reason"],
    "Doubts that made a lane recover its shards: fenced (another owns one), version (a row changed under it), unavailable (Postgres), refused",
);
/// See its help.
pub const LEASE_RENEWALS: Described =
    Described::counter("orchestr8_lease_renewals_total", &["result"], "Renewals of the leases of a lane's shards: kept, failed");
/// See its help.
pub const LEASE_AGE: Described = Described::gauge(
    "orchestr8_lease_age_seconds",
    &[],
    "Since when the lane that has waited longest has not renewed its leases; they run out after 10 s, and the interval is 3 s",
);
/// See its help.
pub const COMMITS: Described = Described::counter("orchestr8_commits_total", &[], "Batches committed by the lanes");
/// See its help.
pub const COMMIT_EVENTS: Described =
    Described::histogram("orchestr8_commit_events", &[], "Events in one batch; larger batches are the answer to load, not a problem");
/// See its help.
pub const COMMIT_DURATION: Described = Described::histogram(
    "orchestr8_commit_duration_seconds",
    &[],
    "From taking a batch to the end of its commit, with the reads that it needs: the latency of the database",
);
/// See its help.
pub const DATABASE_BYTES: Described = Described::gauge(
    "orchestr8_database_bytes",
    &[],
    "Tables and indexes of the database, without Postgres' log; take the maximum; absent while it is not known",
);
/// See its help.
pub const EVENTS_QUARANTINED: Described =
    Described::counter("orchestr8_events_quarantined_total", &[], "Events that could not be applied and were set aside");
/// See its help.
pub const NATS_CONNECTIONS_LOST: Described =
    Described::counter("orchestr8_nats_connections_lost_total", &[], "Times that a connection of a lane to NATS was lost");
/// See its help.
pub const READY: Described =
    Described::gauge("orchestr8_ready", &["part"], "Whether a part is there, 1 or 0: database, nats, shards; the reason is in /readyz");
/// See its help.
pub const BUILD: Described = Described::gauge("orchestr8_build_info", &["component", "version"], "Always 1; which build answers");

/// All of them, in the order of the documentation.
pub const ALL: &[Described] = &[
    TASKS,
    QUEUE_DEMAND,
    OLDEST_QUEUED_AGE,
    TASK_QUEUE_WAIT,
    TASK_DURATION,
    WORKFLOW_DURATION,
    TASKS_ENDED,
    ATTEMPT_FAILURES,
    RETRIES,
    OUTCOMES,
    RUNS_LOST,
    LOSSES_HELD_BACK,
    EXECUTORS,
    EXECUTORS_DRAINING,
    QUEUE_SLOTS,
    QUEUE_SLOTS_BUSY,
    CLAIMS,
    PUBLISHES,
    PUBLISHES_AGAIN,
    PUBLISHES_REFUSED,
    HELD_DISPATCHES,
    OUTCOME_LAG,
    STREAM_MESSAGES,
    STREAM_BYTES,
    STREAM_BYTES_MAX,
    SHARDS_OWNED,
    SHARDS_DUE,
    SHARDS_TAKEN,
    SHARDS_HANDED_OVER,
    SHARDS_RECOVERED,
    DOUBTS,
    LEASE_RENEWALS,
    LEASE_AGE,
    COMMITS,
    COMMIT_EVENTS,
    COMMIT_DURATION,
    DATABASE_BYTES,
    EVENTS_QUARANTINED,
    SUBMISSIONS,
    SUBMISSIONS_REFUSED,
    HTTP_REQUESTS,
    HTTP_REQUEST_DURATION,
    NATS_CONNECTIONS_LOST,
    READY,
    BUILD,
];
