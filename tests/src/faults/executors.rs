//! Executors that are killed, paused or asked to end in mid-task.

use crate::harness::servers::{connect_nats, is_alive};
use crate::harness::{InstallationOptions, wait_for};
use crate::scene::{SOON, Scene, executors, noop};
use anyhow::{Result, ensure};
use orchestr8_proto::names;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Twenty seconds at a tenth, and as much again for a loaded machine.
const AGAIN_MAX: Duration = Duration::from_secs(4);

/// Another executor than `holder`, by its place, of two.
const fn other(holder: usize) -> usize {
    1 - holder
}

#[tokio::test]
async fn a_killed_executors_task_runs_again_in_time_and_counts_once() -> Result<()> {
    let mut scene = Scene::start(executors(2)).await?;
    let task = scene.submit(&scene.ledger.gated("go")).await?;
    scene.until_started(&task, 1).await?;
    let holder = scene.holder(&task).await?;
    let pid = scene.ledger.starts_of(&task)?[0].pid;
    let killed = Instant::now();
    scene.installation.executors[holder].kill().await?;
    wait_for("its processes to go with it", SOON, async || Ok((!is_alive(pid)).then_some(()))).await?;
    scene.until_started(&task, 2).await?;
    ensure!(killed.elapsed() < AGAIN_MAX, "it ran again only after {:?}", killed.elapsed());
    scene.ledger.open("go")?;
    let rows = scene.all_completed().await?;
    assert_eq!((rows.len(), rows[0].retry_count), (1, 0), "a loss is not the task's failure: {rows:?}");
    assert_eq!(scene.ledger.starts()?.len(), 2);
    assert_eq!(scene.until(&task, "completed").await?["executor_id"], json!(format!("executor-{}", other(holder))));
    scene.finish().await;
    Ok(())
}

/// Both are dead, and one is back under its name: more than half of three incarnations are silent. But one of these was replaced,
/// so this is no mass silence, for which losses would be held back for a minute.
#[tokio::test]
async fn executors_that_were_replaced_are_not_waited_for_longer_than_a_lease() -> Result<()> {
    let mut scene = Scene::start(InstallationOptions { slots: 1, ..executors(2) }).await?;
    let tasks = [scene.submit(&scene.ledger.gated("go")).await?, scene.submit(&scene.ledger.gated("go")).await?];
    for task in &tasks {
        scene.until_started(task, 1).await?;
    }
    ensure!(scene.holder(&tasks[0]).await? != scene.holder(&tasks[1]).await?, "each executor has one");
    let killed = Instant::now();
    scene.installation.executors[0].kill().await?;
    scene.installation.executors[1].kill().await?;
    scene.installation.executors[0].restart().await?;
    scene.ledger.open("go")?;
    scene.all_completed().await?;
    ensure!(killed.elapsed() < AGAIN_MAX, "they ran again only after {:?}", killed.elapsed());
    for task in &tasks {
        assert_eq!(scene.ledger.starts_of(task)?.len(), 2);
    }
    scene.installation.executors[1].restart().await?;
    let both = async || Ok((scene.api().get("/api/v1/executors").await?["executors"].as_array().map(Vec::len) == Some(4)).then_some(()));
    wait_for("both to be heard, and the dead ones to be shown beside them", SOON, both).await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn an_executor_killed_before_its_claim_loses_nothing() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        tasks.push(scene.submit(&scene.ledger.gated("go")).await?);
    }
    wait_for("a start", SOON, async || Ok((!scene.ledger.starts()?.is_empty()).then_some(()))).await?;
    scene.installation.executors[0].kill().await?;
    scene.installation.executors[0].restart().await?;
    scene.ledger.open("go")?;
    assert_eq!(scene.all_completed().await?.len(), tasks.len());
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_paused_executors_run_is_killed_when_it_comes_back_and_does_not_count() -> Result<()> {
    let scene = Scene::start(executors(2)).await?;
    let task = scene.submit(&scene.ledger.gated("go")).await?;
    scene.until_started(&task, 1).await?;
    let holder = scene.holder(&task).await?;
    let first = scene.ledger.starts_of(&task)?.remove(0);
    scene.installation.executors[holder].pause()?;
    scene.until_started(&task, 2).await?;
    ensure!(is_alive(first.pid), "the paused executor's run goes on meanwhile: at least once");
    scene.installation.executors[holder].resume()?;
    wait_for("the end of the run that lost its lease", SOON, async || Ok((!is_alive(first.pid)).then_some(()))).await?;
    scene.ledger.open("go")?;
    scene.all_completed().await?;
    assert!(scene.ledger.ends()?.iter().all(|end| end.run != first.run));
    assert_eq!(scene.ledger.starts()?.len(), 2);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_paused_executors_finished_run_does_not_count_twice() -> Result<()> {
    let scene = Scene::start(executors(2)).await?;
    let task = scene.submit(&scene.ledger.gated("go")).await?;
    scene.until_started(&task, 1).await?;
    let holder = scene.holder(&task).await?;
    scene.installation.executors[holder].pause()?;
    scene.until_started(&task, 2).await?;
    // Both runs end; the paused executor reports its own late.
    scene.ledger.open("go")?;
    scene.result(&task).await?;
    scene.installation.executors[holder].resume()?;
    let more = scene.submit(&scene.ledger.task()).await?;
    scene.result(&more).await?;
    let confirmed = async || Ok((scene.ledger.ends()?.len() == 3).then_some(()));
    wait_for("both runs and the other task to end", SOON, confirmed).await?;
    scene.all_completed().await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_drained_executor_gives_its_task_back_uncounted() -> Result<()> {
    let mut options = executors(2);
    options.executor_words = ["--drain-timeout", "200ms", "--grace", "1s"].map(str::to_owned).to_vec();
    let mut scene = Scene::start(options).await?;
    let mut task = scene.ledger.gated("go");
    task["max_retries"] = json!(0);
    let task = scene.submit(&task).await?;
    scene.until_started(&task, 1).await?;
    let holder = scene.holder(&task).await?;
    let report = scene.installation.executors[holder].terminate().await?;
    assert_eq!(report.exit_code, Some(0), "an orderly end: {report:?}");
    scene.until_started(&task, 2).await?;
    scene.ledger.open("go")?;
    let rows = scene.all_completed().await?;
    assert_eq!(rows[0].retry_count, 0, "{rows:?}");
    scene.finish().await;
    Ok(())
}

/// What it gives back must not wait for what went wrong a moment before: half of the runs end while there is no stream.
#[tokio::test]
async fn a_drain_right_after_the_loss_of_the_outcome_stream_is_no_slower() -> Result<()> {
    let mut options = InstallationOptions { time_base: Duration::from_secs(1), ..executors(2) };
    options.executor_words = ["--drain-timeout", "1s", "--grace", "1s"].map(str::to_owned).to_vec();
    let mut scene = Scene::start(options).await?;
    let held = scene.submit(&scene.ledger.gated("never")).await?;
    let holder = scene.holder(&held).await?;
    let nats = connect_nats(&scene.installation.nats_url).await?;
    async_nats::jetstream::new(nats).delete_stream(names::OUTCOMES_STREAM).await?;
    let tasks: Vec<Value> = (0..40).map(|number| noop(&json!(number))).collect();
    scene.api().post("/api/v1/tasks", &json!(tasks)).await?;
    let probe = scene.submit(&noop(&json!("probe"))).await?;
    scene.result(&probe).await?;
    let begun = Instant::now();
    scene.installation.executors[holder].terminate().await?;
    println!("terminated after {:?}", begun.elapsed());
    scene.until_started(&held, 2).await?;
    println!("started again after {:?}", begun.elapsed());
    ensure!(begun.elapsed() < Duration::from_secs(5), "it ran again only after {:?}", begun.elapsed());
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_drain_lets_short_tasks_end() -> Result<()> {
    let mut scene = Scene::start(executors(1)).await?;
    let task = scene.submit(&scene.ledger.gated("go")).await?;
    scene.until_started(&task, 1).await?;
    scene.holder(&task).await?;
    let ledger = scene.ledger.clone();
    let executor = &mut scene.installation.executors[0];
    let (report, opened) = tokio::join!(executor.terminate(), async { ledger.open("go") });
    opened?;
    assert_eq!(report?.exit_code, Some(0));
    scene.all_completed().await?;
    assert_eq!(scene.ledger.starts()?.len(), 1);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn at_most_once_never_starts_twice() -> Result<()> {
    let mut scene = Scene::start(executors(2)).await?;
    let mut once = scene.ledger.gated("go");
    once["at_most_once"] = json!(true);
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(scene.submit(&once).await?);
    }
    // One executor has not slots enough for all of them, so each has some.
    for task in &tasks {
        scene.until_started(task, 1).await?;
    }
    scene.installation.executors[0].kill().await?;
    scene.installation.executors[0].restart().await?;
    scene.ledger.open("go")?;
    scene.settled().await?;
    let rows = scene.verified().await?;
    for row in &rows {
        let starts = scene.ledger.starts_of(&row.id)?.len();
        let expected = usize::from(row.status == "completed");
        ensure!(starts <= 1 && starts >= expected, "{starts} starts: {row:?}");
        ensure!(row.status == "completed" || row.status == "failed", "{row:?}");
    }
    let lost: Vec<_> = rows.iter().filter(|row| row.status == "failed").collect();
    ensure!(!lost.is_empty(), "the killed executor ran none of them: {rows:?}");
    let detail = scene.api().get(&format!("/api/v1/tasks/{}", lost[0].id)).await?;
    assert_eq!(detail["error_type"], "lost", "{detail}");
    scene.finish().await;
    Ok(())
}
