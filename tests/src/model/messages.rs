//! What travels between coordinator and executors, as far as the protocol's decisions read it.

use orchestr8_core::execution::{Failure, Usage};
use orchestr8_core::machine::{Answer, ClaimRequest, Progressed, Report, Reported};
use orchestr8_proto::ids::{DispatchId, Incarnation, RunId, TaskId};
use std::time::Duration;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Ending {
    Completed,
    Failed,
    GivenBack,
    NeverStarted,
}

/// An outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Told {
    pub(super) task: TaskId,
    pub(super) dispatch: DispatchId,
    pub(super) run: RunId,
    pub(super) incarnation: Incarnation,
    pub(super) ending: Ending,
}

/// What a run wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Question {
    /// To be the holder.
    Claim,
    /// Whether the dispatch is current.
    Check,
}

/// Whether the claim's dispatch may have been worked on before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Doubtful {
    Yes,
    No,
}

/// A claim, or a run in a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Asked {
    pub(super) task: TaskId,
    pub(super) dispatch: DispatchId,
    pub(super) run: RunId,
    pub(super) incarnation: Incarnation,
    /// Of the executor; the same after its restart.
    pub(super) name: u8,
    pub(super) question: Question,
    pub(super) doubtful: Doubtful,
    /// None: it waits for the answer.
    pub(super) running_for: Option<Duration>,
    /// The last heartbeat before it.
    pub(super) beat: u64,
}

/// A whole heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Beat {
    pub(super) incarnation: Incarnation,
    pub(super) name: u8,
    pub(super) sequence: u64,
    pub(super) runs: Vec<Asked>,
}

/// The holder of a dispatch by reference wants its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wants {
    pub(super) task: TaskId,
    pub(super) dispatch: DispatchId,
    pub(super) run: RunId,
}

/// What a coordinator tells executors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Answer(RunId, Incarnation, Answer),
    Confirm(RunId, Incarnation),
    Drop(DispatchId),
    BeatNow,
    /// All of the inputs of a dispatch by reference.
    Inputs(RunId, Incarnation, DispatchId),
}

impl Told {
    /// As the state machine takes it.
    pub(super) fn report(&self) -> Report {
        let failure = Failure { error_type: "exit".into(), message: String::new() };
        let result = match self.ending {
            Ending::Completed => Reported::Completed(serde_json::Value::Null),
            Ending::Failed => Reported::Failed { failure, retryable: true, retry_after: Duration::ZERO },
            Ending::GivenBack => Reported::Drained(Progressed::Started),
            Ending::NeverStarted => Reported::Drained(Progressed::NeverStarted),
        };
        Report {
            dispatch_id: self.dispatch,
            run_id: self.run,
            incarnation: self.incarnation,
            executor: "".into(),
            duration: Duration::ZERO,
            usage: Usage::default(),
            result,
        }
    }
}

impl Asked {
    /// As the state machine takes it.
    pub(super) fn request(&self) -> ClaimRequest {
        ClaimRequest {
            dispatch_id: self.dispatch,
            run_id: self.run,
            incarnation: self.incarnation,
            executor: self.name.to_string().into(),
            running_for: self.running_for,
        }
    }
}
