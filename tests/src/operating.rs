//! What operators look at and order: why, queues, executors, shards, doctor. Through the command line, which asks the API.

use crate::happy::cli::{Said, orchestr8};
use crate::harness::wait_for;
use crate::scene::{SOON, Scene, coordinator_words, executors, noop, submit_surely, text};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// A command's whole answer.
async fn answer(scene: &Scene, words: &[&str]) -> Result<Value> {
    let words: Vec<&str> = words.iter().copied().chain(["-o", "json"]).collect();
    let said = orchestr8(scene, &words).await?;
    serde_json::from_str(&said.stdout).with_context(|| format!("{words:?}: {said:?}"))
}

/// A command that must do what it is asked.
async fn done(scene: &Scene, words: &[&str]) -> Result<Said> {
    let said = orchestr8(scene, words).await?;
    ensure!(said.code == Some(0), "{words:?}: {said:?}");
    Ok(said)
}

/// The words of the reasons that `why` gives.
async fn reasons(scene: &Scene, task: &str) -> Result<Vec<String>> {
    let why = answer(scene, &["why", task]).await?;
    why["reasons"].as_array().context("reasons")?.iter().map(|reason| text(reason, "reason")).collect()
}

/// Waits until `why` gives these reasons.
async fn until_why(scene: &Scene, task: &str, expected: &[&str]) -> Result<()> {
    let look = async || {
        let found = reasons(scene, task).await?;
        ensure!(found == expected, "{found:?} instead of {expected:?}");
        Ok(Some(()))
    };
    wait_for(&format!("why to say {expected:?}"), SOON, look).await
}

/// The entry of one queue.
async fn queue(scene: &Scene, name: &str) -> Result<Value> {
    let list = answer(scene, &["queues", "list"]).await?;
    let found = list["queues"].as_array().context("queues")?.iter().find(|queue| queue["queue"] == name);
    found.cloned().with_context(|| format!("no queue {name} in {list}"))
}

/// How many starts of all tasks the executors' command has written.
fn starts(scene: &Scene) -> Result<usize> {
    Ok(scene.ledger.starts()?.len())
}

#[tokio::test]
async fn why_names_what_a_task_waits_for() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    let sleep = scene.submit(&json!({"handler": "sleep", "with": {"duration": "1h"}})).await?;
    scene.until(&sleep, "running").await?;
    assert_eq!(reasons(&scene, &sleep).await?, ["running"]);
    let said = done(&scene, &["why", &sleep[..]]).await?;
    assert!(said.stdout.contains("attempt 1 runs on `executor-0`"), "{said:?}");
    let nobody = scene.submit(&json!({"handler": "noop", "queue": "gpu"})).await?;
    until_why(&scene, &nobody, &["nobody_serves_queue"]).await?;
    let behind = scene.submit(&json!({"handler": "noop", "queue": "gpu", "priority": "low"})).await?;
    until_why(&scene, &behind, &["nobody_serves_queue", "behind"]).await?;
    let handler = scene.submit(&json!({"handler": "no-such-handler"})).await?;
    until_why(&scene, &handler, &["unsupported"]).await?;
    let definition = "name: w\ntasks:\n- {name: a, run: exit 3, retry: {max_attempts: 9, initial_interval: 1h, max_interval: 1h}}\n\
                      - {name: b, handler: noop, needs: [a]}\n- {name: c, sleep: 1h}\n";
    let workflow = scene.submit_workflow(&json!({"definition": definition})).await?;
    for (name, reason) in [("a", "backoff"), ("b", "upstream"), ("c", "timer")] {
        let task = text(&scene.task_of(&workflow, name).await?, "task_id")?;
        until_why(&scene, &task, &[reason]).await?;
    }
    let (said, tree) = (done(&scene, &["why", &workflow]).await?, done(&scene, &["status", &workflow]).await?);
    assert!(said.stdout.starts_with(&format!("{workflow} w is running: 3 tasks not ended\n")), "{said:?}");
    for (name, told) in [("a", "retrying: attempt 1 of 9 failed"), ("b", "pending: it waits for `a`"), ("c", "waiting: it waits until")] {
        let task = text(&scene.task_of(&workflow, name).await?, "task_id")?;
        assert!(said.stdout.contains(&format!("\n  {task} {name} is {told}")), "{said:?}");
        assert!(tree.stdout.lines().any(|line| line.contains(&format!("{task} {name} "))), "{tree:?}");
    }
    let ended = scene.submit(&noop(&json!(1))).await?;
    scene.result(&ended).await?;
    assert_eq!(reasons(&scene, &ended).await?, ["ended"]);
    // Else it may come back into the queue before the other one does.
    scene.api().post(&format!("/api/v1/tasks/{handler}/cancel"), &json!({})).await?;
    scene.installation.executors[0].kill().await?;
    until_why(&scene, &sleep, &["nobody_serves_queue"]).await.context("its executor is lost, and nobody else is there")?;
    scene.finish().await;
    Ok(())
}

/// At once: a lease is long for whoever waits. And the executor of the same name that works again is another one.
#[tokio::test]
async fn a_silent_executor_is_seen_everywhere_though_it_was_started_again() -> Result<()> {
    let options = crate::harness::InstallationOptions { time_base: std::time::Duration::from_millis(300), ..executors(1) };
    let mut scene = Scene::start(options).await?;
    let task = scene.submit(&json!({"handler": "sleep", "with": {"duration": "1h"}})).await?;
    scene.until(&task, "running").await?;
    wait_for("the coordinator to know who lives", SOON, async || Ok(checks(&scene, "leases").await?.first().map(|_| ()))).await?;
    let before = text(&only_executor(&scene).await?, "incarnation")?;
    scene.installation.executors[0].kill().await?;
    scene.installation.executors[0].restart().await?;
    let look = async || {
        let why = scene.api().get(&format!("/api/v1/tasks/{task}/why")).await?;
        let reason = why["reasons"].as_array().and_then(|reasons| reasons.last()).cloned().context("reasons")?;
        let leases = checks(&scene, "leases").await?.first().cloned().context("leases")?;
        ensure!(reason["reason"] == "silent" && leases["level"] == "warn", "{why} {leases}");
        Ok(Some((reason, leases, done(&scene, &["status", &task]).await?)))
    };
    let (reason, leases, status) = wait_for("its task to say that its executor is silent", SOON, look).await?;
    assert!(reason["silent_for_s"].as_f64() >= Some(1.2) && reason["lost_in_s"].as_f64() <= Some(3.3), "{reason}");
    assert!(reason["incarnation"] == before && reason["held_back"] == false, "{reason}");
    let message = text(&reason, "message")?;
    assert!(message.starts_with(&format!("`executor-0` (incarnation {before}) has been silent for ")), "{message}");
    assert!(message.ends_with(", then the task is dispatched again"), "{message}");
    assert!(text(&leases, "message")?.contains(&task) && text(&leases, "remedy")?.contains("run again 4.5 s after"), "{leases}");
    assert!(status.stdout.contains("\nsilent    `executor-0`"), "{status:?}");
    let list = answer(&scene, &["executors", "list"]).await?;
    let of = |state: &str| list["executors"].as_array().and_then(|all| all.iter().find(|one| one["state"] == state)).cloned();
    let (silent, active) = (of("silent").context("silent")?, of("active").context("active")?);
    assert_eq!((&silent["incarnation"], &silent["replaced_by"]), (&json!(before), &active["incarnation"]), "{list}");
    assert_eq!(reason["replaced_by"], active["incarnation"], "{reason}");
    let table = done(&scene, &["executors", "list"]).await?.stdout;
    assert!(table.lines().any(|line| line.starts_with("executor-0") && line.contains("silent, replaced")), "{table}");
    assert_eq!(done(&scene, &["executors", "cordon", "executor-0"]).await?.line(), "executor-0 cordoned", "the name is the newer one's");
    done(&scene, &["executors", "uncordon", "executor-0"]).await?;
    let again = async || Ok((reasons(&scene, &task).await? == ["running"]).then_some(()));
    wait_for("it to run again", SOON, again).await?;
    scene.installation.executors[0].kill().await?;
    let look = async || {
        let said = orchestr8(&scene, &["executors", "cordon", "executor-0"]).await?;
        ensure!(said.code == Some(69) && said.stderr.contains("has been silent for"), "{said:?}");
        Ok(Some(()))
    };
    wait_for("an order to be refused because nobody hears it", SOON, look).await?;
    scene.finish().await;
    Ok(())
}

/// What the doctor says under this name.
async fn checks(scene: &Scene, name: &str) -> Result<Vec<Value>> {
    let said = scene.api().get("/api/v1/doctor").await?;
    Ok(said["checks"].as_array().context("checks")?.iter().filter(|check| check["name"] == name).cloned().collect())
}

/// The executor, where there is one.
async fn only_executor(scene: &Scene) -> Result<Value> {
    let list = answer(scene, &["executors", "list"]).await?;
    let all = list["executors"].as_array().context("executors")?;
    ensure!(all.len() == 1, "{list}");
    Ok(all[0].clone())
}

#[tokio::test]
async fn a_task_without_room_in_jetstream_is_held_and_says_so() -> Result<()> {
    let scene = Scene::start(executors_none("1")).await?;
    let first = scene.submit(&noop(&json!(1))).await?;
    let many: Vec<Value> = (0..40).map(|number| noop(&json!(number))).collect();
    let answers = submit_surely(scene.api(), "/api/v1/tasks", &json!(many)).await?;
    let last = text(answers.as_array().and_then(|answers| answers.last()).context("tasks")?, "task_id")?;
    let look = async || Ok(reasons(&scene, &last).await?.contains(&"held".to_owned()).then_some(()));
    wait_for("the last task to be held", SOON, look).await?;
    let why = answer(&scene, &["why", &last]).await?;
    let behind = why["reasons"].as_array().and_then(|reasons| reasons.iter().find(|reason| reason["reason"] == "behind"));
    assert!(behind.is_some_and(|behind| behind["tasks"].as_i64().is_some_and(|tasks| tasks >= 1)), "{why}");
    assert!(!reasons(&scene, &first).await?.contains(&"held".to_owned()), "the first is in the stream");
    scene.finish().await;
    Ok(())
}

fn executors_none(subject_messages_max: &str) -> crate::harness::InstallationOptions {
    let options = coordinator_words(&["--subject-messages-max", subject_messages_max]);
    crate::harness::InstallationOptions { executors: 0, ..options }
}

#[tokio::test]
async fn a_paused_queue_starts_nothing_at_any_coordinator_and_survives_restarts() -> Result<()> {
    let options = crate::harness::InstallationOptions { coordinators: 2, ..executors(1) };
    let mut scene = Scene::start(options).await?;
    scene.installation.wait_ready(1).await?;
    let running = scene.submit(&scene.ledger.gated("go")).await?;
    scene.until_started(&running, 1).await?;
    let said = done(&scene, &["queues", "pause", "default", "--reason", "night's work"]).await?;
    assert!(said.line() == "default paused" && said.stderr.is_empty(), "{said:?}");
    assert_eq!(done(&scene, &["queues", "pause", "default"]).await?.line(), "default already_paused");
    let other = scene.installation.api_of(1);
    let look = async || Ok(warned(&other.post("/api/v1/tasks", &scene.ledger.task()).await?).then_some(()));
    wait_for("the other coordinator to warn", SOON, look).await?;
    let waiting = scene.submit(&scene.ledger.task()).await?;
    scene.ledger.open("go")?;
    assert_eq!(scene.result(&running).await?["status"], "completed", "what runs goes on");
    assert_eq!(reasons(&scene, &waiting).await?.first().map(String::as_str), Some("paused_queue"));
    let state = queue(&scene, "default").await?;
    assert!(state["paused"]["reason"] == "night's work" && state["queued_total"].as_i64() >= Some(2), "{state}");
    let before = starts(&scene)?;
    scene.installation.coordinators[0].kill().await?;
    scene.installation.coordinators[1].kill().await?;
    let third = scene.installation.add_coordinator().await?;
    scene.installation.wait_ready(third).await?;
    scene.installation.api = scene.installation.api_of(third);
    scene.installation.serve_queues(&["default"]);
    scene.installation.add_executor().await?;
    let late = scene.submit(&scene.ledger.task()).await?;
    until_why(&scene, &late, &["paused_queue", "behind"]).await?;
    assert_eq!(starts(&scene)?, before, "nothing started");
    assert_eq!(done(&scene, &["queues", "resume", "default"]).await?.line(), "default resumed");
    scene.all_completed().await?;
    let said = orchestr8(&scene, &["queues", "resume", "default"]).await?;
    assert!(said.code == Some(1) && said.stderr.contains("is not paused"), "{said:?}");
    scene.finish().await;
    Ok(())
}

fn warned(answer: &Value) -> bool {
    answer["warnings"]
        .as_array()
        .is_some_and(|said| said.iter().any(|warning| warning.as_str().is_some_and(|text| text.contains("is paused"))))
}

#[tokio::test]
async fn what_lies_in_jetstream_waits_as_well_while_its_queue_is_paused() -> Result<()> {
    let mut scene = Scene::start(executors(0)).await?;
    scene.installation.serve_queues(&["default", "other"]);
    let tasks: Vec<Value> = (0..5).map(|_| scene.ledger.task()).collect();
    submit_surely(scene.api(), "/api/v1/tasks", &json!(tasks)).await?;
    done(&scene, &["queues", "pause", "default"]).await?;
    scene.installation.add_executor().await?;
    let mut other = scene.ledger.task();
    other["queue"] = json!("other");
    let other = scene.submit(&other).await?;
    assert_eq!(scene.result(&other).await?["status"], "completed", "the other queue goes on");
    assert_eq!(starts(&scene)?, 1);
    let said = orchestr8(&scene, &["queues", "pause", "nobody-has-it"]).await?;
    assert!(said.code == Some(0) && said.stderr.contains("is the name right?"), "{said:?}");
    let said = orchestr8(&scene, &["queues", "pause", "Not A Name"]).await?;
    assert!(said.code == Some(2) && said.stderr.contains("is not a queue name"), "{said:?}");
    done(&scene, &["queues", "resume", "default"]).await?;
    scene.all_completed().await?;
    let table = done(&scene, &["queues", "list"]).await?.stdout;
    assert!(table.starts_with("QUEUE") && table.contains("nobody-has-it") && table.contains("paused"), "{table}");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn executors_are_cordoned_uncordoned_and_drained() -> Result<()> {
    let scene = Scene::start(crate::harness::InstallationOptions {
        executor_words: vec!["--drain-timeout".into(), "300ms".into()],
        ..executors(1)
    })
    .await?;
    let running = scene.submit(&json!({"handler": "sleep", "with": {"duration": "1h"}})).await?;
    scene.until(&running, "running").await?;
    assert_eq!(done(&scene, &["executors", "cordon", "executor-0"]).await?.line(), "executor-0 cordoned");
    let waiting = scene.submit(&scene.ledger.task()).await?;
    until_why(&scene, &waiting, &["nobody_serves_queue"]).await?;
    assert_eq!(reasons(&scene, &running).await?, ["running"], "what runs goes on");
    let list = answer(&scene, &["executors", "list"]).await?;
    let one = &list["executors"][0];
    assert!(one["cordoned"] == true && one["draining"] == false && one["slots"] == 4 && one["slots_busy"] == 1, "{list}");
    assert!(done(&scene, &["executors", "list"]).await?.stdout.contains("cordoned"));
    assert_eq!(done(&scene, &["executors", "uncordon", "executor-0"]).await?.line(), "executor-0 active");
    assert_eq!(scene.result(&waiting).await?["status"], "completed");
    let incarnation = text(one, "incarnation")?;
    assert_eq!(done(&scene, &["executors", "drain", &incarnation]).await?.line(), "executor-0 draining");
    scene.until(&running, "queued").await.context("it is handed back")?;
    done(&scene, &["executors", "uncordon", "executor-0"]).await?;
    scene.until(&running, "running").await.context("it runs again on the same executor")?;
    let said = orchestr8(&scene, &["executors", "cordon", "executor-9"]).await?;
    assert!(said.code == Some(1) && said.stderr.contains("there is no executor `executor-9`"), "{said:?}");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn shards_say_who_owns_them_since_when_and_how_far_they_are() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let task = scene.submit(&noop(&json!(1))).await?;
    scene.result(&task).await?;
    let look = async || {
        let list = answer(&scene, &["shards"]).await?;
        let shards = list["shards"].as_array().context("shards")?;
        ensure!(shards.len() == 16 && shards.iter().all(|shard| shard["is_owned"] == true), "{list}");
        ensure!(shards.iter().all(|shard| shard["owned_since"].is_string() && shard["inbox"] == 0), "{list}");
        ensure!(shards.iter().all(|shard| shard["outcomes_behind"].as_u64() == Some(0)), "{list}");
        Ok(Some(()))
    };
    wait_for("all positions to be saved at the head", SOON, look).await?;
    let table = done(&scene, &["shards"]).await?.stdout;
    assert!(table.lines().count() == 17 && table.starts_with("SHARD"), "{table}");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn the_doctor_finds_nothing_wrong_and_then_everything_that_is() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    let look = async || {
        let said = orchestr8(&scene, &["doctor"]).await?;
        ensure!(said.code == Some(0) && !said.stdout.contains("warn") && !said.stdout.contains("fail"), "{said:?}");
        Ok(Some(said.stdout))
    };
    let well = wait_for("a doctor without complaints", SOON, look).await?;
    for line in ["coordinator", "token", "version", "postgres", "nats", "shards", "leases", "queue"] {
        assert!(well.lines().any(|said| said.starts_with("ok ") && said.split_whitespace().nth(1) == Some(line)), "{line}: {well}");
    }
    scene.submit(&json!({"handler": "noop", "queue": "gpu"})).await?;
    let held = scene.submit(&json!({"handler": "sleep", "with": {"duration": "1h"}})).await?;
    scene.until(&held, "running").await?;
    done(&scene, &["queues", "pause", "default"]).await?;
    let pid = scene.installation.executors[0].pid();
    scene.installation.executors[0].kill().await?;
    let look = async || {
        let said = answer(&scene, &["doctor"]).await?;
        let found = |name: &str, level: &str, part: &str| {
            let is = |check: &Value| {
                check["name"] == name && check["level"] == level && check["message"].as_str().is_some_and(|text| text.contains(part))
            };
            said["checks"].as_array().is_some_and(|checks| checks.iter().any(|check| is(check) && check["remedy"].is_string()))
        };
        ensure!(
            found("queue", "fail", "`gpu`") && found("queue", "warn", "`default` is paused") && found("executors", "warn", "no executor"),
            "{said}"
        );
        Ok(Some(()))
    };
    wait_for(&format!("the doctor to see that executor {pid} is gone"), SOON, look).await?;
    assert_eq!(orchestr8(&scene, &["doctor"]).await?.code, Some(1));
    scene.installation.nats("stop nats").await?;
    let look = async || {
        let said = orchestr8(&scene, &["doctor"]).await?;
        ensure!(said.stdout.lines().any(|line| line.starts_with("fail  nats ")), "{said:?}");
        Ok(Some(()))
    };
    wait_for("the doctor to see that NATS is gone", SOON, look).await?;
    scene.finish().await;
    Ok(())
}
