//! The routes without a database and without a lane: everything that is refused before, and a lane that is played by the test.

use super::connections::ConnectionLimits;
use super::*;
use crate::engine::board::{Look, Occasion};
use crate::engine::handle::{Command, Origin, Submitted};
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response, StatusCode, header};
use orchestr8_proto::ids::ExecutionId;
use orchestr8_store::read::read_pool;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower::ServiceExt;

const TOKEN: &str = "a-token-for-tests-0123456789";
const METRICS_TOKEN: &str = "a-token-for-who-watches-0123456789";

/// A router whose database is not there, and what it sends to the lane.
fn served() -> (Router, mpsc::Receiver<Command>) {
    let (engine, mut commands) = EngineHandle::new(1, 8);
    let commands = commands.remove(0);
    // It has listened for long enough to know that there is no executor.
    for _ in 0..3 {
        let (silent_after, tells_until) = (Duration::ZERO, Instant::now());
        engine.show_executors(Look { sightings: Vec::new(), occasion: Occasion::Tick, silent_after, tells_until });
    }
    // Nothing listens on the port: the system gives it to nobody.
    let reads = read_pool(PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(1), 1);
    let tokens = vec![access::Token::new(TOKEN).expect("long enough")];
    let settings = ApiSettings {
        tokens,
        metrics_tokens: vec![access::Token::new(METRICS_TOKEN).expect("long enough")],
        name: "c1".into(),
        log: LogControl::default(),
        spans: SpanSink::default(),
        trace_ratio: 1.0,
        times: ProtocolTimes::default(),
        connections: ConnectionLimits::of(1),
        queues_max: 1,
        shutdown: CancellationToken::new(),
    };
    (router(ApiContext::new(engine, reads, settings, Metrics::default())), commands)
}

fn request(method: Method, path: &str, body: &Value) -> Request<Body> {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {TOKEN}"));
    request.header(header::CONTENT_TYPE, "application/json").body(body).expect("a request")
}

async fn document(response: Response<Body>) -> Value {
    let bytes = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes)))
}

async fn check_problem(request: Request<Body>, code: Code, part: &str) {
    let shown = format!("{} {}", request.method(), request.uri());
    let (router, _commands) = served();
    let response = router.oneshot(request).await.expect("an answer");
    let (status, content_type) = (response.status(), response.headers().get(header::CONTENT_TYPE).cloned());
    let document = document(response).await;
    assert_eq!((status, document["code"].as_str()), (code.status(), Some(code.word())), "{shown}: {document}");
    assert_eq!(content_type.as_ref().and_then(|text| text.to_str().ok()), Some("application/problem+json"), "{shown}");
    assert_eq!(document["type"], json!(format!("/problems/{}", code.word())));
    assert!(document.to_string().contains(part), "{shown}: {document}");
}

/// Answers every submission with ids of shard 3.
fn accept_all(mut commands: mpsc::Receiver<Command>) {
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            let Command::Submit { request, reply } = command else { continue };
            let ids = request.submissions.iter().map(|_| ExecutionId::generate(1, 3, &mut rand::rng())).collect();
            reply.send(Ok(Submitted { ids, origin: Origin::New })).expect("the caller waits");
        }
    });
}

#[tokio::test]
async fn every_route_but_the_open_ones_needs_the_token() {
    let closed = [
        "/api/v1/tasks",
        "/api/v1/workflows",
        "/api/v1/definitions",
        "/metrics",
        "/nothing",
        "/",
        "/problemsx",
        "/api/v1/workflows/x/events",
    ];
    for path in closed {
        let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
        check_problem(request, Code::Unauthorized, "Authorization").await;
        let request = Request::builder().uri(path).header(header::AUTHORIZATION, "Bearer wrong-token-0123456789");
        check_problem(request.body(Body::empty()).expect("a request"), Code::Unauthorized, "not one of").await;
    }
    for path in ["/healthz", "/problems", "/problems/bad_json"] {
        let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
        let response = served().0.oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn the_token_of_those_who_watch_reads_figures_and_nothing_else() {
    let (router, _commands) = served();
    let answered = async |method: Method, path: &str| {
        let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {METRICS_TOKEN}"));
        router.clone().oneshot(request.body(Body::empty()).expect("a request")).await.expect("an answer").status()
    };
    assert_eq!(answered(Method::GET, "/metrics").await, StatusCode::OK);
    // The database is away: it got in.
    for demand in ["/api/v1/queues/default/demand", "/api/v1/queues/default,agents/demand"] {
        assert_eq!(answered(Method::GET, demand).await, StatusCode::SERVICE_UNAVAILABLE);
    }
    for (method, path) in [
        (Method::POST, "/api/v1/queues/default/demand"),
        (Method::POST, "/metrics"),
        (Method::GET, "/api/v1/queues"),
        (Method::POST, "/api/v1/queues/demand/pause"),
        (Method::GET, "/api/v1/queues/default/demand/"),
        (Method::GET, "/api/v1/queues/a/b/demand"),
        (Method::GET, "/api/v1/tasks"),
        (Method::POST, "/api/v1/tasks"),
        (Method::GET, "/api/v1/doctor"),
        (Method::GET, "//metrics"),
    ] {
        assert_eq!(answered(method.clone(), path).await, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
}

#[tokio::test]
async fn what_is_not_ready_is_named() {
    let request = Request::builder().uri("/readyz").body(Body::empty()).expect("a request");
    let response = served().0.oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let document = document(response).await;
    for part in ["database", "nats", "shards"] {
        assert_eq!(document["parts"][part]["ready"], json!(false), "{document}");
    }
}

#[tokio::test]
async fn wrong_requests_are_refused_before_anything_is_read() {
    let get = |path: &str| request(Method::GET, path, &Value::Null);
    for (path, code, part) in [
        ("/api/v1/nothing", Code::UnknownRoute, "/api/v1/nothing"),
        ("/api/v1/tasks?stauts=queued", Code::BadParameter, "known are: status, tags, user_id, agent, since, cursor, limit"),
        ("/api/v1/tasks?status=done", Code::BadParameter, "use one of pending"),
        ("/api/v1/tasks?limit=0", Code::BadParameter, "from 1 to 1000"),
        ("/api/v1/tasks?cursor=abc", Code::BadCursor, "next_cursor"),
        ("/api/v1/tasks?user_id=%00", Code::BadParameter, "NUL"),
        ("/api/v1/workflows?since=yesterday", Code::BadParameter, "RFC 3339"),
        ("/api/v1/tasks/short", Code::BadId, "hex digits"),
        ("/api/v1/tasks/%FF%FE", Code::BadParameter, "UTF-8"),
        ("/api/v1/definitions/nightly@x", Code::BadParameter, "`nightly@x` is not a definition"),
        ("/api/v1/definitions/nightly@0", Code::BadParameter, "a version from 1"),
        ("/api/v1/tasks/0190ab12-0000-7000-8000-000000000001/result?wait=2h", Code::BadParameter, "at most 60 s"),
        ("/api/v1/workflows/0190ab12-0000-7000-8000-000000000000/events?after=x", Code::BadParameter, "whole number"),
        ("/healthz?verbose=1", Code::BadParameter, "none here"),
        ("/problems/nonsense", Code::NotFound, "nonsense"),
    ] {
        check_problem(get(path), code, part).await;
    }
    let delete = || request(Method::DELETE, "/api/v1/tasks", &Value::Null);
    check_problem(delete(), Code::MethodNotAllowed, "Allow").await;
    let response = served().0.oneshot(delete()).await.expect("an answer");
    assert!(response.headers()[header::ALLOW].to_str().is_ok_and(|allow| allow.contains("GET") && allow.contains("POST")));
    let cancel = "/api/v1/tasks/0190ab12-0000-7000-8000-000000000001/cancel";
    check_problem(request(Method::POST, cancel, &json!({"force": true})), Code::BadField, "no body").await;
    for order in ["pause", "resume"] {
        let path = format!("/api/v1/queues/Bad/{order}");
        check_problem(request(Method::POST, &path, &Value::Null), Code::BadParameter, "starting with a letter or digit").await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_called_bad_json() {
    let broken = futures::stream::iter([Ok("{\"run\": "), Err(std::io::Error::other("cut off"))]);
    let post = Request::builder().method(Method::POST).uri("/api/v1/tasks").header(header::CONTENT_TYPE, "application/json");
    let post = post.header(header::AUTHORIZATION, format!("Bearer {TOKEN}")).body(Body::from_stream(broken)).expect("a request");
    check_problem(post, Code::BodyIncomplete, "as a whole").await;
}

/// The rows of the table below `## Errors` in the document: statuses, and words of codes.
fn documented() -> Vec<(String, Vec<String>)> {
    let document = include_str!("../../../docs/api.md");
    let errors = document.split("\n## Errors\n").nth(1).expect("the part about errors");
    let table = errors.split("| status | codes |\n|---|---|\n").nth(1).expect("the table of codes");
    let row = |line: &str| {
        let (status, codes) = line.trim_matches('|').split_once('|').expect("two cells");
        let codes = codes.trim().trim_matches('`').split(' ').map(str::to_owned).collect();
        (status.trim().to_owned(), codes)
    };
    table.lines().take_while(|line| line.starts_with('|')).map(row).collect()
}

#[test]
fn the_table_of_codes_in_the_document_is_the_codes() {
    let mut rows = Vec::new();
    for code in Code::ALL {
        let (status, word) = (code.status().as_u16().to_string(), code.word());
        let found = documented().into_iter().find(|(_, codes)| codes.iter().any(|known| known == word));
        let (statuses, _) = found.unwrap_or_else(|| panic!("docs/api.md does not name `{word}`"));
        assert!(statuses.split(", ").any(|documented| documented == status), "`{word}` is a {status}, not a {statuses}");
        rows.push(word.to_owned());
    }
    let mut named: Vec<String> = documented().into_iter().flat_map(|(_, codes)| codes).collect();
    named.sort_unstable();
    rows.sort_unstable();
    assert_eq!(named, rows, "each code once, and no other");
}

#[tokio::test]
async fn wrong_bodies_are_refused() {
    let post = |body: &str, content_type: &str| {
        let request = Request::builder().method(Method::POST).uri("/api/v1/tasks").header(header::CONTENT_TYPE, content_type);
        request.header(header::AUTHORIZATION, format!("Bearer {TOKEN}")).body(Body::from(body.to_owned())).expect("a request")
    };
    check_problem(post("run: x", "application/yaml"), Code::UnsupportedMediaType, "application/yaml").await;
    check_problem(post("{", "application/json"), Code::BadJson, "line 1").await;
    check_problem(post(r#"{"run": "a\u0000b"}"#, "application/json; charset=utf-8"), Code::BadJson, "NUL").await;
    let large = format!("[\"{}\"]", "x".repeat(body::BODY_BYTES_MAX));
    check_problem(post(&large, "application/json"), Code::BodyTooLarge, "8 MiB").await;
    check_problem(post("[]", "application/json"), Code::BadField, "1 to 1000").await;
    let many = json!(vec![json!({"handler": "noop"}); 1_001]).to_string();
    check_problem(post(&many, "application/json"), Code::BadField, "this one has 1001").await;
    let second_is_wrong = json!([{"handler": "noop"}, {"handler": "noop", "timeout": "x"}]).to_string();
    check_problem(post(&second_is_wrong, "application/json"), Code::BadField, "[1].timeout").await;
    let several = json!([{"run": 5, "queue": "A B"}, {"handler": "noop"}, {"handler": "noop", "timeout": "x", "prio": 1}]).to_string();
    let response = served().0.oneshot(post(&several, "application/json")).await.expect("an answer");
    let errors = document(response).await["errors"].take();
    let fields: Vec<_> = errors.as_array().expect("errors").iter().map(|error| error["field"].as_str().expect("a field")).collect();
    assert_eq!(fields, ["[0].run", "[0].queue", "[2].timeout", "[2].prio"], "{errors}");
    assert_eq!((&errors[2]["value"], errors[2]["message"].as_str().is_some_and(|message| message.contains("90s"))), (&json!("x"), true));
    check_problem(post(r#"{"run": "x", "callback_url": "http://x"}"#, "application/json"), Code::NotYet, "callback_url").await;
}

#[tokio::test]
async fn wrong_workflows_are_refused() {
    let post = |body: Value| request(Method::POST, "/api/v1/workflows", &body);
    let text = "name: x\ntasks:\n  - name: a\n    run: echo\n    timeot: 3s\n";
    check_problem(post(json!({"definition": text})), Code::InvalidDefinition, "\"line\":5").await;
    let strict = json!({"name": "x", "input": {"type": "object", "required": ["city"]}, "tasks": [{"name": "a", "run": "echo"}]});
    check_problem(post(json!({"definition": strict})), Code::InvalidInput, "city").await;
    check_problem(post(json!({"input": {}})), Code::BadField, "`definition` is missing").await;
    let several = post(json!({"definition": 5, "tags": "a", "run_at": "soon", "inputs": {}}));
    let errors = document(served().0.oneshot(several).await.expect("an answer")).await["errors"].take();
    let fields: Vec<_> = errors.as_array().expect("errors").iter().map(|error| error["field"].as_str().expect("a field")).collect();
    assert_eq!(fields, ["definition", "tags", "run_at", "inputs"], "{errors}");
    check_problem(post(json!({"definition": "x", "inputs": {}})), Code::BadField, "`inputs` is not a known key").await;
}

#[tokio::test]
async fn a_database_that_is_away_is_said_with_a_time_to_come_back() {
    let path = "/api/v1/tasks/0190ab12-0000-7000-8000-000000000001";
    let response = served().0.oneshot(request(Method::GET, path, &Value::Null)).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
}

#[tokio::test]
async fn a_task_is_accepted_with_its_ids_and_warnings() {
    let (router, commands) = served();
    accept_all(commands);
    let body = json!({"run": "echo hello", "max_retries": 1});
    let response = router.oneshot(request(Method::POST, "/api/v1/tasks", &body)).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let document = document(response).await;
    let task = document["task_id"].as_str().expect("an id").parse::<orchestr8_proto::ids::TaskId>().expect("a task's");
    assert_eq!(document["workflow_id"], json!(task.execution()));
    assert_eq!(
        (&document["status"], &document["max_attempts"], &document["estimated_duration"]),
        (&json!("queued"), &json!(2), &Value::Null)
    );
    assert_eq!(document["check_status_url"], json!(format!("/api/v1/tasks/{task}/status")));
    assert!(document["warnings"][0].as_str().expect("a warning").contains("queue `default`"));
}

#[tokio::test]
async fn an_array_is_answered_in_its_order() {
    let (router, commands) = served();
    accept_all(commands);
    let later = json!({"handler": "noop", "run_at": "2999-01-01T00:00:00Z"});
    let body = json!([{"handler": "noop", "max_retries": 0}, later, {"handler": "noop", "max_retries": 8}]);
    let response = router.oneshot(request(Method::POST, "/api/v1/tasks", &body)).await.expect("an answer");
    let document = document(response).await;
    let attempts: Vec<_> = (0..3).map(|index| document[index]["max_attempts"].as_u64()).collect();
    assert_eq!(attempts, [Some(1), Some(3), Some(9)], "{document}");
    assert_eq!((&document[0]["status"], &document[1]["status"]), (&json!("queued"), &json!("waiting")));
}

#[tokio::test]
async fn the_engines_refusals_have_codes_of_their_own() {
    use crate::engine::handle::{CommandError, SubmitError};
    let (router, mut commands) = served();
    tokio::spawn(async move {
        let refusals = [SubmitError::KeyReused { key: "k".into() }, SubmitError::Unavailable("no shard".into())];
        for refusal in refusals {
            let Some(Command::Submit { reply, .. }) = commands.recv().await else { panic!("a submission") };
            reply.send(Err(refusal)).expect("the caller waits");
        }
        let Some(Command::Cancel { reply, .. }) = commands.recv().await else { panic!("a cancel") };
        reply.send(Err(CommandError::AlreadyFinal("completed"))).expect("the caller waits");
    });
    let submit = || request(Method::POST, "/api/v1/tasks", &json!({"handler": "noop"}));
    let cancel = request(Method::POST, "/api/v1/workflows/0190ab12-0000-7000-8000-000000000000/cancel", &Value::Null);
    for (request, code) in [(submit(), Code::KeyReused), (submit(), Code::Unavailable), (cancel, Code::AlreadyFinal)] {
        let response = router.clone().oneshot(request).await.expect("an answer");
        assert_eq!((response.status(), document(response).await["code"].as_str()), (code.status(), Some(code.word())));
    }
}

#[tokio::test]
async fn requests_are_counted_by_pattern() {
    let (router, _commands) = served();
    router.clone().oneshot(request(Method::GET, "/api/v1/tasks/short", &Value::Null)).await.expect("an answer");
    let response = router.oneshot(request(Method::GET, "/metrics", &Value::Null)).await.expect("an answer");
    let bytes = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let line = "orchestr8_http_requests_total{method=\"GET\",route=\"/api/v1/tasks/{id}\",status=\"400\"} 1";
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn a_demand_that_cannot_be_counted_is_an_error_and_no_number() {
    check_problem(request(Method::GET, "/api/v1/queues/default/demand", &Value::Null), Code::Unavailable, "the database").await;
    check_problem(request(Method::GET, "/api/v1/queues/Default/demand", &Value::Null), Code::BadParameter, "is not a queue name").await;
    check_problem(request(Method::GET, "/api/v1/queues/default/demand?since=1", &Value::Null), Code::BadParameter, "since").await;
}
