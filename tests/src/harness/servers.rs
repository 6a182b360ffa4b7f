//! Private Postgres and nats-server: `orchestr8 dev --servers-only`, steered over its stdin.
//!
//! The pipe to its stdin is held by this process, so the servers end with it, however it ends.

use super::binary;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

/// Which servers to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Postgres and nats-server.
    Both,
    /// Postgres alone.
    Postgres,
    /// nats-server alone.
    Nats,
}

/// How to start them.
#[derive(Debug, Clone)]
pub struct ServersOptions {
    /// Which.
    pub which: Which,
    /// The folder of `--data`; none: the workspace's, in a part of it that is removed at the end.
    pub data: Option<PathBuf>,
    /// More words for the command line.
    pub more: Vec<OsString>,
    /// More of the environment.
    pub environment: Vec<(String, OsString)>,
}

/// Running servers. They end when this is dropped.
#[derive(Debug)]
pub struct Servers {
    /// What they said of themselves at the start.
    pub first: Addresses,
    pipe: Arc<Mutex<Pipe>>,
}

/// The first line of `dev --servers-only`.
#[derive(Debug, Clone, Deserialize)]
pub struct Addresses {
    /// Postgres, with the password.
    pub database_url: Option<String>,
    /// nats-server, with the password.
    pub nats_url: Option<String>,
    /// Postgres' first process.
    pub postgres_pid: Option<i32>,
    /// nats-server's process.
    pub nats_pid: Option<i32>,
    /// Where the files are.
    pub data: PathBuf,
}

/// The answer to an order.
#[derive(Debug, Clone, Deserialize)]
pub struct Answer {
    /// Why it failed.
    pub error: Option<String>,
    /// Postgres' first process now.
    pub postgres_pid: Option<i32>,
    /// nats-server's process now.
    pub nats_pid: Option<i32>,
}

#[derive(Debug)]
struct Pipe {
    dev: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Default for ServersOptions {
    fn default() -> Self {
        Self { which: Which::Both, data: None, more: Vec::new(), environment: Vec::new() }
    }
}

impl Servers {
    /// The Postgres that all tests of this process share; each takes a database of its own.
    ///
    /// # Errors
    /// When it cannot be started; then every later call fails alike.
    pub fn shared_postgres() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Servers, String>> = OnceLock::new();
        let start =
            || Self::start(&ServersOptions { which: Which::Postgres, ..ServersOptions::default() }).map_err(|error| format!("{error:#}"));
        SHARED.get_or_init(start).as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Starts servers and returns when they are ready.
    ///
    /// # Errors
    /// When they cannot be started; the reason is on stderr.
    pub fn start(options: &ServersOptions) -> Result<Self> {
        let mut dev = command(options)?.spawn().context("`orchestr8 dev` does not start")?;
        let stdin = dev.stdin.take();
        let stdout = BufReader::new(dev.stdout.take().context("stdout is a pipe")?);
        let mut pipe = Pipe { dev, stdin, stdout };
        let mut line = String::new();
        pipe.stdout.read_line(&mut line).context("`orchestr8 dev` does not speak")?;
        let first = serde_json::from_str(&line)
            .with_context(|| format!("`orchestr8 dev --servers-only` did not start (its reason is above), but said: {line:?}"))?;
        Ok(Self { first, pipe: Arc::new(Mutex::new(pipe)) })
    }

    /// The process of `orchestr8 dev` itself.
    ///
    /// # Errors
    /// When a former order panicked.
    pub fn dev_pid(&self) -> Result<i32> {
        let pipe = self.pipe.lock().map_err(|_| anyhow::anyhow!("an order panicked"))?;
        i32::try_from(pipe.dev.id()).context("a process id")
    }

    /// Carries out an order, as in `stop postgres`, `start nats`, `kill nats`, `wipe nats`; a started server is ready.
    ///
    /// # Errors
    /// When it was refused or `dev` is gone.
    pub async fn order(&self, order: &'static str) -> Result<Answer> {
        let pipe = Arc::clone(&self.pipe);
        tokio::task::spawn_blocking(move || pipe.lock().map_err(|_| anyhow::anyhow!("an order panicked"))?.order(order)).await?
    }

    /// Ends them in their own way and waits for it.
    ///
    /// # Errors
    /// When `dev` ended badly.
    pub async fn end(self) -> Result<()> {
        let pipe = Arc::clone(&self.pipe);
        tokio::task::spawn_blocking(move || pipe.lock().map_err(|_| anyhow::anyhow!("an order panicked"))?.end()).await?
    }
}

impl Pipe {
    fn order(&mut self, order: &str) -> Result<Answer> {
        let stdin = self.stdin.as_mut().context("it was ended")?;
        writeln!(stdin, "{order}")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let answer: Answer = serde_json::from_str(&line).with_context(|| format!("no answer to {order:?}, but {line:?}"))?;
        match answer.error {
            Some(error) => bail!("{order}: {error}"),
            None => Ok(answer),
        }
    }

    fn end(&mut self) -> Result<()> {
        self.stdin = None;
        let status = self.dev.wait()?;
        if status.success() { Ok(()) } else { bail!("`orchestr8 dev` ended with {status}") }
    }
}

/// When the last handle goes, the pipe does, and `dev` with it; waiting for it leaves no zombie.
impl Drop for Pipe {
    fn drop(&mut self) {
        self.end().ok();
    }
}

/// The command, ready to be spawned with pipes for stdin and stdout.
///
/// # Errors
/// When the binary is missing.
pub fn command(options: &ServersOptions) -> Result<Command> {
    let mut command = Command::new(binary::orchestr8()?);
    command.args(["dev", "--servers-only", "--only", options.which.word(), "--data"]);
    match &options.data {
        Some(data) => command.arg(data),
        None => command.arg(binary::workspace().join(".orchestr8")).arg("--ephemeral"),
    };
    command.args(&options.more).envs(options.environment.iter().map(|(name, value)| (name, value)));
    command.current_dir(binary::workspace()).stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

/// Connects with the user and password of the address, which the client library leaves unused by itself.
///
/// # Errors
/// When the address is none, or nobody answers there, or the password is refused.
pub async fn connect_nats(url: &str) -> Result<async_nats::Client> {
    let address: async_nats::ServerAddr = url.parse()?;
    let user = address.username().unwrap_or_default().to_owned();
    let password = address.password().unwrap_or_default().to_owned();
    Ok(async_nats::ConnectOptions::with_user_and_password(user, password).connect(address).await?)
}

/// Whether a process exists and is no zombie.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    let state = status.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| state != 'Z')
}

impl Which {
    const fn word(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Postgres => "postgres",
            Self::Nats => "nats",
        }
    }
}
