//! At every named hop: kill the process there, or stop it there for longer than its lease and let it go on. The ledger shows
//! that nothing was lost, all counted once, and nothing that may start at most once started twice.
//!
//! The binary must be built with the feature `kill-points`, as `make test` does.

use crate::harness::servers::is_alive;
use crate::harness::{Api, InstallationOptions, Process, wait_for};
use crate::scene::{SOON, Scene, TaskRow, coordinator_words, executors, text};
use anyhow::{Context, Result, ensure};
use orchestr8_proto::reference::PART_BYTES;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;
use uuid::Uuid;

const VARIABLE: &str = "ORCHESTR8_KILL_POINT";
/// Tasks of a batch; there are two batches, one of them of tasks that may start at most once.
const BATCH: usize = 4;
/// All tasks of a load: the batches and the workflow's five.
const LOAD: usize = 2 * BATCH + 5;
/// A caller waits so long for an answer before it asks the next coordinator.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Shards that somebody owns.
const LEASES: &str = "select count(*) from shards where expires_at > clock_timestamp()";
/// Cuts every lane's connection to the database: each is in doubt.
const CUT: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and application_name = 'orchestr8-lane'";

/// Who plays, and which of them has the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cast {
    /// One coordinator, which has it.
    Alone,
    /// The first of two coordinators has it; the second joins when the first owns everything.
    Pair,
    /// As a pair, and the connections to the database are cut.
    Doubted,
    /// Of two coordinators one owns the only shard, and the other, which has the point, sends it everything.
    Sender,
    /// The same, and the owner has the point.
    Owner,
    /// One coordinator; the first executor has it, a second one comes when the first stands still.
    Executor,
}

/// One hop.
#[derive(Debug, Clone, Copy)]
struct Case {
    cast: Cast,
    point: &'static str,
    /// Which pass of the point, from 1.
    pass: u32,
}

/// What is submitted: a batch, a batch of tasks that start at most once, and a workflow; each with a key, at whoever answers.
struct Load {
    apis: Vec<Api>,
    batch: Value,
    once: Value,
    flow: Value,
}

impl Case {
    /// Both, side by side: they mostly wait.
    async fn survived(self) -> Result<()> {
        let (killed, stopped) = tokio::join!(Box::pin(self.killed()), Box::pin(self.stopped()));
        killed.context("the process was killed")?;
        stopped.context("the process was stopped and went on")
    }

    /// The process dies at the point. Where there are others they do all the work; else it is started again.
    async fn killed(self) -> Result<()> {
        let mut scene = self.start("").await?;
        let load = self.load(&scene);
        let (submitted, died) = tokio::join!(load.submit(), self.dies(&mut scene));
        died?;
        self.check(&scene, LOAD, &submitted?).await?;
        scene.finish().await;
        Ok(())
    }

    /// The process stands still at the point for longer than its lease. Where there are others they do all the work meanwhile.
    async fn stopped(self) -> Result<()> {
        let mut scene = self.start(":stop").await?;
        let load = self.load(&scene);
        let (submitted, stopped) = tokio::join!(load.submit(), self.stands_still(&mut scene));
        stopped?;
        let mut once = submitted?;
        let pid = self.process(&mut scene).pid();
        if self.cast != Cast::Alone {
            scene.settled().await?;
            ensure!(stands_still(pid)?, "the others did the work meanwhile");
            self.process(&mut scene).resume()?;
        }
        wait_for("it to go on", SOON, async || Ok((!stands_still(pid)?).then_some(()))).await?;
        once.extend(self.load(&scene).submit().await?);
        self.check(&scene, 2 * LOAD, &once).await?;
        scene.finish().await;
        Ok(())
    }

    /// Starts the cast; the process that has the point is started with it, and may be at it already.
    async fn start(self, how: &str) -> Result<Scene> {
        let options = match self.cast {
            Cast::Alone | Cast::Pair | Cast::Doubted | Cast::Executor => executors(1),
            Cast::Sender => InstallationOptions { coordinators: 2, ..coordinator_words(&["--shard-count", "1"]) },
            Cast::Owner => coordinator_words(&["--shard-count", "1"]),
        };
        let mut scene = Scene::start(options).await?;
        let process = self.process(&mut scene);
        process.set_environment(VARIABLE, &format!("{}:{}{how}", self.point, self.pass));
        process.restart().await?;
        self.until_up_or_there(&mut scene).await?;
        match self.cast {
            Cast::Alone | Cast::Executor | Cast::Sender => {}
            Cast::Pair | Cast::Doubted => drop(scene.installation.add_coordinator().await?),
            // Callers must reach the one that sends it everything.
            Cast::Owner => {
                let sender = scene.installation.add_coordinator().await?;
                scene.installation.wait_ready(sender).await?;
            }
        }
        Ok(scene)
    }

    /// A coordinator that is alone has taken all shards by then: who joins gets some of them, and callers are heard.
    async fn until_up_or_there(self, scene: &mut Scene) -> Result<()> {
        let pid = self.process(scene).pid();
        let api = match self.cast {
            Cast::Executor => return Ok(()),
            Cast::Sender => scene.installation.api_of(1),
            Cast::Alone | Cast::Pair | Cast::Doubted | Cast::Owner => scene.api().clone(),
        };
        let look = async || {
            let there = !is_alive(pid) || stands_still(pid)?;
            let ready = there || tokio::time::timeout(ANSWER_MAX, api.is_ready()).await.unwrap_or(false);
            let taken = there || self.cast == Cast::Sender || scene.shards_of(0).await? > 0;
            Ok((ready && taken).then_some(()))
        };
        wait_for("the process to be up, or at its point", SOON, look).await
    }

    /// Callers ask the one with the point first, except for the owner of the only shard: it gets everything through its inbox.
    fn load(self, scene: &Scene) -> Load {
        let apis = match self.cast {
            Cast::Alone | Cast::Executor => vec![0],
            Cast::Pair | Cast::Doubted => vec![0, 1],
            Cast::Sender | Cast::Owner => vec![1, 0],
        };
        let once = |mut task: Value| {
            task["at_most_once"] = json!(true);
            task
        };
        Load {
            apis: apis.into_iter().map(|coordinator| scene.installation.api_of(coordinator)).collect(),
            batch: (0..BATCH).map(|_| scene.ledger.task()).collect(),
            once: (0..BATCH).map(|_| once(scene.ledger.task())).collect(),
            flow: workflow(scene, &self.first()),
        }
    }

    /// More keys of the workflow's first task: at the points of inputs these are fetched, in four parts.
    fn first(self) -> Value {
        if self.point.contains("inputs_part") {
            let values = json!({"one": "${{ input.value }}", "two": "${{ input.value }}", "three": "${{ input.value }}"});
            json!({"with": values, "large_values": "file"})
        } else {
            json!({})
        }
    }

    async fn dies(self, scene: &mut Scene) -> Result<()> {
        self.provoke(scene).await?;
        let ending = tokio::time::timeout(SOON, self.process(scene).ended()).await;
        let report = ending.with_context(|| format!("{} was never passed", self.point))??;
        ensure!(report.signal.is_some(), "it did not die at {}: {report:?}", self.point);
        scene.ledger.open("long")?;
        match self.cast {
            Cast::Alone | Cast::Executor => {
                let process = self.process(scene);
                process.set_environment(VARIABLE, "");
                process.restart().await
            }
            Cast::Pair | Cast::Doubted | Cast::Sender | Cast::Owner => Ok(()),
        }
    }

    async fn stands_still(self, scene: &mut Scene) -> Result<()> {
        self.provoke(scene).await?;
        let pid = self.process(scene).pid();
        let still = async || Ok(stands_still(pid)?.then_some(()));
        wait_for("the process to stop", SOON, still).await.with_context(|| format!("{} was never passed", self.point))?;
        scene.ledger.open("long")?;
        match self.cast {
            // Nobody else can answer the callers.
            Cast::Alone => {
                let run_out = async || Ok((scene.number(LEASES).await? == 0).then_some(()));
                wait_for("its leases to run out", SOON, run_out).await?;
                self.process(scene).resume()
            }
            Cast::Executor => scene.installation.add_executor().await.map(drop),
            Cast::Pair | Cast::Doubted | Cast::Sender | Cast::Owner => Ok(()),
        }
    }

    async fn provoke(self, scene: &Scene) -> Result<()> {
        match self.cast {
            Cast::Doubted => {
                let owns_some = async || Ok((scene.shards_of(0).await? > 0).then_some(()));
                wait_for("the first coordinator to own shards", SOON, owns_some).await?;
                ensure!(scene.number(CUT).await? > 0, "there was nothing to cut");
                Ok(())
            }
            Cast::Alone | Cast::Pair | Cast::Sender | Cast::Owner | Cast::Executor => Ok(()),
        }
    }

    fn process(self, scene: &mut Scene) -> &mut Process {
        match self.cast {
            Cast::Alone | Cast::Pair | Cast::Doubted | Cast::Owner => &mut scene.installation.coordinators[0],
            Cast::Sender => &mut scene.installation.coordinators[1],
            Cast::Executor => &mut scene.installation.executors[0],
        }
    }

    /// All of them ended; all completed, but that what may start at most once may be lost with its executor.
    async fn check(self, scene: &Scene, tasks: usize, once: &HashSet<String>) -> Result<()> {
        scene.settled().await?;
        let rows = scene.verified().await?;
        ensure!(rows.len() == tasks, "{} tasks are stored, {tasks} were submitted", rows.len());
        let may_be_lost = |row: &TaskRow| self.cast == Cast::Executor && row.status == "failed" && once.contains(&row.id);
        let others: Vec<&TaskRow> = rows.iter().filter(|row| row.status != "completed" && !may_be_lost(row)).collect();
        ensure!(others.is_empty(), "these did not complete: {others:?}");
        for task in once {
            let starts = scene.ledger.starts_of(task)?;
            ensure!(starts.len() <= 1, "it may start at most once: {starts:?}");
        }
        Ok(())
    }
}

impl Load {
    /// The tasks that may start at most once.
    async fn submit(self) -> Result<HashSet<String>> {
        let batch = self.submit_anywhere("/api/v1/tasks", &self.batch);
        let once = self.submit_anywhere("/api/v1/tasks", &self.once);
        let flow = self.submit_anywhere("/api/v1/workflows", &self.flow);
        let (_, once, _) = tokio::try_join!(batch, once, flow)?;
        once.as_array().with_context(|| format!("no array: {once}"))?.iter().map(|answer| text(answer, "task_id")).collect()
    }

    /// With one key, at one coordinator after the other, until one accepts it.
    async fn submit_anywhere(&self, path: &str, body: &Value) -> Result<Value> {
        let key = Uuid::new_v4().to_string();
        let mut next = self.apis.iter().cycle();
        let send = async || {
            let api = next.next().context("no coordinator")?;
            let request = api.request(Method::POST, path).timeout(ANSWER_MAX).header("idempotency-key", &key).json(body);
            let (status, answer) = api.answer(request).await?;
            ensure!(status == StatusCode::ACCEPTED, "{status}: {answer}");
            Ok(Some(answer))
        };
        wait_for("a submission to be accepted", SOON, send).await
    }
}

/// A chain with a fan-out, and one task that is long enough to be claimed.
fn workflow(scene: &Scene, first: &Value) -> Value {
    let needs = |names: &[&str]| json!({"needs": names});
    let tasks = json!([
        scene.ledger.named("first", "", first),
        scene.ledger.named("left", "", &needs(&["first"])),
        scene.ledger.named("right", "long", &needs(&["first"])),
        {"name": "pause", "sleep": "100ms", "needs": ["left"]},
        scene.ledger.named("last", "", &needs(&["pause", "right"])),
    ]);
    let input = if *first == json!({}) { json!({}) } else { json!({"value": "v".repeat(PART_BYTES)}) };
    json!({"definition": {"name": "points", "tasks": tasks}, "input": input})
}

/// Whether the process is stopped by a signal.
fn stands_still(pid: i32) -> Result<bool> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T')))
}

/// The matrix: for every cast its points, each at the given pass.
macro_rules! matrix {
    ($($group:ident: $cast:ident { $($test:ident: $point:literal $pass:literal),+ $(,)? })+) => {
        $(mod $group {
            use crate::faults::kill_points::{Case, Cast};
            use anyhow::Result;

            $(#[tokio::test]
            async fn $test() -> Result<()> {
                Case { cast: Cast::$cast, point: $point, pass: $pass }.survived().await
            })+
        })+
    };
}

matrix! {
    coordinator: Alone {
        before_a_commit: "before_commit" 1,
        before_a_later_commit: "before_commit" 4,
        between_reserve_and_commit: "after_reserve_before_commit" 1,
        between_outcomes_and_commit: "after_outcomes_read_before_commit" 1,
        between_commit_and_publish: "after_commit_before_publish" 1,
        between_a_later_commit_and_publish: "after_commit_before_publish" 4,
        between_two_publishes: "between_two_publishes" 1,
        between_commit_and_confirm: "after_commit_before_confirm" 1,
        before_its_position_is_saved: "after_commit_before_position_saved" 12,
        between_take_and_restore: "after_take_before_restore" 1,
        before_the_first_part_of_inputs: "after_fence_before_inputs_part" 1,
        between_two_parts_of_inputs: "after_fence_before_inputs_part" 3,
    }
    two_coordinators: Pair {
        before_a_commit: "before_commit" 1,
        before_a_later_commit: "before_commit" 4,
        between_reserve_and_commit: "after_reserve_before_commit" 1,
        between_outcomes_and_commit: "after_outcomes_read_before_commit" 1,
        between_commit_and_publish: "after_commit_before_publish" 1,
        between_a_later_commit_and_publish: "after_commit_before_publish" 4,
        between_two_publishes: "between_two_publishes" 1,
        between_commit_and_confirm: "after_commit_before_confirm" 1,
        before_its_position_is_saved: "after_commit_before_position_saved" 12,
        between_take_and_restore: "after_take_before_restore" 1,
        between_save_and_hand_over: "after_save_before_hand_over" 1,
        between_hand_over_and_forget: "after_hand_over_before_forget" 1,
    }
    coordinator_in_doubt: Doubted {
        between_retake_and_restore: "after_retake_before_restore" 1,
    }
    sender_of_mail: Sender {
        between_mail_and_nudge: "after_mail_before_nudge" 1,
    }
    receiver_of_mail: Owner {
        between_inbox_and_commit: "after_inbox_read_before_commit" 1,
        between_two_parts_of_inputs: "after_fence_before_inputs_part" 3,
    }
    executor: Executor {
        between_fetch_and_start: "after_fetch_before_start" 1,
        between_start_and_claim: "after_start_before_claim" 1,
        between_grant_and_ack: "after_grant_before_double_ack" 1,
        between_two_parts_of_inputs: "after_inputs_part_before_next" 2,
        between_run_and_outcome: "after_run_before_outcome" 1,
        between_outcome_and_ack: "after_outcome_before_ack" 1,
        between_confirm_and_forget: "after_confirm_before_forget" 1,
    }
}
