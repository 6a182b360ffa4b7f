//! Large submissions on their way into the database: they hold nobody up, and whatever ends their commit they are made once.

use crate::harness::wait_for;
use crate::scene::{SOON, Scene, coordinator_words, executors, noop, text};
use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::pool::PoolConnection;
use sqlx::{Postgres, raw_sql};
use tokio::task::JoinHandle;

/// Tasks of a large submission: more than those that share a commit with events.
const LARGE: usize = 100;

/// An insert of what is tagged `held` waits for the test; one that is tagged `refused` fails.
const TRIGGER: &str = "create function held_by_the_test() returns trigger language plpgsql as $$
begin
  if new.tags ? 'held' then perform pg_advisory_xact_lock(8); end if;
  if new.tags ? 'refused' then raise exception 'refused by the test' using errcode = 'check_violation'; end if;
  return new;
end $$;
create trigger held_by_the_test before insert on workflow_executions for each row execute function held_by_the_test()";
const WAITING: &str = "select count(*) from pg_locks
where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())";
const END_WAITING: &str = "select count(pg_terminate_backend(pid)) from pg_locks
where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())";

type Answer = JoinHandle<Result<(StatusCode, Value)>>;

/// While this lives, what is tagged `held` waits.
struct Hold(PoolConnection<Postgres>);

impl Hold {
    async fn begin(scene: &Scene) -> Result<Self> {
        raw_sql(TRIGGER).execute(&scene.installation.pool).await?;
        // Its plan is known, so what is like it does not wait for the plan.
        let first = scene.submit(&noop(&json!("first"))).await?;
        assert_eq!(scene.result(&first).await?["status"], "completed");
        let mut connection = scene.installation.pool.acquire().await?;
        raw_sql("select pg_advisory_lock(8)").execute(&mut *connection).await?;
        Ok(Self(connection))
    }

    async fn end(mut self) -> Result<()> {
        raw_sql("select pg_advisory_unlock(8)").execute(&mut *self.0).await?;
        Ok(())
    }
}

fn many(tag: &str) -> Value {
    (0..LARGE).map(|number| json!({"handler": "noop", "with": {"output": number}, "tags": [tag]})).collect()
}

fn send(scene: &Scene, key: &str, body: Value) -> Answer {
    let (api, key) = (scene.api().clone(), key.to_owned());
    tokio::spawn(async move {
        let request = api.request(Method::POST, "/api/v1/tasks").header("idempotency-key", key).json(&body);
        api.answer(request).await
    })
}

async fn accepted(answer: Answer) -> Result<Vec<String>> {
    let (status, answer) = answer.await??;
    ensure!(status == StatusCode::ACCEPTED, "{status}: {answer}");
    answer.as_array().context("an array")?.iter().map(|task| text(task, "task_id")).collect()
}

async fn until_held(scene: &Scene) -> Result<()> {
    let look = async || Ok((scene.number(WAITING).await? == 1).then_some(()));
    wait_for("a submission to wait in the database", SOON, look).await
}

async fn small_ones_complete(scene: &Scene) -> Result<()> {
    for number in 0..20 {
        let small = scene.submit(&noop(&json!(number))).await?;
        assert_eq!(scene.result(&small).await?["status"], "completed");
    }
    Ok(())
}

#[tokio::test]
async fn a_large_submission_holds_nobody_up() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let hold = Hold::begin(&scene).await?;
    let large = send(&scene, "large", many("held"));
    until_held(&scene).await?;
    let next = send(&scene, "next", many("free"));
    small_ones_complete(&scene).await?;
    assert!(!large.is_finished() && !next.is_finished());
    hold.end().await?;
    assert_eq!((accepted(large).await?.len(), accepted(next).await?.len()), (LARGE, LARGE));
    assert_eq!(scene.all_completed().await?.len(), 2 * LARGE + 21);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn the_same_submission_waits_for_the_one_on_its_way() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let hold = Hold::begin(&scene).await?;
    let first = send(&scene, "k", many("held"));
    until_held(&scene).await?;
    let (again, other) = (send(&scene, "k", many("held")), send(&scene, "k", noop(&json!(1))));
    let twice = [send(&scene, "twice", many("free")), send(&scene, "twice", many("free"))];
    small_ones_complete(&scene).await?;
    hold.end().await?;
    assert_eq!(accepted(first).await?, accepted(again).await?);
    let [one, two] = twice;
    assert_eq!(accepted(one).await?, accepted(two).await?);
    assert_eq!(other.await??.0, StatusCode::CONFLICT);
    assert_eq!(scene.all_completed().await?.len(), 2 * LARGE + 21);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_coordinator_killed_under_a_large_submission_makes_it_once() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    let hold = Hold::begin(&scene).await?;
    let cut = send(&scene, "k", many("held"));
    until_held(&scene).await?;
    scene.installation.coordinators[0].kill().await?;
    assert!(cut.await?.is_err(), "nobody is there to answer");
    scene.installation.coordinators[0].restart().await?;
    scene.installation.wait_ready(0).await?;
    hold.end().await?;
    let first = accepted(send(&scene, "k", many("held"))).await?;
    assert_eq!(first, accepted(send(&scene, "k", many("held"))).await?);
    assert_eq!(scene.all_completed().await?.len(), LARGE + 1);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_session_that_ends_under_a_large_submission_loses_nothing() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let hold = Hold::begin(&scene).await?;
    let large = send(&scene, "k", many("held"));
    until_held(&scene).await?;
    assert_eq!(scene.number(END_WAITING).await?, 1);
    hold.end().await?;
    assert_eq!(accepted(large).await?.len(), LARGE);
    small_ones_complete(&scene).await?;
    assert_eq!(scene.all_completed().await?.len(), LARGE + 21);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_refused_submission_takes_no_other_with_it() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let hold = Hold::begin(&scene).await?;
    let large = send(&scene, "large", many("held"));
    until_held(&scene).await?;
    let (refused, beside) = (send(&scene, "refused", many("refused")), send(&scene, "beside", many("free")));
    small_ones_complete(&scene).await?;
    hold.end().await?;
    let (status, answer) = refused.await??;
    assert!(!status.is_success(), "{status}: {answer}");
    assert_eq!((accepted(large).await?.len(), accepted(beside).await?.len()), (LARGE, LARGE));
    assert_eq!(scene.all_completed().await?.len(), 2 * LARGE + 21);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_shard_is_handed_over_when_what_flies_over_it_has_landed() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    let hold = Hold::begin(&scene).await?;
    let large = send(&scene, "k", many("held"));
    until_held(&scene).await?;
    let second = scene.installation.add_coordinator().await?;
    scene.installation.wait_ready(second).await?;
    small_ones_complete(&scene).await?;
    hold.end().await?;
    assert_eq!(accepted(large).await?.len(), LARGE);
    scene.until_shared(&[(0, 8), (1, 8)]).await?;
    scene.installation.coordinators[0].terminate().await?;
    scene.installation.api = scene.installation.api_of(second);
    assert_eq!(scene.all_completed().await?.len(), LARGE + 21);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn what_needs_a_plan_that_is_on_its_way_waits_alone() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let hold = Hold::begin(&scene).await?;
    let of_its_plan = |tag: &str| json!({"handler": "noop", "with": {"output": 1, "note": "another shape"}, "tags": [tag]});
    let large = send(&scene, "large", (0..LARGE).map(|_| of_its_plan("held")).collect());
    until_held(&scene).await?;
    let same_plan = send(&scene, "same", json!([of_its_plan("free")]));
    small_ones_complete(&scene).await?;
    assert!(!same_plan.is_finished());
    hold.end().await?;
    assert_eq!((accepted(large).await?.len(), accepted(same_plan).await?.len()), (LARGE, 1));
    assert_eq!(scene.all_completed().await?.len(), LARGE + 22);
    scene.finish().await;
    Ok(())
}

/// What is queued beside a flight in a lot that is new must be found again when the flight does not land.
#[tokio::test]
async fn what_is_queued_beside_a_large_submission_outlives_its_end() -> Result<()> {
    let scene = Scene::start(coordinator_words(&["--shard-count", "1"])).await?;
    let hold = Hold::begin(&scene).await?;
    let low = |tag: &str| json!({"handler": "noop", "with": {"output": 1}, "priority": "low", "tags": [tag]});
    // Its plan is known, and nothing of it was queued.
    let mut later = low("free");
    later["run_at"] = json!("2100-01-01T00:00:00Z");
    scene.submit(&later).await?;
    let large = send(&scene, "large", (0..LARGE).map(|_| low("held")).collect());
    until_held(&scene).await?;
    let beside = scene.submit(&low("free")).await?;
    assert_eq!(scene.number(END_WAITING).await?, 1);
    hold.end().await?;
    assert_eq!(scene.result(&beside).await?["status"], "completed");
    assert_eq!(accepted(large).await?.len(), LARGE);
    scene.finish().await;
    Ok(())
}
