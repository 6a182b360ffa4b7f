//! What may leave now: pulls, claims, outcomes, heartbeats.

use super::Desk;
use super::answers::Answer;
use crate::beats::{Outlook, heartbeat, running_for_us};
use crate::clock::Clock;
use crate::runs::{ClaimStage, Doubt, Run, Stage};
use orchestr8_proto::ids::RunId;
use orchestr8_proto::names::{beat_subject, claim_subject, outcome_subject};
use orchestr8_proto::wire::{self, Claim, ClaimBatch, ClaimKind, Envelope, OutcomeBatch, SCHEMA_VERSION};
use std::time::Instant;

impl Desk {
    /// Adds to the effects whatever may leave now.
    pub(super) fn depart(&mut self, clock: Clock) {
        if self.line == super::Line::Down {
            return;
        }
        self.send_outcomes(clock.now);
        let room = self.room(clock.now);
        for pull in self.fetcher.step(room, clock.now) {
            let reply = self.reply_to(Answer::Pull(pull.ticket));
            self.publish(pull.subject, Some(reply), pull.body.into());
        }
        if self.rhythm.is_due(clock.now) {
            self.beat(self.outlook(), clock.now);
        }
        self.send_claims(clock.now);
        self.send_asks(clock.now);
    }

    /// Sends one heartbeat, in as many parts as it needs.
    pub(super) fn beat(&mut self, outlook: Outlook, now: Instant) {
        let sequence = self.rhythm.begin(now);
        let subject = beat_subject(self.identity.incarnation);
        for part in heartbeat(&self.identity, &self.runs, outlook, (sequence, now)) {
            self.send(subject.clone(), None, &part);
        }
    }

    fn send_outcomes(&mut self, now: Instant) {
        let runs = &self.runs;
        let bytes_of = |run_id: RunId| match &runs.get(run_id)?.stage {
            Stage::Ended(unconfirmed) => Some(unconfirmed.bytes),
            Stage::Waiting(_) | Stage::Asking(_) | Stage::Started(_) => None,
        };
        for departure in self.outcomes.depart(now, bytes_of) {
            let outcomes = departure.runs.iter().filter_map(|run_id| match &self.runs.get(*run_id)?.stage {
                Stage::Ended(unconfirmed) => Some(unconfirmed.outcome.clone()),
                Stage::Waiting(_) | Stage::Asking(_) | Stage::Started(_) => None,
            });
            let batch = OutcomeBatch { schema_version: SCHEMA_VERSION, outcomes: outcomes.collect() };
            let reply = self.reply_to(Answer::Outcomes(departure.flight));
            self.send(outcome_subject(departure.shard), Some(reply), &batch);
        }
    }

    fn send_claims(&mut self, now: Instant) {
        for (shard, asking) in self.claims.take_ready(now) {
            let claims: Vec<Claim> = asking.iter().filter_map(|id| claim(*id, self.runs.get(*id)?, now)).collect();
            if claims.is_empty() {
                self.claims.answered(shard);
                continue;
            }
            let batch = ClaimBatch {
                schema_version: SCHEMA_VERSION,
                incarnation: self.identity.incarnation.to_bytes(),
                executor: self.identity.name.clone(),
                beat_sequence: self.rhythm.sequence(),
                claims,
                inputs: Vec::new(),
            };
            self.send(claim_subject(shard), None, &batch);
        }
    }

    pub(super) fn send(&mut self, subject: String, reply: Option<String>, message: &impl Envelope) {
        match wire::encode(message) {
            Ok(payload) => self.publish(subject, reply, payload),
            // Batches are bounded in count and bytes, so this is a defect; the process lives on.
            Err(error) => tracing::error!(%error, subject, "a message was not sent"),
        }
    }
}

/// The claim of a run that still wants an answer.
fn claim(run_id: RunId, run: &Run, now: Instant) -> Option<Claim> {
    let (kind, doubt) = match run.claim {
        ClaimStage::Asked(doubt) => (ClaimKind::Claim, doubt),
        ClaimStage::Checking => (ClaimKind::Check, Doubt::None),
        ClaimStage::Unasked | ClaimStage::Granted => return None,
    };
    match run.stage {
        Stage::Asking(_) | Stage::Started(_) => {}
        Stage::Waiting(_) | Stage::Ended(_) => return None,
    }
    Some(Claim {
        task_id: run.task_id.to_bytes(),
        dispatch_id: run.dispatch_id.to_bytes(),
        run_id: run_id.to_bytes(),
        outcome_token: run.outcome_token.clone(),
        kind: kind.into(),
        doubtful: doubt == Doubt::Doubtful,
        running_for_us: running_for_us(run.started_at(), now),
        lease_ms: run.lease_ms,
    })
}
