//! What holds for every text and every valid definition.

use super::super::{DURATION_MAX, format_duration, parse, parse_duration, plan_hash};
use super::parsed;
use crate::plan::Plan;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

proptest! {
    #[test]
    fn any_text_is_a_plan_or_problems(text in "\\PC{0,200}") {
        if let Err(problems) = parse(&text) {
            prop_assert!(!problems.0.is_empty());
            prop_assert!(problems.0.iter().all(|problem| problem.line > 0 && problem.column > 0));
        }
    }

    #[test]
    fn any_soup_of_keys_is_a_plan_or_problems(parts in proptest::collection::vec(part(), 0..40)) {
        let _parsed = parse(&parts.concat());
    }

    #[test]
    fn any_json_is_a_plan_or_problems(value in any_document()) {
        let _parsed = parse(&value.to_string());
    }

    #[test]
    fn valid_definitions_are_acyclic_and_their_links_agree(definition in valid_definition()) {
        let plan = parsed(&definition.to_string()).plan;
        prop_assert_eq!(plan.tasks.len(), tasks_of(&definition));
        links_agree(&plan)?;
        prop_assert!(ends(&plan), "some task waits forever");
        let stored: Plan = serde_json::from_str(&serde_json::to_string(&plan).expect("JSON")).expect("a plan");
        prop_assert_eq!(plan_hash(&stored), plan_hash(&plan));
    }

    #[test]
    fn durations_survive_printing(ms in 0..=u64::try_from(DURATION_MAX.as_millis()).expect("fits")) {
        let duration = Duration::from_millis(ms);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }

    #[test]
    fn any_text_is_a_duration_or_an_error(text in "[0-9dhms .\\-+]{0,12}") {
        if let Ok(duration) = parse_duration(&text) {
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }
}

#[test]
fn durations_are_written_in_one_way() {
    for (text, ms) in [
        ("90s", 90_000),
        ("2h", 7_200_000),
        ("1h30m", 5_400_000),
        ("500ms", 500),
        ("3d", 259_200_000),
        ("90", 90_000),
        ("1d2h3m4s5ms", 93_784_005),
        ("0s", 0),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
    }
    for text in
        ["", "s", "1.5h", "-1s", "1 h", "30m1h", "1h1h", "1w", "1H", "99999999999999999999d", "3651d", "18446744073709551615", "1h30"]
    {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

fn part() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "name: ",
        "tasks:\n",
        "phases:\n",
        "- ",
        "  ",
        "    ",
        "\n",
        "run: ",
        "x",
        "needs: [",
        "]",
        "{",
        "}",
        "a",
        ", ",
        "retry: ",
        "${{ ",
        "}}",
        "tasks.a.output",
        "&a ",
        "*a",
        "|\n",
        ">\n",
        "'",
        "\"",
        ": ",
        "? ",
        "!t ",
        "---\n",
        "...\n",
        "#",
        "5s",
        "sleep: ",
        "with:\n",
        "%",
        "@",
        "\t",
        "\u{feff}",
        "é",
        "\0",
        "\r\n",
        "input: ",
    ])
}

/// JSON with the keys of definitions and values of any type.
fn any_document() -> impl Strategy<Value = Value> {
    let keys = [
        "name",
        "tasks",
        "phases",
        "needs",
        "run",
        "handler",
        "sleep",
        "with",
        "env",
        "prompt",
        "retry",
        "max_attempts",
        "timeout",
        "input",
        "output",
        "weight",
        "priority",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c${}. ]{0,8}".prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(proptest::sample::select(keys.to_vec()), inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

/// Tasks that need earlier ones, flat or in phases.
fn valid_definition() -> impl Strategy<Value = Value> {
    let links = proptest::collection::vec(proptest::collection::vec(any::<prop::sample::Index>(), 0..4), 1..20);
    (links, 0usize..4).prop_map(|(links, phases)| {
        let tasks: Vec<Value> = links.iter().enumerate().map(|(index, needs)| task(index, needs)).collect();
        if phases == 0 {
            return json!({"name": "w", "tasks": tasks});
        }
        let named = |(index, tasks)| json!({"name": format!("p{index}"), "tasks": tasks});
        let phases: Vec<Value> = tasks.chunks(tasks.len().div_ceil(phases)).enumerate().map(named).collect();
        json!({"name": "w", "phases": phases})
    })
}

/// A task that needs and reads some of those before it.
fn task(index: usize, needs: &[prop::sample::Index]) -> Value {
    let earlier = if index == 0 { &[] } else { needs };
    let needs: BTreeSet<usize> = earlier.iter().map(|need| need.index(index)).collect();
    let names: Vec<String> = needs.iter().map(|need| format!("t{need}")).collect();
    let with: Vec<String> = names.iter().map(|name| format!("${{{{ tasks.{name}.output }}}}")).collect();
    json!({"name": format!("t{index}"), "handler": "noop", "needs": names, "with": {"all": with}})
}

fn tasks_of(definition: &Value) -> usize {
    let count = |value: &Value| value["tasks"].as_array().map_or(0, Vec::len);
    count(definition) + definition["phases"].as_array().map_or(0, |phases| phases.iter().map(count).sum())
}

fn links_agree(plan: &Plan) -> Result<(), TestCaseError> {
    for (index, task) in (0..).zip(&plan.tasks) {
        for need in &task.needs {
            prop_assert!(plan.task(*need).dependents.contains(&index));
        }
        for dependent in &task.dependents {
            prop_assert!(plan.task(*dependent).needs.contains(&index));
        }
        for phase in &task.needs_phases {
            prop_assert!(plan.phases[*phase as usize].dependents.contains(&index));
        }
    }
    for (index, phase) in (0..).zip(&plan.phases) {
        prop_assert_eq!(phase.task_count as usize, plan.tasks.iter().filter(|task| task.phase == Some(index)).count());
        for dependent in &phase.dependents {
            prop_assert!(plan.task(*dependent).needs_phases.contains(&index));
        }
    }
    Ok(())
}

/// Runs every task as soon as nothing is left that it waits for.
fn ends(plan: &Plan) -> bool {
    let mut ended = vec![false; plan.tasks.len()];
    for _round in &plan.tasks {
        let phase_ended =
            |phase: u32, ended: &[bool]| plan.tasks.iter().zip(ended).all(|(task, ended)| task.phase != Some(phase) || *ended);
        for (index, task) in plan.tasks.iter().enumerate() {
            ended[index] |=
                task.needs.iter().all(|need| ended[*need as usize]) && task.needs_phases.iter().all(|phase| phase_ended(*phase, &ended));
        }
    }
    ended.into_iter().all(|ended| ended)
}
