//! What `deploy/compose.yaml` starts, as processes of this machine: its words, its secrets, its NATS configuration. Only addresses
//! and folders are this test's own, and the Postgres is that of all tests.

use super::compose::merged;
use super::rendering::{read, texts};
use crate::harness::installation::{free_port, user_words};
use crate::harness::process::ProcessPlan;
use crate::harness::{Api, Installation, InstallationOptions, Process, binary, wait_for};
use crate::quality_gates::{TIDY, repository, run_gates};
use crate::scene::SOON;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokio::net::TcpStream;

/// The files of `deploy/compose`, its services, and what runs of them.
struct Composed {
    installation: Installation,
    services: Value,
    folder: PathBuf,
    nats_port: u16,
    processes: Vec<Process>,
}

/// What a service is started with here, in place of what it has in its container.
type Places<'a> = &'a [(&'a str, String)];

impl Composed {
    /// Draws the secrets by the script that is for that.
    async fn prepare() -> Result<Self> {
        let options = InstallationOptions { coordinators: 0, executors: 0, ..InstallationOptions::default() };
        let installation = Installation::start(options).await?;
        let folder = installation.workdir.join("compose");
        std::fs::create_dir(&folder)?;
        for name in ["secrets.sh", "nats.conf", "accounts.conf"] {
            std::fs::copy(binary::workspace().join("deploy/compose").join(name), folder.join(name))?;
        }
        // The server takes its port from its words, but this from its file alone.
        let configuration = std::fs::read_to_string(folder.join("nats.conf"))?;
        let (there, here) = ("store_dir: /data", format!("store_dir: {}", folder.join("store").display()));
        ensure!(configuration.contains(there), "nats.conf names no {there}");
        std::fs::write(folder.join("nats.conf"), configuration.replace(there, &here))?;
        let drawn = std::process::Command::new("sh").arg(folder.join("secrets.sh")).status()?;
        ensure!(drawn.success(), "secrets.sh failed");
        let services = read(&binary::workspace().join("deploy/compose.yaml"))?["services"].clone();
        Ok(Self { installation, services, folder, nats_port: free_port()?, processes: Vec::new() })
    }

    /// The words of a service and its environment, with addresses and folders of this machine.
    fn plan(&self, service: &str, name: &str, places: Places<'_>) -> Result<ProcessPlan> {
        let described = &self.services[service];
        let here = |text: &str| places.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, here));
        let words = merged(described, "command").map(texts).with_context(|| format!("{service}: command"))?;
        let mut environment = Vec::new();
        for file in merged(described, "env_file").map(texts).unwrap_or_default() {
            let file = self.folder.join(file.strip_prefix("compose/").context("below compose")?);
            let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            environment.extend(pairs.map(|(variable, value)| (variable.to_owned(), here(value))));
        }
        let log = self.folder.join(format!("{name}.log"));
        Ok(ProcessPlan { name: name.to_owned(), program: None, words: words.iter().map(|word| here(word)).collect(), environment, log })
    }

    async fn start_nats(&mut self) -> Result<()> {
        let pid = self.installation.server_pids().nats.context("nats-server was started")?;
        let mut plan = self.plan("nats", "nats", &[("/etc/nats", self.folder.display().to_string())])?;
        plan.program = Some(std::fs::read_link(format!("/proc/{pid}/exe")).context("the program of nats-server")?);
        let own = ["--addr", "127.0.0.1", "--port", &self.nats_port.to_string()];
        plan.words.extend(own.map(str::to_owned));
        let log = plan.log.clone();
        self.processes.push(Process::start(plan).await?);
        let port = self.nats_port;
        let look = async || {
            ensure!(TcpStream::connect(("127.0.0.1", port)).await.is_ok(), "{}", std::fs::read_to_string(&log).unwrap_or_default());
            Ok(Some(()))
        };
        wait_for("the composed nats-server", SOON, look).await
    }

    /// Its API.
    async fn start_coordinator(&mut self, service: &str) -> Result<Api> {
        let listen = format!("127.0.0.1:{}", free_port()?);
        let places = [
            ("0.0.0.0:8088", listen.clone()),
            ("/run/secrets", self.folder.join("secrets").display().to_string()),
            ("@nats:4222", format!("@127.0.0.1:{}", self.nats_port)),
        ];
        let mut plan = self.plan(service, service, &places)?;
        let database = plan.environment.iter_mut().find(|(variable, _)| variable == "ORCHESTR8_DATABASE_URL");
        self.installation.database_url.clone_into(&mut database.context("the address of Postgres")?.1);
        self.processes.push(Process::start(plan).await?);
        let token = std::fs::read_to_string(self.folder.join("secrets/token"))?;
        let api = Api::new(format!("http://{listen}"), token);
        wait_for("a ready coordinator", SOON, async || Ok(api.is_ready().await.then_some(()))).await?;
        Ok(api)
    }

    async fn start_executor(&mut self, number: usize) -> Result<()> {
        let places = [
            ("127.0.0.1:9464", format!("127.0.0.1:{}", free_port()?)),
            ("/work", self.folder.join(format!("work-{number}")).display().to_string()),
            ("@nats:4222", format!("@127.0.0.1:{}", self.nats_port)),
        ];
        let mut plan = self.plan("executor", &format!("executor-{number}"), &places)?;
        plan.words.extend(user_words()?);
        self.processes.push(Process::start(plan).await?);
        Ok(())
    }

    /// What the processes said, where a test fails.
    fn logs(&self) -> String {
        let tail = |process: &Process| {
            let text = std::fs::read_to_string(process.log()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("---- {}\n{}\n", process.name(), lines[lines.len().saturating_sub(20)..].join("\n"))
        };
        self.processes.iter().map(tail).collect()
    }
}

#[tokio::test]
async fn the_composed_processes_run_the_quality_gates() -> Result<()> {
    let mut composed = Composed::prepare().await?;
    let gates = run(&mut composed).await;
    gates.with_context(|| composed.logs())?;
    for process in &mut composed.processes {
        process.kill().await?;
    }
    composed.installation.finish().await;
    Ok(())
}

async fn run(composed: &mut Composed) -> Result<()> {
    composed.start_nats().await?;
    let first = composed.start_coordinator("coordinator-1").await?;
    let second = composed.start_coordinator("coordinator-2").await?;
    let executors = usize::try_from(composed.services["executor"]["scale"].as_u64().context("scale")?)?;
    for number in 0..executors {
        composed.start_executor(number).await?;
    }
    let heard = async || {
        let listed = first.get("/api/v1/executors").await?;
        Ok((listed["executors"].as_array().map(Vec::len) == Some(executors)).then_some(()))
    };
    wait_for("all executors to be heard", SOON, heard).await?;
    let tidy = repository(Path::new(&composed.installation.workdir), "tidy", &TIDY)?;
    let (ended, tasks) = run_gates(&second, &tidy).await?;
    ensure!(ended["status"] == "completed", "{ended} {tasks:?}");
    ensure!(ended["output"].as_str().is_some_and(|report| report.contains("**All 5 gates passed.**")), "{ended}");
    Ok(())
}
