//! Forged, malformed, oversized and newer messages on every subject.

use crate::harness::memory::Memory;
use crate::harness::servers::connect_nats;
use crate::harness::wait_for;
use crate::scene::{SOON, Scene, executors, noop};
use anyhow::{Context, Result};
use bytes::Bytes;
use orchestr8_proto::ids::Incarnation;
use orchestr8_proto::names;
use orchestr8_proto::wire::{
    Claim, ClaimBatch, ClaimKind, Completed, Control, DispatchBatch, Heartbeat, HeldRun, Outcome, OutcomeBatch, RunVerdict, SCHEMA_VERSION,
    Verdict, encode, outcome,
};
use orchestr8_proto::words::Priority;
use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;

/// What a running task's row says of its dispatch and its holder.
struct Held {
    task: Bytes,
    dispatch: Bytes,
    run: Bytes,
    shard: u16,
}

async fn held(scene: &Scene, task: &str) -> Result<Held> {
    let row = sqlx::query("select id, dispatch_id, run_id, shard from task_executions where id = $1")
        .bind(task.parse::<Uuid>()?)
        .fetch_one(&scene.installation.pool)
        .await?;
    let bytes = |column: &str| Ok::<_, anyhow::Error>(Bytes::copy_from_slice(row.try_get::<Uuid, _>(column)?.as_bytes()));
    let shard = u16::try_from(row.try_get::<i32, _>("shard")?)?;
    Ok(Held { task: bytes("id")?, dispatch: bytes("dispatch_id")?, run: bytes("run_id")?, shard })
}

fn forged_outcome(held: &Held, token: &'static [u8]) -> Outcome {
    Outcome {
        task_id: held.task.clone(),
        dispatch_id: held.dispatch.clone(),
        run_id: held.run.clone(),
        outcome_token: Bytes::from_static(token),
        incarnation: Incarnation::random().to_bytes(),
        executor: "forger".into(),
        result: Some(outcome::Result::Completed(Completed { output_json: Bytes::from_static(b"\"forged\"") })),
        ..Outcome::default()
    }
}

/// Tasks in all shards, one after the other and together, complete.
async fn works(scene: &Scene) -> Result<()> {
    for _ in 0..20 {
        let task = scene.submit(&noop(&Value::Null)).await?;
        assert_eq!(scene.result(&task).await?["status"], "completed");
    }
    Ok(())
}

#[tokio::test]
async fn a_forged_outcome_claim_or_beat_changes_nothing() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let task = scene.submit(&scene.ledger.gated("go")).await?;
    scene.holder(&task).await?;
    let held = held(&scene, &task).await?;
    let nats = connect_nats(&scene.installation.nats_url).await?;
    let jetstream = async_nats::jetstream::new(nats.clone());
    let stranger = Incarnation::random();
    for token in [&b""[..], &[0; 17], &[1; 17], &[7; 400]] {
        let outcomes = OutcomeBatch { schema_version: SCHEMA_VERSION, outcomes: vec![forged_outcome(&held, token)] };
        jetstream.publish(names::outcome_subject(held.shard), encode(&outcomes)?).await?.await?;
        let claim = Claim {
            task_id: held.task.clone(),
            dispatch_id: held.dispatch.clone(),
            run_id: Bytes::copy_from_slice(Uuid::new_v4().as_bytes()),
            outcome_token: Bytes::from_static(token),
            kind: ClaimKind::Claim.into(),
            ..Claim::default()
        };
        let run = HeldRun {
            task_id: claim.task_id.clone(),
            dispatch_id: claim.dispatch_id.clone(),
            run_id: claim.run_id.clone(),
            started: true,
            ..HeldRun::default()
        };
        let claims = ClaimBatch {
            schema_version: SCHEMA_VERSION,
            incarnation: stranger.to_bytes(),
            executor: "forger".into(),
            claims: vec![claim],
            ..ClaimBatch::default()
        };
        nats.publish(names::claim_subject(held.shard), encode(&claims)?).await?;
        let beat = Heartbeat {
            schema_version: SCHEMA_VERSION,
            incarnation: stranger.to_bytes(),
            executor: "forger".into(),
            sequence: 1,
            part: 1,
            parts: 1,
            runs: vec![run],
            ..Heartbeat::default()
        };
        nats.publish(names::beat_subject(stranger), encode(&beat)?).await?;
    }
    nats.flush().await?;
    works(&scene).await?;
    assert_eq!(scene.until(&task, "running").await?["executor_id"], "executor-0");
    scene.ledger.open("go")?;
    let rows = scene.all_completed().await?;
    assert_eq!(rows.len(), 21);
    assert_eq!(scene.ledger.starts()?.len(), 1, "the run was neither killed nor taken away");
    scene.finish().await;
    Ok(())
}

/// Bytes that no reader must understand, for every kind of message.
fn junk() -> Result<Vec<Bytes>> {
    let newer = SCHEMA_VERSION + 1;
    Ok(vec![
        Bytes::new(),
        Bytes::from_static(b"hello"),
        Bytes::from_static(&[0xff; 64]),
        Bytes::from(vec![0; 1_000_001]),
        encode(&OutcomeBatch { schema_version: newer, ..OutcomeBatch::default() })?,
        encode(&DispatchBatch { schema_version: SCHEMA_VERSION, dispatches: vec![orchestr8_proto::wire::Dispatch::default()] })?,
        encode(&OutcomeBatch { schema_version: SCHEMA_VERSION, outcomes: vec![Outcome::default(); 3] })?,
        encode(&ClaimBatch {
            schema_version: SCHEMA_VERSION,
            claims: vec![Claim { kind: 77, ..Claim::default() }],
            ..ClaimBatch::default()
        })?,
        encode(&Heartbeat {
            schema_version: SCHEMA_VERSION,
            part: 9,
            parts: 2,
            sequence: u64::MAX,
            runs: vec![HeldRun::default()],
            ..Heartbeat::default()
        })?,
        encode(&Control {
            schema_version: SCHEMA_VERSION,
            verdicts: vec![RunVerdict { verdict: Verdict::Kill.into(), ..RunVerdict::default() }],
            ..Control::default()
        })?,
    ])
}

#[tokio::test]
async fn junk_on_every_subject_stops_nothing() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let task = scene.submit(&scene.ledger.gated("go")).await?;
    scene.holder(&task).await?;
    let nats = connect_nats(&scene.installation.nats_url).await?;
    let jetstream = async_nats::jetstream::new(nats.clone());
    let incarnation = Incarnation::random();
    for payload in junk()? {
        for subject in (0..16).map(names::outcome_subject).chain(["orchestr8.outcome.99".to_owned(), "orchestr8.outcome.x".to_owned()]) {
            jetstream.publish(subject, payload.clone()).await?.await?;
        }
        jetstream.publish(names::task_subject("default", Priority::Normal), payload.clone()).await?.await?;
        for shard in 0..16 {
            nats.publish(names::claim_subject(shard), payload.clone()).await?;
        }
        for subject in [
            names::beat_subject(incarnation),
            "orchestr8.beat.x".into(),
            "orchestr8.claim.x".into(),
            names::CONTROL_ALL.into(),
            names::COORDINATOR_BEATS.into(),
            names::NUDGES.to_owned(),
        ] {
            nats.publish(subject, payload.clone()).await?;
        }
        nats.flush().await?;
    }
    works(&scene).await?;
    assert_eq!(scene.until(&task, "running").await?["executor_id"], json!("executor-0"));
    scene.ledger.open("go")?;
    scene.settled().await?;
    assert_eq!(scene.number("select count(*) from task_executions where status <> 'completed'").await?, 0);
    assert_eq!(scene.ledger.starts()?.len(), 1);
    let mut stream = jetstream.get_stream(names::TASKS_STREAM).await?;
    let empty = async || Ok((stream.info().await.context("the stream")?.state.messages == 0).then_some(()));
    wait_for("the junk to be thrown away, not delivered for ever", SOON, empty).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_right_token_with_a_wrong_payload_is_the_tasks_failure_not_the_shards() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let huge = scene.submit(&json!({"run": "head -c 300000 /dev/zero | tr '\\0' x > \"$ORCHESTR8_OUTPUT\"", "max_retries": 0})).await?;
    let nul = scene.submit(&json!({"run": "printf '\"a\\\\u0000b\"' > \"$ORCHESTR8_OUTPUT\"", "max_retries": 0})).await?;
    let bytes = scene
        .submit(&json!({"run": "printf '\\377\\376\\000 raw' >&2; printf '{\"ok\": 1}' > \"$ORCHESTR8_OUTPUT\"", "max_retries": 0}))
        .await?;
    for task in [&huge, &nul] {
        let result = scene.result(task).await?;
        assert_eq!(result["status"], "failed", "{result}");
    }
    assert_eq!(scene.result(&bytes).await?["result"], json!({"ok": 1}));
    works(&scene).await?;
    scene.verified().await?;
    scene.finish().await;
    Ok(())
}

/// Two bytes on the wire each, hundreds in memory, a line in the log: of none of them more than a bounded number is built.
#[tokio::test]
async fn messages_of_very_many_empty_items_cost_little() -> Result<()> {
    const ITEMS: usize = 400_000;
    let scene = Scene::start(executors(1)).await?;
    let nats = connect_nats(&scene.installation.nats_url).await?;
    let claims = encode(&ClaimBatch { schema_version: SCHEMA_VERSION, claims: vec![Claim::default(); ITEMS], ..ClaimBatch::default() })?;
    let outcomes = encode(&OutcomeBatch { schema_version: SCHEMA_VERSION, outcomes: vec![Outcome::default(); ITEMS] })?;
    let coordinator = scene.installation.coordinators[0].pid();
    let before = Memory::of(coordinator)?.peak_bytes;
    for shard in 0..12 {
        nats.publish(names::claim_subject(shard), claims.clone()).await?;
        nats.publish(names::outcome_subject(shard), outcomes.clone()).await?;
    }
    nats.flush().await?;
    works(&scene).await?;
    let grown = Memory::of(coordinator)?.peak_bytes - before;
    assert!(grown < 150 * 1024 * 1024, "{grown} bytes");
    scene.finish().await;
    Ok(())
}
