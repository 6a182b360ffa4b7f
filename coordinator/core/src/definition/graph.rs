//! Names to indexes: who waits for whom, and that nobody waits for itself.

use super::document::{Drafts, Header};
use super::fields::{Reader, shortened};
use super::problem::{PROBLEMS_MAX, Problem};
use super::tasks::Draft;
use super::yaml::Position;
use super::{EDGES_MAX, PHASES_MAX, upstream};
use crate::plan::{PhaseIndex, PhasePlan, Plan, TaskIndex, TaskPlan};
use std::collections::{HashMap, HashSet};

/// A phase as it is written.
pub(super) struct PhaseDraft {
    pub name: String,
    pub position: Position,
    pub path: String,
    /// None: the phase before.
    pub needs: Option<Vec<(String, Position)>>,
    pub weight: f64,
}

/// The names of a definition, resolved as far as they could be.
pub(super) struct Graph {
    /// Index of each task by name.
    pub names: HashMap<String, TaskIndex>,
    /// `needs` of each task.
    pub needs: Vec<Vec<TaskIndex>>,
    /// For each phase the phases that have ended before it starts.
    pub reach: Vec<PhaseSet>,
    /// `needs` of each phase.
    pub phase_needs: Vec<Vec<PhaseIndex>>,
    /// Place of each task in an order in which every task comes after its needs; all zero where there are cycles.
    pub order: Vec<u32>,
}

/// A set of phases.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PhaseSet([u64; PHASES_MAX / 64]);

impl PhaseSet {
    fn add_all(&mut self, other: Self) {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
    }

    fn add(&mut self, phase: PhaseIndex) {
        self.0[phase as usize / 64] |= 1 << (phase % 64);
    }

    /// Whether the phase is in it.
    pub fn contains(self, phase: PhaseIndex) -> bool {
        self.0[phase as usize / 64] & (1 << (phase % 64)) != 0
    }
}

/// Resolves all names. None when a problem prevents a plan.
pub(super) fn resolved(reader: &mut Reader, drafts: Drafts, header: Header) -> Option<Plan> {
    let names = task_names(reader, &drafts.tasks);
    let (phase_needs, reach) = resolve_phases(reader, &drafts.phases);
    let mut graph = Graph { names, needs: Vec::new(), reach, phase_needs, order: Vec::new() };
    graph.needs = drafts.tasks.iter().enumerate().map(|(index, draft)| resolve_needs(reader, &graph, (index, draft), &drafts)).collect();
    refuse_too_many_edges(reader, &graph, &drafts);
    let (order, cycles) = order(&graph.needs);
    graph.order = if cycles.is_empty() { order } else { vec![0; drafts.tasks.len()] };
    cycles.iter().for_each(|cycle| report_cycle(reader, cycle, &drafts.tasks));
    upstream::check_reads(reader, &graph, &drafts);
    reader.problems.is_empty().then(|| plan(graph, drafts, header))
}

fn task_names(reader: &mut Reader, drafts: &[Draft]) -> HashMap<String, TaskIndex> {
    let mut names: HashMap<String, TaskIndex> = HashMap::with_capacity(drafts.len());
    for (index, draft) in drafts.iter().enumerate() {
        let name = &draft.plan.name;
        if name.is_empty() {
            continue;
        }
        if let Some(first) = names.get(name) {
            let message = format!("the task name `{name}` is taken by line {}: rename one of them", drafts[*first as usize].position.line);
            reader.problems.add(draft.position, &format!("{}.name", draft.path), message);
        } else {
            names.insert(name.clone(), task_index(index));
        }
    }
    names
}

fn task_index(index: usize) -> TaskIndex {
    TaskIndex::try_from(index).expect("at most TASKS_MAX tasks")
}

fn resolve_phases(reader: &mut Reader, phases: &[PhaseDraft]) -> (Vec<Vec<PhaseIndex>>, Vec<PhaseSet>) {
    let mut names: HashMap<&str, PhaseIndex> = HashMap::new();
    let mut needs: Vec<Vec<PhaseIndex>> = Vec::new();
    let mut reach: Vec<PhaseSet> = Vec::new();
    for (phase, index) in phases.iter().zip(0 as PhaseIndex..) {
        let own: Vec<PhaseIndex> = match &phase.needs {
            None => index.checked_sub(1).into_iter().collect(),
            Some(needs) => needs.iter().filter_map(|need| resolve_phase_need(reader, (phase, need), &names, phases)).collect(),
        };
        let mut reached = PhaseSet::default();
        for need in &own {
            reached.add(*need);
            reached.add_all(reach[*need as usize]);
        }
        needs.push(own);
        reach.push(reached);
        if let Some(first) = names.insert(&phase.name, index).filter(|_| !phase.name.is_empty()) {
            let line = phases[first as usize].position.line;
            let message = format!("the phase name `{}` is taken by line {line}: rename one of them", phase.name);
            reader.problems.add(phase.position, &format!("{}.name", phase.path), message);
        }
    }
    (needs, reach)
}

fn resolve_phase_need(
    reader: &mut Reader,
    (phase, (name, position)): (&PhaseDraft, &(String, Position)),
    earlier: &HashMap<&str, PhaseIndex>,
    phases: &[PhaseDraft],
) -> Option<PhaseIndex> {
    if let Some(index) = earlier.get(name.as_str()) {
        return Some(*index);
    }
    let path = format!("{}.needs", phase.path);
    if phases.iter().any(|other| other.name == *name) {
        let message = format!("phase `{name}` does not come before `{}`: move it up, or remove it from `needs`", phase.name);
        reader.problems.add(*position, &path, message);
    } else {
        let message = format!("there is no phase `{}`: use the name of an earlier phase", shortened(name));
        let known = phases.iter().map(|phase| phase.name.as_str());
        reader.problems.add_unknown(Problem::at(*position, &path, message), name, known);
    }
    None
}

fn resolve_needs(reader: &mut Reader, graph: &Graph, (index, draft): (usize, &Draft), drafts: &Drafts) -> Vec<TaskIndex> {
    let mut needs = Vec::with_capacity(draft.needs.len());
    for (name, position) in &draft.needs {
        let path = || format!("{}.needs", draft.path);
        match graph.names.get(name) {
            None => {
                let message = format!("there is no task `{}`: use the name of a task of this definition", shortened(name));
                let known = drafts.tasks.iter().map(|draft| draft.plan.name.as_str());
                reader.problems.add_unknown(Problem::at(*position, &path(), message), name, known);
            }
            Some(need) if *need as usize == index => {
                reader.problems.add(*position, &path(), format!("task `{name}` needs itself: remove it from its `needs`"));
            }
            Some(need) => {
                let needed = drafts.tasks[*need as usize].plan.phase;
                match wrong_phase(graph, draft.plan.phase, needed) {
                    None => needs.push(*need),
                    Some(wrong) => {
                        let phase = &drafts.phases[wrong as usize].name;
                        let message = format!(
                            "task `{name}` is in phase `{phase}`, which has not ended when this phase starts: name the phase in the phase's `needs`, or put it earlier"
                        );
                        reader.problems.add(*position, &path(), message);
                    }
                }
            }
        }
    }
    needs
}

/// The needed task's phase, unless it is the task's own or one that ends before it starts.
fn wrong_phase(graph: &Graph, own: Option<PhaseIndex>, needed: Option<PhaseIndex>) -> Option<PhaseIndex> {
    match (own, needed) {
        (Some(own), Some(needed)) if own != needed && !graph.reach[own as usize].contains(needed) => Some(needed),
        (Some(_) | None, Some(_) | None) => None,
    }
}

fn refuse_too_many_edges(reader: &mut Reader, graph: &Graph, drafts: &Drafts) {
    let of_phases = drafts.tasks.iter().filter_map(|draft| draft.plan.phase).map(|phase| graph.phase_needs[phase as usize].len());
    let edges = graph.needs.iter().map(Vec::len).chain(of_phases).sum::<usize>();
    if edges > EDGES_MAX {
        let message = format!("the tasks need each other {edges} times, the limit is {EDGES_MAX}: use phases instead of long `needs`");
        reader.problems.add(Position { line: 1, column: 1 }, "", message);
    }
}

/// The place of each task in an order in which every task comes after its needs, and the cycles that prevent it: one of every knot of
/// tasks that all wait for each other, at most [`PROBLEMS_MAX`]. A knot is placed all the same, to find the next.
fn order(needs: &[Vec<TaskIndex>]) -> (Vec<u32>, Vec<Vec<TaskIndex>>) {
    let dependents = reversed(needs);
    let mut waiting: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut ready: Vec<TaskIndex> = (0..needs.len()).filter(|task| waiting[*task] == 0).map(task_index).collect();
    let (mut order, mut cycles) = (vec![u32::MAX; needs.len()], Vec::new());
    let (mut placed, mut looked_through) = (0, 0);
    loop {
        while let Some(task) = ready.pop() {
            if order[task as usize] != u32::MAX {
                continue;
            }
            order[task as usize] = placed;
            placed += 1;
            for dependent in &dependents[task as usize] {
                waiting[*dependent as usize] -= 1;
                if waiting[*dependent as usize] == 0 {
                    ready.push(*dependent);
                }
            }
        }
        let stuck = order[looked_through..].iter().position(|place| *place == u32::MAX);
        let Some(stuck) = stuck.filter(|_| cycles.len() < PROBLEMS_MAX) else { return (order, cycles) };
        looked_through += stuck;
        let cycle = cycle_from(task_index(looked_through), needs, &order);
        ready.extend(knot(cycle[0], needs, &dependents));
        cycles.push(cycle);
    }
}

/// All tasks that wait for this one and that it waits for.
fn knot(task: TaskIndex, needs: &[Vec<TaskIndex>], dependents: &[Vec<TaskIndex>]) -> Vec<TaskIndex> {
    let upstream = reached(task, needs);
    reached(task, dependents).into_iter().filter(|task| upstream.contains(task)).collect()
}

fn reached(from: TaskIndex, edges: &[Vec<TaskIndex>]) -> HashSet<TaskIndex> {
    let (mut seen, mut open) = (HashSet::from([from]), vec![from]);
    while let Some(task) = open.pop() {
        open.extend(edges[task as usize].iter().filter(|next| seen.insert(**next)));
    }
    seen
}

/// Follows unplaced needs from an unplaced task until one comes again: every unplaced task has one.
fn cycle_from(start: TaskIndex, needs: &[Vec<TaskIndex>], order: &[u32]) -> Vec<TaskIndex> {
    let mut seen: HashMap<TaskIndex, usize> = HashMap::new();
    let mut path = Vec::new();
    let mut task = start;
    loop {
        if let Some(first) = seen.insert(task, path.len()) {
            return path.split_off(first);
        }
        path.push(task);
        let next = needs[task as usize].iter().find(|need| order[**need as usize] == u32::MAX);
        task = *next.expect("a task is unplaced only because one of its needs is");
    }
}

fn report_cycle(reader: &mut Reader, cycle: &[TaskIndex], drafts: &[Draft]) {
    const NAMES_SHOWN: usize = 10;
    let name_of = |task: &TaskIndex| drafts[*task as usize].plan.name.clone();
    let mut names: Vec<String> = cycle.iter().take(NAMES_SHOWN).map(name_of).collect();
    if cycle.len() > NAMES_SHOWN {
        names.push("…".to_owned());
    }
    names.extend(cycle.first().map(name_of));
    let first = &drafts[cycle[0] as usize];
    let message = format!("the tasks wait for each other: {}: remove one of these `needs`", names.join(" -> "));
    reader.problems.add(first.position, &format!("{}.needs", first.path), message);
}

fn reversed(needs: &[Vec<TaskIndex>]) -> Vec<Vec<TaskIndex>> {
    let mut dependents = vec![Vec::new(); needs.len()];
    for (task, needs) in needs.iter().enumerate() {
        for need in needs {
            dependents[*need as usize].push(task_index(task));
        }
    }
    dependents
}

fn plan(graph: Graph, drafts: Drafts, header: Header) -> Plan {
    let phases = phase_plans(&graph, &drafts);
    let links = reversed(&graph.needs).into_iter().zip(graph.needs);
    let tasks = drafts.tasks.into_iter().zip(links).map(|(draft, (dependents, needs))| {
        let needs_phases = draft.plan.phase.map(|phase| graph.phase_needs[phase as usize].clone()).unwrap_or_default();
        TaskPlan { needs, needs_phases, dependents, ..draft.plan }
    });
    Plan { name: header.name, input_schema: header.input_schema, output: header.output, phases, tasks: tasks.collect() }
}

fn phase_plans(graph: &Graph, drafts: &Drafts) -> Vec<PhasePlan> {
    let mut members: Vec<Vec<TaskIndex>> = vec![Vec::new(); drafts.phases.len()];
    for (index, draft) in drafts.tasks.iter().enumerate() {
        if let Some(phase) = draft.plan.phase {
            members[phase as usize].push(task_index(index));
        }
    }
    let count = |tasks: &Vec<TaskIndex>| u32::try_from(tasks.len()).expect("at most TASKS_MAX tasks");
    let mut plans: Vec<PhasePlan> = (drafts.phases.iter().zip(&members))
        .map(|(draft, tasks)| PhasePlan {
            name: draft.name.clone(),
            weight: draft.weight,
            task_count: count(tasks),
            dependents: Vec::new(),
        })
        .collect();
    for (needs, tasks) in graph.phase_needs.iter().zip(&members) {
        for need in needs {
            plans[*need as usize].dependents.extend(tasks);
        }
    }
    plans
}
