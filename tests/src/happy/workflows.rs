//! Workflows: phases, expressions, outputs, failures, timers, inputs, definitions.

use crate::scene::{Scene, executors, text};
use anyhow::{Context, Result};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Three phases with data between them, a timer, a task that recovers.
pub const MAIN: &str = r#"
name: main
input: {type: object, required: [who], properties: {who: {type: string}, count: {type: integer}}}
output: {report: "${{ tasks.report.output }}", shout: "${{ tasks.hello.output.text + '!' }}"}
phases:
  - name: collect
    tasks:
      - {name: hello, handler: noop, with: {output: {text: "hello ${{ input.who }}", count: "${{ input.count }}"}}}
  - name: work
    weight: 3
    tasks:
      - {name: left, run: 'printf "{\"got\": \"$TEXT\"}"', env: {TEXT: "${{ tasks.hello.output.text }}"}}
      - {name: right, handler: fail, with: {times: 1}, retry: {max_attempts: 3, initial_interval: 100ms}}
      - {name: pause, sleep: 300ms}
      - {name: after, handler: noop, needs: [pause], with: {output: "${{ tasks.pause.status }}"}}
  - name: report
    tasks:
      - name: report
        handler: noop
        with: {output: "${{ tasks.left.output.got + ' / ' + tasks.after.output + ' / ' + workflow.name }}"}
"#;

/// Runs [`MAIN`] and checks everything that it should give.
pub async fn check_main(scene: &Scene) -> Result<()> {
    let id =
        scene.submit_workflow(&json!({"definition": MAIN, "input": {"who": "world", "count": 2}, "user_id": "u", "tags": ["t"]})).await?;
    let workflow = scene.workflow(&id).await?;
    assert_eq!(workflow["status"], "completed", "{workflow}");
    assert_eq!(workflow["output"], json!({"report": "hello world / completed / main", "shout": "hello world!"}));
    assert_eq!(scene.task_of(&id, "hello").await?["phase"], "collect");
    assert_eq!(scene.task_of(&id, "right").await?["attempts"], 2);
    let hello = text(&scene.task_of(&id, "hello").await?, "task_id")?;
    assert_eq!(scene.result(&hello).await?["result"], json!({"text": "hello world", "count": 2}), "a number stays a number");
    let page = scene.api().get(&format!("/api/v1/workflows/{id}/tasks")).await?;
    let tasks = page["tasks"].as_array().context("tasks")?;
    assert_eq!(
        tasks.iter().filter_map(|task| task["name"].as_str()).collect::<Vec<_>>(),
        ["hello", "left", "right", "pause", "after", "report"]
    );
    let ended =
        |name: &str| tasks.iter().find(|task| task["name"] == name).and_then(|task| task["completed_at"].as_str()).map(str::to_owned);
    let started =
        |name: &str| tasks.iter().find(|task| task["name"] == name).and_then(|task| task["started_at"].as_str()).map(str::to_owned);
    for (first, then) in [("hello", "left"), ("hello", "pause"), ("pause", "after"), ("right", "report"), ("after", "report")] {
        let (end, start) = (ended(first).context("ended")?, started(then).context("started")?);
        assert!(end <= start, "{first} ended at {end}, {then} started at {start}");
    }
    Ok(())
}

#[tokio::test]
async fn phases_expressions_timers_and_output() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    check_main(&scene).await?;
    scene.verified().await?;
    scene.finish().await;
    Ok(())
}

/// `bad` fails for good; `extra` are its further keys.
fn failing(scene: &Scene, extra: &Value) -> Value {
    let mut bad = json!({"name": "bad", "handler": "fail", "with": {"message": "broken"}, "retry": 1});
    for (key, value) in extra.as_object().into_iter().flatten() {
        bad[key] = value.clone();
    }
    let see = json!({"name": "dependent", "handler": "noop", "needs": ["bad"], "with": {"output": "${{ tasks.bad.status }}"}});
    let last = json!({"name": "last", "handler": "noop", "needs": ["dependent", "sibling"]});
    json!({"definition": {"name": "failing", "tasks": [bad, scene.ledger.named("sibling", "go", &json!({})), see, last]}})
}

#[tokio::test]
async fn a_failure_skips_its_dependents_while_siblings_finish() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let id = scene.submit_workflow(&failing(&scene, &json!({}))).await?;
    let bad = text(&scene.task_of(&id, "bad").await?, "task_id")?;
    scene.until(&bad, "failed").await?;
    assert_eq!(scene.task_of(&id, "dependent").await?["status"], "skipped");
    assert_eq!(scene.api().get(&format!("/api/v1/workflows/{id}")).await?["status"], "running", "the sibling still runs");
    scene.ledger.open("go")?;
    let workflow = scene.workflow(&id).await?;
    assert_eq!(workflow["status"], "failed", "{workflow}");
    assert!(workflow["error"].as_str().is_some_and(|error| error.contains("bad")), "{workflow}");
    let status = async |name: &str| Ok::<_, anyhow::Error>(scene.task_of(&id, name).await?["status"].clone());
    assert_eq!((status("sibling").await?, status("last").await?), (json!("completed"), json!("skipped")));
    scene.verified().await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn under_continue_on_failure_dependents_run_and_see_it() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    scene.ledger.open("go")?;
    let id = scene.submit_workflow(&failing(&scene, &json!({"continue_on_failure": true}))).await?;
    let workflow = scene.workflow(&id).await?;
    assert_eq!(workflow["status"], "completed", "{workflow}");
    let dependent = text(&scene.task_of(&id, "dependent").await?, "task_id")?;
    assert_eq!(scene.result(&dependent).await?["result"], "failed");
    scene.verified().await?;
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn what_the_definition_refuses_stores_nothing() -> Result<()> {
    let scene = Scene::start(executors(0)).await?;
    let refused = async |body: Value| {
        let request = scene.api().request(Method::POST, "/api/v1/workflows").json(&body);
        let (status, problem) = scene.api().answer(request).await?;
        assert!(status.is_client_error(), "{status} {problem}");
        Ok::<_, anyhow::Error>(problem)
    };
    let problem = refused(json!({"definition": MAIN, "input": {"who": 5, "count": "x"}})).await?;
    let shown = problem.to_string();
    assert!(shown.contains("who") && shown.contains("count"), "both are told: {problem}");
    let problem = refused(json!({"definition": MAIN})).await?;
    assert!(problem.to_string().contains("who"), "{problem}");
    let problem =
        refused(json!({"definition": "name: w\ntasks:\n- {name: a, run: x, retires: 3}\n- {name: b, run: x, needs: [c]}\n"})).await?;
    let findings = problem["problems"].as_array().with_context(|| format!("problems in {problem}"))?;
    assert_eq!(findings.iter().map(|finding| &finding["line"]).collect::<Vec<_>>(), [3, 4], "{problem}");
    let problem = refused(json!({"definition": "unheard-of"})).await?;
    assert!(problem.to_string().contains("unheard-of"), "{problem}");
    assert_eq!(scene.number("select count(*) from workflow_executions").await?, 0);
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn an_execution_stays_with_the_version_it_began_with() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let source = |output: &str| json!({"definition": format!("name: versioned\noutput: '{output}'\ntasks:\n- {{name: wait, sleep: 1s}}\n- {{name: a, handler: noop, needs: [wait]}}\n")});
    let first = scene.api().post("/api/v1/definitions", &source("one")).await?;
    assert_eq!(first["version"], 1, "{first}");
    let before = scene.submit_workflow(&json!({"definition": "versioned"})).await?;
    assert_eq!(scene.api().post("/api/v1/definitions", &source("one")).await?["version"], 1, "the same content is the same version");
    assert_eq!(scene.api().post("/api/v1/definitions", &source("two")).await?["version"], 2);
    let after = scene.submit_workflow(&json!({"definition": "versioned"})).await?;
    let pinned = scene.submit_workflow(&json!({"definition": "versioned@1"})).await?;
    for (id, output) in [(before, "one"), (after, "two"), (pinned, "one")] {
        assert_eq!(scene.workflow(&id).await?["output"], output);
    }
    let list = scene.api().get("/api/v1/definitions").await?;
    assert!(list.to_string().contains("versioned"), "{list}");
    let request = scene.api().request(Method::POST, "/api/v1/definitions").json(&json!({"definition": "name: w"}));
    assert_eq!(scene.api().answer(request).await?.0, StatusCode::UNPROCESSABLE_ENTITY);
    scene.finish().await;
    Ok(())
}
