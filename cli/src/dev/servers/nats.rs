//! The private nats-server: its configuration, starting it, hearing when JetStream is ready.

use super::find::Server;
use super::postgres::{server_spec, text_of};
use super::{Started, started_in_time};
use crate::dev::child::{ChildError, ChildPlan};
use crate::dev::files::{FileError, create_folder, hand_over, remove, write_private};
use crate::dev::place::Place;
use crate::dev::secrets::kept_secret;
use orchestr8_executor::shim::StopSignal;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

/// The only user.
const USER: &str = "orchestr8";
/// A stop flushes the streams' stores.
const GRACE_MS: u64 = 10_000;
/// The longest first line of a server.
const GREETING_BYTES_MAX: u64 = 16 * 1024;

/// What a start needs.
#[derive(Debug, Clone)]
pub struct Broker {
    port: u16,
    password: String,
}

/// Chooses the password, which is kept, for the port.
///
/// # Errors
/// [`FileError`] when it cannot be kept.
pub fn broker(place: &Place, port: u16) -> Result<Broker, FileError> {
    Ok(Broker { port, password: kept_secret(&place.root.join("nats-password"))? })
}

/// How to run it.
///
/// # Errors
/// [`FileError`] when its configuration cannot be written.
pub fn plan(server: &Server, broker: &Broker, place: &Place) -> Result<ChildPlan, FileError> {
    let folder = folder(place);
    create_folder(&folder, 0o700)?;
    hand_over(&folder, place.account)?;
    let path = folder.join("nats-server.conf");
    write_private(&path, &configuration(broker, place))?;
    hand_over(&path, place.account)?;
    let argv = vec![text_of(&server.program), "--config".to_owned(), text_of(&path)];
    let shim = server_spec(argv, place, GRACE_MS, StopSignal::Term);
    Ok(ChildPlan { name: "nats-server".to_owned(), shim, log: log_of(place) })
}

/// Waits until JetStream takes requests.
///
/// # Errors
/// [`ChildError::Failed`] when it ends before, or does not get ready in time.
pub async fn wait_ready(broker: &Broker, place: &Place, started: &Started<'_>) -> Result<(), ChildError> {
    let port = broker.port;
    let ready = async |_pid: i32| greeting(port).await.is_some_and(|line| line.starts_with("INFO ") && line.contains("\"jetstream\":true"));
    started_in_time(started, &log_of(place), ready).await
}

/// Removes all streams. The server must be down.
///
/// # Errors
/// [`FileError`] when something is left.
pub fn wipe(place: &Place) -> Result<(), FileError> {
    remove(&store(place))
}

/// The address for clients, with the password.
#[must_use]
pub fn url(broker: &Broker) -> String {
    format!("nats://{USER}:{}@127.0.0.1:{}", broker.password, broker.port)
}

/// `sync_interval` bounds what a power failure takes: the server's own default is two minutes.
fn configuration(broker: &Broker, place: &Place) -> String {
    let Broker { port, password } = broker;
    let store = serde_json::to_string(&text_of(&store(place))).expect("text becomes a JSON string");
    format!(
        r#"# Written at every start by `orchestr8 dev`.
listen: "127.0.0.1:{port}"
server_name: "orchestr8-dev"
authorization {{ user: "{USER}", password: "{password}" }}
jetstream {{ store_dir: {store}, sync_interval: "1s" }}
"#
    )
}

async fn greeting(port: u16) -> Option<String> {
    use tokio::io::AsyncReadExt;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let mut line = String::new();
    BufReader::new(stream.take(GREETING_BYTES_MAX)).read_line(&mut line).await.ok()?;
    Some(line)
}

fn folder(place: &Place) -> PathBuf {
    place.servers.join("nats")
}

fn store(place: &Place) -> PathBuf {
    folder(place).join("store")
}

fn log_of(place: &Place) -> PathBuf {
    place.logs().join("nats-server.log")
}
