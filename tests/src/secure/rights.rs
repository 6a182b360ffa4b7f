//! What an executor that was taken over can do: nothing beyond its queues, not even by letting the server speak for it.

use super::server::{Certificates, SecureNats, log_in, refused};
use crate::harness::{InstallationOptions, wait_for};
use crate::scene::{SOON, Scene};
use anyhow::{Context, Result, ensure};
use async_nats::{Client, Message};
use bytes::Bytes;
use futures::StreamExt;
use orchestr8_proto::ids::Incarnation;
use orchestr8_proto::login::Login;
use orchestr8_proto::names::{self, OUTCOMES_STREAM, TASKS_STREAM};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

/// A coordinator under the rights, with one task in the queue `gpu`, which nobody serves.
async fn scene() -> Result<Option<(Scene, SecureNats, Certificates)>> {
    let Some(certificates) = Certificates::make()? else { return Ok(None) };
    let mut scene = Scene::start(InstallationOptions { coordinators: 0, executors: 0, ..InstallationOptions::default() }).await?;
    let nats = SecureNats::start(&scene.installation, &certificates).await?;
    log_in(&mut scene.installation, &nats, "coordinator");
    scene.installation.add_coordinator().await?;
    scene.installation.wait_ready(0).await?;
    scene.installation.api = scene.installation.api_of(0);
    scene.submit(&json!({"handler": "noop", "queue": "gpu"})).await?;
    Ok(Some((scene, nats, certificates)))
}

/// Waits until the server says that it forbids this.
async fn forbidden(heard: &mut UnboundedReceiver<String>, verb: &str, subject: &str) -> Result<()> {
    let expected = format!("permissions violation for {verb} \"{subject}\"").to_lowercase();
    let found = async {
        while let Some(event) = heard.recv().await {
            if event.to_lowercase().contains(&expected) {
                return Ok(());
            }
        }
        anyhow::bail!("the connection ended")
    };
    timeout(SOON, found).await.with_context(|| format!("{verb} {subject} is not forbidden"))?
}

async fn stream(coordinator: &Client, name: &str) -> Result<Value> {
    let request = async_nats::Request::new().payload(r#"{"subjects_filter":">"}"#.into());
    let answer: Message = coordinator.send_request(format!("$JS.API.STREAM.INFO.{name}"), request).await?;
    Ok(serde_json::from_slice(&answer.payload)?)
}

/// A stranger's subjects: another login's, or everybody's.
fn strange_publications() -> Result<Vec<String>> {
    let others = "gpu".parse::<Login>()?;
    let mut subjects = vec![
        names::next_subject("gpu-normal"),
        format!("$JS.ACK.{TASKS_STREAM}.gpu-normal.1.1.1.1.0"),
        names::beat_subject(Incarnation(uuid::Uuid::from_u64_pair(others.seat(), 1))),
        names::beat_subject(Incarnation::random()),
        names::control_subject(Incarnation::random()),
        "orchestr8.task.gpu.normal".to_owned(),
        "orchestr8.task.default.normal".to_owned(),
        "_INBOX_coordinator.x".to_owned(),
        "_INBOX_gpu.x".to_owned(),
        format!("$JS.API.CONSUMER.CREATE.{TASKS_STREAM}.mine.orchestr8.task.gpu.normal"),
        format!("$JS.API.CONSUMER.DELETE.{TASKS_STREAM}.gpu-normal"),
        format!("$JS.API.CONSUMER.CREATE.{OUTCOMES_STREAM}.mine"),
    ];
    subjects.extend([names::NUDGES, names::COORDINATOR_BEATS, names::CONTROL_ALL].map(str::to_owned));
    for action in ["INFO", "CREATE", "UPDATE", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE"] {
        subjects.extend([TASKS_STREAM, OUTCOMES_STREAM].map(|stream| format!("$JS.API.STREAM.{action}.{stream}")));
    }
    Ok(subjects)
}

#[tokio::test]
async fn an_executor_is_refused_everything_but_its_own() -> Result<()> {
    let Some((scene, nats, _certificates)) = scene().await? else { return Ok(()) };
    let (builders, mut heard) = nats.connect("builders").await?;
    for subject in strange_publications()? {
        builders.publish(subject.clone(), Bytes::new()).await?;
        forbidden(&mut heard, "publish to", &subject).await?;
    }
    let others = names::control_of_seat("gpu".parse::<Login>()?.seat());
    let everybody = [names::OUTCOME_SUBJECTS, names::TASK_SUBJECTS, names::CLAIM_SUBJECTS, names::BEAT_SUBJECTS, names::CONTROL_SUBJECTS];
    let mut kept = Vec::new();
    for subject in everybody.into_iter().chain([others.as_str(), names::NUDGES, names::ADVISORIES, "_INBOX.>", "_INBOX_gpu.>", ">"]) {
        kept.push(builders.subscribe(subject.to_owned()).await?);
        forbidden(&mut heard, "subscription to", subject).await?;
    }
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn the_server_does_not_speak_for_an_executor() -> Result<()> {
    let Some((scene, nats, _certificates)) = scene().await? else { return Ok(()) };
    let (coordinator, _) = nats.connect("coordinator").await?;
    let (builders, _) = nats.connect("builders").await?;
    let lies_there = async || Ok(Some(stream(&coordinator, TASKS_STREAM).await?).filter(|tasks| tasks["state"]["messages"] == 1));
    let tasks = wait_for("the task to lie in its stream", SOON, lies_there).await?;
    let before = (tasks, stream(&coordinator, OUTCOMES_STREAM).await?);
    let deleting = format!("$JS.API.STREAM.DELETE.{OUTCOMES_STREAM}");
    let targets = [deleting.as_str(), "$JS.API.STREAM.PURGE.ORCHESTR8_TASKS", "orchestr8.task.gpu.normal", "orchestr8.control.all"];
    for target in targets {
        // A refusal of a pull, an answer to an ack and to an outcome: with one account for all, each would go to `target`.
        builders
            .publish_with_reply(names::next_subject("default-normal"), target.to_owned(), r#"{"batch":1,"no_wait":true}"#.into())
            .await?;
        builders.publish_with_reply(format!("$JS.ACK.{TASKS_STREAM}.default-normal.1.1.1.1.0"), target.to_owned(), "+ACK".into()).await?;
        builders.publish_with_reply(names::outcome_subject(0), target.to_owned(), Bytes::new()).await?;
    }
    // Its own question is answered after those before it.
    let mut answers = builders.subscribe("_INBOX_builders.last.*").await?;
    builders
        .publish_with_reply(names::next_subject("default-normal"), "_INBOX_builders.last.1", r#"{"batch":1,"no_wait":true}"#.into())
        .await?;
    builders.publish_with_reply(names::outcome_subject(0), "_INBOX_builders.last.2", Bytes::new()).await?;
    for _ in 0..2 {
        timeout(SOON, answers.next()).await?.context("an answer")?;
    }
    let after = (stream(&coordinator, TASKS_STREAM).await?, stream(&coordinator, OUTCOMES_STREAM).await?);
    for (before, after) in [(&before.0, &after.0), (&before.1, &after.1)] {
        ensure!(after["created"] == before["created"] && !after["created"].is_null(), "{before} became {after}");
    }
    assert_eq!(after.0["state"]["subjects"]["orchestr8.task.gpu.normal"], 1, "{after:?}");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_start_without_a_right_names_it_and_the_remedy() -> Result<()> {
    let Some((scene, nats, certificates)) = scene().await? else { return Ok(()) };
    let executor = |queues: &str| ["executor", "--queues", queues].map(str::to_owned);
    let (code, line) = refused(&executor("default"), nats.environment("gpu")).await?;
    assert!(code == Some(64) && line.contains("`gpu`") && line.contains(&names::next_subject("default-normal")), "{code:?} {line}");
    assert!(line.contains("orchestr8 nats-accounts"), "{line}");
    let mut stranger = nats.environment("gpu");
    stranger.push(("ORCHESTR8_NATS_CA".to_owned(), certificates.text("stranger.pem")));
    let (code, line) = refused(&executor("gpu"), stranger).await?;
    assert!(code == Some(64) && line.contains("UnknownIssuer") && line.contains("--nats-ca"), "{code:?} {line}");
    let mut wrong = nats.environment("gpu");
    wrong.push(("ORCHESTR8_NATS_PASSWORD".to_owned(), "guessed-secret".to_owned()));
    let (code, line) = refused(&executor("gpu"), wrong).await?;
    assert!(code == Some(64) && line.contains("refused user `gpu`") && !line.contains("guessed-secret"), "{code:?} {line}");
    scene.finish().await;
    Ok(())
}
