//! Dispatches by reference: a run that is granted asks for its inputs, and starts when it has all of them.

use super::Desk;
use crate::clock::Clock;
use crate::inputs::Fetched;
use crate::kill_points::{AFTER_INPUTS_PART_BEFORE_NEXT, kill_point};
use crate::report::released_unstarted;
use crate::runs::{Arrival, Run, Stage};
use bytes::Bytes;
use orchestr8_proto::ids::RunId;
use orchestr8_proto::names::claim_subject;
use orchestr8_proto::reference::{self, Gathering, ReferenceError};
use orchestr8_proto::wire::dispatch::Kind;
use orchestr8_proto::wire::{ClaimBatch, InputsAsk, InputsPart, ReferenceKind, ReleaseReason, SCHEMA_VERSION};
use std::time::Instant;

impl Desk {
    /// A run that waited for its grant has it.
    pub(super) fn start_or_fetch(&mut self, run_id: RunId, clock: Clock) {
        let Some(reference) = self.runs.get(run_id).and_then(reference_of) else { return self.start(run_id, clock.now) };
        match Gathering::new(reference) {
            Ok(gathering) => self.inputs.want(run_id, gathering, clock.now),
            Err(error) => self.give_up(run_id, &error.to_string(), clock),
        }
    }

    /// A part of some run's inputs.
    pub(super) fn take_part(&mut self, part: &InputsPart, clock: Clock) {
        let Ok(run_id) = RunId::try_from(part.run_id.as_ref()) else { return };
        match self.inputs.take(run_id, part, clock.now) {
            Fetched::Nothing => {}
            Fetched::More => kill_point(AFTER_INPUTS_PART_BEFORE_NEXT),
            Fetched::All(inputs) => self.fetched(run_id, inputs, clock),
            Fetched::Failed(error) => self.give_up(run_id, &error.to_string(), clock),
        }
    }

    fn fetched(&mut self, run_id: RunId, inputs: Bytes, clock: Clock) {
        let Some(Stage::Asking(arrival)) = self.runs.get_mut(run_id).map(|run| &mut run.stage) else { return };
        match restore(arrival, inputs) {
            Ok(()) => self.start(run_id, clock.now),
            Err(error) => self.give_up(run_id, &error.to_string(), clock),
        }
    }

    /// Asks for what is missing.
    pub(super) fn send_asks(&mut self, now: Instant) {
        if self.inputs.is_idle() {
            return;
        }
        let runs = &self.runs;
        let is_wanted = |run_id: RunId| runs.get(run_id).is_some_and(|run| matches!(run.stage, Stage::Asking(_)));
        for (run_id, offset) in self.inputs.take_due(now, is_wanted) {
            let Some(run) = self.runs.get(run_id) else { continue };
            let (shard, ask) = (run.task_id.shard(), ask(run_id, run, offset));
            let batch = ClaimBatch {
                schema_version: SCHEMA_VERSION,
                incarnation: self.identity.incarnation.to_bytes(),
                executor: self.identity.name.clone(),
                beat_sequence: self.rhythm.sequence(),
                claims: Vec::new(),
                inputs: vec![ask],
            };
            self.send(claim_subject(shard), None, &batch);
        }
    }

    /// Gives back the runs whose inputs nobody serves.
    pub(super) fn give_up_late(&mut self, clock: Clock) {
        if self.inputs.is_idle() || self.line == super::Line::Down {
            return;
        }
        for run_id in self.inputs.take_late(clock.now) {
            self.give_up(
                run_id,
                "the shard's owner did not serve the inputs that the dispatch refers to: see the coordinators' logs",
                clock,
            );
        }
    }

    /// As of an unsupported kind: it is dispatched again after a while, and `why` tells the reason.
    fn give_up(&mut self, run_id: RunId, reason: &str, clock: Clock) {
        tracing::warn!(%run_id, reason, "a run is given back unstarted");
        self.keep_unstarted(run_id, released_unstarted(ReleaseReason::Unsupported, reason));
        self.seat_waiting(clock);
    }
}

fn reference_of(run: &Run) -> Option<&ReferenceKind> {
    match &run.stage {
        Stage::Asking(arrival) => match &arrival.dispatch.kind {
            Some(Kind::Reference(reference)) => Some(reference),
            Some(Kind::Run(_) | Kind::Handler(_)) | None => None,
        },
        Stage::Waiting(_) | Stage::Started(_) | Stage::Ended(_) => None,
    }
}

fn restore(arrival: &mut Arrival, inputs: Bytes) -> Result<(), ReferenceError> {
    reference::restore(&mut arrival.dispatch, inputs)?;
    match arrival.dispatch.kind {
        Some(Kind::Run(_) | Kind::Handler(_)) => Ok(()),
        Some(Kind::Reference(_)) | None => Err(ReferenceError::Malformed("they are of a kind that this version does not know".to_owned())),
    }
}

fn ask(run_id: RunId, run: &Run, offset: u64) -> InputsAsk {
    InputsAsk {
        task_id: run.task_id.to_bytes(),
        dispatch_id: run.dispatch_id.to_bytes(),
        run_id: run_id.to_bytes(),
        outcome_token: run.outcome_token.clone(),
        offset,
    }
}
