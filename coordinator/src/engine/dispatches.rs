//! Rows into messages: what a dispatch says, which are published now, and which are fed later.

use super::batch::Stepped;
use super::bundles::{Closed, Passenger};
use super::lane::Lane;
use super::lots::{LotState, mark_row};
use super::outputs::{Views, reads_of, reads_of_all, too_much_to_read, unreadable, views};
use super::references::too_large;
use super::work::Work;
use crate::bus::publisher::{Again, Member};
use bytes::Bytes;
use orchestr8_core::execution::{Execution, Failure};
use orchestr8_core::expression::{self, ExpressionError, Scope, Steps};
use orchestr8_core::machine::Event;
use orchestr8_core::plan::{LargeValues, TaskIndex, TaskKind, TaskPlan, Template};
use orchestr8_proto::ids::{DispatchId, ExecutionId, TaskId};
use orchestr8_proto::tokens::Purpose;
use orchestr8_proto::wire::{DISPATCH_BYTES_MAX, Dispatch, EnvironmentVariable, HandlerKind, RunKind, WireError, dispatch};
use orchestr8_proto::words::TaskStatus;
use orchestr8_store::StoreError;
use orchestr8_store::commit::{self, Batch};
use orchestr8_store::load::Outputs;
use orchestr8_store::quarantine::{self, Quarantined};
use orchestr8_store::queue::{self, Lot, Queued};
use orchestr8_store::rows::MarkRow;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Messages are made for so long in one pass: expressions may be expensive, and the lane has leases to renew.
const MAKING_MAX: Duration = Duration::from_millis(250);

/// A lot in which nothing was queued for so many reconcile times is forgotten.
const IDLE_RECONCILES: u32 = 10;
/// Lots that are forgotten in one statement.
const IDLE_LOTS_MAX: usize = 1_024;

/// A dispatch to publish, if it is still current.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub task: TaskId,
    pub dispatch: DispatchId,
    pub sequence: i64,
    pub again: Again,
}

impl Wanted {
    const fn member(&self) -> Member {
        Member { sequence: self.sequence, task: self.task, dispatch: self.dispatch }
    }
}

/// What a task is given.
struct Inputs {
    with_json: Bytes,
    environment: Vec<EnvironmentVariable>,
    prompt: String,
}

/// The dispatches of one pass, as they are made.
struct Making {
    started: Instant,
    /// Also those that cannot be delivered.
    made: usize,
    postponed: usize,
    again: usize,
}

impl Making {
    fn new() -> Self {
        Self { started: Instant::now(), made: 0, postponed: 0, again: 0 }
    }

    /// One more. The time that the first one's outputs took does not count: the others of its group have them as well.
    fn begin(&mut self) {
        if self.made == 0 {
            self.started = Instant::now();
        }
        self.made += 1;
    }

    /// Whether the rest waits. One is always made, however long what it reads takes; what lies above one that waits has to wait.
    fn is_over(&self) -> bool {
        self.postponed > 0 || (self.made > 0 && self.started.elapsed() > MAKING_MAX)
    }
}

impl Lane {
    /// Publishes what the batch queued, where nothing older is held and there is room; the rest lies above its mark.
    pub(super) async fn publish_fresh(&mut self, wanted: Vec<Wanted>, stepped: &Stepped) -> Result<(), StoreError> {
        let mut flowing = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let Some(execution) = stepped.executions.get(&wanted.task.execution()) else { continue };
            let lot = super::act::lot_of(execution, wanted.task.index());
            let next = self
                .lots
                .get(&lot)
                .is_some_and(|state| state.marks.handed_through + 1 == wanted.sequence && wanted.sequence <= state.marks.tried_through);
            if next && self.lots.room(&lot) > 0 {
                self.lots.handed(&lot, wanted.sequence);
                flowing.push(wanted);
            }
        }
        self.publish(flowing, &stepped.executions, &stepped.outputs).await
    }

    /// Builds and hands over, as far as there is room and time. The marks have them as handed already.
    async fn publish(
        &mut self,
        wanted: Vec<Wanted>,
        executions: &HashMap<ExecutionId, Execution>,
        known: &HashMap<TaskId, Value>,
    ) -> Result<(), StoreError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut making = Making::new();
        let reads = reads_of_all(&wanted, executions);
        // The next one to be made is the last. One output that cannot be read, or many large ones, must not stop the others.
        let mut groups = vec![wanted];
        while let Some(mut group) = groups.pop() {
            if making.is_over() || self.lots.is_crowded() {
                group.into_iter().for_each(|wanted| self.postpone(wanted, executions, &mut making));
                continue;
            }
            let read = self.outputs_for(&group, &reads, known).await;
            let failure = match read {
                Ok(Outputs::All(outputs)) => {
                    group.into_iter().for_each(|wanted| self.make(wanted, (executions, &outputs), &mut making));
                    continue;
                }
                Ok(Outputs::TooLarge) => too_much_to_read(),
                Err(StoreError::Unreadable(error)) => unreadable(&error),
                Err(error) => return Err(error),
            };
            if group.len() > 1 {
                let rest = group.split_off(group.len() / 2);
                groups.extend([rest, group]);
            } else {
                making.begin();
                group.into_iter().for_each(|wanted| self.undeliverable(wanted, failure.clone()));
            }
        }
        self.lots.made(making.postponed);
        self.parts.metrics.published_again(making.again);
        let (closed, others) = self.bundler.leave(Instant::now()).map_err(|error| unencoded(&error))?;
        self.alarms.bundles = others;
        self.hand_over_made(closed);
        Ok(())
    }

    /// Bundles that wait for company leave without it.
    pub(super) fn send_bundles(&mut self) -> Result<(), StoreError> {
        self.alarms.bundles = None;
        let closed = self.bundler.leave_all(Instant::now()).map_err(|error| unencoded(&error))?;
        self.hand_over_made(closed);
        Ok(())
    }

    fn hand_over_made(&mut self, closed: Closed) {
        if closed.messages.is_empty() {
            return;
        }
        // And what frames them: the answers tell the sizes of whole messages.
        self.lots.sized(closed.frame_bytes);
        // The publisher lives as long as the lane.
        self.parts.publisher.send(closed.messages).ok();
    }

    fn postpone(&mut self, wanted: Wanted, executions: &HashMap<ExecutionId, Execution>, making: &mut Making) {
        let Some(execution) = executions.get(&wanted.task.execution()) else { return };
        self.lots.postponed(&super::act::lot_of(execution, wanted.task.index()), wanted.sequence, wanted.again);
        making.postponed += 1;
    }

    /// Makes one dispatch, if there still is room and time.
    fn make(
        &mut self,
        wanted: Wanted,
        (executions, outputs): (&HashMap<ExecutionId, Execution>, &HashMap<TaskId, Value>),
        making: &mut Making,
    ) {
        if making.is_over() || self.lots.is_crowded() {
            return self.postpone(wanted, executions, making);
        }
        let Some(execution) = executions.get(&wanted.task.execution()) else { return };
        making.begin();
        let lot = super::act::lot_of(execution, wanted.task.index());
        let lot = self.lots.get(&lot).map_or_else(|| Arc::new(lot), |state| state.lot.clone());
        let (member, together) = (wanted.member(), self.together(execution, wanted.task.index()));
        let added = self.message(execution, wanted, outputs).and_then(|dispatch| {
            let bytes = prost::Message::encoded_len(&dispatch);
            let passenger = Passenger { member, dispatch, again: wanted.again, together };
            self.bundler.add(&lot, passenger).map_err(|_| too_large(DISPATCH_BYTES_MAX))?;
            Ok(bytes)
        });
        match added {
            Ok(bytes) => {
                self.lots.sized(bytes);
                making.again += usize::from(wanted.again == Again::MayBe);
            }
            Err(failure) => self.undeliverable(wanted, failure),
        }
    }

    /// The mark passes it only when its failure is committed: it leaves the queue then.
    fn undeliverable(&mut self, wanted: Wanted, failure: Failure) {
        self.lots.answered(1, 0);
        let event = Event::Undeliverable(wanted.task.index(), wanted.dispatch, failure);
        self.pending.push_back(Work::event(wanted.task.execution(), event));
    }

    fn message(&mut self, execution: &Execution, wanted: Wanted, outputs: &HashMap<TaskId, Value>) -> Result<Dispatch, Failure> {
        let dispatch = self.whole(execution, wanted, outputs)?;
        if prost::Message::encoded_len(&dispatch) > DISPATCH_BYTES_MAX { self.referring(wanted, dispatch) } else { Ok(dispatch) }
    }

    /// The dispatch with all of its inputs.
    pub(super) fn whole(&self, execution: &Execution, wanted: Wanted, outputs: &HashMap<TaskId, Value>) -> Result<Dispatch, Failure> {
        let views = views(execution, &reads_of(execution, wanted.task.index()), outputs);
        self.dispatch(execution, wanted, &views)
    }

    /// How many dispatches like that of this task may travel in one message. What was tried before travels alone: whoever
    /// gets it may have to wait for an answer, or be the wrong one again.
    fn together(&self, execution: &Execution, index: TaskIndex) -> usize {
        let task = execution.task(index);
        let asks = task.dispatch.is_some_and(|dispatch| dispatch.ask_first);
        let first = task.attempt <= 1 && task.losses_in_row == 0 && task.releases_in_row == 0 && !asks;
        match &execution.plan.task(index).kind {
            TaskKind::Handler { name } if first => self.durations.together(name, self.parts.bundle_max),
            TaskKind::Handler { .. } | TaskKind::Run { .. } | TaskKind::Sleep { .. } => 1,
        }
    }

    fn dispatch(&self, execution: &Execution, wanted: Wanted, views: &Views) -> Result<Dispatch, Failure> {
        let index = wanted.task.index();
        let planned = execution.plan.task(index);
        let task = execution.task(index);
        let Inputs { with_json, environment, prompt } = self.inputs(execution, planned, views)?;
        Ok(Dispatch {
            dispatch_id: wanted.dispatch.to_bytes(),
            task_id: wanted.task.to_bytes(),
            task_name: planned.name.clone(),
            workflow_name: execution.plan.name.clone(),
            attempt: task.attempt,
            ask_first: task.dispatch.is_some_and(|dispatch| dispatch.ask_first),
            timeout_ms: planned.timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1)),
            lease_ms: 0,
            kind: kind(planned),
            with_json,
            prompt,
            environment,
            large_values_in_file: planned.large_values == LargeValues::File,
            workdir: planned.workdir.clone().unwrap_or_default(),
            traceparent: super::spans::traceparent(&self.parts.spans, execution, index),
            outcome_token: self.parts.keys.sign(Purpose::Outcome, wanted.task, wanted.dispatch),
        })
    }

    /// What the templates of a task are here. What cannot be sent is not made to its end.
    fn inputs(&self, execution: &Execution, planned: &TaskPlan, views: &Views) -> Result<Inputs, Failure> {
        let bytes_max = self.parts.inputs_bytes_max;
        let (steps, mut bytes) = (Steps::with_results(bytes_max), 0);
        let evaluated = |template: &Template| {
            evaluate(template, execution, views, &steps).map_err(|error| {
                if matches!(error, ExpressionError::ResultTooLarge(_)) { too_large(bytes_max) } else { expression_failure(planned, &error) }
            })
        };
        let mut counted = |added: usize| {
            bytes += added;
            if bytes > bytes_max { Err(too_large(bytes_max)) } else { Ok(()) }
        };
        let mut with = BTreeMap::new();
        for (key, template) in &planned.with {
            // Written once: that is most of what large values cost.
            let written = to_raw_value(&evaluated(template)?).expect("a JSON value is JSON");
            counted(written.get().len())?;
            with.insert(key, written);
        }
        let mut environment = Vec::with_capacity(planned.env.len());
        for (name, template) in &planned.env {
            let value = text(evaluated(template)?);
            counted(value.len())?;
            environment.push(EnvironmentVariable { name: name.clone(), value });
        }
        let prompt = planned.prompt.as_ref().map(evaluated).transpose()?.map(text).unwrap_or_default();
        counted(prompt.len())?;
        let with_json = if with.is_empty() { Vec::new() } else { serde_json::to_vec(&with).expect("JSON within JSON is JSON") };
        Ok(Inputs { with_json: with_json.into(), environment, prompt })
    }

    /// Whether something is held for which there is room, or is to be published again now.
    pub(super) fn wants_feeding(&self) -> bool {
        self.owns_shards() && self.incarnations.is_some() && self.lot_to_feed().is_some()
    }

    fn lot_to_feed(&self) -> Option<Arc<Lot>> {
        let now = Instant::now();
        let again = self.again_from <= now;
        let ready = |state: &&LotState| {
            !state.flies
                && (again && state.marks.again.is_some() || state.marks.holds())
                && state.full_until.is_none_or(|until| until <= now)
                && self.lots.room(&state.lot) > 0
        };
        self.lots.iter().filter(ready).map(|state| &state.lot).min_by_key(|lot| (lot.priority, lot.shard)).cloned()
    }

    /// Feeds one lot: what must go again, then what is held.
    pub(super) async fn feed(&mut self) -> Result<(), StoreError> {
        if !self.owns_shards() || self.incarnations.is_none() {
            return Ok(());
        }
        let Some(lot) = self.lot_to_feed() else { return Ok(()) };
        let Some(state) = self.lots.get(&lot) else { return Ok(()) };
        let again = state.marks.again.filter(|_| self.again_from <= Instant::now());
        match again {
            Some(range) => self.feed_again(&lot, range).await,
            None => self.feed_held(&lot).await,
        }
    }

    async fn feed_again(&mut self, lot: &Lot, (from, to): (i64, i64)) -> Result<(), StoreError> {
        let limit = self.lots.rows_to_feed(lot);
        let rows = queue::queued_through(&mut self.parts.connection, lot, (from, to), i64::try_from(limit).unwrap_or(i64::MAX)).await?;
        let through = if rows.len() < limit { to } else { rows.last().map_or(to, |row| row.sequence) };
        self.ahead(lot, through).await?;
        for row in &rows {
            self.lots.handed(lot, row.sequence);
        }
        if let Some(state) = self.lots.get(lot) {
            state.marks.again_handed_through(through);
            state.dirty = true;
        }
        self.publish_rows(lot, &rows, |_| Again::MayBe).await
    }

    async fn feed_held(&mut self, lot: &Lot) -> Result<(), StoreError> {
        let limit = self.lots.rows_to_feed(lot);
        let Some(state) = self.lots.get(lot) else { return Ok(()) };
        let (after, drawn, tried) = (state.marks.handed_through, state.marks.drawn, state.marks.highest_tried);
        let rows = queue::queued_above(&mut self.parts.connection, lot, after, i64::try_from(limit).unwrap_or(i64::MAX)).await?;
        if let Some(last) = rows.last() {
            self.ahead(lot, last.sequence).await?;
        }
        for row in &rows {
            self.lots.handed(lot, row.sequence);
        }
        if rows.len() < limit
            && let Some(state) = self.lots.get(lot)
        {
            state.marks.passed(drawn);
            state.full_until = None;
        }
        self.publish_rows(lot, &rows, |sequence| if sequence <= tried { Again::MayBe } else { Again::First }).await
    }

    /// Saves the tried mark ahead of a try, where no batch did.
    async fn ahead(&mut self, lot: &Lot, sequence: i64) -> Result<(), StoreError> {
        let Some(state) = self.lots.get(lot) else { return Ok(()) };
        let Some(through) = state.marks.tried_through_for(sequence) else { return Ok(()) };
        let mut batch = Batch::default();
        batch.mark(MarkRow { tried_through: through, ..mark_row(state) });
        self.fence(&mut batch, lot.shard);
        commit::commit(&mut self.parts.connection, &batch).await?;
        self.lots.tries(lot, through);
        Ok(())
    }

    async fn publish_rows(&mut self, lot: &Lot, rows: &[Queued], again: impl Fn(i64) -> Again) -> Result<(), StoreError> {
        let executions = self.readable_executions(rows.iter().map(|row| row.task.execution()).collect()).await?;
        let mut wanted = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(execution) = executions.get(&row.task.execution()) else {
                self.lots.unread(lot, row.sequence);
                continue;
            };
            let current = execution.has_task(row.task.index())
                && execution.task(row.task.index()).status.0 == TaskStatus::Queued
                && execution.task(row.task.index()).is_current(row.dispatch);
            if current {
                wanted.push(Wanted { task: row.task, dispatch: row.dispatch, sequence: row.sequence, again: again(row.sequence) });
            } else {
                self.lots.not_wanted(lot, row.sequence);
            }
        }
        // The fence: rows that were read under a lease that is gone must not be published (rule R3).
        self.check_fence(rows.first().map(|row| row.task.shard())).await?;
        let published = self.publish(wanted, &executions, &HashMap::new()).await;
        executions.into_values().for_each(|execution| self.executions.put(execution));
        published
    }

    /// As [`Lane::executions`], without those that cannot be read: one bad row must not stop what is fed beside it.
    async fn readable_executions(&mut self, ids: BTreeSet<ExecutionId>) -> Result<HashMap<ExecutionId, Execution>, StoreError> {
        match self.executions(ids.clone()).await {
            Err(StoreError::Unreadable(_) | StoreError::Refused { .. }) => {}
            loaded => return loaded,
        }
        let mut executions = HashMap::new();
        for id in ids {
            match self.executions(BTreeSet::from([id])).await {
                Ok(loaded) => executions.extend(loaded),
                Err(StoreError::Unreadable(error) | StoreError::Refused { message: error, .. }) => self.unpublished(id, &error).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(executions)
    }

    /// The dispatches of an execution that cannot be read wait: the survey of every minute finds that they are in no stream.
    async fn unpublished(&mut self, id: ExecutionId, error: &str) -> Result<(), StoreError> {
        tracing::error!(workflow_id = %id, shard = id.shard(), %error, "a queued task cannot be read and is not published");
        self.parts.metrics.quarantined();
        let event = json!({ "event": "publish" });
        let kept = Quarantined { shard: id.shard(), execution: Some(id), task: None, event, error, inbox: None };
        quarantine::keep(&mut self.parts.connection, kept).await
    }

    /// Queues come and go; their marks, and what the lane remembers of them, must not stay for ever.
    pub(super) async fn forget_idle_lots(&mut self) -> Result<(), StoreError> {
        let Some(since) = Instant::now().checked_sub(self.parts.times.reconcile() * IDLE_RECONCILES).filter(|_| self.owns_shards()) else {
            return Ok(());
        };
        let idle = self.lots.idle_since(since, IDLE_LOTS_MAX);
        let held: Vec<_> = idle.into_iter().filter_map(|lot| Some((lot.clone(), self.shards.get(&lot.shard)?.lease))).collect();
        if held.is_empty() {
            return Ok(());
        }
        for lot in queue::forget_marks(&mut self.parts.connection, &held).await? {
            self.lots.forget(&lot);
        }
        Ok(())
    }

    async fn check_fence(&mut self, shard: Option<u16>) -> Result<(), StoreError> {
        let Some(shard) = shard else { return Ok(()) };
        let mut batch = Batch::default();
        self.fence(&mut batch, shard);
        commit::commit(&mut self.parts.connection, &batch).await.map(|now| self.clock.told(now))
    }

    pub(super) fn epoch(&self) -> u64 {
        self.parts.epoch.load(Ordering::Acquire)
    }
}

fn unencoded(error: &WireError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

fn kind(planned: &TaskPlan) -> Option<dispatch::Kind> {
    match &planned.kind {
        TaskKind::Run { script } => Some(dispatch::Kind::Run(RunKind { script: script.clone() })),
        TaskKind::Handler { name } => Some(dispatch::Kind::Handler(HandlerKind { name: name.clone() })),
        // A timer of the coordinator's; it is never dispatched.
        TaskKind::Sleep { .. } => None,
    }
}

/// The value of a template of this execution.
pub(super) fn evaluate(template: &Template, execution: &Execution, views: &Views, steps: &Steps) -> Result<Value, ExpressionError> {
    let workflow = json!({ "id": execution.id, "name": execution.plan.name });
    let scope = Scope { input: &execution.input, workflow: &workflow, tasks: views };
    // The evaluator is somebody else's and the expression too: a panic is a fault of its task, not of the lane.
    catch_unwind(AssertUnwindSafe(|| expression::evaluate(template, &scope, steps))).unwrap_or_else(|panic| {
        let message = format!("the evaluator panicked: {}", super::batch::said(&*panic));
        Err(ExpressionError::Evaluation { expression: String::new(), message })
    })
}

fn expression_failure(planned: &TaskPlan, error: &ExpressionError) -> Failure {
    Failure { error_type: "expression".into(), message: format!("task `{}`: {error}", planned.name) }
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
