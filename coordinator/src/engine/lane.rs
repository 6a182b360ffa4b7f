//! The lane: owns shards and passes every event for their executions through gather, load, step, commit, act.

use super::bundles::{Bundler, Durations};
use super::cache::{ExecutionCache, PlanCache};
use super::clock::DatabaseClock;
use super::flights::Flights;
use super::handle::{Command, EngineHandle};
use super::input::Input;
use super::inquiry::Inquiries;
use super::lots::Lots;
use super::mail::Mail;
use super::references::References;
use super::roster::Roster;
use super::served::Served;
use super::sharing::Held;
use super::work::Work;
use crate::bus::Bus;
use crate::bus::control::{Outbox, Speaker};
use crate::bus::listen::LastHeard;
use crate::bus::parts::Carrier;
use crate::bus::publisher::Publish;
use crate::bus::reader::Reader;
use crate::bus::streams::{Incarnations, StreamShape};
use crate::metrics::Metrics;
use orchestr8_core::leases::{LeaseTable, LeaseTicks};
use orchestr8_core::machine::{Circumstances, Draws};
use orchestr8_nats::Stranded;
use orchestr8_proto::ids::{DispatchId, LeaseId};
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::tokens::TokenKeys;
use orchestr8_proto::traces::SpanSink;
use orchestr8_store::StoreError;
use orchestr8_store::migrate::{Database, Installation};
use orchestr8_store::queue::Lot;
use orchestr8_store::shards::{Hears, LaneIdentity};
use rand::RngExt;
use sqlx::PgConnection;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Events in one batch.
pub const BATCH_EVENTS_MAX: usize = 512;
/// Bytes of outcomes in one batch, and of submissions beside the first: a commit holds several times as much.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Inputs that wait for the lane.
pub const INPUTS_MAX: usize = 256;
/// Inputs that one gather takes: what asks for nothing adds nothing to the batch, and must not hold the lane either.
pub const INPUTS_IN_GATHER_MAX: usize = 256;
/// Commands of callers that are taken before the inputs of executors.
pub const COMMANDS_IN_BATCH_MAX: usize = 256;
/// A pass without an answer of the database for this long is a doubt; above every timeout of the server's own.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(40);

/// What a lane is given.
pub struct LaneParts {
    /// Its number within this process, from 0.
    pub index: usize,
    /// The coordinator's name and the lane's number, a label.
    pub name: String,
    /// Protocol times.
    pub times: ProtocolTimes,
    /// Bytes of executions that are kept.
    pub cache_bytes_max: usize,
    /// What the streams look like.
    pub shape: StreamShape,
    /// Dispatches in one message, at most.
    pub bundle_max: usize,
    /// Bytes of the inputs of one dispatch, at most.
    pub inputs_bytes_max: usize,
    /// Signs dispatches, verifies outcomes.
    pub keys: TokenKeys,
    /// What the database is.
    pub installation: Installation,
    /// Where the database is.
    pub database: Database,
    /// The lane's own connection to it.
    pub connection: PgConnection,
    /// NATS.
    pub bus: Bus,
    /// What arrives.
    pub inputs: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    /// What callers want.
    pub commands: mpsc::Receiver<Command>,
    /// Whom to wake.
    pub handle: EngineHandle,
    /// What is counted.
    pub metrics: Metrics,
    /// When a coordinator's beat came over NATS last.
    pub heard: watch::Receiver<LastHeard>,
    /// To the publisher.
    pub publisher: mpsc::UnboundedSender<Vec<Publish>>,
    /// Control messages to executors.
    pub speaker: Speaker,
    /// Parts of inputs to executors.
    pub carrier: Carrier,
    /// Where spans go.
    pub spans: SpanSink,
    /// The lane's current ownership, shared with the publisher.
    pub epoch: Arc<AtomicU64>,
}

/// A lane with everything it knows. Only `pending` and the callers' replies survive a recovery.
pub struct Lane {
    pub(super) parts: LaneParts,
    pub(super) clock: DatabaseClock,
    /// Drawn by this start: what says in the database that the lane lives.
    pub(super) identity: LaneIdentity,
    pub(super) shards: BTreeMap<u16, Held>,
    pub(super) pending: VecDeque<Work>,
    pub(super) flights: Flights,
    pub(super) executions: ExecutionCache,
    pub(super) plans: PlanCache,
    pub(super) leases: LeaseTable,
    pub(super) roster: Roster,
    pub(super) served: Served,
    pub(super) lots: Lots,
    pub(super) durations: Durations,
    pub(super) bundler: Bundler,
    pub(super) references: References,
    pub(super) inquiries: Inquiries,
    pub(super) reader: Option<Reader>,
    pub(super) reader_generation: u64,
    pub(super) reader_name: Option<String>,
    /// Messages that the present reader has given.
    pub(super) reader_taken: u64,
    pub(super) incarnations: Option<Incarnations>,
    pub(super) server_clock_offset_us: Option<i64>,
    pub(super) next_due: Option<Timestamp>,
    pub(super) next_submission_shard: usize,
    pub(super) again_from: Instant,
    pub(super) alarms: Alarms,
    pub(super) vanished: Vec<(Arc<Lot>, i64)>,
    pub(super) purged_below: u64,
    pub(super) in_doubt: bool,
    /// What the database was told of hearing NATS.
    pub(super) hears: Hears,
    pub(super) mail: Mail,
    /// What executors are told next.
    pub(super) unsaid: Outbox,
    /// Leases under which shards of ours may stand in the database: those that are held, and those whose take got no answer.
    pub(super) leases_drawn: Vec<LeaseId>,
    pub(super) queues_known: HashSet<String>,
    pub(super) connected: bool,
    pub(super) batch_max: usize,
    pub(super) doubts_in_row: u32,
    pub(super) renewed_at: Instant,
    /// Where in the stream the present reader is: what rule R6 asks for.
    pub(super) read_through: Option<u64>,
    /// From which time on the present reader reads.
    pub(super) reader_from: Timestamp,
    /// For how long there has been no reader.
    pub(super) stranded: Stranded,
}

/// When the lane's own clock wants something.
pub(super) struct Alarms {
    pub renewal: Instant,
    pub beat: Instant,
    pub survey: Instant,
    pub reader: Option<Instant>,
    pub retake: Option<Instant>,
    /// When the lease of another lane runs out.
    pub expiry: Option<Instant>,
    pub ask: Option<Instant>,
    /// When those who are new, or say something new of themselves, are shown and spoken to.
    pub announce: Option<Instant>,
    pub purge: Instant,
    /// When confirmations have waited long enough.
    pub confirm: Option<Instant>,
    /// When bundles of dispatches have waited long enough for company.
    pub bundles: Option<Instant>,
}

/// Randomness for the state machine.
pub(super) struct Randomness;

impl Draws for Randomness {
    fn dispatch_id(&mut self) -> DispatchId {
        DispatchId::random()
    }

    fn unit(&mut self) -> f64 {
        rand::rng().random()
    }
}

impl Lane {
    /// A lane that owns nothing yet.
    #[must_use]
    pub fn new(parts: LaneParts, now: Timestamp) -> Self {
        let times = parts.times;
        let ticks = |time: Duration| u32::try_from(time.as_micros().div_ceil(times.beat().as_micros().max(1))).unwrap_or(u32::MAX);
        let lease_ticks = LeaseTicks {
            lease: ticks(times.run_lease()),
            mass_silence_hold: ticks(times.mass_silence_hold()),
            forget: ticks(times.reconcile()),
        };
        let soon = Instant::now();
        Self {
            clock: DatabaseClock::new(now),
            identity: LaneIdentity { lane: Uuid::new_v4(), owner: parts.name.clone(), lease_time: times.shard_lease() },
            shards: BTreeMap::new(),
            pending: VecDeque::new(),
            flights: Flights::default(),
            executions: ExecutionCache::new(parts.cache_bytes_max),
            plans: PlanCache::default(),
            leases: LeaseTable::new(lease_ticks),
            roster: Roster::default(),
            served: Served::new(parts.bus.queue_forgotten_after()),
            lots: Lots::new(parts.shape.subject_messages_max),
            durations: Durations::default(),
            bundler: Bundler::new(parts.epoch.load(Ordering::Acquire)),
            references: References::new(&times),
            inquiries: Inquiries::default(),
            reader: None,
            reader_generation: 0,
            reader_name: None,
            reader_taken: 0,
            incarnations: None,
            server_clock_offset_us: None,
            next_due: None,
            next_submission_shard: 0,
            again_from: soon,
            alarms: Alarms {
                renewal: soon,
                beat: soon,
                survey: soon + times.reconcile(),
                reader: None,
                retake: None,
                expiry: None,
                ask: None,
                announce: None,
                purge: soon,
                confirm: None,
                bundles: None,
            },
            vanished: Vec::new(),
            purged_below: 0,
            in_doubt: false,
            hears: Hears::Beats,
            mail: Mail::default(),
            unsaid: Outbox::default(),
            leases_drawn: Vec::new(),
            queues_known: HashSet::new(),
            connected: true,
            batch_max: BATCH_EVENTS_MAX,
            doubts_in_row: 0,
            renewed_at: soon,
            read_through: None,
            reader_from: Timestamp(0),
            stranded: Stranded::after(times.bus_silence()),
            parts,
        }
    }

    /// Works until `shutdown`, then finishes what is gathered and gives its shards back.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.look_after_streams();
        while !shutdown.is_cancelled() {
            self.gather(&shutdown).await;
            match tokio::time::timeout(ANSWER_MAX, self.pass()).await {
                Ok(Ok(())) if self.in_doubt => {}
                Ok(Ok(())) => self.doubts_in_row = 0,
                Ok(Err(doubt)) => self.doubted(&doubt),
                Err(_) => {
                    // It may have been too much for one pass.
                    self.batch_max = (self.batch_max / 2).max(1);
                    self.doubted(&StoreError::Unavailable(format!("no answer within {} s", ANSWER_MAX.as_secs())));
                }
            }
        }
        self.stop().await;
    }

    /// One pass over everything that is due or gathered.
    async fn pass(&mut self) -> Result<(), StoreError> {
        self.flights.doubt()?;
        self.alarms().await?;
        if self.in_doubt {
            // What is remembered was let go: nothing is decided before the recovery.
            self.refuse_without_shards();
            return Ok(());
        }
        self.read_inbox().await?;
        self.depart().await?;
        if !self.pending.is_empty() {
            let batch = self.take_batch();
            self.process(batch).await?;
        }
        self.send_mail().await?;
        self.look_for_vanished().await?;
        self.decide_inquiries();
        self.serve_inputs().await?;
        self.feed().await
    }

    /// Whether the shard is one of this lane's.
    pub(super) fn owns(&self, shard: u16) -> bool {
        self.shards.contains_key(&shard)
    }

    /// Whether this lane may act for its shards.
    pub(super) fn owns_shards(&self) -> bool {
        !self.shards.is_empty() && !self.in_doubt
    }

    /// Any doubt runs the same recovery (rule R2).
    fn doubted(&mut self, doubt: &StoreError) {
        tracing::warn!(%doubt, shards = self.shards.len(), "recovering the shards");
        self.parts.metrics.doubted(doubt);
        let reason = doubt.to_string();
        self.parts.handle.update_health(self.parts.index, |health| health.database = Some(reason));
        // The first at once, the next ones with a growing pause: a doubt that stays must not become a storm.
        let pause = self.parts.times.claim_after() / 20 * (1 << self.doubts_in_row.min(5));
        self.alarms.retake = Some(if self.doubts_in_row == 0 { Instant::now() } else { Instant::now() + pause });
        self.doubts_in_row += 1;
        self.in_doubt = true;
        self.abandon_flight();
        self.let_go();
    }

    /// Waits for an input, a command or the lane's own clock; takes what is there, up to a batch. Never lingers.
    async fn gather(&mut self, shutdown: &CancellationToken) {
        let wake = self.next_alarm();
        let idle = self.pending.is_empty() && !self.flights.has_departures();
        if (idle || self.in_doubt) && !self.wants_feeding() && !self.wants_mail() && !self.wants_parts() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(wake) => {}
                landing = self.flights.landing() => self.land(landing).await,
                Some(input) = self.parts.inputs.1.recv() => self.take_in(input),
                Some(command) = self.parts.commands.recv() => self.take_command(command),
            }
        }
        // What waits for this worker to read it belongs to this batch.
        tokio::task::yield_now().await;
        self.take_what_is_there();
    }

    /// What has arrived, as far as a batch reaches; the rest waits in its channel, and that in the broker.
    fn take_what_is_there(&mut self) {
        // Callers first: executors that flood must not starve them.
        let mut commands = 0;
        while commands < COMMANDS_IN_BATCH_MAX
            && self.pending.len() + self.flights.waiting.len() < BATCH_EVENTS_MAX
            && let Ok(command) = self.parts.commands.try_recv()
        {
            self.take_command(command);
            commands += 1;
        }
        let (mut inputs, mut bytes) = (0, 0);
        while inputs < INPUTS_IN_GATHER_MAX
            && self.pending.len() < BATCH_EVENTS_MAX
            && bytes < BATCH_BYTES_MAX
            && let Ok(input) = self.parts.inputs.1.try_recv()
        {
            inputs += 1;
            bytes += input.bytes();
            self.take_in(input);
        }
    }

    /// Takes the front of what is pending: at most [`BATCH_EVENTS_MAX`] items; submissions count by their tasks and bytes.
    pub(super) fn take_batch(&mut self) -> Vec<Work> {
        let mut pending = std::mem::take(&mut self.pending);
        let batch = self.take_front(&mut pending);
        self.pending = pending;
        batch
    }

    pub(super) fn take_front(&self, pending: &mut VecDeque<Work>) -> Vec<Work> {
        let mut batch = Vec::new();
        let (mut events, mut bytes) = (0, 0);
        while let Some(work) = pending.front() {
            match work {
                Work::Event(_) | Work::Position(_) => events += 1,
                Work::New(group) => {
                    events += work.tasks();
                    bytes += group.bytes;
                }
            }
            if (events > self.batch_max || bytes > BATCH_BYTES_MAX) && !batch.is_empty() {
                break;
            }
            batch.extend(pending.pop_front());
        }
        batch
    }

    fn next_alarm(&self) -> Instant {
        let due = self.next_due.filter(|_| self.owns_shards()).map(|due| self.instant_of(due));
        let now = Instant::now();
        let again = Some(self.again_from).filter(|at| *at > now && self.lots.has_again());
        let full = self.lots.next_try().filter(|at| *at > now);
        // In doubt nobody is told, so an end of hearing that has passed must not wake the lane over and over.
        let deaf = Some(self.parts.heard.borrow().at + self.parts.times.bus_silence());
        let deaf = deaf.filter(|_| self.hears == Hears::Beats && !self.in_doubt);
        [
            Some(self.alarms.renewal),
            Some(self.alarms.beat),
            Some(self.alarms.survey),
            Some(self.alarms.purge),
            self.alarms.reader,
            self.alarms.retake,
            self.alarms.expiry,
            self.alarms.ask,
            self.alarms.announce,
            self.alarms.confirm,
            self.alarms.bundles,
            due,
            again,
            full,
            deaf,
        ]
        .into_iter()
        .flatten()
        .min()
        .expect("some are always set")
    }

    pub(super) fn instant_of(&self, time: Timestamp) -> Instant {
        Instant::now() + time.since(self.clock.peek())
    }

    pub(super) fn circumstances<'a>(times: &ProtocolTimes, now: Timestamp, draws: &'a mut Randomness) -> Circumstances<'a> {
        Circumstances { now, draws, cancel_patience: times.fresh_delivery() + times.run_lease(), loss_reset: times.loss_reset() }
    }
}
