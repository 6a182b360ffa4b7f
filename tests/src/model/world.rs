//! The world of the exhaustive model: every interleaving of lanes, executors and broker, and a bounded number of faults.

use super::broker::Broker;
use super::coordinator::{Coordinator, Fate as CommitFate, Work};
use super::database::Database;
use super::executor::{ClaimStage, Executor, Fate, InMessage, Stage};
use super::messages::{Beat, Ending};
use super::reference::Reference;
use super::rules::Rules;
use orchestr8_core::leases::LeaseTicks;
use orchestr8_core::machine::Answer;
use orchestr8_core::plan::Plan;
use orchestr8_proto::ids::{ExecutionId, RunId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One tick of silence is a loss.
pub(super) const TICKS: LeaseTicks = LeaseTicks { lease: 1, mass_silence_hold: 2, forget: 8 };
/// Between the first sequences of two creations of the streams.
pub(super) const FIRST_SEQUENCE_STEP: u64 = 1_000;

/// How much of each may happen. What is not bounded here is bounded by the tasks themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Budget {
    /// Commits whose answer is lost, or that are lost themselves.
    pub(super) doubts: u8,
    /// Coordinators that die, or that another takes over from while they live.
    pub(super) takeovers: u8,
    /// Executors that die and come back under their name.
    pub(super) deaths: u8,
    pub(super) redeliveries: u8,
    pub(super) wipes: u8,
    /// The last outcome is gone, and its sequence is given out again.
    pub(super) tails: u8,
    /// The database goes back by one commit.
    pub(super) failovers: u8,
    /// Letters that never arrive.
    pub(super) losses: u8,
    pub(super) beats: u8,
    pub(super) ticks: u8,
    pub(super) surveys: u8,
    pub(super) saves: u8,
}

/// A letter that is on its way; any may arrive first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Letter {
    Beat(Beat),
    Answer(RunId, Answer),
}

/// One thing that may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Lane: takes its next work; the commit ends like this.
    Process(usize, CommitFate),
    Read(usize),
    Recover(usize),
    Tick(usize),
    Survey(usize),
    Save(usize),
    /// A new coordinator takes the shard; the others live on and do not know it.
    TakeOver,
    /// All coordinators die, and a new one comes.
    Restart,
    Fetch(usize),
    Claim(usize, RunId),
    End(usize, RunId, Ending),
    Ack(usize, RunId),
    Beat(usize),
    Die(usize),
    Arrive(usize),
    Lose(usize),
    Redeliver(u64),
    Wipe,
    LoseTail,
    FailOver,
}

/// A state of the whole.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(super) struct World {
    pub(super) rules: Rules,
    pub(super) plans: Plans,
    pub(super) database: Database,
    /// Before its last commit, as long as it may go back to it.
    pub(super) behind: Option<Box<Database>>,
    pub(super) broker: Broker,
    pub(super) lanes: Vec<Coordinator>,
    pub(super) executors: Vec<Executor>,
    pub(super) letters: BTreeSet<Letter>,
    pub(super) reference: Reference,
    pub(super) budget: Budget,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plans(pub(super) Arc<BTreeMap<ExecutionId, Arc<Plan>>>);

impl std::hash::Hash for Plans {
    /// They never change.
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl World {
    /// One execution of `plan`, submitted; a lane that has recovered, two executors.
    pub(super) fn new(id: ExecutionId, plan: Plan, (rules, budget): (Rules, Budget)) -> Self {
        let mut reference = Reference::default();
        let executors = (0..2).map(|name| Executor::new(name, &mut reference)).collect();
        let mut world = Self {
            rules,
            plans: Plans(Arc::new(BTreeMap::from([(id, Arc::new(plan))]))),
            database: Database::default(),
            behind: None,
            broker: Broker::new(FIRST_SEQUENCE_STEP, 0),
            lanes: Vec::new(),
            executors,
            letters: BTreeSet::new(),
            reference,
            budget,
        };
        world.take_over();
        world.lanes[0].pending.push_back(Work::Start(id));
        world.process(0, (usize::MAX, CommitFate::Committed));
        world
    }

    /// Whether the execution is done and nobody has anything left to say.
    pub(super) fn is_done(&self) -> bool {
        self.database.all_ended() && self.executors.iter().all(|executor| executor.runs.is_empty())
    }

    /// Everything that may happen next.
    pub(super) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.is_done() {
            return actions;
        }
        for (index, lane) in self.lanes.iter().enumerate() {
            self.lane_actions((index, lane), &mut actions);
        }
        for (index, executor) in self.executors.iter().enumerate() {
            self.executor_actions((index, executor), &mut actions);
        }
        actions.extend((0..self.letters.len()).map(Action::Arrive));
        let budget = &self.budget;
        if budget.losses > 0 {
            actions.extend((0..self.letters.len()).map(Action::Lose));
        }
        if budget.redeliveries > 0 {
            let lent = self.broker.tasks.messages.iter().filter(|(_, message)| message.lent_until_us.is_some());
            actions.extend(lent.map(|(sequence, _)| Action::Redeliver(*sequence)));
        }
        let any_outcome = !self.broker.outcomes.messages.is_empty();
        let faults = [
            (budget.takeovers > 0, Action::TakeOver),
            (budget.takeovers > 0, Action::Restart),
            (budget.wipes > 0, Action::Wipe),
            (budget.tails > 0 && any_outcome, Action::LoseTail),
            (budget.failovers > 0 && self.behind.is_some(), Action::FailOver),
        ];
        actions.extend(faults.into_iter().filter(|(may, _)| *may).map(|(_, action)| action));
        actions
    }

    fn lane_actions(&self, (index, lane): (usize, &Coordinator), actions: &mut Vec<Action>) {
        if lane.in_doubt || !lane.reads(&self.broker) {
            actions.push(Action::Recover(index));
        }
        if lane.in_doubt {
            return;
        }
        if !lane.pending.is_empty() {
            actions.push(Action::Process(index, CommitFate::Committed));
            if self.budget.doubts > 0 {
                actions.push(Action::Process(index, CommitFate::AnswerLost));
                actions.push(Action::Process(index, CommitFate::Lost));
            }
        }
        if lane.clone().read(&self.broker) {
            actions.push(Action::Read(index));
        }
        let may = [
            (self.budget.ticks > 0 && !lane.leases.is_empty(), Action::Tick(index)),
            (self.budget.surveys > 0, Action::Survey(index)),
            (self.budget.saves > 0, Action::Save(index)),
        ];
        actions.extend(may.into_iter().filter(|(may, _)| *may).map(|(_, action)| action));
    }

    fn executor_actions(&self, (index, executor): (usize, &Executor), actions: &mut Vec<Action>) {
        let waiting = self.broker.tasks.messages.values().any(|message| message.lent_until_us.is_none());
        // As long as nothing tells the executors apart, the first one acts for both.
        let untouched = |executor: &Executor| executor.runs.is_empty() && executor.beats == 0;
        let twin = index > 0 && self.executors.iter().all(untouched);
        if waiting && executor.has_room() && !twin {
            actions.push(Action::Fetch(index));
        }
        for (run_id, run) in &executor.runs {
            let answered = |letter: &Letter| matches!(letter, Letter::Answer(run, _) if run == run_id);
            let waits = self.lanes.iter().any(|lane| lane.has_claim_of(*run_id)) || self.letters.iter().any(answered);
            if !waits && run.claim != ClaimStage::Granted && executor.clone().claim(*run_id).is_some() {
                actions.push(Action::Claim(index, *run_id));
            }
            match (run.stage, run.fate) {
                (Stage::Started, Fate::Report) => {
                    let retried = self.plans.0.values().any(|plan| plan.task(0).retry.max_attempts > 1);
                    let endings: &[Ending] = if retried { &[Ending::Completed, Ending::Failed] } else { &[Ending::Completed] };
                    actions.extend(endings.iter().map(|ending| Action::End(index, *run_id, *ending)));
                }
                (Stage::Started, Fate::Killed | Fate::Forget) => actions.push(Action::End(index, *run_id, Ending::Failed)),
                (Stage::Ended(_), _) if run.message != InMessage::Settled => actions.push(Action::Ack(index, *run_id)),
                (Stage::Asking | Stage::Ended(_), _) => {}
            }
        }
        if self.budget.beats > 0 && executor.runs.values().any(|run| run.claim != ClaimStage::Unasked) {
            actions.push(Action::Beat(index));
        }
        if self.budget.deaths > 0 && !executor.runs.is_empty() {
            actions.push(Action::Die(index));
        }
    }
}
