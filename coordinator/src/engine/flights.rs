//! Flights: many new tasks on their way into the database, on a connection of their own, beside the batches of events.
//!
//! A new execution is nobody else's until its commit. So the commit of many new tasks and those of the events beside it need not
//! wait for each other, and a large submission does not hold the lane. Few share the commit of the events, which costs less. One
//! flight is in the air at a time. What meets it waits: the same submission, one that needs a plan that comes with it, an event
//! for one of its executions. What it queued is in no row yet, so its lots are not fed until it has landed; their marks are saved
//! before it, so that a lot has its row whatever becomes of it. A flight that the database refuses is passed through the lane like
//! any other batch, which finds the culprit; a doubt about one is a doubt about the lane.

use super::batch::Stepped;
use super::lane::{ANSWER_MAX, Lane};
use super::lots::mark_row;
use super::work::Work;
use crate::kill_points;
use orchestr8_core::machine::Effect;
use orchestr8_proto::ids::ExecutionId;
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_store::StoreError;
use orchestr8_store::backends::{self, Backend};
use orchestr8_store::commit::{self, Batch};
use orchestr8_store::migrate::Database;
use orchestr8_store::queue::Lot;
use orchestr8_store::rows::MarkRow;
use sqlx::{Connection, PgConnection};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Fewer new tasks share the commit of the events beside them: another commit costs about as much as this many rows.
const FLIGHT_TASKS_MIN: usize = 32;
/// A connection is made, or found to be there still, within this time.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A connection that was not used for so long is tried before anything is sent.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// Submissions that wait, and those that are in the air.
#[derive(Default)]
pub(super) struct Flights {
    /// Submissions that may fly.
    pub waiting: VecDeque<Work>,
    /// Made when it is needed first.
    connection: Option<Craft>,
    in_air: Option<Flight>,
    doubt: Option<StoreError>,
    /// What a flight that was given up may still be doing.
    abandoned: Option<Backend>,
}

/// The connection of flights.
struct Craft {
    session: PgConnection,
    backend: Backend,
    used_at: Instant,
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
    backend: Arc<OnceLock<Backend>>,
    commit: AbortOnDropHandle<Landing>,
}

/// The connection, if it can be used again, and what became of the commit.
pub(super) struct Landing(Option<Craft>, End);

enum End {
    Committed(Timestamp),
    /// Nothing was sent.
    Grounded(String),
    Failed(StoreError),
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

    /// Whether this meets what is in the air.
    pub fn meets(&self, work: &Work) -> bool {
        let Some(flight) = &self.in_air else { return false };
        match work {
            Work::Event(event) => flight.ids.contains(&event.addressed.execution),
            Work::New(group) => {
                group.key.as_ref().is_some_and(|key| flight.keys.contains(&key.key))
                    || group.ids.iter().any(|id| flight.ids.contains(id))
                    || group.submissions.iter().any(|submission| flight.plans.contains(&submission.plan_hash))
            }
            Work::Position(_) => false,
        }
    }

    /// Whether something that came by mail is not decided yet.
    pub fn has_mail(&self) -> bool {
        let flying = self.in_air.iter().flat_map(|flight| &flight.works);
        self.waiting.iter().chain(flying).any(|work| work.inbox().is_some())
    }

    /// Whether something waits for which there is something to do now.
    pub fn has_departures(&self) -> bool {
        self.waiting.iter().any(|work| self.need_not_wait(work))
    }

    /// Whether so much waits that it flies.
    fn is_much(&self) -> bool {
        let mut tasks = 0;
        self.waiting.iter().any(|work| {
            tasks += work.tasks();
            tasks >= FLIGHT_TASKS_MIN
        })
    }

    /// Without a flight in the air nothing has to wait; else what is small and does not meet it.
    fn need_not_wait(&self, work: &Work) -> bool {
        !self.is_in_air() || (!is_large(work) && !self.meets(work))
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
            Some(flight) => match (&mut flight.commit).await {
                Ok(landing) => landing,
                Err(error) => Landing(None, End::Failed(StoreError::Unavailable(error.to_string()))),
            },
            None => std::future::pending().await,
        }
    }

    /// What a flight leaves in doubt is a doubt about the lane.
    pub fn doubt(&mut self) -> Result<(), StoreError> {
        self.doubt.take().map_or(Ok(()), Err)
    }
}

impl Lane {
    /// Sends off what waits if it is much; few, and what must not fly, pass through the lane with the events.
    pub(super) async fn depart(&mut self) -> Result<(), StoreError> {
        if self.flights.in_air.as_ref().is_some_and(|flight| flight.commit.is_finished()) {
            let landing = self.flights.landing().await;
            self.land(landing).await;
        }
        if self.pending.iter().any(|work| self.flights.meets(work)) {
            self.meet().await?;
        }
        if self.may_fly() {
            self.take_off().await;
        }
        let beside = self.flights.leave_behind();
        self.pending.extend(beside);
        self.flights.doubt()
    }

    /// Submissions wait for the next flight. Events know of executions that are committed: the answer is under way.
    async fn meet(&mut self) -> Result<(), StoreError> {
        let waits = |work: &Work| matches!(work, Work::New(_)) && self.flights.meets(work);
        let (submissions, rest): (VecDeque<Work>, VecDeque<Work>) = std::mem::take(&mut self.pending).into_iter().partition(waits);
        self.flights.waiting.extend(submissions);
        self.pending = rest;
        if self.pending.iter().any(|work| self.flights.meets(work)) { self.wait_for_landing().await } else { Ok(()) }
    }

    /// What is held goes first, and nothing flies beside submissions that pass through the lane: they may be the same.
    fn may_fly(&self) -> bool {
        self.flights.is_much()
            && !self.flights.is_in_air()
            && self.owns_shards()
            && !self.wants_feeding()
            && !self.pending.iter().any(|work| matches!(work, Work::New(_)))
    }

    async fn take_off(&mut self) {
        let started = Instant::now();
        let mut works = self.take_flight();
        let mut stepped = Stepped::default();
        let batch = match self.prepare(&mut works, &mut stepped).await {
            Ok(_) if works.is_empty() => return,
            Ok(batch) => batch,
            Err(error) => return self.failed(works, error),
        };
        let lots: Vec<Lot> = queued(&stepped).into_keys().collect();
        lots.iter().for_each(|lot| self.lots.takes_off(lot));
        let ids = stepped.executions.keys().copied().collect();
        let keys = works.iter().filter_map(key_of).collect();
        let plans = stepped.plans.keys().filter(|hash| self.plans.get(hash).is_none()).copied().collect();
        kill_points::pass(kill_points::BEFORE_COMMIT);
        let backend = Arc::new(OnceLock::new());
        let flying = fly(self.flights.connection.take(), self.parts.database.clone(), batch, backend.clone());
        let commit = AbortOnDropHandle::new(tokio::spawn(flying));
        self.flights.in_air = Some(Flight { works, stepped, lots, ids, keys, plans, started, backend, commit });
    }

    /// As much of what waits as one batch takes. Small ones do not travel with large ones: they need not wait so long.
    fn take_flight(&mut self) -> Vec<Work> {
        let large = self.flights.waiting.iter().any(is_large);
        let waiting = std::mem::take(&mut self.flights.waiting);
        let (mut flying, small): (VecDeque<Work>, VecDeque<Work>) = waiting.into_iter().partition(|work| !large || is_large(work));
        let works = self.take_front(&mut flying);
        self.flights.waiting = flying.into_iter().chain(small).collect();
        works
    }

    async fn prepare(&mut self, works: &mut Vec<Work>, stepped: &mut Stepped) -> Result<Batch, StoreError> {
        let later = self.admit(works).await?;
        later.into_iter().rev().for_each(|work| self.flights.waiting.push_front(work));
        stepped.inbox = works.iter().filter_map(Work::inbox).collect();
        self.step_all(works, stepped)?;
        if stepped.effects.iter().any(|(_, effect)| *effect == Effect::EvaluateOutput) {
            return Err(StoreError::Refused { code: "output".into(), message: "a new execution that has ended".into() });
        }
        self.save_marks_ahead(stepped).await?;
        self.renew_if_late().await?;
        Ok(self.rows(works, stepped))
    }

    /// Every lot of what is to fly gets its row, and its mark is saved ahead: events may queue in it before the flight has landed,
    /// and must not need a row that goes with it.
    async fn save_marks_ahead(&mut self, stepped: &Stepped) -> Result<(), StoreError> {
        let stream = self.incarnations.as_ref().map(|incarnations| incarnations.tasks.clone());
        let (mut batch, mut saved) = (Batch::default(), Vec::new());
        for (lot, count) in queued(stepped) {
            let state = self.lots.lot(lot.shard, &lot.queue, lot.priority, stream.as_deref());
            let flows = !state.marks.holds();
            let through = state.marks.tried_through_for(state.marks.drawn + count).filter(|_| flows);
            if state.has_row && through.is_none() {
                continue;
            }
            let through = through.unwrap_or(state.marks.tried_through);
            batch.mark(MarkRow { tried_through: through, ..mark_row(state) });
            saved.push((lot, through));
        }
        if saved.is_empty() {
            return Ok(());
        }
        let shards: BTreeSet<u16> = saved.iter().map(|(lot, _)| lot.shard).collect();
        shards.into_iter().for_each(|shard| self.fence(&mut batch, shard));
        self.clock.told(commit::commit(&mut self.parts.connection, &batch).await?);
        saved.iter().for_each(|(lot, through)| self.lots.tries(lot, *through));
        Ok(())
    }

    /// Acts on a flight that has its answer.
    pub(super) async fn land(&mut self, Landing(connection, end): Landing) {
        let Some(flight) = self.flights.in_air.take() else { return };
        self.flights.connection = connection;
        flight.lots.iter().for_each(|lot| self.lots.lands(lot));
        match end {
            End::Committed(now) => {
                kill_points::pass(kill_points::AFTER_COMMIT_BEFORE_PUBLISH);
                self.clock.told(now);
                self.parts.metrics.batch_committed(flight.works.len(), flight.started.elapsed());
                if let Err(error) = self.act(flight.works, flight.stepped).await {
                    self.flights.doubt = Some(StoreError::Unavailable(error.to_string()));
                }
            }
            End::Grounded(reason) => {
                tracing::warn!(reason, "there is no second connection to Postgres; a large submission passes through the lane");
                self.passes_through(flight.works);
            }
            End::Failed(error) => self.failed(flight.works, error),
        }
    }

    fn failed(&mut self, works: Vec<Work>, error: StoreError) {
        match error {
            StoreError::Refused { .. } | StoreError::Unreadable(_) => self.passes_through(works),
            doubt @ (StoreError::Fenced | StoreError::Version | StoreError::Unavailable(_)) => {
                self.put_back(works);
                self.flights.doubt = Some(doubt);
            }
        }
    }

    fn passes_through(&mut self, works: Vec<Work>) {
        works.into_iter().rev().for_each(|work| self.pending.push_front(work));
    }

    /// Waits until nothing is in the air, and keeps the shards meanwhile.
    pub(super) async fn wait_for_landing(&mut self) -> Result<(), StoreError> {
        while self.flights.is_in_air() {
            match tokio::time::timeout(self.parts.times.shard_renewal(), self.flights.landing()).await {
                Ok(landing) => self.land(landing).await,
                Err(_) => self.renew_if_late().await?,
            }
        }
        self.flights.doubt()
    }

    /// The lane is in doubt: nothing is in the air any more, and what was is tried again.
    pub(super) fn abandon_flight(&mut self) {
        self.flights.doubt = None;
        if let Some(flight) = self.flights.in_air.take() {
            self.flights.abandoned = flight.backend.get().copied();
            flight.works.into_iter().rev().for_each(|work| self.again(work));
        }
    }

    /// A statement that nobody waits for any more must not keep the shards locked.
    pub(super) async fn end_abandoned(&mut self) {
        let Some(backend) = self.flights.abandoned.take() else { return };
        if let Err(error) = backends::end(&mut self.parts.connection, backend).await {
            tracing::warn!(%error, "a session that was given up was not ended; the shards are taken when its statement ends");
        }
    }
}

async fn fly(connection: Option<Craft>, database: Database, batch: Batch, backend: Arc<OnceLock<Backend>>) -> Landing {
    let mut craft = match ready(connection, &database).await {
        Ok(craft) => craft,
        Err(reason) => return Landing(None, End::Grounded(reason)),
    };
    backend.get_or_init(|| craft.backend);
    match tokio::time::timeout(ANSWER_MAX, commit::commit(&mut craft.session, &batch)).await {
        Ok(Ok(now)) => Landing(Some(Craft { used_at: Instant::now(), ..craft }), End::Committed(now)),
        Ok(Err(error @ StoreError::Unavailable(_))) => Landing(None, End::Failed(error)),
        Ok(Err(error)) => Landing(Some(craft), End::Failed(error)),
        Err(_) => Landing(None, End::Failed(StoreError::Unavailable(format!("no answer within {} s", ANSWER_MAX.as_secs())))),
    }
}

/// A connection that works: one that nobody used for long may be gone without a word.
async fn ready(connection: Option<Craft>, database: &Database) -> Result<Craft, String> {
    if let Some(mut craft) = connection {
        let is_fresh = craft.used_at.elapsed() < IDLE_MAX;
        if is_fresh || matches!(tokio::time::timeout(CONNECT_MAX, craft.session.ping()).await, Ok(Ok(()))) {
            return Ok(craft);
        }
    }
    let opening = async {
        let mut session = database.lane_connection().await.map_err(|error| error.to_string())?;
        let backend = backends::of(&mut session).await.map_err(|error| error.to_string())?;
        Ok(Craft { session, backend, used_at: Instant::now() })
    };
    tokio::time::timeout(CONNECT_MAX, opening).await.unwrap_or_else(|_| Err(format!("no connection within {} s", CONNECT_MAX.as_secs())))
}

fn is_large(work: &Work) -> bool {
    work.tasks() >= FLIGHT_TASKS_MIN
}

fn key_of(work: &Work) -> Option<String> {
    match work {
        Work::New(group) => group.key.as_ref().map(|key| key.key.clone()),
        Work::Event(_) | Work::Position(_) => None,
    }
}

/// How many dispatches are to be queued in which lots.
fn queued(stepped: &Stepped) -> HashMap<Lot, i64> {
    let mut lots = HashMap::new();
    for (id, effect) in &stepped.effects {
        if let Effect::Publish(index) = effect
            && let Some(execution) = stepped.executions.get(id)
        {
            *lots.entry(super::act::lot_of(execution, *index)).or_default() += 1;
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

    #[tokio::test]
    async fn the_same_submission_waits_for_the_flight() {
        let id = ExecutionId::generate(0, 3, &mut rand::rng());
        let flight = Flight {
            works: Vec::new(),
            stepped: Stepped::default(),
            lots: Vec::new(),
            ids: HashSet::from([id]),
            keys: HashSet::from(["k".to_owned()]),
            plans: HashSet::new(),
            started: Instant::now(),
            backend: Arc::default(),
            commit: AbortOnDropHandle::new(tokio::spawn(std::future::pending())),
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
