//! The parts of the program, each a loop of its own: dispatcher, executor, collectors.

use super::program::{Flow, INPUT_BYTES};
use anyhow::{Context, Result, anyhow};
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{self, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Message};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use sqlx::{Connection, PgConnection};
use std::sync::Arc;
use tokio::sync::mpsc;

const COLLECT: &str = "
with r as (insert into result (task, output) select i, $2 from unnest($1::bigint[]) i on conflict do nothing),
     u as (update task set status = 2, updated_at = now() from unnest($1::bigint[]) i where id = i)
insert into task (id, status, input) select i, 0, $4 from unnest($3::bigint[]) i";
/// Bytes of a result.
const OUTPUT_BYTES: usize = 64;
/// Messages of one pull, and results of one commit.
const BATCH_MAX: usize = 1_000;
/// Publications without their acks.
const PUBLISHED_MAX: usize = 4_000;
/// Results without their acks.
const EXECUTED_MAX: usize = 2_000;
/// More than all that are on their way at once.
const ACK_PENDING_MAX: i64 = 50_000;

/// A connection as the engine's own: plans of a table that was small would scan it when it is not.
///
/// # Errors
/// When Postgres refuses.
pub async fn connect_postgres(url: &str) -> Result<PgConnection> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query("set plan_cache_mode = force_custom_plan").execute(&mut connection).await?;
    Ok(connection)
}

/// An empty work queue on disk with one consumer.
///
/// # Errors
/// When nats-server refuses.
pub async fn work_queue(jetstream: &jetstream::Context, name: &str, subject: &str) -> Result<PullConsumer> {
    jetstream.delete_stream(name).await.ok(); // The first time it is not there.
    let shape = stream::Config {
        name: name.to_owned(),
        subjects: vec![subject.to_owned()],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        ..stream::Config::default()
    };
    let stream = jetstream.create_stream(shape).await?;
    let consumer = pull::Config { durable_name: Some("all".to_owned()), max_ack_pending: ACK_PENDING_MAX, ..pull::Config::default() };
    Ok(stream.create_consumer(consumer).await?)
}

/// Publishes what it is given, its acks pipelined.
///
/// # Errors
/// When a publication fails.
pub async fn dispatch(jetstream: jetstream::Context, mut batches: mpsc::Receiver<Vec<i64>>) -> Result<()> {
    let mut acks = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(ack) = acks.next(), if !acks.is_empty() => drop::<PublishAck>(ack?),
            batch = batches.recv(), if acks.len() < PUBLISHED_MAX => {
                let Some(batch) = batch else { return Ok(()) };
                for id in batch {
                    let published = jetstream.publish("floor.task", packed(id, INPUT_BYTES)).await?;
                    acks.push(published.into_future());
                }
            }
        }
    }
}

/// Runs tasks, which do nothing, and acks each once its result is stored in its stream.
///
/// # Errors
/// When a message cannot be read, published or acked.
pub async fn execute(jetstream: jetstream::Context, tasks: PullConsumer) -> Result<()> {
    let mut messages = tasks.stream().max_messages_per_batch(BATCH_MAX).messages().await?;
    let mut acks = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(acked) = acks.next(), if !acks.is_empty() => acked?,
            message = messages.next(), if acks.len() < EXECUTED_MAX => {
                let message = message.context("the stream of tasks ended")??;
                let published = jetstream.publish("floor.result", packed(unpacked(&message)?, OUTPUT_BYTES)).await?;
                acks.push(async move {
                    published.await?;
                    acked(&message).await
                });
            }
        }
    }
}

/// Commits results, as many as have arrived, with what follows them, hands that on, and acks.
///
/// # Errors
/// When a server fails.
pub async fn collect(mut postgres: PgConnection, results: PullConsumer, flow: Arc<Flow>) -> Result<()> {
    let (output, input) = (vec![1_u8; OUTPUT_BYTES], vec![1_u8; INPUT_BYTES]);
    let messages = results.stream().max_messages_per_batch(BATCH_MAX).messages().await?;
    let mut batches = messages.ready_chunks(BATCH_MAX);
    while let Some(batch) = batches.next().await {
        let batch: Vec<Message> = batch.into_iter().collect::<Result<_, _>>()?;
        let ids: Vec<i64> = batch.iter().map(unpacked).collect::<Result<_>>()?;
        let mut next = Vec::new();
        ids.iter().for_each(|id| flow.follow(*id, &mut next));
        sqlx::query(COLLECT).bind(&ids).bind(&output).bind(&next).bind(&input).execute(&mut postgres).await?;
        if !next.is_empty() {
            flow.dispatches.send(next).await.context("the dispatcher ended")?;
        }
        flow.add_finished(ids.len());
        for message in &batch {
            acked(message).await?;
        }
    }
    Err(anyhow!("the stream of results ended"))
}

async fn acked(message: &Message) -> Result<()> {
    message.ack().await.map_err(|error| anyhow!("no ack: {error}"))
}

/// The id, filled up to the length of a task or a result.
fn packed(id: i64, bytes: usize) -> Bytes {
    let mut packed = BytesMut::with_capacity(bytes);
    packed.put_i64(id);
    packed.resize(bytes, b'x');
    packed.freeze()
}

fn unpacked(message: &Message) -> Result<i64> {
    let id = message.payload.first_chunk().context("a message without an id")?;
    Ok(i64::from_be_bytes(*id))
}
