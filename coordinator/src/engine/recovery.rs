//! One recovery for every doubt (rule R2): take the shards under a new lease, forget everything, read it again.

use super::bundles::Bundler;
use super::cache::PlanCache;
use super::clock::DatabaseClock;
use super::input::{Input, Survey};
use super::inquiry::Doubt;
use super::lane::Lane;
use super::sharing::Held;
use super::work::Work;
use crate::bus::reader::{Reader, ReaderStart};
use crate::bus::streams::Incarnations;
use crate::kill_points;
use orchestr8_core::leases::Grant;
use orchestr8_core::machine::Event;
use orchestr8_core::marks::Marks;
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_store::StoreError;
use orchestr8_store::queue::{self, Lot};
use orchestr8_store::rows::{PositionRow, column};
use orchestr8_store::shards::{self, SavedMarks};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// A connection to the database is made within this time, or tried again.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Timers that are taken in at once.
const DUE_MAX: i64 = 512;
/// Vanished messages that are looked at for one lot and survey.
const VANISHED_MAX: i64 = 512;

impl Lane {
    /// Everything that the lane's own clock asks for.
    pub(super) async fn alarms(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        if self.alarms.retake.is_some_and(|at| at <= now) {
            self.retake().await;
        }
        if self.alarms.renewal <= now || self.alarms.expiry.is_some_and(|at| at <= now) || self.hearing_changed() {
            self.alarms.renewal = now + self.parts.times.shard_renewal();
            self.alarms.expiry = None;
            self.renew().await?;
        }
        if self.alarms.beat <= now {
            self.alarms.beat = now + self.parts.times.beat();
            self.beat();
        }
        if self.alarms.survey <= now {
            self.alarms.survey = now + self.parts.times.reconcile();
            self.forget_idle_lots().await?;
            self.references.forget_idle(now.checked_sub(self.parts.times.reconcile()).unwrap_or(now));
            self.survey();
        }
        if self.alarms.purge <= now {
            self.alarms.purge = now + self.parts.times.coordinator_silence();
            if self.owns_shards() && self.shards.contains_key(&0) {
                self.purge().await?;
            }
        }
        if self.alarms.reader.is_some_and(|at| at <= now) {
            self.start_reader();
        }
        if self.alarms.confirm.is_some_and(|at| at <= now) {
            self.speak();
        }
        if self.alarms.bundles.is_some_and(|at| at <= now) {
            self.send_bundles()?;
        }
        self.announce();
        self.take_due().await?;
        self.ask();
        Ok(())
    }

    /// Lets go of everything that is remembered. Pending outcomes are read again; callers' work stays.
    pub(super) fn let_go(&mut self) {
        let epoch = self.parts.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        self.bundler = Bundler::new(epoch);
        self.alarms.bundles = None;
        self.stop_reader();
        self.executions.clear();
        self.parts.handle.forget_standings();
        self.lots.clear();
        self.inquiries.clear();
        self.references.clear();
        let callers = |work: &Work| match work {
            // Those from the inbox are read again.
            Work::New(group) => group.inbox.is_none(),
            Work::Event(event) => event.reply.is_some(),
            Work::Position(_) => false,
        };
        self.pending.retain(callers);
        self.flights.waiting.retain(callers);
        self.mail.inbox_is_due();
    }

    /// Takes back what is ours and reads what it holds; tries again soon where that fails.
    async fn retake(&mut self) {
        match self.recover().await {
            Ok(()) => self.alarms.retake = None,
            Err(error) => {
                tracing::warn!(%error, "the shards cannot be recovered yet");
                self.shards.clear();
                self.parts.handle.owns(self.parts.index, &BTreeSet::new());
                let reason = error.to_string();
                self.parts.handle.update_health(self.parts.index, |health| health.database = Some(reason));
                self.alarms.retake = Some(Instant::now() + self.parts.times.claim_after());
                self.in_doubt = true;
                self.doubts_in_row += 1;
            }
        }
    }

    async fn reconnect(&mut self) -> Result<(), StoreError> {
        let away = |reason: String| StoreError::Unavailable(reason);
        let connecting = tokio::time::timeout(CONNECT_MAX, self.parts.database.lane_connection()).await;
        let connected = connecting.map_err(|_| away(format!("no connection within {} s", CONNECT_MAX.as_secs())))?;
        self.parts.connection = connected.map_err(|error| away(error.to_string()))?;
        Ok(())
    }

    async fn recover(&mut self) -> Result<(), StoreError> {
        if self.doubts_in_row > 0 {
            // The old connection may be in the middle of something, or hang.
            self.reconnect().await?;
            self.end_abandoned().await;
        }
        // A take whose answer was lost may have counted: its lease is one of ours.
        let mine = self.leases_drawn.clone();
        let lease = self.draw_lease();
        // A database that went back may have lost plans that this lane knows to be stored.
        self.plans = PlanCache::default();
        let taken = shards::retake(&mut self.parts.connection, &mine, lease, &self.identity).await?;
        self.let_go();
        // Runs of shards that others took meanwhile are no longer ours to judge.
        self.leases.forget_all();
        self.shards.clear();
        self.hold(taken, lease);
        let owned: Vec<u16> = self.shards.keys().copied().collect();
        kill_points::pass(kill_points::AFTER_RETAKE_BEFORE_RESTORE);
        self.restore(&owned).await?;
        self.in_doubt = false;
        self.parts.metrics.recovered(owned.len());
        tracing::info!(shards = owned.len(), running = self.leases.len(), "shards recovered");
        self.taken();
        // Perhaps some are missing by now.
        self.alarms.renewal = Instant::now();
        Ok(())
    }

    /// Reads what shards hold that were just taken.
    pub(super) async fn restore(&mut self, shards: &[u16]) -> Result<(), StoreError> {
        let renewed = self.save().await?;
        self.clock = DatabaseClock::new(renewed.now);
        shards.iter().for_each(|shard| self.leases.forget_shard(*shard));
        let running = queue::running(&mut self.parts.connection, shards).await?;
        // A recovery may be long: it keeps its lease.
        self.save().await?;
        for running in running {
            let (task, dispatch, run, incarnation) = (running.task, running.dispatch, running.run, running.incarnation);
            self.leases.found(Grant { task, dispatch, run, incarnation, beat_sequence: 0, ticks: None }, &running.executor);
        }
        let saved = shards::marks(&mut self.parts.connection, shards).await?;
        let counts = queue::queued_counts(&mut self.parts.connection, shards).await?;
        self.restore_lots(saved, counts);
        self.next_due = self.save().await?.next_due;
        self.mail.inbox_is_due();
        Ok(())
    }

    fn restore_lots(&mut self, saved: Vec<SavedMarks>, counts: Vec<queue::LotCount>) {
        let current = self.incarnations.as_ref().map(|incarnations| incarnations.tasks.clone());
        let mut counts: HashMap<Lot, queue::LotCount> = counts.into_iter().map(|count| (count.lot.clone(), count)).collect();
        for marks in saved {
            let lot = Lot { shard: marks.shard, queue: marks.queue, priority: marks.priority };
            let count = counts.remove(&lot);
            let (found, highest) = count.map_or((0, 0), |count| (count.published, count.highest));
            let restored = Marks::restored(marks.published_through, marks.tried_through, highest, &marks.checkpoints);
            self.lots.restore(lot, restored, marks.stream_incarnation, found);
        }
        if let Some(current) = current {
            self.task_stream_is(&current);
        }
    }

    /// A large batch may take so long that the lease would run out at its commit.
    pub(super) async fn renew_if_late(&mut self) -> Result<(), StoreError> {
        if self.renewed_at.elapsed() > self.parts.times.shard_lease() / 2 {
            self.save().await?;
        }
        Ok(())
    }

    /// Renews the leases; positions and marks are saved with them. Shards come and go with it.
    async fn renew(&mut self) -> Result<(), StoreError> {
        if self.in_doubt {
            return Ok(());
        }
        let renewed = self.save().await.inspect_err(|_| self.parts.metrics.renewal_failed())?;
        self.parts.handle.update_health(self.parts.index, |health| health.database = None);
        self.next_due = match (self.next_due, renewed.next_due) {
            (Some(known), Some(found)) => Some(known.min(found)),
            (known, found) => known.or(found),
        };
        if renewed.inbox {
            self.mail.inbox_is_due();
        }
        self.alarms.expiry = renewed.next_expiry.map(|at| self.instant_of(at));
        self.rebalance(renewed.standing).await
    }

    pub(super) async fn save(&mut self) -> Result<shards::Renewed, StoreError> {
        kill_points::pass(kill_points::AFTER_COMMIT_BEFORE_POSITION_SAVED);
        let marks = self.lots.dirty_marks();
        let row = |(shard, held): (&u16, &Held)| PositionRow {
            shard: i32::from(*shard),
            lease_id: held.lease.0,
            stream_incarnation: held.position.as_ref().map(|position| position.incarnation.clone()),
            outcome_sequence: held.position.as_ref().and_then(|position| i64::try_from(position.sequence).ok()),
            outcome_time: column(held.position.as_ref().map(|position| position.time)),
        };
        let positions: Vec<PositionRow> = self.shards.iter().map(row).collect();
        let hearing = self.hearing();
        let renewed = shards::renew(&mut self.parts.connection, (&self.identity, hearing), &positions, &marks).await?;
        self.clock.told(renewed.now);
        self.renewed_at = Instant::now();
        self.queues_are_paused(&renewed.paused_queues);
        Ok(renewed)
    }

    async fn purge(&mut self) -> Result<(), StoreError> {
        let Some(incarnations) = &self.incarnations else { return Ok(()) };
        let decided = self.shards.get(&0).and_then(|held| held.position.as_ref()).map_or(0, |position| position.sequence);
        if decided <= self.purged_below {
            return Ok(());
        }
        let positions = shards::safe_position(&mut self.parts.connection, &incarnations.outcomes).await?;
        self.purged_below = decided;
        let bus = self.parts.bus.clone();
        tokio::spawn(async move {
            match bus.purge_outcomes(positions).await {
                Ok(purged) => tracing::debug!(purged, "outcomes purged"),
                Err(error) => tracing::warn!(%error, "outcomes were not purged"),
            }
        });
        Ok(())
    }

    async fn take_due(&mut self) -> Result<(), StoreError> {
        let now = self.clock.now();
        if !self.owns_shards() || self.next_due.is_none_or(|due| due > now) {
            return Ok(());
        }
        let owned: Vec<u16> = self.shards.keys().copied().collect();
        let due = queue::due(&mut self.parts.connection, &owned, now, DUE_MAX).await?;
        // While rows are still due the next pass looks again; after that, the first timer to come.
        self.next_due = if i64::try_from(due.len()) == Ok(DUE_MAX) {
            Some(now)
        } else {
            queue::next_due(&mut self.parts.connection, &owned, now).await?
        };
        self.pending.extend(due.into_iter().map(|task| Work::event(task.execution(), Event::Due(task.index()))));
        Ok(())
    }

    /// Asks for the last outcome of every shard with new evidence (rule R6).
    fn ask(&mut self) {
        if self.alarms.ask.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.alarms.ask = None;
        let Some(reader) = self.reader_name.clone() else { return };
        for (shard, inquiry) in self.inquiries.questions() {
            let (bus, inputs, reader) = (self.parts.bus.clone(), self.parts.inputs.0.clone(), reader.clone());
            tokio::spawn(async move {
                let head = bus.outcome_head(shard, &reader).await.map_err(|error| error.to_string());
                inputs.send(Input::Head(super::input::Head { shard, inquiry, head })).await.ok();
            });
        }
    }

    fn start_reader(&mut self) {
        self.alarms.reader = None;
        self.inquiries.reader_changed();
        if !self.owns_shards() {
            return;
        }
        let Some(incarnations) = self.incarnations.clone() else { return self.look_after_streams() };
        self.stop_reader();
        let known = |held: &Held| held.position.clone().filter(|position| position.incarnation == incarnations.outcomes);
        let positions: Option<Vec<_>> = self.shards.values().map(known).collect();
        let start = ReaderStart {
            generation: self.reader_generation,
            shards: self.shards.keys().copied().collect(),
            shard_count: self.parts.installation.shard_count,
            from: positions.and_then(|positions| positions.iter().map(|position| position.time).min()),
        };
        self.read_through = None;
        self.reader_from = start.from.map_or(Timestamp(0), |from| from.before(self.parts.times.reader_overlap()));
        self.reader = Some(Reader::start(self.parts.bus.clone(), start, self.parts.inputs.0.clone(), self.parts.metrics.outcome_readers()));
    }

    /// What an ended reader has sent and the lane has not taken yet counts no more: the next one reads it again.
    pub(super) fn stop_reader(&mut self) {
        self.reader = None;
        self.reader_name = None;
        self.reader_generation += 1;
        self.reader_taken = 0;
        self.read_through = None;
    }

    /// Makes or checks the streams, and learns JetStream's clock, beside the lane.
    pub(super) fn look_after_streams(&self) {
        let (bus, inputs) = (self.parts.bus.clone(), self.parts.inputs.0.clone());
        let shape = crate::bus::streams::StreamShape { now: self.clock.peek(), ..self.parts.shape };
        tokio::spawn(async move {
            let streams = bus.ensure_streams(shape).await.map_err(|error| error.to_string());
            let ready = streams.is_ok();
            inputs.send(Input::Streams(streams)).await.ok();
            if ready && let Ok(server) = bus.server_time().await {
                let ours_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| i64::try_from(now.as_micros()).unwrap_or(0));
                inputs.send(Input::ServerClock(server.0.saturating_sub(ours_us))).await.ok();
            }
        });
    }

    pub(super) fn streams_seen(&mut self, result: Result<Incarnations, String>) {
        match result {
            Err(error) => {
                tracing::warn!(%error, "the streams are not ready");
                self.parts.handle.update_health(self.parts.index, |health| health.nats = Some(error));
                self.stop_reader();
                self.alarms.reader = Some(Instant::now() + self.parts.times.claim_after());
                self.incarnations = None;
                self.jetstream_failed();
            }
            Ok(incarnations) => {
                self.parts.handle.update_health(self.parts.index, |health| health.nats = None);
                let before = self.incarnations.replace(incarnations.clone());
                if before.as_ref().map(|before| &before.tasks) != Some(&incarnations.tasks) {
                    // A new stream has no consumers.
                    self.look_after_consumers();
                }
                self.task_stream_is(&incarnations.tasks);
                if before.as_ref().map(|before| &before.outcomes) != Some(&incarnations.outcomes) {
                    self.alarms.reader = Some(Instant::now());
                } else if self.reader.is_none() {
                    // One that has just ended waits a moment: a stream may be there, and take no consumers.
                    self.alarms.reader.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    pub(super) fn look_after_consumers(&mut self) {
        self.queues_known.clear();
        let queues: Vec<String> = self.lots.iter().map(|state| state.lot.queue.clone()).collect();
        self.look_after_queues(&queues.iter().collect::<Vec<_>>());
        self.look_after_served(&self.roster.queues());
    }

    /// Lots whose marks belong to another creation of the task stream go again, with the same ids.
    fn task_stream_is(&mut self, incarnation: &str) {
        let changed = self.lots.stream_is(incarnation);
        if changed > 0 {
            tracing::warn!(lots = changed, "the task stream is a new one: what was queued is published again");
        }
    }

    /// Executors cannot tell why an outcome gets no answer; the owner of shard 0 tries for all.
    fn look_after_outcomes(&self) {
        if !self.shards.contains_key(&0) {
            return;
        }
        let bus = self.parts.bus.clone();
        let shape = crate::bus::streams::StreamShape { now: self.clock.peek(), ..self.parts.shape };
        tokio::spawn(async move { bus.look_after_outcomes(shape, 0).await });
    }

    /// Once a minute, and only where something is queued: one INFO per consumer.
    fn survey(&mut self) {
        self.look_after_streams();
        self.look_after_reader();
        let queues = self.lots.queues_stored();
        // Consumers may have been deleted: those of the executors' queues are looked at anew.
        self.queues_known.clear();
        if !self.owns_shards() {
            return;
        }
        if !queues.is_empty() || !self.leases.is_empty() {
            self.look_after_outcomes();
        }
        if queues.is_empty() {
            return;
        }
        let published = self.lots.iter().map(|state| (state.lot.clone(), state.marks.published_through)).collect();
        let (bus, inputs) = (self.parts.bus.clone(), self.parts.inputs.0.clone());
        tokio::spawn(async move {
            match bus.consumer_states(&queues).await {
                Ok(consumers) => drop(inputs.send(Input::Surveyed(Survey { consumers, published })).await),
                Err(error) => tracing::warn!(%error, "the consumers could not be surveyed"),
            }
        });
    }

    /// Asks how far the reader could be: where nothing comes, its position moves on by this alone.
    fn look_after_reader(&self) {
        let Some(reader) = self.reader_name.clone() else { return };
        let (bus, inputs, generation) = (self.parts.bus.clone(), self.parts.inputs.0.clone(), self.reader_generation);
        tokio::spawn(async move {
            match bus.reader_state(&reader).await {
                Ok(Some(state)) => drop(inputs.send(Input::ReaderState(generation, state)).await),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "it cannot be told how far the outcomes are read"),
            }
        });
    }

    /// Queued rows whose message is gone: below the ack floor, or published before everything was consumed.
    pub(super) fn reconcile(&mut self, survey: &Survey) {
        for (lot, published) in &survey.published {
            let consumer = survey.consumers.iter().find(|consumer| consumer.queue == lot.queue && consumer.priority == lot.priority);
            let Some((consumer, state)) = consumer.zip(self.lots.get(lot)) else { continue };
            let below_floor = || state.marks.stored_at_or_below(consumer.ack_floor).map(|through| through.min(*published));
            let gone = if consumer.empty { Some(*published) } else { below_floor() };
            if let Some(through) = gone.filter(|through| *through > 0 && state.marks.again.is_none()) {
                self.vanished.push((lot.clone(), through));
            }
        }
    }

    /// Looks at the rows that a survey found suspect; rule R6 comes before the verdict.
    pub(super) async fn look_for_vanished(&mut self) -> Result<(), StoreError> {
        for (lot, through) in std::mem::take(&mut self.vanished) {
            let rows = queue::queued_through(&mut self.parts.connection, &lot, (0, through), VANISHED_MAX).await?;
            if !rows.is_empty() {
                let rows = rows.iter().map(|row| (row.task, row.sequence)).collect();
                self.inquiries.add(lot.shard, Doubt::Vanished(lot, rows));
            }
        }
        Ok(())
    }

    /// Finishes what is gathered, saves positions and marks, and gives the shards back.
    pub(super) async fn stop(mut self) {
        if self.in_doubt {
            // What is remembered was let go: nothing may be decided or saved with it.
            self.shards.clear();
        }
        if let Err(error) = self.wait_for_landing().await {
            tracing::warn!(%error, "stopping without the last submissions; whether they were accepted is unknown");
            self.shards.clear();
        }
        self.pending.append(&mut self.flights.waiting);
        while !self.pending.is_empty() && !self.shards.is_empty() {
            let batch = self.take_batch();
            if let Err(error) = self.process(batch).await {
                tracing::warn!(%error, "stopping without the last batch; it is read again by the next owner");
                // Its end is unknown, so nothing may be saved on top of it.
                self.shards.clear();
                break;
            }
        }
        self.speak();
        if !self.shards.is_empty()
            && let Err(error) = self.send_bundles()
        {
            tracing::warn!(%error, "stopping with dispatches that are not published; the next owner publishes them");
        }
        self.refuse_without_shards();
        self.wait_for_acks().await;
        let saved = if self.shards.is_empty() { Ok(()) } else { self.save().await.map(|_| ()) };
        if let Err(error) = saved.and(self.leave().await) {
            tracing::warn!(%error, "the shards were not given back; their leases run out");
        }
    }

    async fn wait_for_acks(&mut self) {
        let deadline = Instant::now() + self.parts.times.shard_renewal();
        while self.lots.publishing() > 0 {
            match tokio::time::timeout_at(deadline, self.parts.inputs.1.recv()).await {
                Ok(Some(Input::Published(ends))) => self.take_in(Input::Published(ends)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}
