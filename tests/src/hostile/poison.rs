//! Events that panic in the state machine: the shard goes on, the culprit is named, and the event is applied once its cause is gone.
//!
//! The binary must be built with the feature `kill-points`, as `make test` does.

use crate::happy::cli::{Said, orchestr8};
use crate::harness::{InstallationOptions, wait_for};
use crate::scene::{SOON, Scene, coordinator_words, noop};
use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const VARIABLE: &str = "ORCHESTR8_POISON_TASK";
const PATH: &str = "/api/v1/quarantine";

/// One shard, in which the events of tasks named `poison` panic.
async fn poisoned() -> Result<Scene> {
    let environment = vec![(VARIABLE.to_owned(), "poison".to_owned())];
    Scene::start(InstallationOptions { environment, ..coordinator_words(&["--shard-count", "1"]) }).await
}

/// The same coordinator in a version without the defect.
async fn cure(scene: &mut Scene) -> Result<()> {
    scene.installation.coordinators[0].set_environment(VARIABLE, "");
    scene.installation.coordinators[0].restart().await?;
    scene.installation.wait_ready(0).await
}

/// The task `poison`, and one behind it.
fn flow(poison: &Value) -> Value {
    let mut poison = poison.clone();
    poison["name"] = json!("poison");
    json!({"definition": {"name": "fatal", "tasks": [poison, {"name": "after", "handler": "noop", "needs": ["poison"]}]}})
}

/// Waits for an entry of this kind that was seen so often; the entry.
pub(super) async fn quarantined(scene: &Scene, kind: &str, seen: u64) -> Result<Value> {
    let look = async || {
        let page = scene.api().get(PATH).await?;
        let events = page["events"].as_array().context("events")?;
        let found = events.iter().find(|event| event["kind"] == kind && event["seen_count"].as_u64().is_some_and(|count| count >= seen));
        found.cloned().map(Some).with_context(|| format!("no {kind} in {page}"))
    };
    wait_for(&format!("{kind} to be quarantined"), SOON, look).await
}

pub(super) async fn redrive(scene: &Scene, event: &Value) -> Result<Said> {
    orchestr8(scene, &["quarantine", "redrive", event["id"].as_str().context("an id")?]).await
}

/// Nothing is quarantined any more.
pub(super) async fn cleared(scene: &Scene) -> Result<()> {
    let listed = orchestr8(scene, &["quarantine", "list"]).await?;
    ensure!(listed.code == Some(0) && listed.stdout.is_empty() && listed.stderr.contains("nothing is quarantined"), "{listed:?}");
    Ok(())
}

async fn completes_beside(scene: &Scene) -> Result<()> {
    for _ in 0..3 {
        let task = scene.submit(&noop(&json!("beside"))).await?;
        ensure!(scene.result(&task).await?["status"] == "completed");
    }
    Ok(())
}

#[tokio::test]
async fn a_timer_that_panics_is_quarantined_and_redriven_when_its_cause_is_gone() -> Result<()> {
    let mut scene = poisoned().await?;
    let fatal = scene.submit_workflow(&flow(&json!({"sleep": "100ms"}))).await?;
    let first = quarantined(&scene, "due", 1).await?;
    completes_beside(&scene).await?;
    assert_eq!(
        (&first["workflow_id"], &first["task_name"], &first["redrivable"]),
        (&json!(fatal), &json!("poison"), &json!(true)),
        "{first}"
    );
    ensure!(first["error"].as_str().is_some_and(|error| error.contains("`poison` is poison")), "{first}");
    let again = redrive(&scene, &first).await?;
    ensure!(again.code == Some(0) && again.stdout.contains("redriven"), "{again:?}");
    let gone = async || {
        Ok((scene.api().answer(scene.api().request(Method::GET, &path_of(&first)?)).await?.0 == StatusCode::NOT_FOUND).then_some(()))
    };
    wait_for("the first entry to be gone", SOON, gone).await?;
    let second = quarantined(&scene, "due", 1).await?;
    let listed = orchestr8(&scene, &["quarantine", "list"]).await?;
    ensure!(["due", "fatal", "poison", "the state machine panicked"].iter().all(|part| listed.stdout.contains(part)), "{listed:?}");
    // The beginning of an id will do, but not for what forgets.
    let second_id = second["id"].as_str().context("an id")?;
    let beginning = &second_id[..13];
    let shown = orchestr8(&scene, &["quarantine", "show", beginning, "-o", "json"]).await?;
    assert_eq!(serde_json::from_str::<Value>(&shown.stdout)?["event"]["inbox"]["type"], "due", "{shown:?}");
    cure(&mut scene).await?;
    completes_beside(&scene).await?;
    let whole_only = scene.api().request(Method::DELETE, &format!("{PATH}/{beginning}"));
    assert_eq!(scene.api().answer(whole_only).await?.0, StatusCode::BAD_REQUEST);
    let unknown = orchestr8(&scene, &["quarantine", "redrive", "00000000"]).await?;
    ensure!(unknown.code == Some(1) && unknown.stderr.contains("(not_found)"), "{unknown:?}");
    let redriven = orchestr8(&scene, &["quarantine", "redrive", beginning]).await?;
    assert_eq!((redriven.code, redriven.line()), (Some(0), format!("{second_id} redriven").as_str()), "{redriven:?}");
    assert_eq!(scene.workflow(&fatal).await?["status"], "completed");
    cleared(&scene).await?;
    scene.all_completed().await?;
    scene.finish().await;
    Ok(())
}

fn path_of(event: &Value) -> Result<String> {
    Ok(format!("{PATH}/{}", event["id"].as_str().context("an id")?))
}

#[tokio::test]
async fn an_outcome_that_panics_comes_again_by_itself() -> Result<()> {
    let mut scene = poisoned().await?;
    let fatal = scene.submit_workflow(&flow(&noop(&json!(1)))).await?;
    let event = quarantined(&scene, "outcome", 3).await?;
    completes_beside(&scene).await?;
    assert_eq!((&event["workflow_id"], &event["redrivable"]), (&json!(fatal), &json!(false)), "{event}");
    let refused = redrive(&scene, &event).await?;
    ensure!(
        refused.code == Some(1) && refused.stderr.contains("comes_by_itself") && refused.stderr.contains("again by itself"),
        "{refused:?}"
    );
    cure(&mut scene).await?;
    assert_eq!(scene.workflow(&fatal).await?["status"], "completed");
    let id = event["id"].as_str().context("an id")?;
    let discarded = orchestr8(&scene, &["quarantine", "discard", id]).await?;
    assert_eq!((discarded.code, discarded.line()), (Some(0), format!("{id} discarded").as_str()), "{discarded:?}");
    for words in [["quarantine", "discard", id], ["quarantine", "redrive", id], ["quarantine", "show", id]] {
        let unknown = orchestr8(&scene, &words).await?;
        ensure!(unknown.code == Some(1) && unknown.stderr.contains("(not_found)"), "{unknown:?}");
    }
    cleared(&scene).await?;
    scene.all_completed().await?;
    scene.finish().await;
    Ok(())
}

/// At five seconds a beat's base, an own look of the owner would come every fifteen seconds only.
#[tokio::test]
async fn the_owner_hears_of_a_redrive_at_once_whoever_is_asked() -> Result<()> {
    let options = InstallationOptions { coordinators: 2, time_base: Duration::from_secs(5), ..coordinator_words(&["--shard-count", "1"]) };
    let scene = Scene::start(options).await?;
    for coordinator in 0..2 {
        let api = scene.installation.api_of(coordinator);
        let sleeper = scene.submit_workflow(&json!({"definition": {"name": "sleeper", "tasks": [{"name": "a", "sleep": "1h"}]}})).await?;
        let cancel = json!({"event": "cancel", "inbox": {"type": "cancel", "workflow_id": sleeper}});
        let insert = "insert into quarantined_events (shard, event, error) values (0, $1, 'by hand') returning id";
        let id: uuid::Uuid = sqlx::query_scalar(insert).bind(&cancel).fetch_one(&scene.installation.pool).await?;
        let started = Instant::now();
        let (status, answer) = api.answer(api.request(Method::POST, &format!("{PATH}/{id}/redrive"))).await?;
        assert_eq!((status, &answer["status"]), (StatusCode::OK, &json!("redriven")), "{answer}");
        let path = format!("/api/v1/workflows/{sleeper}");
        let cancelled = async || Ok((scene.api().get(&path).await?["status"] == "cancelled").then_some(()));
        wait_for("the cancel", SOON, cancelled).await?;
        ensure!(started.elapsed() < Duration::from_secs(8), "coordinator {coordinator}: heard only after {:?}", started.elapsed());
    }
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn pages_follow_each_other_and_wrong_requests_are_refused() -> Result<()> {
    let scene = Scene::start(InstallationOptions { executors: 0, ..coordinator_words(&["--shard-count", "1"]) }).await?;
    let insert = "insert into quarantined_events (shard, event, error, created_at)
        select 0, jsonb_build_object('event', 'publish', 'n', n), 'number ' || n, now() - n / 2 * interval '1 second' from generate_series(1, 7) n";
    sqlx::query(insert).execute(&scene.installation.pool).await?;
    let (mut errors, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let page = scene.api().get(&format!("{PATH}{query}")).await?;
        errors.extend(page["events"].as_array().context("events")?.iter().map(|event| event["error"].clone()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        // What the page ended with may be gone before the next is asked for.
        let last = "delete from quarantined_events where error = $1";
        sqlx::query(last).bind(errors.last().and_then(Value::as_str)).execute(&scene.installation.pool).await?;
        query = format!("?limit=3&cursor={next}");
    }
    let mut numbers: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(numbers[0], "\"number 1\"");
    numbers.sort();
    numbers.dedup();
    assert_eq!((numbers.len(), errors.len()), (7, 7), "{errors:?}");
    for (method, path, status, code) in [
        (Method::GET, "?cursor=1", StatusCode::BAD_REQUEST, "bad_cursor"),
        (Method::GET, "?kind=due", StatusCode::BAD_REQUEST, "bad_parameter"),
        (Method::GET, "/0190b2c", StatusCode::BAD_REQUEST, "bad_id"),
        (Method::GET, "/0190b2c4", StatusCode::NOT_FOUND, "not_found"),
        (Method::DELETE, "/0190b2c4", StatusCode::BAD_REQUEST, "bad_id"),
        (Method::POST, "/0190b2c4-0000-7000-8000-000000000000/redrive", StatusCode::NOT_FOUND, "not_found"),
        (Method::DELETE, "/0190b2c4-0000-7000-8000-000000000000", StatusCode::NOT_FOUND, "not_found"),
        (Method::DELETE, "", StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
    ] {
        let (found, problem) = scene.api().answer(scene.api().request(method, &format!("{PATH}{path}"))).await?;
        assert_eq!((found, &problem["code"]), (status, &json!(code)), "{path}: {problem}");
    }
    scene.finish().await;
    Ok(())
}
