//! `orchestr8 dev`: everything on one machine, with nothing left behind.
//!
//! - [`servers`]: the private Postgres and nats-server
//! - [`installation`]: a coordinator and executors on top of them, and one workflow to run to its end
//! - [`control`]: the servers alone, for tests and benchmarks, steered over stdin
//! - [`child`]: a process under the shim, kept running
//! - [`place`]: the folder: its lock, its reset, its ephemeral variant
//! - [`accounts`], [`secrets`], [`files`], [`stop`]: users, tokens and passwords, file steps, signals
//!
//! Every process is started under `orchestr8 shim`, whose pipe ends when this process does, however it dies: so nothing
//! is orphaned. The log of each child is locked by all of its processes, so that a next `dev` knows when they are gone.

mod accounts;
mod child;
mod control;
mod files;
mod installation;
mod place;
mod secrets;
mod servers;
mod stop;

use crate::client::address::DEV_FOLDER;
use crate::commands::values::parse_json_pair;
use crate::commands::{self, CommandError};
use crate::exit::Exit;
use installation::{Installation, InstallationError, InstallationOptions, Watched};
use place::{Base, Place, PlaceError, found_above};
use servers::ports::{self, PortError};
use servers::{Lifetime, Servers, ServersError, ServersOptions, Which};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use stop::Stop;

/// What a process ended by Ctrl-C exits with, by custom.
const EXIT_INTERRUPTED: u8 = 130;
/// The servers do not run as root, and only root may listen below.
const PORT_MIN: i64 = 1_024;
/// Said as soon as the end is asked for: draining may take a while.
const STOPPING: &str = "stopping";
/// What takes longer than this is explained.
const PATIENCE: Duration = Duration::from_secs(2);
/// Waited for before data is touched, and before the end.
const EARLIER: &str = "processes of `orchestr8 dev` to end";
/// An example that is there where a clone is.
const HELLO: &str = "examples/hello.yaml";

/// Runs everything on this machine: Postgres, nats-server, a coordinator and executors.
#[derive(Debug, clap::Args)]
pub struct DevArgs {
    /// The folder for data, tokens and logs [default: the .orchestr8 here or above, else a new one here]. The data survives restarts.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Clear the data first. Only removes what `dev` made.
    #[arg(long)]
    reset: bool,
    /// Clear the data, then end.
    #[arg(long)]
    reset_only: bool,
    /// End when the process that started this ends, however that dies; `make` says it.
    #[arg(long, hide = true)]
    with_parent: bool,
    /// How many executors.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=64))]
    executors: u16,
    /// How many tasks each executor runs at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=4096))]
    slots: u16,
    /// The coordinator's port on 127.0.0.1 [default: 8088, or a free one].
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Run this workflow, show it live, stop everything and exit as it ended.
    #[arg(long, value_name = "FILE", conflicts_with = "servers_only")]
    run: Option<PathBuf>,
    /// An input of that workflow, NAME=VALUE. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", requires = "run")]
    input: Vec<String>,
    #[command(flatten)]
    servers: ServersArgs,
}

#[derive(Debug, clap::Args)]
struct ServersArgs {
    /// Start Postgres and nats-server alone, print their addresses as one line of JSON, and end with stdin.
    #[arg(long)]
    servers_only: bool,
    /// With --servers-only: which of the two.
    #[arg(long, value_enum, default_value_t = Which::Both, requires = "servers_only")]
    only: Which,
    /// Keep the data in a fresh folder that is removed at the end.
    #[arg(long, conflicts_with_all = ["reset", "reset_only"])]
    ephemeral: bool,
    /// Postgres' port on 127.0.0.1 [default: a free one].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(PORT_MIN..))]
    postgres_port: Option<u16>,
    /// nats-server's port on 127.0.0.1 [default: a free one].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(PORT_MIN..))]
    nats_port: Option<u16>,
    /// A setting for Postgres, NAME=VALUE. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    postgres_set: Vec<String>,
}

/// Why `dev` ends.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The asynchronous runtime or the signal handlers could not be set up.
    #[error("the system refused a basic facility: {0}")]
    System(#[from] std::io::Error),
    /// The folder.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A step on a file.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// What `--run` names; nothing was started.
    #[error(transparent)]
    Run(#[from] CommandError),
    /// There is nothing to reset.
    #[error("--data {}: there is no such folder, so there is nothing to reset: name the one of an `orchestr8 dev`", .0.display())]
    NoData(PathBuf),
    /// The servers.
    #[error(transparent)]
    Servers(#[from] ServersError),
    /// The coordinator, an executor or the workflow's client.
    #[error(transparent)]
    Installation(#[from] InstallationError),
}

impl DevError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Installation(
                InstallationError::Port(PortError::Taken { .. } | PortError::Reserved { .. }) | InstallationError::Token(_),
            )
            | Self::Servers(ServersError::Port(PortError::Taken { .. } | PortError::Reserved { .. }))
            | Self::Place(PlaceError::NotOurs(_) | PlaceError::Foreign { .. })
            | Self::NoData(_) => Exit::Configuration,
            Self::Run(error) => error.exit(),
            Self::System(_) | Self::Place(_) | Self::File(_) | Self::Servers(_) | Self::Installation(_) => Exit::Failed,
        }
    }
}

/// Starts everything and stays until a signal, the end of stdin (`--servers-only`) or the end of the workflow (`--run`).
///
/// # Errors
/// [`DevError`] when something cannot be started. Whatever was started has ended when this returns.
pub fn run(args: &DevArgs) -> Result<ExitCode, DevError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(dev(args))
}

async fn dev(args: &DevArgs) -> Result<ExitCode, DevError> {
    let stop = Stop::listen()?;
    if args.with_parent {
        stop::follow_parent()?;
    }
    let start = std::env::current_dir()?;
    let data = args.data.clone().unwrap_or_else(|| found_above(&start));
    if args.reset_only && !data.exists() {
        return nothing_to_reset(args, &data);
    }
    if !args.reset_only {
        check(args, &data)?;
    }
    let base = Base::prepare(&data)?;
    let lifetime = args.lifetime();
    let place = match lifetime {
        Lifetime::Kept => base.lock()?,
        Lifetime::Ephemeral => base.ephemeral()?,
    };
    if args.reset || args.reset_only {
        told(EARLIER, child::wait_for_predecessors(&place.logs())).await;
        let removed = base.reset(&place)?;
        eprintln!("{}", reset_words(&base, &removed));
    }
    if args.reset_only {
        return Ok(ExitCode::SUCCESS);
    }
    if base.home_is_outside() {
        eprintln!("the servers' user cannot enter {}: their files are in {}", base.root.display(), base.home.display());
    }
    let result = serve(args, &base, &place, &stop).await;
    told(EARLIER, child::wait_for_predecessors(&place.logs())).await;
    match lifetime {
        Lifetime::Kept => files::remove(&place.root.join(installation::URL_FILE))?,
        Lifetime::Ephemeral => files::remove(&place.root)?,
    }
    if result.is_ok() && args.run.is_none() && !args.servers.servers_only {
        eprintln!("{}", farewell(lifetime, &place));
    }
    result
}

fn farewell(lifetime: Lifetime, place: &Place) -> String {
    match lifetime {
        Lifetime::Kept => format!("stopped; data is kept in {}", place.root.display()),
        Lifetime::Ephemeral => "stopped; data was ephemeral and is removed".to_owned(),
    }
}

/// From the start of the servers to their end.
async fn serve(args: &DevArgs, base: &Base, place: &Place, stop: &Stop) -> Result<ExitCode, DevError> {
    let options = args.servers_options();
    let starting = told("Postgres and nats-server to be ready", Box::pin(Servers::start(base, place, &options)));
    let Some(servers) = stop.unless(starting).await else { return Ok(interrupted()) };
    let servers = servers?;
    let code = if args.servers.servers_only {
        control::serve(&servers, place, stop).await;
        ExitCode::SUCCESS
    } else {
        serve_installation(args, &servers, place, stop).await?
    };
    told("nats-server and Postgres to write what they hold and stop", servers.stop(place)).await?;
    if args.run.is_some() {
        eprintln!("{}", whats_next(args, place, code));
    }
    Ok(code)
}

/// The last words of `--run`: what is left, and what can be tried. The commands told before work again once everything is up.
fn whats_next(args: &DevArgs, place: &Place, code: ExitCode) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "orchestr8".to_owned());
    if args.lifetime() == Lifetime::Ephemeral {
        return "\nEverything has stopped; the data was ephemeral and is removed.".to_owned();
    }
    let data = args.data.as_ref().map(|data| format!(" --data {}", data.display())).unwrap_or_default();
    let state = if code == ExitCode::from(EXIT_INTERRUPTED) {
        "What has not ended goes on at the next start"
    } else {
        "The commands above work in another terminal once it runs again"
    };
    let hello = if Path::new(HELLO).exists() { format!("\n  {program} run {HELLO} --watch --input name=you") } else { String::new() };
    format!(
        "\nEverything has stopped; the data stays in {}. {state}: `{program} dev{data}`. Then for instance:\n  \
         {program} task --run 'echo hello' --wait{hello}",
        place.root.display()
    )
}

/// From the start of the coordinator to its end; the servers run.
async fn serve_installation(args: &DevArgs, servers: &Servers, place: &Place, stop: &Stop) -> Result<ExitCode, DevError> {
    let options = InstallationOptions { executors: args.executors, slots: args.slots, port: args.port };
    let starting = told("the coordinator and the executors to be ready", Box::pin(Installation::start(servers, place, &options)));
    let Some(installation) = stop.unless(starting).await else { return Ok(interrupted()) };
    let installation = installation?;
    let code = if let Some(file) = &args.run {
        eprintln!("{}", installation.banner(servers, place));
        let ended = installation.run_workflow(&args.watched(file), stop).await?;
        ended.map_or_else(interrupted, ExitCode::from)
    } else {
        println!("{}\nready", installation.banner(servers, place));
        stop.requested().await;
        eprintln!("{STOPPING}");
        ExitCode::SUCCESS
    };
    told("running tasks to end; after 5 s they are given back, to run again at the next start", installation.stop()).await;
    Ok(code)
}

/// Does the work, and says what is waited for when that takes long.
async fn told<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(PATIENCE) => eprintln!("waiting for {what}"),
    }
    work.await
}

/// Finds what would make the start fail, before anything is made or started.
fn check(args: &DevArgs, data: &Path) -> Result<(), DevError> {
    if let Some(file) = &args.run {
        if args.executors == 0 {
            return Err(CommandError::Usage("--executors 0: nobody would run what --run names; give at least 1".into()).into());
        }
        check_run(file, &args.input)?;
    }
    args.servers_options().check(data)?;
    ports::check("--port", args.port).map_err(InstallationError::from)?;
    // Otherwise a token is made anew.
    if args.lifetime() == Lifetime::Kept && !args.reset {
        installation::check_token(data)?;
    }
    Ok(())
}

/// What `--run` names is read before anything is started; a registered definition only once the coordinator runs.
fn check_run(file: &Path, inputs: &[String]) -> Result<(), CommandError> {
    let inputs: Result<Vec<_>, String> = inputs.iter().map(|input| parse_json_pair(input)).collect();
    let inputs = inputs.map_err(|reason| CommandError::Usage(format!("--input: {reason}")))?;
    commands::run::check(&file.to_string_lossy(), &inputs)
}

/// Nothing there is what was wanted, unless somebody named it.
fn nothing_to_reset(args: &DevArgs, data: &Path) -> Result<ExitCode, DevError> {
    if args.data.is_some() {
        return Err(DevError::NoData(data.to_path_buf()));
    }
    eprintln!("there is nothing to remove: no {DEV_FOLDER} here or above");
    Ok(ExitCode::SUCCESS)
}

fn reset_words(base: &Base, removed: &[&str]) -> String {
    let root = base.root.display();
    if removed.is_empty() {
        format!("there was nothing to remove in {root}")
    } else {
        format!("removed from {root}: {}", removed.join(", "))
    }
}

fn interrupted() -> ExitCode {
    eprintln!("{STOPPING}");
    ExitCode::from(EXIT_INTERRUPTED)
}

impl DevArgs {
    fn lifetime(&self) -> Lifetime {
        if self.servers.ephemeral { Lifetime::Ephemeral } else { Lifetime::Kept }
    }

    fn watched<'a>(&'a self, file: &'a Path) -> Watched<'a> {
        Watched { file, inputs: &self.input, lifetime: self.lifetime() }
    }

    fn servers_options(&self) -> ServersOptions {
        ServersOptions {
            which: self.servers.only,
            lifetime: self.lifetime(),
            postgres_port: self.servers.postgres_port,
            nats_port: self.servers.nats_port,
            postgres_settings: self.servers.postgres_set.clone(),
        }
    }
}

/// A name of letters and one line: it becomes a line of a configuration file.
fn parse_setting(text: &str) -> Result<String, String> {
    let usable = |name: &str, value: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte))
            && !value.contains(['\n', '\r', '\\'])
    };
    match text.split_once('=') {
        Some((name, value)) if usable(name, value) => Ok(text.to_owned()),
        Some(_) | None => Err("write NAME=VALUE on one line, for instance work_mem=8MB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        dev: DevArgs,
    }

    fn parse(words: &[&str]) -> Result<DevArgs, String> {
        let words = std::iter::once("dev").chain(words.iter().copied());
        Command::try_parse_from(words).map(|command| command.dev).map_err(|error| error.to_string())
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        for words in [&["--ephemeral", "--reset"][..], &["--input", "a=b"], &["--only", "nats"], &["--servers-only", "--run", "a.yaml"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
        assert_eq!(parse(&["--servers-only", "--only", "nats"]).expect("fits").servers_options().which, Which::Nats);
    }

    #[test]
    fn a_setting_cannot_smuggle_in_another_line() {
        assert!(parse(&["--postgres-set", "work_mem=8MB"]).is_ok());
        for text in ["work_mem", "=8MB", "work mem=8MB", "work_mem=8MB\nfsync=off", "work_mem=\\"] {
            let refused = parse(&["--postgres-set", text]).expect_err(text);
            assert!(refused.contains("NAME=VALUE"), "{refused}");
        }
    }
}
