use super::*;
use orchestr8_proto::words::TaskStatus;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

fn evaluated(template: Value) -> Result<Value, ExpressionError> {
    let input = json!({
        "name": "Ada", "n": 3, "big": u64::MAX, "low": i64::MIN, "half": 0.5, "list": [3, 1, 2], "with": {"a b": {"c": true}},
        "map": {"z": 1, "y": 2, "x": 3, "w": 4, "v": 5}, "long": "x".repeat(100_000), "numbers": (0..3000).collect::<Vec<_>>(),
    });
    let view = TaskView { status: TaskStatus::Completed, output: Arc::new(json!({"url": "https://x", "rows": [{"n": 1}, {"n": 2}]})) };
    let tasks = BTreeMap::from([("build".to_owned(), view.clone()), ("unit-tests".to_owned(), view)]);
    let workflow = json!({"id": "42", "name": "demo"});
    evaluate(&Template(template), &Scope { input: &input, workflow: &workflow, tasks: &tasks }, &Steps::default())
}

fn expression(source: &str) -> Result<Value, ExpressionError> {
    evaluated(json!(format!("${{{{ {source} }}}}")))
}

#[test]
fn one_expression_keeps_its_type_and_several_become_text() {
    assert_eq!(evaluated(json!("${{ input.list }}")), Ok(json!([3, 1, 2])));
    assert_eq!(evaluated(json!("${{input.name}} has ${{ input.n }} of ${{ input.list }}")), Ok(json!("Ada has 3 of [3,1,2]")));
    assert_eq!(
        evaluated(json!({"${{ input.n }}": ["${{ input.n + 1 }}", 1.5, null, "plain"]})),
        Ok(json!({"${{ input.n }}": [4, 1.5, null, "plain"]}))
    );
}

#[test]
fn paths_and_trees_agree() {
    for (path, value) in [
        ("input.n", json!(3)),
        ("input.big", json!(u64::MAX)),
        ("input.low", json!(i64::MIN)),
        ("input.half", json!(0.5)),
        ("input.list[1]", json!(1)),
        ("input.with[\"a b\"].c", json!(true)),
        ("tasks.build.output.url", json!("https://x")),
        ("tasks[\"unit-tests\"].status", json!("completed")),
        ("tasks.build.output.rows[1].n", json!(2)),
        ("workflow.id", json!("42")),
    ] {
        assert_eq!(expression(path), Ok(value.clone()), "{path}");
        assert_eq!(expression(&format!("true ? {path} : null")), Ok(value), "{path} as a tree");
    }
    let whole = json!({"status": "completed", "output": {"url": "https://x", "rows": [{"n": 1}, {"n": 2}]}});
    assert_eq!(expression("tasks.build"), Ok(whole.clone()));
    assert_eq!(expression("[tasks.build][0]"), Ok(whole));
}

#[test]
fn cel_works_on_json() {
    for (source, value) in [
        ("input.n * 2 + 1", json!(7)),
        ("input.list.map(x, x * 10)", json!([30, 10, 20])),
        ("tasks.build.output.rows.filter(row, row.n > 1)", json!([{"n": 2}])),
        ("tasks.build.output.rows.all(row, row.n > 0) && size(input.list) == 3", json!(true)),
        ("input.list.exists_one(x, x == 1)", json!(true)),
        ("input.map.map(key, key)", json!(["v", "w", "x", "y", "z"])),
        ("has(input.missing) ? input.missing : \"none\"", json!("none")),
        ("{\"a\": {\"b\": [1, 2u]}}", json!({"a": {"b": [1, 2]}})),
        ("input.name + \"}}\" + string(input.n)", json!("Ada}}3")),
        ("input.name.startsWith('A') || input.nothing", json!(true)),
        ("2 in input.list", json!(true)),
        ("input.list.map(x, input.list.map(y, x * y))[0][0]", json!(9)),
        ("double(input.n) / 2.0", json!(1.5)),
    ] {
        assert_eq!(expression(source), Ok(value), "{source}");
    }
}

#[test]
fn errors_name_the_expression_the_name_and_the_remedy() {
    for (source, expected) in [
        (
            "input.list[9]",
            "expression `input.list[9]` reads `9`, which `input.list` does not have (it is a list of 3): correct the name, or test it with `has()` first",
        ),
        (
            "tasks.build.output.uri",
            "expression `tasks.build.output.uri` reads `uri`, which `tasks.build.output` does not have (it has: rows, url): correct the name, or test it with `has()` first",
        ),
        (
            "input.nothing + 1",
            "expression `input.nothing + 1` cannot be evaluated: there is no key `nothing`: correct the name, or test it with has() first",
        ),
        ("1 / 0", "expression `1 / 0` cannot be evaluated: it divides by zero"),
        (
            "1.0 / 0.0",
            "expression `1.0 / 0.0` cannot be evaluated: the result is a number that JSON does not have (infinite, or not a number)",
        ),
        ("input.list[0.5]", "expression `input.list[0.5]` cannot be evaluated: []: an index is a whole number or a string"),
        ("{1: 2}", "expression `{1: 2}` cannot be evaluated: a key of the resulting map is not a string: convert it with string()"),
        ("int", "expression `int` cannot be evaluated: the result has the type `type`, which JSON does not have: convert it with string()"),
        (
            "inptu.x",
            "expression `inptu.x` reads `inptu`, which does not exist: use one of input, tasks, workflow (a task named a-b is written tasks[\"a-b\"])",
        ),
        ("item.x", "expression `item.x` reads `item`, which does not exist: `foreach` is not yet supported"),
        (
            "sizes(input.list)",
            "expression `sizes(input.list)` reads `sizes()`, which does not exist: use one of bool, contains, double, dyn, endsWith, int, size, startsWith, string, type, uint (a task named a-b is written tasks[\"a-b\"])",
        ),
        (
            "tasks",
            "expression `tasks` uses `tasks` without a fixed name: write `tasks.<name>` or `tasks[\"<name>\"]`, so that it is known what is read",
        ),
        (
            "tasks[input.name].output",
            "expression `tasks[input.name].output` uses `tasks` without a fixed name: write `tasks.<name>` or `tasks[\"<name>\"]`, so that it is known what is read",
        ),
    ] {
        assert_eq!(expression(source).expect_err(source).to_string(), expected);
    }
    assert_eq!(expression("inptu.x").expect_err("unknown").suggestion(), Some("input"));
    assert_eq!(expression("tasks.build.ouput").expect_err("unknown").suggestion(), Some("output"));
    assert_eq!(expression("size(tasks.build.ouput)").expect_err("unknown").suggestion(), Some("output"));
}

#[test]
fn errors_never_show_values() {
    for source in ["input.name + 1", "input.name < 1", "input.name[0]", "int(input.name)", "input.name && true", "-input.name"] {
        let message = expression(source).expect_err(source).to_string();
        assert!(!message.contains("Ada"), "{message}");
    }
}

#[test]
fn what_is_not_an_expression_is_refused_when_it_is_checked() {
    assert!(matches!(check(&json!("a ${{ input.x }")), Err(ExpressionError::Unterminated(_))));
    assert!(matches!(check(&json!("${{ '}}' ")), Err(ExpressionError::Unterminated(_))));
    assert_eq!(check(&json!(["${{  }}"])), Err(ExpressionError::Empty));
    for source in ["1 +", "input..x", "a b", "input.?x", "Foo{}", "\"", "x.map(input, 1)", "[1].map(tasks, 1)"] {
        let refused = check(&json!(format!("${{{{ {source} }}}}")));
        assert!(refused.is_err(), "{source}: {refused:?}");
    }
    let nested = "[1].map(a, [1].map(b, [1].map(c, 1)))";
    assert!(matches!(check(&json!(format!("${{{{ {nested} }}}}"))), Err(ExpressionError::TooComplex { what: "nested macros", .. })));
}

#[test]
fn reads_are_found_wherever_they_hide() {
    let template = json!({"a": ["${{ tasks.a.output }} ${{ tasks[\"b c\"].status }}"], "b": "${{ [1].map(x, has(tasks.d.output.x) ? x : tasks['e'].output) }}"});
    let names: Vec<String> = check(&template).expect("valid").tasks.into_iter().collect();
    assert_eq!(names, ["a", "b c", "d", "e"]);
}

#[test]
fn no_expression_runs_long_or_grows_large() {
    for source in [
        "input.numbers.map(x, input.numbers.map(y, x * y))",
        "input.numbers.all(x, input.numbers.all(y, x * y >= 0))",
        "input.numbers.exists(x, input.numbers.exists(y, input.list[0.5] == 1))",
        "input.numbers.map(x, input.long + input.long)",
        "input.numbers.filter(x, input.numbers == input.numbers)",
        "input.numbers.map(x, {'a': input.numbers})",
        "input.numbers.map(x, input.long.contains('y'))",
        "input.numbers.map(x, [input.numbers, input.numbers][0][0])",
    ] {
        let error = expression(source).expect_err(source);
        assert!(matches!(error, ExpressionError::TooExpensive(_)), "{source}: {error}");
    }
    let doubled = "[input.long, input.long, input.long, input.long, input.long, input.long, input.long, input.long, input.long, input.long, input.long]";
    assert_eq!(expression(doubled), Err(ExpressionError::ResultTooLarge(RESULT_BYTES_MAX)));
    assert_eq!(evaluated(json!(vec!["${{ input.long }}"; 11])), Err(ExpressionError::ResultTooLarge(RESULT_BYTES_MAX)));
    assert_eq!(expression("input.numbers.map(x, x * 2).filter(x, x % 3 == 0).size()"), Ok(json!(1000)));
}

#[test]
fn a_result_may_be_as_large_as_the_steps_say() {
    let (input, workflow, tasks) = (json!({"long": "x".repeat(100_000)}), json!({}), BTreeMap::new());
    let scope = Scope { input: &input, workflow: &workflow, tasks: &tasks };
    for template in [json!(vec!["${{ input.long }}"; 11]), json!("${{ [input.long, input.long, input.long] + [input.long + input.long] }}")]
    {
        let template = Template(template);
        assert!(evaluate(&template, &scope, &Steps::with_results(1_200_000)).is_ok());
        assert_eq!(evaluate(&template, &scope, &Steps::with_results(400_000)), Err(ExpressionError::ResultTooLarge(400_000)));
    }
}

#[test]
fn depth_is_bounded_before_it_is_parsed() {
    let fits = format!("{}1{}", "(".repeat(45), ")".repeat(45));
    assert_eq!(expression(&fits), Ok(json!(1)));
    let chain = vec!["1"; OPERATORS_MAX].join("+");
    assert_eq!(expression(&chain), Ok(json!(100)));
    assert_eq!(expression(&format!("{}true", "!".repeat(40))), Ok(json!(true)));
    for hostile in [
        "(".repeat(5000),
        "!".repeat(8000),
        "[".repeat(8000),
        vec!["1"; 2000].join("+"),
        format!("true{}", " ? 1 : 2".repeat(500)),
        "a.".repeat(4000),
    ] {
        assert!(matches!(expression(&hostile), Err(ExpressionError::TooComplex { .. })), "{}", &hostile[..20]);
    }
    assert!(matches!(expression(&format!("'{}'", "x".repeat(9000))), Err(ExpressionError::TooComplex { what: "bytes", .. })));
}

proptest! {
    #[test]
    fn any_text_is_a_value_or_an_error(text in "\\PC{0,60}") {
        let _checked = check(&json!(text));
        let _value = evaluated(json!(format!("${{{{ {text} }}}}")));
    }

    #[test]
    fn any_soup_of_tokens_is_a_value_or_an_error(tokens in proptest::collection::vec(token(), 0..14)) {
        let source = tokens.concat();
        let checked = check(&json!(format!("${{{{{source}}}}}")));
        let value = evaluated(json!(format!("${{{{{source}}}}}")));
        prop_assert!(checked.is_ok() || value.is_err(), "{source}: refused by the check, yet evaluated");
    }

    #[test]
    fn any_json_survives_a_path_and_a_tree(value in any_json()) {
        let scope_tasks = BTreeMap::new();
        let (input, workflow) = (json!({"v": value}), json!({}));
        let scope = Scope { input: &input, workflow: &workflow, tasks: &scope_tasks };
        for source in ["${{ input.v }}", "${{ [input.v][0] }}"] {
            prop_assert_eq!(&evaluate(&Template(json!(source)), &scope, &Steps::default()).expect("a value"), &value);
        }
    }
}

fn token() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "input",
        ".n",
        ".list",
        "tasks",
        ".build",
        ".output",
        "workflow",
        "x",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "'a'",
        "\"",
        "1",
        "0.5",
        "-",
        "+",
        " in ",
        "?",
        ":",
        "==",
        "&&",
        "||",
        "!",
        ",",
        ".map(x, ",
        ".filter(x,",
        ".all(x,",
        "size(",
        "has(",
        "u",
        "9223372036854775807",
        "\\",
        "r'",
        "`",
        "null",
        "%",
        "é",
    ])
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        proptest::num::f64::NORMAL.prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("\\PC{0,5}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn templates_that_share_their_steps_cannot_take_them_twice() {
    let (input, workflow, tasks) = (json!({"list": (0..1_000).collect::<Vec<_>>()}), json!({}), BTreeMap::new());
    let scope = Scope { input: &input, workflow: &workflow, tasks: &tasks };
    let template = Template(json!("${{ input.list.map(x, x + 1).size() }}"));
    let steps = Steps::default();
    let values = (0..10_000).map(|_| evaluate(&template, &scope, &steps)).take_while(Result::is_ok).count();
    assert!((10..1_000).contains(&values), "{values}");
    assert!(matches!(evaluate(&template, &scope, &steps), Err(ExpressionError::TooExpensive(_))));
    assert_eq!(evaluate(&template, &scope, &Steps::default()), Ok(json!(1_000)));
}
