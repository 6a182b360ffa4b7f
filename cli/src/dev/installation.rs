//! A coordinator and executors as children of `dev`, on the private servers.

use super::accounts::{Account, can_enter, owner_of};
use super::child::{ChildError, ChildPlan, Kept, Order, own_program, tail_of};
use super::files::{FileError, create_folder, read_if_there, write_private};
use super::place::Place;
use super::secrets::{keep_token_keys, kept_secret};
use super::servers::ports::{self, PortError};
use super::servers::postgres::text_of;
use super::servers::{Lifetime, Servers};
use super::stop::Stop;
use crate::client::tls::nobody;
use orchestr8_executor::shim::{Shim, ShimError, ShimSpec, StopSignal};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The file that tells other commands where the coordinator is.
pub const URL_FILE: &str = "url";
/// The coordinator's port when nothing else has it.
const PORT_DEFAULT: u16 = 8_088;
/// A coordinator lets its requests and its batch end.
const COORDINATOR_GRACE_MS: u64 = 15_000;
/// How long started tasks may go on after Ctrl-C; then they are handed back, for the next start.
const DRAIN_TIMEOUT: &str = "5s";
/// An executor drains, ends its commands and waits for confirmations.
const EXECUTOR_GRACE_MS: u64 = 15_000;
/// When `dev` was killed, the servers go with it: there is nobody to drain for, and the next start takes up what was cut off.
const ORPHAN_GRACE_MS: u64 = 500;
/// How long commands have to end when they are asked to.
const COMMAND_GRACE: &str = "3s";
/// A shorter token is refused by the coordinator.
const TOKEN_BYTES_MIN: usize = 16;
/// The client of `--run` only watches.
const CLIENT_GRACE_MS: u64 = 2_000;
/// From the coordinator's start, migrations included, to its being ready.
const READY_MAX: Duration = Duration::from_mins(1);
/// Between two questions whether it is.
const READY_INTERVAL: Duration = Duration::from_millis(20);
/// A coordinator that died this often before it was ever ready will not become so.
const DEATHS_MAX: u32 = 3;
/// What the children see of our environment. Tasks run as the same user could read more, so there is no more.
const PASSED_VARIABLES: [&str; 18] = [
    "ORCHESTR8_LOG",
    "ORCHESTR8_LOG_FORMAT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TERM",
    "NO_COLOR",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "CARGO_HOME",
    "RUSTUP_HOME",
];

/// Those that say where a Rust toolchain is.
const TOOLCHAIN_VARIABLES: [&str; 2] = ["CARGO_HOME", "RUSTUP_HOME"];

/// The workflow of `--run`.
#[derive(Debug)]
pub struct Watched<'a> {
    /// Its definition.
    pub file: &'a Path,
    /// NAME=VALUE each.
    pub inputs: &'a [String],
    /// How long it can be asked about: of what is removed with its end nothing is told to try next.
    pub lifetime: Lifetime,
}

/// Why the installation does not run.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// The port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A token or folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// The token was changed by hand.
    #[error("{}: it holds no token of one line and at least {TOKEN_BYTES_MIN} visible ASCII characters: remove the file, and a new one is made", .0.display())]
    Token(PathBuf),
    /// A child that does not start.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The client of `--run` did not start.
    #[error(transparent)]
    Client(#[from] ShimError),
    /// The current directory is gone.
    #[error("the current directory cannot be used: {0}")]
    Directory(std::io::Error),
    /// The client that looks whether the coordinator is ready.
    #[error("the HTTP client cannot be set up: {0}")]
    Probe(reqwest::Error),
    /// The coordinator does not get ready; its log says why.
    #[error("the coordinator does not get ready ({reason}); the end of {}:\n{tail}", log.display())]
    NotReady {
        /// Its last answer, or that there is none.
        reason: String,
        /// Its log.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
}

/// How many, how large, and where.
#[derive(Debug, Clone)]
pub struct InstallationOptions {
    /// The number of executors.
    pub executors: u16,
    /// Of each executor.
    pub slots: u16,
    /// The coordinator's port; none: the default, or a free one.
    pub port: Option<u16>,
}

/// The running children.
#[derive(Debug)]
pub struct Installation {
    coordinator: Kept,
    executors: Vec<Kept>,
    url: String,
    token: String,
}

/// What every child needs to know.
struct Surroundings<'a> {
    place: &'a Place,
    program: String,
    directory: PathBuf,
    database_url: String,
    nats_url: String,
}

impl Installation {
    /// Starts the children and returns when the coordinator is ready.
    ///
    /// # Errors
    /// [`InstallationError`]; what was started ends by itself.
    pub async fn start(servers: &Servers, place: &Place, options: &InstallationOptions) -> Result<Self, InstallationError> {
        let around = Surroundings::of(servers, place)?;
        let token = kept_secret(&place.root.join("token"))?;
        keep_token_keys(&place.root.join("token-keys"))?;
        create_folder(&place.root.join("runs"), 0o711)?;
        let port = ports::choose_or(PORT_DEFAULT, "--port", options.port)?;
        if let Some(passed_over) = port.passed_over {
            eprintln!("port {passed_over} is taken by something else, so the coordinator listens on {}", port.port);
        }
        let port = port.port;
        let url = format!("http://127.0.0.1:{port}");
        let coordinator = Kept::start(around.coordinator(port)).await?;
        let mut installation = Self { coordinator, executors: Vec::new(), url, token };
        installation.wait_ready(&log_of(place, "coordinator"), 0).await?;
        for number in 1..=options.executors {
            installation.executors.push(Kept::start(around.executor(number, options.slots)).await?);
        }
        installation.wait_ready(&log_of(place, "coordinator"), options.executors).await?;
        write_private(&place.root.join(URL_FILE), &format!("{}\n", installation.url))?;
        Ok(installation)
    }

    /// Every address, for people. Passwords stay in their files.
    #[must_use]
    pub fn banner(&self, servers: &Servers, place: &Place) -> String {
        let mut lines = vec![format!("coordinator  {}", self.url)];
        if let Some(postgres) = &servers.postgres {
            lines.push(format!(
                "postgres     {}  ({} {})",
                without_password(&postgres.url()),
                postgres.server.program.display(),
                postgres.server.version
            ));
        }
        if let Some(nats) = &servers.nats {
            lines.push(format!(
                "nats         {}  ({} {})",
                without_password(&nats.url()),
                nats.server.program.display(),
                nats.server.version
            ));
        }
        lines.push(format!("executors    {}", executors_shown(self.executors.len())));
        lines.push(format!("processes    {}", self.processes()));
        lines.push(format!("token        {}", place.root.join("token").display()));
        lines.push(format!("logs         {}", place.logs().display()));
        lines.join("\n")
    }

    /// The process of each child; one that dies meanwhile has none.
    fn processes(&self) -> String {
        let executors = self.executors.iter().zip(1..).map(|(kept, number)| (format!("executor-{number}"), kept));
        let all = std::iter::once(("coordinator".to_owned(), &self.coordinator)).chain(executors);
        let shown = all.filter_map(|(name, kept)| Some(format!("{name} {}", kept.health().pid?)));
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Runs one workflow through the client of this same program; its exit code, or `None` when the end is asked for before.
    ///
    /// # Errors
    /// [`InstallationError::Client`] when the client does not start.
    pub async fn run_workflow(&self, watched: &Watched<'_>, stop: &Stop) -> Result<Option<u8>, InstallationError> {
        let program = own_program()?;
        let mut argv = vec![text_of(&program), "run".to_owned(), text_of(watched.file), "--watch".to_owned(), "--wait".to_owned()];
        if watched.lifetime == Lifetime::Ephemeral {
            argv.push("--no-next".to_owned());
        }
        argv.extend(watched.inputs.iter().flat_map(|input| ["--input".to_owned(), input.clone()]));
        let mut env = passed_environment();
        env.insert("ORCHESTR8_URL".to_owned(), self.url.clone());
        env.insert("ORCHESTR8_TOKEN".to_owned(), self.token.clone());
        let cwd = std::env::current_dir().map_err(InstallationError::Directory)?;
        let spec = ShimSpec {
            argv,
            env,
            cwd,
            uid: None,
            gid: None,
            timeout_ms: None,
            grace_ms: CLIENT_GRACE_MS,
            orphan_grace_ms: None,
            stop_signal: StopSignal::Term,
        };
        let mut client = Shim::spawn(&program, &spec, Stdio::inherit(), Stdio::inherit())?;
        let Some(report) = stop.unless(client.ended()).await else {
            client.stop().await;
            client.ended().await?;
            return Ok(None);
        };
        Ok(Some(report?.exit_code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
    }

    /// Stops the executors together, then the coordinator.
    pub async fn stop(&self) {
        // A child that is no longer kept is ended by its shim; there is nothing more to ask.
        futures::future::join_all(self.executors.iter().map(|executor| executor.order(Order::Stop))).await;
        self.coordinator.order(Order::Stop).await.ok();
    }

    /// Ready is a coordinator that owns its shards and hears so many executors.
    async fn wait_ready(&self, log: &Path, executors: u16) -> Result<(), InstallationError> {
        let client = reqwest::Client::builder().tls_backend_preconfigured(nobody()).no_proxy().build().map_err(InstallationError::Probe)?;
        let deadline = Instant::now() + READY_MAX;
        let mut reason = "it does not answer".to_owned();
        while Instant::now() < deadline && self.coordinator.health().deaths < DEATHS_MAX {
            // No answer: it is not listening yet.
            if let Ok(answer) = client.get(format!("{}/readyz", self.url)).send().await {
                let ready = answer.status().is_success();
                let document = answer.text().await.unwrap_or_default();
                if ready && executors_heard(&document) >= u64::from(executors) {
                    return Ok(());
                }
                reason = document;
            }
            tokio::time::sleep(READY_INTERVAL).await;
        }
        Err(InstallationError::NotReady { reason, log: log.to_path_buf(), tail: tail_of(log) })
    }
}

/// Whether the token of an earlier start, if there is one, can be used: the coordinator would stumble over it later.
///
/// # Errors
/// [`InstallationError::Token`].
pub fn check_token(root: &Path) -> Result<(), InstallationError> {
    let path = root.join("token");
    match read_if_there(&path)? {
        Some(text) if !is_token(text.trim()) && !text.trim().is_empty() => Err(InstallationError::Token(path)),
        Some(_) | None => Ok(()),
    }
}

/// What the coordinator takes as a token, and a client can send.
fn is_token(text: &str) -> bool {
    text.len() >= TOKEN_BYTES_MIN && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn executors_heard(readiness: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(readiness).ok().and_then(|document| document["executors"].as_u64()).unwrap_or(0)
}

impl<'a> Surroundings<'a> {
    fn of(servers: &Servers, place: &'a Place) -> Result<Self, InstallationError> {
        let directory = std::env::current_dir().map_err(InstallationError::Directory)?;
        let database_url = servers.postgres.as_ref().map(super::servers::Postgres::url).unwrap_or_default();
        let nats_url = servers.nats.as_ref().map(super::servers::Nats::url).unwrap_or_default();
        Ok(Self { place, program: text_of(&own_program()?), directory, database_url, nats_url })
    }

    fn coordinator(&self, port: u16) -> ChildPlan {
        let root = &self.place.root;
        let mut argv = words(&["coordinator", "--listen"]);
        argv.push(format!("127.0.0.1:{port}"));
        argv.extend(["--token-file".to_owned(), text_of(&root.join("token"))]);
        argv.extend(["--token-keys-file".to_owned(), text_of(&root.join("token-keys"))]);
        let secrets = [("ORCHESTR8_DATABASE_URL", &self.database_url), ("ORCHESTR8_NATS_URL", &self.nats_url)];
        self.child("coordinator".to_owned(), argv, &secrets, COORDINATOR_GRACE_MS)
    }

    fn executor(&self, number: u16, slots: u16) -> ChildPlan {
        let mut argv =
            words(&["executor", "--queues", "default,agents", "--drain-timeout", DRAIN_TIMEOUT, "--grace", COMMAND_GRACE, "--name"]);
        let name = format!("executor-{number}");
        argv.push(name.clone());
        argv.extend(["--slots".to_owned(), slots.to_string()]);
        argv.extend(["--allow-workdir".to_owned(), text_of(&self.directory)]);
        argv.extend(["--run-root".to_owned(), text_of(&self.place.root.join("runs"))]);
        let owner = owner_of(&self.directory);
        if let Some(owner) = owner {
            argv.extend(["--user".to_owned(), format!("{}:{}", owner.uid, owner.gid)]);
        }
        argv.extend(usable_toolchain(owner).into_iter().flat_map(|name| ["--pass-env".to_owned(), name.to_owned()]));
        self.child(name, argv, &[("ORCHESTR8_NATS_URL", &self.nats_url)], EXECUTOR_GRACE_MS)
    }

    /// Secrets travel in the environment: a command line is for everyone to read.
    fn child(&self, name: String, mut argv: Vec<String>, secrets: &[(&str, &String)], grace_ms: u64) -> ChildPlan {
        argv.insert(0, self.program.clone());
        let mut env = passed_environment();
        env.extend(secrets.iter().map(|(variable, value)| ((*variable).to_owned(), (*value).clone())));
        let cwd = self.directory.clone();
        let shim = ShimSpec {
            argv,
            env,
            cwd,
            uid: None,
            gid: None,
            timeout_ms: None,
            grace_ms,
            orphan_grace_ms: Some(ORPHAN_GRACE_MS),
            stop_signal: StopSignal::Term,
        };
        ChildPlan { log: log_of(self.place, &name), name, shim }
    }
}

/// The variables of a Rust toolchain that commands may use too: builds need it, and a folder that they cannot enter would only harm.
fn usable_toolchain(owner: Option<Account>) -> Vec<&'static str> {
    let enters = |folder: &Path| owner.is_none_or(|owner| owner.uid == 0 || can_enter(owner, folder));
    TOOLCHAIN_VARIABLES.into_iter().filter(|name| std::env::var_os(name).is_some_and(|folder| enters(Path::new(&folder)))).collect()
}

fn passed_environment() -> BTreeMap<String, String> {
    PASSED_VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect()
}

fn log_of(place: &Place, name: &str) -> PathBuf {
    place.logs().join(format!("{name}.log"))
}

/// Their names: those in lists, on command lines and of their logs.
fn executors_shown(count: usize) -> String {
    match count {
        0 => "none".to_owned(),
        1 => "executor-1".to_owned(),
        _ => format!("executor-1 to executor-{count}"),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The address as it may be shown.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (Some(_) | None, _) => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_holds_no_password() {
        assert_eq!(without_password("postgres://orchestr8:secret@127.0.0.1:5432/postgres"), "postgres://127.0.0.1:5432/postgres");
        assert_eq!(without_password("http://127.0.0.1:8088"), "http://127.0.0.1:8088");
    }

    #[test]
    fn a_token_that_the_coordinator_would_refuse_is_found_before() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("token");
        check_token(folder.path()).expect("none yet is fine");
        for (text, is_fine) in [("short", false), ("two words, long enough", false), ("0123456789abcdef\n", true)] {
            std::fs::write(&path, text).expect("writable");
            let checked = check_token(folder.path());
            assert_eq!(checked.is_ok(), is_fine, "{text}: {checked:?}");
        }
    }

    #[test]
    fn secrets_are_in_no_command_line_and_executors_know_no_database() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let base = super::super::place::Base::prepare(&folder.path().join("kept")).expect("a new folder");
        let place = base.lock().expect("nobody has it");
        let around = Surroundings {
            place: &place,
            program: "orchestr8".to_owned(),
            directory: folder.path().to_path_buf(),
            database_url: "postgres://u:secret@h/d".to_owned(),
            nats_url: "nats://u:secret@h".to_owned(),
        };
        let named = around.executor(2, 4);
        let after = named.shim.argv.iter().skip_while(|word| *word != "--name").nth(1);
        assert_eq!((after, named.name.as_str()), (Some(&named.name), "executor-2"), "one name everywhere");
        assert!(executors_shown(2).ends_with(&named.name) && named.log.ends_with("executor-2.log"));
        for plan in [around.coordinator(8_088), around.executor(1, 4)] {
            assert!(plan.shim.argv.iter().all(|word| !word.contains("secret")), "{:?}", plan.shim.argv);
            assert_eq!(plan.shim.env.get("ORCHESTR8_NATS_URL"), Some(&around.nats_url));
            let knows_database = plan.shim.env.contains_key("ORCHESTR8_DATABASE_URL");
            assert_eq!(knows_database, plan.name == "coordinator");
        }
    }
}
