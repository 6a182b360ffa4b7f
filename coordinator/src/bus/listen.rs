//! Claims and heartbeats: core messages, decoded and handed to the lane.

use super::{Bus, BusError};
use crate::engine::input::Input;
use async_nats::Subscriber;
use bytes::Bytes;
use futures::StreamExt;
use orchestr8_proto::names;
use orchestr8_proto::wire::{self, ClaimBatch, Heartbeat};
use tokio::sync::mpsc;

/// Subscribes to claims and heartbeats for as long as the connection lives; they survive reconnects.
///
/// # Errors
/// [`BusError::JetStream`] when the client cannot subscribe.
pub async fn listen(bus: &Bus, inputs: mpsc::Sender<Input>) -> Result<(), BusError> {
    let subscribe = async |subject: &str| {
        let subscribed = bus.client.subscribe(subject.to_owned()).await;
        subscribed.map_err(|error| BusError::jetstream(format!("subscribe to {subject}"), error))
    };
    let claims = subscribe("orchestr8.claim.*").await?;
    let beats = subscribe(names::BEAT_SUBJECTS).await?;
    tokio::spawn(forward(claims, inputs.clone(), |payload| wire::decode::<ClaimBatch>(payload).map(Input::Claims)));
    tokio::spawn(forward(beats, inputs, |payload| wire::decode::<Heartbeat>(payload).map(Input::Beat)));
    Ok(())
}

async fn forward(mut messages: Subscriber, inputs: mpsc::Sender<Input>, decode: impl Fn(Bytes) -> Result<Input, wire::WireError> + Send) {
    while let Some(message) = messages.next().await {
        match decode(message.payload) {
            Ok(input) => {
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, subject = %message.subject, "a message of an executor was refused"),
        }
    }
}
