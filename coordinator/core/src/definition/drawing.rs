//! A plan as a Mermaid flowchart.

use crate::plan::{Plan, TaskIndex, TaskKind, TaskPlan};
use std::fmt::Write as _;

/// The plan as the text of a Mermaid flowchart: a subgraph for each phase, an arrow for each `needs`.
#[must_use]
pub fn mermaid(plan: &Plan) -> String {
    let mut text = "flowchart TD\n".to_owned();
    for (index, phase) in plan.phases.iter().enumerate() {
        line(&mut text, format_args!("  subgraph p{index}[\"{}\"]", escaped(&phase.name)));
        for (task, number) in plan.tasks.iter().zip(0..).filter(|(task, _)| task.phase.is_some_and(|phase| phase as usize == index)) {
            line(&mut text, format_args!("    {}", node(task, number)));
        }
        line(&mut text, format_args!("  end"));
    }
    for (task, number) in plan.tasks.iter().zip(0..).filter(|(task, _)| task.phase.is_none()) {
        line(&mut text, format_args!("  {}", node(task, number)));
    }
    arrows(&mut text, plan);
    text
}

fn arrows(text: &mut String, plan: &Plan) {
    let mut drawn = std::collections::BTreeSet::new();
    for task in &plan.tasks {
        for need in &task.needs_phases {
            if let Some(phase) = task.phase.filter(|phase| drawn.insert((*need, *phase))) {
                line(text, format_args!("  p{need} --> p{phase}"));
            }
        }
    }
    for (task, number) in plan.tasks.iter().zip(0..) {
        let number: TaskIndex = number;
        for need in &task.needs {
            line(text, format_args!("  t{need} --> t{number}"));
        }
    }
}

fn node(task: &TaskPlan, number: TaskIndex) -> String {
    let name = escaped(&task.name);
    match &task.kind {
        TaskKind::Run { .. } => format!("t{number}[\"{name}\"]"),
        TaskKind::Handler { .. } => format!("t{number}[[\"{name}\"]]"),
        TaskKind::Sleep { .. } => format!("t{number}([\"{name}\"])"),
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("writing to a string cannot fail");
}

/// Everything that could end a label or start markup becomes a character code.
fn escaped(label: &str) -> String {
    let plain = |sign: char| sign.is_alphanumeric() || " -_.".contains(sign);
    label.chars().map(|sign| if plain(sign) { sign.to_string() } else { format!("#{};", u32::from(sign)) }).collect()
}
