//! Shards are shared by all lanes of all coordinators: taking vacant ones, giving some away between batches, and the nudges
//! by which lanes hear of it before they look by themselves.

use super::batch::Stepped;
use super::lane::Lane;
use super::news::news_of;
use super::work::Work;
use crate::kill_points;
use crate::metrics::LaneView;
use orchestr8_core::shares::{Balance, Standing, balance, fair_share};
use orchestr8_proto::ids::{ExecutionId, LeaseId};
use orchestr8_proto::names;
use orchestr8_proto::wire::{BATCH_ITEMS_MAX, Nudge, SCHEMA_VERSION};
use orchestr8_store::StoreError;
use orchestr8_store::commit::Batch;
use orchestr8_store::shards::{self, Hearing, Hears, Position, Taken};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a lane that ends waits for its last nudge to leave.
const LAST_NUDGE_MAX: Duration = Duration::from_secs(1);

/// A shard that this lane owns.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// Under which lease.
    pub lease: LeaseId,
    /// How far its outcomes are decided.
    pub position: Option<Position>,
}

impl Lane {
    /// Makes the batch depend on the lease of a shard. Without one it gets a lease that nobody holds, and fails.
    pub(super) fn fence(&self, batch: &mut Batch, shard: u16) {
        let lease = self.shards.get(&shard).map_or_else(LeaseId::random, |held| held.lease);
        batch.fence(shard, lease);
    }

    /// A new lease; it is one of ours until a take under it is known to have failed.
    pub(super) fn draw_lease(&mut self) -> LeaseId {
        let lease = LeaseId::random();
        self.leases_drawn.push(lease);
        lease
    }

    pub(super) fn hold(&mut self, taken: Vec<Taken>, lease: LeaseId) {
        self.shards.extend(taken.into_iter().map(|taken| (taken.shard, Held { lease, position: taken.position })));
    }

    /// What others may know after shards came or went.
    pub(super) fn show_ownership(&mut self) {
        let owned: BTreeSet<u16> = self.shards.keys().copied().collect();
        self.lots.share_is(owned.len(), usize::from(self.parts.installation.shard_count));
        self.leases_drawn.retain(|drawn| self.shards.values().any(|held| held.lease == *drawn));
        self.parts.handle.owns(self.parts.index, &owned);
    }

    /// Moves towards the fair share.
    pub(super) async fn rebalance(&mut self, standing: Standing) -> Result<(), StoreError> {
        self.parts.metrics.renewed(self.parts.index, LaneView { renewed_at: std::time::Instant::now(), held: self.lots.held() });
        let owned = u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
        let all = u32::from(self.parts.installation.shard_count);
        let share = usize::try_from(fair_share(all, standing)).unwrap_or(usize::MAX);
        self.parts.handle.update_health(self.parts.index, |health| health.shards_due = share);
        if standing.lanes == 0 && self.hears == Hears::Beats {
            // It hears again, only not for long enough to be counted: what it owns stays where it is.
            return Ok(());
        }
        match balance(all, owned, standing) {
            Balance::Keep => Ok(()),
            Balance::Take(count) => self.acquire(count).await,
            Balance::HandOver(count) => self.hand_over(count).await,
        }
    }

    /// Whether NATS is heard otherwise than the database was told.
    pub(super) fn hearing_changed(&self) -> bool {
        !self.in_doubt && self.hears != self.hears_now()
    }

    fn hears_now(&self) -> Hears {
        if self.parts.heard.borrow().at.elapsed() < self.parts.times.bus_silence() { Hears::Beats } else { Hears::Nothing }
    }

    /// What the database is told now.
    pub(super) fn hearing(&mut self) -> Hearing {
        let now = self.hears_now();
        match (self.hears, now) {
            // Only owners beat: one that starts alone, while the leases of a dead one run out, hears nobody and is cut off from nothing.
            (Hears::Beats, Hears::Nothing) if self.shards.is_empty() => tracing::info!("no coordinator is heard over NATS"),
            (Hears::Beats, Hears::Nothing) => tracing::warn!("cut off from NATS: coordinators that are not take over its shards"),
            (Hears::Nothing, Hears::Beats) => tracing::info!("NATS is heard again"),
            (Hears::Beats, Hears::Beats) | (Hears::Nothing, Hears::Nothing) => {}
        }
        self.hears = now;
        Hearing { hears: now, settle_time: self.parts.times.beat() }
    }

    /// Takes vacant shards and reads what they hold; those that are owned already go on.
    async fn acquire(&mut self, count: u32) -> Result<(), StoreError> {
        let lease = self.draw_lease();
        let taken = shards::take_vacant(&mut self.parts.connection, count, lease, &self.identity).await?;
        let new: Vec<u16> = taken.iter().map(|taken| taken.shard).collect();
        if new.is_empty() {
            self.show_ownership();
            return Ok(());
        }
        // What the reader has read so far was not these shards'.
        self.stop_reader();
        self.hold(taken, lease);
        kill_points::pass(kill_points::AFTER_TAKE_BEFORE_RESTORE);
        self.restore(&new).await?;
        tracing::info!(shards = ?new, owned = self.shards.len(), running = self.leases.len(), "shards taken");
        self.parts.metrics.taken(new.len());
        self.parts.metrics.recovered(new.len());
        self.taken();
        Ok(())
    }

    /// The reader starts anew with the shards as they are now, and before anything goes *again* there is time to hear who
    /// runs what.
    pub(super) fn taken(&mut self) {
        self.show_ownership();
        self.alarms.reader = Some(Instant::now());
        self.again_from = Instant::now() + self.parts.times.beat();
        if !self.shards.is_empty() {
            self.parts.speaker.beat_now();
        }
    }

    /// Gives shards away: everything decided is saved, and what is only gathered is read again by the next owner.
    async fn hand_over(&mut self, count: u32) -> Result<(), StoreError> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        // What is in the air must not come down where the shard has gone: such a shard goes another time.
        let free = self.shards.iter().rev().filter(|(shard, _)| !self.flights.is_over(**shard));
        let leaving: Vec<(u16, LeaseId)> = free.take(count).map(|(shard, held)| (*shard, held.lease)).collect();
        if leaving.is_empty() {
            return Ok(());
        }
        self.send_bundles()?;
        self.save().await?;
        kill_points::pass(kill_points::AFTER_SAVE_BEFORE_HAND_OVER);
        self.parts.handle.forget_standings();
        shards::hand_over(&mut self.parts.connection, &leaving).await?;
        kill_points::pass(kill_points::AFTER_HAND_OVER_BEFORE_FORGET);
        let leaving: BTreeSet<u16> = leaving.into_iter().map(|(shard, _)| shard).collect();
        // It may come back before what was read of it is decided.
        self.stop_reader();
        self.forget(&leaving);
        tracing::info!(shards = ?leaving, owned = self.shards.len(), "shards handed over");
        self.parts.metrics.handed_over(leaving.len());
        self.show_ownership();
        self.alarms.reader = Some(Instant::now());
        self.parts.speaker.nudge(&Nudge { vacant: true, ..Nudge::default() });
        Ok(())
    }

    fn forget(&mut self, leaving: &BTreeSet<u16>) {
        self.shards.retain(|shard, _| !leaving.contains(shard));
        leaving.iter().for_each(|shard| self.leases.forget_shard(*shard));
        self.lots.forget_shards(leaving);
        self.executions.forget_shards(leaving);
        self.inquiries.forget_shards(leaving);
        self.references.forget_shards(leaving);
        self.vanished.retain(|(lot, _)| !leaving.contains(&lot.shard));
        let stays = |work: &Work| match work {
            // Who waits for an answer gets one.
            Work::Event(event) => event.reply.is_some() || !leaving.contains(&event.addressed.execution.shard()),
            Work::New(group) => group.inbox.is_none() || !group.ids.iter().any(|id| leaving.contains(&id.shard())),
            Work::Position(_) => true,
        };
        self.pending.retain(stays);
        self.flights.waiting.retain(stays);
    }

    /// Hints of other lanes. They may be forged or lost: what they are about is looked up, and looked at anyway.
    pub(super) fn take_nudge(&mut self, nudge: &Nudge, asker: Option<String>) {
        if nudge.vacant || nudge.queues_changed {
            self.look_soon();
        }
        if nudge.inbox_shards.iter().any(|shard| u16::try_from(*shard).is_ok_and(|shard| self.owns(shard))) {
            self.mail.inbox_is_due();
        }
        let changed = nudge.changed_execution_ids.iter().filter_map(|id| ExecutionId::try_from(id.as_ref()).ok());
        self.parts.handle.wake_here(changed);
        let watched = nudge.watched_execution_ids.iter().filter_map(|id| ExecutionId::try_from(id.as_ref()).ok());
        let ours: Vec<ExecutionId> = watched.filter(|id| self.owns(id.shard())).collect();
        if !ours.is_empty() {
            ours.into_iter().for_each(|id| self.parts.handle.watch_for_another(id));
            // What a coordinator may publish must not be anybody's to choose: an answer goes to an inbox, or nowhere.
            asker.filter(|asker| asker.starts_with(names::INBOXES)).into_iter().for_each(|asker| self.parts.speaker.acknowledge(asker));
        }
    }

    /// Asks the owner of an execution's shard to say when it changes.
    pub(super) fn watch_elsewhere(&self, execution: ExecutionId, reply: oneshot::Sender<()>) {
        let bus = self.parts.bus.clone();
        tokio::spawn(async move {
            let nudge = Nudge { watched_execution_ids: vec![execution.to_bytes()], ..Nudge::default() };
            if let Err(error) = bus.ask_owner(nudge).await {
                tracing::debug!(%error, workflow_id = %execution, "no owner said that it watches; who waits looks by itself");
            }
            reply.send(()).ok();
        });
    }

    /// Wakes who waits for these executions, here and elsewhere.
    pub(super) fn wake(&self, stepped: &Stepped) {
        let news = |id| stepped.executions.get(&id).map(|execution| news_of(execution, &stepped.outputs));
        let elsewhere = self.parts.handle.wake(&stepped.executions, news);
        for changed in elsewhere.chunks(BATCH_ITEMS_MAX) {
            let changed_execution_ids = changed.iter().map(|id| id.to_bytes()).collect();
            self.parts.speaker.nudge(&Nudge { changed_execution_ids, ..Nudge::default() });
        }
    }

    /// The lane has ended: its shards are vacant, and others hear of it at once.
    pub(super) async fn leave(&mut self) -> Result<(), StoreError> {
        shards::leave(&mut self.parts.connection, self.identity.lane, &self.leases_drawn).await?;
        let nudge = Nudge { schema_version: SCHEMA_VERSION, vacant: true, ..Nudge::default() };
        let nudged = tokio::time::timeout(LAST_NUDGE_MAX, self.parts.bus.nudge(&nudge)).await;
        if let Err(error) = nudged.map_err(|_| "no answer".to_owned()).and_then(|nudged| nudged.map_err(|error| error.to_string())) {
            tracing::warn!(error, "the other coordinators were not told; they look by themselves");
        }
        Ok(())
    }
}
