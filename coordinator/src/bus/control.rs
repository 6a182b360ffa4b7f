//! Control messages to executors, and the coordinator's own beat.

use super::Bus;
use orchestr8_core::machine::Answer;
use orchestr8_proto::ids::{DispatchId, Incarnation, RunId};
use orchestr8_proto::names;
use orchestr8_proto::wire::{self, BATCH_ITEMS_MAX, Control, CoordinatorBeat, RunVerdict, SCHEMA_VERSION, Verdict};
use std::collections::HashMap;

/// Control messages of one batch, gathered by executor.
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
            Answer::Kill => Verdict::Kill,
            Answer::Current => Verdict::Current,
        };
        let verdict = RunVerdict { run_id: run.to_bytes(), verdict: verdict.into() };
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

    /// Sends everything. Core messages: what is lost is asked for or published again.
    pub async fn send(self, bus: &Bus) {
        for (incarnation, control) in self.to {
            for part in parts(control) {
                send(bus, names::control_subject(incarnation), &part).await;
            }
        }
        for dropped in self.dropped.chunks(BATCH_ITEMS_MAX) {
            let dropped_dispatch_ids = dropped.iter().map(|dispatch| dispatch.to_bytes()).collect();
            send(bus, names::CONTROL_ALL.to_owned(), &Control { dropped_dispatch_ids, ..Control::default() }).await;
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

/// Asks all executors for a heartbeat now.
pub async fn beat_now(bus: &Bus) {
    send(bus, names::CONTROL_ALL.to_owned(), &Control { beat_now: true, ..Control::default() }).await;
}

async fn send(bus: &Bus, subject: String, control: &Control) {
    let control = Control { schema_version: SCHEMA_VERSION, ..control.clone() };
    let sent = match wire::encode(&control) {
        Ok(payload) => bus.client.publish(subject, payload).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = sent {
        tracing::warn!(%error, "a control message was not sent; it is asked for again");
    }
}

/// The coordinator's beat: executors fetch only while they hear one.
pub async fn coordinator_beat(bus: &Bus, beat: CoordinatorBeat) {
    let sent = match wire::encode(&beat) {
        Ok(payload) => bus.client.publish(names::COORDINATOR_BEATS, payload).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = sent {
        tracing::warn!(%error, "the coordinator's beat was not sent");
    }
}
