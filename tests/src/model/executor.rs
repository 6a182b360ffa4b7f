//! An executor without a clock: what `executor/src/desk` decides, as a small state that can be compared. Rule R5 is the real code.

use super::broker::{Broker, TaskMessage};
use super::messages::{Asked, Beat, Doubtful, Ending, Question, Told};
use super::reference::Reference;
use super::rules::{Rule, Rules};
use orchestr8_core::machine::Answer;
use orchestr8_executor::freshness::{Evidence, Start};
use orchestr8_proto::ids::{DispatchId, Incarnation, RunId, TaskId};
use orchestr8_proto::times::ProtocolTimes;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// What was asked of the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ClaimStage {
    Unasked,
    Asked(Doubtful),
    Granted,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    Asking,
    Started,
    /// Kept until it is confirmed.
    Ended(Ending),
}

/// What becomes of a started run's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    Report,
    Killed,
    Forget,
}

/// Whether a message waits for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum InMessage {
    Open(u64),
    Settled,
}

/// One start of a dispatch, or the intention of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Run {
    pub(super) task: TaskId,
    pub(super) dispatch: DispatchId,
    pub(super) message: InMessage,
    pub(super) claim: ClaimStage,
    pub(super) stage: Stage,
    pub(super) fate: Fate,
}

/// One executor process with one slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Executor {
    pub(super) name: u8,
    pub(super) incarnation: Incarnation,
    pub(super) beats: u64,
    pub(super) runs: BTreeMap<RunId, Run>,
}

/// What an executor acts upon.
pub(super) struct Surroundings<'a> {
    pub(super) broker: &'a mut Broker,
    pub(super) reference: &'a mut Reference,
    pub(super) rules: Rules,
    /// Whether a task may start only once.
    pub(super) once: &'a dyn Fn(TaskId) -> bool,
}

impl Executor {
    /// A new process.
    pub(super) fn new(name: u8, reference: &mut Reference) -> Self {
        reference.incarnations += 1;
        let incarnation = Incarnation(Uuid::from_u128(u128::from(reference.incarnations)));
        Self { name, incarnation, beats: 0, runs: BTreeMap::new() }
    }

    /// Whether it would fetch.
    pub(super) fn has_room(&self) -> bool {
        self.runs.values().all(|run| matches!(run.stage, Stage::Ended(_)))
    }

    /// Takes a delivered message (rule R5).
    pub(super) fn take(&mut self, (sequence, message): (u64, TaskMessage), around: &mut Surroundings<'_>) {
        if let Some(known) = self.runs.values_mut().find(|run| run.dispatch == message.dispatch) {
            match known.message {
                InMessage::Settled => around.broker.ack(sequence),
                InMessage::Open(_) => known.message = InMessage::Open(sequence),
            }
            return;
        }
        let run_id = RunId(Uuid::from_u128(around.reference.runs.len() as u128 + 1));
        let doubtful = message.deliveries > 1 || message.again;
        let evidence = Evidence { doubtful, ask_first: message.ask_first, since_pull: Some(Duration::ZERO), since_stored: None };
        let start = if around.rules.keep(Rule::R5) { evidence.decide(&ProtocolTimes::default()) } else { Start::AtOnce };
        let (claim, stage) = match start {
            Start::AtOnce => (ClaimStage::Unasked, Stage::Started),
            Start::Check | Start::Ask => (ClaimStage::Asked(if doubtful { Doubtful::Yes } else { Doubtful::No }), Stage::Asking),
        };
        let (task, dispatch) = (message.task, message.dispatch);
        self.runs.insert(run_id, Run { task, dispatch, message: InMessage::Open(sequence), claim, stage, fate: Fate::Report });
        around.reference.received(run_id, task, dispatch);
        if stage == Stage::Started {
            around.reference.started(run_id, around.once);
        }
    }

    /// A verdict of the owner.
    pub(super) fn answer(&mut self, (run_id, answer): (RunId, Answer), around: &mut Surroundings<'_>) {
        let Some(run) = self.runs.get_mut(&run_id) else { return };
        match (answer, run.stage) {
            (Answer::Granted, Stage::Started) if run.fate == Fate::Forget => {}
            (Answer::Granted, stage) => {
                run.claim = ClaimStage::Granted;
                self.settle(run_id, around.broker);
                if stage == Stage::Asking {
                    self.runs.get_mut(&run_id).expect("it was there a line ago").stage = Stage::Started;
                    around.reference.started(run_id, around.once);
                }
            }
            (Answer::Refused, Stage::Started) => {
                run.fate = Fate::Forget;
                self.settle(run_id, around.broker);
            }
            (Answer::Refused, Stage::Asking | Stage::Ended(_)) => {
                self.settle(run_id, around.broker);
                self.runs.remove(&run_id);
            }
            (Answer::Kill | Answer::Cancel, Stage::Started) => {
                run.fate = if run.fate == Fate::Report { Fate::Killed } else { run.fate };
                self.settle(run_id, around.broker);
            }
            (Answer::Kill | Answer::Cancel, Stage::Asking) => {
                self.settle(run_id, around.broker);
                self.keep(run_id, Ending::NeverStarted, around);
            }
            (Answer::Kill | Answer::Cancel, Stage::Ended(_)) | (Answer::Current, _) => {}
        }
    }

    /// The command ends.
    pub(super) fn end(&mut self, (run_id, ending): (RunId, Ending), around: &mut Surroundings<'_>) {
        let Some(run) = self.runs.get(&run_id).filter(|run| run.stage == Stage::Started) else { return };
        match run.fate {
            Fate::Report => self.keep(run_id, ending, around),
            Fate::Killed => self.keep(run_id, Ending::Failed, around),
            Fate::Forget => drop(self.runs.remove(&run_id)),
        }
    }

    fn keep(&mut self, run_id: RunId, ending: Ending, around: &mut Surroundings<'_>) {
        around.reference.ended(run_id, ending);
        if let Some(run) = self.runs.get_mut(&run_id) {
            run.stage = Stage::Ended(ending);
        }
        self.publish(run_id, around.broker);
    }

    /// Publishes a kept outcome.
    pub(super) fn publish(&self, run_id: RunId, broker: &mut Broker) {
        let Some(Run { task, dispatch, stage: Stage::Ended(ending), .. }) = self.runs.get(&run_id).copied() else { return };
        let told = Told { task, dispatch, run: run_id, incarnation: self.incarnation, ending };
        let now_us = broker.outcomes.stored;
        broker.store_outcomes(vec![told], now_us);
    }

    /// The message of a run waits no longer.
    pub(super) fn settle(&mut self, run_id: RunId, broker: &mut Broker) {
        if let Some(run) = self.runs.get_mut(&run_id)
            && let InMessage::Open(sequence) = std::mem::replace(&mut run.message, InMessage::Settled)
        {
            broker.ack(sequence);
        }
    }

    /// The owner has decided the outcome.
    pub(super) fn confirmed(&mut self, run_id: RunId, broker: &mut Broker) {
        if self.runs.get(&run_id).is_some_and(|run| matches!(run.stage, Stage::Ended(_))) {
            self.settle(run_id, broker);
            self.runs.remove(&run_id);
        }
    }

    /// The claim of a run that wants one.
    pub(super) fn claim(&mut self, run_id: RunId) -> Option<Asked> {
        let run = self.runs.get_mut(&run_id)?;
        let wants = match run.stage {
            Stage::Asking => true,
            Stage::Started => run.fate == Fate::Report,
            Stage::Ended(_) => false,
        };
        if !wants || run.claim == ClaimStage::Granted {
            return None;
        }
        if run.claim == ClaimStage::Unasked {
            run.claim = ClaimStage::Asked(Doubtful::No);
        }
        let run = *run;
        Some(self.asked(run_id, &run))
    }

    /// The next heartbeat (rule R4): all runs claimed or asked for, until their outcome is confirmed.
    pub(super) fn beat(&mut self) -> Beat {
        self.beats += 1;
        let listed = self.runs.iter().filter(|(_, run)| run.claim != ClaimStage::Unasked);
        let runs = listed.map(|(id, run)| self.asked(*id, run)).collect();
        Beat { incarnation: self.incarnation, name: self.name, sequence: self.beats, runs }
    }

    fn asked(&self, run_id: RunId, run: &Run) -> Asked {
        let doubtful = match run.claim {
            ClaimStage::Asked(doubtful) => doubtful,
            ClaimStage::Unasked | ClaimStage::Granted => Doubtful::No,
        };
        Asked {
            task: run.task,
            dispatch: run.dispatch,
            run: run_id,
            incarnation: self.incarnation,
            name: self.name,
            question: Question::Claim,
            doubtful,
            running_for: (run.stage != Stage::Asking).then_some(Duration::ZERO),
            beat: self.beats,
        }
    }
}
