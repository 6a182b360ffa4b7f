//! A collector that is not there, or does not answer, costs spans and never work.

use super::collector::{Collector, Gate};
use super::traced;
use crate::harness::{InstallationOptions, wait_for};
use crate::scene::{SOON, Scene, noop, submit_surely};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

/// Spans that wait, at most: far fewer than there will be.
const QUEUE: &str = "64";
/// Tasks that end while nobody takes a span.
const TASKS: usize = 300;

#[tokio::test]
async fn work_goes_on_while_nobody_takes_spans() -> Result<()> {
    let collector = Collector::start(Gate::Shut).await?;
    let mut options = traced(&collector.endpoint);
    options.environment.push(("OTEL_BSP_MAX_QUEUE_SIZE".to_owned(), QUEUE.to_owned()));
    // Nothing listens there.
    let executor_words = vec!["--otlp-endpoint".to_owned(), "http://127.0.0.1:1".to_owned()];
    let mut scene = Scene::start(InstallationOptions { executor_words, ..options }).await?;
    scene.result(&scene.submit(&noop(&json!(0))).await?).await?;
    wait_for("a request that is not answered", SOON, async || Ok((collector.requests() > 0).then_some(()))).await?;
    let many: Vec<Value> = (0..TASKS).map(|number| noop(&json!(number))).collect();
    let accepted = submit_surely(scene.api(), "/api/v1/tasks", &json!(many)).await?;
    for task in accepted.as_array().into_iter().flatten().filter_map(|task| task["task_id"].as_str()) {
        let ended = scene.result(task).await?;
        ensure!(ended["status"] == "completed", "{ended}");
    }
    ensure!(collector.spans().is_empty(), "it has answered nothing");
    let log = scene.installation.executors[0].log().to_owned();
    let told = async || Ok(std::fs::read_to_string(&log)?.contains("spans are not taken").then_some(()));
    wait_for("the executor to say it", SOON, told).await?;
    ensure!(std::fs::read_to_string(&log)?.matches("spans are not taken").count() == 1, "once is enough");
    // The end does not wait for ever either: it would be killed after its grace.
    for process in scene.installation.executors.iter_mut().chain(&mut scene.installation.coordinators) {
        let report = process.terminate().await?;
        ensure!(report.exit_code == Some(0), "{}: {report:?}", process.name());
    }
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn spans_come_again_when_the_collector_does() -> Result<()> {
    let collector = Collector::start(Gate::Shut).await?;
    let scene = Scene::start(traced(&collector.endpoint)).await?;
    scene.result(&scene.submit(&noop(&json!(0))).await?).await?;
    wait_for("a request that is not answered", SOON, async || Ok((collector.requests() > 0).then_some(()))).await?;
    collector.set(Gate::Open);
    scene.result(&scene.submit(&noop(&json!(1))).await?).await?;
    let look = async || Ok((collector.names().iter().filter(|name| name.ends_with("execution task")).count() == 2).then_some(()));
    wait_for("the spans of both", SOON, look).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_collector_that_refused_spans_gets_those_that_follow() -> Result<()> {
    let collector = Collector::start(Gate::Refusing).await?;
    let scene = Scene::start(traced(&collector.endpoint)).await?;
    let log = scene.installation.coordinators[0].log().to_owned();
    let told = async |words: &str| Ok(std::fs::read_to_string(&log)?.contains(words).then_some(()));
    scene.result(&scene.submit(&noop(&json!(0))).await?).await?;
    wait_for("the coordinator to say it", SOON, async || told("spans are not taken").await).await?;
    collector.set(Gate::Open);
    scene.result(&scene.submit(&noop(&json!(1))).await?).await?;
    collector.until("execution task", |_| true).await?;
    wait_for("the coordinator to say it", SOON, async || told("spans are taken again").await).await?;
    scene.finish().await;
    Ok(())
}
