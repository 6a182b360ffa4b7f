//! The API's connections: how many there are at most, and how long one may take and give nothing.
//!
//! A connection is *idle* while no request on it is under way, and a request is under way from the end of its head to the
//! end of its answer. So whoever sends a head in drops, or nothing at all, is idle, with HTTP/1 and HTTP/2 alike.

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::serve::Listener;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// A connection that is to end and idle ends after this, whatever its client says or leaves out.
const GOODBYE: Duration = Duration::from_secs(1);
/// That connections wait for others to end is said this often at most.
const FULL_SAID_EVERY: Duration = Duration::from_mins(1);

/// The bounds of the API's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open at the same time, at most, at least 1: who comes then waits until another ends.
    pub connections_max: usize,
    /// A TLS handshake takes no longer.
    pub handshake_within: Duration,
    /// From the connection, and its handshake, to the end of the first request's head.
    pub first_request_within: Duration,
    /// The longest that a connection is idle after a request.
    pub idle_max: Duration,
}

impl ConnectionLimits {
    /// The usual times. An idle connection outlives the 60 s for which most proxies keep theirs, so that it is they who end it.
    #[must_use]
    pub const fn of(connections_max: usize) -> Self {
        Self {
            connections_max,
            handshake_within: Duration::from_secs(10),
            first_request_within: Duration::from_secs(30),
            idle_max: Duration::from_secs(75),
        }
    }
}

/// What every connection is served with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Serving {
    /// What answers.
    pub routes: Router,
    /// Does the handshakes; none: no TLS.
    pub tls: Option<TlsAcceptor>,
    /// The bounds.
    pub limits: ConnectionLimits,
    /// Nothing more is accepted once this is cancelled.
    pub shutdown: CancellationToken,
}

impl Serving {
    /// Accepts until the shutdown, then waits for the requests under way.
    pub(super) async fn run(self, mut listener: impl Listener<Io = TcpStream, Addr = SocketAddr>) {
        let mut places = Places::new(self.limits.connections_max);
        let mut open = JoinSet::new();
        loop {
            while open.try_join_next().is_some() {}
            let next = async {
                let place = places.one().await;
                (listener.accept().await, place)
            };
            let ((stream, peer), place) = tokio::select! {
                next = next => next,
                () = self.shutdown.cancelled() => break,
            };
            let serving = self.clone();
            open.spawn(async move {
                serving.connection(stream, peer).await;
                drop(place);
            });
        }
        drop(listener);
        while open.join_next().await.is_some() {}
    }

    /// Serves one connection to its end.
    async fn connection(self, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
        let Some(acceptor) = &self.tls else { return self.requests(stream, peer).await };
        match tokio::time::timeout(self.limits.handshake_within, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.requests(stream, peer).await,
            // Anybody can cause it, so it is no alarm.
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
        }
    }

    async fn requests(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: SocketAddr) {
        let activity = Arc::new(Activity::new(Instant::now()));
        let service = counted(self.routes.clone(), activity.clone());
        let builder = Builder::new(TokioExecutor::new());
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => return told(peer, ended),
            () = activity.idled(self.limits.first_request_within, self.limits.idle_max) => {}
            () = self.shutdown.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        activity.restart(Instant::now());
        tokio::select! {
            ended = connection => told(peer, ended),
            () = activity.idled(GOODBYE, GOODBYE) => tracing::debug!(%peer, "a connection was idle for too long"),
        }
    }
}

/// Clients go as they like, so an end is no alarm.
fn told(peer: SocketAddr, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended");
    }
}

/// Room for connections.
struct Places {
    free: Arc<Semaphore>,
    connections_max: usize,
    full_said: Option<Instant>,
}

impl Places {
    fn new(connections_max: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(connections_max)), connections_max, full_said: None }
    }

    /// Waits for one; it is free again when dropped.
    async fn one(&mut self) -> OwnedSemaphorePermit {
        if self.free.available_permits() == 0 && self.full_said.is_none_or(|at| at.elapsed() >= FULL_SAID_EVERY) {
            self.full_said = Some(Instant::now());
            let connections_max = self.connections_max;
            tracing::warn!(connections_max, "the API has all its connections: more of them wait until others end; raise --connections-max");
        }
        self.free.clone().acquire_owned().await.expect("it is never closed")
    }
}

/// What goes on on one connection.
struct Activity {
    inside: Mutex<Doing>,
}

struct Doing {
    under_way: usize,
    /// When the last request ended; before the first, when the connection began.
    idle_since: Instant,
    requests: Requests,
}

/// Whether the connection was ever of use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Requests {
    None,
    Some,
}

impl Activity {
    fn new(now: Instant) -> Self {
        Self { inside: Mutex::new(Doing { under_way: 0, idle_since: now, requests: Requests::None }) }
    }

    /// A request is under way until the answer is dropped.
    fn begin(self: &Arc<Self>) -> UnderWay {
        self.with(|doing| {
            doing.under_way += 1;
            doing.requests = Requests::Some;
        });
        UnderWay(self.clone())
    }

    /// An idle connection counts as idle from now on only.
    fn restart(&self, now: Instant) {
        self.with(|doing| doing.idle_since = now);
    }

    /// Waits until the connection has been idle for `first` if it never had a request, else for `later`.
    async fn idled(&self, first: Duration, later: Duration) {
        loop {
            let left = self.left((first, later), Instant::now());
            if left.is_zero() {
                return;
            }
            // A first request meanwhile changes what is allowed.
            tokio::time::sleep(left.min(later)).await;
        }
    }

    /// The earliest time after which the connection could have been idle for so long.
    fn left(&self, (first, later): (Duration, Duration), now: Instant) -> Duration {
        self.with(|doing| {
            let allowed = if doing.requests == Requests::None { first } else { later };
            let idle = if doing.under_way == 0 { now.saturating_duration_since(doing.idle_since) } else { Duration::ZERO };
            allowed.saturating_sub(idle)
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Doing) -> T) -> T {
        change(&mut self.inside.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One request, or its answer. Dropping it ends it.
struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.with(|doing| {
            doing.under_way -= 1;
            doing.idle_since = Instant::now();
        });
    }
}

type Answered = Result<Response<Answer>, Infallible>;

/// The routes, with each request counted as under way.
fn counted(
    routes: Router,
    activity: Arc<Activity>,
) -> impl Service<Request<Incoming>, Response = Response<Answer>, Error = Infallible, Future: Send + 'static> {
    let routes = TowerToHyperService::new(routes);
    service_fn(move |request: Request<Incoming>| {
        let under_way = activity.begin();
        let answering = routes.call(request);
        async move {
            let answered: Answered = answering.await.map(|response| response.map(|body| Answer { body, _under_way: under_way }));
            answered
        }
    })
}

/// The body of an answer, whose request is under way until its end.
struct Answer {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::{get, post};
    use rustls::server::ResolvesServerCertUsingSni;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::Notify;

    /// No test waits longer for anything.
    const PATIENCE: Duration = Duration::from_secs(20);
    /// Never reached.
    const LONG: Duration = Duration::from_hours(1);
    const SHORT: Duration = Duration::from_millis(50);
    const LIMITS: ConnectionLimits =
        ConnectionLimits { connections_max: 8, handshake_within: LONG, first_request_within: LONG, idle_max: LONG };
    const HELLO: &str = "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A server with `/hello`, `/wait`, which answers when it is told to, and `/body`; dropping it stops it.
    struct Server {
        address: SocketAddr,
        answer: Arc<Notify>,
        shutdown: CancellationToken,
        running: tokio::task::JoinHandle<()>,
    }

    impl Server {
        async fn start(limits: ConnectionLimits, tls: Option<TlsAcceptor>) -> Self {
            let answer = Arc::new(Notify::new());
            let waiting = answer.clone();
            let routes = Router::new()
                .route("/hello", get(async || "hello"))
                .route("/body", post(async |body: String| body))
                .route("/wait", get(async move || waiting.notified().await));
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            let (address, shutdown) = (listener.local_addr().expect("bound"), CancellationToken::new());
            let running = tokio::spawn(Serving { routes, tls, limits, shutdown: shutdown.clone() }.run(listener));
            Self { address, answer, shutdown, running }
        }

        async fn connect(&self, says: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.expect("it listens");
            stream.write_all(says.as_bytes()).await.expect("open");
            stream
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.shutdown.cancel();
        }
    }

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(PATIENCE, what).await.expect("in time")
    }

    /// Reads until the text has come.
    async fn hear(stream: &mut TcpStream, text: &str) {
        let mut heard = Vec::new();
        while !String::from_utf8_lossy(&heard).contains(text) {
            assert_ne!(soon(stream.read_buf(&mut heard)).await.expect("open"), 0, "it ended: {}", String::from_utf8_lossy(&heard));
        }
    }

    /// Waits until the server has closed the connection.
    async fn closed(mut stream: TcpStream) {
        let mut heard = Vec::new();
        // A reset is an end as well.
        soon(stream.read_to_end(&mut heard)).await.ok();
    }

    #[tokio::test]
    async fn whoever_sends_no_head_or_half_of_one_is_cut_off() {
        let server = Server::start(ConnectionLimits { first_request_within: SHORT, ..LIMITS }, None).await;
        for beginning in ["", "PRI * HTTP/2.0\r\n", "GET /hello HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
            closed(server.connect(beginning).await).await;
        }
        // HTTP/2: the preface, settings, and the beginning of a head that never ends.
        let mut begun = TcpStream::connect(server.address).await.expect("it listens");
        let frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x82";
        begun.write_all(frames).await.expect("open");
        closed(begun).await;
    }

    #[tokio::test]
    async fn a_connection_without_requests_ends_and_one_with_a_request_under_way_does_not() {
        let server = Server::start(ConnectionLimits { idle_max: SHORT, ..LIMITS }, None).await;
        let mut idle = server.connect(HELLO).await;
        hear(&mut idle, "hello").await;
        let mut busy = server.connect(&HELLO.replace("hello", "wait")).await;
        let mut slow = server.connect("POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nto ").await;
        closed(idle).await;
        // By now an idle one would have ended.
        closed({
            let mut second = server.connect(HELLO).await;
            hear(&mut second, "hello").await;
            second
        })
        .await;
        slow.write_all(b"be").await.expect("a request under way is left alone");
        hear(&mut slow, "to be").await;
        server.answer.notify_one();
        hear(&mut busy, "200 OK").await;
    }

    #[tokio::test]
    async fn whoever_comes_beyond_the_bound_waits_until_another_ends() {
        let server = Server::start(ConnectionLimits { connections_max: 2, ..LIMITS }, None).await;
        let (mut one, mut other) = (server.connect(HELLO).await, server.connect(HELLO).await);
        hear(&mut one, "hello").await;
        hear(&mut other, "hello").await;
        let mut third = server.connect(HELLO).await;
        let mut early = [0];
        assert!(tokio::time::timeout(SHORT * 4, third.read(&mut early)).await.is_err(), "it has no place yet");
        drop(one);
        hear(&mut third, "hello").await;
    }

    #[tokio::test]
    async fn a_handshake_that_does_not_come_ends_the_connection() {
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().expect("the provider has them").with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(config.with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()))));
        let server = Server::start(ConnectionLimits { handshake_within: SHORT, ..LIMITS }, Some(acceptor)).await;
        for beginning in ["", "\x16\x03\x01"] {
            closed(server.connect(beginning).await).await;
        }
    }

    #[tokio::test]
    async fn a_shutdown_ends_what_is_idle_and_waits_for_what_is_under_way() {
        let mut server = Server::start(LIMITS, None).await;
        let mut busy = server.connect(&HELLO.replace("hello", "wait")).await;
        let mut idle = server.connect(HELLO).await;
        hear(&mut idle, "hello").await;
        let begun = server.connect("GET /hello HTTP/1.1\r\n").await;
        server.shutdown.cancel();
        closed(idle).await;
        closed(begun).await;
        assert!(!server.running.is_finished(), "a request is under way");
        server.answer.notify_one();
        hear(&mut busy, "200 OK").await;
        soon(&mut server.running).await.expect("no panic");
    }
}
