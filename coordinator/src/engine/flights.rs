//! Flights: many new tasks on their way into the database, on a connection of their own, beside the batches of events.
//!
//! A new execution is nobody else's: no event for it can arrive before its commit. So the commit of many new tasks and that of the
//! events beside it need not wait for each other, and a large submission does not hold the lane. Few share the commit of the
//! events, which costs less. One flight is in the air at a time. What it queued is not in the rows yet, so its lots are not fed
//! until it has landed. A flight that the database refuses is passed through the lane like any other batch, which finds the
//! culprit; a doubt about one is a doubt about the lane.

use super::batch::Stepped;
use super::lane::{ANSWER_MAX, BATCH_EVENTS_MAX, COMMANDS_IN_BATCH_MAX, Lane};
use super::work::Work;
use crate::kill_points;
use orchestr8_core::machine::Effect;
use orchestr8_proto::ids::ExecutionId;
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_store::StoreError;
use orchestr8_store::commit::{self, Batch};
use orchestr8_store::queue::Lot;
use sqlx::PgConnection;
use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::time::Instant;

/// Fewer new tasks share the commit of the events beside them: another commit costs about as much as this many rows.
const FLIGHT_TASKS_MIN: usize = 32;

type Commit = Pin<Box<dyn Future<Output = Landing> + Send>>;
/// The connection comes back with what became of the commit.
type Landing = (PgConnection, Result<Timestamp, StoreError>);

/// Submissions that wait, and those that are in the air.
#[derive(Default)]
pub(super) struct Flights {
    /// Submissions of callers, none of which was tried before.
    pub waiting: VecDeque<Work>,
    in_air: Option<Flight>,
    doubt: Option<StoreError>,
}

struct Flight {
    works: Vec<Work>,
    stepped: Stepped,
    lots: Vec<Lot>,
    ids: HashSet<ExecutionId>,
    keys: HashSet<String>,
    /// Plans that go with it, and that the database may not have before.
    plans: HashSet<[u8; 32]>,
    started: Instant,
    commit: Commit,
}

impl Flights {
    /// Whether a flight is in the air.
    pub const fn is_in_air(&self) -> bool {
        self.in_air.is_some()
    }

    /// Whether new executions are on their way in this shard.
    pub fn is_over(&self, shard: u16) -> bool {
        self.in_air.as_ref().is_some_and(|flight| flight.ids.iter().any(|id| id.shard() == shard))
    }

    /// Whether this meets what is in the air: it may be the same submission, or its plan is on its way with it.
    fn meets(&self, work: &Work) -> bool {
        let (Some(flight), Work::New(group)) = (&self.in_air, work) else { return false };
        group.key.as_ref().is_some_and(|key| flight.keys.contains(&key.key))
            || group.ids.iter().any(|id| flight.ids.contains(id))
            || group.submissions.iter().any(|submission| flight.plans.contains(&submission.plan_hash))
    }

    /// Whether so much waits that it flies.
    fn is_much(&self) -> bool {
        let mut tasks = 0;
        self.waiting.iter().any(|work| {
            tasks += work.tasks();
            tasks >= FLIGHT_TASKS_MIN
        })
    }

    /// Whether something waits for which there is something to do now.
    pub fn has_departures(&self) -> bool {
        self.waiting.iter().any(|work| self.need_not_wait(work))
    }

    /// Without a flight in the air nothing has to wait; else what is small and does not meet it.
    fn need_not_wait(&self, work: &Work) -> bool {
        !self.is_in_air() || (work.tasks() < FLIGHT_TASKS_MIN && !self.meets(work))
    }

    /// What does not wait for the next flight.
    fn leave_behind(&mut self) -> VecDeque<Work> {
        let (leaving, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|work| self.need_not_wait(work));
        self.waiting = waiting;
        leaving
    }

    /// The flight that is in the air, once its commit has an answer; without one this does not end. May be cancelled.
    pub async fn landing(&mut self) -> Landing {
        match &mut self.in_air {
            Some(flight) => (&mut flight.commit).await,
            None => std::future::pending().await,
        }
    }
}

impl Lane {
    /// Sends off what waits if it is much; few, and what must not fly, pass through the lane with the events.
    pub(super) async fn depart(&mut self) -> Result<(), StoreError> {
        if self.may_fly() {
            self.take_off().await;
        }
        let beside = self.flights.leave_behind();
        self.pending.extend(beside);
        // What came by mail does not wait there.
        if self.pending.iter().any(|work| self.flights.meets(work)) {
            self.wait_for_landing().await?;
        }
        self.doubt_of_flight()
    }

    /// What is held goes first, and nothing flies beside submissions that pass through the lane: they may be the same.
    fn may_fly(&self) -> bool {
        self.flights.is_much()
            && !self.flights.is_in_air()
            && self.flights.doubt.is_none()
            && self.parts.flight_connection.is_here()
            && self.owns_shards()
            && !self.wants_feeding()
            && !self.pending.iter().any(|work| matches!(work, Work::New(_)))
    }

    async fn take_off(&mut self) {
        let started = Instant::now();
        let mut works = self.take_flight();
        let mut stepped = Stepped::default();
        let prepared = self.prepare(&mut works, &mut stepped).await;
        match prepared.and_then(|batch| Ok((batch, self.parts.flight_connection.lend()?))) {
            Ok((batch, connection)) if works.is_empty() => {
                drop(batch);
                self.parts.flight_connection.back(connection);
            }
            Ok((batch, connection)) => {
                let lots = lots_of(&stepped);
                let ids = stepped.executions.keys().copied().collect();
                let keys = works.iter().filter_map(key_of).collect();
                let plans = stepped.plans.keys().filter(|hash| self.plans.get(hash).is_none()).copied().collect();
                lots.iter().for_each(|lot| self.lots.takes_off(lot));
                kill_points::pass(kill_points::BEFORE_COMMIT);
                let commit = Box::pin(committed(connection, batch));
                self.flights.in_air = Some(Flight { works, stepped, lots, ids, keys, plans, started, commit });
            }
            Err(error) => self.failed(works, error),
        }
    }

    /// As much of what waits as one batch takes.
    fn take_flight(&mut self) -> Vec<Work> {
        let mut waiting = std::mem::take(&mut self.flights.waiting);
        let works = self.take_front(&mut waiting);
        self.flights.waiting = waiting;
        works
    }

    async fn prepare(&mut self, works: &mut Vec<Work>, stepped: &mut Stepped) -> Result<Batch, StoreError> {
        let mut connection = self.parts.flight_connection.lend()?;
        let admitted = self.admit(works, &mut connection).await;
        self.parts.flight_connection.back(connection);
        admitted?;
        self.step_all(works, stepped)?;
        if stepped.effects.iter().any(|(_, effect)| *effect == Effect::EvaluateOutput) {
            // It reads what others have written, on the lane's other connection.
            return Err(StoreError::Refused { code: "output".into(), message: "a new execution that has ended".into() });
        }
        if self.parts.connection.is_here() {
            self.renew_if_late().await?;
        }
        Ok(self.rows(works, stepped))
    }

    /// Acts on a flight that has its answer.
    pub(super) async fn land(&mut self, (connection, end): Landing) {
        let Some(flight) = self.flights.in_air.take() else { return };
        self.parts.flight_connection.back(connection);
        flight.lots.iter().for_each(|lot| self.lots.lands(lot));
        match end {
            Ok(now) => {
                kill_points::pass(kill_points::AFTER_COMMIT_BEFORE_PUBLISH);
                self.clock.told(now);
                self.parts.metrics.batch_committed(flight.works.len(), flight.started.elapsed());
                if let Err(error) = self.act(flight.works, flight.stepped).await {
                    self.flights.doubt = Some(StoreError::Unavailable(error.to_string()));
                }
            }
            Err(error) => self.failed(flight.works, error),
        }
    }

    fn failed(&mut self, works: Vec<Work>, error: StoreError) {
        match error {
            StoreError::Refused { .. } | StoreError::Unreadable(_) => {
                works.into_iter().rev().for_each(|work| self.pending.push_front(work));
            }
            doubt @ (StoreError::Fenced | StoreError::Version | StoreError::Unavailable(_)) => {
                self.put_back(works);
                self.flights.doubt = Some(doubt);
            }
        }
    }

    /// Waits until nothing is in the air, and keeps the shards meanwhile.
    pub(super) async fn wait_for_landing(&mut self) -> Result<(), StoreError> {
        while self.flights.is_in_air() {
            match tokio::time::timeout(self.parts.times.shard_renewal(), self.flights.landing()).await {
                Ok(landing) => self.land(landing).await,
                Err(_) => self.renew_if_late().await?,
            }
        }
        self.doubt_of_flight()
    }

    /// What a flight leaves in doubt is a doubt about the lane.
    pub(super) fn doubt_of_flight(&mut self) -> Result<(), StoreError> {
        self.flights.doubt.take().map_or(Ok(()), Err)
    }

    /// The lane is in doubt: nothing is in the air any more, and what was is tried again.
    pub(super) fn abandon_flight(&mut self) {
        self.flights.doubt = None;
        if let Some(flight) = self.flights.in_air.take() {
            self.put_back(flight.works);
        }
    }

    /// Commits a batch of events. Where nothing of it can meet what is submitted, submissions come and go meanwhile.
    pub(super) async fn commit_beside_flights(&mut self, batch: &Batch, meets: Meets) -> Result<Timestamp, StoreError> {
        let mut connection = self.parts.connection.lend()?;
        let end = {
            let commit = commit::commit(&mut connection, batch);
            tokio::pin!(commit);
            loop {
                let flies = meets == Meets::Nothing && self.flights.doubt.is_none();
                let takes = flies && self.flights.waiting.len() < BATCH_EVENTS_MAX;
                tokio::select! {
                    biased;
                    end = &mut commit => break end,
                    landing = self.flights.landing(), if flies => self.land(landing).await,
                    Some(command) = self.parts.commands.recv(), if takes => {
                        self.take_command(command);
                        tokio::task::yield_now().await;
                        self.take_commands();
                    }
                    else => break (&mut commit).await,
                }
                if flies && self.may_fly() {
                    self.take_off().await;
                }
            }
        };
        self.parts.connection.back(connection);
        end
    }

    /// What callers want by now, as far as a batch reaches.
    pub(super) fn take_commands(&mut self) {
        let mut taken = 0;
        while taken < COMMANDS_IN_BATCH_MAX
            && self.pending.len() + self.flights.waiting.len() < BATCH_EVENTS_MAX
            && let Ok(command) = self.parts.commands.try_recv()
        {
            self.take_command(command);
            taken += 1;
        }
    }
}

/// Whether a batch that is committed can meet what is submitted meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meets {
    /// It makes no executions and queues nothing.
    Nothing,
    /// It may make the same executions, or what it queues stands before what is queued meanwhile.
    Submissions,
}

impl Meets {
    /// What a batch that is ready can meet.
    pub fn of(works: &[Work], stepped: &Stepped) -> Self {
        let makes = works.iter().any(|work| matches!(work, Work::New(_)));
        let queues = stepped.effects.iter().any(|(_, effect)| matches!(effect, Effect::Publish(_)));
        if makes || queues { Self::Submissions } else { Self::Nothing }
    }
}

async fn committed(mut connection: PgConnection, batch: Batch) -> Landing {
    let end = match tokio::time::timeout(ANSWER_MAX, commit::commit(&mut connection, &batch)).await {
        Ok(end) => end,
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", ANSWER_MAX.as_secs()))),
    };
    (connection, end)
}

fn key_of(work: &Work) -> Option<String> {
    match work {
        Work::New(group) => group.key.as_ref().map(|key| key.key.clone()),
        Work::Event(_) | Work::Position(_) => None,
    }
}

fn lots_of(stepped: &Stepped) -> Vec<Lot> {
    let mut lots = Vec::new();
    for (id, effect) in &stepped.effects {
        if let Effect::Publish(index) = effect
            && let Some(execution) = stepped.executions.get(id)
        {
            let lot = super::act::lot_of(execution, *index);
            if !lots.contains(&lot) {
                lots.push(lot);
            }
        }
    }
    lots
}

#[cfg(test)]
mod tests {
    use super::super::handle::IdempotencyKey;
    use super::super::work::{Group, GroupState};
    use super::*;

    fn work(key: &str, ids: Vec<ExecutionId>) -> Work {
        let key = Some(IdempotencyKey { key: key.into(), body_hash: [0; 32] });
        let (submissions, state) = (Vec::new(), GroupState::Fresh);
        Work::New(Box::new(Group { submissions, bytes: 0, ids, key, reply: None, room: None, state, tries: 0, inbox: None }))
    }

    #[test]
    fn the_same_submission_waits_for_the_flight() {
        let id = ExecutionId::generate(0, 3, &mut rand::rng());
        let flight = Flight {
            works: Vec::new(),
            stepped: Stepped::default(),
            lots: Vec::new(),
            ids: HashSet::from([id]),
            keys: HashSet::from(["k".to_owned()]),
            plans: HashSet::new(),
            started: Instant::now(),
            commit: Box::pin(std::future::pending()),
        };
        let mut flights = Flights { waiting: VecDeque::from([work("k", Vec::new()), work("other", Vec::new())]), ..Flights::default() };
        assert!(flights.has_departures() && !flights.is_over(3));
        flights.in_air = Some(flight);
        assert!(flights.has_departures() && flights.is_over(3) && !flights.is_over(4));
        assert_eq!(flights.leave_behind().len(), 1);
        assert!(!flights.has_departures() && flights.waiting.len() == 1, "the one with the same key");
        assert!(flights.meets(&work("other", vec![id])) && !flights.meets(&work("other", Vec::new())));
        flights.in_air = None;
        assert_eq!(flights.leave_behind().len(), 1);
    }
}
