//! How much a task may read, and what becomes of one that cannot read what it needs.

use super::names_of;
use crate::harness::InstallationOptions;
use crate::harness::wait_for;
use crate::scene::{SOON, Scene, coordinator_words, text};
use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

/// Gathers that are queued together.
const GATHERS: i64 = 6;
/// Upstreams of each.
const SOURCES: usize = 8;
/// Upstreams of one that reads more than it may.
const TOO_MANY: usize = 300;
/// What `LARGE` makes of each output.
const LARGE_BYTES: usize = 250_000;
/// Most of what an output may have.
const LARGE: &str = "update task_results set result_content = jsonb_build_object('small', 1, 'large', repeat('x', 250000))";
/// What no version has ever stored: it is deeper than JSON readers go.
const UNREADABLE: &str = "update task_results set result_content = (repeat('[', 200) || repeat(']', 200))::jsonb
where task_execution_id in (select t.id from task_executions t join workflow_executions w on w.id = t.workflow_id
where w.workflow_name = 'bad')";
const HELD: &str = "select count(*) from task_executions where queue = 'later' and status = 'queued'";

/// One lane feeds all of them together once they may leave.
async fn held_scene() -> Result<Scene> {
    let options = coordinator_words(&["--shard-count", "1"]);
    let scene = Scene::start(InstallationOptions { executors: 1, ..options }).await?;
    scene.api().post("/api/v1/queues/later/pause", &json!({})).await?;
    Ok(scene)
}

/// A workflow whose last task waits in the paused queue for all the others.
fn gather(name: &str, sources: usize, with: impl Fn(&Value) -> Value) -> Value {
    let mut tasks: Vec<Value> = (0..sources)
        .map(|number| {
            let source = format!("s{number:03}");
            json!({"name": source, "handler": "noop", "with": {"output": source}})
        })
        .collect();
    let all = tasks.iter().map(|task| json!(format!("${{{{ tasks.{}.output }}}}", task["name"].as_str().unwrap_or_default()))).collect();
    let needs = names_of(&tasks);
    tasks.push(json!({"name": "join", "needs": needs, "handler": "noop", "queue": "later", "with": with(&all), "retry": 1}));
    json!({"definition": {"name": name, "tasks": tasks}})
}

/// Reads all, and makes little of it.
fn small(all: &Value) -> Value {
    let of = |output: &Value| json!(output.as_str().unwrap_or_default().replace(" }}", ".small }}"));
    all.as_array().into_iter().flatten().map(of).collect()
}

async fn until_held(scene: &Scene, count: i64) -> Result<()> {
    wait_for("the gathers to be held", SOON, async || Ok((scene.number(HELD).await? == count).then_some(()))).await
}

async fn joined(scene: &Scene, workflow: &str) -> Result<Value> {
    scene.result(&text(&scene.task_of(workflow, "join").await?, "task_id")?).await
}

#[tokio::test]
async fn a_task_that_reads_too_much_fails_by_name_and_those_beside_it_complete() -> Result<()> {
    let mut scene = held_scene().await?;
    let mut ids = Vec::new();
    for _ in 0..GATHERS {
        ids.push(scene.submit_workflow(&gather("many", SOURCES, |all| json!({"output": small(all)}))).await?);
    }
    let greedy = scene.submit_workflow(&gather("greedy", TOO_MANY, |all| json!({"output": small(all)}))).await?;
    until_held(&scene, GATHERS + 1).await?;
    sqlx::query(LARGE).execute(&scene.installation.pool).await?;
    scene.api().post("/api/v1/queues/later/resume", &json!({})).await?;
    scene.installation.serve_queues(&["later"]);
    scene.installation.add_executor().await?;
    for id in ids {
        let joined = joined(&scene, &id).await?;
        ensure!(joined["result"] == json!(vec![1; SOURCES]), "{joined}");
    }
    let said = joined(&scene, &greedy).await?.to_string();
    ensure!(["failed", "too_large", "67108864 bytes together"].iter().all(|word| said.contains(word)), "{said}");
    scene.finish().await;
    Ok(())
}

/// Gathers that each read an eighth of what is read together at most, and some more.
const PARTS: usize = 9;
const TOGETHER_BYTES_MAX: usize = 16 << 20;

#[tokio::test]
async fn what_is_made_together_reads_no_more_than_its_bound() -> Result<()> {
    let mut scene = held_scene().await?;
    let filter = json!({"filter": "orchestr8_coordinator=debug,info"});
    scene.api().answer(scene.api().request(Method::PUT, "/api/v1/log-level").json(&filter)).await?;
    let mut ids = Vec::new();
    for _ in 0..PARTS {
        ids.push(scene.submit_workflow(&gather("part", SOURCES, |all| json!({"output": small(all)}))).await?);
    }
    until_held(&scene, i64::try_from(PARTS)?).await?;
    sqlx::query(LARGE).execute(&scene.installation.pool).await?;
    scene.api().post("/api/v1/queues/later/resume", &json!({})).await?;
    scene.installation.serve_queues(&["later"]);
    scene.installation.add_executor().await?;
    for id in ids {
        let joined = joined(&scene, &id).await?;
        ensure!(joined["result"] == json!(vec![1; SOURCES]), "{joined}");
    }
    let log = std::fs::read_to_string(scene.installation.coordinators[0].log())?;
    let said: Vec<&str> = log.lines().filter(|line| line.contains("read too much to be made together")).collect();
    ensure!(PARTS * SOURCES * LARGE_BYTES > TOGETHER_BYTES_MAX && !said.is_empty(), "all {PARTS} were made together");
    ensure!(said.iter().all(|line| line.contains(&format!("bytes_max={TOGETHER_BYTES_MAX}"))), "{said:?}");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn an_output_that_cannot_be_read_fails_its_reader_alone() -> Result<()> {
    let mut scene = held_scene().await?;
    let mut ids = Vec::new();
    for name in ["good", "bad", "fine"] {
        ids.push(scene.submit_workflow(&gather(name, 1, |all| json!({"output": all}))).await?);
    }
    until_held(&scene, 3).await?;
    sqlx::query(UNREADABLE).execute(&scene.installation.pool).await?;
    scene.api().post("/api/v1/queues/later/resume", &json!({})).await?;
    scene.installation.serve_queues(&["later"]);
    scene.installation.add_executor().await?;
    for (id, good) in ids.iter().zip([true, false, true]) {
        let joined = joined(&scene, id).await?;
        if good {
            ensure!(joined["result"] == json!(["s000"]), "{joined}");
        } else {
            let said = joined.to_string();
            ensure!(joined["status"] == "failed" && said.contains("internal") && said.contains("cannot be read"), "{said}");
        }
    }
    scene.finish().await;
    Ok(())
}
