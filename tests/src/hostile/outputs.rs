//! Outputs that cannot be stored, or only just: each ends its own task, what can be stored stays readable, and nothing beside it stops.

use crate::happy::cli::orchestr8;
use crate::scene::{Scene, coordinator_words, noop};
use anyhow::{Context, Result, ensure};
use orchestr8_proto::storable::NESTING_MAX;
use serde_json::{Value, json};

/// What becomes of an output.
enum End {
    /// The task completes with this.
    Stored(Value),
    /// The task completes with a text that has this part.
    Text(&'static str),
    /// The task fails with this type, and its message has this part.
    Failed(&'static str, &'static str),
}

const FILE: &str = "> \"$ORCHESTR8_OUTPUT\"";

/// JSON that is nested so deep, as a shell prints it.
fn nested(levels: usize) -> String {
    format!("{{ head -c {levels} /dev/zero | tr '\\0' '['; head -c {levels} /dev/zero | tr '\\0' ']'; }}")
}

fn nested_value(levels: usize) -> Value {
    (1..levels).fold(json!([]), |inner, _| json!([inner]))
}

/// Scripts and what becomes of what they print.
fn outputs() -> Vec<(String, End)> {
    let file = |script: &str| format!("{script} {FILE}");
    vec![
        (file(r#"printf '{"a": ["\\u0000"]}'"#), End::Failed("output", "NUL")),
        (file(r"printf '{\0: 1}'"), End::Failed("output", "not one JSON value")),
        (r"printf 'a\000b'".into(), End::Stored(json!("a\u{fffd}b"))),
        (r#"printf '{"a": "\\u0000"}'"#.into(), End::Failed("output", "NUL")),
        (file(r#"printf '"\377\376"'"#), End::Failed("output", "not one JSON value")),
        (r"printf '\377x'".into(), End::Stored(json!("\u{fffd}x"))),
        (file(r#"printf '"\\ud800"'"#), End::Failed("output", "not one JSON value")),
        (file("printf 1e400"), End::Failed("output", "out of range")),
        (file("printf '1%0400d' 0"), End::Failed("output", "out of range")),
        (
            file("printf '[-0, 1e-400, 1e308, 18446744073709551615, -9223372036854775808]'"),
            End::Stored(json!([0.0, 0.0, 1e308, u64::MAX, i64::MIN])),
        ),
        (file("head -c 10000000 /dev/zero | tr '\\0' 1"), End::Failed("output_too_large", "over the limit")),
        ("head -c 10000000 /dev/zero | tr '\\0' 1".into(), End::Text("bytes left out]\n111")),
        (file(&nested(10_000)), End::Failed("output", "not one JSON value")),
        (nested(10_000), End::Text("[[[[[[[[")),
        (file(&nested(NESTING_MAX + 1)), End::Failed("output", "within each other")),
        (file(&nested(NESTING_MAX)), End::Stored(nested_value(NESTING_MAX))),
    ]
}

/// `-0` may come back as `0`.
fn same(stored: &Value, expected: &Value) -> bool {
    match (stored, expected) {
        (Value::Array(stored), Value::Array(expected)) => {
            stored.len() == expected.len() && stored.iter().zip(expected).all(|(stored, expected)| same(stored, expected))
        }
        (Value::Number(_), Value::Number(_)) => stored == expected || stored.as_f64() == expected.as_f64() && !expected.is_u64(),
        _ => stored == expected,
    }
}

fn check(script: &str, result: &Value, end: &End) -> Result<()> {
    let found = &result["result"];
    let fits = match end {
        End::Stored(value) => result["status"] == "completed" && same(found, value),
        End::Text(part) => result["status"] == "completed" && found.as_str().is_some_and(|text| text.contains(part)),
        End::Failed(kind, part) => {
            result["status"] == "failed"
                && result["error_type"] == *kind
                && result["error"].as_str().is_some_and(|error| error.contains(part))
        }
    };
    let shown: String = result.to_string().chars().take(500).collect();
    ensure!(fits, "{script}: {shown}");
    Ok(())
}

async fn all_end_as_they_should(words: &[&str]) -> Result<()> {
    let words = [&["--shard-count", "1"], words].concat();
    let mut scene = Scene::start(coordinator_words(&words)).await?;
    let outputs = outputs();
    let bad = outputs.iter().map(|(script, _)| json!({"run": script, "max_retries": 0}));
    let batch: Vec<Value> = bad.flat_map(|bad| [bad, noop(&json!("beside"))]).collect();
    let accepted = scene.api().post("/api/v1/tasks", &json!(batch)).await?;
    let ids: Vec<String> =
        accepted.as_array().context("ids")?.iter().filter_map(|task| task["task_id"].as_str().map(str::to_owned)).collect();
    assert_eq!(ids.len(), 2 * outputs.len());
    for (pair, (script, end)) in ids.chunks(2).zip(&outputs) {
        check(script, &scene.result(&pair[0]).await?, end)?;
        assert_eq!(scene.result(&pair[1]).await?["result"], "beside");
    }
    scene.installation.coordinators[0].restart().await?;
    scene.installation.wait_ready(0).await?;
    for (id, (script, end)) in ids.iter().step_by(2).zip(&outputs) {
        check(script, &scene.api().get(&format!("/api/v1/tasks/{id}/result")).await?, end)?;
        let status = orchestr8(&scene, &["status", id, "-o", "json"]).await?;
        ensure!(status.code == Some(0), "{script}: {status:?}");
        let said = orchestr8(&scene, &["result", id, "-o", "json"]).await?;
        check(script, &serde_json::from_str(&said.stdout)?, end)?;
    }
    let list = orchestr8(&scene, &["list", "-o", "json"]).await?;
    assert_eq!(serde_json::from_str::<Value>(&list.stdout)?["tasks"].as_array().map(Vec::len), Some(ids.len()), "{list:?}");
    scene.verified().await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn every_output_ends_its_own_task_and_stays_readable() -> Result<()> {
    all_end_as_they_should(&[]).await
}

#[tokio::test]
async fn every_output_ends_its_own_task_without_a_cache() -> Result<()> {
    all_end_as_they_should(&["--cache-bytes", "0"]).await
}

/// An output at the bound, wrapped once more by an expression: refused where it is made, since nobody could read it back.
#[tokio::test]
async fn what_an_expression_makes_too_deep_or_unstorable_fails_by_name() -> Result<()> {
    let scene = Scene::start(coordinator_words(&["--shard-count", "1"])).await?;
    let deep = json!({"name": "deep", "run": format!("{} {FILE}", nested(NESTING_MAX))});
    let flow = |output: Value, more: Option<Value>| {
        let tasks: Vec<Value> = std::iter::once(deep.clone()).chain(more).collect();
        json!({"definition": {"name": "nesting", "tasks": tasks, "output": output}})
    };
    let passed_on = scene.submit_workflow(&flow(json!("${{ tasks.deep.output }}"), None)).await?;
    let wrapped = scene.submit_workflow(&flow(json!({"more": "${{ tasks.deep.output }}"}), None)).await?;
    let nul = scene.submit_workflow(&flow(json!("${{ '\\u0000' }}"), None)).await?;
    let reader = json!({"name": "reader", "handler": "noop", "needs": ["deep"], "with": {"output": {"in": "${{ tasks.deep.output }}"}}});
    let read = scene.submit_workflow(&flow(json!(1), Some(reader))).await?;
    let passed_on = scene.workflow(&passed_on).await?;
    assert_eq!((&passed_on["status"], &passed_on["output"]), (&json!("completed"), &nested_value(NESTING_MAX)));
    for (id, part) in [(&wrapped, "within each other"), (&nul, "NUL")] {
        let failed = scene.workflow(id).await?;
        ensure!(failed["status"] == "failed" && failed["error"].as_str().is_some_and(|error| error.contains(part)), "{failed}");
    }
    assert_eq!(scene.workflow(&read).await?["status"], "failed");
    let reader = scene.task_of(&read, "reader").await?;
    ensure!(
        reader["error_type"] == "expression" && reader["error"].as_str().is_some_and(|error| error.contains("within each other")),
        "{reader}"
    );
    scene.verified().await?;
    scene.finish().await;
    Ok(())
}
