//! The program as a whole: what follows what, submitting, and waiting for the end.

use super::parts::{collect, connect_postgres, dispatch, execute, work_queue};
use crate::bench::scale::CHAIN_LENGTH;
use crate::bench::stage::Stage;
use crate::harness::servers::connect_nats;
use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream::{self, context::ContextBuilder};
use sqlx::PgConnection;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

/// The tables, emptied.
const TABLES: &str = "
drop table if exists task, result;
create table task (
  id bigint primary key, status smallint not null, input bytea not null,
  created_at timestamptz not null default now(), updated_at timestamptz not null default now());
create table result (
  task bigint primary key, output bytea not null, created_at timestamptz not null default now());";
const SUBMIT: &str = "insert into task (id, status, input) select i, 0, $2 from unnest($1::bigint[]) i";
/// Bytes of a task.
pub const INPUT_BYTES: usize = 256;
/// Batches on their way to the dispatcher.
const DISPATCH_QUEUE: usize = 64;
/// Connections that store results.
const COLLECTORS: usize = 2;
/// More than a batch, for the dispatcher does not look at acks while it publishes one.
const ACKS_IN_FLIGHT_MAX: usize = 60_000;
/// Far above every workload.
const PATIENCE: Duration = Duration::from_mins(2);

/// What follows a finished task; ids carry the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    Independent,
    /// The next id, up to the end of its ten.
    Chains,
    /// 0, then 1 to n, then n + 1.
    Fan(usize),
}

/// What all parts share.
#[derive(Debug)]
pub struct Flow {
    shape: Shape,
    finished: AtomicUsize,
    fan_left: AtomicUsize,
    goal: AtomicUsize,
    reached: Notify,
    /// Committed tasks on their way to the broker.
    pub dispatches: mpsc::Sender<Vec<i64>>,
}

impl Flow {
    /// Puts what follows the task `id` into `next`.
    pub fn follow(&self, id: i64, next: &mut Vec<i64>) {
        let place = usize::try_from(id).unwrap_or_default();
        match self.shape {
            Shape::Independent => {}
            Shape::Chains => next.extend(((place + 1) % CHAIN_LENGTH != 0).then_some(id + 1)),
            Shape::Fan(width) if place == 0 => next.extend((1..=width).map(signed)),
            Shape::Fan(width) if place > width => {}
            Shape::Fan(width) => {
                let last = self.fan_left.fetch_sub(1, Ordering::SeqCst) == 1;
                next.extend(last.then(|| signed(width + 1)));
            }
        }
    }

    /// So many results more are committed.
    pub fn add_finished(&self, count: usize) {
        let finished = self.finished.fetch_add(count, Ordering::SeqCst) + count;
        if finished >= self.goal.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
    }
}

/// The running program.
#[derive(Debug)]
pub struct Program {
    flow: Arc<Flow>,
    postgres: PgConnection,
    parts: JoinSet<Result<()>>,
}

impl Program {
    /// Starts it on empty tables and streams.
    ///
    /// # Errors
    /// When a server refuses.
    pub async fn start(stage: &Stage, shape: Shape) -> Result<Self> {
        let mut postgres = connect_postgres(&stage.floor_url).await?;
        sqlx::raw_sql(TABLES).execute(&mut postgres).await?;
        let (dispatches, received) = mpsc::channel(DISPATCH_QUEUE);
        let fan = if let Shape::Fan(width) = shape { width } else { 0 };
        let flow = Arc::new(Flow {
            shape,
            finished: AtomicUsize::new(0),
            fan_left: AtomicUsize::new(fan),
            goal: AtomicUsize::new(usize::MAX),
            reached: Notify::new(),
            dispatches,
        });
        let url = &stage.installation.nats_url;
        let (dispatcher, executor, collector) = (jetstream(url).await?, jetstream(url).await?, jetstream(url).await?);
        let tasks = work_queue(&executor, "FLOOR_TASKS", "floor.task").await?;
        let results = work_queue(&collector, "FLOOR_RESULTS", "floor.result").await?;
        let mut parts = JoinSet::new();
        parts.spawn(dispatch(dispatcher, received));
        parts.spawn(execute(executor, tasks));
        for _ in 0..COLLECTORS {
            parts.spawn(collect(connect_postgres(&stage.floor_url).await?, results.clone(), flow.clone()));
        }
        Ok(Self { flow, postgres, parts })
    }

    /// From now on so many tasks are to finish.
    pub fn expect(&self, tasks: usize) {
        let goal = self.flow.finished.load(Ordering::SeqCst) + tasks;
        self.flow.goal.store(goal, Ordering::SeqCst);
    }

    /// Commits tasks, then hands them to the dispatcher.
    ///
    /// # Errors
    /// When the commit fails or the dispatcher is gone.
    pub async fn submit(&mut self, ids: &[usize]) -> Result<()> {
        let ids: Vec<i64> = ids.iter().copied().map(signed).collect();
        sqlx::query(SUBMIT).bind(&ids).bind(vec![1_u8; INPUT_BYTES]).execute(&mut self.postgres).await?;
        self.flow.dispatches.send(ids).await.context("the dispatcher ended")
    }

    /// Waits until as many have finished as were expected.
    ///
    /// # Errors
    /// When a part ends or it takes too long.
    pub async fn wait(&mut self) -> Result<()> {
        let flow = self.flow.clone();
        let reached = async {
            while flow.finished.load(Ordering::SeqCst) < flow.goal.load(Ordering::SeqCst) {
                flow.reached.notified().await;
            }
        };
        tokio::select! {
            () = reached => Ok(()),
            ended = self.parts.join_next() => bail!("a part of the floor ended: {ended:?}"),
            () = tokio::time::sleep(PATIENCE) => bail!("the floor did not finish within {PATIENCE:?}"),
        }
    }

    /// Submits `ids` and waits until `tasks` have finished.
    ///
    /// # Errors
    /// As those two.
    pub async fn submit_and_wait(&mut self, ids: &[usize], tasks: usize) -> Result<()> {
        self.expect(tasks);
        self.submit(ids).await?;
        self.wait().await
    }

    /// Ends it; so many results must be stored.
    ///
    /// # Errors
    /// When there are more or fewer.
    pub async fn stop(mut self, tasks: usize) -> Result<()> {
        self.parts.shutdown().await;
        let stored: i64 = sqlx::query_scalar("select count(*) from result").fetch_one(&mut self.postgres).await?;
        ensure!(stored == signed(tasks), "the floor stored {stored} results of {tasks}");
        Ok(())
    }
}

async fn jetstream(url: &str) -> Result<jetstream::Context> {
    let client = connect_nats(url).await?;
    Ok(ContextBuilder::new().max_ack_inflight(ACKS_IN_FLIGHT_MAX).ack_timeout(PATIENCE).build(client))
}

/// Ids here are far below the 2^63 that the column holds.
fn signed(id: usize) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}
