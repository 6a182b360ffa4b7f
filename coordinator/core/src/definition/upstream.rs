//! What a task may read: only tasks that have ended before it starts.

use super::document::Drafts;
use super::fields::{Read, Reader, shortened};
use super::graph::Graph;
use super::problem::Problem;
use super::tasks::Draft;
use crate::plan::TaskIndex;
use std::collections::HashSet;

/// Tasks visited in one pass while looking for distant upstreams; a task named in `needs` costs nothing.
const VISITS_MAX: usize = 1_000_000;

/// Checks every name that an expression reads.
pub(super) fn check_reads(reader: &mut Reader, graph: &Graph, drafts: &Drafts) {
    for read in &drafts.output_reads {
        resolve(reader, graph, (read, drafts));
    }
    let mut visits_left = VISITS_MAX;
    for (index, draft) in drafts.tasks.iter().enumerate() {
        if draft.reads.is_empty() {
            continue;
        }
        let needs: HashSet<TaskIndex> = graph.needs[index].iter().copied().collect();
        let mut distant: Vec<(&Read, TaskIndex)> = Vec::new();
        for read in &draft.reads {
            let Some(task) = resolve(reader, graph, (read, drafts)) else { continue };
            if task as usize == index {
                let message = format!("task `{}` reads itself: it can only read tasks that end before it starts", read.task);
                reader.problems.add(read.position, &read.path, message);
            } else if !needs.contains(&task) && !ends_before(graph, draft, &drafts.tasks[task as usize]) {
                distant.push((read, task));
            }
        }
        if !distant.is_empty() {
            check_distant(reader, graph, (index, &distant), &mut visits_left);
        }
    }
}

fn resolve(reader: &mut Reader, graph: &Graph, (read, drafts): (&Read, &Drafts)) -> Option<TaskIndex> {
    let found = graph.names.get(&read.task).copied();
    if found.is_none() {
        let message = format!(
            "an expression reads task `{}`, which does not exist: use the name of a task of this definition",
            shortened(&read.task)
        );
        let known = drafts.tasks.iter().map(|draft| draft.plan.name.as_str());
        reader.problems.add_unknown(Problem::at(read.position, &read.path, message), &read.task, known);
    }
    found
}

/// Whether the phase order says so.
fn ends_before(graph: &Graph, reading: &Draft, read: &Draft) -> bool {
    match (reading.plan.phase, read.plan.phase) {
        (Some(reading), Some(read)) => graph.reach[reading as usize].contains(read),
        (None, _) | (_, None) => false,
    }
}

/// Looks for tasks that are upstream of upstreams. One walk serves all reads of a task.
fn check_distant(reader: &mut Reader, graph: &Graph, (index, distant): (usize, &[(&Read, TaskIndex)]), visits_left: &mut usize) {
    let earliest = distant.iter().map(|(_, task)| graph.order[*task as usize]).min().unwrap_or(0);
    let mut seen: HashSet<TaskIndex> = HashSet::new();
    let mut open: Vec<TaskIndex> = graph.needs[index].clone();
    while let Some(task) = open.pop() {
        if graph.order[task as usize] < earliest || !seen.insert(task) {
            continue;
        }
        *visits_left = visits_left.saturating_sub(1);
        if *visits_left == 0 {
            break;
        }
        open.extend(&graph.needs[task as usize]);
    }
    for (read, _) in distant.iter().filter(|(_, task)| !seen.contains(task)) {
        let why = if *visits_left == 0 { "lies too far upstream to be found" } else { "need not have ended by then" };
        let message = format!("task `{}` is read, but {why}: add it to `needs`", read.task);
        reader.problems.add(read.position, &read.path, message);
    }
}
