//! Inputs and commands into work. Nothing is decided here, and nothing written.

use super::handle::{CancelTarget, Command, CommandError, Request, SubmitError};
use super::input::{Addressed, Connection, Head, Input, OutcomeMessage, PublishEnd, Published};
use super::inquiry::Doubt;
use super::lane::Lane;
use super::untrusted::{self, BeatOf, Doubtful};
use super::work::{CancelReply, EventWork, Group, GroupState, ReadThrough, Work};
use crate::bus::publisher::Member;
use crate::bus::survey::ReaderState;
use crate::metrics::PublishRefusal;
use orchestr8_core::execution::Failure;
use orchestr8_core::machine::Event;
use orchestr8_proto::ids::{ExecutionId, RunId};
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::wire::{self, ClaimBatch, Heartbeat, HeldRun, OutcomeBatch};
use orchestr8_store::shards::Position;
use std::collections::HashMap;
use tokio::time::Instant;

impl Lane {
    pub(super) fn take_in(&mut self, input: Input) {
        match input {
            Input::Outcomes(message) => self.take_outcomes(message),
            Input::Claims(batch) => self.take_claims(&batch),
            Input::Beat(beat) => self.take_beat(beat),
            Input::Published(ends) => ends.into_iter().for_each(|end| self.take_published(&end)),
            Input::ReaderStarted(generation, name) => {
                if generation == self.reader_generation {
                    self.reader_name = Some(name);
                    self.stranded.works();
                }
            }
            Input::ReaderEnded(generation, reason) => self.reader_ended(generation, &reason),
            Input::ReaderState(generation, state) => self.take_reader_state(generation, state),
            Input::Head(head) => self.take_head(head),
            Input::Surveyed(survey) => self.reconcile(&survey),
            Input::Connection(connection) => self.connection_changed(connection),
            Input::Streams(result) => self.streams_seen(result),
            Input::Deleted(queue) => self.make_again(queue.as_deref()),
            Input::Nudge(nudge, asker) => self.take_nudge(&nudge, asker),
            Input::ServerClock(offset_us) => self.server_clock_offset_us = Some(offset_us),
            // The pass that follows serves who waits.
            Input::RoomForParts => {}
        }
    }

    fn take_outcomes(&mut self, message: OutcomeMessage) {
        let Some(incarnations) = self.incarnations.clone().filter(|_| message.generation == self.reader_generation) else { return };
        self.reader_taken += 1;
        let Some(shard) = message.shard.filter(|shard| self.owns(*shard)) else { return };
        match wire::decode::<OutcomeBatch>(message.payload) {
            Ok(batch) => {
                let (works, refusals) = untrusted::outcomes(batch, shard, &self.parts.keys);
                self.pending.extend(works);
                // One line: who sends rubbish must not fill the log as well.
                if let Some(refusal) = refusals.first() {
                    tracing::warn!(%refusal, shard, refused = refusals.len(), "outcomes of a message were refused");
                }
            }
            Err(error) => tracing::warn!(%error, shard, "a message of outcomes was refused"),
        }
        let position = Position { incarnation: incarnations.outcomes, sequence: message.stream_sequence, time: message.stored_at };
        self.pending.push_back(Work::Position(ReadThrough { generation: self.reader_generation, position }));
    }

    /// A reader that was given everything up to the head, all of which has been taken in, is at the head: the positions of shards
    /// without outcomes move on too, so that the stream can be purged.
    fn take_reader_state(&mut self, generation: u64, state: ReaderState) {
        let Some(incarnations) = self.incarnations.as_ref().filter(|_| generation == self.reader_generation) else { return };
        if state.pending > 0 || state.delivered != self.reader_taken {
            return;
        }
        let (sequence, time) = state.head;
        let position = Position { incarnation: incarnations.outcomes.clone(), sequence, time };
        self.pending.push_back(Work::Position(ReadThrough { generation, position }));
    }

    fn take_claims(&mut self, batch: &ClaimBatch) {
        let tick = self.parts.times.beat();
        let mut refusals = Vec::new();
        for claim in &batch.claims {
            match untrusted::claim(claim, batch, &self.parts.keys, tick) {
                Ok((work, doubtful)) => self.take_claim(work, doubtful),
                Err(refusal) => refusals.push(refusal),
            }
        }
        refusals.extend(batch.inputs.iter().filter_map(|ask| self.take_ask(ask).err()));
        if let Some(refusal) = refusals.first() {
            let executor = untrusted::name(&batch.executor);
            tracing::warn!(%refusal, %executor, refused = refusals.len(), "claims of a message were refused");
        }
    }

    fn take_claim(&mut self, work: Work, doubtful: Doubtful) {
        let Work::Event(event) = &work else { return };
        let shard = event.addressed.execution.shard();
        if !self.owns(shard) {
            return;
        }
        match doubtful {
            Doubtful::Yes => self.inquiries.add(shard, Doubt::Event(work)),
            Doubtful::No => self.pending.push_back(work),
        }
    }

    /// A heartbeat is a set (rule R4): what it lists and nobody holds is a claim, what it misses is suspect.
    fn take_beat(&mut self, beat: Heartbeat) {
        self.look_after_served(&beat.queues);
        let complete = self.roster.part(beat);
        if self.roster.take_news() {
            self.announce_soon();
        }
        let Some(complete) = complete else { return };
        let reading = self.leases.beat(&complete.beat(|shard| self.owns(shard)));
        for suspect in reading.suspects {
            self.suspect(suspect);
        }
        if reading.claims.is_empty() {
            return;
        }
        let by_run: HashMap<RunId, &HeldRun> =
            complete.runs.iter().filter_map(|run| Some((RunId::try_from(run.run_id.as_ref()).ok()?, run))).collect();
        let incarnation = complete.incarnation.to_bytes();
        let of = BeatOf { incarnation: &incarnation, executor: &complete.executor, sequence: complete.sequence };
        let mut refusals = Vec::new();
        for run in reading.claims {
            match by_run.get(&run).map(|listed| untrusted::listed(listed, of, &self.parts.keys, self.parts.times.beat())) {
                Some(Ok(work)) => self.take_claim(work, Doubtful::Yes),
                Some(Err(refusal)) => refusals.push(refusal),
                None => {}
            }
        }
        if let Some(refusal) = refusals.first() {
            let executor = untrusted::name(&complete.executor);
            tracing::warn!(%refusal, %executor, refused = refusals.len(), "runs in a heartbeat were refused");
        }
    }

    /// Executors fetch from consumers that must be there before the first task is.
    pub(super) fn look_after_served(&mut self, queues: &[String]) {
        let admitted = self.served.admit(queues, Instant::now());
        self.look_after_queues(&admitted);
    }

    /// Queues that were not looked at since the last survey.
    pub(super) fn look_after_queues(&mut self, queues: &[&String]) {
        let new: Vec<String> = queues.iter().filter(|queue| !self.queues_known.contains(**queue)).map(|queue| (*queue).clone()).collect();
        if new.is_empty() {
            return;
        }
        self.queues_known.extend(new.iter().cloned());
        let bus = self.parts.bus.clone();
        tokio::spawn(async move {
            for queue in new {
                if let Err(error) = bus.ensure_consumers(&queue).await {
                    tracing::warn!(%error, queue, "the consumers of a queue could not be made");
                }
            }
        });
    }

    pub(super) fn suspect(&mut self, suspect: orchestr8_core::leases::Suspect) {
        let lost = Work::event(suspect.task.execution(), Event::Lost(suspect.task.index(), suspect.run));
        self.inquiries.add(suspect.task.shard(), Doubt::Event(lost));
    }

    fn take_published(&mut self, published: &Published) {
        if published.epoch != self.epoch() {
            return;
        }
        self.lots.answered(published.members.len(), published.bytes);
        for member in &published.members {
            self.take_member(published, member);
        }
    }

    fn take_member(&mut self, published: &Published, member: &Member) {
        let Some(state) = self.lots.get(&published.lot) else { return };
        state.dirty = true;
        match published.end {
            PublishEnd::Stored(stream_sequence) => {
                state.marks.acked(member.sequence, stream_sequence);
                self.parts.metrics.published(1);
            }
            PublishEnd::Full | PublishEnd::NoStorage => {
                let pause =
                    if published.end == PublishEnd::Full { self.parts.times.claim_after() / 4 } else { self.parts.times.in_progress() };
                let refusal = if published.end == PublishEnd::Full { PublishRefusal::Full } else { PublishRefusal::NoStorage };
                self.parts.metrics.publish_refused(refusal);
                state.marks.refused_as_full(member.sequence);
                state.full_until = Some(Instant::now() + pause);
                self.lots.not_stored(&published.lot, member.sequence);
            }
            PublishEnd::TooLarge => {
                self.parts.metrics.publish_refused(PublishRefusal::TooLarge);
                let failure = Failure { error_type: "too_large".into(), message: "the dispatch is larger than NATS takes".into() };
                let event = Event::Undeliverable(member.task.index(), member.dispatch, failure);
                self.pending.push_back(Work::event(member.task.execution(), event));
            }
        }
    }

    fn reader_ended(&mut self, generation: u64, reason: &str) {
        if generation == self.reader_generation {
            tracing::warn!(reason, "the reader of outcomes ended; starting it again at the committed position");
            self.reader = None;
            self.reader_name = None;
            self.alarms.reader = Some(Instant::now() + self.parts.times.claim_after() / 4);
            self.look_after_streams();
            self.jetstream_failed();
        }
    }

    /// There is no reader, or there are no streams: this server may have lost the others of its cluster.
    pub(super) fn jetstream_failed(&mut self) {
        if self.connected && self.stranded.fails(Instant::now().into_std()) {
            let bus = self.parts.bus.clone();
            tokio::spawn(async move { bus.change_server().await });
        }
    }

    fn take_head(&mut self, head: Head) {
        if let Err(error) = &head.head {
            // The reader may be what is wrong: it starts anew, and the question is asked again.
            tracing::warn!(%error, shard = head.shard, "the last outcome of a shard cannot be told; no verdict until it can");
            let later = Instant::now() + self.parts.times.claim_after();
            self.alarms.reader.get_or_insert(later);
            self.alarms.ask.get_or_insert(later);
        }
        // What lies before the reader's start is decided: the reader starts before the position of every shard.
        let to_read = |(sequence, stored_at): (u64, Timestamp)| if stored_at < self.reader_from { 0 } else { sequence };
        let sequence = head.head.ok().map(|head| head.map_or(0, to_read));
        self.inquiries.answered(head.shard, head.inquiry, sequence);
    }

    fn connection_changed(&mut self, connection: Connection) {
        match connection {
            Connection::Up => {
                // Nobody could be heard meanwhile.
                self.connected = true;
                self.listen_anew();
                self.look_after_streams();
                self.alarms.reader = Some(Instant::now());
                self.parts.handle.update_health(self.parts.index, |health| health.nats = None);
            }
            Connection::Gap => {
                self.listen_anew();
                self.alarms.reader = Some(Instant::now());
            }
            Connection::Down => {
                self.connected = false;
                self.parts.metrics.connection_lost();
                tracing::warn!("the connection to NATS is gone; reconnecting");
                self.parts.handle.update_health(self.parts.index, |health| health.nats = Some("disconnected".into()));
            }
        }
    }

    pub(super) fn take_command(&mut self, command: Command) {
        match command {
            Command::Watch { execution, reply } => self.watch_elsewhere(execution, reply),
            Command::Nudge { shard } => self.nudge_owner(shard),
            Command::QueuesChanged => self.queues_changed(),
            Command::Order { incarnation, order } => self.order_executor(incarnation, order),
            Command::AskBroker { reply } => self.ask_broker(reply),
            Command::Submit { request: Request { submissions, bytes, key, room }, reply } => {
                let (ids, reply, state) = (Vec::new(), Some(reply), GroupState::Fresh);
                let group = Group { submissions, bytes, ids, key, reply, room, state, tries: 0, inbox: None };
                self.flights.waiting.push_back(Work::New(Box::new(group)));
            }
            Command::Cancel { target, reply } => {
                let (execution, event, task) = match target {
                    CancelTarget::Workflow(execution) => (execution, Event::Cancel, None),
                    CancelTarget::Task(task) => (task.execution(), Event::CancelTask(task.index()), Some(task)),
                };
                let addressed = Addressed { execution, event };
                let reply = Some(CancelReply { task, sender: reply });
                self.pending.push_back(Work::Event(Box::new(EventWork { addressed, claim: None, reply, inbox: None })));
            }
        }
    }

    /// In doubt nothing can be decided or stored: callers are told, events come again.
    pub(super) fn refuse_without_shards(&mut self) {
        if !self.shards.is_empty() {
            return;
        }
        let why = || "the database is away, or this coordinator is stopping".to_owned();
        for work in self.pending.drain(..).chain(self.flights.waiting.drain(..)) {
            match work {
                Work::New(mut group) if group.state == GroupState::Fresh => {
                    group.answer(Err(SubmitError::Unavailable(why())));
                }
                Work::New(mut group) => group.answer(Err(SubmitError::Unavailable(format!("{}; it may have been accepted", why())))),
                Work::Event(event) => {
                    if let Some(reply) = event.reply {
                        reply.sender.send(Err(CommandError::Unavailable(why()))).ok();
                    }
                }
                Work::Position(_) => {}
            }
        }
    }

    /// The shard in which this gather's executions are made; the next gather's go to the next.
    pub(super) fn draw_ids(&mut self, count: usize, shard: u16) -> Vec<ExecutionId> {
        let unix_ms = self.clock.now().unix_ms();
        let mut random = rand::rng();
        (0..count).map(|_| ExecutionId::generate(unix_ms, shard, &mut random)).collect()
    }
}
