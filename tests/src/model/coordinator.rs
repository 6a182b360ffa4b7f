//! One lane over the real decision code: gather, load, step, commit, act, as `engine/lane.rs` and `engine/act.rs` do it.
//!
//! What is pure is the real thing (`machine`, `leases`, `marks`, `inquiries`); what the engine does around it with sockets and
//! SQL is told here in the plainest way.

use super::broker::{Broker, Witness};
use super::database::{Database, Position, hash_execution};
use super::mail::{Letter, LetterId};
use super::messages::{Asked, Beat, Doubtful, Question, Sent, Told, Wants};
use super::reference::Reference;
use super::rules::{Rule, Rules};
use orchestr8_core::execution::Execution;
use orchestr8_core::inquiries::Inquiries;
use orchestr8_core::leases::{self, Grant, LeaseTable, LeaseTicks, Listed};
use orchestr8_core::marks::Marks;
use orchestr8_core::plan::Plan;
use orchestr8_proto::ids::{DispatchId, ExecutionId, Incarnation, RunId, TaskId};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The model has one shard.
pub(super) const SHARD: u16 = 0;

/// What waits for the lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Work {
    Start(ExecutionId),
    Outcome(Told),
    /// With the outcomes that had been published before this evidence.
    Claim(Asked, Vec<Witness>),
    Lost(TaskId, RunId, Vec<Witness>),
    Position(Position),
    Due(TaskId),
    Cancel(ExecutionId),
    /// From the inbox.
    Letter(LetterId, Letter),
    Undeliverable(TaskId, DispatchId),
}

/// What waits for a verdict, with the witnesses as above.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Doubt {
    Work(Work),
    Vanished(Vec<(TaskId, i64)>, Vec<Witness>),
}

/// The reader of outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Reader {
    consumers: u64,
    incarnation: u64,
    next: u64,
}

/// What the database makes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    /// Committed, and the lane knows.
    Committed,
    /// Committed, but the answer is lost.
    AnswerLost,
    /// Not committed, and the lane does not know.
    Lost,
}

/// Everything around a lane.
pub(super) struct Stage<'a> {
    pub(super) database: &'a mut Database,
    pub(super) broker: &'a mut Broker,
    pub(super) reference: &'a mut Reference,
    pub(super) plans: &'a BTreeMap<ExecutionId, Arc<Plan>>,
    pub(super) now_us: i64,
    pub(super) sent: Vec<Sent>,
}

/// A coordinator's lane with everything that it remembers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Coordinator {
    pub(super) rules: Rules,
    pub(super) lease: u64,
    pub(super) cache: BTreeMap<ExecutionId, Execution>,
    pub(super) leases: LeaseTable,
    pub(super) marks: Marks,
    pub(super) marks_stream: u64,
    pub(super) inquiries: Inquiries<Doubt>,
    pub(super) pending: VecDeque<Work>,
    pub(super) reader: Option<Reader>,
    pub(super) reader_from_us: i64,
    pub(super) read_through: Option<u64>,
    pub(super) position: Option<Position>,
    /// Beats of one interval were heard since the recovery: what was tried may be published again.
    pub(super) heard: bool,
    /// A batch ended in doubt, or the shard is another's: nothing but a recovery helps. Heartbeats are heard all the same.
    pub(super) in_doubt: bool,
    /// Something may be in the inbox.
    pub(super) inbox_due: bool,
    /// Executors' names.
    pub(super) names: BTreeMap<Incarnation, u8>,
}

impl Coordinator {
    /// A new process that owns nothing.
    pub(super) fn new(rules: Rules, ticks: LeaseTicks) -> Self {
        Self {
            rules,
            lease: 0,
            cache: BTreeMap::new(),
            leases: LeaseTable::new(ticks),
            marks: Marks::default(),
            marks_stream: 0,
            inquiries: Inquiries::default(),
            pending: VecDeque::new(),
            reader: None,
            reader_from_us: 0,
            read_through: None,
            position: None,
            heard: false,
            in_doubt: true,
            inbox_due: false,
            names: BTreeMap::new(),
        }
    }

    /// Serves the inputs of those who hold their runs, under a fence that holds (rule R3).
    pub(super) fn serve(&self, wants: &[Wants], stage: &mut Stage<'_>) {
        if self.in_doubt || (stage.database.lease != self.lease && self.rules.keep(Rule::R3)) {
            return;
        }
        let holds = |asked: &&Wants| {
            self.leases.lease(asked.run).is_some_and(|(_, lease)| lease.dispatch == asked.dispatch && lease.task == asked.task)
        };
        for asked in wants.iter().filter(holds) {
            if let Some((incarnation, _)) = self.leases.lease(asked.run) {
                stage.sent.push(Sent::Inputs(asked.run, incarnation, asked.dispatch));
            }
        }
    }

    /// Takes the shard and reads everything again (rule R2).
    pub(super) fn recover(&mut self, stage: &mut Stage<'_>, overlap_us: i64) {
        stage.reference.leases += 1;
        self.lease = stage.reference.leases;
        stage.database.lease = self.lease;
        let fresh = self.marks_stream == 0;
        if self.rules.keep(Rule::R2) || fresh {
            self.forget();
            self.restore(stage);
        }
        self.in_doubt = false;
        self.heard = false;
        self.inbox_due |= self.rules.keep(Rule::InboxLookedInto);
        stage.sent.push(Sent::BeatNow);
        self.start_reader(stage.broker, overlap_us);
    }

    /// Gives the shard away: what is decided is saved, what is only gathered is read again by the next owner.
    pub(super) fn hand_over(&mut self, stage: &mut Stage<'_>) {
        // Without the lease there is nothing to save.
        self.save(stage).ok();
        self.forget();
        self.in_doubt = true;
    }

    fn forget(&mut self) {
        self.cache.clear();
        self.inquiries.clear();
        let keeps_letters = !self.rules.keep(Rule::InboxReadAgain);
        self.pending.retain(|work| match work {
            Work::Start(_) | Work::Cancel(_) => true,
            Work::Letter(..) => keeps_letters,
            Work::Outcome(_) | Work::Claim(..) | Work::Lost(..) | Work::Position(_) | Work::Due(_) | Work::Undeliverable(..) => false,
        });
        self.leases.forget_shard(SHARD);
    }

    fn restore(&mut self, stage: &Stage<'_>) {
        self.position = stage.database.position;
        for row in stage.database.rows.values() {
            for (index, task) in (0..).zip(&row.tasks) {
                let Some((holder, dispatch)) = task.holder.zip(task.dispatch) else { continue };
                if let Some(name) = task.executor.as_deref().and_then(|name| name.parse().ok()) {
                    self.names.insert(holder.incarnation, name);
                }
                let (run, incarnation) = (holder.run_id, holder.incarnation);
                let grant = Grant { task: row.id.task(index), dispatch: dispatch.id, run, incarnation, beat_sequence: 0, ticks: None };
                self.leases.found(grant, &task.executor.clone().unwrap_or_default());
            }
        }
        if !self.rules.keep(Rule::Found) {
            self.leases.grant_full_leases();
        }
        let saved = stage.database.marks.clone().unwrap_or_default();
        let highest = stage.database.queued((0, i64::MAX)).last().map_or(0, |row| row.sequence);
        self.marks = Marks::restored(saved.published_through, saved.tried_through, highest, &saved.checkpoints);
        self.marks_stream = saved.stream;
        self.streams_seen(stage.broker);
    }

    /// A stream that was made anew has nothing of what was published.
    pub(super) fn streams_seen(&mut self, broker: &Broker) {
        if self.marks_stream != broker.tasks.incarnation {
            if self.marks_stream != 0 {
                self.marks.stream_changed();
            }
            self.marks_stream = broker.tasks.incarnation;
        }
    }

    /// Starts reading at the committed position, by time.
    pub(super) fn start_reader(&mut self, broker: &Broker, overlap_us: i64) {
        self.inquiries.reader_changed();
        self.pending.retain(|work| !matches!(work, Work::Outcome(_) | Work::Position(_)));
        let known = self.position.filter(|position| position.incarnation == broker.outcomes.incarnation);
        self.reader_from_us = known.map_or(0, |position| position.time_us - overlap_us);
        self.read_through = None;
        let from = broker.outcomes.messages.iter().find(|(_, (time_us, _))| *time_us >= self.reader_from_us);
        let next = from.map_or(u64::MAX, |(sequence, _)| *sequence);
        let (consumers, incarnation) = (broker.outcomes.consumers, broker.outcomes.incarnation);
        self.reader = Some(Reader { consumers, incarnation, next });
    }

    /// Whether the reader's consumer is still there.
    pub(super) fn reads(&self, broker: &Broker) -> bool {
        self.reader.is_some_and(|reader| reader.consumers == broker.outcomes.consumers)
    }

    /// The next message of outcomes, if there is one.
    pub(super) fn read(&mut self, broker: &Broker) -> bool {
        if !self.reads(broker) {
            return false;
        }
        let Some(reader) = &mut self.reader else { return false };
        let from = if reader.next == u64::MAX { 0 } else { reader.next };
        let reached = |time_us: i64| reader.next != u64::MAX || time_us >= self.reader_from_us;
        let next = broker.outcomes.messages.range(from..).find(|(_, (time_us, _))| reached(*time_us));
        let Some((sequence, (time_us, told))) = next else { return false };
        reader.next = sequence + 1;
        let position = Position { incarnation: reader.incarnation, sequence: *sequence, time_us: *time_us };
        self.pending.extend(told.iter().map(|told| Work::Outcome(*told)));
        self.pending.push_back(Work::Position(position));
        true
    }

    /// A claim or check arrived.
    pub(super) fn take_claim(&mut self, asked: Asked, broker: &Broker) {
        self.names.insert(asked.incarnation, asked.name);
        match asked.doubtful {
            Doubtful::No => self.pending.push_back(Work::Claim(asked, Vec::new())),
            Doubtful::Yes => {
                let witnesses = broker.witnesses(|told| told.dispatch == asked.dispatch);
                self.doubt(Doubt::Work(Work::Claim(asked, witnesses)));
            }
        }
    }

    /// A heartbeat arrived (rule R4). A lane without the shard hears it as well, so that it knows who is silent when it takes it.
    pub(super) fn take_beat(&mut self, beat: &Beat, broker: &Broker) {
        self.names.insert(beat.incarnation, beat.name);
        if !self.rules.keep(Rule::R4) {
            for (incarnation, name) in &self.names {
                if *name == beat.name {
                    let executor = named(*name);
                    self.leases.beat(&leases::Beat { incarnation: *incarnation, executor, sequence: 0, runs: Vec::new(), last: false });
                }
            }
            return;
        }
        let runs = beat.runs.iter().map(|run| Listed { task: run.task, dispatch: run.dispatch, run: run.run }).collect();
        let (incarnation, executor) = (beat.incarnation, named(beat.name));
        let reading = self.leases.beat(&leases::Beat { incarnation, executor, sequence: beat.sequence, runs, last: false });
        if self.in_doubt {
            return;
        }
        let mut suspects = reading.suspects;
        suspects.sort_by_key(|suspect| suspect.task);
        suspects.into_iter().for_each(|suspect| self.suspect(suspect, broker));
        for run in beat.runs.iter().filter(|run| reading.claims.contains(&run.run)) {
            self.take_claim(Asked { doubtful: Doubtful::Yes, question: Question::Claim, ..*run }, broker);
        }
    }

    /// One beat interval on the lane's own clock, with or without the shard.
    pub(super) fn tick(&mut self, broker: &Broker) {
        let mut suspects = self.leases.tick().suspects;
        if self.in_doubt {
            return;
        }
        // Incarnations and runs of the real executor are random: what they decide must not be.
        suspects.sort_by_key(|suspect| suspect.task);
        suspects.into_iter().for_each(|suspect| self.suspect(suspect, broker));
    }

    fn suspect(&mut self, suspect: leases::Suspect, broker: &Broker) {
        let witnesses = broker.witnesses(|told| told.run == suspect.run);
        self.doubt(Doubt::Work(Work::Lost(suspect.task, suspect.run, witnesses)));
    }

    /// Whether a claim of this run waits for the lane.
    pub(super) fn has_claim_of(&self, run: RunId) -> bool {
        let of_run = |work: &Work| matches!(work, Work::Claim(asked, _) if asked.run == run);
        let doubted = |doubt: &Doubt| matches!(doubt, Doubt::Work(work) if of_run(work));
        self.pending.iter().any(of_run) || self.inquiries.waiting().any(doubted)
    }

    pub(super) fn doubt(&mut self, doubt: Doubt) {
        if self.rules.keep(Rule::R6) {
            self.inquiries.add(SHARD, doubt);
        } else {
            self.believe(doubt);
        }
    }

    /// Asks for the last outcome, after the evidence (rule R6).
    pub(super) fn ask(&mut self, broker: &Broker) {
        for (shard, question) in self.inquiries.questions() {
            let to_read = |(sequence, time_us): (u64, i64)| if time_us < self.reader_from_us { 0 } else { sequence };
            let head = self.reads(broker).then(|| broker.head().map_or(0, to_read));
            self.inquiries.answered(shard, question, head);
        }
    }

    /// Decides what may be decided by now.
    pub(super) fn decide(&mut self, stage: &mut Stage<'_>) {
        let read_through = self.read_through.unwrap_or(0);
        for doubt in self.inquiries.decidable(|_| read_through) {
            if let Doubt::Vanished(_, witnesses) = &doubt {
                let unread = still_stored(witnesses, stage.broker);
                stage.database.judged.verdict(&unread);
                stage.reference.violations.append(&mut stage.database.judged.found);
            }
            match &doubt {
                Doubt::Work(Work::Lost(_, run, _)) if !self.leases.is_suspect(*run) => {}
                Doubt::Work(_) | Doubt::Vanished(..) => self.believe(doubt),
            }
        }
    }

    fn believe(&mut self, doubt: Doubt) {
        match doubt {
            Doubt::Work(work) => self.pending.push_back(work),
            Doubt::Vanished(rows, _) => {
                if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
                    self.marks.publish_again((first.1 - 1, last.1));
                }
            }
        }
    }
}

impl Hash for Coordinator {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.cache.values().for_each(|execution| hash_execution(execution, hasher));
        (self.lease, &self.leases, &self.marks, self.marks_stream, &self.inquiries, &self.pending, &self.names).hash(hasher);
        (self.reader, self.reader_from_us, self.read_through, self.position, self.heard, self.in_doubt, self.inbox_due).hash(hasher);
    }
}

/// As the rows say it.
fn named(name: u8) -> Arc<str> {
    name.to_string().into()
}

/// The runs of those outcomes that are still in the stream: a lost one may be published again after the evidence.
pub(super) fn still_stored(witnesses: &[Witness], broker: &Broker) -> Vec<RunId> {
    let stored = broker.witnesses(|_| true);
    witnesses.iter().filter(|witness| stored.contains(witness)).map(|witness| witness.run).collect()
}
