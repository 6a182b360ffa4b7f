//! Control messages to executors, and the coordinator's own beat.

use crate::engine::handle::Order;
use async_nats::Client;
use bytes::Bytes;
use orchestr8_core::machine::Answer;
use orchestr8_proto::ids::{DispatchId, Incarnation, RunId};
use orchestr8_proto::names;
use orchestr8_proto::wire::{self, BATCH_ITEMS_MAX, Control, CoordinatorBeat, Nudge, RunVerdict, SCHEMA_VERSION, Verdict, WireError};
use std::collections::HashMap;
use tokio::sync::mpsc;

/// Messages that wait for the connection.
const WAITING_MAX: usize = 4_096;

/// Confirmations for one executor that may wait for more.
const CONFIRMS_HELD_MAX: usize = 256;

/// Control messages, gathered by executor.
#[derive(Debug, Default)]
pub struct Outbox {
    to: HashMap<Incarnation, Control>,
    dropped: Vec<DispatchId>,
}

impl Outbox {
    /// Answers a run.
    pub fn answer(&mut self, run: RunId, incarnation: Incarnation, answer: Answer) {
        let verdict = match answer {
            Answer::Granted => Verdict::Granted,
            Answer::Refused => Verdict::Refused,
            Answer::Kill | Answer::Cancel => Verdict::Kill,
            Answer::Current => Verdict::Current,
        };
        let verdict = RunVerdict { run_id: run.to_bytes(), verdict: verdict.into(), cancelled: answer == Answer::Cancel };
        self.to.entry(incarnation).or_default().verdicts.push(verdict);
    }

    /// Confirms an outcome.
    pub fn confirm(&mut self, run: RunId, incarnation: Incarnation) {
        self.to.entry(incarnation).or_default().confirmed_run_ids.push(run.to_bytes());
    }

    /// Tells all executors to drop a dispatch.
    pub fn drop_dispatch(&mut self, dispatch: DispatchId) {
        self.dropped.push(dispatch);
    }

    /// Adds what another one holds.
    pub fn add(&mut self, other: Self) {
        for (incarnation, control) in other.to {
            let ours = self.to.entry(incarnation).or_default();
            ours.verdicts.extend(control.verdicts);
            ours.confirmed_run_ids.extend(control.confirmed_run_ids);
        }
        self.dropped.extend(other.dropped);
    }

    /// Whether somebody waits for what is in it: for a verdict, or for so many confirmations that they fill a message.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        let waits = |control: &Control| !control.verdicts.is_empty() || control.confirmed_run_ids.len() >= CONFIRMS_HELD_MAX;
        !self.dropped.is_empty() || self.to.values().any(waits)
    }

    /// Whether somebody's outcome is confirmed.
    #[must_use]
    pub fn confirms(&self) -> bool {
        self.to.values().any(|control| !control.confirmed_run_ids.is_empty())
    }

    /// Sends everything. Core messages: what is lost is asked for or published again.
    pub fn send(self, speaker: &Speaker) {
        for (incarnation, control) in self.to {
            for part in parts(control) {
                speaker.control(names::control_subject(incarnation), part);
            }
        }
        for dropped in self.dropped.chunks(BATCH_ITEMS_MAX) {
            let dropped_dispatch_ids = dropped.iter().map(|dispatch| dispatch.to_bytes()).collect();
            speaker.control(names::CONTROL_ALL.to_owned(), Control { dropped_dispatch_ids, ..Control::default() });
        }
    }
}

fn parts(mut control: Control) -> Vec<Control> {
    let mut parts = Vec::new();
    while !control.verdicts.is_empty() || !control.confirmed_run_ids.is_empty() {
        let verdicts = take(&mut control.verdicts);
        let confirmed_run_ids = take(&mut control.confirmed_run_ids);
        parts.push(Control { verdicts, confirmed_run_ids, ..Control::default() });
    }
    parts
}

fn take<T>(items: &mut Vec<T>) -> Vec<T> {
    let rest = items.split_off(items.len().min(BATCH_ITEMS_MAX));
    std::mem::replace(items, rest)
}

/// Says things to executors without ever waiting: a lane that waited for a broker would lose its leases.
#[derive(Clone)]
pub struct Speaker {
    queue: mpsc::Sender<(String, Bytes)>,
}

impl Speaker {
    /// Starts speaking on this connection. While it is down, messages wait, and beyond `WAITING_MAX` are dropped.
    #[must_use]
    pub fn start(client: Client) -> Self {
        let (queue, mut messages) = mpsc::channel::<(String, Bytes)>(WAITING_MAX);
        tokio::spawn(async move {
            while let Some((subject, payload)) = messages.recv().await {
                if let Err(error) = client.publish(subject, payload).await {
                    tracing::warn!(%error, "a control message was not sent; it is asked for again");
                }
            }
        });
        Self { queue }
    }

    /// Asks all executors for a heartbeat now.
    pub fn beat_now(&self) {
        self.control(names::CONTROL_ALL.to_owned(), Control { beat_now: true, ..Control::default() });
    }

    /// Tells one executor what an operator wants of it.
    pub fn order(&self, incarnation: Incarnation, order: Order) {
        let control = match order {
            Order::Work(order) => Control { order: order.into(), ..Control::default() },
            Order::Log(log_filter) => Control { log_filter, ..Control::default() },
        };
        self.control(names::control_subject(incarnation), control);
    }

    /// The coordinator's beat: executors fetch only while they hear one.
    pub fn coordinator_beat(&self, beat: &CoordinatorBeat) {
        self.say(names::COORDINATOR_BEATS.to_owned(), wire::encode(beat));
    }

    /// A hint to all coordinators.
    pub fn nudge(&self, nudge: &Nudge) {
        self.say(names::NUDGES.to_owned(), wire::encode(&Nudge { schema_version: SCHEMA_VERSION, ..nudge.clone() }));
    }

    /// Answers who asked, with nothing but that it was heard.
    pub fn acknowledge(&self, asker: String) {
        self.say(asker, Ok(Bytes::new()));
    }

    fn control(&self, subject: String, control: Control) {
        self.say(subject, wire::encode(&Control { schema_version: SCHEMA_VERSION, ..control }));
    }

    fn say(&self, subject: String, payload: Result<Bytes, WireError>) {
        let said = payload.map_err(|error| error.to_string());
        let said = said.and_then(|payload| self.queue.try_send((subject, payload)).map_err(|error| error.to_string()));
        if let Err(error) = said {
            tracing::warn!(error, "a control message was dropped; it is asked for again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmations_wait_and_verdicts_do_not() {
        let executor = Incarnation::random();
        let mut outbox = Outbox::default();
        for _ in 1..CONFIRMS_HELD_MAX {
            let mut batch = Outbox::default();
            batch.confirm(RunId::random(), executor);
            outbox.add(batch);
        }
        assert!(outbox.confirms() && !outbox.is_urgent());
        outbox.confirm(RunId::random(), executor);
        assert!(outbox.is_urgent(), "they fill a message");
        let mut answered = Outbox::default();
        answered.answer(RunId::random(), executor, Answer::Granted);
        assert!(answered.is_urgent() && !answered.confirms());
        let mut dropped = Outbox::default();
        dropped.drop_dispatch(DispatchId::random());
        assert!(dropped.is_urgent());
    }
}
