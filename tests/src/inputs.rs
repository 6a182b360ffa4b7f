//! Inputs that are too large for a message: what joins the outputs of many tasks, what is too much, and who may ask for them.
//!
//! - `reading`: what is read to make them
//! - `faults`: what happens in the middle of a fetch

mod faults;
mod reading;

use crate::harness::servers::connect_nats;
use crate::harness::{InstallationOptions, wait_for};
use crate::scene::{SOON, Scene, coordinator_words, executors, noop, text};
use anyhow::{Context, Result};
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use orchestr8_proto::ids::{DispatchId, Incarnation, RunId, TaskId};
use orchestr8_proto::names;
use orchestr8_proto::reference::PART_BYTES;
use orchestr8_proto::wire::{self, ClaimBatch, Control, InputsAsk, InputsPart, SCHEMA_VERSION};
use serde_json::{Value, json};
use std::str::FromStr;
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
    let with = json!({"numbers": "${{ input.numbers }}", "one": value, "text": "${{ input.numbers }}!", "two": value});
    let task = scene.ledger.named("large", gate, &json!({"with": with, "large_values": "file"}));
    // Numbers that Postgres writes in another way than they come.
    json!({"definition": {"name": "large", "tasks": [task]}, "input": {"value": "v".repeat(PART_BYTES), "numbers": [1e16, -0.0, 2.5e19, 1.5e-7]}})
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

    /// All parts that have come once a task has passed through all hands: what was said before it is answered by then.
    async fn parts(&mut self, scene: &Scene) -> Result<Vec<(String, InputsPart)>> {
        scene.result(&scene.submit(&noop(&Value::Null)).await?).await?;
        let end = names::control_subject(Incarnation::random());
        self.nats.publish(end.clone(), wire::encode(&Control { schema_version: SCHEMA_VERSION, ..Control::default() })?).await?;
        let mut parts = Vec::new();
        loop {
            let message = tokio::time::timeout(SOON, self.control.next()).await?.context("a control message")?;
            if message.subject.as_str() == end {
                return Ok(parts);
            }
            parts.extend(wire::decode::<Control>(message.payload)?.inputs.map(|part| (message.subject.to_string(), part)));
        }
    }

    /// Asks as somebody else than the holder, in an installation of one shard.
    async fn say(&self, inputs: Vec<InputsAsk>) -> Result<()> {
        let stranger = Incarnation::random().to_bytes();
        let batch = ClaimBatch {
            schema_version: SCHEMA_VERSION,
            incarnation: stranger,
            executor: "stranger".into(),
            inputs,
            ..ClaimBatch::default()
        };
        self.nats.publish(names::claim_subject(0), wire::encode(&batch)?).await?;
        Ok(self.nats.flush().await?)
    }
}

/// Asks that nobody may be answered; `other` is one of another run of the same executor.
fn foreign(ask: &InputsAsk, other: &InputsAsk) -> Result<Vec<InputsAsk>> {
    let other_task = TaskId::try_from(ask.task_id.as_ref())?.execution().task(7);
    Ok(vec![
        InputsAsk { outcome_token: Bytes::from_static(&[1; 17]), ..ask.clone() },
        InputsAsk { outcome_token: Bytes::new(), ..ask.clone() },
        InputsAsk { outcome_token: other.outcome_token.clone(), ..ask.clone() },
        InputsAsk { run_id: RunId::random().to_bytes(), ..ask.clone() },
        InputsAsk { run_id: Bytes::new(), ..ask.clone() },
        InputsAsk { run_id: other.run_id.clone(), ..ask.clone() },
        InputsAsk { dispatch_id: DispatchId::random().to_bytes(), ..ask.clone() },
        InputsAsk { task_id: other_task.to_bytes(), ..ask.clone() },
        InputsAsk { task_id: Bytes::from_static(b"none"), ..ask.clone() },
        InputsAsk { offset: 1, ..ask.clone() },
        InputsAsk { offset: 3 * PART_BYTES as u64, ..ask.clone() },
        InputsAsk { offset: u64::MAX, ..ask.clone() },
        InputsAsk::default(),
    ])
}

/// A run that has its inputs and goes on until the gate opens; its first ask.
async fn holding(scene: &Scene, tap: &mut Tap) -> Result<InputsAsk> {
    let id = scene.submit_workflow(&referring(scene, "go")).await?;
    let task = text(&scene.task_of(&id, "large").await?, "task_id")?;
    scene.until_started(&task, 1).await?;
    let wanted = TaskId::from_str(&task)?.to_bytes();
    loop {
        let ask = tap.ask().await?;
        if ask.task_id == wanted {
            return Ok(ask);
        }
    }
}

#[tokio::test]
async fn inputs_go_to_the_holder_alone_whoever_asks_however_often() -> Result<()> {
    /// Messages of a flood, and asks in each.
    const FLOOD: (usize, usize) = (20, 3_000);
    let scene = Scene::start(coordinator_words(&["--shard-count", "1"])).await?;
    let mut tap = Tap::on(&scene).await?;
    let (ask, other) = (holding(&scene, &mut tap).await?, holding(&scene, &mut tap).await?);
    let fetched = tap.parts(&scene).await?;
    let (holder, _) = fetched.first().context("it was fetched")?;
    assert_eq!(fetched.iter().map(|(_, part)| part.offset / PART_BYTES as u64).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    // One after the other: of several asks of one run the newest counts.
    for strange in foreign(&ask, &other)? {
        tap.say(vec![strange.clone()]).await?;
        assert_eq!(tap.parts(&scene).await?, [], "{strange:?}");
    }
    tap.say(vec![ask.clone()]).await?;
    let (subject, part) = tap.part().await?;
    assert_eq!((&subject, &part.run_id, part.offset, part.part.len()), (holder, &ask.run_id, 0, PART_BYTES));
    for _ in 0..FLOOD.0 {
        tap.say(vec![ask.clone(); FLOOD.1]).await?;
    }
    let served = tap.parts(&scene).await?.len();
    assert!((1..=FLOOD.0).contains(&served), "{served} parts for {} messages", FLOOD.0);
    scene.ledger.open("go")?;
    scene.all_completed().await?;
    // What was still to be said of the flood.
    tap.parts(&scene).await?;
    tap.say(vec![ask]).await?;
    assert_eq!(tap.parts(&scene).await?, [], "it holds nothing any more");
    scene.finish().await;
    Ok(())
}
