//! Parts of inputs to the executors that hold their runs: few at a time, because they are large.

use crate::engine::input::Input;
use async_nats::Client;
use bytes::Bytes;
use orchestr8_proto::ids::Incarnation;
use orchestr8_proto::names;
use orchestr8_proto::wire::{self, Control, InputsPart, SCHEMA_VERSION};
use tokio::sync::mpsc;

/// Parts that wait for the connection: with them the memory that they take.
const WAITING_MAX: usize = 16;

/// Carries parts without ever letting the lane wait.
#[derive(Clone)]
pub struct Carrier {
    queue: mpsc::Sender<(Incarnation, Bytes)>,
}

impl Carrier {
    /// Starts on this connection. The lane is woken when there is room where there was none.
    #[must_use]
    pub fn start(client: Client, inputs: mpsc::Sender<Input>) -> Self {
        let (queue, mut parts) = mpsc::channel(WAITING_MAX);
        tokio::spawn(async move {
            while let Some((incarnation, payload)) = parts.recv().await {
                let was_full = parts.len() + 1 >= WAITING_MAX;
                // One after the other: the client's own queue counts messages, whatever their size.
                let sent = client.publish(names::control_subject(incarnation), payload).await;
                let flushed = client.flush().await;
                if let Some(error) = sent.err().map(|error| error.to_string()).or(flushed.err().map(|error| error.to_string())) {
                    tracing::warn!(error, "a part of inputs was not sent; it is asked for again");
                }
                // A lane whose inputs are full is awake.
                if was_full {
                    inputs.try_send(Input::RoomForParts).ok();
                }
            }
        });
        Self { queue }
    }

    /// How many parts may be carried now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.queue.capacity()
    }

    /// Carries one part; what there is no room for is asked for again.
    pub fn carry(&self, incarnation: Incarnation, part: InputsPart) {
        let control = Control { schema_version: SCHEMA_VERSION, inputs: Some(part), ..Control::default() };
        match wire::encode(&control) {
            Ok(payload) => drop(self.queue.try_send((incarnation, payload))),
            Err(error) => tracing::error!(%error, "a part of inputs is no message"),
        }
    }
}
