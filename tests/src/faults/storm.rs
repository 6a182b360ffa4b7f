//! Faults drawn at random under a steady load; the seed is printed by a failure and can be given again.

use crate::harness::InstallationOptions;
use crate::harness::servers::connect_nats;
use crate::scene::{Scene, coordinator_words, executors, noop, submit_surely};
use anyhow::{Context, Result};
use orchestr8_proto::names;
use serde_json::{Value, json};
use uuid::Uuid;

/// Gives the seed of an earlier failure.
const SEED_VARIABLE: &str = "ORCHESTR8_STORM_SEED";
const ROUNDS: usize = 14;
const TERMINATE: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and application_name like 'orchestr8-%'";

/// The sequence of draws that a seed gives (splitmix64: Steele, Lea, Flood 2014).
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound).unwrap_or(1)).unwrap_or(0)
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    KillExecutor(usize),
    PauseExecutor(usize),
    ResumeExecutor(usize),
    KillCoordinator,
    RestartCoordinator,
    KillNats,
    WipeNats,
    EndSessions,
    Delete(Vanishing),
}

/// What disappears from JetStream.
#[derive(Debug, Clone, Copy)]
enum Vanishing {
    Consumer,
    Stream(&'static str),
}

fn draw(draws: &mut Draws) -> Fault {
    let executor = draws.below(2);
    match draws.below(11) {
        0 => Fault::KillExecutor(executor),
        1 => Fault::PauseExecutor(executor),
        2 => Fault::ResumeExecutor(executor),
        3 => Fault::KillCoordinator,
        4 => Fault::RestartCoordinator,
        5 => Fault::KillNats,
        6 => Fault::WipeNats,
        7 => Fault::Delete(Vanishing::Consumer),
        8 => Fault::Delete(Vanishing::Stream(names::TASKS_STREAM)),
        9 => Fault::Delete(Vanishing::Stream(names::OUTCOMES_STREAM)),
        _ => Fault::EndSessions,
    }
}

async fn strike(scene: &mut Scene, fault: Fault) -> Result<()> {
    match fault {
        Fault::KillExecutor(number) => {
            scene.installation.executors[number].kill().await?;
            scene.installation.executors[number].restart().await
        }
        Fault::PauseExecutor(number) => scene.installation.executors[number].pause(),
        Fault::ResumeExecutor(number) => scene.installation.executors[number].resume(),
        Fault::KillCoordinator => {
            scene.installation.coordinators[0].kill().await?;
            scene.installation.coordinators[0].restart().await
        }
        Fault::RestartCoordinator => scene.installation.coordinators[0].restart().await,
        Fault::KillNats => {
            scene.installation.nats("kill nats").await?;
            scene.installation.nats("start nats").await
        }
        Fault::WipeNats => {
            scene.installation.nats("wipe nats").await?;
            scene.installation.nats("start nats").await
        }
        Fault::EndSessions => scene.number(TERMINATE).await.map(drop),
        Fault::Delete(vanishing) => delete(scene, vanishing).await,
    }
}

/// What is missing already, from the round before, is deleted.
async fn delete(scene: &Scene, vanishing: Vanishing) -> Result<()> {
    let jetstream = async_nats::jetstream::new(connect_nats(&scene.installation.nats_url).await?);
    match vanishing {
        Vanishing::Consumer => jetstream.delete_consumer_from_stream("default-normal", names::TASKS_STREAM).await.is_ok(),
        Vanishing::Stream(name) => jetstream.delete_stream(name).await.is_ok(),
    };
    Ok(())
}

/// Short ones, recorded ones, and a workflow whose parts follow each other; the number of tasks.
async fn load(scene: &Scene, round: usize) -> Result<usize> {
    let batch: Vec<Value> =
        (0..10).map(|number| if number % 2 == 0 { scene.ledger.task() } else { noop(&json!([round, number])) }).collect();
    submit_surely(scene.api(), "/api/v1/tasks", &json!(batch)).await?;
    let tasks = json!([
        scene.ledger.named("a", "", &json!({})),
        scene.ledger.named("b", &format!("round-{}", round + 2), &json!({"needs": ["a"]})),
        {"name": "c", "sleep": "200ms", "needs": ["a"]},
        scene.ledger.named("d", "", &json!({"needs": ["b", "c"]})),
    ]);
    submit_surely(scene.api(), "/api/v1/workflows", &json!({"definition": {"name": "storm", "tasks": tasks}})).await?;
    scene.ledger.open(&format!("round-{round}"))?;
    Ok(14)
}

async fn weather(options: InstallationOptions) -> Result<()> {
    let given = std::env::var(SEED_VARIABLE).ok().map(|seed| seed.parse()).transpose().context(SEED_VARIABLE)?;
    let seed: u64 = given.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0);
    let mut scene = Scene::start(options).await?;
    let mut struck = Vec::new();
    let tasks = rounds(&mut scene, seed, &mut struck).await.with_context(|| format!("seed {seed}, after {struck:?}"))?;
    let rows = scene.all_completed().await.with_context(|| format!("seed {seed}, after {struck:?}"))?;
    assert_eq!(rows.len(), tasks, "seed {seed}, after {struck:?}");
    scene.finish().await;
    Ok(())
}

/// Loads and strikes in turn; how many tasks there must be.
async fn rounds(scene: &mut Scene, seed: u64, struck: &mut Vec<Fault>) -> Result<usize> {
    let mut draws = Draws(seed);
    let mut tasks = 0;
    for round in 0..ROUNDS {
        tasks += load(scene, round).await?;
        let fault = draw(&mut draws);
        struck.push(fault);
        strike(scene, fault).await?;
    }
    for executor in &scene.installation.executors {
        executor.resume()?;
    }
    for round in ROUNDS..ROUNDS + 2 {
        scene.ledger.open(&format!("round-{round}"))?;
    }
    Ok(tasks)
}

#[tokio::test]
async fn whatever_strikes_nothing_is_lost_and_everything_counts_once() -> Result<()> {
    weather(executors(2)).await
}

#[tokio::test]
async fn whatever_strikes_without_a_cache_and_with_little_room() -> Result<()> {
    let words = ["--cache-bytes", "0", "--subject-messages-max", "8"];
    weather(InstallationOptions { executors: 2, ..coordinator_words(&words) }).await
}
