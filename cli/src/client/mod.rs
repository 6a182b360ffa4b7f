//! The HTTP client of a coordinator's REST API. Knows requests and answers, not commands or terminals.
//!
//! - [`address`]: which coordinator, which token; [`tls`]: whose certificate is believed
//! - [`error`]: why a request brought no answer; [`problem`]: what a refusal says
//! - [`shapes`]: the answers, as far as commands read them; [`operating`]: those to operators
//! - [`sse`]: the event stream

pub mod address;
pub mod error;
pub mod operating;
pub mod problem;
pub mod shapes;
pub mod sse;
pub mod tls;

use address::{Address, is_local};
pub use error::ClientError;
use error::{is_plain, reasons};
use orchestr8_proto::traces::TraceParent;
use problem::Problem;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sse::{EventTooLarge, SseEvent, SseParser};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer that the server gives at once: longer than it waits for its own commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);
/// A stream that is silent for longer than this is dead: the server sends comments far more often.
const STREAM_SILENCE_MAX: Duration = Duration::from_mins(1);
/// Largest answer that is read, in bytes: the largest output (64 MiB) as JSON text, with room.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// First and longest pause between two tries.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The environment variable with the span that this process works for.
const TRACEPARENT_VARIABLE: &str = "TRACEPARENT";
/// How long a submission is tried again when nobody answers: covers a coordinator's restart.
pub const SUBMIT_PATIENCE: Duration = Duration::from_secs(45);

/// Pauses between tries, growing up to two seconds.
#[derive(Debug)]
pub struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: PAUSE_FIRST }
    }
}

impl Pauses {
    /// The next pause is at least as long as the coordinator said.
    pub fn told(&mut self, error: &ClientError) {
        self.next = self.next.max(error.retry_after());
    }

    /// Waits, longer each time; not beyond `deadline`.
    pub async fn pause(&mut self, deadline: Option<Instant>) {
        let end = Instant::now() + self.next;
        tokio::time::sleep_until(deadline.map_or(end, |deadline| deadline.min(end))).await;
        self.next = (self.next * 2).min(PAUSE_MAX);
    }
}

/// A coordinator to talk to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    address: Address,
    /// The span that this process works for, by the environment's custom.
    traceparent: Option<TraceParent>,
    /// Whether anybody ever answered there.
    answered: Arc<AtomicBool>,
}

impl Client {
    /// A client for this coordinator; connects when it is first used.
    ///
    /// # Errors
    /// [`ClientError::Authorities`], [`ClientError::Setup`].
    pub fn new(address: Address) -> Result<Self, ClientError> {
        // A redirect could carry the token elsewhere.
        let mut http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).redirect(reqwest::redirect::Policy::none());
        let trusted = tls::trusted(&address).map_err(ClientError::Authorities)?;
        http = http.tls_backend_preconfigured(trusted);
        if is_local(&address.url) {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| ClientError::Setup(reasons(&error)))?;
        let traceparent = std::env::var(TRACEPARENT_VARIABLE).ok().and_then(|parent| parent.parse().ok());
        Ok(Self { http, address, traceparent, answered: Arc::default() })
    }

    /// Whether anything was ever answered: what does not answer now restarts, or else may never have been there.
    #[must_use]
    pub fn was_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether the same request may succeed a little later. Where a coordinator answered before, something else that answers now
    /// stands in for it, as an ingress may while it restarts.
    #[must_use]
    pub fn may_pass(&self, error: &ClientError) -> bool {
        error.is_passing() || (matches!(error, ClientError::Foreign { .. }) && self.was_answered())
    }

    /// The coordinator's address, for messages.
    #[must_use]
    pub fn url(&self) -> &str {
        self.address.url.as_str().trim_end_matches('/')
    }

    /// `GET path`, answered at once. `path` may carry a query.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.get_within(path, ANSWER_TIMEOUT).await
    }

    /// `GET path`, which the server answers within `wait` by its own promise.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get_waiting(&self, path: &str, wait: Duration) -> Result<Value, ClientError> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let waiting = format!("{path}{separator}wait={}ms", wait.as_millis());
        self.get_within(&waiting, wait + ANSWER_TIMEOUT).await
    }

    /// `POST path` without a body, once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn command(&self, path: &str) -> Result<Value, ClientError> {
        self.answer(path, self.request(Method::POST, path).timeout(ANSWER_TIMEOUT)).await
    }

    /// `PUT path` with this body, once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.answer(path, self.request(Method::PUT, path).timeout(ANSWER_TIMEOUT).json(body)).await
    }

    /// `DELETE path`, once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.answer(path, self.request(Method::DELETE, path).timeout(ANSWER_TIMEOUT)).await
    }

    /// `POST path` under a new idempotency key, tried again with the same key for [`SUBMIT_PATIENCE`] while nobody answers.
    ///
    /// # Errors
    /// [`ClientError`]; after [`ClientError::Unreachable`] the work may or may not have been accepted.
    pub async fn submit(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.submit_as(path, body, &Uuid::new_v4().to_string()).await
    }

    /// The same under the caller's key, of printable ASCII characters.
    ///
    /// # Errors
    /// As of [`Client::submit`].
    pub async fn submit_as(&self, path: &str, body: &Value, key: &str) -> Result<Value, ClientError> {
        let deadline = Instant::now() + SUBMIT_PATIENCE;
        let mut pauses = Pauses::default();
        let mut told = false;
        loop {
            let request = self.request(Method::POST, path).timeout(ANSWER_TIMEOUT).header("idempotency-key", key).json(body);
            // What is submitted inside a task, or inside anything else that is traced, belongs to the same trace.
            let request = self.traceparent.iter().fold(request, |request, parent| request.header("traceparent", parent.to_string()));
            match self.answer(path, request).await {
                Err(error) if self.may_pass(&error) && Instant::now() < deadline => {
                    if !std::mem::replace(&mut told, true) {
                        let (url, patience_s) = (self.url(), SUBMIT_PATIENCE.as_secs());
                        eprintln!("no coordinator takes work at {url} at the moment; trying again for {patience_s} s");
                    }
                    pauses.told(&error);
                    pauses.pause(Some(deadline)).await;
                }
                answer => return answer,
            }
        }
    }

    /// Opens the event stream at `path`, after the event with id `after` if one is named.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(&self, path: &str, after: Option<&str>) -> Result<EventStream, ClientError> {
        let mut request = self.request(Method::GET, path).header("accept", "text/event-stream");
        if let Some(id) = after {
            request = request.header("last-event-id", id);
        }
        let response = self.send(path, request).await?;
        // A page of something else would be a stream without events, for ever.
        if !is_event_stream(response.headers()) {
            return Err(self.foreign(path, "its answer is no stream of events".to_owned()));
        }
        self.answered.store(true, Ordering::Relaxed);
        Ok(EventStream { response, parser: SseParser::default(), ready: VecDeque::new() })
    }

    async fn get_within(&self, path: &str, timeout: Duration) -> Result<Value, ClientError> {
        self.answer(path, self.request(Method::GET, path).timeout(timeout)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url())).bearer_auth(self.address.token.reveal())
    }

    /// Sends and checks the status; the body is still to be read.
    async fn send(&self, path: &str, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status == StatusCode::UNAUTHORIZED {
            return Err(ClientError::Unauthorized { url: self.url().to_owned(), from: self.address.token_from.clone() });
        }
        let retry_after = retry_after(response.headers());
        let body = self.read(path, response).await?;
        let problem = Problem { retry_after, ..Problem::read(status.as_u16(), path, &body) };
        // Every refusal of a coordinator has a code. A proxy that finds none behind it says so with one of these.
        if problem.code.is_empty() && !matches!(problem.status, 502..=504) {
            return Err(self.foreign(path, format!("HTTP status {status}")));
        }
        if !problem.code.is_empty() {
            self.answered.store(true, Ordering::Relaxed);
        }
        Err(ClientError::Refused(Box::new(problem)))
    }

    async fn answer(&self, path: &str, request: RequestBuilder) -> Result<Value, ClientError> {
        let response = self.send(path, request).await?;
        let body = self.read(path, response).await?;
        let answer = serde_json::from_slice(&body).map_err(|_| self.foreign(path, "its answer is no JSON".to_owned()))?;
        self.answered.store(true, Ordering::Relaxed);
        Ok(answer)
    }

    async fn read(&self, path: &str, mut response: Response) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(self.malformed(path, format!("more than {ANSWER_BYTES_MAX} bytes")));
            }
        }
        Ok(body)
    }

    /// The answer as the shape that a command reads.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] names the field.
    pub fn shaped<T: DeserializeOwned>(&self, path: &str, answer: &Value) -> Result<T, ClientError> {
        T::deserialize(answer).map_err(|error| self.malformed(path, error.to_string()))
    }

    /// What a command says that has waited long enough for an answer.
    #[must_use]
    pub fn unanswered(&self) -> ClientError {
        ClientError::Unreachable { url: self.url().to_owned(), reason: "no answer in time".to_owned() }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        if is_plain(error) {
            return ClientError::Plain { url: self.url().to_owned(), plain: self.url().replacen("https://", "http://", 1) };
        }
        ClientError::Unreachable { url: self.url().to_owned(), reason: reasons(error) }
    }

    fn foreign(&self, path: &str, reason: String) -> ClientError {
        ClientError::Foreign { url: self.url().to_owned(), path: path.to_owned(), reason }
    }

    fn malformed(&self, path: &str, reason: String) -> ClientError {
        ClientError::Malformed { url: self.url().to_owned(), path: path.to_owned(), reason }
    }
}

/// Why an event stream ended. Open a new one after the last event's id.
#[derive(Debug, thiserror::Error)]
pub enum StreamEnd {
    /// The server ended it.
    #[error("the server ended the stream")]
    Closed,
    /// The connection broke, or was silent for too long.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Not a coordinator's stream.
    #[error(transparent)]
    TooLarge(#[from] EventTooLarge),
}

/// An open event stream.
#[derive(Debug)]
pub struct EventStream {
    response: Response,
    parser: SseParser,
    ready: VecDeque<SseEvent>,
}

impl EventStream {
    /// The next event, as soon as it is there. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`StreamEnd`].
    pub async fn next(&mut self) -> Result<SseEvent, StreamEnd> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let chunk = tokio::time::timeout(STREAM_SILENCE_MAX, self.response.chunk()).await;
            let chunk = chunk.map_err(|_| StreamEnd::Broken("no sign of life".to_owned()))?;
            let chunk = chunk.map_err(|error| StreamEnd::Broken(reasons(&error)))?.ok_or(StreamEnd::Closed)?;
            self.ready.extend(self.parser.push(&chunk)?);
        }
    }
}

/// Whole seconds; a date, which our coordinators never send, counts as nothing said.
fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::address::AddressOptions;
    use super::error::RETRY_AFTER_MAX;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers one request per entry, each on its own connection; returns what was asked.
    async fn serve(listener: TcpListener, answers: Vec<String>) -> Vec<String> {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = vec![0; 4_096];
            let length = stream.read(&mut request).await.expect("a request");
            asked.push(String::from_utf8_lossy(&request[..length]).into_owned());
            stream.write_all(answer.as_bytes()).await.expect("the client reads");
        }
        asked
    }

    fn response(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    async fn client() -> (TcpListener, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let token_file = folder.path().join("token");
        std::fs::write(&token_file, "the-token").expect("writable");
        let options = AddressOptions { url: Some(url), ca: None, token_file: Some(token_file), token: None };
        let address = Address::find(&options, folder.path()).expect("named");
        (listener, Client::new(address).expect("a client"))
    }

    fn header(request: &str, name: &str) -> Option<String> {
        let line = request.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    }

    #[tokio::test]
    async fn a_submission_is_repeated_under_the_same_key() {
        let (listener, client) = client().await;
        let busy = response("503 Service Unavailable", r#"{"title": "Not available at the moment"}"#);
        let server = tokio::spawn(serve(listener, vec![busy, String::new(), response("202 Accepted", r#"{"task_id": 1}"#)]));
        let answer = client.submit("/api/v1/tasks", &serde_json::json!({"run": "true"})).await;
        assert_eq!(answer.expect("accepted at last"), serde_json::json!({"task_id": 1}));
        let asked = server.await.expect("served");
        let keys: Vec<_> = asked.iter().map(|request| header(request, "idempotency-key")).collect();
        assert!(keys[0].is_some() && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        assert_eq!(header(&asked[2], "authorization").as_deref(), Some("Bearer the-token"));
    }

    #[tokio::test]
    async fn a_submission_comes_again_when_it_was_told_to() {
        let (listener, client) = client().await;
        let busy = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}".to_owned();
        let server = tokio::spawn(serve(listener, vec![busy, response("202 Accepted", "{}")]));
        let started = Instant::now();
        client.submit("/api/v1/tasks", &Value::Null).await.expect("accepted at last");
        assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!(server.await.expect("served").len(), 2);
    }

    #[test]
    fn a_wait_that_nobody_would_sit_through_is_cut() {
        let told = |text| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, reqwest::header::HeaderValue::from_static(text))]));
        assert_eq!((told("7"), told("Wed, 21 Oct 2015 07:28:00 GMT")), (Some(Duration::from_secs(7)), None));
        let refused = Problem { status: 503, retry_after: told("86400"), ..Problem::default() };
        assert_eq!(ClientError::Refused(Box::new(refused)).retry_after(), RETRY_AFTER_MAX);
    }

    #[tokio::test]
    async fn a_refusal_is_not_repeated_and_says_why() {
        let (listener, client) = client().await;
        let refusal = response("422 Unprocessable Entity", r#"{"title": "The definition has mistakes", "code": "invalid_definition"}"#);
        let server = tokio::spawn(serve(listener, vec![refusal]));
        let error = client.submit("/api/v1/workflows", &Value::Null).await.expect_err("refused");
        assert_eq!(error.to_string(), "The definition has mistakes (invalid_definition)");
        assert_eq!(server.await.expect("served").len(), 1);
    }

    #[tokio::test]
    async fn a_refused_token_and_a_redirect_are_told() {
        let (listener, client) = client().await;
        let redirect = "HTTP/1.1 302 Found\r\nlocation: http://198.51.100.7/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned();
        let server = tokio::spawn(serve(listener, vec![response("401 Unauthorized", "{}"), redirect]));
        assert!(matches!(client.get("/x").await, Err(ClientError::Unauthorized { .. })));
        assert!(matches!(client.get("/x").await, Err(ClientError::Foreign { reason, .. }) if reason.contains("302")));
        drop(server);
    }

    #[tokio::test]
    async fn another_service_is_no_coordinator_and_passes_only_where_one_was() {
        let (listener, client) = client().await;
        let not_found = response("404 Not Found", r#"{"title": "T", "code": "not_found"}"#);
        let elsewhere = [response("404 Not Found", "<html>"), response("200 OK", "<html>")];
        let answers = [&elsewhere[..], &[not_found], &elsewhere].concat();
        let server = tokio::spawn(serve(listener, answers));
        for passes in [false, true] {
            for _ in 0..2 {
                let error = client.get("/x").await.expect_err("no coordinator");
                assert!(matches!(error, ClientError::Foreign { .. }) && !error.is_not_found(), "{error}");
                assert_eq!(client.may_pass(&error), passes, "{error}");
            }
            if !passes {
                let refused = client.get("/x").await.expect_err("no such thing");
                assert!(refused.is_not_found() && !client.may_pass(&refused));
            }
        }
        drop(server);
    }

    #[tokio::test]
    async fn events_arrive_and_the_stream_ends() {
        let (listener, client) = client().await;
        let stream =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\nid: 4\ndata: {}\n\n: alive\n\n".to_owned();
        let server = tokio::spawn(serve(listener, vec![response("200 OK", "<html>"), stream]));
        let page = client.events("/api/v1/workflows/x/events", Some("3")).await;
        assert!(matches!(page, Err(ClientError::Foreign { .. })) && !client.was_answered(), "{page:?}");
        let mut events = client.events("/api/v1/workflows/x/events", Some("3")).await.expect("open");
        assert_eq!(events.next().await.expect("one event").id, "4");
        assert!(matches!(events.next().await, Err(StreamEnd::Closed)));
        assert_eq!(header(&server.await.expect("served")[1], "last-event-id").as_deref(), Some("3"));
    }

    #[tokio::test]
    async fn nobody_there_is_told_with_what_to_start() {
        let (listener, client) = client().await;
        drop(listener);
        let error = client.get("/x").await.expect_err("nobody");
        assert!(error.is_passing() && error.to_string().contains("orchestr8 dev"), "{error}");
    }
}
