//! One batch: reserve, load, step, commit. A batch that the database refuses is bisected until the culprit is found.

use super::handle::{CancelAnswer, CommandError, Origin, SubmitError, Submitted};
use super::lane::{BATCH_EVENTS_MAX, Lane, Randomness};
use super::lots::mark_row;
use super::outputs;
use super::work::{ClaimNote, EventWork, Group, GroupState, ReadThrough, Work};
use crate::kill_points;
use crate::metrics::Tally;
use orchestr8_core::execution::Execution;
use orchestr8_core::expression::{self, Steps};
use orchestr8_core::machine::{self, Effect, Event};
use orchestr8_core::plan::{Plan, TaskIndex};
use orchestr8_proto::ids::{ExecutionId, RunId, TaskId};
use orchestr8_proto::words::TaskStatus;
use orchestr8_store::StoreError;
use orchestr8_store::commit::{self, Batch, NewExecution};
use orchestr8_store::keys::{self, Reservation};
use orchestr8_store::load::{self, Outputs};
use orchestr8_store::queue::Lot;
use orchestr8_store::rows::{KeyRow, MarkRow};
use serde_json::Value;
use sqlx::PgConnection;
use std::any::Any;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

/// Tries of a submission whose commit ends in doubt, before its caller is told.
const GROUP_TRIES_MAX: u32 = 3;

/// What a batch has done in memory, before its commit.
#[derive(Default)]
pub(super) struct Stepped {
    /// Executions that were touched, as they are after the batch.
    pub executions: HashMap<ExecutionId, Execution>,
    /// What must happen after the commit, in order.
    pub effects: Vec<(ExecutionId, Effect)>,
    /// New executions, with what only their insert needs.
    pub new: HashMap<ExecutionId, NewExecution>,
    /// Claims by run.
    pub claims: HashMap<RunId, ClaimNote>,
    /// Outputs of tasks that completed in this batch.
    pub outputs: HashMap<TaskId, Value>,
    /// Plans of new executions: known only once they are committed.
    pub plans: HashMap<[u8; 32], Arc<Plan>>,
    /// Marks that were saved ahead with this batch.
    pub tried: HashMap<Arc<Lot>, i64>,
    /// Outcomes decided up to here.
    pub positions: Vec<ReadThrough>,
    /// Rows of inboxes that are decided, with their shards.
    pub inbox: Vec<(u16, Uuid)>,
    /// What is counted once this is committed.
    pub tally: Tally,
}

impl Lane {
    /// Passes a batch through the lane. Nothing of it is lost: what the database refuses is bisected, any doubt about the
    /// commit puts the whole batch back and is returned.
    pub(super) async fn process(&mut self, mut works: Vec<Work>) -> Result<(), StoreError> {
        match self.attempt(&mut works).await {
            Ok(()) => {
                self.batch_max = (self.batch_max * 2).min(BATCH_EVENTS_MAX);
                Ok(())
            }
            Err(StoreError::Refused { code, message }) => Box::pin(self.bisect(works, format!("{message} ({code})"))).await,
            Err(StoreError::Unreadable(message)) => Box::pin(self.bisect(works, message)).await,
            Err(doubt @ (StoreError::Fenced | StoreError::Version | StoreError::Unavailable(_))) => {
                self.put_back(works);
                Err(doubt)
            }
        }
    }

    async fn bisect(&mut self, mut works: Vec<Work>, error: String) -> Result<(), StoreError> {
        if works.len() > 1 {
            let rest = works.split_off(works.len() / 2);
            if let Err(doubt) = self.process(works).await {
                self.put_back(rest);
                return Err(doubt);
            }
            return self.process(rest).await;
        }
        match works.pop() {
            Some(work) => self.quarantine(work, error).await,
            None => Ok(()),
        }
    }

    pub(super) fn put_back(&mut self, works: Vec<Work>) {
        self.batch_max = (self.batch_max / 2).max(1);
        for mut work in works.into_iter().rev() {
            if let Work::New(group) = &mut work {
                group.tries += 1;
                if group.tries >= GROUP_TRIES_MAX {
                    let why = "the database did not answer in several tries; it may have been accepted";
                    group.answer(Err(SubmitError::Unavailable(why.into())));
                    continue;
                }
            }
            self.again(work);
        }
    }

    /// To be decided again, before what came later.
    pub(super) fn again(&mut self, mut work: Work) {
        match &mut work {
            Work::New(group) => {
                if !group.ids.is_empty() {
                    group.state = GroupState::Doubtful;
                }
                self.flights.waiting.push_front(work);
            }
            Work::Event(_) | Work::Position(_) => self.pending.push_front(work),
        }
    }

    async fn attempt(&mut self, works: &mut Vec<Work>) -> Result<(), StoreError> {
        let started = Instant::now();
        let mut stepped = Stepped { inbox: works.iter().filter_map(Work::inbox).collect(), ..Stepped::default() };
        let later = self.admit(works).await?;
        later.into_iter().rev().for_each(|work| self.pending.push_front(work));
        self.load(works, &mut stepped).await?;
        self.step_all(works, &mut stepped)?;
        self.evaluate_outputs(&mut stepped).await?;
        let batch = self.rows(works, &mut stepped);
        if !batch.is_unfenced() {
            self.renew_if_late().await?;
            passes_before_commit(works);
            self.parts.handle.forget(stepped.executions.keys().copied());
            self.clock.told(commit::commit(&mut self.parts.connection, &batch).await?);
            kill_points::pass(kill_points::AFTER_COMMIT_BEFORE_PUBLISH);
        }
        self.parts.metrics.batch_committed(works.len(), started.elapsed());
        let works = std::mem::take(works);
        // The batch is durable: whatever fails from here on is a doubt about what was sent, not about the batch.
        self.act(works, stepped).await.map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    /// Draws ids for new groups and reserves their keys; groups that need nothing more are answered and leave the batch.
    /// Gives back those whose key another one of them has: they look later at what that one became.
    pub(super) async fn admit(&mut self, works: &mut Vec<Work>) -> Result<Vec<Work>, StoreError> {
        let shard = self.submission_shard();
        let mut rows = Vec::new();
        let mut seen = HashSet::new();
        let mut later = Vec::new();
        let mut index = 0;
        while index < works.len() {
            if let Work::New(group) = &mut works[index] {
                if let Some(key) = &group.key
                    && !seen.insert(key.key.clone())
                {
                    // The same key twice in one gather: the second looks at what the first became.
                    later.push(works.remove(index));
                    continue;
                }
                let owned = group.ids.first().is_some_and(|first| self.owns(first.shard()));
                if !owned && group.state == GroupState::Fresh {
                    group.ids = self.draw_ids(group.submissions.len(), shard);
                }
                if let (Some(key), GroupState::Fresh | GroupState::Doubtful) = (&group.key, group.state) {
                    let execution_ids = group.ids.iter().map(|id| id.0).collect();
                    rows.push(KeyRow { key: key.key.clone(), body_hash: key.body_hash.to_vec(), execution_ids });
                }
            }
            index += 1;
        }
        let reservations = if rows.is_empty() { HashMap::new() } else { keys::reserve(&mut self.parts.connection, &rows).await? };
        kill_points::pass(kill_points::AFTER_RESERVE_BEFORE_COMMIT);
        let doubtful = made_already(works, &mut self.parts.connection).await?;
        works.retain_mut(|work| match work {
            Work::New(group) => admitted(group, &reservations, &doubtful),
            Work::Event(_) | Work::Position(_) => true,
        });
        self.send_away(works);
        Ok(later)
    }

    /// The shards take turns, but for those over which a flight is; while dispatches wait for company, it comes to their shard.
    /// Without shards of its own a lane submits to those of others.
    fn submission_shard(&mut self) -> u16 {
        if !self.bundler.waits() {
            self.next_submission_shard = self.next_submission_shard.wrapping_add(1);
        }
        let of = |count: usize| self.next_submission_shard % count.max(1);
        let turns = self.shards.keys().cycle().skip(of(self.shards.len())).take(self.shards.len());
        let any = || u16::try_from(of(usize::from(self.parts.installation.shard_count))).unwrap_or(0);
        turns.clone().find(|shard| !self.flights.is_over(**shard)).or(turns.clone().next()).copied().unwrap_or_else(any)
    }

    async fn load(&mut self, works: &[Work], stepped: &mut Stepped) -> Result<(), StoreError> {
        let of_event = |work: &Work| match work {
            Work::Event(event) => Some(event.addressed.execution),
            // New ones cannot be there yet.
            Work::New(_) | Work::Position(_) => None,
        };
        let wanted: BTreeSet<ExecutionId> = works.iter().filter_map(of_event).filter(|id| self.owns(id.shard())).collect();
        stepped.executions = self.executions(wanted).await?;
        Ok(())
    }

    /// Executions from the cache, and with one query for all that it misses. The caller gives them back.
    pub(super) async fn executions(&mut self, wanted: BTreeSet<ExecutionId>) -> Result<HashMap<ExecutionId, Execution>, StoreError> {
        let mut executions = HashMap::with_capacity(wanted.len());
        let mut missing = Vec::new();
        for id in wanted {
            match self.executions.take(id) {
                Some(execution) => drop(executions.insert(id, execution)),
                None => missing.push(id),
            }
        }
        if missing.is_empty() {
            return Ok(executions);
        }
        let loaded = load::executions(&mut self.parts.connection, &missing).await?;
        self.load_plans(loaded.iter().map(|loaded| loaded.plan_hash)).await?;
        for loaded in loaded {
            let hash = loaded.plan_hash;
            let plan = self.plans.get(&hash).ok_or_else(|| StoreError::Unreadable("an execution's plan is missing".into()))?;
            let execution = self.stepping(|_| loaded.with_plan(plan))??;
            executions.insert(execution.id, execution);
        }
        Ok(executions)
    }

    async fn load_plans(&mut self, hashes: impl Iterator<Item = [u8; 32]>) -> Result<(), StoreError> {
        let unknown: BTreeSet<[u8; 32]> = hashes.filter(|hash| self.plans.get(hash).is_none()).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<[u8; 32]> = unknown.into_iter().collect();
        for (hash, plan) in load::plans(&mut self.parts.connection, &unknown).await? {
            self.plans.put(hash, Arc::new(plan));
        }
        Ok(())
    }

    pub(super) fn step_all(&mut self, works: &mut [Work], stepped: &mut Stepped) -> Result<(), StoreError> {
        for work in works {
            match work {
                Work::Event(event) => self.step_event(event, stepped)?,
                Work::New(group) => self.step_group(group, stepped)?,
                Work::Position(position) => stepped.positions.push(position.clone()),
            }
        }
        for execution in stepped.executions.values() {
            collect(&mut stepped.outputs, execution);
        }
        Ok(())
    }

    fn step_event(&mut self, work: &EventWork, stepped: &mut Stepped) -> Result<(), StoreError> {
        let id = work.addressed.execution;
        let event = work.addressed.event.clone();
        let Some(execution) = stepped.executions.get_mut(&id) else {
            if self.owns(id.shard()) {
                stepped.effects.extend(answer_unknown(event).map(|effect| (id, effect)));
            }
            return Ok(());
        };
        if let (Event::Claim(_, request), Some(note)) = (&event, work.claim) {
            stepped.claims.insert(request.run_id, note);
        }
        let now = self.clock.now();
        let effects = self.stepping(|times| {
            crate::kill_points::poison(|| named_task(execution, &event));
            machine::step(execution, event, Self::circumstances(times, now, &mut Randomness))
        })?;
        stepped.effects.extend(effects.into_iter().map(|effect| (id, effect)));
        Ok(())
    }

    fn step_group(&mut self, group: &Group, stepped: &mut Stepped) -> Result<(), StoreError> {
        // The same submission twice, as when its sender's letter meets its caller's retry: it is made once, with its plan.
        if group.ids.first().is_some_and(|first| stepped.new.contains_key(first)) {
            return Ok(());
        }
        for (submission, id) in group.submissions.iter().zip(&group.ids) {
            let now = self.clock.now();
            let mut execution = Execution::new(*id, submission.plan.clone(), submission.input.clone(), now);
            execution.trace = submission.trace;
            let run_at = submission.run_at.map(Into::into);
            let effects =
                self.stepping(|times| machine::start(&mut execution, run_at, Self::circumstances(times, now, &mut Randomness)))?;
            let known = self.plans.get(&submission.plan_hash).is_some() || stepped.plans.contains_key(&submission.plan_hash);
            stepped.plans.insert(submission.plan_hash, submission.plan.clone());
            let plan = (!known).then(|| serde_json::to_value(&*submission.plan).expect("a plan is plain JSON"));
            let new = NewExecution {
                user_id: submission.user_id.clone(),
                metadata: submission.metadata.clone(),
                tags: submission.tags.clone(),
                plan_hash: submission.plan_hash,
                plan,
            };
            stepped.new.insert(*id, new);
            stepped.executions.insert(*id, execution);
            stepped.effects.extend(effects.into_iter().map(|effect| (*id, effect)));
        }
        Ok(())
    }

    /// A panic in the state machine is a fault of its event, not of the shard.
    fn stepping<T>(&self, step: impl FnOnce(&orchestr8_proto::times::ProtocolTimes) -> T) -> Result<T, StoreError> {
        let times = self.parts.times;
        catch_unwind(AssertUnwindSafe(|| step(&times))).map_err(|panic| StoreError::Refused {
            code: "panic".into(),
            message: format!("the state machine panicked: {}", said(&*panic)),
        })
    }

    /// Evaluates the outputs of workflows whose last task ended in this batch, and steps them once more.
    async fn evaluate_outputs(&mut self, stepped: &mut Stepped) -> Result<(), StoreError> {
        let ended: Vec<ExecutionId> =
            stepped.effects.iter().filter(|(_, effect)| *effect == Effect::EvaluateOutput).map(|(id, _)| *id).collect();
        for id in ended {
            // Many that end together, each with an output that takes long: the lane keeps its shards meanwhile.
            self.renew_if_late().await?;
            let execution = &stepped.executions[&id];
            let Some(template) = execution.plan.output.clone() else { continue };
            let reads = expression::reads(&template, &execution.plan);
            let output = match self.outputs_of(execution, &reads, &stepped.outputs).await? {
                Outputs::All(outputs) => {
                    let views = outputs::views(execution, &reads, &outputs);
                    super::dispatches::evaluate(&template, execution, &views, &Steps::default()).map_err(|error| error.to_string())
                }
                Outputs::TooLarge => Err(outputs::too_much_to_read().message),
            };
            let now = self.clock.now();
            let execution = stepped.executions.get_mut(&id).expect("stepped above");
            let event = Event::OutputEvaluated(output);
            let effects = self.stepping(|times| machine::step(execution, event, Self::circumstances(times, now, &mut Randomness)))?;
            stepped.effects.extend(effects.into_iter().map(|effect| (id, effect)));
        }
        Ok(())
    }

    /// Gives new dispatches their sequences and gathers every row of the batch.
    pub(super) fn rows(&mut self, works: &[Work], stepped: &mut Stepped) -> Batch {
        let mut batch = Batch::default();
        let mut tried = HashMap::new();
        for (id, effect) in &stepped.effects {
            if let Effect::Publish(index) = effect {
                self.draw_sequence(stepped.executions.get_mut(id).expect("it was stepped"), *index, &mut tried);
            }
        }
        for (lot, through) in &tried {
            if let Some(state) = self.lots.get(lot) {
                batch.mark(MarkRow { tried_through: *through, ..mark_row(state) });
            }
        }
        stepped.tried = tried;
        let decided: Vec<(u16, Uuid)> = stepped.inbox.iter().copied().filter(|(shard, _)| self.owns(*shard)).collect();
        let touched = works.iter().filter_map(execution_of).map(ExecutionId::shard).filter(|shard| self.owns(*shard));
        let shards: BTreeSet<u16> = touched.chain(decided.iter().map(|(shard, _)| *shard)).collect();
        decided.into_iter().for_each(|(_, id)| batch.decides(id));
        shards.into_iter().for_each(|shard| self.fence(&mut batch, shard));
        for (id, execution) in &mut stepped.executions {
            stepped.tally.see(&execution.changes);
            match stepped.new.remove(id) {
                Some(new) => batch.insert(execution, new),
                None => batch.update(execution),
            }
        }
        batch
    }

    fn draw_sequence(&mut self, execution: &mut Execution, index: TaskIndex, tried: &mut HashMap<Arc<Lot>, i64>) {
        let plan = execution.plan.clone();
        let planned = plan.task(index);
        let stream = self.incarnations.as_ref().map(|incarnations| incarnations.tasks.as_str());
        let state = self.lots.lot(execution.id.shard(), &planned.queue, planned.priority, stream);
        let (flows, first) = (!state.marks.holds(), !state.has_row);
        let sequence = state.marks.draw();
        execution.number_dispatch(index, sequence);
        // Without a row a lot is not found again; what is held is saved ahead when it is fed.
        if flows || first || tried.contains_key(&state.lot) {
            let through = state.marks.tried_through_for(sequence).unwrap_or(state.marks.tried_through);
            if first || through > state.marks.tried_through {
                let entry = tried.entry(state.lot.clone()).or_insert(through);
                *entry = through.max(*entry);
            }
        }
    }

    /// Answers a caller who cancelled something.
    pub(super) fn answer_cancel(work: EventWork, executions: &HashMap<ExecutionId, Execution>) {
        let Some(reply) = work.reply else { return };
        let answer = match executions.get(&work.addressed.execution) {
            None => Err(CommandError::NotFound),
            Some(execution) => match reply.task {
                None => CancelAnswer::of_workflow(execution.status),
                Some(task) if execution.has_task(task.index()) => CancelAnswer::of_task(execution.task(task.index()).status.0),
                Some(_) => Err(CommandError::NotFound),
            },
        };
        // The caller may have gone.
        reply.sender.send(answer).ok();
    }
}

/// The points before a commit: of any batch, and of those that hold outcomes or rows of an inbox.
fn passes_before_commit(works: &[Work]) {
    kill_points::pass(kill_points::BEFORE_COMMIT);
    if works.iter().any(|work| matches!(work, Work::Event(event) if matches!(event.addressed.event, Event::Outcome(..)))) {
        kill_points::pass(kill_points::AFTER_OUTCOMES_READ_BEFORE_COMMIT);
    }
    if works.iter().any(|work| work.inbox().is_some()) {
        kill_points::pass(kill_points::AFTER_INBOX_READ_BEFORE_COMMIT);
    }
}

/// Executions of doubtful groups that an earlier commit has made after all.
async fn made_already(works: &[Work], connection: &mut PgConnection) -> Result<HashSet<ExecutionId>, StoreError> {
    let first_of = |work: &Work| match work {
        Work::New(group) if group.state == GroupState::Doubtful => group.ids.first().copied(),
        Work::New(_) | Work::Event(_) | Work::Position(_) => None,
    };
    let doubtful: Vec<ExecutionId> = works.iter().filter_map(first_of).collect();
    if doubtful.is_empty() {
        return Ok(HashSet::new());
    }
    load::existing(connection, &doubtful).await
}

/// Whether the group's executions are to be made now; else it is answered.
fn admitted(group: &mut Group, reservations: &HashMap<String, Reservation>, made: &HashSet<ExecutionId>) -> bool {
    if group.ids.first().is_some_and(|first| made.contains(first)) {
        let ids = group.ids.clone();
        group.answer(Ok(Submitted { ids, origin: Origin::New }));
        return false;
    }
    let Some(key) = group.key.clone() else { return true };
    match reservations.get(&key.key) {
        None => true,
        Some(Reservation::Reserved) => {
            group.state = GroupState::Reserved;
            true
        }
        Some(Reservation::Unmade(ids)) => {
            group.ids.clone_from(ids);
            group.state = GroupState::Reserved;
            true
        }
        Some(Reservation::Made(ids)) => {
            group.answer(Ok(Submitted { ids: ids.clone(), origin: Origin::Replayed }));
            false
        }
        Some(Reservation::OtherBody) => {
            group.answer(Err(SubmitError::KeyReused { key: key.key }));
            false
        }
    }
}

fn execution_of(work: &Work) -> Option<ExecutionId> {
    match work {
        Work::Event(event) => Some(event.addressed.execution),
        Work::New(group) => group.ids.first().copied(),
        Work::Position(_) => None,
    }
}

/// What a panic says.
pub(super) fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// The name of the task that an event is about.
fn named_task<'a>(execution: &'a Execution, event: &Event) -> Option<&'a str> {
    let index = super::act::task_of(event).filter(|index| execution.has_task(*index))?;
    Some(&execution.plan.task(index).name)
}

/// What its tasks returned that completed since the last commit; null where that was nothing, which has no row.
fn collect(outputs: &mut HashMap<TaskId, Value>, execution: &Execution) {
    let completed = execution.changes.tasks.iter().filter(|index| execution.task(**index).status.0 == TaskStatus::Completed);
    outputs.extend(completed.map(|index| (execution.id.task(*index), Value::Null)));
    let results = execution.changes.results.iter();
    outputs.extend(results.map(|(index, output)| (execution.id.task(*index), output.clone())));
}

/// What an executor is told about a task of an execution that does not exist: a restored database may have lost it.
fn answer_unknown(event: Event) -> Option<Effect> {
    match event {
        Event::Outcome(_, report) => Some(Effect::Confirm(report.run_id, report.incarnation)),
        Event::Claim(_, request) | Event::Check(_, request) => {
            let answer = if request.running_for.is_some() { machine::Answer::Kill } else { machine::Answer::Refused };
            Some(Effect::Answer(request.run_id, request.incarnation, answer))
        }
        Event::Lost(..) | Event::Due(_) | Event::Cancel | Event::CancelTask(_) | Event::Undeliverable(..) | Event::OutputEvaluated(_) => {
            None
        }
    }
}
