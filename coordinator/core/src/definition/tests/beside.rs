//! No mistake hides another: each of a table is planted alone, then with every other one, and both are told.

use super::super::{PROBLEMS_MAX, Problem, parse};

/// A line of a definition, what is written there instead, where that is reported, and a part of the message.
type Mistake = (&'static str, &'static str, &'static str, &'static str);

/// Every key of the language once. A line that starts with `#` is room for another.
const FLAT: &str = "\
name: w
description: text
#whole
input:
  type: object
  required: [n]
  properties:
    n: {type: integer}
    s: {pattern: a}
    l: {items: {type: string}}
    r: {$ref: '#/$defs/d'}
  $defs:
    d: {maxLength: 5}
output:
  a: ${{ tasks.last.output }}
  b: ${{ input.n }}
tasks:
- name: first
  handler: noop
- name: second
  handler: noop
- name: full
  run: echo
  #kind
  #full
  needs: [first, second]
  with:
    a-b: ${{ input.n + 1 }}
    c: x
  env:
    A: b
  prompt: text
  retry:
    max_attempts: 3
    initial_interval: 1s
    backoff_coefficient: 2
    max_interval: 5s
    jitter: 0.1
    non_retryable: [exit]
    #retry
  timeout: 1h
  continue_on_failure: true
  at_most_once: false
  priority: high
  queue: gpu
  workdir: /srv
  large_values: file
  agent_name: a
- name: pause
  sleep: 5s
  needs: [first]
  #pause
- name: handled
  handler: sleep
  with: {duration: 1s}
  #handled
- name: last
  handler: noop
  prompt: ${{ tasks.first.status }}
  needs: [first]
- name: spare
  handler: noop
  retry: 3
- name: free
  handler: noop
  #free
- name: loop-a
  handler: noop
  needs: []
- name: loop-b
  handler: noop
  needs: [loop-a]
- name: ring-a
  handler: noop
  needs: [second]
- name: ring-b
  handler: noop
  needs: [ring-a]
";

const IN_FLAT: &[Mistake] = &[
    // The whole.
    ("name: w", "name: -w", "name", "is not a name"),
    ("description: text", "description: [text]", "description", "expected is a string"),
    ("#whole", "schedule: x", "schedule", "not yet supported"),
    ("#whole", "taks: x", "taks", "unknown key `taks`"),
    ("#whole", "phases: []", "tasks", "are both given"),
    ("#whole", "name: v", "", "`name` is given twice"),
    ("#whole", "<<: {name: v}", "", "merge keys"),
    // The schema of the input.
    ("  type: object", "  type: objct", "input.type", "`objct` is not a type of JSON Schema"),
    ("  required: [n]", "  required: true", "input.required", "this is the boolean true, expected is array"),
    ("  required: [n]", "  required: [n, 5]", "input.required[1]", "expected is string"),
    ("    n: {type: integer}", "    n: {type: 5}", "input.properties.n.type", "this is the number 5, expected is one of array"),
    ("    n: {type: integer}", "    n: 5", "input.properties.n", "expected is "),
    ("    s: {pattern: a}", "    s: {pattern: '('}", "input.properties.s.pattern", "`(` is not a regular expression"),
    ("    l: {items: {type: string}}", "    l: {items: {type: [strin]}}", "input.properties.l.items.type[0]", "`strin` is not a type"),
    ("    r: {$ref: '#/$defs/d'}", "    r: {$ref: '#/$defs/e'}", "input.properties.r.$ref", "is not in this schema"),
    ("    r: {$ref: '#/$defs/d'}", "    r: {$dynamicRef: '#d'}", "input.properties.r.$dynamicRef", "is not supported"),
    ("    d: {maxLength: 5}", "    d: {maxLength: -5}", "input.$defs.d.maxLength", "-5 is less than the minimum of 0"),
    ("    d: {maxLength: 5}", "    d: {$ref: '#/$defs/d'}", "input.$defs.d.$ref", "leads back to itself"),
    // The output.
    ("  a: ${{ tasks.last.output }}", "  a: ${{ tasks.lost.output }}", "output.a", "reads task `lost`, which does not exist"),
    ("  b: ${{ input.n }}", "  b: ${{ inptu.n }}", "output.b", "reads `inptu`, which does not exist"),
    // A task with every key.
    ("  run: echo", "  run: [echo]", "tasks[2].run", "expected is a string"),
    ("  run: echo", "  run: ''", "tasks[2].run", "the script is empty"),
    ("  run: echo", "  run: \"a\\0b\"", "", "NUL character"),
    ("  run: echo", "  run: echo ${{ input.n }}", "tasks[2].run", "cannot contain an expression"),
    ("  #kind", "  agent: claude", "tasks[2].agent", "not yet supported"),
    ("  #kind", "  handler: noop", "tasks[2].handler", "the task has run and handler"),
    ("  #full", "  retires: 3", "tasks[2].retires", "unknown key `retires`"),
    ("  #full", "  when: true", "tasks[2].when", "not yet supported"),
    ("  #full", "  run: true", "", "`run` is given twice"),
    ("  needs: [first, second]", "  needs: first", "tasks[2].needs", "expected is a list of names"),
    ("  needs: [first, second]", "  needs: [first, 5]", "tasks[2].needs[1]", "expected is a name"),
    ("  needs: [first, second]", "  needs: [first, secnd]", "tasks[2].needs", "no task `secnd`"),
    ("  needs: [first, second]", "  needs: [first, first]", "tasks[2].needs[1]", "named twice"),
    ("  needs: [first, second]", "  needs: [full]", "tasks[2].needs", "needs itself"),
    ("    a-b: ${{ input.n + 1 }}", "    a-b: ${{ 1 + }}", "tasks[2].with.a-b", "is not valid"),
    ("    a-b: ${{ input.n + 1 }}", "    a-b: ${{ input.n", "tasks[2].with.a-b", "never closed"),
    ("    a-b: ${{ input.n + 1 }}", "    a-b: ${{ tasks.frist.output }}", "tasks[2].with.a-b", "`frist`, which does not exist"),
    ("    a-b: ${{ input.n + 1 }}", "    a-b: ${{ workflow.nmae }}", "tasks[2].with.a-b", "`nmae`, which does not exist"),
    ("    a-b: ${{ input.n + 1 }}", "    a-b: ${{ tasks.full.output }}", "tasks[2].with.a-b", "reads itself"),
    ("    c: x", "    a_b: x", "tasks[2].with", "both reach the command as `WITH_A_B`"),
    ("    A: b", "    1A: b", "tasks[2].env.1A", "not the name of an environment variable"),
    ("    A: b", "    A: [b]", "tasks[2].env.A", "expected is a string, a number or a boolean"),
    ("    A: b", "    A: !secret b", "", "the tag `!secret` has no meaning"),
    ("  prompt: text", "  prompt: ${{ }}", "tasks[2].prompt", "an expression is empty"),
    ("  prompt: text", "  prompt: 5", "tasks[2].prompt", "expected is a string"),
    ("    max_attempts: 3", "    max_attempts: 0", "tasks[2].retry.max_attempts", "0 is out of bounds"),
    ("    max_attempts: 3", "    max_attempts: many", "tasks[2].retry.max_attempts", "expected is a whole number"),
    ("    initial_interval: 1s", "    initial_interval: soon", "tasks[2].retry.initial_interval", "`soon` is not a duration"),
    ("    backoff_coefficient: 2", "    backoff_coefficient: 0.5", "tasks[2].retry.backoff_coefficient", "0.5 is out of bounds"),
    ("    backoff_coefficient: 2", "    backoff_coefficient: .inf", "", "this number is not finite"),
    ("    max_interval: 5s", "    max_interval: 0", "tasks[2].retry.max_interval", "a duration of zero"),
    ("    jitter: 0.1", "    jitter: 2", "tasks[2].retry.jitter", "2 is out of bounds"),
    ("    jitter: 0.1", "    jitter: little", "tasks[2].retry.jitter", "expected is a number"),
    ("    non_retryable: [exit]", "    non_retryable: exit", "tasks[2].retry.non_retryable", "expected is a list of names"),
    ("    #retry", "    jiter: 1", "tasks[2].retry.jiter", "unknown key `jiter`"),
    ("  timeout: 1h", "  timeout: 1 hour", "tasks[2].timeout", "is not a duration"),
    ("  timeout: 1h", "  timeout: [1h]", "tasks[2].timeout", "expected is a duration"),
    ("  timeout: 1h", "  timeout:", "tasks[2].timeout", "this is nothing, expected is a duration"),
    ("  continue_on_failure: true", "  continue_on_failure: yes", "tasks[2].continue_on_failure", "expected is true or false"),
    ("  at_most_once: false", "  at_most_once: maybe", "tasks[2].at_most_once", "expected is true or false"),
    ("  priority: high", "  priority: hihg", "tasks[2].priority", "`hihg` is not a priority"),
    ("  queue: gpu", "  queue: GPU", "tasks[2].queue", "is not a queue name"),
    ("  workdir: /srv", "  workdir: srv", "tasks[2].workdir", "is not absolute"),
    ("  large_values: file", "  large_values: drop", "tasks[2].large_values", "is not known"),
    ("  agent_name: a", "  agent_name: -a", "tasks[2].agent_name", "is not a name"),
    // Other kinds, and what has no effect on them.
    ("  sleep: 5s", "  sleep: long", "tasks[3].sleep", "`long` is not a duration"),
    ("  #pause", "  queue: gpu", "tasks[3].queue", "has no effect on a `sleep` task"),
    ("  #pause", "  retry: 3", "tasks[3].retry", "has no effect on a `sleep` task"),
    ("  handler: sleep", "  handler: -x", "tasks[4].handler", "is not a name"),
    ("  handler: sleep", "  handler: {a: b}", "tasks[4].handler", "expected is a string"),
    ("  with: {duration: 1s}", "  with: 1s", "tasks[4].with", "expected is a mapping of names to values"),
    ("  #handled", "  workdir: /srv", "tasks[4].workdir", "has no effect on a `handler` task"),
    // Between tasks.
    ("  prompt: ${{ tasks.first.status }}", "  prompt: ${{ tasks.second.status }}", "tasks[5].prompt", "need not have ended by then"),
    ("- name: spare", "- name: first", "tasks[6].name", "the task name `first` is taken by line"),
    ("  retry: 3", "  retry: 1001", "tasks[6].retry.max_attempts", "1001 is out of bounds"),
    ("  retry: 3", "  retry: often", "tasks[6].retry", "expected is a mapping, or the number of attempts"),
    ("- name: free", "- priority: low", "tasks[7].name", "the task has no name"),
    ("- name: free", "- name: 5", "tasks[7].name", "this is the number 5"),
    ("  #free", "  needs: [nobody]", "tasks[7].needs", "no task `nobody`"),
    ("  #free", "  prompt: ${{ tasks.nobody.output }}", "tasks[7].prompt", "`nobody`, which does not exist"),
    ("  needs: []", "  needs: [loop-b]", "tasks[8].needs", "the tasks wait for each other: loop-a -> loop-b -> loop-a"),
    ("  needs: [second]", "  needs: [ring-b]", "tasks[10].needs", "the tasks wait for each other: ring-a -> ring-b -> ring-a"),
    ("  needs: [ring-a]", "  needs: [ring-a, ring-c]", "tasks[11].needs", "no task `ring-c`"),
];

const PHASED: &str = "\
name: w
#whole
phases:
- name: build
  #build
  weight: 3
  tasks:
  - name: compile
    run: make
    #compile
  - name: notes
    handler: noop
    #notes
- name: test
  needs: [build]
  weight: 1
  tasks:
  - name: unit
    handler: noop
    needs: [compile]
- name: check
  needs: [build]
  tasks:
  - name: lint
    run: lint
    #lint
- name: publish
  #publish
  tasks:
  - name: upload
    run: upload
    #upload
";

const IN_PHASED: &[Mistake] = &[
    ("#whole", "timeout: 1h", "timeout", "not yet supported"),
    ("#whole", "tasks: [{name: x, handler: noop, needs: [compile]}]", "tasks", "are both given"),
    ("#whole", "output: ${{ tasks.uplod.output }}", "output", "reads task `uplod`"),
    ("#whole", "input: 5", "input", "expected is a JSON Schema"),
    ("  #build", "  when: x", "phases[0].when", "not yet supported"),
    ("  #build", "  wieght: 1", "phases[0].wieght", "unknown key `wieght`"),
    ("  weight: 3", "  weight: -1", "phases[0].weight", "the weight -1 is not positive"),
    ("  weight: 3", "  weight: much", "phases[0].weight", "expected is a number"),
    ("    run: make", "    run: ' '", "phases[0].tasks[0].run", "the script is empty"),
    ("    #compile", "    timeout: long", "phases[0].tasks[0].timeout", "`long` is not a duration"),
    ("    #compile", "    needs: [unit]", "phases[0].tasks[0].needs", "which has not ended when this phase starts"),
    ("    #notes", "    env: {A: b}", "phases[0].tasks[1].env", "has no effect on a `handler` task"),
    ("    #notes", "    with: {a: '${{ tasks.lint.output }}'}", "phases[0].tasks[1].with.a", "need not have ended by then"),
    ("  weight: 1", "  weight: 0", "phases[1].weight", "the weight 0 is not positive"),
    ("    #lint", "    needs: [unit]", "phases[2].tasks[0].needs", "task `unit` is in phase `test`"),
    ("    #lint", "    queue: LINT", "phases[2].tasks[0].queue", "is not a queue name"),
    ("  #publish", "  needs: [check, tset]", "phases[3].needs", "there is no phase `tset`"),
    ("  #publish", "  needs: check", "phases[3].needs", "expected is a list of names"),
    ("- name: publish", "- name: check", "phases[3].name", "the phase name `check` is taken"),
    ("- name: publish", "- name: .publish", "phases[3].name", "is not a name"),
    ("- name: publish", "- weight: 1", "phases[3].name", "the phase has no name"),
    ("    run: upload", "    #", "phases[3].tasks[0]", "the task does nothing"),
    ("    #upload", "    needs: [compil]", "phases[3].tasks[0].needs", "no task `compil`"),
];

/// The definition with these lines instead of its own.
fn with(source: &'static str, mistakes: &[&Mistake]) -> String {
    let instead = |line: &'static str| mistakes.iter().find(|mistake| mistake.0 == line).map_or(line, |mistake| mistake.1);
    source.lines().map(instead).collect::<Vec<_>>().join("\n")
}

fn problems(source: &str) -> Vec<Problem> {
    parse(source).err().map(|problems| problems.0).unwrap_or_default()
}

/// Both have the same, in whatever order.
fn check_same(found: &[Problem], expected: &[Problem], planted: &[&Mistake]) {
    let missing: Vec<&Problem> = expected.iter().filter(|problem| !found.contains(problem)).collect();
    let besides: Vec<&Problem> = found.iter().filter(|problem| !expected.contains(problem)).collect();
    assert!(missing.is_empty() && besides.is_empty(), "of {planted:?} is hidden: {missing:#?}, and is said besides: {besides:#?}");
    assert_eq!(found.len(), expected.len(), "each once");
}

/// What each mistake says alone: one thing.
fn alone(source: &'static str, mistakes: &[Mistake]) -> Vec<Problem> {
    assert_eq!(problems(source), [], "the definition itself is valid");
    let mut said = Vec::new();
    for mistake in mistakes {
        assert_eq!(source.lines().filter(|line| *line == mistake.0).count(), 1, "{:?} is one line", mistake.0);
        let found = problems(&with(source, &[mistake]));
        let [one] = found.as_slice() else { panic!("{mistake:?} is one mistake: {found:#?}") };
        assert!(one.path == mistake.2 && one.message.contains(mistake.3), "{mistake:?}: {one:#?}");
        said.push(one.clone());
    }
    said
}

/// Two mistakes together say what each says alone, at the same places, and nothing else.
fn check_pairs(source: &'static str, mistakes: &[Mistake]) {
    let said = alone(source, mistakes);
    for (first, one) in mistakes.iter().zip(&said) {
        for (second, other) in
            mistakes.iter().zip(&said).skip_while(|(second, _)| *second != first).filter(|(second, _)| second.0 != first.0)
        {
            check_same(&problems(&with(source, &[first, second])), &[one.clone(), other.clone()], &[first, second]);
        }
    }
}

/// One mistake for every line that can hold one, as many together as one pass reports.
fn check_all_together(source: &'static str, mistakes: &[Mistake]) {
    let said = alone(source, mistakes);
    let firsts = || mistakes.iter().enumerate().filter(|(index, mistake)| mistakes[..*index].iter().all(|before| before.0 != mistake.0));
    let firsts: Vec<(usize, &Mistake)> = firsts().collect();
    for together in firsts.chunks(PROBLEMS_MAX) {
        let planted: Vec<&Mistake> = together.iter().map(|(_, mistake)| *mistake).collect();
        let expected: Vec<Problem> = together.iter().map(|(index, _)| said[*index].clone()).collect();
        check_same(&problems(&with(source, &planted)), &expected, &planted);
    }
}

#[test]
fn no_mistake_hides_another_among_tasks() {
    check_pairs(FLAT, IN_FLAT);
}

#[test]
fn no_mistake_hides_another_among_phases() {
    check_pairs(PHASED, IN_PHASED);
}

#[test]
fn as_many_mistakes_as_one_pass_reports_come_together() {
    check_all_together(FLAT, IN_FLAT);
    check_all_together(PHASED, IN_PHASED);
}

#[test]
fn several_mistakes_of_one_value_are_all_told() {
    for (line, parts) in [
        ("  prompt: ${{ foo }}, ${{ bar.x }} and ${{ }}", vec!["reads `foo`", "reads `bar`", "an expression is empty"]),
        ("  prompt: ${{ foo + sizes(input.n) + tasks.frist.ouput }}", vec!["`foo`", "`sizes()`", "`ouput`", "reads task `frist`"]),
        ("  prompt: ${{ foo }} ${{ input.n", vec!["`foo`", "never closed"]),
        ("  prompt: ${{ tasks.frist.output + tasks.secnd.output }}", vec!["reads task `frist`", "reads task `secnd`"]),
        ("  prompt: ${{ tasks.last.output + workflow.nmae }}", vec!["task `last` is read, but need not", "`nmae`"]),
    ] {
        let found = problems(&with(FLAT, &[&("  prompt: text", line, "", "")]));
        assert!(
            found.len() == parts.len() && parts.iter().all(|part| found.iter().any(|one| one.message.contains(part))),
            "{line}: {found:#?}"
        );
    }
    for (line, instead, count) in [
        ("  needs: [first, second]", "  needs: [frist, 5, secnd, first, first]", 4),
        ("    n: {type: integer}", "    n: {type: [integr, string, 5], minimum: a, pattern: '(', required: [1, 2]}", 6),
        ("    n: {type: integer}", "    n: {allOf: [5, {type: strin}, {$ref: 'x'}], items: {enum: 5}}", 4),
        ("    c: x", "    a_b: x\n    a.b: y", 2),
        ("  retry: 3", "  retry: {max_attempts: 0, jitter: x, jiter: 1, max_interval: 0, backoff_coefficient: 0}", 5),
        ("    jitter: 0.1", "    jitter: 2\n    jiter: 1\n    max_retries: 2", 3),
        ("    max_interval: 5s", "    max_interval: 10ms", 1),
        ("  run: echo", "  run: ''\n  handler: -x\n  sleep: long", 4),
    ] {
        let found = problems(&with(FLAT, &[&(line, instead, "", "")]));
        assert_eq!(found.len(), count, "{instead}: {found:#?}");
    }
}

#[test]
fn a_name_that_is_missing_is_never_suggested() {
    let found = problems("name: w\ntasks:\n- handler: noop\n- {name: long, handler: noop, needs: [x]}\n");
    assert_eq!(found.iter().map(|one| one.suggestion.as_deref()).collect::<Vec<_>>(), [None, None], "{found:#?}");
}
