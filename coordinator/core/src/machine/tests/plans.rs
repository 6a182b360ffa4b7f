//! Plans for tests: written as one line, or random.

use crate::plan::{LargeValues, PhasePlan, Plan, RetryPolicy, TaskIndex, TaskKind, TaskPlan};
use orchestr8_proto::words::Priority;
use proptest::prelude::*;
use std::time::Duration;

/// A plan from a line such as `a; b @gates < a; c < a b << gates`: name, phase, needs, needed phases.
pub(super) fn plan(line: &str) -> Plan {
    let mut plan = Plan { name: "test".into(), input_schema: None, output: None, phases: Vec::new(), tasks: Vec::new() };
    line.split(';').for_each(|sentence| add_task(&mut plan, sentence));
    linked(plan)
}

fn add_task(plan: &mut Plan, sentence: &str) {
    let (rest, needed_phases) = sentence.split_once("<<").unwrap_or((sentence, ""));
    let (head, needs) = rest.split_once('<').unwrap_or((rest, ""));
    let mut words = head.split_whitespace();
    let mut task = handler(words.next().expect("a task has a name"));
    task.phase = words.next().map(|phase| phase_of(plan, phase.trim_start_matches('@')));
    task.needs = needs.split_whitespace().map(|need| plan.task_named(need).expect("needs come first")).collect();
    task.needs_phases = needed_phases.split_whitespace().map(|phase| phase_of(plan, phase)).collect();
    plan.tasks.push(task);
}

fn phase_of(plan: &mut Plan, name: &str) -> u32 {
    let known = plan.phases.iter().position(|phase| phase.name == name);
    let index = known.unwrap_or_else(|| {
        plan.phases.push(PhasePlan { name: name.into(), weight: 1.0, task_count: 0, dependents: Vec::new() });
        plan.phases.len() - 1
    });
    u32::try_from(index).expect("few phases")
}

fn handler(name: &str) -> TaskPlan {
    TaskPlan {
        name: name.into(),
        phase: None,
        needs: Vec::new(),
        needs_phases: Vec::new(),
        dependents: Vec::new(),
        kind: TaskKind::Handler { name: "noop".into() },
        with: std::collections::BTreeMap::default(),
        env: std::collections::BTreeMap::default(),
        prompt: None,
        retry: RetryPolicy { jitter: 0.0, ..RetryPolicy::none() },
        timeout: None,
        continue_on_failure: false,
        at_most_once: false,
        priority: Priority::Normal,
        queue: "default".into(),
        workdir: None,
        large_values: LargeValues::Refused,
        agent_name: "noop".into(),
    }
}

/// Enters what follows from phases and needs: the reverse edges and the sizes of phases.
fn linked(mut plan: Plan) -> Plan {
    let indexes = || 0..TaskIndex::try_from(plan.tasks.len()).expect("few tasks");
    let dependents_of = |index: TaskIndex| indexes().filter(|other| plan.task(*other).needs.contains(&index)).collect();
    let dependents: Vec<Vec<TaskIndex>> = indexes().map(dependents_of).collect();
    for (number, phase) in (0..).zip(&mut plan.phases) {
        let tasks = || (0..).zip(&plan.tasks);
        phase.task_count = u32::try_from(tasks().filter(|(_, task)| task.phase == Some(number)).count()).expect("few tasks");
        phase.dependents = tasks().filter(|(_, task)| task.needs_phases.contains(&number)).map(|(index, _)| index).collect();
    }
    plan.tasks.iter_mut().zip(dependents).for_each(|(task, dependents)| task.dependents = dependents);
    plan
}

/// The same plan with one task changed.
pub(super) fn with(mut plan: Plan, name: &str, change: impl FnOnce(&mut TaskPlan)) -> Plan {
    let index = plan.task_named(name).expect("the plan has the task");
    change(&mut plan.tasks[index as usize]);
    plan
}

/// `max_attempts` with a first wait of `initial_seconds`, doubling, without jitter.
pub(super) fn retry(max_attempts: u32, initial_seconds: u64) -> RetryPolicy {
    RetryPolicy { max_attempts, initial_interval: Duration::from_secs(initial_seconds), jitter: 0.0, ..RetryPolicy::none() }
}

/// What a random plan knows of a task before it is made to fit.
#[derive(Debug, Clone)]
struct Sketch {
    phase: Option<u32>,
    needs: Vec<u32>,
    needs_phases: Vec<u32>,
    sleep_seconds: Option<u64>,
    retry: (u32, u64),
    continue_on_failure: bool,
    at_most_once: bool,
}

/// Random plans of 1 to 8 tasks in up to 3 phases, without cycles: everything points backwards.
pub(super) fn plans() -> impl Strategy<Value = Plan> {
    let output = proptest::option::of(Just(crate::plan::Template(serde_json::json!("done"))));
    (proptest::collection::vec(sketches(), 1..9), output).prop_map(|(sketches, output)| {
        let mut plan = Plan { output, ..plan_of(&sketches) };
        drop_empty_phases(&mut plan);
        linked(plan)
    })
}

/// A sketch is read from one number, for the same reason as [`super::faults::acts`].
fn sketches() -> impl Strategy<Value = Sketch> {
    any::<[u8; 8]>().prop_map(|bytes| {
        let few = |byte: u8, below: u32| match byte % 3 {
            0 => Vec::new(),
            1 => vec![u32::from(byte / 3) % below],
            _ => vec![u32::from(byte / 3) % below, u32::from(byte / 24) % below],
        };
        let chance = |byte: u8, one_in: u8| byte.is_multiple_of(one_in);
        Sketch {
            phase: chance(bytes[0], 2).then(|| u32::from(bytes[0] / 2) % 3),
            needs: few(bytes[1], 8),
            needs_phases: few(bytes[2], 3),
            sleep_seconds: chance(bytes[3], 6).then(|| u64::from(bytes[3] / 6) % 4),
            retry: (1 + u32::from(bytes[4] % 4), u64::from(bytes[5] % 3)),
            continue_on_failure: chance(bytes[6], 3),
            at_most_once: chance(bytes[7], 4),
        }
    })
}

fn plan_of(sketches: &[Sketch]) -> Plan {
    let mut plan = plan("a @p; b @q; c @r");
    plan.tasks.clear();
    let last_of = |phase: u32| (0u32..).zip(sketches).filter(|(_, task)| task.phase == Some(phase)).map(|(index, _)| index).max();
    for (index, sketch) in (0u32..).zip(sketches) {
        let mut task = handler(&format!("t{index}"));
        task.phase = sketch.phase;
        task.needs = distinct(&sketch.needs, |need| need < index);
        task.needs_phases = distinct(&sketch.needs_phases, |phase| last_of(phase).is_some_and(|last| last < index));
        let attempts = if sketch.at_most_once { 1 } else { sketch.retry.0 };
        (task.retry, task.at_most_once) = (retry(attempts, sketch.retry.1), sketch.at_most_once);
        task.continue_on_failure = sketch.continue_on_failure;
        if let Some(seconds) = sketch.sleep_seconds {
            task.kind = TaskKind::Sleep { duration: Duration::from_secs(seconds) };
        }
        plan.tasks.push(task);
    }
    plan
}

fn distinct(wanted: &[u32], fits: impl Fn(u32) -> bool) -> Vec<u32> {
    let wanted: std::collections::BTreeSet<u32> = wanted.iter().copied().filter(|wanted| fits(*wanted)).collect();
    wanted.into_iter().collect()
}

/// A plan has no phase without tasks; those that stay are numbered anew.
fn drop_empty_phases(plan: &mut Plan) {
    let used: Vec<u32> = (0u32..3).filter(|phase| plan.tasks.iter().any(|task| task.phase == Some(*phase))).collect();
    let renumbered = |old: u32| used.iter().position(|used| *used == old).and_then(|new| u32::try_from(new).ok());
    for task in &mut plan.tasks {
        task.phase = task.phase.and_then(renumbered);
        task.needs_phases = task.needs_phases.iter().filter_map(|phase| renumbered(*phase)).collect();
    }
    plan.phases.truncate(used.len());
}
