//! What each action does to the world, and the quiet finish: what happens when nothing goes wrong any more.

use super::coordinator::{Coordinator, Fate as CommitFate, Stage as Scene};
use super::executor::{Executor, Stage, Surroundings};
use super::messages::{Ending, Sent};
use super::world::{Action, FIRST_SEQUENCE_STEP, Letter, TICKS, World};
use orchestr8_core::machine::Answer;
use orchestr8_proto::ids::{RunId, TaskId};
use std::collections::BTreeSet;

/// Rounds without faults after which what has not ended never will.
const ROUNDS_MAX: usize = 40;
/// Where the model has no clock, every message is lent until it is redelivered.
const FOR_EVER_US: i64 = i64::MAX;

impl World {
    /// Lets `action` happen.
    pub(super) fn apply(&mut self, action: Action) {
        let budget = &mut self.budget;
        match action {
            Action::Process(lane, fate) => {
                budget.doubts -= u8::from(fate != CommitFate::Committed);
                self.process(lane, (usize::MAX, fate));
            }
            Action::Read(lane) => drop(self.lanes[lane].read(&self.broker)),
            Action::Recover(lane) => self.recover(lane),
            Action::Tick(lane) => {
                budget.ticks -= 1;
                self.lanes[lane].tick(&self.broker);
            }
            Action::Survey(lane) => {
                budget.surveys -= 1;
                self.with_lane(lane, |lane, scene| lane.survey(scene));
            }
            Action::Save(lane) => {
                budget.saves -= 1;
                // A lane that lost its lease is in doubt from now on, which is all that follows.
                self.with_lane(lane, |lane, scene| lane.save(scene).ok());
            }
            Action::TakeOver => {
                budget.takeovers -= 1;
                self.take_over();
            }
            Action::Restart => {
                budget.takeovers -= 1;
                self.lanes.clear();
                self.take_over();
            }
            Action::Fetch(executor) => self.fetch(executor),
            Action::Claim(executor, run) => {
                self.ask(executor, run);
            }
            Action::End(executor, run, ending) => self.with_executor(executor, |executor, around| executor.end((run, ending), around)),
            Action::Ack(executor, run) => self.executors[executor].settle(run, &mut self.broker),
            Action::Beat(executor) => {
                budget.beats -= 1;
                let beat = self.executors[executor].beat();
                self.letters.insert(Letter::Beat(beat));
            }
            Action::Arrive(letter) => self.arrive(letter),
            Action::Die(_) | Action::Lose(_) | Action::Redeliver(_) | Action::Wipe | Action::LoseTail | Action::FailOver => {
                self.fault(action);
            }
        }
        self.lanes_go_on();
    }

    fn fault(&mut self, action: Action) {
        let budget = &mut self.budget;
        match action {
            Action::Die(executor) => {
                budget.deaths -= 1;
                let name = self.executors[executor].name;
                self.executors[executor] = Executor::new(name, &mut self.reference);
            }
            Action::Lose(letter) => {
                budget.losses -= 1;
                let letter = self.letters.iter().nth(letter).cloned();
                self.letters.retain(|other| Some(other) != letter.as_ref());
            }
            Action::Redeliver(sequence) => {
                budget.redeliveries -= 1;
                self.broker.nak(sequence);
            }
            Action::Wipe => {
                budget.wipes -= 1;
                self.broker.wipe(FIRST_SEQUENCE_STEP * (self.broker.wipes + 2));
            }
            Action::LoseTail => {
                budget.tails -= 1;
                self.broker.lose_outcomes(1);
            }
            Action::FailOver => {
                budget.failovers -= 1;
                self.reference.database_lost = true;
                if let Some(behind) = self.behind.take() {
                    self.database = *behind;
                }
                // The connection broke, so every lane is in doubt.
                self.lanes.iter_mut().for_each(|lane| lane.in_doubt = true);
            }
            other => unreachable!("{other:?} is no fault"),
        }
    }

    /// What a lane does at once, whatever else happens: notices the streams, asks, decides, feeds.
    fn lanes_go_on(&mut self) {
        for index in 0..self.lanes.len() {
            self.with_lane(index, |lane, scene| {
                if lane.in_doubt {
                    return;
                }
                lane.ask(scene.broker);
                lane.decide(scene);
                // A lane that lost its lease is in doubt from now on, which is all that follows.
                lane.feed(scene).ok();
            });
        }
        // One that lost its lease while another holds it lets go.
        if self.lanes.len() > 1 {
            let lease = self.database.lease;
            self.lanes.retain(|lane| !lane.in_doubt || lane.lease == lease);
        }
    }

    pub(super) fn take_over(&mut self) {
        self.lanes.push(Coordinator::new(self.rules, TICKS));
        self.recover(self.lanes.len() - 1);
    }

    fn recover(&mut self, lane: usize) {
        self.with_lane(lane, |lane, scene| {
            if lane.in_doubt {
                lane.recover(scene, 0);
            } else {
                lane.streams_seen(scene.broker);
                lane.start_reader(scene.broker, 0);
            }
        });
    }

    pub(super) fn process(&mut self, lane: usize, how: (usize, CommitFate)) {
        if self.budget.failovers > 0 {
            self.behind = Some(Box::new(self.database.clone()));
        }
        // A lane in doubt says so itself, and waits for its recovery.
        self.with_lane(lane, |lane, scene| lane.process(scene, how).ok());
    }

    fn with_lane<T>(&mut self, lane: usize, act: impl FnOnce(&mut Coordinator, &mut Scene<'_>) -> T) -> T {
        let mut scene = Scene {
            database: &mut self.database,
            broker: &mut self.broker,
            reference: &mut self.reference,
            plans: &self.plans.0,
            now_us: 0,
            sent: Vec::new(),
        };
        let mut confirmed = Vec::new();
        let result = act(&mut self.lanes[lane], &mut scene);
        for sent in scene.sent {
            match sent {
                Sent::Answer(run, _, answer) => drop(self.letters.insert(Letter::Answer(run, answer))),
                // A late confirmation changes nothing but when the executor forgets.
                Sent::Confirm(run, _) => confirmed.push(run),
                // An optimization for executors that have not started; a request for what they may do at any time.
                Sent::Drop(_) | Sent::BeatNow | Sent::Inputs(..) => {}
            }
        }
        for run in confirmed {
            self.for_holder(run, |world, executor| world.executors[executor].confirmed(run, &mut world.broker));
        }
        result
    }

    fn with_executor(&mut self, index: usize, act: impl FnOnce(&mut Executor, &mut Surroundings<'_>)) {
        let plans = self.plans.0.clone();
        let once = move |task: TaskId| plans.get(&task.execution()).is_some_and(|plan| plan.task(task.index()).at_most_once);
        let mut around = Surroundings { broker: &mut self.broker, reference: &mut self.reference, rules: self.rules, once: &once };
        act(&mut self.executors[index], &mut around);
    }

    fn fetch(&mut self, executor: usize) {
        if let Some(delivered) = self.broker.deliver(0, FOR_EVER_US) {
            self.with_executor(executor, |executor, around| executor.take(delivered, around));
        }
    }

    fn ask(&mut self, executor: usize, run: RunId) {
        if let Some(asked) = self.executors[executor].claim(run) {
            self.lanes.iter_mut().filter(|lane| !lane.in_doubt).for_each(|lane| lane.take_claim(asked, &self.broker));
        }
    }

    fn arrive(&mut self, letter: usize) {
        let Some(letter) = self.letters.iter().nth(letter).cloned() else { return };
        self.letters.remove(&letter);
        match letter {
            Letter::Beat(beat) => self.lanes.iter_mut().for_each(|lane| {
                lane.heard |= !lane.in_doubt;
                lane.take_beat(&beat, &self.broker);
            }),
            Letter::Answer(run, answer) => self.for_holder(run, |world, executor| world.answered(executor, (run, answer))),
        }
    }

    fn answered(&mut self, executor: usize, answer: (RunId, Answer)) {
        self.with_executor(executor, |executor, around| executor.answer(answer, around));
    }

    fn for_holder(&mut self, run: RunId, act: impl FnOnce(&mut Self, usize)) {
        if let Some(executor) = self.executors.iter().position(|executor| executor.runs.contains_key(&run)) {
            act(self, executor);
        }
    }

    /// Nothing goes wrong any more: whether everything ends, and is confirmed.
    pub(super) fn finishes_quietly(&self) -> bool {
        let mut world = self.clone();
        world.budget.failovers = 0;
        world.reference.violations = BTreeSet::new();
        (0..ROUNDS_MAX).any(|_| {
            world.round();
            world.is_done()
        }) && world.reference.violations.is_empty()
    }

    fn round(&mut self) {
        let lease = self.database.lease;
        self.lanes.retain(|lane| lane.lease == lease);
        if self.lanes.is_empty() {
            self.take_over();
        }
        if self.lanes[0].in_doubt || !self.lanes[0].reads(&self.broker) {
            self.recover(0);
        }
        // Who is heard between the tick and the verdict is not lost.
        self.lanes[0].tick(&self.broker);
        self.executors_go_on();
        while !self.letters.is_empty() {
            self.arrive(0);
        }
        while self.lanes[0].read(&self.broker) {}
        self.lanes_go_on();
        self.process(0, (usize::MAX, CommitFate::Committed));
        self.with_lane(0, |lane, scene| lane.survey(scene));
        // Nobody else has the lease.
        self.with_lane(0, |lane, scene| lane.save(scene).ok());
        self.lanes_go_on();
        self.redeliver_what_nobody_has();
    }

    fn executors_go_on(&mut self) {
        for index in 0..self.executors.len() {
            if self.executors[index].has_room() {
                self.fetch(index);
            }
            let runs: Vec<(RunId, Stage)> = self.executors[index].runs.iter().map(|(id, run)| (*id, run.stage)).collect();
            for (run, stage) in runs {
                match stage {
                    Stage::Asking => {
                        self.ask(index, run);
                    }
                    Stage::Started => self.with_executor(index, |executor, around| executor.end((run, Ending::Completed), around)),
                    Stage::Ended(_) => {
                        self.executors[index].settle(run, &mut self.broker);
                        self.executors[index].publish(run, &mut self.broker);
                    }
                }
            }
            let beat = self.executors[index].beat();
            self.letters.insert(Letter::Beat(beat));
        }
    }

    fn redeliver_what_nobody_has(&mut self) {
        let held: BTreeSet<_> = self.executors.iter().flat_map(|executor| executor.runs.values()).map(|run| run.dispatch).collect();
        for message in self.broker.tasks.messages.values_mut() {
            if !held.contains(&message.dispatch) {
                message.lent_until_us = None;
            }
        }
    }
}
