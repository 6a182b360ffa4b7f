//! Mail among shards: what a lane wants of a shard that it does not own goes into that shard's inbox, and its owner decides it
//! with the commit that deletes it. NATS only says that something came.

use super::handle::{CancelAnswer, CommandError, Origin, Submission, SubmitError, Submitted};
use super::input::Addressed;
use super::lane::Lane;
use super::work::{CancelReply, EventWork, Group, GroupState, Work};
use crate::kill_points;
use orchestr8_core::machine::Event;
use orchestr8_proto::ids::ExecutionId;
use orchestr8_proto::wire::Nudge;
use orchestr8_store::StoreError;
use orchestr8_store::inbox::{self, InboxEvent, InboxRow, SentSubmission};
use orchestr8_store::quarantine::{self, Quarantined};
use serde_json::{Value, json};
use uuid::Uuid;

/// What waits to be sent, and whether something came.
#[derive(Debug, Default)]
pub(super) struct Mail {
    due: bool,
    outgoing: Vec<Letter>,
}

/// One event for another shard.
#[derive(Debug)]
struct Letter {
    shard: u16,
    id: Uuid,
    event: InboxEvent,
    sender: Sender,
}

/// Who waits to hear that it is stored.
#[derive(Debug)]
enum Sender {
    Cancel(CancelReply),
    Submit(Box<Group>),
}

impl Mail {
    /// Something may be in the inbox of an owned shard.
    pub const fn inbox_is_due(&mut self) {
        self.due = true;
    }
}

impl Lane {
    /// Whether something may lie in the inbox of an owned shard. What was read is decided before more is.
    pub(super) fn wants_mail(&self) -> bool {
        self.mail.due && self.owns_shards() && !self.flights.has_mail() && self.pending.iter().all(|work| work.inbox().is_none())
    }

    /// Takes in what came for the shards of this lane.
    pub(super) async fn read_inbox(&mut self) -> Result<(), StoreError> {
        if !self.wants_mail() {
            return Ok(());
        }
        let owned: Vec<u16> = self.shards.keys().copied().collect();
        let rows = inbox::read(&mut self.parts.connection, &owned).await?;
        self.mail.due = !rows.is_empty();
        for row in rows {
            match work_of(&row) {
                Ok(work) => self.receive(work),
                Err(error) => self.refuse_letter(row, &error).await?,
            }
        }
        Ok(())
    }

    /// Somebody beside the lanes has put something into the inbox of a shard.
    pub(super) fn nudge_owner(&mut self, shard: u16) {
        if self.owns(shard) {
            self.mail.inbox_is_due();
        } else {
            self.parts.speaker.nudge(&Nudge { inbox_shards: vec![u32::from(shard)], ..Nudge::default() });
        }
    }

    fn receive(&mut self, work: Work) {
        if let Work::Event(event) = &work
            && matches!(event.addressed.event, Event::Due(_))
        {
            // The timer was changed beside us: what the cache knows of it is old.
            drop(self.executions.take(event.addressed.execution));
        }
        self.pending.push_back(work);
    }

    async fn refuse_letter(&mut self, row: InboxRow, error: &str) -> Result<(), StoreError> {
        tracing::error!(shard = row.shard, id = %row.id, error, "a row of the inbox cannot be read and is quarantined");
        self.parts.metrics.quarantined();
        let event = json!({ "event": "unreadable", "inbox": row.stored });
        let kept = Quarantined { shard: row.shard, execution: None, task: None, event, error, inbox: Some(row.id) };
        quarantine::keep(&mut self.parts.connection, kept).await
    }

    /// Sorts out what is for shards of others: it leaves the batch, and goes to their inboxes.
    pub(super) fn send_away(&mut self, works: &mut Vec<Work>) {
        let all = std::mem::take(works);
        for work in all {
            match work {
                Work::New(group) if group.ids.first().is_some_and(|first| !self.owns(first.shard())) => self.post_group(group),
                Work::Event(event) if event.reply.is_some() && !self.owns(event.addressed.execution.shard()) => self.post_cancel(*event),
                Work::New(_) | Work::Event(_) | Work::Position(_) => works.push(work),
            }
        }
    }

    fn post_group(&mut self, group: Box<Group>) {
        let Some(first) = group.ids.first().copied() else { return };
        let event = submission(&group);
        self.mail.outgoing.push(Letter { shard: first.shard(), id: Uuid::new_v4(), event, sender: Sender::Submit(group) });
    }

    fn post_cancel(&mut self, work: EventWork) {
        let Some((event, reply)) = letter_of(&work.addressed).zip(work.reply) else { return };
        let shard = work.addressed.execution.shard();
        if shard >= self.parts.installation.shard_count {
            // No id of this installation is in such a shard, whoever owns what: a letter would lie there for ever.
            return drop(reply.sender.send(Err(CommandError::NotFound)));
        }
        self.mail.outgoing.push(Letter { shard, id: Uuid::new_v4(), event, sender: Sender::Cancel(reply) });
    }

    /// Stores what is for other shards, in one statement; then their owners are nudged and who waits is answered.
    pub(super) async fn send_mail(&mut self) -> Result<(), StoreError> {
        if self.mail.outgoing.is_empty() {
            return Ok(());
        }
        let letters = std::mem::take(&mut self.mail.outgoing);
        let rows: Vec<(u16, Uuid, InboxEvent)> = letters.iter().map(|letter| (letter.shard, letter.id, letter.event.clone())).collect();
        let stored = inbox::send(&mut self.parts.connection, &rows).await;
        kill_points::pass(kill_points::AFTER_MAIL_BEFORE_NUDGE);
        let mut inbox_shards: Vec<u32> = rows.iter().map(|(shard, _, _)| u32::from(*shard)).collect();
        inbox_shards.dedup();
        letters.into_iter().for_each(|letter| letter.answer(stored.as_ref().err()));
        match stored {
            Ok(()) => {
                self.parts.speaker.nudge(&Nudge { inbox_shards, ..Nudge::default() });
                Ok(())
            }
            // Nobody else is to blame for what one sender wrote.
            Err(StoreError::Refused { .. }) => Ok(()),
            Err(doubt) => Err(doubt),
        }
    }
}

impl Letter {
    fn answer(self, error: Option<&StoreError>) {
        match (self.sender, error) {
            (Sender::Cancel(reply), None) => drop(reply.sender.send(Ok(CancelAnswer::Sent(self.id)))),
            (Sender::Cancel(reply), Some(error)) => drop(reply.sender.send(Err(CommandError::Unavailable(error.to_string())))),
            (Sender::Submit(mut group), None) => {
                let ids = group.ids.clone();
                group.answer(Ok(Submitted { ids, origin: Origin::Sent }));
            }
            (Sender::Submit(mut group), Some(StoreError::Refused { message, .. })) => {
                group.answer(Err(SubmitError::Refused(message.clone())));
            }
            (Sender::Submit(mut group), Some(error)) => {
                group.answer(Err(SubmitError::Unavailable(format!("{error}; it may have been accepted"))));
            }
        }
    }
}

/// The row of an inbox that says the same as an event that came from one.
pub(super) fn letter(addressed: &Addressed) -> Option<Value> {
    letter_of(addressed).and_then(|event| serde_json::to_value(event).ok())
}

/// The row of an inbox that says the same as a submission that came from one.
pub(super) fn submission_letter(group: &Group) -> Option<Value> {
    serde_json::to_value(submission(group)).ok()
}

fn submission(group: &Group) -> InboxEvent {
    InboxEvent::Submit { ids: group.ids.clone(), submissions: group.submissions.iter().map(sent).collect() }
}

fn letter_of(addressed: &Addressed) -> Option<InboxEvent> {
    let id = addressed.execution;
    match addressed.event {
        Event::Cancel => Some(InboxEvent::Cancel { workflow_id: id }),
        Event::CancelTask(index) => Some(InboxEvent::CancelTask { task_id: id.task(index) }),
        Event::Due(index) => Some(InboxEvent::Due { task_id: id.task(index) }),
        Event::Outcome(..)
        | Event::Claim(..)
        | Event::Check(..)
        | Event::Lost(..)
        | Event::Undeliverable(..)
        | Event::OutputEvaluated(_) => None,
    }
}

fn sent(submission: &Submission) -> SentSubmission {
    SentSubmission {
        plan: submission.plan.clone(),
        plan_hash: submission.plan_hash,
        input: submission.input.clone(),
        user_id: submission.user_id.clone(),
        metadata: submission.metadata.clone(),
        tags: submission.tags.clone(),
        run_at: submission.run_at.map(Into::into),
        traceparent: submission.trace.map(|trace| trace.to_string()),
    }
}

fn received(sent: SentSubmission) -> Submission {
    Submission {
        plan: sent.plan,
        plan_hash: sent.plan_hash,
        input: sent.input,
        user_id: sent.user_id,
        metadata: sent.metadata,
        tags: sent.tags,
        run_at: sent.run_at.map(Into::into),
        trace: sent.traceparent.and_then(|text| text.parse().ok()),
    }
}

fn work_of(row: &InboxRow) -> Result<Work, String> {
    let event = row.event.clone()?;
    let execution = event.execution().filter(|id| id.shard() == row.shard).ok_or("it is for an execution of another shard")?;
    let event_of = |event| {
        let addressed = Addressed { execution, event };
        Ok(Work::Event(Box::new(EventWork { addressed, claim: None, reply: None, inbox: Some(row.id) })))
    };
    match event {
        InboxEvent::Cancel { .. } => event_of(Event::Cancel),
        InboxEvent::CancelTask { task_id } => event_of(Event::CancelTask(task_id.index())),
        InboxEvent::Due { task_id } => event_of(Event::Due(task_id.index())),
        InboxEvent::Submit { ids, submissions } => group_of(row, ids, submissions),
    }
}

/// Perhaps they were made already: the sender may have sent them twice.
fn group_of(row: &InboxRow, ids: Vec<ExecutionId>, submissions: Vec<SentSubmission>) -> Result<Work, String> {
    if ids.len() != submissions.len() || ids.iter().any(|id| id.shard() != row.shard) {
        return Err("its ids do not fit its submissions".to_owned());
    }
    let submissions = submissions.into_iter().map(received).collect();
    let (state, inbox) = (GroupState::Doubtful, Some(row.id));
    let group = Group { submissions, bytes: row.bytes, ids, key: None, reply: None, room: None, state, tries: 0, inbox };
    Ok(Work::New(Box::new(group)))
}
