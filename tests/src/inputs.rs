//! Inputs that are too large for a message: what joins the outputs of many tasks, what is too much, and who may ask for them.

use crate::harness::servers::connect_nats;
use crate::harness::{InstallationOptions, wait_for};
use crate::scene::{SOON, Scene, coordinator_words, executors, text};
use anyhow::{Context, Result};
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use orchestr8_proto::ids::{DispatchId, RunId, TaskId};
use orchestr8_proto::names;
use orchestr8_proto::reference::PART_BYTES;
use orchestr8_proto::wire::{self, ClaimBatch, Control, InputsAsk, InputsPart, SCHEMA_VERSION};
use serde_json::{Value, json};
use std::time::Duration;

/// Bytes of one upstream's output: most of what one may have.
const OUTPUT_BYTES: usize = 200_000;
/// Upstreams of a gather: 3 MB.
const SOURCES: usize = 15;

/// So many tasks, and the list of all their outputs.
fn sources(count: usize) -> (Vec<Value>, Value) {
    let names: Vec<String> = (0..count).map(|number| format!("s{number:02}")).collect();
    let script =
        |name: &str| format!(r#"{{ printf '"{name}'; head -c {OUTPUT_BYTES} /dev/zero | tr '\0' x; printf '"'; }} > "$ORCHESTR8_OUTPUT""#);
    let tasks = names.iter().map(|name| json!({"name": name, "run": script(name)})).collect();
    (tasks, names.iter().map(|name| json!(format!("${{{{ tasks.{name}.output }}}}"))).collect())
}

/// Says how much of it there is in the file of its inputs.
fn counting(all: &Value, needs: &Value) -> Value {
    let script = r#"x=$(tr -cd x < "$ORCHESTR8_INPUT" | wc -c); names=$(tr -d x < "$ORCHESTR8_INPUT" | grep -o 's[0-9][0-9]' | sort -u | wc -l)
printf '{"x": %s, "names": %s, "variable": "%s"}' "$x" "$names" "${WITH_ALL-none}" > "$ORCHESTR8_OUTPUT""#;
    json!({"name": "join", "needs": needs, "run": script, "with": {"all": all}, "large_values": "file"})
}

fn names_of(tasks: &[Value]) -> Value {
    tasks.iter().map(|task| task["name"].clone()).collect()
}

#[tokio::test]
async fn a_gather_of_several_megabytes_sees_all_of_them_as_a_file_and_as_a_handler() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let (mut tasks, all) = sources(SOURCES);
    let needs = names_of(&tasks);
    tasks.push(counting(&all, &needs));
    tasks.push(json!({"name": "handled", "needs": needs, "handler": "noop", "with": {"all": all, "output": "seen"}}));
    // What it returns is too large as an output: it had all of it.
    tasks.push(json!({"name": "returned", "needs": needs, "handler": "noop", "with": {"output": all}, "retry": 1}));
    let id = scene.submit_workflow(&json!({"definition": {"name": "gather", "tasks": tasks}})).await?;
    scene.workflow(&id).await?;
    let result = async |name: &str| scene.result(&text(&scene.task_of(&id, name).await?, "task_id")?).await;
    let joined = result("join").await?;
    assert_eq!(joined["result"], json!({"x": SOURCES * OUTPUT_BYTES, "names": SOURCES, "variable": "none"}), "{joined}");
    assert_eq!(result("handled").await?["result"], "seen");
    let returned = result("returned").await?.to_string();
    assert!(returned.contains("output_too_large"), "{returned}");
    assert_eq!(scene.task_of(&id, "join").await?["attempts"], 1);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn inputs_beyond_the_bound_fail_their_task_by_name() -> Result<()> {
    let scene = Scene::start(coordinator_words(&["--inputs-bytes-max", "700000"])).await?;
    for (count, fits) in [(3, true), (4, false)] {
        let (mut tasks, all) = sources(count);
        tasks.push(counting(&all, &names_of(&tasks)));
        let id = scene.submit_workflow(&json!({"definition": {"name": "gather", "tasks": tasks}})).await?;
        scene.workflow(&id).await?;
        let joined = scene.result(&text(&scene.task_of(&id, "join").await?, "task_id")?).await?;
        assert_eq!(joined["status"], if fits { "completed" } else { "failed" }, "{joined}");
        let told = joined.to_string();
        assert!(fits || ["too_large", "700000 bytes", "--inputs-bytes-max"].iter().all(|word| told.contains(word)), "{told}");
    }
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_wiped_store_and_a_coordinator_that_forgot_everything_make_the_same_inputs_again() -> Result<()> {
    let mut scene = Scene::start(executors(0)).await?;
    let task = referring(&scene, "");
    scene.submit_workflow(&task).await?;
    let queued = async || Ok((scene.number("select count(*) from task_executions where status = 'queued'").await? == 1).then_some(()));
    wait_for("the task to be queued", SOON, queued).await?;
    scene.installation.nats("wipe nats").await?;
    scene.installation.nats("start nats").await?;
    scene.installation.coordinators[0].restart().await?;
    scene.installation.wait_ready(0).await?;
    scene.installation.add_executor().await?;
    assert_eq!(scene.all_completed().await?[0].attempt, 1, "the dispatch that was wiped is the one that ran");
    scene.finish().await;
    Ok(())
}

/// The binary must be built with the feature `kill-points`, as `make test` does.
#[tokio::test]
async fn the_next_owner_serves_what_a_killed_coordinator_had_not() -> Result<()> {
    // A run is given back after sixty bases without a part: far above a takeover, also on a loaded machine.
    let time_base = Duration::from_millis(300);
    let options = InstallationOptions { time_base, ..coordinator_words(&["--shard-count", "1"]) };
    let mut scene = Scene::start(options).await?;
    let first = &mut scene.installation.coordinators[0];
    first.set_environment("ORCHESTR8_KILL_POINT", "after_fence_before_inputs_part:2");
    first.restart().await?;
    scene.installation.wait_ready(0).await?;
    let owns = async || Ok((scene.shards_of(0).await? == 1).then_some(()));
    wait_for("the first coordinator to own the shard", SOON, owns).await?;
    scene.installation.add_coordinator().await?;
    let mut tap = Tap::on(&scene).await?;
    scene.submit_workflow(&referring(&scene, "")).await?;
    tokio::time::timeout(SOON, scene.installation.coordinators[0].ended()).await.context("the point was never passed")??;
    let mut offsets = Vec::new();
    while offsets.last() != Some(&(2 * PART_BYTES as u64)) {
        offsets.push(tap.part().await?.1.offset);
    }
    offsets.dedup();
    assert_eq!(offsets, [0, PART_BYTES as u64, 2 * PART_BYTES as u64], "the next owner goes on where the first one ended");
    let rows = scene.all_completed().await?;
    assert_eq!((rows[0].attempt, scene.ledger.starts()?.len()), (1, 1));
    let given_back = "select count(*) from workflow_events where events::text like '%task.retrying%'";
    assert_eq!(scene.number(given_back).await?, 0);
    scene.finish().await;
    Ok(())
}

/// A workflow of one task whose inputs have three parts.
fn referring(scene: &Scene, gate: &str) -> Value {
    let value = "${{ input.value }}";
    let task = scene.ledger.named("large", gate, &json!({"with": {"one": value, "two": value}, "large_values": "file"}));
    json!({"definition": {"name": "large", "tasks": [task]}, "input": {"value": "v".repeat(PART_BYTES)}})
}

/// Everything that is said between executors and coordinators of one installation without logins.
struct Tap {
    nats: Client,
    claims: Subscriber,
    control: Subscriber,
}

impl Tap {
    async fn on(scene: &Scene) -> Result<Self> {
        let nats = connect_nats(&scene.installation.nats_url).await?;
        let claims = nats.subscribe(names::CLAIM_SUBJECTS).await?;
        let control = nats.subscribe(names::CONTROL_SUBJECTS).await?;
        nats.flush().await?;
        Ok(Self { nats, claims, control })
    }

    /// The next ask of an executor.
    async fn ask(&mut self) -> Result<InputsAsk> {
        loop {
            let message = tokio::time::timeout(SOON, self.claims.next()).await?.context("a claim")?;
            if let Some(ask) = wire::decode::<ClaimBatch>(message.payload)?.inputs.pop() {
                return Ok(ask);
            }
        }
    }

    /// The next part, and where it went.
    async fn part(&mut self) -> Result<(String, InputsPart)> {
        loop {
            let message = tokio::time::timeout(SOON, self.control.next()).await?.context("a control message")?;
            if let Some(part) = wire::decode::<Control>(message.payload)?.inputs {
                return Ok((message.subject.to_string(), part));
            }
        }
    }

    /// Asks as somebody else than the holder.
    async fn say(&self, shard: u16, inputs: Vec<InputsAsk>) -> Result<()> {
        let stranger = orchestr8_proto::ids::Incarnation::random().to_bytes();
        let batch = ClaimBatch {
            schema_version: SCHEMA_VERSION,
            incarnation: stranger,
            executor: "stranger".into(),
            inputs,
            ..ClaimBatch::default()
        };
        Ok(self.nats.publish(names::claim_subject(shard), wire::encode(&batch)?).await?)
    }
}

/// Asks that nobody may be answered.
fn foreign(ask: &InputsAsk, task: TaskId) -> Vec<InputsAsk> {
    let other_task = task.execution().task(7);
    vec![
        InputsAsk { outcome_token: Bytes::from_static(&[1; 17]), ..ask.clone() },
        InputsAsk { outcome_token: Bytes::new(), ..ask.clone() },
        InputsAsk { run_id: RunId::random().to_bytes(), ..ask.clone() },
        InputsAsk { run_id: Bytes::new(), ..ask.clone() },
        InputsAsk { dispatch_id: DispatchId::random().to_bytes(), ..ask.clone() },
        InputsAsk { task_id: other_task.to_bytes(), ..ask.clone() },
        InputsAsk { task_id: Bytes::from_static(b"none"), ..ask.clone() },
        InputsAsk::default(),
    ]
}

#[tokio::test]
async fn inputs_go_to_the_holder_alone_whoever_asks_however_often() -> Result<()> {
    /// Messages of a flood, and asks in each.
    const FLOOD: (usize, usize) = (20, 3_000);
    let scene = Scene::start(executors(1)).await?;
    let mut tap = Tap::on(&scene).await?;
    let id = scene.submit_workflow(&referring(&scene, "go")).await?;
    let ask = tap.ask().await?;
    let task = TaskId::try_from(ask.task_id.as_ref())?;
    let shard = task.shard();
    let (holder, first) = tap.part().await?;
    assert_eq!((first.offset, first.part.len()), (0, PART_BYTES));
    scene.until_started(&text(&scene.task_of(&id, "large").await?, "task_id")?, 1).await?;
    // What is asked rightly is answered in its turn, and to the holder whoever asks: so nothing was answered between the two.
    let last = InputsAsk { offset: 2 * PART_BYTES as u64, ..ask.clone() };
    let marker = InputsAsk { offset: PART_BYTES as u64, ..ask.clone() };
    tap.say(shard, vec![last.clone()]).await?;
    while tap.part().await?.1.offset != last.offset {}
    tap.say(shard, foreign(&ask, task)).await?;
    tap.say(shard, vec![marker.clone()]).await?;
    let (subject, part) = tap.part().await?;
    assert_eq!((&subject, &part.run_id, part.offset), (&holder, &ask.run_id, marker.offset));
    for _ in 0..FLOOD.0 {
        tap.say(shard, vec![ask.clone(); FLOOD.1]).await?;
    }
    tap.say(shard, vec![marker.clone()]).await?;
    let mut served = 0;
    while tap.part().await?.1.offset != marker.offset {
        served += 1;
    }
    assert!(served <= FLOOD.0, "{served} parts for {} messages", FLOOD.0);
    scene.ledger.open("go")?;
    scene.all_completed().await?;
    // It holds nothing any more.
    tap.say(shard, vec![marker]).await?;
    scene.submit_workflow(&referring(&scene, "")).await?;
    assert_ne!(tap.part().await?.1.run_id, ask.run_id);
    scene.all_completed().await?;
    scene.finish().await;
    Ok(())
}
