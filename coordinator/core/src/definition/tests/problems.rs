//! What is refused, with which words, and where.

use super::super::{Problem, SOURCE_BYTES_MAX, parse};
use super::refused;

/// A task with these lines after its name, and one to need.
fn task_with(lines: &str) -> String {
    format!("name: w\ntasks:\n  - name: first\n    handler: noop\n  - name: t\n    {}\n", lines.replace('\n', "\n    "))
}

/// The only problem of a definition.
fn only(source: &str) -> String {
    let problems = refused(source);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.into_iter().next().expect("one")
}

#[test]
fn five_mistakes_are_five_messages_with_line_column_and_suggestion() {
    let source = "\
name: release
tasks:
  - name: build
    run: make
    retries: 3
  - name: test
    needs: [biuld]
    run: make test
    priority: hihg
  - name: publish
    needs: [test]
    handler: noop
    timeout: 2 hours
    with:
      url: ${{ tasks.bulid.output.url }}
";
    let Err(problems) = parse(source) else { panic!("accepted") };
    let found: Vec<_> = problems.0.iter().map(|p| (p.line, p.column, p.path.as_str(), p.suggestion.as_deref())).collect();
    assert_eq!(
        found,
        [
            (5, 5, "tasks[0].retries", Some("retry")),
            (7, 13, "tasks[1].needs", Some("build")),
            (9, 15, "tasks[1].priority", Some("high")),
            (13, 14, "tasks[2].timeout", None),
            (15, 12, "tasks[2].with.url", Some("build")),
        ]
    );
    let lines: Vec<String> = problems.to_string().lines().map(str::to_owned).collect();
    assert_eq!(
        lines[1],
        "7:13 tasks[1].needs: there is no task `biuld`: use the name of a task of this definition (did you mean `build`?)"
    );
    assert_eq!(
        lines[3],
        "13:14 tasks[2].timeout: `2 hours` is not a duration: write it as 90s, 2h, 1h30m, 500ms or 3d (units d, h, m, s, ms from large to small)"
    );
}

#[test]
fn every_key_works_or_is_refused_with_its_line() {
    for (lines, expected) in [
        ("run: echo\nwhen: true", "7:5 tasks[1].when: `when` is not yet supported: remove it"),
        ("agent: claude", "6:5 tasks[1].agent: `agent` is not yet supported: remove it"),
        ("run: echo\nhandler: noop", "7:5 tasks[1].handler: the task has run and handler: use exactly one of run, handler, sleep"),
        ("needs: [first]", "5:5 tasks[1]: the task does nothing: add one of run, handler, sleep"),
        ("sleep: 5s\nretry: 2", "7:5 tasks[1].retry: `retry` has no effect on a `sleep` task: remove it"),
        ("sleep: 5s\nqueue: gpu", "7:5 tasks[1].queue: `queue` has no effect on a `sleep` task: remove it"),
        ("handler: noop\nenv: {A: b}", "7:5 tasks[1].env: `env` has no effect on a `handler` task: remove it"),
        (
            "run: 'echo ${{ input.x }}'",
            "6:10 tasks[1].run: a script cannot contain an expression: pass the value in `env` and read it as \"$NAME\", or read $ORCHESTR8_INPUT",
        ),
        ("run: ' '", "6:10 tasks[1].run: the script is empty: write at least one command"),
        ("run: [a, b]", "6:10 tasks[1].run: this is a list, expected is a string"),
        ("run: 5", "6:10 tasks[1].run: this is the number 5, expected is a string (put it in quotes)"),
        ("sleep: 0", "6:12 tasks[1].sleep: a duration of zero makes no sense here: use at least 1ms, or leave the key out"),
        ("sleep: 4000d", "6:12 tasks[1].sleep: `4000d` is too long: the limit is 3650d"),
        ("sleep: ${{ input.x }}", "6:12 tasks[1].sleep: a duration cannot be an expression yet: write it as 90s, 2h or 1h30m"),
        (
            "run: echo\nqueue: GPU",
            "7:12 tasks[1].queue: `GPU` is not a queue name: use 1 to 64 of a-z, 0-9, `-` and `_`, starting with a letter or digit",
        ),
        ("run: echo\nworkdir: src", "7:14 tasks[1].workdir: `src` is not absolute: start it with `/`"),
        ("run: echo\nworkdir: /a/../b", "7:14 tasks[1].workdir: `/a/../b` contains `..`: write the directory that is meant"),
        (
            "run: echo\nlarge_values: drop",
            "7:19 tasks[1].large_values: `drop` is not known: write `file` when the script reads $ORCHESTR8_INPUT, or leave the key out",
        ),
        ("handler: noop\nlarge_values: file", "7:5 tasks[1].large_values: `large_values` has no effect on a `handler` task: remove it"),
        (
            "run: echo\nenv: {1A: b}",
            "7:11 tasks[1].env.1A: `1A` is not the name of an environment variable: use letters, digits and `_`, not starting with a digit",
        ),
        (
            "run: echo\nenv: {ORCHESTR8_OUTPUT: b}",
            "7:11 tasks[1].env.ORCHESTR8_OUTPUT: `ORCHESTR8_OUTPUT` is reserved: names that start with ORCHESTR8_ are set by the executor",
        ),
        ("run: echo\nenv: {A: [1]}", "7:14 tasks[1].env.A: this is a list, expected is a string, a number or a boolean"),
        ("run: echo\nretry: {max_attempts: 0}", "7:27 tasks[1].retry.max_attempts: 0 is out of bounds: use 1 to 1000"),
        ("run: echo\nretry: 1001", "7:12 tasks[1].retry.max_attempts: 1001 is out of bounds: use 1 to 1000"),
        ("run: echo\nretry: {jitter: 2}", "7:21 tasks[1].retry.jitter: 2 is out of bounds: use 0 to 1"),
        (
            "run: echo\nretry: {backoff_coefficient: .nan}",
            "7:34 this number is not finite, which JSON cannot hold: give a number or a string in quotes",
        ),
        (
            "run: echo\nat_most_once: true\nretry: 2",
            "8:12 tasks[1].retry.max_attempts: 2 attempts contradict `at_most_once`: use 1, or remove `at_most_once`",
        ),
        ("run: echo\nat_most_once: yes", "7:19 tasks[1].at_most_once: this is a string, expected is true or false"),
        ("run: echo\nneeds: first", "7:12 tasks[1].needs: this is a string, expected is a list of names, such as [build, test]"),
        ("run: echo\nneeds: [first, first]", "7:20 tasks[1].needs[1]: `first` is named twice: remove one"),
        ("run: echo\nneeds: [t]", "7:13 tasks[1].needs: task `t` needs itself: remove it from its `needs`"),
        ("run: echo\nprompt: ${{ 1 + }}", "7:13 tasks[1].prompt: expression `1 +` is not valid"),
        (
            "run: echo\nprompt: ${{ tasks.first.output }}",
            "7:13 tasks[1].prompt: task `first` is read, but need not have ended by then: add it to `needs`",
        ),
        (
            "run: echo\nprompt: ${{ tasks.t.output }}",
            "7:13 tasks[1].prompt: task `t` reads itself: it can only read tasks that end before it starts",
        ),
        ("run: echo\nrun: true", "7:5 `run` is given twice, first at line 6: keep one of them"),
    ] {
        let problem = refused(&task_with(lines)).join("\n");
        assert!(problem.starts_with(expected) && !problem.contains('\n'), "{lines}\n  got      {problem}\n  expected {expected}");
    }
}

#[test]
fn the_document_itself_is_checked() {
    for (source, expected) in [
        ("", "1:1 the definition is empty: write a mapping with name and tasks"),
        ("name: w", "1:1 the workflow has no tasks: add `tasks`, or `phases` with tasks"),
        ("name: w\ntasks: []", "2:8 tasks: the list is empty: add at least one task"),
        ("tasks: [{name: a, run: x}]", "1:1 name: the workflow has no name: add `name`"),
        (
            "name: -x\ntasks: [{name: a, run: x}]",
            "1:7 name: `-x` is not a name: use 1 to 128 letters, digits, `-`, `_`, `.` and spaces, starting with a letter or digit",
        ),
        (
            "name: w\ntask: [{name: a, run: x}]\ntasks: [{name: a, run: x}]",
            "2:1 task: unknown key `task`: use one of name, description, input, output, phases, tasks (did you mean `tasks`?)",
        ),
        (
            "name: w\ntasks: [{name: a, run: x}, {name: b, run: x, depends_on: [a]}]",
            "2:46 tasks[1].depends_on: unknown key `depends_on`: use one of name, run, handler, sleep, needs, with, env, prompt, \
             retry, timeout, continue_on_failure, at_most_once, priority, queue, workdir, large_values, agent_name (did you mean `needs`?)",
        ),
        ("name: w\nschedule: daily\ntasks: [{name: a, run: x}]", "2:1 schedule: `schedule` is not yet supported: remove it"),
        ("name: w\ntasks: [{name: a, run: x}]\nphases: []", "2:1 tasks: `tasks` and `phases` are both given: use exactly one of them"),
        (
            "name: w\ntasks: [{name: a, run: x}, {name: a, run: x}]",
            "2:35 tasks[1].name: the task name `a` is taken by line 2: rename one of them",
        ),
        (
            "name: w\ninput: {type: strin}\ntasks: [{name: a, run: x}]",
            "2:15 input.type: `strin` is not a type of JSON Schema: use one of array, boolean, integer, null, number, object, string (did you mean `string`?)",
        ),
        (
            "name: w\ninput: {$ref: 'http://127.0.0.1:1/x'}\ntasks: [{name: a, run: x}]",
            "2:15 input.$ref: `$ref: http://127.0.0.1:1/x` is not in this schema: use a path such as #/$defs/name; other documents are not fetched",
        ),
        (
            "name: w\noutput: ${{ tasks.b.output }}\ntasks: [{name: a, run: x}]",
            "2:9 output: an expression reads task `b`, which does not exist",
        ),
        ("name: w\ntasks: [{name: a, run: x}", "3:1 this is not YAML: "),
        ("name: w\n\ttasks: [{name: a, run: x}]", "2:1 this is not YAML: the line is indented with a tab ("),
        ("name: w\n---\nname: v", "2:1 a second document starts here"),
        ("name: &a [*a]", "1:11 an alias cannot stand inside its own anchor"),
        ("name: !secret w\ntasks: [{name: a, run: x}]", "1:7 the tag `!secret` has no meaning here: remove it"),
        ("name: w\ntasks:\n  - <<: {run: x}\n    name: a\n    run: x", "3:5 merge keys (`<<`) are not supported"),
        ("[1, 2]", "1:1 this is a list, expected is a mapping with name and tasks, or name and phases"),
        ("? [a]\n: b", "1:3 a key must be plain text"),
    ] {
        let problem = only(source);
        assert!(problem.starts_with(expected), "{source}\n  got      {problem}\n  expected {expected}");
    }
}

#[test]
fn graphs_are_checked() {
    let cycle = "name: w\ntasks:\n- {name: z, run: x, needs: [a]}\n- {name: a, run: x, needs: [c]}\n- {name: b, run: x, needs: [a]}\n- {name: c, run: x, needs: [b]}\n";
    assert_eq!(only(cycle), "4:10 tasks[1].needs: the tasks wait for each other: a -> c -> b -> a: remove one of these `needs`");
    let phases = |needs: &str, task: &str| {
        format!(
            "name: w\nphases:\n- name: p\n  tasks: [{{name: a, run: x}}]\n- name: q\n{needs}  tasks: [{{name: b, run: x{task}}}]\n- name: r\n  tasks: [{{name: c, run: x}}]\n"
        )
    };
    for (needs, task, expected) in [
        ("", ", needs: [c]", "6:37 phases[1].tasks[0].needs: task `c` is in phase `r`, which has not ended when this phase starts"),
        (
            "  needs: []\n",
            ", needs: [a]",
            "7:37 phases[1].tasks[0].needs: task `a` is in phase `p`, which has not ended when this phase starts",
        ),
        (
            "  needs: []\n",
            ", prompt: '${{ tasks.a.output }}'",
            "7:37 phases[1].tasks[0].prompt: task `a` is read, but need not have ended by then",
        ),
        ("  needs: [r]\n", "", "6:11 phases[1].needs: phase `r` does not come before `q`: move it up, or remove it from `needs`"),
        ("  needs: [q]\n", "", "6:11 phases[1].needs: phase `q` does not come before `q`"),
        ("  needs: [pp]\n", "", "6:11 phases[1].needs: there is no phase `pp`: use the name of an earlier phase (did you mean `p`?)"),
        ("  weight: 0\n", "", "6:11 phases[1].weight: the weight 0 is not positive: use a number above 0"),
        ("  when: x\n", "", "6:3 phases[1].when: `when` is not yet supported: remove it"),
    ] {
        let problem = only(&phases(needs, task));
        assert!(problem.starts_with(expected), "{needs}{task}\n  got      {problem}\n  expected {expected}");
    }
}

#[test]
fn hostile_texts_end_in_one_problem() {
    let bomb = (0..30).fold("a0: &a0 [x]\n".to_owned(), |text, level| {
        let next = level + 1;
        text + &format!("a{next}: &a{next} [*a{level}, *a{level}, *a{level}, *a{level}]\n")
    });
    assert!(refused(&bomb).iter().any(|problem| problem.contains("aliases resolved")));
    let deep = format!("name: {}1{}", "[".repeat(200), "]".repeat(200));
    assert!(refused(&deep).iter().any(|problem| problem.contains("levels deep")));
    let deep_block = (0..200).map(|level| " ".repeat(level) + "a:").collect::<Vec<_>>().join("\n");
    assert!(refused(&deep_block).iter().any(|problem| problem.contains("levels deep")));
    let chained = (0..70).fold("a0: &a0 [x]\n".to_owned(), |text, level| text + &format!("a{}: &a{} [*a{level}]\n", level + 1, level + 1));
    assert!(refused(&chained).iter().any(|problem| problem.contains("levels deep")));
    assert!(refused(&"x".repeat(SOURCE_BYTES_MAX + 1))[0].contains("the limit is 4194304"));
    let many = format!("name: w\ntasks:\n- name: a\n  run: x\n  prompt: \"{}\"", "${{ '12345678901234567890' + '1' }}".repeat(3000));
    assert!(refused(&many).iter().any(|problem| problem.contains("the limit is 65536")));
    let unknown = (0..200).map(|key| format!("k{key}: 1\n")).collect::<Vec<_>>().concat();
    assert_eq!(refused(&unknown).len(), super::super::PROBLEMS_MAX);
}

#[test]
fn the_search_for_distant_upstreams_is_bounded() {
    let task = |task: usize| format!("- {{name: t{task}, run: x, needs: [t{}], prompt: '${{{{ tasks.t0.output }}}}'}}\n", task - 1);
    let source = format!("name: w\ntasks:\n- {{name: t0, run: x}}\n{}", (1..3_000).map(task).collect::<Vec<_>>().concat());
    assert!(refused(&source)[0].ends_with("task `t0` is read, but lies too far upstream to be found: add it to `needs`"));
}

#[test]
fn problems_are_json_for_the_api() {
    let problem = Problem { line: 1, column: 2, path: "a".to_owned(), message: "m".to_owned(), suggestion: None };
    assert_eq!(serde_json::json!(problem), serde_json::json!({"line": 1, "column": 2, "path": "a", "message": "m"}));
}
