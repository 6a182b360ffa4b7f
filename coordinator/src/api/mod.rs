//! The HTTP API: requests into submissions, commands and reads; answers as JSON, errors as problems. No logic of its own.
//!
//! - [`server`]: which addresses may be bound, serving, the bounded drain; [`tls`]: its certificate
//! - [`connections`]: how many there are, and how long they may be idle
//! - [`access`]: the bearer token, the counting of requests
//! - [`admission`]: how much of submissions may wait in memory
//! - [`problem`]: errors as `application/problem+json` with stable codes
//! - [`json`], [`body`], [`fields`], [`parameters`], [`ids`]: strict reading of requests; nothing is accepted and ignored
//! - [`queue_bound`]: how many queues there may be
//! - [`refusals`]: all that is wrong with a submission, in one answer
//! - [`submit`], [`single`], [`shapes`], [`workflow`]: submissions of tasks and workflows
//! - [`tasks`], [`workflows`], [`definitions`]: what there is, and cancelling it
//! - [`demand`]: what an autoscaler asks; [`external_metrics`]: the same in Kubernetes' own words, on a port for its front proxy
//! - `quarantine`: events that could not be applied
//! - `why`: what a task waits for
//! - `queues`, `executors`, `shards`, `doctor`, `log_level`: what operators look at and order
//! - `traced`: the span of a submission
//! - [`progress`]: how far an execution is
//! - `events`, [`waiting`]: event streams and waits for an end
//! - [`probes`]: `/healthz`, `/readyz`, `/metrics`

pub mod access;
pub mod admission;
pub mod body;
pub mod connections;
pub mod definitions;
pub mod demand;
mod doctor;
pub mod elsewhere;
mod events;
mod executors;
pub mod external_metrics;
pub mod fields;
mod front_proxy;
pub mod ids;
pub mod json;
mod log_level;
pub mod parameters;
pub mod probes;
pub mod problem;
pub mod progress;
mod quarantine;
pub mod queue_bound;
mod queues;
pub mod refusals;
pub mod server;
pub mod shapes;
mod shards;
mod silence;
pub mod single;
pub mod submit;
pub mod tasks;
pub mod tls;
mod traced;
pub mod waiting;
mod why;
pub mod workflow;
pub mod workflows;

#[cfg(test)]
mod tests;

use crate::engine::handle::EngineHandle;
use crate::metrics::Metrics;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::routing::{get, post, put};
use axum::{Router, middleware};
use orchestr8_proto::log_level::LogControl;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::traces::SpanSink;
use problem::{Code, Problem};
use sqlx::PgPool;
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

pub use server::{ListenError, check_listen, serve};

/// Event streams and waits that are open at the same time, at most: each holds a connection and some memory.
pub const LISTENERS_MAX: usize = 4_096;

/// What the API needs to know besides where to send and read.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Any of these bearer tokens opens the API; more than one while they rotate. None: nobody gets in.
    pub tokens: Vec<access::Token>,
    /// These open `/metrics` and the demand of queues alone: who only watches and scales needs no key to everything.
    pub metrics_tokens: Vec<access::Token>,
    /// The coordinator's, a label.
    pub name: String,
    /// What this process logs.
    pub log: LogControl,
    /// Where spans go.
    pub spans: SpanSink,
    /// Of submissions whose caller traces nothing, how many begin a trace: from 0 to 1.
    pub trace_ratio: f64,
    /// How often who waits reads again.
    pub times: ProtocolTimes,
    /// Of the connections that it is asked over.
    pub connections: connections::ConnectionLimits,
    /// Queues that there may be, at least 1; a submission with one more is refused.
    pub queues_max: usize,
    /// Event streams and waits end, and no connection is accepted, once this is cancelled.
    pub shutdown: CancellationToken,
}

/// What every handler is given. Cheap to clone.
#[derive(Clone)]
pub struct ApiContext {
    inside: Arc<Inside>,
}

/// See [`ApiContext`].
pub struct Inside {
    /// Submissions and commands.
    pub engine: EngineHandle,
    /// From [`orchestr8_store::read::read_pool`].
    pub reads: PgPool,
    /// Tokens and times.
    pub settings: ApiSettings,
    /// Shared with the engine.
    pub metrics: Metrics,
    listeners: Arc<Semaphore>,
    /// Bytes of submissions that may be received.
    submissions: Arc<Semaphore>,
    scrape: Mutex<probes::LastScrape>,
    shapes: shapes::Shapes,
    queues: queue_bound::QueueBound,
    demand: demand::LastCount,
}

impl ApiContext {
    /// A context for [`router`].
    #[must_use]
    pub fn new(engine: EngineHandle, reads: PgPool, settings: ApiSettings, metrics: Metrics) -> Self {
        let listeners = Arc::new(Semaphore::new(LISTENERS_MAX));
        let submissions = Arc::new(Semaphore::new(admission::SUBMISSION_BYTES_MAX));
        let (scrape, demand) = (Mutex::default(), demand::LastCount::default());
        let (shapes, queues) = (shapes::Shapes::default(), queue_bound::QueueBound::new(settings.queues_max));
        Self { inside: Arc::new(Inside { engine, reads, settings, metrics, listeners, submissions, scrape, shapes, queues, demand }) }
    }
}

impl std::ops::Deref for ApiContext {
    type Target = Inside;

    fn deref(&self) -> &Inside {
        &self.inside
    }
}

/// All routes.
pub fn router(context: ApiContext) -> Router {
    Router::new()
        .merge(task_routes())
        .merge(workflow_routes())
        .merge(quarantine_routes())
        .merge(operating_routes())
        .merge(other_routes())
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(body::BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(context.clone(), access::authorize))
        .layer(middleware::from_fn_with_state(context.clone(), access::count))
        .with_state(context)
}

fn task_routes() -> Router<ApiContext> {
    Router::new()
        .route("/api/v1/tasks", post(submit::tasks).get(tasks::list))
        .route("/api/v1/tasks/{id}", get(tasks::one))
        .route("/api/v1/tasks/{id}/status", get(tasks::status))
        .route("/api/v1/tasks/{id}/result", get(tasks::result))
        .route("/api/v1/tasks/{id}/why", get(why::why))
        .route("/api/v1/tasks/{id}/cancel", post(tasks::cancel))
}

fn workflow_routes() -> Router<ApiContext> {
    Router::new()
        .route("/api/v1/workflows", post(submit::workflow).get(workflows::list))
        .route("/api/v1/workflows/{id}", get(workflows::one))
        .route("/api/v1/workflows/{id}/tasks", get(workflows::tasks))
        .route("/api/v1/workflows/{id}/why", get(why::of_workflow))
        .route("/api/v1/workflows/{id}/events", get(events::follow))
        .route("/api/v1/workflows/{id}/cancel", post(workflows::cancel))
}

fn quarantine_routes() -> Router<ApiContext> {
    Router::new()
        .route("/api/v1/quarantine", get(quarantine::list))
        .route("/api/v1/quarantine/{id}", get(quarantine::one).delete(quarantine::discard))
        .route("/api/v1/quarantine/{id}/redrive", post(quarantine::redrive))
}

fn operating_routes() -> Router<ApiContext> {
    Router::new()
        .route("/api/v1/queues", get(queues::list))
        .route("/api/v1/queues/{queue}/pause", post(queues::pause))
        .route("/api/v1/queues/{queue}/resume", post(queues::resume))
        .route("/api/v1/executors", get(executors::list))
        .route("/api/v1/executors/{name}/cordon", post(executors::cordon))
        .route("/api/v1/executors/{name}/uncordon", post(executors::uncordon))
        .route("/api/v1/executors/{name}/drain", post(executors::drain))
        .route("/api/v1/executors/{name}/log-level", put(executors::log_level))
        .route("/api/v1/log-level", get(log_level::show).put(log_level::change))
        .route("/api/v1/shards", get(shards::list))
        .route("/api/v1/doctor", get(doctor::doctor))
}

fn other_routes() -> Router<ApiContext> {
    Router::new()
        .route("/api/v1/definitions", post(definitions::register).get(definitions::list))
        .route("/api/v1/definitions/{reference}", get(definitions::one))
        .route("/api/v1/queues/{queue}/demand", get(demand::of_queues))
        .route("/healthz", get(probes::healthz))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
        .route("/problems", get(problem::pages))
        .route("/problems/{code}", get(problem::page))
}

async fn unknown_route(uri: Uri) -> Problem {
    Problem::new(Code::UnknownRoute, format!("there is nothing under `{}`", uri.path()))
}

async fn method_not_allowed(uri: Uri) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("`{}` has other methods: see the header Allow", uri.path()))
}
