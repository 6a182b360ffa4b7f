//! Plans that this version cannot read, as another version could have left them: their executions wait, the culprits are named,
//! and everything beside them goes on.

use super::poison::{cleared, quarantined, redrive};
use crate::happy::cli::orchestr8;
use crate::scene::{Scene, coordinator_words, noop};
use anyhow::{Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Ways in which another version's plan differs, by the workflow's name.
const CHANGES: [(&str, &str); 5] = [
    ("timed", r#"jsonb_set(plan, '{tasks,0,kind}', '{"teleport": {"to": "elsewhere"}}')"#),
    ("running", "plan #- '{tasks,0,agent_name}'"),
    ("queued", r#"jsonb_set(plan, '{tasks,0,kind}', '"telepathy"')"#),
    // Readable, but not walkable: what no version should leave behind.
    ("tangled", "jsonb_set(plan, '{tasks,1,needs}', '[99]')"),
    // What this version does not know is left alone where it can be.
    ("later", r#"jsonb_set(plan || '{"later": [1]}', '{tasks,0,later}', '{"a": 1}')"#),
];

/// A first task, and one behind it.
fn flow(name: &str, first: &Value) -> Value {
    let mut first = first.clone();
    first["name"] = json!("first");
    json!({"definition": {"name": name, "tasks": [first, {"name": "after", "handler": "noop", "needs": ["first"]}]}})
}

async fn change_plans(scene: &Scene) -> Result<()> {
    let pool = &scene.installation.pool;
    sqlx::query("create table plans_before as select * from plans").execute(pool).await?;
    for (name, change) in CHANGES {
        let statement = format!("update plans set plan = {change} where plan ->> 'name' = '{name}'");
        let changed = sqlx::query(sqlx::AssertSqlSafe(statement)).execute(pool).await?;
        ensure!(changed.rows_affected() == 1, "{name}: {} plans", changed.rows_affected());
    }
    Ok(())
}

async fn restore_plans(scene: &Scene) -> Result<()> {
    let restore = "update plans p set plan = b.plan from plans_before b where b.hash = p.hash";
    sqlx::query(restore).execute(&scene.installation.pool).await?;
    Ok(())
}

async fn completes_beside(scene: &Scene) -> Result<()> {
    let task = scene.submit(&noop(&json!("beside"))).await?;
    ensure!(scene.result(&task).await?["status"] == "completed");
    Ok(())
}

/// What the five wait for when the versions change: a timer, a run, room in the broker, a timer, a timer.
async fn submit_all(scene: &Scene) -> Result<Vec<String>> {
    let mut queued = noop(&json!(1));
    queued["queue"] = json!("later");
    let firsts = [
        ("timed", json!({"sleep": "4s"})),
        ("running", scene.ledger.gated("go")),
        ("queued", queued),
        ("tangled", json!({"sleep": "4500ms"})),
        ("later", json!({"sleep": "5s"})),
    ];
    let mut ids = Vec::new();
    for (name, first) in firsts {
        ids.push(scene.submit_workflow(&flow(name, &first)).await?);
    }
    let running = scene.task_of(&ids[1], "first").await?;
    scene.until(running["task_id"].as_str().unwrap_or_default(), "running").await?;
    Ok(ids)
}

/// The coordinator goes, another version changes the plans, and it comes back to a new task stream, so that all that is queued
/// must be published again.
async fn change_versions(scene: &mut Scene) -> Result<()> {
    scene.installation.coordinators[0].terminate().await?;
    change_plans(scene).await?;
    scene.installation.nats("wipe nats").await?;
    scene.installation.nats("start nats").await?;
    scene.installation.coordinators[0].restart().await?;
    scene.installation.wait_ready(0).await
}

async fn others_go_on(words: &[&str]) -> Result<()> {
    let words = [&["--shard-count", "1"], words].concat();
    let mut scene = Scene::start(coordinator_words(&words)).await?;
    let ids = submit_all(&scene).await?;
    change_versions(&mut scene).await?;
    completes_beside(&scene).await?;
    scene.ledger.open("go")?;
    let publish = quarantined(&scene, "publish", 1).await?;
    assert_eq!((&publish["workflow_id"], &publish["workflow_name"]), (&json!(ids[2]), &json!("queued")), "{publish}");
    let outcome = quarantined(&scene, "outcome", 1).await?;
    assert_eq!((&outcome["workflow_id"], &outcome["task_name"]), (&json!(ids[1]), &json!("first")), "{outcome}");
    ensure!(outcome["error"].as_str().is_some_and(|error| error.contains("agent_name")), "{outcome}");
    assert_eq!(scene.workflow(&ids[4]).await?["status"], "completed");
    completes_beside(&scene).await?;
    for id in &ids[..4] {
        ensure!(scene.api().get(&format!("/api/v1/workflows/{id}")).await?["status"] == "running");
        ensure!(orchestr8(&scene, &["status", id]).await?.code == Some(0));
    }
    let cancel = scene.api().request(Method::POST, &format!("/api/v1/workflows/{}/cancel", ids[0]));
    let (status, refused) = scene.api().answer(cancel).await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE && refused.to_string().contains("teleport"), "{status}: {refused}");
    // Each survey looks whether it can be published by now.
    quarantined(&scene, "publish", 2).await?;
    mended(&mut scene).await?;
    scene.finish().await;
    Ok(())
}

/// The plans can be read again: timers are redriven, the rest comes by itself.
async fn mended(scene: &mut Scene) -> Result<()> {
    let listed = orchestr8(scene, &["quarantine", "list"]).await?;
    ensure!(["timed", "tangled", "running", "queued"].iter().all(|name| listed.stdout.contains(name)), "{listed:?}");
    // The next version can read them. It is another process: plans are kept by their content's hash.
    restore_plans(scene).await?;
    scene.installation.coordinators[0].restart().await?;
    scene.installation.wait_ready(0).await?;
    let document: Value = serde_json::from_str(&orchestr8(scene, &["quarantine", "list", "-o", "json"]).await?.stdout)?;
    for event in document["events"].as_array().into_iter().flatten() {
        if event["redrivable"] == true {
            ensure!(redrive(scene, event).await?.code == Some(0), "{event}");
        } else {
            let id = event["id"].as_str().unwrap_or_default();
            ensure!(orchestr8(scene, &["quarantine", "discard", id]).await?.code == Some(0), "{event}");
        }
    }
    scene.installation.serve_queues(&["later"]);
    scene.installation.add_executor().await?;
    scene.all_completed().await?;
    cleared(scene).await
}

#[tokio::test]
async fn a_plan_of_another_version_stops_its_own_execution_only() -> Result<()> {
    others_go_on(&[]).await
}

#[tokio::test]
async fn a_plan_of_another_version_stops_its_own_execution_only_without_a_cache() -> Result<()> {
    others_go_on(&["--cache-bytes", "0"]).await
}

#[tokio::test]
async fn a_registered_definition_of_another_version_is_named_and_can_be_registered_anew() -> Result<()> {
    let scene = Scene::start(coordinator_words(&["--shard-count", "1"])).await?;
    let text = |output: u32| json!({"definition": format!("name: nightly\ntasks:\n- {{name: a, handler: noop}}\noutput: {output}\n")});
    scene.api().post("/api/v1/definitions", &text(1)).await?;
    let change = r#"update plans set plan = jsonb_set(plan, '{tasks,0,kind}', '{"teleport": {}}')"#;
    sqlx::query(change).execute(&scene.installation.pool).await?;
    let start = scene.api().request(Method::POST, "/api/v1/workflows").json(&json!({"definition": "nightly"}));
    let (status, problem) = scene.api().answer(start).await?;
    assert_eq!((status, &problem["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_definition")), "{problem}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    ensure!(["nightly", "teleport", "register it again"].iter().all(|part| detail.contains(part)), "{problem}");
    scene.api().get("/api/v1/definitions/nightly").await?;
    scene.api().post("/api/v1/definitions", &text(2)).await?;
    let started = scene.submit_workflow(&json!({"definition": "nightly"})).await?;
    assert_eq!(scene.workflow(&started).await?["status"], "completed");
    scene.finish().await;
    Ok(())
}
