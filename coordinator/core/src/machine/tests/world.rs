//! A coordinator, a broker and executors on a simulated clock. Acts go in, the history of one execution comes out.

use super::faults::{Act, Ending};
use super::scene::{Counter, circumstances, execution_of, executor, failed, failed_for_good, has_ended, incarnation, report, run_id};
use crate::execution::{Changes, Execution, Failure};
use crate::machine::{self, Answer, ClaimRequest, Effect, Event, Progressed, Report, Reported};
use crate::plan::{Plan, TaskIndex};
use orchestr8_proto::ids::{DispatchId, RunId};
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::traces::TraceParent;
use orchestr8_proto::words::TaskStatus;
use std::time::Duration;

/// Rounds without faults after which an execution that has not ended never will.
const ROUNDS_MAX: usize = 400;

/// One commit.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// What was applied; none: the start.
    pub(super) event: Option<Event>,
    pub(super) now: Timestamp,
    pub(super) effects: Vec<Effect>,
    pub(super) changes: Changes,
    /// The execution after the commit.
    pub(super) after: Execution,
}

/// All commits of one execution, and what executors did.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) plan: Plan,
    pub(super) run_at: Option<Timestamp>,
    pub(super) steps: Vec<Step>,
    /// By task: how often a command was started.
    pub(super) starts: Vec<u32>,
}

/// Lets `acts` happen to an execution of `plan`, and then nothing but what should.
pub(super) fn tell(plan: &Plan, run_at: Option<Timestamp>, acts: &[Act]) -> Told {
    let mut world = World::new(plan);
    world.start(run_at);
    for act in acts {
        world.act(*act);
    }
    for _ in 0..ROUNDS_MAX {
        if world.execution.status.is_final() {
            break;
        }
        world.settle();
    }
    Told { plan: plan.clone(), run_at, steps: world.steps, starts: world.starts }
}

/// A new execution of `plan` that somebody traces.
pub(super) fn traced(plan: &Plan) -> Execution {
    let mut execution = execution_of(plan.clone());
    execution.trace = Some(TraceParent { trace_id: [1; 16], span_id: [2; 8], flags: 1 });
    execution
}

struct World {
    execution: Execution,
    now: Timestamp,
    draws: Counter,
    sequence: i64,
    messages: Vec<Message>,
    runs: Vec<Run>,
    letters: Vec<Event>,
    answers: Vec<(RunId, Answer)>,
    steps: Vec<Step>,
    starts: Vec<u32>,
}

/// A publication in the broker.
#[derive(Clone, Copy)]
struct Message {
    task: TaskIndex,
    dispatch: DispatchId,
    ask_first: bool,
}

/// One start by one executor.
#[derive(Clone)]
struct Run {
    number: u64,
    task: TaskIndex,
    dispatch: DispatchId,
    state: RunState,
    /// Kept until it is confirmed.
    unconfirmed: Option<Report>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RunState {
    /// Waits for a grant; the command has not begun.
    Asking,
    Running,
    Ended,
}

impl World {
    fn new(plan: &Plan) -> Self {
        Self {
            execution: traced(plan),
            now: Timestamp(0),
            draws: Counter::default(),
            sequence: 0,
            messages: Vec::new(),
            runs: Vec::new(),
            letters: Vec::new(),
            answers: Vec::new(),
            steps: Vec::new(),
            starts: vec![0; plan.tasks.len()],
        }
    }

    fn start(&mut self, run_at: Option<Timestamp>) {
        let effects = machine::start(&mut self.execution, run_at, circumstances(self.now, &mut self.draws));
        self.commit(None, effects);
    }

    fn step(&mut self, event: Event) {
        let effects = machine::step(&mut self.execution, event.clone(), circumstances(self.now, &mut self.draws));
        self.commit(Some(event), effects);
    }

    /// As the lane does: sequences before the commit, effects after it.
    fn commit(&mut self, event: Option<Event>, effects: Vec<Effect>) {
        for effect in &effects {
            if let Effect::Publish(task) = effect
                && let Some(dispatch) = &mut self.execution.tasks[*task as usize].dispatch
            {
                self.sequence += 1;
                dispatch.sequence = self.sequence;
            }
        }
        let changes = self.execution.committed();
        let after = self.execution.clone();
        self.steps.push(Step { event, now: self.now, effects: effects.clone(), changes, after });
        for effect in effects {
            self.carry_out(&effect);
        }
    }

    fn carry_out(&mut self, effect: &Effect) {
        match effect {
            Effect::Publish(task) => self.publish(*task),
            Effect::Answer(run, _, answer) => self.answers.push((*run, *answer)),
            Effect::Confirm(run, _) => {
                self.runs.iter_mut().filter(|known| run_id(known.number) == *run).for_each(|run| run.unconfirmed = None);
            }
            Effect::EvaluateOutput => self.step(Event::OutputEvaluated(Ok(serde_json::json!("done")))),
            Effect::Drop(dispatch) => self.messages.retain(|message| message.dispatch != *dispatch),
            Effect::LeftQueue(..)
            | Effect::LeaseStarted(..)
            | Effect::LeaseEnded(_)
            | Effect::Timer(_)
            | Effect::AttemptEnded(_)
            | Effect::TaskEnded(..)
            | Effect::Ended => {}
        }
    }

    fn publish(&mut self, task: TaskIndex) {
        if let Some(dispatch) = self.execution.task(task).dispatch {
            self.messages.push(Message { task, dispatch: dispatch.id, ask_first: dispatch.ask_first });
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Deliver(pick) => self.deliver(pick),
            Act::Wipe(pick) => drop(take(&mut self.messages, pick)),
            Act::Finish(pick, ending) => self.finish_one(pick, ending),
            Act::Ask(pick) => self.with_living(pick, |world, run| world.letters.push(claim(&run))),
            Act::Check(pick) => self.with_living(pick, |world, run| world.step(Event::Check(run.task, request(&run)))),
            Act::Beat => self.beat(),
            Act::Arrive(pick) => take(&mut self.letters, pick).into_iter().for_each(|letter| self.step(letter)),
            Act::ArriveTwice(pick) => picked(&self.letters, pick).cloned().into_iter().for_each(|letter| self.step(letter)),
            Act::Mislay(pick) => drop(take(&mut self.letters, pick)),
            Act::Answer(pick) => take(&mut self.answers, pick).into_iter().for_each(|(run, answer)| self.answer(run, answer)),
            Act::Silence(pick) => drop(take(&mut self.answers, pick)),
            Act::Resend => self.resend(),
            Act::Die(pick) => self.with_living(pick, |world, run| world.run(run.number).state = RunState::Ended),
            Act::Lose(pick) => self.lose_one(pick),
            Act::Pass(ms) => self.now = self.now.after(Duration::from_millis(ms.into())),
            Act::Due(pick) => self.step(Event::Due(self.task_of(pick))),
            Act::Cancel => self.step(Event::Cancel),
            Act::CancelTask(pick) => self.step(Event::CancelTask(self.task_of(pick))),
            Act::Undeliverable(pick) => self.refuse_one(pick),
        }
    }

    fn task_of(&self, pick: u8) -> TaskIndex {
        u32::from(pick) % u32::try_from(self.execution.tasks.len()).expect("few tasks")
    }

    /// The first delivery of a message starts at once, unless it is flagged; a repeated one asks (rule R5).
    fn deliver(&mut self, pick: u8) {
        let Some(message) = picked(&self.messages, pick).copied() else { return };
        let repeated = self.runs.iter().any(|run| run.dispatch == message.dispatch);
        self.receive(Message { ask_first: repeated || message.ask_first, ..message });
    }

    fn receive(&mut self, message: Message) {
        let number = self.runs.len() as u64 + 1;
        let Message { task, dispatch, ask_first } = message;
        self.runs.push(Run { number, task, dispatch, state: RunState::Asking, unconfirmed: None });
        if !ask_first {
            self.begin(number);
        }
    }

    fn begin(&mut self, number: u64) {
        let run = self.run(number);
        run.state = RunState::Running;
        let task = run.task as usize;
        self.starts[task] += 1;
    }

    fn run(&mut self, number: u64) -> &mut Run {
        &mut self.runs[usize::try_from(number).expect("few runs") - 1]
    }

    fn living(&self) -> Vec<Run> {
        self.runs.iter().filter(|run| run.state != RunState::Ended).cloned().collect()
    }

    fn with_living(&mut self, pick: u8, act: impl FnOnce(&mut Self, Run)) {
        if let Some(run) = picked(&self.living(), pick).cloned() {
            act(self, run);
        }
    }

    fn finish_one(&mut self, pick: u8, ending: Ending) {
        self.with_living(pick, |world, run| {
            if let Some(result) = result_of(run.state, ending) {
                world.finish(run.number, result);
            }
        });
    }

    /// The outcome is on its way, and kept until it is confirmed.
    fn finish(&mut self, number: u64, result: Reported) {
        let run = self.run(number);
        let outcome = report(run.dispatch, number, result);
        (run.state, run.unconfirmed) = (RunState::Ended, Some(outcome.clone()));
        let task = run.task;
        self.letters.push(Event::Outcome(task, outcome));
    }

    fn beat(&mut self) {
        self.living().iter().for_each(|run| self.step(claim(run)));
    }

    fn answer(&mut self, run: RunId, answer: Answer) {
        let Some(run) = self.runs.iter().find(|known| run_id(known.number) == run).cloned() else { return };
        match (answer, run.state) {
            (Answer::Granted, RunState::Asking) => self.begin(run.number),
            (Answer::Refused | Answer::Kill | Answer::Cancel, RunState::Asking) => self.run(run.number).state = RunState::Ended,
            (Answer::Kill | Answer::Cancel, RunState::Running) => self.finish(run.number, failed("killed", 0)),
            (Answer::Granted | Answer::Refused, RunState::Running) | (Answer::Current, _) | (_, RunState::Ended) => {}
        }
    }

    fn resend(&mut self) {
        let kept = |run: &Run| run.unconfirmed.clone().map(|report| Event::Outcome(run.task, report));
        self.letters.extend(self.runs.iter().filter_map(kept).collect::<Vec<_>>());
    }

    fn holders(&self) -> Vec<(TaskIndex, RunId)> {
        let held = (0..).zip(&self.execution.tasks).filter_map(|(index, task)| task.holder.map(|holder| (index, holder.run_id)));
        held.collect()
    }

    fn lose_one(&mut self, pick: u8) {
        if pick % 2 == 1 {
            return picked(&self.runs, pick / 2).cloned().into_iter().for_each(|run| self.step(Event::Lost(run.task, run_id(run.number))));
        }
        if let Some((task, run)) = picked(&self.holders(), pick / 2).copied() {
            self.step(Event::Lost(task, run));
        }
    }

    fn refuse_one(&mut self, pick: u8) {
        if let Some(message) = picked(&self.messages, pick).copied() {
            let failure = Failure { error_type: "too_large".into(), message: String::new() };
            self.step(Event::Undeliverable(message.task, message.dispatch, failure));
        }
    }

    /// One round in which everything works: letters and answers arrive, runs complete, the lost are found, timers fire.
    fn settle(&mut self) {
        self.beat();
        for (run, answer) in std::mem::take(&mut self.answers) {
            self.answer(run, answer);
        }
        for run in self.living().into_iter().filter(|run| run.state == RunState::Running) {
            self.finish(run.number, Reported::Completed(serde_json::json!(run.number)));
        }
        self.resend();
        for letter in std::mem::take(&mut self.letters) {
            self.step(letter);
        }
        let ended = |run: &RunId| self.runs.iter().any(|known| run_id(known.number) == *run && known.state == RunState::Ended);
        for (task, run) in self.holders().into_iter().filter(|(_, run)| ended(run)).collect::<Vec<_>>() {
            self.step(Event::Lost(task, run));
        }
        self.publish_again();
        self.next_timer();
    }

    /// What is queued and runs nowhere comes back, and asks.
    fn publish_again(&mut self) {
        for (task, dispatch) in (0..).zip(self.execution.tasks.clone()).filter_map(|(index, task)| Some((index, task.dispatch?))) {
            let at_work = self.living().iter().any(|run| run.dispatch == dispatch.id);
            if self.execution.task(task).status.0 == TaskStatus::Queued && !at_work {
                self.receive(Message { task, dispatch: dispatch.id, ask_first: true });
            }
        }
    }

    fn next_timer(&mut self) {
        let Some(next) = self.execution.tasks.iter().filter_map(|task| task.due_at).min() else { return };
        self.now = self.now.max(next);
        for index in 0..u32::try_from(self.execution.tasks.len()).expect("few tasks") {
            if !has_ended(self.execution.task(index).status.0) {
                self.step(Event::Due(index));
            }
        }
    }
}

fn result_of(state: RunState, ending: Ending) -> Option<Reported> {
    match (state, ending) {
        (RunState::Running, Ending::Completed) => Some(Reported::Completed(serde_json::json!("output"))),
        (RunState::Running, Ending::Failed) => Some(failed("exit", 0)),
        (RunState::Running, Ending::FailedForGood) => Some(failed_for_good("exit")),
        (RunState::Running, Ending::Drained | Ending::Unsupported) => Some(Reported::Drained(Progressed::Started)),
        (RunState::Asking, Ending::Drained) => Some(Reported::Drained(Progressed::NeverStarted)),
        (RunState::Asking, Ending::Unsupported) => Some(Reported::Unsupported("unknown handler".into())),
        (RunState::Asking, Ending::Completed | Ending::Failed | Ending::FailedForGood) | (RunState::Ended, _) => None,
    }
}

fn request(run: &Run) -> ClaimRequest {
    ClaimRequest {
        dispatch_id: run.dispatch,
        run_id: run_id(run.number),
        incarnation: incarnation(run.number),
        executor: executor(run.number),
        running_for: (run.state == RunState::Running).then_some(Duration::from_secs(1)),
    }
}

fn claim(run: &Run) -> Event {
    Event::Claim(run.task, request(run))
}

fn picked<T>(from: &[T], pick: u8) -> Option<&T> {
    from.get(usize::from(pick) % from.len().max(1))
}

fn take<T>(from: &mut Vec<T>, pick: u8) -> Option<T> {
    (!from.is_empty()).then(|| from.remove(usize::from(pick) % from.len()))
}
