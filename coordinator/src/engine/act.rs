//! After the commit, and only because the fence held: publish, answer, confirm, wake (rule R3).

use super::batch::Stepped;
use super::dispatches::Wanted;
use super::handle::{Origin, Submitted};
use super::inquiry::Doubt;
use super::lane::Lane;
use super::spans;
use super::work::{EventWork, Group, ReadThrough, Work};
use crate::bus::control::Outbox;
use crate::bus::publisher::Again;
use crate::kill_points;
use orchestr8_core::execution::{Execution, Failure};
use orchestr8_core::leases::Grant;
use orchestr8_core::machine::{Answer, Effect, Event, Report, Reported};
use orchestr8_core::plan::{TaskIndex, TaskKind};
use orchestr8_proto::ids::{ExecutionId, Incarnation, RunId};
use orchestr8_store::StoreError;
use orchestr8_store::quarantine::{self, Quarantined};
use orchestr8_store::queue::Lot;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Confirmations leave so often in one base of the protocol's times.
const CONFIRMS_PER_BASE: u32 = 20;

impl Lane {
    pub(super) async fn act(&mut self, works: Vec<Work>, mut stepped: Stepped) -> Result<(), StoreError> {
        self.parts.handle.update_health(self.parts.index, |health| health.database = None);
        for (lot, through) in std::mem::take(&mut stepped.tried) {
            self.lots.tries(&lot, through);
        }
        for (hash, plan) in std::mem::take(&mut stepped.plans) {
            self.plans.put(hash, plan);
        }
        self.parts.metrics.tallied(&stepped.tally);
        let mut outbox = Outbox::default();
        let mut wanted = Vec::new();
        for (id, effect) in std::mem::take(&mut stepped.effects) {
            self.carry_out(id, &effect, &stepped, (&mut outbox, &mut wanted));
        }
        if let Some(read) = std::mem::take(&mut stepped.positions).pop() {
            self.reached(&read);
        }
        // New work leaves first: answers and confirmations can wait, a task cannot.
        let published = self.publish_fresh(wanted, &stepped).await;
        self.answer_callers(works, &stepped);
        self.wake(&stepped);
        self.say(outbox);
        stepped.executions.into_values().for_each(|execution| self.executions.put(execution));
        published
    }

    /// Verdicts leave at once. Confirmations wait a moment for more: they only let executors forget, and a message for every
    /// commit wakes three processes.
    fn say(&mut self, outbox: Outbox) {
        let confirms = outbox.confirms();
        self.unsaid.add(outbox);
        if self.unsaid.is_urgent() {
            self.speak();
        } else if confirms {
            let hold = self.parts.times.base() / CONFIRMS_PER_BASE;
            self.alarms.confirm.get_or_insert_with(|| Instant::now() + hold);
        }
    }

    /// Says to executors what waits to be said.
    pub(super) fn speak(&mut self) {
        self.alarms.confirm = None;
        let outbox = std::mem::take(&mut self.unsaid);
        if outbox.confirms() {
            kill_points::pass(kill_points::AFTER_COMMIT_BEFORE_CONFIRM);
        }
        outbox.send(&self.parts.speaker);
    }

    /// One reader reads all its shards in order: what is decided of one is decided, or absent, of all. What an earlier reader
    /// read says nothing about shards that were taken since, so it does not count: the present one reads it again.
    pub(super) fn reached(&mut self, read: &ReadThrough) {
        if read.generation != self.reader_generation {
            return;
        }
        let position = &read.position;
        self.read_through = Some(position.sequence);
        self.reader.iter().for_each(|reader| reader.committed(position.sequence));
        for held in self.shards.values_mut() {
            let behind = held.position.as_ref().is_none_or(|known| {
                known.incarnation != position.incarnation || known.sequence < position.sequence || known.time < position.time
            });
            if behind {
                held.position = Some(position.clone());
            }
        }
    }

    fn carry_out(&mut self, id: ExecutionId, effect: &Effect, stepped: &Stepped, (outbox, wanted): (&mut Outbox, &mut Vec<Wanted>)) {
        let execution = stepped.executions.get(&id);
        match *effect {
            Effect::Publish(index) => wanted.extend(execution.and_then(|execution| fresh(execution, index))),
            Effect::LeftQueue(index, sequence) => {
                if let Some(execution) = execution {
                    let lot = lot_of(execution, index);
                    self.lots.left_queue(&lot, sequence);
                    if let Some(waited) = execution.task(index).queue_wait() {
                        self.parts.metrics.task_started(&lot.queue, waited);
                    }
                }
            }
            Effect::Answer(run, incarnation, answer) => {
                self.count_answer(answer);
                outbox.answer(run, incarnation, answer);
            }
            Effect::Confirm(run, incarnation) => outbox.confirm(run, incarnation),
            Effect::Drop(dispatch) => outbox.drop_dispatch(dispatch),
            Effect::LeaseStarted(index, run, incarnation) => {
                if let Some(execution) = execution {
                    self.lease_started(execution, index, (run, incarnation), stepped);
                }
            }
            Effect::LeaseEnded(run) => self.leases.ended(run),
            Effect::Timer(at) => self.next_due = Some(self.next_due.map_or(at, |due| due.min(at))),
            Effect::AttemptEnded(ref traced) => {
                let span = execution.and_then(|execution| spans::attempt(&self.parts.spans, execution, traced));
                span.into_iter().for_each(|span| self.parts.spans.emit(span));
            }
            Effect::TaskEnded(index, status) => {
                if let Some(execution) = execution {
                    let task = execution.task(index);
                    let duration = task.started_at.zip(task.completed_at).map(|(started, ended)| ended.since(started));
                    self.parts.metrics.task_ended(&execution.plan.task(index).queue, status, duration);
                    tracing::debug!(workflow_id = %id, task_id = %id.task(index), shard = id.shard(), attempt = task.attempt, %status, "a task ended");
                }
            }
            Effect::Ended => {
                if let Some((execution, ended)) = execution.and_then(|execution| Some((execution, execution.completed_at?))) {
                    self.parts.metrics.workflow_ended(execution.status, ended.since(execution.created_at));
                    tracing::debug!(workflow_id = %id, shard = id.shard(), status = %execution.status, "a workflow ended");
                    spans::execution(&self.parts.spans, execution).into_iter().for_each(|span| self.parts.spans.emit(span));
                }
            }
            Effect::EvaluateOutput => {}
        }
    }

    fn count_answer(&self, answer: Answer) {
        match answer {
            Answer::Granted => self.parts.metrics.claim_granted(),
            Answer::Refused | Answer::Kill | Answer::Cancel => self.parts.metrics.claim_refused(),
            Answer::Current => {}
        }
    }

    fn lease_started(&mut self, execution: &Execution, index: TaskIndex, (run, incarnation): (RunId, Incarnation), stepped: &Stepped) {
        let task = execution.task(index);
        // The batch may have ended it again.
        let Some((dispatch, _)) = task.dispatch.zip(task.holder.filter(|holder| holder.run_id == run)) else { return };
        let note = stepped.claims.get(&run);
        self.leases.granted(Grant {
            task: execution.id.task(index),
            dispatch: dispatch.id,
            run,
            incarnation,
            beat_sequence: note.map_or(0, |note| note.beat_sequence),
            ticks: note.and_then(|note| note.ticks),
        });
    }

    fn answer_callers(&mut self, works: Vec<Work>, stepped: &Stepped) {
        for work in works {
            match work {
                Work::New(mut group) => {
                    self.parts.metrics.submitted(group.ids.len());
                    let ids = group.ids.clone();
                    group.answer(Ok(Submitted { ids, origin: Origin::New }));
                }
                Work::Event(event) => {
                    self.count_event(&event, stepped);
                    Self::answer_cancel(*event, &stepped.executions);
                }
                Work::Position(_) => {}
            }
        }
    }

    fn count_event(&mut self, work: &EventWork, stepped: &Stepped) {
        match &work.addressed.event {
            Event::Outcome(index, report) => {
                self.parts.metrics.outcome_decided(word_of(report));
                let execution = stepped.executions.get(&work.addressed.execution).filter(|execution| execution.has_task(*index));
                if let Some(TaskKind::Handler { name }) = execution.map(|execution| &execution.plan.task(*index).kind) {
                    self.durations.ended(name, report.duration);
                }
            }
            Event::Lost(index, run) => {
                let execution = stepped.executions.get(&work.addressed.execution);
                if execution.is_some_and(|execution| execution.has_task(*index)) {
                    self.parts.metrics.run_lost();
                    let id = work.addressed.execution;
                    tracing::warn!(workflow_id = %id, task_id = %id.task(*index), run_id = %run, shard = id.shard(), "a run was lost");
                }
            }
            Event::Undeliverable(_, _, failure) => self.parts.metrics.attempts_failed(&failure.error_type, 1),
            Event::Claim(..) | Event::Check(..) | Event::Due(_) | Event::Cancel | Event::CancelTask(_) | Event::OutputEvaluated(_) => {}
        }
    }

    /// Verdicts whose outcomes are decided by now.
    pub(super) fn decide_inquiries(&mut self) {
        if self.inquiries.is_empty() {
            return;
        }
        // What the present reader has read: a broker that lost its tail gives sequences out again, so older positions prove
        // nothing. What lies before its start was decided long ago (see `take_head`).
        let read_through = self.read_through.unwrap_or(0);
        for doubt in self.inquiries.decidable(|_| read_through) {
            match doubt {
                // It may have been heard while the question was open.
                Doubt::Event(work) if work.lost_run().is_some_and(|run| !self.leases.is_suspect(run)) => {}
                Doubt::Event(work) => self.pending.push_back(work),
                Doubt::Vanished(lot, rows) => self.lots.vanished(&lot, &rows),
            }
        }
    }

    /// One work that the database or the state machine cannot take: the shard goes on without it.
    pub(super) async fn quarantine(&mut self, work: Work, error: String) -> Result<(), StoreError> {
        self.parts.metrics.quarantined();
        match work {
            Work::New(mut group) => {
                group.answer(Err(super::handle::SubmitError::Refused(error.clone())));
                self.quarantine_group(&group, &error).await
            }
            Work::Position(read) => {
                self.reached(&read);
                Ok(())
            }
            Work::Event(event) => self.quarantine_event(*event, error).await,
        }
    }

    /// A submission that came from an inbox has nobody to tell.
    async fn quarantine_group(&mut self, group: &Group, error: &str) -> Result<(), StoreError> {
        let Some((inbox, first)) = group.inbox.zip(group.ids.first().copied()) else { return Ok(()) };
        let event = json!({ "event": "submit", "inbox": super::mail::submission_letter(group) });
        let kept = Quarantined { shard: first.shard(), execution: Some(first), task: None, event, error, inbox: Some(inbox) };
        quarantine::keep(&mut self.parts.connection, kept).await
    }

    async fn quarantine_event(&mut self, work: EventWork, error: String) -> Result<(), StoreError> {
        let id = work.addressed.execution;
        tracing::error!(workflow_id = %id, shard = id.shard(), %error, event = event_name(&work.addressed.event), "an event is quarantined");
        let task = task_of(&work.addressed.event);
        let mut event = json!({ "event": event_name(&work.addressed.event), "task": task });
        if let Some(stored) = work.inbox.and_then(|_| super::mail::letter(&work.addressed)) {
            event["inbox"] = stored;
        }
        let kept = Quarantined {
            shard: id.shard(),
            execution: Some(id),
            task: task.map(|index| id.task(index)),
            event,
            error: &error,
            inbox: work.inbox,
        };
        quarantine::keep(&mut self.parts.connection, kept).await?;
        if let Some(reply) = work.reply {
            reply.sender.send(Err(super::handle::CommandError::Unavailable(error.clone()))).ok();
        }
        // A quarantined outcome is decided: its task fails, and it is confirmed.
        if let Event::Outcome(index, report) = work.addressed.event
            && !matches!(&report.result, Reported::Failed { failure, .. } if failure.error_type == "internal")
        {
            let failure =
                Failure { error_type: "internal".into(), message: "its outcome could not be stored; see quarantined_events".into() };
            let result = Reported::Failed { failure, retryable: false, retry_after: Duration::ZERO };
            let usage = orchestr8_core::execution::Usage::default();
            let report = Report { result, usage, duration: Duration::ZERO, ..report };
            self.pending.push_front(Work::event(id, Event::Outcome(index, report)));
        }
        Ok(())
    }
}

fn fresh(execution: &Execution, index: TaskIndex) -> Option<Wanted> {
    let dispatch = execution.task(index).dispatch?;
    Some(Wanted { task: execution.id.task(index), dispatch: dispatch.id, sequence: dispatch.sequence, again: Again::First })
}

/// The lot of a task.
pub(super) fn lot_of(execution: &Execution, index: TaskIndex) -> Lot {
    let planned = execution.plan.task(index);
    Lot { shard: execution.id.shard(), queue: planned.queue.clone(), priority: planned.priority }
}

fn word_of(report: &Report) -> &'static str {
    match report.result {
        Reported::Completed(_) => "completed",
        Reported::Failed { .. } => "failed",
        Reported::Drained(_) | Reported::Unsupported(_) => "released",
    }
}

fn event_name(event: &Event) -> &'static str {
    match event {
        Event::Outcome(..) => "outcome",
        Event::Claim(..) => "claim",
        Event::Check(..) => "check",
        Event::Lost(..) => "lost",
        Event::Due(_) => "due",
        Event::Cancel => "cancel",
        Event::CancelTask(_) => "cancel_task",
        Event::Undeliverable(..) => "undeliverable",
        Event::OutputEvaluated(_) => "output_evaluated",
    }
}

/// The task that an event is about, if it is about one.
pub(super) fn task_of(event: &Event) -> Option<TaskIndex> {
    match event {
        Event::Outcome(index, _)
        | Event::Claim(index, _)
        | Event::Check(index, _)
        | Event::Lost(index, _)
        | Event::Due(index)
        | Event::CancelTask(index)
        | Event::Undeliverable(index, ..) => Some(*index),
        Event::Cancel | Event::OutputEvaluated(_) => None,
    }
}
