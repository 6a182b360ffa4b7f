//! Several coordinators, and several lanes in one: they share the shards, hand them over between batches, and lose nothing.

use crate::harness::servers::connect_nats;
use crate::harness::{InstallationOptions, wait_for};
use crate::scene::{SOON, Scene, coordinator_words, executors, noop, submit_surely};
use anyhow::{Context, Result, ensure};
use orchestr8_proto::names;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Coordinators that come and go.
const MANY: usize = 8;
/// Rounds of one coordinator that leaves and one that is killed.
const ROUNDS: usize = 4;

/// A chain of three, and a task that sleeps between.
fn chain() -> Value {
    let tasks = json!([
        {"name": "a", "handler": "noop"},
        {"name": "pause", "sleep": "50ms", "needs": ["a"]},
        {"name": "b", "handler": "noop", "needs": ["pause"]},
    ]);
    json!({"definition": {"name": "chain", "tasks": tasks}})
}

#[tokio::test]
async fn one_that_joins_gets_its_share_and_one_that_leaves_gives_it_back_at_once() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    scene.until_shared(&[(0, 16)]).await?;
    scene.installation.add_coordinator().await?;
    scene.until_shared(&[(0, 8), (1, 8)]).await?;
    scene.installation.add_coordinator().await?;
    scene.until_shared(&[(0, 6), (1, 5), (2, 5)]).await?;
    let report = scene.installation.coordinators[0].terminate().await?;
    assert_eq!(report.exit_code, Some(0), "{report:?}");
    scene.until_shared(&[(1, 8), (2, 8)]).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn lanes_of_one_coordinator_share_its_shards() -> Result<()> {
    let scene = Scene::start(coordinator_words(&["--lanes", "3"])).await?;
    scene.until_shared(&[(0, 16)]).await?;
    let owners = "select count(distinct owner) from shards";
    wait_for("all three to own some", SOON, async || Ok((scene.number(owners).await? == 3).then_some(()))).await?;
    let tasks: Vec<Value> = (0..30).map(|number| noop(&json!(number))).collect();
    scene.api().post("/api/v1/tasks", &json!(tasks)).await?;
    for _ in 0..6 {
        scene.submit_workflow(&chain()).await?;
    }
    assert_eq!(scene.all_completed().await?.len(), 30 + 6 * 3);
    scene.finish().await;
    Ok(())
}

/// At full time an own look would come every five seconds only.
#[tokio::test]
async fn who_waits_at_one_coordinator_hears_at_once_of_what_another_commits() -> Result<()> {
    let mut scene = Scene::start(InstallationOptions { time_base: Duration::from_secs(1), ..executors(1) }).await?;
    scene.installation.add_coordinator().await?;
    scene.until_shared(&[(0, 8), (1, 8)]).await?;
    let (first, second) = (scene.installation.api_of(0), scene.installation.api_of(1));
    let gated = scene.submit(&scene.ledger.gated("go")).await?;
    let path = format!("/api/v1/tasks/{gated}/result?wait=30s");
    let released = async {
        scene.until_started(&gated, 1).await?;
        scene.ledger.open("go")?;
        wait_for("the end", SOON, async || Ok((scene.ledger.ends()?.len() == 1).then_some(()))).await?;
        Ok(Instant::now())
    };
    let waited = async { (second.get(&path).await, Instant::now()) };
    let (released, (answer, answered)) = tokio::join!(released, waited);
    let released: Result<Instant> = released;
    assert_eq!(answer?["status"], "completed");
    let late = answered.saturating_duration_since(released?);
    ensure!(late < Duration::from_secs(2), "it heard only after {late:?}");
    assert_eq!(first.get(&path).await?["status"], "completed");
    scene.finish().await;
    Ok(())
}

/// Else the stream of outcomes could not be purged, and would fill up.
#[tokio::test]
async fn the_position_of_shards_without_outcomes_moves_on() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    scene.installation.add_coordinator().await?;
    scene.until_shared(&[(0, 8), (1, 8)]).await?;
    let tasks: Vec<Value> = (0..20).map(|number| noop(&json!(number))).collect();
    scene.api().post("/api/v1/tasks", &json!(tasks)).await?;
    scene.settled().await?;
    let nats = connect_nats(&scene.installation.nats_url).await?;
    let mut stream = async_nats::jetstream::new(nats).get_stream(names::OUTCOMES_STREAM).await?;
    let last = i64::try_from(stream.info().await.context("the stream")?.state.last_sequence)?;
    let behind = async || {
        let behind: i64 = sqlx::query_scalar("select count(*) from shards where outcome_sequence is null or outcome_sequence < $1")
            .bind(last)
            .fetch_one(&scene.installation.pool)
            .await?;
        Ok((behind == 0).then_some(()))
    };
    wait_for("all shards to stand at the end of the stream", SOON, behind).await?;
    assert_eq!(scene.all_completed().await?.len(), 20);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn what_one_coordinator_owns_can_be_cancelled_at_another() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    scene.installation.add_coordinator().await?;
    scene.until_shared(&[(0, 8), (1, 8)]).await?;
    let second = scene.installation.api_of(1);
    let task = scene.submit(&scene.ledger.gated("never")).await?;
    scene.until_started(&task, 1).await?;
    let path = format!("/api/v1/tasks/{task}/cancel");
    let (status, answer) = second.answer(second.request(Method::POST, &path)).await?;
    assert!(status.is_success(), "{status}: {answer}");
    assert_eq!(scene.result(&task).await?["status"], "cancelled");
    let (status, answer) = second.answer(second.request(Method::POST, &path)).await?;
    assert_eq!((status, &answer["status"]), (StatusCode::OK, &json!("cancelled")), "again is no error");
    let unknown = "/api/v1/tasks/01900000-0000-7000-8000-000000000001/cancel";
    for api in [scene.installation.api_of(0), second] {
        let (status, answer) = api.answer(api.request(Method::POST, unknown)).await?;
        assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
    }
    assert_eq!(scene.number("select count(*) from shard_inbox").await?, 0);
    scene.finish().await;
    Ok(())
}

/// A caller's retry may meet the letter of its first try, or two letters of one submission each other.
#[tokio::test]
async fn a_submission_that_comes_twice_at_once_is_made_once_with_its_plan() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    let first = scene.submit(&noop(&json!("first"))).await?;
    scene.result(&first).await?;
    scene.installation.coordinators[0].terminate().await?;
    let pool = &scene.installation.pool;
    let twice = "insert into shard_inbox (shard, event)
    select t.shard, jsonb_build_object('type', 'submit', 'ids', jsonb_build_array(overlay(e.id::text placing 'beef' from 20 for 4)),
        'submissions', jsonb_build_array(jsonb_build_object('plan', p.plan, 'plan_hash',
            (select jsonb_agg(get_byte(p.hash, i)) from generate_series(0, 31) i), 'input', e.input, 'user_id', null,
            'metadata', e.metadata, 'tags', e.tags, 'run_at', null)))
    from workflow_executions e join plans p on p.hash = e.plan_hash join task_executions t on t.workflow_id = e.id, generate_series(1, 2)";
    sqlx::query(twice).execute(pool).await?;
    // Another database would not know the plan yet.
    sqlx::query("update plans set hash = sha256(hash)").execute(pool).await?;
    sqlx::query("update workflow_executions set plan_hash = sha256(plan_hash)").execute(pool).await?;
    scene.installation.coordinators[0].restart().await?;
    let completed = "select count(*) from task_executions where status = 'completed'";
    wait_for("both to complete", SOON, async || Ok((scene.number(completed).await? == 2).then_some(()))).await?;
    let without = "select count(*) from workflow_executions e where not exists (select from plans p where p.hash = e.plan_hash)";
    assert_eq!(scene.number(without).await?, 0, "executions without their plan");
    assert_eq!(scene.number("select count(*) from task_results").await?, 2);
    scene.finish().await;
    Ok(())
}

/// Several times what one look takes in, by number and by bytes.
#[tokio::test]
async fn a_full_inbox_is_read_to_its_end() -> Result<()> {
    let mut scene = Scene::start(executors(0)).await?;
    let task = json!({"handler": "noop", "run_at": "2099-01-01T00:00:00Z"});
    scene.api().post("/api/v1/tasks", &json!(vec![task; 600])).await?;
    scene.installation.coordinators[0].terminate().await?;
    let sent = "insert into shard_inbox (shard, event)
    select shard, jsonb_build_object('type', 'cancel', 'workflow_id', workflow_id, 'padding', repeat('x', 60000)) from task_executions";
    sqlx::query(sent).execute(&scene.installation.pool).await?;
    scene.installation.coordinators[0].restart().await?;
    let cancelled = "select count(*) from task_executions where status = 'cancelled'";
    wait_for("all to be cancelled", SOON, async || Ok((scene.number(cancelled).await? == 600).then_some(()))).await?;
    assert_eq!(scene.number("select count(*) from shard_inbox").await?, 0);
    scene.finish().await;
    Ok(())
}

/// One shard for two coordinators: the second has none, and serves all the same.
#[tokio::test]
async fn a_coordinator_without_shards_serves_as_well() -> Result<()> {
    let mut scene = Scene::start(coordinator_words(&["--shard-count", "1"])).await?;
    let second = scene.installation.add_coordinator().await?;
    scene.installation.wait_ready(second).await?;
    scene.until_shared(&[(0, 1), (second, 0)]).await?;
    scene.installation.api = scene.installation.api_of(second);
    let task = scene.submit(&noop(&json!("here"))).await?;
    assert_eq!(scene.result(&task).await?["result"], "here");
    let key = "the same";
    let send = async |body: Value| {
        let request = scene.api().request(Method::POST, "/api/v1/tasks").header("idempotency-key", key).json(&body);
        scene.api().answer(request).await
    };
    let (_, made) = send(noop(&json!(1))).await?;
    let (_, replayed) = send(noop(&json!(1))).await?;
    assert_eq!(made["task_id"], replayed["task_id"]);
    assert_eq!(send(noop(&json!(2))).await?.0, StatusCode::CONFLICT);
    let gated = scene.submit(&scene.ledger.gated("never")).await?;
    scene.until_started(&gated, 1).await?;
    let (status, answer) = scene.api().answer(scene.api().request(Method::POST, &format!("/api/v1/tasks/{gated}/cancel"))).await?;
    assert!(status.is_success(), "{status}: {answer}");
    assert_eq!(scene.result(&gated).await?["status"], "cancelled");
    // What is sent while the owner is away is made by whoever comes next.
    scene.installation.coordinators[0].kill().await?;
    let late = submit_surely(scene.api(), "/api/v1/tasks", &noop(&json!("late"))).await?;
    assert_eq!(scene.result(late["task_id"].as_str().context("an id")?).await?["result"], "late");
    scene.until_shared(&[(second, 1)]).await?;
    assert_eq!(scene.number("select count(*) from shard_inbox").await?, 0);
    scene.finish().await;
    Ok(())
}

/// Work is submitted to whoever is there while coordinators join, leave and are killed; all of it ends, once.
#[tokio::test]
async fn eight_that_come_and_go_under_load_lose_nothing() -> Result<()> {
    let mut scene = Scene::start(executors(2)).await?;
    for _ in 1..MANY {
        scene.installation.add_coordinator().await?;
    }
    scene.until_shared(&(0..MANY).map(|coordinator| (coordinator, 2)).collect::<Vec<_>>()).await?;
    for round in 0..ROUNDS {
        let (leaves, dies) = (2 * round % MANY, (2 * round + 1) % MANY);
        let staying = scene.installation.api_of((2 * round + 2) % MANY);
        for _ in 0..5 {
            submit_surely(&staying, "/api/v1/workflows", &chain()).await?;
            submit_surely(&staying, "/api/v1/tasks", &scene.ledger.task()).await?;
        }
        scene.installation.coordinators[leaves].terminate().await.context("one leaves")?;
        scene.installation.coordinators[dies].kill().await.context("one is killed")?;
        scene.installation.coordinators[leaves].restart().await?;
        submit_surely(&staying, "/api/v1/workflows", &chain()).await?;
        scene.installation.coordinators[dies].restart().await?;
    }
    scene.until_shared(&(0..MANY).map(|coordinator| (coordinator, 2)).collect::<Vec<_>>()).await?;
    let last = scene.installation.api_of(MANY - 1);
    submit_surely(&last, "/api/v1/tasks", &scene.ledger.task()).await?;
    assert_eq!(scene.all_completed().await?.len(), ROUNDS * (5 * 4 + 3) + 1);
    scene.finish().await;
    Ok(())
}
