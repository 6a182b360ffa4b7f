//! What is accepted, and what it becomes.

use super::super::{SingleTask, check_input, default_retry, mermaid, plan_hash, single_task};
use super::{parsed, refused};
use crate::expression::{Scope, Steps, TaskView, evaluate, reads};
use crate::plan::{LargeValues, Plan, RetryPolicy, TaskKind};
use orchestr8_proto::words::Priority;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const PHASES: &str = r#"
name: quality gates
description: What it is for
input: {type: object, required: [path], properties: {path: {type: string}}}
output: {report: "${{ tasks.report.output }}"}
phases:
  - name: collect
    tasks:
      - {name: files, run: "git ls-files", env: {DIR: "${{ input.path }}", DEPTH: 3}, workdir: /srv/repo, large_values: file}
  - name: gates
    weight: 2.5
    tasks:
      - name: format
        handler: fmt
        with: {files: "${{ tasks.files.output }}", deep: [{a: "${{ has(input.x) ? 1 : 2 }}"}]}
        retry: {max_attempts: 5, initial_interval: 500ms, non_retryable: [bad_input]}
        timeout: 1h30m
        priority: high
        queue: gates
        continue_on_failure: true
      - {name: pause, sleep: 90, needs: [format]}
  - name: aside
    needs: []
    tasks: [{name: ping, handler: noop, at_most_once: true, agent_name: pinger}]
  - name: report
    needs: [gates, aside]
    tasks:
      - {name: report, handler: join, prompt: "Join ${{ tasks.format.status }} of ${{ tasks.files.output }}"}
"#;

#[test]
fn phases_become_barriers_not_edges() {
    let parsed = parsed(PHASES);
    let plan = &parsed.plan;
    assert_eq!((plan.name.as_str(), parsed.description.as_deref()), ("quality gates", Some("What it is for")));
    let needs: Vec<_> =
        plan.tasks.iter().map(|task| (task.phase, task.needs.clone(), task.needs_phases.clone(), task.dependents.clone())).collect();
    assert_eq!(
        needs,
        [
            (Some(0), vec![], vec![], vec![]),
            (Some(1), vec![], vec![0], vec![2]),
            (Some(1), vec![1], vec![0], vec![]),
            (Some(2), vec![], vec![], vec![]),
            (Some(3), vec![], vec![1, 2], vec![]),
        ]
    );
    let phases: Vec<_> =
        plan.phases.iter().map(|phase| (phase.name.as_str(), phase.weight, phase.task_count, phase.dependents.clone())).collect();
    assert_eq!(
        phases,
        [("collect", 1.0, 1, vec![1, 2]), ("gates", 2.5, 2, vec![4]), ("aside", 1.0, 1, vec![4]), ("report", 1.0, 1, vec![])]
    );
    assert_eq!(reads(plan.task(4).prompt.as_ref().expect("a prompt"), plan), [0, 1]);
}

#[test]
fn every_key_reaches_the_plan() {
    let plan = parsed(PHASES).plan;
    let format = plan.task(1);
    assert_eq!(format.kind, TaskKind::Handler { name: "fmt".to_owned() });
    let retry = RetryPolicy {
        max_attempts: 5,
        initial_interval: Duration::from_millis(500),
        non_retryable: vec!["bad_input".to_owned()],
        ..RetryPolicy::none()
    };
    assert_eq!(format.retry, retry);
    assert_eq!((format.timeout, format.priority, format.queue.as_str()), (Some(Duration::from_mins(90)), Priority::High, "gates"));
    assert!(format.continue_on_failure && !format.at_most_once);
    assert_eq!(plan.task(2).kind, TaskKind::Sleep { duration: Duration::from_secs(90) });
    assert_eq!(plan.task(2).retry.max_attempts, 1);
    let files = plan.task(0);
    assert_eq!((files.workdir.as_deref(), files.retry.max_attempts, files.queue.as_str()), (Some("/srv/repo"), 3, "default"));
    assert_eq!(files.env["DEPTH"].0, json!(3));
    assert_eq!((files.large_values, format.large_values), (LargeValues::File, LargeValues::Refused));
    let ping = plan.task(3);
    assert_eq!((ping.at_most_once, ping.retry.max_attempts), (true, 1));
    let agents: Vec<_> = plan.tasks.iter().map(|task| task.agent_name.as_str()).collect();
    assert_eq!(agents, ["run", "fmt", "sleep", "pinger", "join"]);
}

#[test]
fn json_and_yaml_are_the_same_language() {
    let yaml = parsed(
        "name: w\ntasks:\n  - name: a\n    run: |\n      echo \"é😀\"\n    with: {big: 18446744073709551615, low: -9223372036854775808, half: 0.5, no: null}\n    retry: 7\n",
    );
    let json = json!({"name": "w", "tasks": [{"name": "a", "run": "echo \"é😀\"\n", "retry": 7,
        "with": {"big": u64::MAX, "low": i64::MIN, "half": 0.5, "no": null}}]});
    assert_eq!(parsed(&json.to_string()), yaml);
    assert_eq!(parsed(&serde_json::to_string_pretty(&json).expect("JSON").replace("  ", "\t")), yaml);
    let escaped = json.to_string().replace('é', "\\u00e9").replace('😀', "\\ud83d\\ude00").replace("half", "h\\u0061lf");
    assert_eq!(parsed(&escaped), yaml);
    assert_eq!(yaml.plan.task(0).with["big"].0, json!(u64::MAX));
}

#[test]
fn aliases_repeat_values() {
    let plan = parsed("name: w\ntasks:\n- {name: a, run: x, retry: &r {max_attempts: 4}}\n- {name: b, run: x, retry: *r}\n").plan;
    assert_eq!(plan.task(1).retry.max_attempts, 4);
}

#[test]
fn distant_upstreams_can_be_read() {
    let plan = parsed(
        "name: w\ntasks:\n- {name: a, run: x}\n- {name: b, run: x, needs: [a]}\n- {name: c, run: x, needs: [b]}\n- {name: d, run: x, needs: [c], env: {A: '${{ tasks.a.output }}'}}\n",
    );
    assert_eq!(reads(&plan.plan.task(3).env["A"], &plan.plan), [0]);
}

#[test]
fn ten_thousand_tasks_are_fine() {
    let task = |task: usize| match task.checked_sub(1) {
        None => "- {name: t0, handler: noop}\n".to_owned(),
        Some(up) => format!("- {{name: t{task}, handler: noop, needs: [t{up}], with: {{up: '${{{{ tasks.t{up}.output.x }}}}'}}}}\n"),
    };
    let source = format!("name: chain\ntasks:\n{}", (0..10_000).map(task).collect::<Vec<_>>().concat());
    let plan = parsed(&source).plan;
    assert_eq!(plan.tasks.len(), 10_000);
    assert_eq!(plan.task(9_999).needs, [9_998]);
}

#[test]
fn the_hash_is_of_the_content() {
    let plan = parsed(PHASES).plan;
    assert_eq!(plan_hash(&plan), plan_hash(&parsed(&PHASES.replace("{name: ping, handler: noop", "{handler: noop, name: ping")).plan));
    assert_ne!(plan_hash(&plan), plan_hash(&parsed(&PHASES.replace("git ls-files", "git ls-file")).plan));
    let stored: Plan = serde_json::from_value(json!(plan)).expect("a plan survives storage");
    assert_eq!((plan_hash(&stored), stored), (plan_hash(&plan), plan));
}

#[test]
fn what_a_definition_does_not_say_is_not_stored_and_is_read_again() {
    let plan = parsed("name: x\ntasks:\n- {name: a, handler: noop}\n- {name: b, sleep: 1s}\n").plan;
    let stored = json!(plan);
    assert_eq!(stored["tasks"][0], json!({"name": "a", "kind": {"handler": {"name": "noop"}}, "agent_name": "noop"}));
    assert_eq!(stored["tasks"][1]["retry"]["max_attempts"], 1, "not what most kinds have");
    let mut spelled_out = stored.clone();
    let retry = json!({"max_attempts": 3, "initial_interval": {"secs": 1, "nanos": 0}, "backoff_coefficient": 2.0,
        "max_interval": {"secs": 300, "nanos": 0}, "jitter": 0.1});
    for (key, value) in [("retry", retry), ("priority", json!("normal")), ("queue", json!("default")), ("at_most_once", json!(false))] {
        spelled_out["tasks"][0][key] = value;
    }
    for read in [stored, spelled_out] {
        assert_eq!(serde_json::from_value::<Plan>(read).expect("a plan"), plan);
    }
}

#[test]
fn inputs_are_checked_with_a_pointer() {
    let plan = parsed(PHASES).plan;
    assert_eq!(check_input(&plan, &json!({"path": "/x"})), Ok(()));
    let problems = check_input(&plan, &json!({"path": 5})).expect_err("refused");
    assert_eq!((problems.len(), problems[0].pointer.as_str()), (1, "/path"));
    assert_eq!(
        problems[0].to_string(),
        "input/path: 5 is not of type \"string\": write it in quotes, \"5\" (on a command line: --input 'path=\"5\"')"
    );
    let whole = check_input(&plan, &json!(5)).expect_err("refused");
    assert_eq!(whole[0].message, "5 is not of type \"object\": write it as {\"NAME\": VALUE}");
    let long = check_input(&plan, &json!({"path": ["ü".repeat(1_000)]})).expect_err("refused");
    assert_eq!(long[0].message, format!("[\"{}… is not of type \"string\"", "ü".repeat(78)));
    assert_eq!(check_input(&plan, &json!({})).expect_err("refused")[0].pointer, "");
}

#[test]
fn a_schema_that_never_ends_is_refused() {
    let doubling = |level: u32| format!(", d{level}: {{allOf: [{{$ref: '#/$defs/d{0}'}}, {{$ref: '#/$defs/d{0}'}}]}}", level - 1);
    let doubling = (1..40).map(doubling).collect::<Vec<_>>().concat();
    for (schema, expected) in [
        ("{$ref: '#'}".to_owned(), "leads back to itself"),
        (
            "{allOf: [{$ref: '#/$defs/a'}], $defs: {a: {items: {$ref: '#/$defs/b'}}, b: {$ref: '#/$defs/a'}}}".to_owned(),
            "leads back to itself",
        ),
        (format!("{{$ref: '#/$defs/d39', $defs: {{d0: {{type: object}}{doubling}}}}}"), "more than 5000 values"),
        ("{$dynamicRef: '#a'}".to_owned(), "`$dynamicRef` is not supported"),
        ("{pattern: '(?=a)'}".to_owned(), "input.pattern: `(?=a)` is not a regular expression here"),
    ] {
        let problems = refused(&format!("name: w\ninput: {schema}\ntasks: [{{name: a, run: x}}]"));
        assert!(problems.len() == 1 && problems[0].contains(expected), "{problems:?}");
    }
    let shared = "{properties: {a: {$ref: '#/$defs/s'}, b: {$ref: '#/$defs/s'}}, $defs: {s: {type: string, pattern: '^x'}}}";
    let plan = parsed(&format!("name: w\ninput: {shared}\ntasks: [{{name: a, run: x}}]")).plan;
    assert_eq!(check_input(&plan, &json!({"a": "x", "b": 5})).expect_err("refused")[0].pointer, "/b");
}

#[test]
fn drawings_escape_their_labels() {
    let plan = parsed(PHASES).plan;
    let drawing = mermaid(&plan);
    for line in [
        "flowchart TD",
        "  subgraph p1[\"gates\"]",
        "    t0[\"files\"]",
        "    t1[[\"format\"]]",
        "    t2([\"pause\"])",
        "  p0 --> p1",
        "  t1 --> t2",
    ] {
        assert!(drawing.lines().any(|drawn| drawn == line), "{line}\n{drawing}");
    }
    let mut hostile = plan;
    hostile.tasks[0].name = "a\"]\nclick <b>".to_owned();
    assert!(mermaid(&hostile).contains("t0[\"a#34;#93;#10;click #60;b#62;\"]"));
}

fn single(kind: TaskKind) -> SingleTask {
    SingleTask {
        kind,
        with_keys: Vec::new(),
        env_keys: Vec::new(),
        has_prompt: false,
        retry: None,
        timeout: None,
        at_most_once: false,
        priority: Priority::Normal,
        queue: None,
        workdir: None,
        large_values: None,
        agent_name: None,
    }
}

#[test]
fn a_single_task_takes_its_values_as_data() {
    let key = "a \"quoted\" \\ key";
    let task = SingleTask {
        with_keys: vec![key.to_owned()],
        env_keys: vec!["A".to_owned()],
        has_prompt: true,
        ..single(TaskKind::Run { script: "x".to_owned() })
    };
    let plan = single_task(task).expect("valid");
    let hostile = "${{ tasks.task.output }}";
    let input = json!({"with": {key: hostile}, "env": {"A": hostile}, "prompt": hostile});
    let scope = Scope { input: &input, workflow: &json!({}), tasks: &BTreeMap::<String, TaskView>::new() };
    for template in [&plan.task(0).with[key], &plan.task(0).env["A"], plan.task(0).prompt.as_ref().expect("a prompt")] {
        assert_eq!(evaluate(template, &scope, &Steps::default()), Ok(json!(hostile)));
    }
    assert_eq!((plan.name.as_str(), plan.task(0).agent_name.as_str(), plan.task(0).retry.max_attempts), ("task", "run", 3));
}

#[test]
fn a_single_task_obeys_the_rules_of_definitions() {
    let run = TaskKind::Run { script: "echo ${{ x }}".to_owned() };
    let task = SingleTask {
        retry: Some(RetryPolicy { max_attempts: 2, jitter: 3.0, ..RetryPolicy::none() }),
        at_most_once: true,
        queue: Some("A".to_owned()),
        workdir: Some("x".to_owned()),
        env_keys: vec!["1".to_owned()],
        ..single(run)
    };
    let fields: Vec<String> = single_task(task).expect_err("refused").into_iter().map(|problem| problem.field).collect();
    assert_eq!(fields, ["retry.jitter", "retry.max_attempts", "run", "env.1", "queue", "workdir"]);
    let sleep = SingleTask { timeout: Some(Duration::from_secs(1)), ..single(TaskKind::Sleep { duration: Duration::from_secs(1) }) };
    assert_eq!(single_task(sleep).expect_err("refused")[0].field, "timeout");
    let once = SingleTask { at_most_once: true, ..single(TaskKind::Handler { name: "noop".to_owned() }) };
    assert_eq!(single_task(once).expect("valid").task(0).retry, RetryPolicy::none());
    assert_eq!(default_retry(&TaskKind::Handler { name: "noop".to_owned() }).max_attempts, 3);
}
