//! `orchestr8 executor`: flags to the settings of an executor.

use super::nats::NatsArgs;
use super::secrets::read_secret;
use super::telemetry::TelemetryArgs;
use super::{STARTUP_PATIENCE_DEFAULT, Service, ServiceError, log_times, parse_address, parse_patience, parse_time_base};
use crate::commands::values::{parse_pair, parse_span};
use crate::text::show_duration;
use nix::unistd::{Gid, Uid, User, getgid, gethostname};
use orchestr8_executor::handlers::Handlers;
use orchestr8_executor::secrecy::close_memory;
use orchestr8_executor::settings::{FETCHING_BYTES_MAX, ProbeSettings, QUEUES_MAX, SLOTS_MAX, UNCONFIRMED_BYTES_MAX, UNCONFIRMED_MAX};
use orchestr8_executor::shim::program_beside;
use orchestr8_executor::work::WorkSettings;
use orchestr8_executor::{ExecutorError, ExecutorSettings};
use orchestr8_proto::log_level::LogControl;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::traces::SpanSink;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What commands see of the executor's own environment, where it has it. Everything else is named by --pass-env or --env.
const PASSED_VARIABLES: [&str; 6] = ["PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM"];
/// And, when commands run as the executor's own user, these.
const PASSED_OF_USER: [&str; 4] = ["HOME", "USER", "LOGNAME", "SHELL"];
/// The executor's own settings and secrets have this prefix: commands never see them.
const OWN_PREFIX: &str = "ORCHESTR8_";
/// Where commands look for programs when the executor itself has no PATH.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Run an executor: it takes tasks of its queues, runs them, and reports how they ended.
///
/// Settings come from flags, then the environment, then --config. SIGTERM drains: nothing new starts, what runs may end.
#[derive(Debug, clap::Args)]
pub struct ExecutorArgs {
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
    /// Its name in lists and logs [default: the host's name and the process's number].
    #[arg(long, env = "ORCHESTR8_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Tasks that it runs at once [default: twice the processors].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::try_from(SLOTS_MAX).unwrap_or(i64::MAX)))]
    slots: Option<u16>,
    /// The queues that it serves, all priorities of each. Repeatable, or by commas.
    #[arg(long, value_name = "QUEUE", value_delimiter = ',', default_values_t = ["default".to_owned(), "agents".to_owned()])]
    queues: Vec<String>,
    /// A directory in which, and below which, a task may name its workdir. Repeatable.
    #[arg(long = "allow-workdir", value_name = "DIR")]
    allow_workdir: Vec<PathBuf>,
    /// The directory below which each attempt gets a fresh one [default: orchestr8-runs-USER in the folder for temporary files].
    #[arg(long, value_name = "DIR")]
    run_root: Option<PathBuf>,
    /// The user and group that commands run as, UID:GID. Needed, and only possible, where the executor runs as root.
    #[arg(long, value_name = "UID:GID", value_parser = parse_user)]
    user: Option<(u32, u32)>,
    /// An environment variable of all commands, NAME=VALUE. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// A variable of the executor's own environment that all commands see too. Repeatable.
    #[arg(long, value_name = "NAME", value_parser = parse_variable_name)]
    pass_env: Vec<String>,
    /// Between asking a command to end and killing it.
    #[arg(long, value_name = "DURATION", value_parser = parse_span, default_value = "10s")]
    grace: Duration,
    /// How long started tasks may go on after SIGTERM; then they are handed back.
    #[arg(long, value_name = "DURATION", value_parser = parse_span, default_value = "30s")]
    drain_timeout: Duration,
    /// Where /metrics, /healthz and /readyz are answered [default: nowhere]. Any other address than one of this machine itself needs a token.
    #[arg(long, env = "ORCHESTR8_METRICS_LISTEN", value_name = "ADDRESS:PORT", value_parser = parse_address)]
    metrics_listen: Option<SocketAddr>,
    /// The file with the bearer token that opens /metrics [default: none].
    #[arg(long, env = "ORCHESTR8_METRICS_TOKEN_FILE", value_name = "FILE")]
    metrics_token_file: Option<PathBuf>,
    /// How long it waits at its start for NATS to be there; 0s: one try. What waiting cannot mend ends it at once.
    #[arg(long, env = "ORCHESTR8_STARTUP_PATIENCE", value_name = "DURATION", value_parser = parse_patience, default_value = STARTUP_PATIENCE_DEFAULT)]
    startup_patience: Duration,
    /// The base of all protocol times; the same on coordinators and executors. Published figures are for 1s.
    #[arg(long, env = "ORCHESTR8_TIME_BASE", value_name = "DURATION", value_parser = parse_time_base, default_value = "1s")]
    time_base: Duration,
    /// A file with settings: YAML, one mapping, its keys the flags without dashes in front.
    #[arg(long, env = "ORCHESTR8_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Service for ExecutorArgs {
    const NAME: &'static str = "executor";

    const SERVICE: &'static str = "orchestr8-executor";

    fn telemetry(&self) -> &TelemetryArgs {
        &self.telemetry
    }

    async fn serve(self, (log, spans): (LogControl, SpanSink), shutdown: CancellationToken) -> Result<(), ServiceError> {
        // Before anything of others runs: the login to NATS came by the environment.
        if let Err(error) = close_memory() {
            tracing::warn!(%error, "commands of this user may be able to read this executor's environment, and with it its login to NATS");
        }
        let settings = ExecutorSettings { log, spans, ..self.settings(&Surroundings::read().await?)? };
        self.log_start(&settings);
        let served = orchestr8_executor::serve(settings, shutdown).await;
        served.map_err(|error| match error {
            ExecutorError::Probes { .. } => ServiceError::Configuration(error.to_string()),
            ExecutorError::Settings(error) => ServiceError::Configuration(error.to_string()),
            ExecutorError::Folder(error) => ServiceError::Unavailable(error.to_string()),
            ExecutorError::Link(error) if error.may_pass() => ServiceError::Unavailable(error.to_string()),
            ExecutorError::Link(error) => ServiceError::Configuration(error.to_string()),
            ExecutorError::Client(_) => ServiceError::Failed(error.to_string()),
        })
    }
}

/// What the settings take from the process and its machine.
#[derive(Debug, Clone)]
struct Surroundings {
    shim_program: PathBuf,
    environment: BTreeMap<String, String>,
    uid: Uid,
    gid: Gid,
    processors: usize,
    host: String,
}

impl Surroundings {
    async fn read() -> Result<Self, ServiceError> {
        let program =
            std::env::current_exe().map_err(|error| ServiceError::Failed(format!("the path of this program is not known: {error}")))?;
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let host = gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "executor".to_owned());
        let shim_program = program_beside(&program).await;
        Ok(Self { shim_program, environment, uid: Uid::effective(), gid: getgid(), processors, host })
    }
}

impl ExecutorArgs {
    fn settings(&self, around: &Surroundings) -> Result<ExecutorSettings, ServiceError> {
        let user = self.command_user(around)?;
        let run_root = self.run_root.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("orchestr8-runs-{}", around.uid)));
        let settings = ExecutorSettings {
            nats: self.nats.settings()?,
            name: self.name.clone().unwrap_or_else(|| format!("{}-{}", around.host, std::process::id())),
            queues: self.queues.clone(),
            slots: self.slots.map_or(around.processors * 2, usize::from).min(SLOTS_MAX),
            startup_patience: self.startup_patience,
            times: ProtocolTimes::new(self.time_base),
            drain_timeout: self.drain_timeout,
            work: WorkSettings {
                shim_program: around.shim_program.clone(),
                run_root,
                workdirs_allowed: self.workdirs()?,
                environment: self.environment(around, user),
                user,
                grace: self.grace,
                handlers: Handlers::builtin(),
            },
            unconfirmed_max: UNCONFIRMED_MAX,
            unconfirmed_bytes_max: UNCONFIRMED_BYTES_MAX,
            probes: self.probes()?,
            log: LogControl::default(),
            spans: SpanSink::default(),
        };
        settings.check().map_err(|error| ServiceError::Configuration(error.to_string()))?;
        Ok(settings)
    }

    fn probes(&self) -> Result<Option<ProbeSettings>, ServiceError> {
        let Some(listen) = self.metrics_listen else { return Ok(None) };
        let token = self.metrics_token_file.as_ref().map(|file| read_secret("--metrics-token-file", file)).transpose()?;
        Ok(Some(ProbeSettings { listen, token }))
    }

    /// Root must say whom commands run as, for it would otherwise be root itself; nobody else has the choice.
    fn command_user(&self, around: &Surroundings) -> Result<Option<(u32, u32)>, ServiceError> {
        let own = (around.uid.as_raw(), around.gid.as_raw());
        match self.user {
            Some(user) if around.uid.is_root() => Ok(Some(user)),
            Some(user) if user == own => Ok(None),
            Some((uid, gid)) => Err(ServiceError::Configuration(format!(
                "--user {uid}:{gid}: only root can run commands as another user, this is {}:{}",
                own.0, own.1
            ))),
            None if around.uid.is_root() => Err(ServiceError::Configuration(
                "this executor runs as root: say with --user UID:GID whom commands run as (0:0 for root itself)".to_owned(),
            )),
            None => Ok(None),
        }
    }

    /// Absolute and without symbolic links, so that comparing paths is enough.
    fn workdirs(&self) -> Result<Vec<PathBuf>, ServiceError> {
        let resolved = |folder: &PathBuf| {
            let wrong = |reason: String| ServiceError::Configuration(format!("--allow-workdir {}: {reason}", folder.display()));
            let resolved = folder.canonicalize().map_err(|error| wrong(error.to_string()))?;
            if resolved.is_dir() { Ok(resolved) } else { Err(wrong("it is not a directory".to_owned())) }
        };
        self.allow_workdir.iter().map(resolved).collect()
    }

    fn environment(&self, around: &Surroundings, user: Option<(u32, u32)>) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::from([("PATH".to_owned(), PATH_DEFAULT.to_owned())]);
        let of_user: &[&str] = if user.is_none() { &PASSED_OF_USER } else { &[] };
        let passed = PASSED_VARIABLES.iter().chain(of_user).map(|name| (*name).to_owned()).chain(self.pass_env.iter().cloned());
        environment.extend(passed.filter_map(|name| around.environment.get(&name).map(|value| (name, value.clone()))));
        if let Some(account) = user.and_then(|(uid, _)| User::from_uid(Uid::from_raw(uid)).ok().flatten()) {
            environment.insert("HOME".to_owned(), account.dir.display().to_string());
            environment.insert("USER".to_owned(), account.name.clone());
            environment.insert("LOGNAME".to_owned(), account.name);
        }
        environment.extend(self.env.iter().cloned());
        environment
    }

    fn log_start(&self, settings: &ExecutorSettings) {
        let work = &settings.work;
        for name in self.pass_env.iter().filter(|name| !work.environment.contains_key(*name)) {
            tracing::warn!(variable = %name, "--pass-env names a variable that is not set here");
        }
        tracing::info!(
            name = %settings.name,
            version = env!("CARGO_PKG_VERSION"),
            nats = %settings.nats.shown(),
            nats_login = %settings.nats.shown_login(),
            queues = %settings.queues.join(","),
            slots = settings.slots,
            "executor starts"
        );
        tracing::info!(
            shim = %work.shim_program.display(),
            run_root = %work.run_root.display(),
            workdirs = ?work.workdirs_allowed,
            user = ?work.user,
            variables = %work.environment.keys().cloned().collect::<Vec<_>>().join(","),
            handlers = ?work.handlers,
            "commands"
        );
        tracing::info!(
            queues_max = QUEUES_MAX,
            slots_max = SLOTS_MAX,
            unconfirmed_max = settings.unconfirmed_max,
            unconfirmed_bytes_max = settings.unconfirmed_bytes_max,
            fetching_bytes_max = FETCHING_BYTES_MAX,
            grace = %show_duration(work.grace),
            drain_timeout = %show_duration(settings.drain_timeout),
            "limits"
        );
        log_times(&settings.times);
    }
}

fn parse_user(text: &str) -> Result<(u32, u32), String> {
    let numbers = text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    numbers.ok_or_else(|| "write UID:GID as numbers, such as 1000:1000".to_owned())
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = parse_pair(text)?;
    Ok((parse_variable_name(&name)?, value))
}

fn parse_variable_name(name: &str) -> Result<String, String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err("it is not a variable's name".to_owned());
    }
    if name.starts_with(OWN_PREFIX) {
        return Err(format!("variables with {OWN_PREFIX} in front are the executor's own, with its secrets: commands never see them"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        executor: ExecutorArgs,
    }

    fn around(uid: u32) -> Surroundings {
        let environment =
            [("PATH", "/bin"), ("HOME", "/home/me"), ("CARGO_HOME", "/cargo"), ("AWS_SECRET", "x"), ("ORCHESTR8_NATS_URL", "secret")];
        Surroundings {
            shim_program: "/usr/bin/orchestr8".into(),
            environment: environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(uid),
            processors: 3,
            host: "host".to_owned(),
        }
    }

    fn settings(words: &[&str], uid: u32) -> Result<ExecutorSettings, String> {
        let words = std::iter::once("executor").chain(words.iter().copied());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.executor.settings(&around(uid)).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_sensible_and_the_environment_is_scrubbed() {
        let settings = settings(&["--pass-env", "CARGO_HOME", "--env", "LANG=C"], 1000).expect("fits");
        assert_eq!((settings.slots, settings.queues.as_slice()), (6, &["default".to_owned(), "agents".to_owned()][..]));
        assert!(settings.name.starts_with("host-") && settings.probes.is_none());
        let seen: Vec<(&str, &str)> = settings.work.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(seen, [("CARGO_HOME", "/cargo"), ("HOME", "/home/me"), ("LANG", "C"), ("PATH", "/bin")]);
    }

    #[test]
    fn root_must_say_whom_commands_run_as_and_others_cannot() {
        assert!(settings(&[], 0).expect_err("root").contains("--user UID:GID"));
        assert!(settings(&["--user", "1000:1000"], 7).expect_err("not root").contains("only root"));
        let as_root = settings(&["--user", "0:0"], 0).expect("said so");
        assert_eq!(as_root.work.user, Some((0, 0)));
        assert_eq!(settings(&["--user", "7:7"], 7).expect("itself").work.user, None);
    }

    #[test]
    fn what_cannot_work_is_refused_before_it_starts() {
        for (words, reason) in [
            (&["--queues", "A"][..], "not a queue name"),
            (&["--queues", "a,a"], "twice"),
            (&["--slots", "0"], "0 is not in 1..=4096"),
            (&["--allow-workdir", "/nonexistent"], "--allow-workdir /nonexistent"),
            (&["--pass-env", "ORCHESTR8_DATABASE_URL"], "never see them"),
            (&["--env", "ORCHESTR8_TOKEN=x"], "never see them"),
            (&["--user", "me"], "write UID:GID"),
            (&["--nats-url", "nats://u:p@h", "--nats-nkey-seed-file", "f"], "give one of them"),
            (&["--metrics-listen", "0.0.0.0:9090"], "can be reached from elsewhere"),
            (&["--metrics-listen", "127.0.0.1:0", "--metrics-token-file", "/nonexistent"], "--metrics-token-file /nonexistent"),
        ] {
            let refused = settings(words, 1000).expect_err(reason);
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[tokio::test]
    async fn its_memory_is_closed_before_anything_else() {
        nix::sys::prctl::set_dumpable(true).expect("Linux");
        let line = Line::try_parse_from(["executor", "--queues", "A"]).expect("words");
        assert!(
            line.executor.serve((LogControl::default(), SpanSink::default()), CancellationToken::new()).await.is_err(),
            "the queue's name is wrong"
        );
        assert_eq!(nix::sys::prctl::get_dumpable(), Ok(false));
        // The other tests of this process are nobody's business.
        nix::sys::prctl::set_dumpable(true).expect("Linux");
    }

    #[test]
    fn short_tasks_have_time_to_end() {
        assert_eq!(settings(&[], 1000).expect("fits").drain_timeout, Duration::from_secs(30));
        assert_eq!(settings(&["--drain-timeout", "5m"], 1000).expect("fits").drain_timeout, Duration::from_mins(5));
    }
}
