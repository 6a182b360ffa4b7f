//! Single tasks: what reaches the command, what comes back, retries, timeouts, later starts, a thousand at once.

use crate::harness::wait_for;
use crate::scene::{SOON, Scene, executors, noop, text};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Writes everything that it was given as its output.
const TELL: &str = r#"cat > "$ORCHESTR8_OUTPUT" <<END
{"prompt": "$ORCHESTR8_PROMPT", "greeting": "$WITH_GREETING", "plain": "$PLAIN", "attempt": $ORCHESTR8_ATTEMPT,
 "task": "$ORCHESTR8_TASK_ID", "input": $(cat "$ORCHESTR8_INPUT"), "secret": "$ORCHESTR8_NATS_URL"}
END
echo to-stdout; echo to-stderr >&2"#;

fn moment(value: &Value) -> Result<OffsetDateTime> {
    OffsetDateTime::parse(value.as_str().context("a time")?, &Rfc3339).context("RFC 3339")
}

#[tokio::test]
async fn a_script_gets_its_values_and_its_output_comes_back() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let body = json!({"run": TELL, "prompt": "say $(hi)", "with": {"greeting": "hello", "n": 3}, "env": {"PLAIN": "x y"}});
    let answer = scene.api().post("/api/v1/tasks", &body).await?;
    assert_eq!((&answer["status"], &answer["max_attempts"]), (&json!("queued"), &json!(3)), "{answer}");
    let task = text(&answer, "task_id")?;
    assert_eq!(answer["check_status_url"], json!(format!("/api/v1/tasks/{task}/status")));
    let result = scene.result(&task).await?;
    assert_eq!(result["status"], "completed", "{result}");
    let expected = json!({"prompt": "say $(hi)", "greeting": "hello", "plain": "x y", "attempt": 1, "task": task,
        "input": {"greeting": "hello", "n": 3}, "secret": ""});
    assert_eq!((&result["result"], &result["result_type"]), (&expected, &json!("summary")));
    let detail = scene.api().get(&format!("/api/v1/tasks/{task}")).await?;
    let attempt = &detail["attempt_history"][0];
    assert_eq!((&attempt["stdout_tail"], &attempt["stderr_tail"]), (&json!("to-stdout\n"), &json!("to-stderr\n")));
    assert_eq!(attempt["exit_code"], 0);
    assert_eq!((&detail["agent_name"], &detail["executor_id"]), (&json!("run"), &json!("executor-0")));
    assert_eq!(detail["task_description"], "say $(hi)");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_thousand_tasks_are_one_request() -> Result<()> {
    let scene = Scene::start(executors(2)).await?;
    let tasks: Vec<Value> = (0..1_000).map(|number| noop(&json!(number))).collect();
    let answers = scene.api().post("/api/v1/tasks", &json!(tasks)).await?;
    let ids: Vec<String> = answers.as_array().context("an array")?.iter().map(|answer| text(answer, "task_id")).collect::<Result<_>>()?;
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 1_000);
    let rows = scene.all_completed().await?;
    let results: HashSet<String> = rows.iter().filter_map(|row| row.result.as_ref()).map(Value::to_string).collect();
    assert_eq!((rows.len(), results.len()), (1_000, 1_000));
    for index in [0, 499, 999] {
        assert_eq!(scene.result(&ids[index]).await?["result"], json!(index), "the answers are in the order of the request");
    }
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_failure_is_retried_after_its_backoff_and_only_as_often_as_allowed() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let backoff = json!({"initial_interval": 0.2, "backoff_coefficient": 2, "jitter": 0});
    let failing = |times: u32| {
        json!({"handler": "fail", "with": {"times": times, "message": "no", "error_type": "mood"},
        "max_retries": 2, "retry_backoff": backoff})
    };
    let (recovers, gives_up) = (scene.submit(&failing(2)).await?, scene.submit(&failing(9)).await?);
    assert_eq!(scene.result(&recovers).await?["status"], "completed");
    let gave_up = scene.result(&gives_up).await?;
    assert_eq!((&gave_up["status"], &gave_up["error_type"]), (&json!("failed"), &json!("mood")), "{gave_up}");
    for task in [&recovers, &gives_up] {
        let detail = scene.api().get(&format!("/api/v1/tasks/{task}")).await?;
        assert_eq!(detail["attempts"], 3, "{detail}");
        let history = detail["attempt_history"].as_array().context("attempts")?;
        let first_end = moment(&history[0]["ended_at"])?;
        let second_end = moment(&history[1]["ended_at"])?;
        assert!(second_end - first_end >= Duration::from_millis(200), "{detail}");
        assert!(moment(&detail["completed_at"])? - second_end >= Duration::from_millis(400), "{detail}");
    }
    let never = json!({"handler": "fail", "with": {"error_type": "mood"},
        "retry_backoff": {"max_attempts": 5, "initial_interval": 0.1, "non_retryable": ["mood"]}});
    let never = scene.submit(&never).await?;
    scene.result(&never).await?;
    assert_eq!(scene.until(&never, "failed").await?["attempts"], 1, "its type is not retried");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn the_error_of_an_earlier_attempt_is_not_that_of_the_next() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let mut task = scene.ledger.gated("go");
    let script = format!("[ $ORCHESTR8_ATTEMPT -gt 1 ] || exit 7\n{}", task["run"].as_str().context("a script")?);
    task["run"] = json!(script);
    task["retry_backoff"] = json!({"initial_interval": 1, "jitter": 0});
    let task = scene.submit(&task).await?;
    let error = |answer: &Value| (answer["error"].clone(), answer["error_type"].clone());
    assert_eq!(error(&scene.until(&task, "retrying").await?), (json!("exit code 7"), json!("exit")));
    let running = scene.until(&task, "running").await?;
    assert_eq!(error(&running), (Value::Null, Value::Null), "{running}");
    assert_eq!(error(&running["attempt_history"][0]), (json!("exit code 7"), json!("exit")), "{running}");
    let result = scene.api().get(&format!("/api/v1/tasks/{task}/result")).await?;
    assert_eq!((&result["status"], error(&result)), (&json!("running"), (Value::Null, Value::Null)), "{result}");
    assert_eq!(scene.api().get(&format!("/api/v1/tasks/{task}/status")).await?["error"], Value::Null);
    assert_eq!(scene.number("select count(*) from task_executions where error_type = 'exit'").await?, 1, "reports still find it");
    scene.ledger.open("go")?;
    assert_eq!(scene.result(&task).await?["status"], "completed");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_timeout_ends_the_command_and_at_most_once_is_never_tried_again() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let mut slow = scene.ledger.gated("never");
    slow["timeout"] = json!(0.4);
    slow["max_retries"] = json!(1);
    slow["retry_backoff"] = json!({"initial_interval": 0.1});
    let slow = scene.submit(&slow).await?;
    let result = scene.result(&slow).await?;
    assert_eq!((&result["status"], &result["error_type"]), (&json!("failed"), &json!("timeout")), "{result}");
    assert_eq!(scene.ledger.starts_of(&slow)?.len(), 2);
    assert!(scene.ledger.ends()?.is_empty());
    let once = json!({"run": "exit 7", "at_most_once": true});
    let answer = scene.api().post("/api/v1/tasks", &once).await?;
    assert_eq!(answer["max_attempts"], 1);
    let once = text(&answer, "task_id")?;
    let result = scene.result(&once).await?;
    assert_eq!((&result["status"], &result["error_type"]), (&json!("failed"), &json!("exit")), "{result}");
    let detail = scene.api().get(&format!("/api/v1/tasks/{once}")).await?;
    assert_eq!((&detail["attempts"], &detail["attempt_history"][0]["exit_code"]), (&json!(1), &json!(7)), "{detail}");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_task_for_later_waits_until_then() -> Result<()> {
    let scene = Scene::start(executors(1)).await?;
    let run_at = OffsetDateTime::now_utc() + Duration::from_millis(1_500);
    let mut later = scene.ledger.task();
    later["run_at"] = json!(run_at.format(&Rfc3339)?);
    let answer = scene.api().post("/api/v1/tasks", &later).await?;
    assert_eq!(answer["status"], "waiting", "{answer}");
    let task = text(&answer, "task_id")?;
    assert_eq!(scene.until(&task, "waiting").await?["started_at"], Value::Null);
    let past = scene.submit(&json!({"handler": "noop", "run_at": "2020-01-01T00:00:00Z"})).await?;
    assert_eq!(scene.result(&past).await?["status"], "completed", "what is past starts now");
    assert_eq!(scene.result(&task).await?["status"], "completed");
    assert!(moment(&scene.until(&task, "completed").await?["started_at"])? >= run_at, "it started too early");
    scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn higher_priorities_go_first_and_unserved_queues_are_told() -> Result<()> {
    let mut options = executors(1);
    options.slots = 1;
    let scene = Scene::start(options).await?;
    let blocker = scene.submit(&scene.ledger.gated("go")).await?;
    scene.until_started(&blocker, 1).await?;
    scene.until(&blocker, "running").await?;
    let mut ids = Vec::new();
    for priority in ["low", "normal", "high", "critical"] {
        let mut task = scene.ledger.task();
        task["priority"] = json!(priority);
        ids.push(scene.submit(&task).await?);
    }
    scene.ledger.open("go")?;
    scene.settled().await?;
    let order: Vec<String> = scene.ledger.starts()?.into_iter().map(|start| start.task).filter(|task| *task != blocker).collect();
    assert_eq!(order.first(), ids.last(), "critical goes first: {order:?} of {ids:?}");
    // Only who has listened for a beat of everyone can tell.
    let told = async || {
        let unserved = scene.api().post("/api/v1/tasks", &json!({"handler": "noop", "queue": "nobody"})).await?;
        Ok(unserved["warnings"][0].as_str().map(str::to_owned))
    };
    let warning = wait_for("the warning", SOON, told).await?;
    assert!(warning.contains("queue `nobody`"), "{warning}");
    scene.finish().await;
    Ok(())
}
