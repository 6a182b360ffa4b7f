//! The runs of this executor, from the arrival of their dispatch until their outcome is confirmed. Pure.

use crate::messages::MessageKey;
use bytes::Bytes;
use orchestr8_proto::ids::{DispatchId, RunId, TaskId};
use orchestr8_proto::wire;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// One start of a dispatch, or the intention of one.
pub(crate) struct Run {
    /// The task.
    pub task_id: TaskId,
    /// The dispatch.
    pub dispatch_id: DispatchId,
    /// The dispatch's token.
    pub outcome_token: Bytes,
    /// The dispatch's own lease; 0: the default.
    pub lease_ms: u64,
    /// The message that brought it last.
    pub message: MessageKey,
    /// Whether the message still waits for it.
    pub in_message: InMessage,
    /// What was asked of the owner.
    pub claim: ClaimStage,
    /// How far it is.
    pub stage: Stage,
}

/// Whether a message still waits for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InMessage {
    /// Not settled: in-progress is sent for it.
    Open,
    /// Its share of the message is done.
    Settled,
}

/// What was asked of the shard's owner about a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimStage {
    /// Nothing: short so far.
    Unasked,
    /// To be made the holder; not answered yet.
    Asked(Doubt),
    /// Only whether the dispatch is current; not answered yet.
    Checking,
    /// It is the holder.
    Granted,
}

/// Whether the message of a claim may have been worked on before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// A first delivery.
    None,
    /// Redelivered, or published `again`.
    Doubtful,
}

/// How far a run is.
pub(crate) enum Stage {
    /// Waits for a slot: a bundle had more dispatches than there were free slots.
    Waiting(Box<Arrival>),
    /// Holds a slot and waits for the owner's answer before it starts.
    Asking(Box<Arrival>),
    /// Runs.
    Started(Started),
    /// Ended; its outcome is kept until it is confirmed.
    Ended(Box<Unconfirmed>),
}

/// A dispatch that has not started.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// What to do.
    pub dispatch: wire::Dispatch,
    /// Redelivered, or published `again`.
    pub doubt: Doubt,
    /// When it came.
    pub arrived_at: Instant,
    /// When the pull that brought it was sent.
    pub pulled_at: Option<Instant>,
    /// When JetStream stored it, Unix microseconds on JetStream's clock.
    pub stored_us: i64,
}

/// A run that goes on.
pub(crate) struct Started {
    /// When it began.
    pub at: Instant,
    /// Ends it.
    pub kill: CancellationToken,
    /// What becomes of its end.
    pub fate: Fate,
}

/// What becomes of a run's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its outcome is reported, also when its owner ended it.
    Report,
    /// The owner refused it: nobody waits for its outcome.
    Forget,
    /// The drain ended it: it is given back unless it completed.
    GiveBack,
}

/// An outcome that no coordinator has confirmed.
pub(crate) struct Unconfirmed {
    /// What is published.
    pub outcome: wire::Outcome,
    /// Its encoded size.
    pub bytes: usize,
    /// When it started; none: it never did.
    pub started_at: Option<Instant>,
    /// How far its publication is.
    pub storage: Storage,
    /// The wait before the next publication.
    pub again_after: Duration,
}

/// How far the publication of an outcome is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// It waits for its first storage by the broker.
    Unstored,
    /// The broker stored it; it is published again at this time unless it is confirmed.
    Stored(Instant),
    /// It was stored and is being published again.
    Again,
}

/// All runs.
#[derive(Default)]
pub(crate) struct Runs {
    by_id: HashMap<RunId, Run>,
    by_dispatch: HashMap<DispatchId, RunId>,
    /// Runs in `Asking` or `Started`.
    seated: usize,
    /// Runs in `Waiting`.
    waiting: usize,
    unconfirmed: usize,
    unconfirmed_bytes: usize,
}

impl Runs {
    /// Adds a run.
    pub(crate) fn insert(&mut self, run_id: RunId, run: Run) {
        self.count(&run.stage);
        self.by_dispatch.insert(run.dispatch_id, run_id);
        self.by_id.insert(run_id, run);
    }

    /// The run of that id.
    pub(crate) fn get(&self, run_id: RunId) -> Option<&Run> {
        self.by_id.get(&run_id)
    }

    /// The run of that id; its stage is changed by [`Runs::advance`] only.
    pub(crate) fn get_mut(&mut self, run_id: RunId) -> Option<&mut Run> {
        self.by_id.get_mut(&run_id)
    }

    /// The run of a dispatch in hand.
    pub(crate) fn of_dispatch(&self, dispatch_id: DispatchId) -> Option<RunId> {
        self.by_dispatch.get(&dispatch_id).copied()
    }

    /// Moves a run to the stage that `change` makes of the one before; what else `change` makes is returned.
    pub(crate) fn advance<T>(&mut self, run_id: RunId, change: impl FnOnce(Stage) -> (Stage, T)) -> Option<T> {
        let mut run = self.by_id.remove(&run_id)?;
        self.uncount(&run.stage);
        let (stage, made) = change(run.stage);
        run.stage = stage;
        self.count(&run.stage);
        self.by_id.insert(run_id, run);
        Some(made)
    }

    /// Forgets a run.
    pub(crate) fn remove(&mut self, run_id: RunId) -> Option<Run> {
        let run = self.by_id.remove(&run_id)?;
        if self.by_dispatch.get(&run.dispatch_id) == Some(&run_id) {
            self.by_dispatch.remove(&run.dispatch_id);
        }
        self.uncount(&run.stage);
        Some(run)
    }

    /// All runs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RunId, &Run)> {
        self.by_id.iter().map(|(id, run)| (*id, run))
    }

    /// All runs, to change anything but their stage.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (RunId, &mut Run)> {
        self.by_id.iter_mut().map(|(id, run)| (*id, run))
    }

    /// Slots in use.
    pub(crate) const fn seated(&self) -> usize {
        self.seated
    }

    /// Dispatches in hand that have not ended: slots in use, and those that wait for one.
    pub(crate) const fn unended(&self) -> usize {
        self.seated + self.waiting
    }

    /// Outcomes kept, and their bytes.
    pub(crate) const fn unconfirmed(&self) -> (usize, usize) {
        (self.unconfirmed, self.unconfirmed_bytes)
    }

    fn count(&mut self, stage: &Stage) {
        match stage {
            Stage::Waiting(_) => self.waiting += 1,
            Stage::Asking(_) | Stage::Started(_) => self.seated += 1,
            Stage::Ended(unconfirmed) => {
                self.unconfirmed += 1;
                self.unconfirmed_bytes += unconfirmed.bytes;
            }
        }
    }

    fn uncount(&mut self, stage: &Stage) {
        match stage {
            Stage::Waiting(_) => self.waiting -= 1,
            Stage::Asking(_) | Stage::Started(_) => self.seated -= 1,
            Stage::Ended(unconfirmed) => {
                self.unconfirmed -= 1;
                self.unconfirmed_bytes -= unconfirmed.bytes;
            }
        }
    }
}

impl Run {
    /// Whether heartbeats list it: claimed or asked for, until its outcome is confirmed (rule R4).
    pub(crate) const fn is_listed(&self) -> bool {
        match self.claim {
            ClaimStage::Asked(_) | ClaimStage::Granted => true,
            // A check asks for nothing: listing it would claim it.
            ClaimStage::Unasked | ClaimStage::Checking => false,
        }
    }

    /// When it started; none: it has not, or never did.
    pub(crate) fn started_at(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Waiting(_) | Stage::Asking(_) => None,
            Stage::Started(started) => Some(started.at),
            Stage::Ended(unconfirmed) => unconfirmed.started_at,
        }
    }
}
