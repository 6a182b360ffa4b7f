//! Queue names without end: those beyond the bound are refused, and queues that nobody uses are forgotten without losing anything.

use crate::harness::servers::connect_nats;
use crate::harness::wait_for;
use crate::scene::{SOON, Scene, coordinator_words};
use anyhow::{Context, Result, ensure};
use async_nats::jetstream::stream::Stream;
use futures::StreamExt;
use orchestr8_proto::names;
use orchestr8_proto::words::Priority;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

fn noop_of(queue: &str) -> Value {
    json!({"handler": "noop", "queue": queue})
}

#[tokio::test]
async fn a_queue_beyond_the_bound_is_refused_with_field_value_limit_and_remedy() -> Result<()> {
    let scene = Scene::start(coordinator_words(&["--queues-max", "3"])).await?;
    for queue in ["default", "one", "two", "one", "default"] {
        scene.submit(&noop_of(queue)).await?;
    }
    let flow = "name: w\ntasks:\n- {name: a, run: 'true', queue: two}\n- {name: b, run: 'true', queue: more, needs: [a]}\n";
    for (path, body, field) in [
        ("/api/v1/tasks", noop_of("more"), "queue"),
        ("/api/v1/tasks", json!([noop_of("one"), noop_of("more")]), "[1].queue"),
        ("/api/v1/workflows", json!({ "definition": flow }), "tasks.b.queue"),
    ] {
        let (status, problem) = scene.api().answer(scene.api().request(Method::POST, path).json(&body)).await?;
        assert_eq!((status, &problem["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("too_many_queues")), "{problem}");
        assert_eq!((&problem["field"], &problem["value"]), (&json!(field), &json!("more")));
        let detail = problem["detail"].as_str().context("a detail")?;
        ensure!(detail.contains("there are 3 queues") && detail.contains("raise --queues-max"), "{detail}");
    }
    assert_eq!(scene.number("select count(*) from workflow_executions").await?, 5, "what was refused was not partly accepted");
    scene.finish().await;
    Ok(())
}

/// Waits until the consumers of a queue are there, or none of them is.
async fn until_consumers(stream: &Stream, queue: &str, wanted: usize) -> Result<()> {
    let look = async || {
        let mut found = 0;
        for priority in Priority::ALL {
            found += usize::from(stream.consumer_info(names::consumer_name(queue, *priority)).await.is_ok());
        }
        Ok((found == wanted).then_some(()))
    };
    wait_for(&format!("{wanted} consumers of {queue}"), SOON, look).await
}

#[tokio::test]
async fn a_queue_that_nobody_uses_is_forgotten_and_comes_back_with_its_next_task() -> Result<()> {
    let mut scene = Scene::start(coordinator_words(&["--queue-forgotten-after", "2s"])).await?;
    let nats = connect_nats(&scene.installation.nats_url).await?;
    let mut deletions = nats.subscribe(names::TASK_CONSUMER_DELETED).await?;
    let stream = async_nats::jetstream::new(nats).get_stream(names::TASKS_STREAM).await?;
    scene.installation.serve_queues(&["passing"]);
    let passing = scene.installation.add_executor().await?;
    until_consumers(&stream, "passing", Priority::ALL.len()).await?;
    // Nobody serves this one, so its consumers end too; but something lies in it.
    let held = scene.submit(&noop_of("held")).await?;
    until_consumers(&stream, "held", Priority::ALL.len()).await?;
    scene.installation.executors[passing].kill().await?;
    until_consumers(&stream, "passing", 0).await?;
    let of_held = format!(".{}", names::consumer_name("held", Priority::Normal));
    loop {
        let deletion = tokio::time::timeout(SOON, deletions.next()).await?.context("advisories come")?;
        if deletion.subject.ends_with(&of_held) {
            break;
        }
    }
    until_consumers(&stream, "held", Priority::ALL.len()).await?;
    let back = scene.submit(&noop_of("passing")).await?;
    scene.installation.serve_queues(&["passing", "held"]);
    scene.installation.add_executor().await?;
    for task in [&held, &back] {
        assert_eq!(scene.result(task).await?["status"], "completed");
    }
    scene.finish().await;
    Ok(())
}
