//! One executor process of the simulation: the real desk, the server's answers to it, and commands that take virtual time.

use super::broker::Broker;
use super::messages::{Asked, Beat, Doubtful, Ending, Question, Told, Wants};
use super::reference::Reference;
use super::rules::{Rule, Rules};
use async_nats::{HeaderMap, Message, StatusCode, Subject};
use bytes::Bytes;
use orchestr8_executor::ExecutorSettings;
use orchestr8_executor::handlers::Handlers;
use orchestr8_executor::simulation::{Act, Moment, SimulatedExecutor};
use orchestr8_executor::work::{Retryable, WorkReport, WorkResult, WorkSettings};
use orchestr8_nats::NatsSettings;
use orchestr8_proto::ids::{DispatchId, Incarnation, RunId, TaskId};
use orchestr8_proto::log_level::LogControl;
use orchestr8_proto::names::HEADER_AGAIN;
use orchestr8_proto::reference;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::traces::SpanSink;
use orchestr8_proto::wire::{
    self, ClaimBatch, ClaimKind, DispatchBatch, HandlerKind, Heartbeat, InputsPart, OutcomeBatch, dispatch, outcome,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Exchanges with the server within one moment, at most.
const EXCHANGES_MAX: usize = 64;

/// A command that goes on.
struct Running {
    run: RunId,
    ends_at_us: i64,
    ending: Ending,
    kill: CancellationToken,
}

/// A pull that waits for a message.
struct Parked {
    reply: Subject,
    normal: bool,
    until_us: i64,
}

/// An executor process.
pub(super) struct Site {
    pub(super) name: u8,
    desk: SimulatedExecutor,
    running: Vec<Running>,
    parked: Vec<Parked>,
    /// Cut off from the servers until then.
    pub(super) cut_until_us: i64,
    was_cut: bool,
    ran: usize,
}

/// What a site sent to the coordinators.
#[derive(Clone)]
pub(super) enum ToCoordinators {
    Claims(Vec<Asked>),
    Wants(Wants),
    Beat(Beat),
    /// Of another coordinator: something came for the shard.
    Nudge,
}

/// What a site acts upon.
pub(super) struct Around<'a> {
    pub(super) broker: &'a mut Broker,
    pub(super) reference: &'a mut Reference,
    pub(super) rules: Rules,
    pub(super) once: &'a dyn Fn(TaskId) -> bool,
    /// How long a command takes, and how it ends.
    pub(super) fate_of: &'a mut dyn FnMut() -> (i64, Ending),
    pub(super) moment: Moment,
}

fn settings(name: u8) -> ExecutorSettings {
    ExecutorSettings {
        // All of one login, as the executors of a pool.
        nats: NatsSettings { login: Some("pool".parse().expect("a login's name")), ..NatsSettings::open(Vec::new()) },
        name: name.to_string(),
        queues: vec!["default".into()],
        slots: 2,
        times: ProtocolTimes::default(),
        startup_patience: Duration::ZERO,
        drain_timeout: Duration::from_secs(30),
        work: WorkSettings {
            shim_program: PathBuf::new(),
            run_root: PathBuf::new(),
            workdirs_allowed: Vec::new(),
            environment: BTreeMap::new(),
            user: None,
            grace: Duration::from_secs(1),
            handlers: Handlers::builtin(),
        },
        unconfirmed_max: 64,
        unconfirmed_bytes_max: 1 << 20,
        probes: None,
        log: LogControl::default(),
        spans: SpanSink::default(),
    }
}

fn message(subject: Subject, payload: Bytes) -> Message {
    Message { subject, reply: None, payload, headers: None, status: None, description: None, length: 0 }
}

/// A dispatch with its inputs: these are the same whoever makes them.
fn whole(dispatch: DispatchId) -> wire::Dispatch {
    wire::Dispatch {
        dispatch_id: dispatch.to_bytes(),
        kind: Some(dispatch::Kind::Handler(HandlerKind { name: "noop".into() })),
        prompt: dispatch.to_string(),
        ..wire::Dispatch::default()
    }
}

/// The inputs of a dispatch by reference, in one part.
pub(super) fn inputs(run: RunId, dispatch: DispatchId) -> InputsPart {
    InputsPart { run_id: run.to_bytes(), offset: 0, part: reference::refer(whole(dispatch)).1 }
}

fn wants(payload: &Bytes) -> impl Iterator<Item = Wants> + use<> {
    let batch: ClaimBatch = wire::decode(payload.clone()).expect("the desk's own");
    let wants =
        |ask: wire::InputsAsk| Wants { task: task(&ask.task_id), dispatch: dispatch_id(&ask.dispatch_id), run: run_id(&ask.run_id) };
    batch.inputs.into_iter().map(wants)
}

impl Site {
    /// A new process of this name.
    pub(super) fn new(name: u8, moment: Moment) -> Self {
        let desk = SimulatedExecutor::new(&settings(name), format!("_INBOX.{name}"), moment.now);
        Self { name, desk, running: Vec::new(), parked: Vec::new(), cut_until_us: 0, was_cut: false, ran: 0 }
    }

    /// Its identity.
    pub(super) const fn incarnation(&self) -> Incarnation {
        self.desk.incarnation()
    }

    /// Commands that go on.
    pub(super) const fn running(&self) -> usize {
        self.running.len()
    }

    /// Commands that it ever started.
    pub(super) const fn ran(&self) -> usize {
        self.ran
    }

    /// Whether messages reach it.
    pub(super) const fn is_cut(&self, now_us: i64) -> bool {
        self.cut_until_us > now_us
    }

    /// A control message of a coordinator.
    pub(super) fn control(&mut self, payload: Bytes, moment: Moment) {
        self.desk.control(payload, moment);
    }

    /// A coordinator's beat.
    pub(super) fn hear(&mut self, payload: Bytes, moment: Moment) {
        self.desk.hear(payload, moment);
    }

    /// The streams and consumers are gone: nobody answers its pulls but the server that has none of them.
    pub(super) fn pulls_end(&mut self, moment: Moment) {
        for parked in std::mem::take(&mut self.parked) {
            self.desk.receive(Message { status: Some(StatusCode::TIMEOUT), ..message(parked.reply, Bytes::new()) }, moment);
        }
    }

    /// One moment: commands end, pulls are served, and whatever it does is done.
    pub(super) fn pass(&mut self, mut around: Around<'_>) -> Vec<ToCoordinators> {
        let moment = around.moment;
        self.end_commands(&mut around);
        if self.is_cut(moment.wall_us) {
            if !std::mem::replace(&mut self.was_cut, true) {
                self.desk.disconnected();
                self.parked.clear();
            }
        } else if std::mem::replace(&mut self.was_cut, false) {
            self.desk.reconnected(moment);
        }
        let mut sent = Vec::new();
        for _ in 0..EXCHANGES_MAX {
            self.serve_parked(&mut around);
            let acts = self.desk.acts(moment);
            if acts.is_empty() {
                break;
            }
            for act in acts {
                self.carry_out(act, &mut around, &mut sent);
            }
        }
        sent
    }

    fn end_commands(&mut self, around: &mut Around<'_>) {
        let now_us = around.moment.wall_us;
        let ends = |running: &Running| running.ends_at_us <= now_us || running.kill.is_cancelled();
        let (ended, going_on) = std::mem::take(&mut self.running).into_iter().partition(ends);
        self.running = going_on;
        let ended: Vec<Running> = ended;
        for running in ended {
            let ending = if running.kill.is_cancelled() { Ending::Failed } else { running.ending };
            around.reference.ended(running.run, ending);
            self.desk.ended(running.run, report(ending), around.moment);
        }
    }

    fn serve_parked(&mut self, around: &mut Around<'_>) {
        let now_us = around.moment.wall_us;
        let mut waiting = Vec::new();
        for parked in std::mem::take(&mut self.parked) {
            if parked.normal && self.deliver(around) {
                continue;
            }
            if parked.until_us <= now_us {
                self.desk.receive(Message { status: Some(StatusCode::TIMEOUT), ..message(parked.reply, Bytes::new()) }, around.moment);
            } else {
                waiting.push(parked);
            }
        }
        self.parked = waiting;
    }

    fn deliver(&mut self, around: &mut Around<'_>) -> bool {
        let moment = around.moment;
        let ack_wait_us = micros(ProtocolTimes::default().ack_wait());
        let Some((sequence, delivered)) = around.broker.deliver(moment.wall_us, ack_wait_us) else { return false };
        let asks = around.rules.keep(Rule::R5);
        let dispatch =
            wire::Dispatch { task_id: delivered.task.to_bytes(), ask_first: delivered.ask_first && asks, ..whole(delivered.dispatch) };
        // What asks first may as well have its inputs elsewhere.
        let dispatch = if dispatch.ask_first { reference::refer(dispatch).0 } else { dispatch };
        let payload = wire::encode(&DispatchBatch { schema_version: wire::SCHEMA_VERSION, dispatches: vec![dispatch] }).expect("small");
        let deliveries = if asks { delivered.deliveries } else { 1 };
        let stored_ns = if asks { delivered.stored_us } else { moment.wall_us } * 1_000;
        let ack = format!("$JS.ACK.ORCHESTR8_TASKS.default-normal.{deliveries}.{sequence}.1.{stored_ns}.0");
        let mut headers = HeaderMap::new();
        headers.insert(HEADER_AGAIN, "1");
        let headers = (delivered.again && asks).then_some(headers);
        let subject = Subject::from("orchestr8.task.default.normal");
        self.desk.receive(Message { reply: Some(ack.into()), headers, ..message(subject, payload) }, moment);
        true
    }

    fn carry_out(&mut self, act: Act, around: &mut Around<'_>, sent: &mut Vec<ToCoordinators>) {
        match act {
            Act::Start(assignment, kill) => {
                self.ran += 1;
                assert_eq!(assignment.dispatch.prompt, assignment.dispatch_id.to_string(), "it starts with its inputs");
                let (duration_us, ending) = (around.fate_of)();
                around.reference.received(assignment.run_id, assignment.task_id, assignment.dispatch_id);
                around.reference.started(assignment.run_id, around.once);
                let ends_at_us = around.moment.wall_us + duration_us;
                self.running.push(Running { run: assignment.run_id, ends_at_us, ending, kill });
            }
            Act::Send(subject, reply, payload) => {
                let name = subject.as_str();
                if name.starts_with("$JS.API.CONSUMER.MSG.NEXT") {
                    self.pull(name, (reply.expect("a pull wants answers"), &payload), around);
                } else if name.starts_with("$JS.ACK.") {
                    acknowledge(name, &payload, around);
                    if let Some(reply) = reply {
                        self.desk.receive(message(reply, Bytes::new()), around.moment);
                    }
                } else if name.starts_with("orchestr8.outcome.") {
                    let told = outcomes(payload, around.reference);
                    around.broker.store_outcomes(told, around.moment.wall_us);
                    let stored = Bytes::from_static(br#"{"stream":"ORCHESTR8_OUTCOMES","seq":1}"#);
                    self.desk.receive(message(reply.expect("outcomes want an answer"), stored), around.moment);
                } else if name.starts_with("orchestr8.claim.") {
                    sent.extend(wants(&payload).map(ToCoordinators::Wants));
                    sent.push(ToCoordinators::Claims(self.claims(payload)));
                } else if name.starts_with("orchestr8.beat.") {
                    sent.push(ToCoordinators::Beat(self.beat(payload)));
                }
            }
        }
    }

    fn pull(&mut self, subject: &str, (reply, body): (Subject, &Bytes), around: &mut Around<'_>) {
        let normal = subject.ends_with("default-normal");
        let body: serde_json::Value = serde_json::from_slice(body).expect("a pull is JSON");
        if let Some(expires_ns) = body["expires"].as_i64() {
            self.parked.push(Parked { reply, normal, until_us: around.moment.wall_us + expires_ns / 1_000 });
            return;
        }
        let wanted = body["batch"].as_u64().unwrap_or(1);
        let delivered = (0..wanted).take_while(|_| normal && self.deliver(around)).count() as u64;
        if delivered < wanted {
            self.desk.receive(Message { status: Some(StatusCode::NOT_FOUND), ..message(reply, Bytes::new()) }, around.moment);
        }
    }

    fn claims(&self, payload: Bytes) -> Vec<Asked> {
        let batch: ClaimBatch = wire::decode(payload).expect("the desk's own");
        let asked = |claim: &wire::Claim| Asked {
            task: task(&claim.task_id),
            dispatch: dispatch_id(&claim.dispatch_id),
            run: run_id(&claim.run_id),
            incarnation: self.incarnation(),
            name: self.name,
            question: if claim.kind == i32::from(ClaimKind::Claim) { Question::Claim } else { Question::Check },
            doubtful: if claim.doubtful { Doubtful::Yes } else { Doubtful::No },
            running_for: (claim.running_for_us > 0).then(|| Duration::from_micros(claim.running_for_us)),
            beat: batch.beat_sequence,
        };
        batch.claims.iter().map(asked).collect()
    }

    fn beat(&self, payload: Bytes) -> Beat {
        let beat: Heartbeat = wire::decode(payload).expect("the desk's own");
        let asked = |run: &wire::HeldRun| Asked {
            task: task(&run.task_id),
            dispatch: dispatch_id(&run.dispatch_id),
            run: run_id(&run.run_id),
            incarnation: self.incarnation(),
            name: self.name,
            question: Question::Claim,
            doubtful: Doubtful::Yes,
            running_for: run.started.then(|| Duration::from_micros(run.running_for_us)),
            beat: beat.sequence,
        };
        let mut runs: Vec<Asked> = beat.runs.iter().map(asked).collect();
        // The desk keeps them in a map of random ids: a seed must tell the same story every time.
        runs.sort_by_key(|run| run.dispatch);
        Beat { incarnation: self.incarnation(), name: self.name, sequence: beat.sequence, runs }
    }
}

fn acknowledge(ack: &str, payload: &Bytes, around: &mut Around<'_>) {
    let sequence = ack.split('.').nth(5).and_then(|token| token.parse().ok()).expect("our own subject");
    match &payload[..] {
        b"-NAK" => around.broker.nak(sequence),
        b"+WPI" => around.broker.in_progress(sequence, around.moment.wall_us + micros(ProtocolTimes::default().ack_wait())),
        _ => around.broker.ack(sequence),
    }
}

fn outcomes(payload: Bytes, reference: &mut Reference) -> Vec<Told> {
    let batch: OutcomeBatch = wire::decode(payload).expect("the desk's own");
    let told = |outcome: &wire::Outcome| {
        let ending = match outcome.result.as_ref().expect("an outcome has a result") {
            outcome::Result::Completed(_) => Ending::Completed,
            outcome::Result::Failed(_) => Ending::Failed,
            outcome::Result::Released(released) if released.never_started => Ending::NeverStarted,
            outcome::Result::Released(_) => Ending::GivenBack,
        };
        let incarnation = Incarnation::try_from(outcome.incarnation.as_ref()).expect("an id");
        let (task, dispatch, run) = (task(&outcome.task_id), dispatch_id(&outcome.dispatch_id), run_id(&outcome.run_id));
        Told { task, dispatch, run, incarnation, ending }
    };
    let mut told: Vec<Told> = batch.outcomes.iter().map(told).collect();
    told.sort_by_key(|told| told.dispatch);
    for told in told.iter().filter(|told| told.ending == Ending::NeverStarted) {
        reference.received(told.run, told.task, told.dispatch);
        reference.never_started(told.run);
    }
    told
}

fn report(ending: Ending) -> WorkReport {
    let (error_type, message) = ("exit".to_owned(), String::new());
    match ending {
        Ending::Completed => WorkResult::Completed { output_json: Bytes::from_static(b"1") }.into(),
        Ending::Failed | Ending::GivenBack | Ending::NeverStarted => {
            WorkResult::Failed { error_type, message, exit_code: None, retryable: Retryable::Yes, retry_after: None }.into()
        }
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).expect("a short time")
}

fn task(bytes: &Bytes) -> TaskId {
    TaskId::try_from(bytes.as_ref()).expect("an id")
}

fn dispatch_id(bytes: &Bytes) -> DispatchId {
    DispatchId::try_from(bytes.as_ref()).expect("an id")
}

fn run_id(bytes: &Bytes) -> RunId {
    RunId::try_from(bytes.as_ref()).expect("an id")
}
