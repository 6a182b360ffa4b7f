//! A batch of the lane: step, commit, act, publish; then feeding, saving and the survey. The order is that of `engine/`.

use super::broker::{PubAck, TaskMessage};
use super::coordinator::{Coordinator, Doubt, Fate, Stage, Work, still_stored};
use super::database::{Batch, MarkRow, Position, QueuedRow};
use super::mail::{Letter, LetterId};
use super::messages::{Asked, Question, Sent, Told};
use super::reference::Judged;
use super::rules::Rule;
use orchestr8_core::execution::{Execution, Failure};
use orchestr8_core::leases::Grant;
use orchestr8_core::machine::{self, Answer, Circumstances, Draws, Effect, Event};
use orchestr8_core::marks::Marks;
use orchestr8_core::plan::TaskIndex;
use orchestr8_proto::ids::{DispatchId, ExecutionId, RunId, TaskId};
use orchestr8_proto::timestamp::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long a cancel waits for a running task.
const CANCEL_PATIENCE: Duration = Duration::from_secs(22);
/// A healthy run of this length starts the count of losses anew.
const LOSS_RESET: Duration = Duration::from_mins(10);
/// Rows that are fed in one pass.
const FEED_ROWS_MAX: usize = 512;

/// The lane does not know how a commit ended, or lost its lease: it says nothing until it has recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InDoubt;

struct Drawing<'a>(&'a mut u64);

impl Draws for Drawing<'_> {
    fn dispatch_id(&mut self) -> DispatchId {
        *self.0 += 1;
        DispatchId(Uuid::from_u128(u128::from(*self.0)))
    }

    fn unit(&mut self) -> f64 {
        0.5
    }
}

/// A batch in memory.
#[derive(Default)]
struct Stepped {
    /// With the versions that were read.
    executions: BTreeMap<ExecutionId, (i64, Execution)>,
    effects: Vec<(ExecutionId, Effect)>,
    beats: BTreeMap<RunId, u64>,
    position: Option<Position>,
    tried_through: Option<i64>,
    letters: Vec<LetterId>,
}

impl Coordinator {
    /// Passes up to `count` works through the lane.
    ///
    /// # Errors
    /// [`InDoubt`]: the works are pending again.
    pub(super) fn process(&mut self, stage: &mut Stage<'_>, (count, fate): (usize, Fate)) -> Result<(), InDoubt> {
        let works: Vec<Work> = self.pending.drain(..count.min(self.pending.len())).collect();
        let mut judged = stage.database.judged.clone();
        let mut stepped = Stepped::default();
        for work in &works {
            self.step(work, stage, (&mut stepped, &mut judged));
        }
        let batch = self.rows(&mut stepped, judged);
        let before = stage.sent.len();
        if !self.rules.keep(Rule::R3) {
            stage.sent.extend(told(&stepped));
        }
        let committed = match fate {
            Fate::Lost => Ok(()),
            Fate::Committed | Fate::AnswerLost => stage.database.commit(self.lease, batch),
        };
        if fate != Fate::Lost && committed.is_ok() {
            stage.reference.violations.append(&mut stage.database.judged.found);
        }
        let known = fate == Fate::Committed && committed.is_ok();
        if known {
            if self.rules.keep(Rule::R3) {
                stage.sent.extend(told(&stepped));
            }
            self.act(stage, stepped);
        } else {
            self.in_doubt = true;
            works.into_iter().rev().for_each(|work| self.pending.push_front(work));
        }
        let confirmed: Vec<RunId> = stage.sent[before..].iter().filter_map(confirmed_run).collect();
        stage.reference.confirmed(confirmed.into_iter(), stage.database);
        if known { Ok(()) } else { Err(InDoubt) }
    }

    fn step(&mut self, work: &Work, stage: &mut Stage<'_>, (stepped, judged): (&mut Stepped, &mut Judged)) {
        let now = Timestamp(stage.now_us);
        let (task, event) = match work {
            Work::Position(position) => return stepped.position = Some(*position),
            Work::Start(id) => return start(*id, stage, stepped),
            Work::Letter(letter, Letter::Submit(id)) => return self.step_submission((*letter, *id), stage, stepped),
            Work::Outcome(told) => (told.task, Event::Outcome(told.task.index(), told.report())),
            Work::Claim(asked, _) => (asked.task, claim_event(asked)),
            Work::Lost(task, run, _) => (*task, Event::Lost(task.index(), *run)),
            Work::Due(task) => (*task, Event::Due(task.index())),
            Work::Cancel(id) | Work::Letter(_, Letter::Cancel(id)) => (id.task(0), Event::Cancel),
            Work::Undeliverable(task, dispatch) => {
                let failure = Failure { error_type: "too_large".into(), message: String::new() };
                (*task, Event::Undeliverable(task.index(), *dispatch, failure))
            }
        };
        let (id, index) = (task.execution(), task.index());
        stepped.letters.extend(work.letter());
        if let Work::Outcome(told) = work {
            judged.decided.insert(told.run);
        }
        if let Work::Claim(asked, _) = work {
            stepped.beats.insert(asked.run, asked.beat);
        }
        let Some((_, execution)) = self.load(id, stage, stepped) else {
            stepped.effects.extend(answer_unknown(work).map(|effect| (id, effect)));
            return;
        };
        let event = if self.rules.keep(Rule::R1) { event } else { by_task_alone(execution, event) };
        let before = execution.task(index).clone();
        let circumstances = Circumstances {
            now,
            draws: &mut Drawing(&mut stage.reference.dispatches),
            cancel_patience: CANCEL_PATIENCE,
            loss_reset: LOSS_RESET,
        };
        let effects = machine::step(execution, event, circumstances);
        let after = execution.task(index).clone();
        let dispatch = |task: &orchestr8_core::execution::Task| task.dispatch.map(|dispatch| dispatch.id);
        let decided_something = dispatch(&before) != dispatch(&after) || before.holder != after.holder;
        if decided_something {
            let holder = before.holder.map(|holder| holder.run_id);
            judge(work, (dispatch(&before), holder), stage, judged);
        }
        stepped.effects.extend(effects.into_iter().map(|effect| (id, effect)));
    }

    /// Perhaps it was made already: the sender may have sent it twice, or a commit have ended in doubt.
    fn step_submission(&self, (letter, id): (LetterId, ExecutionId), stage: &mut Stage<'_>, stepped: &mut Stepped) {
        stepped.letters.push(letter);
        if self.rules.keep(Rule::InboxReadAgain) {
            start(id, stage, stepped);
        } else {
            make(id, stage, stepped);
        }
    }

    fn load<'s>(&mut self, id: ExecutionId, stage: &Stage<'_>, stepped: &'s mut Stepped) -> Option<&'s mut (i64, Execution)> {
        if let std::collections::btree_map::Entry::Vacant(entry) = stepped.executions.entry(id) {
            let known = self.cache.get(&id).or_else(|| stage.database.rows.get(&id));
            let mut execution = known?.clone();
            execution.derive();
            entry.insert((execution.version, execution));
        }
        stepped.executions.get_mut(&id)
    }

    fn rows(&mut self, stepped: &mut Stepped, judged: Judged) -> Batch {
        for (id, effect) in &stepped.effects {
            let Effect::Publish(index) = effect else { continue };
            let (flows, first) = (!self.marks.holds(), self.marks.drawn == 0);
            let sequence = self.marks.draw();
            if let Some((_, execution)) = stepped.executions.get_mut(id) {
                execution.number_dispatch(*index, sequence);
            }
            if flows || first || stepped.tried_through.is_some() {
                let through = self.marks.tried_through_for(sequence).unwrap_or(self.marks.tried_through);
                if first || through > self.marks.tried_through {
                    stepped.tried_through = Some(through.max(stepped.tried_through.unwrap_or(0)));
                }
            }
        }
        let mut executions = Vec::new();
        for (expected, execution) in stepped.executions.values_mut() {
            if execution.committed().execution {
                executions.push((*expected, execution.clone()));
            }
        }
        let marks = stepped.tried_through.map(|tried_through| MarkRow { tried_through, ..self.mark_row() });
        Batch { executions, marks, letters: std::mem::take(&mut stepped.letters), judged }
    }

    fn mark_row(&self) -> MarkRow {
        let Marks { published_through, tried_through, .. } = &self.marks;
        MarkRow {
            published_through: *published_through,
            tried_through: *tried_through,
            stream: self.marks_stream,
            checkpoints: self.marks.checkpoints(),
        }
    }

    fn act(&mut self, stage: &mut Stage<'_>, stepped: Stepped) {
        self.marks.tried_through = self.marks.tried_through.max(stepped.tried_through.unwrap_or(0));
        let mut wanted = Vec::new();
        for (id, effect) in &stepped.effects {
            let Some((_, execution)) = stepped.executions.get(id) else { continue };
            match effect {
                Effect::Publish(index) => wanted.extend(queued_row(execution, *index)),
                Effect::LeftQueue(_, sequence) => self.marks.abandoned(*sequence),
                Effect::LeaseStarted(index, run, _) => self.lease_started(execution, *index, (*run, &stepped)),
                Effect::LeaseEnded(run) => self.leases.ended(*run),
                Effect::Answer(..)
                | Effect::Confirm(..)
                | Effect::Drop(_)
                | Effect::Timer(_)
                | Effect::EvaluateOutput
                | Effect::AttemptEnded(_)
                | Effect::TaskEnded(..)
                | Effect::Ended => {}
            }
        }
        if let Some(position) = stepped.position {
            self.read_through = Some(position.sequence);
            let behind = self.position.is_none_or(|known| {
                known.incarnation != position.incarnation || known.sequence < position.sequence || known.time_us < position.time_us
            });
            if behind {
                self.position = Some(position);
            }
        }
        self.cache.extend(stepped.executions.into_iter().map(|(id, (_, execution))| (id, execution)));
        for row in wanted {
            let next = self.marks.handed_through + 1 == row.sequence && row.sequence <= self.marks.tried_through;
            if next {
                self.marks.handed(row.sequence);
                self.publish(row, stage, Again::No);
            }
        }
    }

    fn lease_started(&mut self, execution: &Execution, index: TaskIndex, (run, stepped): (RunId, &Stepped)) {
        let task = execution.task(index);
        let Some((dispatch, holder)) = task.dispatch.zip(task.holder.filter(|holder| holder.run_id == run)) else { return };
        let beat_sequence = stepped.beats.get(&run).copied().unwrap_or(0);
        let (task, dispatch, incarnation) = (execution.id.task(index), dispatch.id, holder.incarnation);
        self.leases.granted(Grant { task, dispatch, run, incarnation, beat_sequence, ticks: None });
    }

    /// The marks have it as handed already: the answers come after everything was handed over.
    fn publish(&mut self, row: QueuedRow, stage: &mut Stage<'_>, again: Again) {
        let message = TaskMessage {
            task: row.task,
            dispatch: row.dispatch,
            again: again == Again::Yes,
            ask_first: row.ask_first,
            deliveries: 0,
            stored_us: stage.now_us,
            lent_until_us: None,
        };
        match stage.broker.publish(message) {
            PubAck::Stored(stream_sequence) => self.marks.acked(row.sequence, stream_sequence),
            PubAck::Full => self.marks.refused_as_full(row.sequence),
            PubAck::TooLarge => self.pending.push_back(Work::Undeliverable(row.task, row.dispatch)),
            PubAck::Silence => {}
        }
    }

    /// Whether something is held or must go again.
    pub(super) fn wants_feeding(&self) -> bool {
        self.marks.holds() || (self.heard && self.marks.again.is_some())
    }

    /// Publishes what must go again, then what is held.
    ///
    /// # Errors
    /// [`InDoubt`]: the lease is another's.
    pub(super) fn feed(&mut self, stage: &mut Stage<'_>) -> Result<(), InDoubt> {
        if !self.wants_feeding() {
            return Ok(());
        }
        let again = self.marks.again.filter(|_| self.heard);
        let highest_tried = self.marks.highest_tried;
        let (above, to) = again.unwrap_or((self.marks.handed_through, i64::MAX));
        let mut rows = stage.database.queued((above, to));
        let all = rows.len() < FEED_ROWS_MAX;
        rows.truncate(FEED_ROWS_MAX);
        let last = rows.last().map(|row| row.sequence);
        let through = if all { again.map_or(self.marks.drawn, |(_, to)| to) } else { last.unwrap_or(to) };
        if stage.database.lease != self.lease {
            self.in_doubt = true;
            return Err(InDoubt);
        }
        if let Some(tried_through) = last.or(again.map(|_| through)).and_then(|sequence| self.marks.tried_through_for(sequence)) {
            stage.database.marks = Some(MarkRow { tried_through, ..self.mark_row() });
            self.marks.tried_through = tried_through;
        }
        rows.iter().for_each(|row| self.marks.handed(row.sequence));
        if again.is_some() {
            self.marks.again_handed_through(through);
        } else if all {
            self.marks.passed(through);
        }
        for row in rows {
            let repeated = again.is_some() || row.sequence <= highest_tried;
            self.publish(row, stage, if repeated { Again::Yes } else { Again::No });
        }
        Ok(())
    }

    /// Renews the lease; position and marks are saved with it.
    ///
    /// # Errors
    /// [`InDoubt`]: the lease is another's.
    pub(super) fn save(&mut self, stage: &mut Stage<'_>) -> Result<(), InDoubt> {
        if stage.database.lease != self.lease {
            self.in_doubt = true;
            return Err(InDoubt);
        }
        stage.database.position = self.position;
        if self.marks.drawn > 0 {
            stage.database.marks = Some(self.mark_row());
        }
        self.inbox_due |= !stage.database.inbox.is_empty() && self.rules.keep(Rule::InboxLookedInto);
        Ok(())
    }

    /// Queued rows whose message is gone; the inquiry comes before the verdict.
    pub(super) fn survey(&mut self, stage: &Stage<'_>) {
        let (consumer, published) = (stage.broker.consumer_state(), self.marks.published_through);
        let below_floor = || self.marks.stored_at_or_below(consumer.ack_floor).map(|through| through.min(published));
        let gone = if consumer.empty { Some(published) } else { below_floor() };
        let Some(through) = gone.filter(|through| *through > 0 && self.marks.again.is_none()) else { return };
        let rows = stage.database.queued((0, through));
        if rows.is_empty() {
            return;
        }
        let witnesses = stage.broker.witnesses(|told| rows.iter().any(|row| row.dispatch == told.dispatch));
        self.doubt(Doubt::Vanished(rows.iter().map(|row| (row.task, row.sequence)).collect(), witnesses));
    }

    /// Timers that are due.
    pub(super) fn take_due(&mut self, stage: &Stage<'_>) {
        let now = Timestamp(stage.now_us);
        for row in stage.database.rows.values() {
            for (index, task) in (0..).zip(&row.tasks) {
                let due = Work::Due(row.id.task(index));
                if task.due_at.is_some_and(|at| at <= now) && !self.pending.contains(&due) {
                    self.pending.push_back(due);
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Yes,
    No,
}

fn start(id: ExecutionId, stage: &mut Stage<'_>, stepped: &mut Stepped) {
    // The row under the stored id: a submission that comes again makes nothing twice.
    if stage.database.rows.contains_key(&id) || stepped.executions.contains_key(&id) {
        return;
    }
    make(id, stage, stepped);
}

fn make(id: ExecutionId, stage: &mut Stage<'_>, stepped: &mut Stepped) {
    let now = Timestamp(stage.now_us);
    let mut execution = Execution::new(id, stage.plans[&id].clone(), Arc::new(Value::Null), now);
    let circumstances = Circumstances {
        now,
        draws: &mut Drawing(&mut stage.reference.dispatches),
        cancel_patience: CANCEL_PATIENCE,
        loss_reset: LOSS_RESET,
    };
    let effects = machine::start(&mut execution, None, circumstances);
    stepped.executions.insert(id, (0, execution));
    stepped.effects.extend(effects.into_iter().map(|effect| (id, effect)));
}

fn claim_event(asked: &Asked) -> Event {
    match asked.question {
        Question::Claim => Event::Claim(asked.task.index(), asked.request()),
        Question::Check => Event::Check(asked.task.index(), asked.request()),
    }
}

/// Rule R1 broken: whatever is told about a task is taken for its present dispatch and holder.
fn by_task_alone(execution: &Execution, event: Event) -> Event {
    match event {
        Event::Outcome(index, mut report) => {
            let task = execution.task(index);
            report.dispatch_id = task.dispatch.map_or(report.dispatch_id, |dispatch| dispatch.id);
            report.run_id = task.holder.map_or(report.run_id, |holder| holder.run_id);
            Event::Outcome(index, report)
        }
        other => other,
    }
}

/// Compares what a step decided with what really happened.
fn judge(work: &Work, before: (Option<DispatchId>, Option<RunId>), stage: &mut Stage<'_>, judged: &mut Judged) {
    match work {
        Work::Outcome(told) => stage.reference.counted(told, before, judged),
        Work::Claim(asked, witnesses) => {
            judged.granted(asked.dispatch, asked.run);
            let unread: Vec<RunId> = still_stored(witnesses, stage.broker).into_iter().filter(|run| *run != asked.run).collect();
            judged.verdict(&unread);
        }
        Work::Lost(_, _, witnesses) => judged.verdict(&still_stored(witnesses, stage.broker)),
        Work::Start(_) | Work::Position(_) | Work::Due(_) | Work::Cancel(_) | Work::Letter(..) | Work::Undeliverable(..) => {}
    }
}

fn told(stepped: &Stepped) -> Vec<Sent> {
    let sent = |(_, effect): &(ExecutionId, Effect)| match effect {
        Effect::Answer(run, incarnation, answer) => Some(Sent::Answer(*run, *incarnation, *answer)),
        Effect::Confirm(run, incarnation) => Some(Sent::Confirm(*run, *incarnation)),
        Effect::Drop(dispatch) => Some(Sent::Drop(*dispatch)),
        Effect::Publish(_)
        | Effect::LeftQueue(..)
        | Effect::LeaseStarted(..)
        | Effect::LeaseEnded(_)
        | Effect::Timer(_)
        | Effect::EvaluateOutput
        | Effect::AttemptEnded(_)
        | Effect::TaskEnded(..)
        | Effect::Ended => None,
    };
    stepped.effects.iter().filter_map(sent).collect()
}

fn confirmed_run(sent: &Sent) -> Option<RunId> {
    match sent {
        Sent::Confirm(run, _) => Some(*run),
        Sent::Answer(..) | Sent::Drop(_) | Sent::BeatNow | Sent::Inputs(..) => None,
    }
}

fn queued_row(execution: &Execution, index: TaskIndex) -> Option<QueuedRow> {
    let dispatch = execution.task(index).dispatch?;
    let task: TaskId = execution.id.task(index);
    Some(QueuedRow { task, dispatch: dispatch.id, sequence: dispatch.sequence, ask_first: dispatch.ask_first })
}

/// What an executor is told about an execution that a restored database has lost.
fn answer_unknown(work: &Work) -> Option<Effect> {
    match work {
        Work::Outcome(Told { run, incarnation, .. }) => Some(Effect::Confirm(*run, *incarnation)),
        Work::Claim(asked, _) => {
            let answer = if asked.running_for.is_some() { Answer::Kill } else { Answer::Refused };
            Some(Effect::Answer(asked.run, asked.incarnation, answer))
        }
        Work::Start(_)
        | Work::Lost(..)
        | Work::Position(_)
        | Work::Due(_)
        | Work::Cancel(_)
        | Work::Letter(..)
        | Work::Undeliverable(..) => None,
    }
}
