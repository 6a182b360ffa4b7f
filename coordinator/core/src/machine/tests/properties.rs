//! What holds for every plan and every history, however its messages are repeated, reordered and lost.
//!
//! Each property judges by the plan, the events and the effects, with a model of its own where the machine decides.

use super::faults::{Act, acts};
use super::plans::plans;
use super::rows::Rows;
use super::scene::{Counter, circumstances, has_ended};
use super::world::{Step, Told, tell, traced};
use crate::execution::{Changes, Execution};
use crate::machine::{self, Effect, Event, Progressed, Reported};
use crate::plan::{Plan, TaskIndex};
use orchestr8_proto::ids::{DispatchId, RunId};
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Verdict = Result<(), TestCaseError>;

fn stories() -> impl Strategy<Value = (Plan, Option<Timestamp>, Vec<Act>)> {
    let run_at = proptest::option::weighted(0.2, (0i64..3_000_000).prop_map(Timestamp));
    (plans(), run_at, acts())
}

macro_rules! properties {
    ($($(#[$doc:meta])* $name:ident = $holds:path;)+) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]
            $($(#[$doc])* #[test]
            fn $name((plan, run_at, acts) in stories()) {
                $holds(&tell(&plan, run_at, &acts))?;
            })+
        }
    };
}

properties! {
    /// However much was lost: once the faults stop, every execution ends, and says what its tasks say.
    every_execution_ends = ends;
    /// Neither published nor slept before every needed task and phase has ended and may be passed.
    no_task_starts_before_its_upstreams = starts_after_upstreams;
    /// Nothing waits for what can never come, and nothing is skipped without a reason.
    exactly_what_is_blocked_is_skipped = skips_what_is_blocked;
    /// An outcome, claim or loss changes something exactly when rule R1 says that it counts.
    no_outcome_counts_twice = outcomes_count_once;
    /// A task ends once, stays as it ended, and nothing is published twice for one reason.
    every_task_ends_once = tasks_end_once;
    /// Every attempt that was made, and no other, has a span in its trace.
    every_attempt_is_traced_once = attempts_traced_once;
    /// Whatever fails, is lost or falls due after it.
    nothing_is_queued_after_its_cancel = cancel_is_final;
    /// A run becomes the holder only when nobody is, and only the holder is told that it may start.
    there_is_one_holder_at_a_time = one_holder;
    /// However its executors die or stop.
    at_most_once_starts_at_most_once = starts_at_most_once;
    /// Same events, same draws: same state, same changes, same effects.
    replaying_the_events_gives_the_same = replays;
    /// What is kept step by step is what a load computes.
    derived_fields_are_what_a_load_computes = derives;
    /// The rows that the changes name are all that a load needs.
    the_changes_are_complete = changes_complete;
    /// Each state has what it needs and nothing that would mislead the next event.
    every_state_is_whole = states_whole;
    /// The queue's count follows from the effects alone.
    the_queue_is_counted = queue_counted;
}

fn pairs(told: &Told) -> impl Iterator<Item = (&Step, &Step)> {
    told.steps.iter().zip(&told.steps[1..])
}

fn indexes(plan: &Plan) -> std::ops::Range<TaskIndex> {
    0..TaskIndex::try_from(plan.tasks.len()).expect("few tasks")
}

fn ends(told: &Told) -> Verdict {
    let last = &told.steps.last().expect("the start").after;
    prop_assert!(last.status.is_final(), "it never ended: {last:#?}");
    prop_assert_eq!(last.tasks_remaining, 0);
    let ends = told.steps.iter().flat_map(|step| &step.effects).filter(|effect| **effect == Effect::Ended).count();
    prop_assert_eq!(ends, 1);
    prop_assert_eq!(last.status, expected_verdict(&told.plan, last));
    prop_assert_eq!(last.output.is_some(), told.plan.output.is_some() && last.status == WorkflowStatus::Completed);
    Ok(())
}

/// A cancel of the execution that stopped something; else a failure; else a cancelled task; else success.
fn expected_verdict(plan: &Plan, last: &Execution) -> WorkflowStatus {
    let failed = |index| last.task(index).status.0 == TaskStatus::Failed && !plan.task(index).continue_on_failure;
    let failed = indexes(plan).any(failed);
    let cancelled = last.tasks.iter().any(|task| task.status.0 == TaskStatus::Cancelled);
    if cancelled && (last.cancel_requested_at.is_some() || !failed) {
        WorkflowStatus::Cancelled
    } else if failed {
        WorkflowStatus::Failed
    } else {
        WorkflowStatus::Completed
    }
}

/// All tasks that `index` waits for, by the plan alone.
fn upstreams(plan: &Plan, index: TaskIndex) -> BTreeSet<TaskIndex> {
    let task = plan.task(index);
    let in_needed_phase = |other: &TaskIndex| plan.task(*other).phase.is_some_and(|phase| task.needs_phases.contains(&phase));
    task.needs.iter().copied().chain(indexes(plan).filter(in_needed_phase)).collect()
}

fn passed(plan: &Plan, execution: &Execution, index: TaskIndex) -> bool {
    let status = execution.task(index).status.0;
    status == TaskStatus::Completed || (status == TaskStatus::Failed && plan.task(index).continue_on_failure)
}

fn starts_after_upstreams(told: &Told) -> Verdict {
    for step in &told.steps {
        for index in indexes(&told.plan) {
            let begun = match step.after.task(index).status.0 {
                TaskStatus::Queued
                | TaskStatus::Running
                | TaskStatus::Retrying
                | TaskStatus::Waiting
                | TaskStatus::Completed
                | TaskStatus::Failed => true,
                TaskStatus::Pending | TaskStatus::Skipped | TaskStatus::Cancelled => step.effects.contains(&Effect::Publish(index)),
            };
            let free = upstreams(&told.plan, index).into_iter().all(|upstream| passed(&told.plan, &step.after, upstream));
            prop_assert!(free || !begun, "task {index} began too early: {step:#?}");
            let early = told.run_at.is_some_and(|at| step.now < at) && step.effects.contains(&Effect::Publish(index));
            prop_assert!(!early, "task {index} began before run_at");
        }
    }
    Ok(())
}

fn skips_what_is_blocked(told: &Told) -> Verdict {
    for step in &told.steps {
        for index in indexes(&told.plan) {
            let all = upstreams(&told.plan, index);
            let blocked =
                all.iter().any(|upstream| has_ended(step.after.task(*upstream).status.0) && !passed(&told.plan, &step.after, *upstream));
            let free = all.iter().all(|upstream| passed(&told.plan, &step.after, *upstream));
            match step.after.task(index).status.0 {
                TaskStatus::Pending => prop_assert!(!blocked && !free, "task {index} waits for nothing: {step:#?}"),
                TaskStatus::Skipped => prop_assert!(blocked, "task {index} was skipped for nothing: {step:#?}"),
                TaskStatus::Queued
                | TaskStatus::Running
                | TaskStatus::Retrying
                | TaskStatus::Waiting
                | TaskStatus::Completed
                | TaskStatus::Failed
                | TaskStatus::Cancelled => {}
            }
        }
    }
    Ok(())
}

/// Rule R1 from the events and effects alone: which dispatch of each task is current, and who holds it.
#[derive(Default)]
struct Identities {
    current: BTreeMap<TaskIndex, DispatchId>,
    holder: BTreeMap<TaskIndex, RunId>,
}

impl Identities {
    fn counts(&self, task: TaskIndex, dispatch: DispatchId, run: RunId) -> bool {
        self.current.get(&task) == Some(&dispatch) && self.holder.get(&task).is_none_or(|holder| *holder == run)
    }

    /// An end takes the dispatch away, and a publication brings a new one.
    fn follow(&mut self, step: &Step) {
        for effect in &step.effects {
            match effect {
                Effect::TaskEnded(task, _) => self.forget(*task),
                Effect::LeaseStarted(task, run, _) => drop(self.holder.insert(*task, *run)),
                Effect::Publish(task) => {
                    let dispatch = step.after.task(*task).dispatch.expect("what is published has a dispatch");
                    self.current.insert(*task, dispatch.id);
                }
                _ => {}
            }
        }
    }

    fn forget(&mut self, task: TaskIndex) {
        self.current.remove(&task);
        self.holder.remove(&task);
    }
}

fn outcomes_count_once(told: &Told) -> Verdict {
    let mut identities = Identities::default();
    for step in &told.steps {
        let counts = match &step.event {
            Some(Event::Outcome(task, report)) => identities.counts(*task, report.dispatch_id, report.run_id),
            Some(Event::Lost(task, run)) => identities.holder.get(task) == Some(run),
            // A repeated claim by the holder is answered, and changes nothing.
            Some(Event::Claim(task, request)) => {
                !identities.holder.contains_key(task) && identities.counts(*task, request.dispatch_id, request.run_id)
            }
            _ => false,
        };
        if let Some(Event::Outcome(..) | Event::Lost(..) | Event::Claim(..)) = &step.event {
            prop_assert_eq!(step.changes != Changes::default(), counts, "{:#?}", step);
        }
        if let Some(Event::Outcome(_, report)) = &step.event {
            prop_assert!(step.effects.contains(&Effect::Confirm(report.run_id, report.incarnation)), "decided but not confirmed");
        }
        if let (true, Some(Event::Outcome(task, _) | Event::Lost(task, _))) = (counts, &step.event) {
            identities.forget(*task);
        }
        identities.follow(step);
    }
    Ok(())
}

fn tasks_end_once(told: &Told) -> Verdict {
    for (before, step) in pairs(told) {
        for index in indexes(&told.plan) {
            let (old, new) = (before.after.task(index), step.after.task(index));
            let count = |wanted: &dyn Fn(&Effect) -> bool| step.effects.iter().filter(|effect| wanted(effect)).count();
            let ends = count(&|effect| matches!(effect, Effect::TaskEnded(task, _) if *task == index));
            let ended_now = !has_ended(old.status.0) && has_ended(new.status.0);
            prop_assert_eq!(ends, usize::from(ended_now), "task {} in {:#?}", index, step);
            prop_assert!(!has_ended(old.status.0) || old == new || only_derived_differs(old, new), "task {index} changed after its end");
            let published = count(&|effect| *effect == Effect::Publish(index));
            let drawn = new.dispatch.map(|dispatch| dispatch.id) != old.dispatch.map(|dispatch| dispatch.id) && new.dispatch.is_some();
            prop_assert_eq!(published, usize::from(drawn), "task {} in {:#?}", index, step);
        }
        let results: BTreeSet<_> = step.changes.results.iter().map(|(task, _)| task).collect();
        prop_assert_eq!(results.len(), step.changes.results.len());
    }
    Ok(())
}

fn attempts_traced_once(told: &Told) -> Verdict {
    let mut attempts: BTreeMap<TaskIndex, Vec<u32>> = BTreeMap::new();
    for effect in told.steps.iter().flat_map(|step| &step.effects) {
        if let Effect::AttemptEnded(traced) = effect {
            attempts.entry(traced.task).or_default().push(traced.attempt);
        }
    }
    let last = &told.steps.last().expect("the start").after;
    for index in indexes(&told.plan) {
        let made: Vec<u32> = (1..=last.task(index).attempt).collect();
        prop_assert_eq!(attempts.remove(&index).unwrap_or_default(), made, "task {}", index);
    }
    Ok(())
}

fn cancel_is_final(told: &Told) -> Verdict {
    let mut cancelled: BTreeSet<TaskIndex> = BTreeSet::new();
    for step in &told.steps {
        let revived = step.effects.iter().find(|effect| matches!(effect, Effect::Publish(task) if cancelled.contains(task)));
        prop_assert_eq!(revived, None, "queued after its cancel: {:#?}", step);
        match &step.event {
            Some(Event::Cancel) => cancelled.extend(indexes(&told.plan)),
            Some(Event::CancelTask(task)) => drop(cancelled.insert(*task)),
            _ => {}
        }
    }
    Ok(())
}

fn only_derived_differs(old: &crate::execution::Task, new: &crate::execution::Task) -> bool {
    crate::execution::Task { upstreams_remaining: 0, ..old.clone() } == crate::execution::Task { upstreams_remaining: 0, ..new.clone() }
}

fn one_holder(told: &Told) -> Verdict {
    let mut held: BTreeMap<TaskIndex, RunId> = BTreeMap::new();
    for step in &told.steps {
        for effect in &step.effects {
            match effect {
                Effect::LeaseEnded(run) => held.retain(|_, holder| holder != run),
                Effect::LeaseStarted(task, run, _) => {
                    let before = held.insert(*task, *run);
                    prop_assert!(before.is_none_or(|before| before == *run), "two hold task {task}: {step:#?}");
                }
                Effect::Answer(run, _, machine::Answer::Granted) => {
                    prop_assert!(held.values().any(|holder| holder == run), "granted without a lease: {step:#?}");
                }
                _ => {}
            }
        }
        let in_rows = indexes(&told.plan).filter_map(|index| Some((index, step.after.task(index).holder?.run_id)));
        prop_assert_eq!(&held, &in_rows.collect::<BTreeMap<_, _>>());
    }
    Ok(())
}

fn starts_at_most_once(told: &Told) -> Verdict {
    let once = |index: &TaskIndex| told.plan.task(*index).at_most_once;
    for index in indexes(&told.plan).filter(once) {
        prop_assert!(told.starts[index as usize] <= 1, "task {index} started {} times", told.starts[index as usize]);
        let mut granted: BTreeSet<RunId> = BTreeSet::new();
        for step in &told.steps {
            for effect in &step.effects {
                if let Effect::LeaseStarted(task, run, _) = effect
                    && *task == index
                {
                    granted.insert(*run);
                }
            }
            if let Some(Event::Outcome(task, report)) = &step.event
                && let (true, Reported::Drained(Progressed::NeverStarted) | Reported::Unsupported(_)) = (*task == index, &report.result)
            {
                granted.remove(&report.run_id);
            }
        }
        prop_assert!(granted.len() <= 1, "task {index} was granted to {granted:?}");
    }
    Ok(())
}

fn replays(told: &Told) -> Verdict {
    let mut execution = traced(&told.plan);
    let mut draws = Counter::default();
    for step in &told.steps {
        let given = circumstances(step.now, &mut draws);
        let effects = match &step.event {
            None => machine::start(&mut execution, told.run_at, given),
            Some(event) => machine::step(&mut execution, event.clone(), given),
        };
        // Sequences are the lane's to give.
        for (task, given) in execution.tasks.iter_mut().zip(&step.after.tasks) {
            if let (Some(dispatch), Some(given)) = (&mut task.dispatch, given.dispatch) {
                dispatch.sequence = given.sequence;
            }
        }
        prop_assert_eq!(&effects, &step.effects);
        prop_assert_eq!(&execution.committed(), &step.changes);
        prop_assert_eq!(&execution, &step.after);
    }
    Ok(())
}

fn derives(told: &Told) -> Verdict {
    for step in &told.steps {
        let mut loaded = step.after.clone();
        (loaded.tasks_remaining, loaded.phases_remaining) = (u32::MAX, Vec::new());
        loaded.tasks.iter_mut().for_each(|task| task.upstreams_remaining = u32::MAX);
        loaded.derive();
        prop_assert_eq!(&loaded, &step.after, "after {:?}", step.event);
    }
    Ok(())
}

fn changes_complete(told: &Told) -> Verdict {
    let mut rows = Rows::default();
    for step in &told.steps {
        rows.commit(&step.after, &step.changes);
        prop_assert_eq!(&rows.load(), &step.after, "after {:?}", step.event);
        let once: BTreeSet<_> = step.changes.tasks.iter().collect();
        prop_assert_eq!(once.len(), step.changes.tasks.len(), "a row is written twice in one statement");
    }
    for (before, step) in pairs(told) {
        prop_assert_eq!(step.after.version - before.after.version, i64::from(step.changes.execution));
        prop_assert_eq!(step.after.event_sequence - before.after.event_sequence, i64::try_from(step.changes.history.len()).expect("few"));
    }
    Ok(())
}

fn states_whole(told: &Told) -> Verdict {
    for step in &told.steps {
        for task in &step.after.tasks {
            let status = task.status.0;
            let has = (task.dispatch.is_some(), task.holder.is_some(), task.due_at.is_some(), task.completed_at.is_some());
            let whole = match status {
                TaskStatus::Pending => has == (false, false, false, false) && task.attempt == 0,
                TaskStatus::Queued => has == (true, false, false, false) && task.attempt > 0 && task.started_at.is_none(),
                TaskStatus::Running => (has.0, has.1, has.3) == (true, true, false) && task.started_at.is_some(),
                TaskStatus::Retrying | TaskStatus::Waiting => has == (false, false, true, false),
                TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Skipped | TaskStatus::Cancelled => {
                    has == (false, false, false, true)
                }
            };
            prop_assert!(whole, "{task:#?}");
            prop_assert_eq!(task.status.0 == TaskStatus::Failed && task.failure.is_none(), false, "failed without a reason");
        }
        prop_assert_eq!(step.after.status.is_final(), step.after.completed_at.is_some());
    }
    Ok(())
}

fn queue_counted(told: &Told) -> Verdict {
    let mut queued: BTreeMap<TaskIndex, i64> = BTreeMap::new();
    for step in &told.steps {
        for effect in &step.effects {
            match effect {
                Effect::Publish(task) => {
                    let sequence = step.after.task(*task).dispatch.expect("what is published has a dispatch").sequence;
                    prop_assert_eq!(queued.insert(*task, sequence), None, "published twice: {:#?}", step);
                }
                Effect::LeftQueue(task, sequence) => {
                    prop_assert_eq!(queued.remove(task), Some(*sequence), "left what it was not in: {:#?}", step);
                }
                _ => {}
            }
        }
        let in_rows = indexes(&told.plan).filter(|index| step.after.task(*index).status.0 == TaskStatus::Queued);
        prop_assert_eq!(queued.keys().copied().collect::<Vec<_>>(), in_rows.collect::<Vec<_>>(), "{:#?}", step);
    }
    Ok(())
}
