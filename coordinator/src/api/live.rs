//! Temporary: reads against a real database.
use super::*;
use crate::engine::handle::Command;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use orchestr8_proto::ids::ExecutionId;
use orchestr8_store::read::{read_pool, statements};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnectOptions;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

const TOKEN: &str = "a-token-for-tests-0123456789";

struct World {
    context: ApiContext,
    pool: sqlx::PgPool,
    _commands: tokio::sync::mpsc::Receiver<Command>,
}

fn world() -> World {
    let (engine, commands) = EngineHandle::new(8);
    let pool = read_pool(PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(55433).username("postgres").database("postgres"), 4);
    let tokens = vec![access::Token::new(TOKEN).expect("long enough")];
    let settings = ApiSettings { tokens, times: ProtocolTimes::new(Duration::from_millis(100)), shutdown: CancellationToken::new() };
    World { context: ApiContext::new(engine, pool.clone(), settings, Metrics::default()), pool, _commands: commands }
}

async fn call(w: &World, method: Method, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    let response = router(w.context.clone()).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
}
async fn get(w: &World, path: &str) -> (u16, Value) {
    call(w, Method::GET, path, Value::Null).await
}

async fn sql(w: &World, text: String) {
    sqlx::raw_sql(AssertSqlSafe(text.clone())).execute(&w.pool).await.unwrap_or_else(|e| panic!("{e}: {text}"));
}

async fn execution(w: &World, status: &str, tasks: u32, user: &str) -> ExecutionId {
    let ms = u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap();
    let id = ExecutionId::generate(ms, 3, &mut rand::rng());
    sql(w, format!("insert into workflow_executions (id, workflow_name, status, created_at, updated_at, plan_hash, user_id, tags, metadata) values ('{id}', 'wf', '{status}', now(), now(), '\\x00', '{user}', '[\"a\",\"b\"]', '{{\"m\":1}}')")).await;
    for i in 0..tasks {
        let t = id.task(i);
        let ts = if status == "completed" { "completed" } else { "queued" };
        sql(w, format!("insert into task_executions (id, workflow_id, task_name, agent_name, task_description, phase, status, priority, queue, created_at, shard, result, attempt) values ('{t}', '{id}', 't{i}', 'noop', 'd', null, '{ts}', 'normal', 'default', now(), 3, '{{\"x\":{i}}}', 1)")).await;
    }
    id
}

#[tokio::test]
async fn live() {
    let w = world();
    for (i, (name, text)) in statements().into_iter().enumerate() {
        sqlx::raw_sql(AssertSqlSafe(format!("prepare s{i} as {text}"))).execute(&w.pool).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    sql(
        &w,
        "truncate workflow_executions, task_executions, task_attempts, task_results, workflow_events, workflow_definitions, plans".into(),
    )
    .await;
    let a = execution(&w, "running", 3, "ann").await;
    let b = execution(&w, "completed", 1, "bob").await;
    let t = a.task(1);
    // lists
    let (s, d) = get(&w, "/api/v1/tasks?limit=2").await;
    assert_eq!((s, d["tasks"].as_array().unwrap().len()), (200, 2), "{d}");
    assert_eq!(d["tasks"][0]["task_id"], json!(b.task(0)));
    let (_, d2) = get(&w, &format!("/api/v1/tasks?limit=2&cursor={}", d["next_cursor"].as_str().unwrap())).await;
    assert_eq!((d2["tasks"].as_array().unwrap().len(), d2["tasks"][0]["task_id"].clone()), (2, json!(t)), "{d2}");
    for (q, n) in [
        ("user_id=ann", 3),
        ("user_id=nobody", 0),
        ("status=completed", 1),
        ("status=completed,queued", 4),
        ("tags=a,b", 4),
        ("tags=a,c", 0),
        ("agent=noop", 4),
        ("agent=x", 0),
        ("since=2020-01-01T00:00:00Z", 4),
        ("since=2999-01-01T00:00:00Z", 0),
    ] {
        let (s, d) = get(&w, &format!("/api/v1/tasks?{q}")).await;
        assert_eq!((s, d["tasks"].as_array().map(Vec::len)), (200, Some(n)), "{q} {d}");
    }
    for (q, n) in [
        ("user_id=ann", 1),
        ("status=completed", 1),
        ("tags=b", 2),
        ("name=wf", 2),
        ("name=x", 0),
        ("since=2999-01-01T00:00:00Z", 0),
        ("limit=1", 1),
    ] {
        let (s, d) = get(&w, &format!("/api/v1/workflows?{q}")).await;
        assert_eq!((s, d["workflows"].as_array().map(Vec::len)), (200, Some(n)), "{q} {d}");
    }
    // one
    sql(&w, format!("insert into task_attempts (task_execution_id, attempt, run_id, executor_id, ended_at, outcome, stdout_tail) select '{t}', g, gen_random_uuid(), 'e1', now(), 'failed', 'out' from generate_series(1, 25) g")).await;
    let (s, d) = get(&w, &format!("/api/v1/tasks/{t}")).await;
    println!("{d:#}");
    assert_eq!((s, d["attempt_history"].as_array().unwrap().len(), d["attempt_history"][19]["attempt"].as_i64()), (200, 20, Some(25)));
    let (s, d) = get(&w, &format!("/api/v1/tasks/{t}/status")).await;
    println!("{s} {d:#}");
    let (s, d) = get(&w, &format!("/api/v1/tasks/{t}/result")).await;
    assert_eq!((s, &d["result"], &d["status"]), (200, &Value::Null, &json!("queued")));
    let (s, d) = get(&w, &format!("/api/v1/tasks/{}/result", b.task(0))).await;
    println!("{s} {d:#}");
    assert_eq!((s, &d["result"]), (200, &json!({"x": 0})));
    sql(&w, format!("update task_executions set result = null where id = '{0}'; insert into task_results (task_execution_id, result_type, result_content) values ('{0}', 'summary', '\"big\"'), ('{0}', 'file', '{{\"path\": \"p\"}}')", b.task(0))).await;
    let (_, d) = get(&w, &format!("/api/v1/tasks/{}/result?wait=10s", b.task(0))).await;
    assert_eq!((&d["result"], &d["files_created"]), (&json!("big"), &json!([{"path": "p"}])));
    // prefixes
    let short = &a.to_string()[..8];
    let (s, d) = get(&w, &format!("/api/v1/tasks/{short}")).await;
    assert_eq!((s, d["code"].as_str(), d["candidates"].as_array().map(Vec::len)), (409, Some("ambiguous_id"), Some(4)), "{d}");
    let (s, _) = get(&w, &format!("/api/v1/workflows/{}", &a.to_string()[..30])).await;
    assert_eq!(s, 200);
    let (s, d) = get(&w, &format!("/api/v1/tasks/{}", &b.to_string()[..30])).await;
    assert_eq!((s, &d["task_id"]), (200, &json!(b.task(0))), "one task of one workflow");
    assert_eq!(get(&w, "/api/v1/tasks/ffffffff").await.0, 404);
    assert_eq!(get(&w, "/api/v1/workflows/ffffffff-ffff-7fff-bfff-fffffff00000/tasks").await.0, 404);
    assert_eq!(get(&w, "/api/v1/workflows/ffffffff-ffff-7fff-bfff-fffffff00000/events").await.0, 404);
    assert_eq!(get(&w, "/api/v1/tasks/ffffffff-ffff-7fff-bfff-fffffff00001/result?wait=1s").await.0, 404);
    // workflow
    let (s, d) = get(&w, &format!("/api/v1/workflows/{a}")).await;
    println!("{s} {d:#}");
    assert_eq!((s, &d["progress"]["tasks_total"]), (200, &json!(3)));
    let (s, d) = get(&w, &format!("/api/v1/workflows/{a}/tasks?limit=2")).await;
    assert_eq!((s, &d["tasks"][1]["task_id"], &d["next_cursor"]), (200, &json!(t), &json!(t)));
    let (_, d) = get(&w, &format!("/api/v1/workflows/{a}/tasks?cursor={t}")).await;
    assert_eq!((d["tasks"].as_array().unwrap().len(), &d["next_cursor"]), (1, &Value::Null));
    assert_eq!(get(&w, &format!("/api/v1/workflows/{b}/tasks?cursor={t}")).await.1["code"], json!("bad_cursor"));
    // definitions
    let yaml = "name: nightly\nphases:\n  - name: one\n    weight: 3\n    tasks:\n      - name: a\n        run: echo\n";
    let (s, d) = call(&w, Method::POST, "/api/v1/definitions", json!({"definition": yaml})).await;
    assert_eq!((s, &d["version"]), (201, &json!(1)), "{d}");
    let (s, d) = call(&w, Method::POST, "/api/v1/definitions", json!({"definition": format!("{yaml}# c\n")})).await;
    assert_eq!((s, &d["version"]), (200, &json!(1)), "{d}");
    let mut all = tokio::task::JoinSet::new();
    for i in 0..8 {
        let (context, body) = (w.context.clone(), json!({"definition": yaml.replace("echo", &format!("echo {}", i % 4))}));
        all.spawn(async move {
            let (_, commands) = EngineHandle::new(1);
            let w = World { pool: context.reads.clone(), context, _commands: commands };
            call(&w, Method::POST, "/api/v1/definitions", body).await
        });
    }
    let mut versions = vec![];
    while let Some(r) = all.join_next().await {
        let (s, d) = r.unwrap();
        assert!(s == 200 || s == 201, "{d}");
        versions.push((s, d["version"].as_i64().unwrap()));
    }
    println!("{versions:?}");
    let (s, d) = get(&w, "/api/v1/definitions").await;
    println!("{s} {d:#}");
    let (s, d) = get(&w, "/api/v1/definitions/nightly@1").await;
    assert_eq!((s, &d["source"]), (200, &json!(yaml)));
    assert_eq!(get(&w, "/api/v1/definitions/nightly@99").await.0, 404);
    assert_eq!(call(&w, Method::POST, "/api/v1/workflows", json!({"definition": "nightlyx"})).await.0, 404);
    // metrics
    let (s, d) = get(&w, "/metrics").await;
    let text = d.as_str().unwrap();
    assert!(s == 200 && text.contains("orchestr8_tasks{queue=\"default\",priority=\"normal\",state=\"queued\"} 3"), "{text}");
    println!("{text}");
    // waits end with the task
    let started = std::time::Instant::now();
    let (context, path) = (w.context.clone(), format!("/api/v1/tasks/{t}/result?wait=20s"));
    let waiting = tokio::spawn(async move {
        let (_, c) = EngineHandle::new(1);
        let w = World { pool: context.reads.clone(), context, _commands: c };
        get(&w, &path).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    sql(&w, format!("update task_executions set status = 'completed' where id = '{t}'")).await;
    let (_, d) = waiting.await.unwrap();
    assert_eq!(d["status"], json!("completed"));
    assert!(started.elapsed() < Duration::from_secs(2), "the reread of 500 ms");
    let started = std::time::Instant::now();
    let (s, d) = get(&w, &format!("/api/v1/workflows/{a}?wait=1s")).await;
    assert_eq!((s, &d["status"]), (200, &json!("running")));
    assert!(started.elapsed() >= Duration::from_secs(1));
    // events
    sql(&w, format!("insert into workflow_events values ('{a}', 1, '[{{\"type\":\"e1\"}},{{\"type\":\"e2\"}}]', now()), ('{a}', 3, '[{{\"type\":\"e3\"}}]', now())")).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, w.context.clone()));
    let mut follow = async |after: &str| {
        let mut s = tokio::net::TcpStream::connect(address).await.unwrap();
        s.write_all(
            format!(
                "GET /api/v1/workflows/{a}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n{after}connection: close\r\n\r\n"
            )
            .as_bytes(),
        )
        .await
        .unwrap();
        s
    };
    let mut one = follow("last-event-id: 1\r\n").await;
    let mut two = follow("").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    sql(&w, format!("insert into workflow_events values ('{a}', 4, '[{{\"type\":\"workflow.completed\"}}]', now()); update workflow_executions set status = 'completed' where id = '{a}'")).await;
    let mut text = String::new();
    one.read_to_string(&mut text).await.unwrap();
    println!("{text}");
    assert!(!text.contains("e1") && text.contains("e2") && text.contains("e3") && text.contains("workflow.completed"));
    let mut text = String::new();
    two.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("e1") && text.contains("workflow.completed"));
    let mut text = String::new();
    follow("last-event-id: 4\r\n").await.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 204"), "{text}");
    // shutdown with an open stream
    sql(&w, format!("update workflow_executions set status = 'running' where id = '{a}'")).await;
    let mut open = follow("last-event-id: 4\r\n").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let started = std::time::Instant::now();
    w.context.settings.shutdown.cancel();
    let mut text = String::new();
    open.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    server.await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(2));
}
