//! A desk on a stage, for tests: events are played to it, its effects are collected.

use super::{Desk, Effect, Publication};
use crate::clock::Clock;
use crate::settings::ExecutorSettings;
use crate::settings::tests::settings;
use crate::work::{Assignment, Retryable, WorkReport, WorkResult};
use async_nats::{HeaderMap, Message, StatusCode, Subject};
use bytes::Bytes;
use orchestr8_proto::ids::{DispatchId, ExecutionId, RunId};
use orchestr8_proto::names::HEADER_AGAIN;
use orchestr8_proto::wire::{
    self, Claim, ClaimBatch, Control, CoordinatorBeat, Dispatch, DispatchBatch, Envelope, HandlerKind, Heartbeat, Outcome, OutcomeBatch,
    RunVerdict, Verdict, dispatch,
};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub(super) const SHARD: u16 = 3;
const START_US: i64 = 1_700_000_000_000_000;

/// A desk, a clock that stands still unless told, and everything that it did.
pub(super) struct Scene {
    pub(super) desk: Desk,
    pub(super) clock: Clock,
    pub(super) sequence: u64,
    pub(super) sent: Vec<Publication>,
    pub(super) started: Vec<(Assignment, CancellationToken)>,
    pub(super) servers_left: usize,
}

#[derive(Clone, Copy)]
pub(super) struct Delivered {
    pub(super) times: u64,
    pub(super) again: Again,
    pub(super) age: Duration,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Again {
    No,
    Yes,
}

pub(super) const FIRST: Delivered = Delivered { times: 1, again: Again::No, age: Duration::ZERO };
pub(super) const SECOND: Delivered = Delivered { times: 2, ..FIRST };

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn dispatch() -> Dispatch {
    Dispatch {
        dispatch_id: DispatchId::random().to_bytes(),
        task_id: ExecutionId::generate(1, SHARD, &mut rand::rng()).task(0).to_bytes(),
        kind: Some(dispatch::Kind::Handler(HandlerKind { name: "noop".into() })),
        outcome_token: Bytes::from_static(b"token"),
        ..Dispatch::default()
    }
}

pub(super) fn completed() -> WorkReport {
    WorkResult::Completed { output_json: Bytes::from_static(b"1") }.into()
}

pub(super) fn killed() -> WorkReport {
    let (error_type, message) = ("killed".to_owned(), String::new());
    WorkResult::Failed { error_type, message, exit_code: None, retryable: Retryable::Yes, retry_after: None }.into()
}

pub(super) fn message(subject: &str, payload: Bytes) -> Message {
    Message { subject: subject.into(), reply: None, payload, headers: None, status: None, description: None, length: 0 }
}

impl Scene {
    /// Two slots; pulls are parked.
    pub(super) fn new() -> Self {
        Self::with(&settings())
    }

    pub(super) fn with(settings: &ExecutorSettings) -> Self {
        let clock = Clock { now: Instant::now(), wall_us: START_US };
        let desk = Desk::new(settings, "_INBOX.x".into(), clock.now);
        let mut scene = Self { desk, clock, sequence: 0, sent: Vec::new(), started: Vec::new(), servers_left: 0 };
        scene.hear("installation");
        scene.park();
        scene.sent.clear();
        scene
    }

    /// Answers all requests with "no messages" until nothing is asked.
    pub(super) fn park(&mut self) {
        loop {
            self.act();
            let asked: Vec<Subject> =
                self.sent.drain(..).filter(|sent| sent.payload.ends_with(b"\"no_wait\":true}")).filter_map(|sent| sent.reply).collect();
            if asked.is_empty() {
                return;
            }
            for reply in asked {
                self.desk.receive(Message { status: Some(StatusCode::NOT_FOUND), ..message(&reply, Bytes::new()) }, self.clock);
            }
        }
    }

    pub(super) fn act(&mut self) {
        self.started.extend(self.desk.take_starts());
        for effect in self.desk.take_effects(self.clock) {
            match effect {
                Effect::Publish(publication) => self.sent.push(publication),
                Effect::ChangeServer => self.servers_left += 1,
            }
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.clock.now += time;
        self.clock.wall_us += i64::try_from(time.as_micros()).unwrap();
        self.desk.tick(self.clock);
        self.act();
    }

    /// The process stands still; afterwards a coordinator beats.
    pub(super) fn stall(&mut self, time: Duration) {
        self.clock.now += time;
        self.clock.wall_us += i64::try_from(time.as_micros()).unwrap();
        self.hear("installation");
    }

    /// Delivers a message; the subject on which it is acknowledged.
    pub(super) fn deliver(&mut self, dispatches: Vec<Dispatch>, delivered: Delivered) -> String {
        self.deliver_bytes(wire::encode(&DispatchBatch { schema_version: 1, dispatches }).unwrap(), delivered)
    }

    pub(super) fn deliver_bytes(&mut self, payload: Bytes, delivered: Delivered) -> String {
        self.sequence += 1;
        let stored_ns = (self.clock.wall_us - i64::try_from(delivered.age.as_micros()).unwrap()) * 1_000;
        let ack = format!("$JS.ACK.ORCHESTR8_TASKS.default-normal.{}.{}.1.{stored_ns}.0", delivered.times, self.sequence);
        let mut headers = HeaderMap::new();
        headers.insert(HEADER_AGAIN, "1");
        let headers = (delivered.again == Again::Yes).then_some(headers);
        let subject = "orchestr8.task.default.normal";
        self.desk.receive(Message { reply: Some(ack.as_str().into()), headers, ..message(subject, payload) }, self.clock);
        self.act();
        ack
    }

    pub(super) fn control(&mut self, control: Control) {
        self.desk.control(wire::encode(&Control { schema_version: 1, ..control }).unwrap(), self.clock);
        self.act();
    }

    pub(super) fn verdict(&mut self, run_id: &Bytes, verdict: Verdict) {
        let verdict = RunVerdict { run_id: run_id.clone(), verdict: verdict.into(), cancelled: false };
        self.control(Control { verdicts: vec![verdict], ..Control::default() });
    }

    pub(super) fn confirm(&mut self, run_id: &Bytes) {
        self.control(Control { confirmed_run_ids: vec![run_id.clone()], ..Control::default() });
    }

    pub(super) fn hear(&mut self, installation: &str) {
        let beat = CoordinatorBeat {
            schema_version: 1,
            installation: installation.into(),
            jetstream_now_us: self.clock.wall_us,
            ..CoordinatorBeat::default()
        };
        self.desk.hear(wire::encode(&beat).unwrap(), self.clock);
    }

    pub(super) fn end(&mut self, run_id: RunId, report: WorkReport) {
        self.desk.ended(run_id, report, self.clock);
        self.act();
    }

    /// Lets the broker store all outcomes sent so far; these outcomes.
    pub(super) fn store_outcomes(&mut self) -> Vec<Outcome> {
        let sent = self.take::<OutcomeBatch>("orchestr8.outcome.3");
        for (publication, _) in &sent {
            let reply = publication.reply.clone().expect("outcomes want an answer");
            self.desk.receive(message(&reply, Bytes::from_static(br#"{"stream":"ORCHESTR8_OUTCOMES","seq":1}"#)), self.clock);
        }
        self.act();
        sent.into_iter().flat_map(|(_, batch)| batch.outcomes).collect()
    }

    pub(super) fn take<M: Envelope>(&mut self, subject: &str) -> Vec<(Publication, M)> {
        let (taken, kept) = self.sent.drain(..).partition(|sent| sent.subject.as_str() == subject);
        self.sent = kept;
        let taken: Vec<Publication> = taken;
        taken.into_iter().map(|sent| (sent.clone(), wire::decode(sent.payload).unwrap())).collect()
    }

    pub(super) fn claims(&mut self) -> Vec<Claim> {
        self.take::<ClaimBatch>("orchestr8.claim.3").into_iter().flat_map(|(_, batch)| batch.claims).collect()
    }

    pub(super) fn beats(&mut self) -> Vec<Heartbeat> {
        let subject = orchestr8_proto::names::beat_subject(self.desk.incarnation());
        self.take(&subject).into_iter().map(|(_, beat)| beat).collect()
    }

    /// What was answered to a message so far, an ack that is held back included.
    pub(super) fn answers(&mut self, ack: &str) -> Vec<String> {
        self.desk.acknowledge_last(self.clock.now);
        self.act();
        self.answers_sent(ack)
    }

    /// What was answered to a message so far and has left.
    pub(super) fn answers_sent(&mut self, ack: &str) -> Vec<String> {
        let (taken, kept) = self.sent.drain(..).partition(|sent| sent.subject.as_str() == ack);
        self.sent = kept;
        let taken: Vec<Publication> = taken;
        let text =
            |sent: &Publication| format!("{}{}", String::from_utf8_lossy(&sent.payload), if sent.reply.is_some() { "?" } else { "" });
        taken.iter().map(text).collect()
    }

    pub(super) fn run_id(&self, index: usize) -> RunId {
        self.started[index].0.run_id
    }
}
