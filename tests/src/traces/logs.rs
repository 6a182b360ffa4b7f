//! Log lines for machines, levels that change while a process runs, and no secret in a line or span.

use super::collector::{Collector, Gate};
use super::traced;
use crate::happy::cli::orchestr8;
use crate::harness::{Api, InstallationOptions, Process, wait_for};
use crate::scene::{SOON, Scene, executors, noop};
use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// The lines of a log; every one must be an object.
fn lines(process: &Process) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(process.log())?;
    // The last line may be under way.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).with_context(|| format!("{}: {line}", process.name()))).collect()
}

/// A line with this message about this task, once it is there.
async fn told(process: &Process, message: &str, task: &str) -> Result<Value> {
    let fits = |line: &Value| line["message"] == message && line["task_id"] == task;
    let look = async || Ok(lines(process)?.into_iter().find(fits));
    wait_for(&format!("`{message}` in the log of {}", process.name()), SOON, look).await
}

fn json_logs() -> InstallationOptions {
    InstallationOptions { environment: vec![("ORCHESTR8_LOG_FORMAT".into(), "json".into())], ..executors(1) }
}

async fn one_task(scene: &Scene) -> Result<String> {
    let task = scene.submit(&noop(&json!(1))).await?;
    scene.result(&task).await?;
    Ok(task)
}

#[tokio::test]
async fn lines_are_objects_with_ids_and_levels_change_while_it_runs() -> Result<()> {
    let scene = Scene::start(json_logs()).await?;
    let (coordinator, executor) = (&scene.installation.coordinators[0], &scene.installation.executors[0]);
    let quiet = one_task(&scene).await?;
    let said = orchestr8(&scene, &["log-level"]).await?;
    ensure!(said.code == Some(0) && said.line().ends_with(" info"), "{said:?}");
    let said = orchestr8(&scene, &["log-level", "orchestr8_coordinator=debug,info"]).await?;
    ensure!(said.code == Some(0) && said.line().ends_with(" orchestr8_coordinator=debug,info"), "{said:?}");
    let said = orchestr8(&scene, &["log-level", "--executor", "executor-0", "orchestr8_executor=debug,warn"]).await?;
    ensure!(said.code == Some(0) && said.line() == "executor-0 orchestr8_executor=debug,warn", "{said:?}");
    let said = orchestr8(&scene, &["log-level", "--executor", "executor-0"]).await?;
    ensure!(said.line() == "executor-0 orchestr8_executor=debug,warn", "{said:?}");

    let loud = one_task(&scene).await?;
    let workflow = scene.api().get(&format!("/api/v1/tasks/{loud}")).await?["workflow_id"].clone();
    let ended = told(coordinator, "a task ended", &loud).await?;
    ensure!(ended["workflow_id"] == workflow && ended["shard"].is_u64() && ended["level"] == "DEBUG", "{ended}");
    ensure!(ended["timestamp"].is_string() && ended["target"] == "orchestr8_coordinator::engine::act", "{ended}");
    let run = told(executor, "a run ended", &loud).await?;
    ensure!(run["run_id"].as_str().is_some_and(|id| id.len() == 36) && run["workflow_id"] == workflow && run["attempt"] == 1, "{run}");

    orchestr8(&scene, &["log-level", "warn"]).await?;
    let silent = one_task(&scene).await?;
    for process in [coordinator, executor] {
        let about = |task: &str| Ok::<_, anyhow::Error>(lines(process)?.iter().filter(|line| line["task_id"] == *task).count());
        ensure!(about(&quiet)? == 0 && about(&loud)? > 0, "{}", process.name());
    }
    ensure!(lines(coordinator)?.iter().all(|line| line["task_id"] != silent), "it is silent again");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_filter_that_is_none_is_refused_and_only_the_token_may_change_it() -> Result<()> {
    let scene = Scene::start(json_logs()).await?;
    for path in ["/api/v1/log-level", "/api/v1/executors/executor-0/log-level"] {
        for (body, part) in
            [(json!({"filter": "debgu"}), "`debgu` is no level"), (json!({}), "`filter` is missing"), (json!({"level": "info"}), "`level`")]
        {
            let (status, problem) = scene.api().answer(scene.api().request(Method::PUT, path).json(&body)).await?;
            ensure!(status == StatusCode::BAD_REQUEST && problem["code"] == "bad_field", "{path}: {problem}");
            ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains(part)), "{path}: {problem}");
        }
        let stranger = Api::new(scene.api().url.clone(), "another-token-0123456789".to_owned());
        let (status, _) = stranger.answer(stranger.request(Method::PUT, path).json(&json!({"filter": "trace"}))).await?;
        ensure!(status == StatusCode::UNAUTHORIZED, "{path}: {status}");
    }
    let said = orchestr8(&scene, &["log-level", "loud"]).await?;
    ensure!(said.code == Some(1) && said.stderr.contains("`loud` is no level"), "{said:?}");
    let said = orchestr8(&scene, &["log-level", "--executor", "nobody", "info"]).await?;
    ensure!(said.code == Some(1) && said.stderr.contains("nobody"), "{said:?}");
    ensure!(orchestr8(&scene, &["log-level"]).await?.line().ends_with(" info"), "nothing was changed");
    scene.finish().await;
    Ok(())
}

/// What must be seen nowhere: each is found by these words.
const SECRETS: [&str; 5] = ["hidden-in-header", "hidden-in-env", "hidden-in-with", "hidden-in-prompt", "hidden-in-output"];

/// What opens the server of this address.
fn password(url: &str) -> Result<String> {
    let (_, rest) = url.split_once("://").context("an address")?;
    let (login, _) = rest.rsplit_once('@').context("a login")?;
    let (_, password) = login.split_once(':').context("a password")?;
    ensure!(password.len() > 8, "it could be anything");
    Ok(password.to_owned())
}

#[tokio::test]
async fn no_secret_is_in_a_line_or_span_whatever_the_level() -> Result<()> {
    let collector = Collector::start(Gate::Open).await?;
    let options = traced(&collector.endpoint);
    let mut scene = Scene::start(InstallationOptions { coordinators: 0, executors: 0, ..options }).await?;
    let passwords = [password(&scene.installation.nats_url)?, password(&scene.installation.database_url)?];
    for (name, value) in
        [("ORCHESTR8_LOG", "trace"), ("ORCHESTR8_LOG_FORMAT", "json"), ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=hidden-in-header")]
    {
        scene.installation.set_environment(name, value);
    }
    scene.installation.add_coordinator().await?;
    scene.installation.wait_ready(0).await?;
    scene.installation.api = scene.installation.api_of(0);
    scene.installation.add_executor().await?;
    let script = "echo hidden-in-output; echo hidden-in-output >&2; [ \"$ORCHESTR8_ATTEMPT\" = 2 ]";
    let task = json!({
        "run": script, "env": {"KEY": "hidden-in-env"}, "with": {"key": "hidden-in-with"}, "prompt": "hidden-in-prompt",
        "max_retries": 1, "retry_backoff": {"initial_interval": "10ms"},
    });
    let ended = scene.result(&scene.submit(&task).await?).await?;
    ensure!(ended["status"] == "completed", "{ended}");
    collector.until("execution task", |_| true).await?;
    collector.until("run task", |taken| taken.attribute("orchestr8.attempt").as_deref() == Some("2")).await?;
    ensure!(collector.holds("hidden-in-header") == (false, true), "the collector's key goes to the collector");
    let token = scene.api().token.clone();
    for secret in SECRETS.into_iter().chain(passwords.iter().map(String::as_str)).chain([token.as_str()]) {
        ensure!(!collector.holds(secret).0, "`{secret}` is in a span");
        for process in scene.installation.coordinators.iter().chain(&scene.installation.executors) {
            let text = std::fs::read_to_string(process.log())?;
            ensure!(text.contains("\"TRACE\"") && text.contains(" ended\""), "{}: it tells little", process.name());
            let found = text.lines().find(|line| line.contains(secret));
            ensure!(found.is_none(), "{} tells `{secret}`: {}", process.name(), found.unwrap_or_default());
        }
    }
    scene.finish().await;
    Ok(())
}
