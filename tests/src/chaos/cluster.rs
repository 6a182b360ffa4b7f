//! Three nats-servers that keep copies of each other's streams. Each way from one to another has a proxy, and they tell nobody
//! an address, so that neither they nor their clients find a way past the proxies.

use crate::harness::api::http_client;
use crate::harness::installation::free_port;
use crate::harness::process::ProcessPlan;
use crate::harness::proxy::{Proxy, Route};
use crate::harness::servers::is_alive;
use crate::harness::{Process, wait_for};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

/// How many servers there are: the fewest of which one may be missing.
pub const SERVERS: usize = 3;
/// The only user.
const USER: &str = "orchestr8";
/// A server takes back its place when it has copied what it missed.
const READY_MAX: Duration = Duration::from_mins(2);
const TEXT: &str = "writing to text does not fail";

/// The running servers; they end with this process.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
    folder: PathBuf,
    password: String,
    /// By the server that connects, then by the server that it connects to.
    routes: Vec<Vec<Proxy>>,
}

#[derive(Debug)]
struct Server {
    process: Process,
    ports: Ports,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    clients: u16,
    routes: u16,
    monitor: u16,
}

impl Cluster {
    /// Starts all three in folders below `folder`, and returns when each takes requests.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start(program: &Path, folder: &Path) -> Result<Self> {
        let password = uuid::Uuid::new_v4().simple().to_string();
        let ports = || Ok(Ports { clients: free_port()?, routes: free_port()?, monitor: free_port()? });
        let ports: Vec<Ports> = (0..SERVERS).map(|_| ports()).collect::<Result<_>>()?;
        let mut cluster = Self { servers: Vec::new(), folder: folder.to_owned(), password, routes: Vec::new() };
        for (number, own) in ports.iter().enumerate() {
            let mut ways = Vec::new();
            for other in &ports {
                ways.push(Proxy::start(&format!("nats-route://127.0.0.1:{}", other.routes)).await?);
            }
            cluster.routes.push(ways);
            std::fs::create_dir_all(cluster.folder_of(number))?;
            let settings = cluster.folder_of(number).join("nats-server.conf");
            std::fs::write(&settings, cluster.settings(number, *own)?)?;
            let plan = ProcessPlan {
                name: format!("nats-{number}"),
                program: Some(program.to_owned()),
                words: vec!["--config".to_owned(), settings.to_string_lossy().into_owned()],
                environment: Vec::new(),
                log: folder.join(format!("nats-{number}.log")),
            };
            cluster.servers.push(Server { process: Process::start(plan).await?, ports: *own });
        }
        for number in 0..SERVERS {
            cluster.wait_ready(number).await?;
        }
        Ok(cluster)
    }

    /// The address of each server, with the password.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        let url = |server: &Server| format!("nats://{USER}:{}@127.0.0.1:{}", self.password, server.ports.clients);
        self.servers.iter().map(url).collect()
    }

    /// The logs.
    #[must_use]
    pub fn logs(&self) -> Vec<&Path> {
        self.servers.iter().map(|server| server.process.log()).collect()
    }

    /// The process of a server.
    #[must_use]
    pub fn pid(&self, number: usize) -> i32 {
        self.servers[number].process.pid()
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self, number: usize) -> Result<()> {
        ensure!(is_alive(self.pid(number)), "nats-{number} has ended by itself");
        self.servers[number].process.kill().await.map(drop)
    }

    /// SIGTERM; returns when it has ended.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn stop(&mut self, number: usize) -> Result<()> {
        ensure!(is_alive(self.pid(number)), "nats-{number} has ended by itself");
        self.servers[number].process.terminate().await.map(drop)
    }

    /// Starts one that is down; it greets clients then.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn run(&mut self, number: usize) -> Result<()> {
        self.servers[number].process.restart().await?;
        let port = self.servers[number].ports.clients;
        wait_for("a greeting of nats-server", READY_MAX, async || Ok(greets(port).await.then_some(()))).await
    }

    /// Waits until a server has caught up with the others.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_ready(&self, number: usize) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/healthz", self.servers[number].ports.monitor);
        let what = format!("nats-{number} in good health");
        let client = http_client(Vec::new());
        wait_for(&what, READY_MAX, async || {
            let answer = client.get(&url).send().await?;
            let (status, text) = (answer.status(), answer.text().await?);
            ensure!(status.is_success(), "{text}");
            Ok(Some(()))
        })
        .await
    }

    /// Removes everything that a server has stored; it must be down.
    ///
    /// # Errors
    /// When something is left.
    pub fn wipe(&self, number: usize) -> Result<()> {
        std::fs::remove_dir_all(self.store(number)).with_context(|| format!("the store of nats-{number}"))
    }

    /// Where a server keeps its streams.
    #[must_use]
    pub fn store(&self, number: usize) -> PathBuf {
        self.folder_of(number).join("store")
    }

    /// What passes between a server and the two others.
    pub fn set(&self, number: usize, route: Route) {
        self.routes[number].iter().for_each(|way| way.set(route));
        self.routes.iter().for_each(|ways| ways[number].set(route));
    }

    fn folder_of(&self, number: usize) -> PathBuf {
        self.folder.join(format!("nats-{number}"))
    }

    /// Where a stream has three copies, `sync_interval: always` makes that true of a power failure also. The address that is told
    /// to the others answers nobody: they use the configured ways.
    fn settings(&self, number: usize, ports: Ports) -> Result<String> {
        let mut routes = String::new();
        for (other, way) in self.routes[number].iter().enumerate().filter(|(other, _)| *other != number) {
            let url = way.url(&format!("nats-route://127.0.0.1:{}", ports.routes))?;
            write!(routes, "{}\"{url}\"", if other == 0 || (number == 0 && other == 1) { "" } else { ", " }).expect(TEXT);
        }
        let (password, store) = (&self.password, self.store(number));
        let Ports { clients, routes: own, monitor } = ports;
        Ok(format!(
            r#"listen: "127.0.0.1:{clients}"
http: "127.0.0.1:{monitor}"
server_name: "nats-{number}"
authorization {{ user: "{USER}", password: "{password}" }}
jetstream {{ store_dir: "{}", sync_interval: "always" }}
cluster {{
  name: "chaos", listen: "127.0.0.1:{own}", advertise: "127.0.0.1:1", no_advertise: true
  routes: [{routes}]
}}
"#,
            store.display()
        ))
    }
}

async fn greets(port: u16) -> bool {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.is_ok() && line.starts_with("INFO ")
}
