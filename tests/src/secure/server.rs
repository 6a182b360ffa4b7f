//! A nats-server with the configuration of `deploy/nats`, and certificates made for it.

use crate::harness::installation::{free_port, user_words};
use crate::harness::process::ProcessPlan;
use crate::harness::{Installation, Process, binary, wait_for};
use crate::scene::SOON;
use anyhow::{Context, Result, ensure};
use async_nats::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orchestr8_nats::{Credentials, NatsSettings, TlsFiles};
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The logins of `deploy/nats/accounts.conf`; the password of each is its name.
const LOGINS: [&str; 3] = ["coordinator", "builders", "gpu"];

/// An authority and what it vouches for: this machine.
#[derive(Debug)]
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// Makes them; none, with a message, where there is no openssl.
    pub fn make() -> Result<Option<Self>> {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("skipped: there is no `openssl` to make certificates with (on Debian: openssl)");
            return Ok(None);
        }
        let made = Self { folder: tempfile::tempdir()? };
        std::fs::write(made.path("extensions"), "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")?;
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        for authority in ["ca", "stranger"] {
            made.openssl(&format!("req -x509 {key} -keyout {authority}.key -out {authority}.pem -days 2 -subj /CN={authority}"))?;
        }
        made.openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"))?;
        made.openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.pem")?;
        Ok(Some(made))
    }

    /// Makes `NAME.pem` and `NAME.key`: a client that `authority` vouches for under this common name.
    pub fn client(&self, name: &str, authority: &str, common_name: &str) -> Result<()> {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        self.openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={common_name}"))?;
        let signed_by = format!("-CA {authority}.pem -CAkey {authority}.key -CAcreateserial");
        std::fs::write(self.path("client-extensions"), "extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE\n")?;
        self.openssl(&format!("x509 -req -in {name}.csr {signed_by} -days 2 -extfile client-extensions -out {name}.pem"))
    }

    /// One of its files: `ca.pem`, `stranger.pem`, `server.pem`, `server.key`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn openssl(&self, words: &str) -> Result<()> {
        let output = Command::new("openssl").args(words.split(' ')).current_dir(self.folder.path()).output()?;
        ensure!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// A running server. It ends with this process, or when this is dropped.
#[derive(Debug)]
pub struct SecureNats {
    process: Process,
    _store: tempfile::TempDir,
    url: String,
    ca: PathBuf,
}

impl SecureNats {
    /// Starts the program that also serves `installation`, with the configuration of `deploy/nats`.
    pub async fn start(installation: &Installation, certificates: &Certificates) -> Result<Self> {
        Self::start_with(installation, certificates, &binary::workspace().join("deploy/nats/nats-server.conf")).await
    }

    /// The same with another configuration, which may use the same variables.
    pub async fn start_with(installation: &Installation, certificates: &Certificates, configuration: &Path) -> Result<Self> {
        let pid = installation.server_pids().nats.context("nats-server was started")?;
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).context("the program of nats-server")?;
        let (port, store) = (free_port()?, tempfile::tempdir()?);
        let words = ["--config", &configuration.display().to_string(), "--addr", "127.0.0.1", "--port", &port.to_string()];
        let mut environment = vec![
            ("ORCHESTR8_NATS_STORE".to_owned(), store.path().display().to_string()),
            ("ORCHESTR8_NATS_TLS_CERT".to_owned(), certificates.text("server.pem")),
            ("ORCHESTR8_NATS_TLS_KEY".to_owned(), certificates.text("server.key")),
            ("ORCHESTR8_NATS_TLS_CA".to_owned(), certificates.text("ca.pem")),
        ];
        environment.extend(LOGINS.iter().map(|login| (format!("ORCHESTR8_NATS_PASSWORD_{}", login.to_uppercase()), (*login).to_owned())));
        let plan = ProcessPlan {
            name: "secure-nats".to_owned(),
            program: Some(program),
            words: words.into_iter().map(str::to_owned).collect(),
            environment,
            log: store.path().join("nats-server.log"),
        };
        let log = plan.log.clone();
        let process = Process::start(plan).await?;
        let look = async || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            ensure!(TcpStream::connect(("127.0.0.1", port)).await.is_ok(), "{text}");
            Ok(Some(()))
        };
        wait_for("the secure nats-server", SOON, look).await?;
        Ok(Self { process, _store: store, url: format!("nats://localhost:{port}"), ca: certificates.path("ca.pem") })
    }

    /// The environment with which a process finds it and believes that it is the one.
    pub fn address(&self) -> Vec<(String, String)> {
        let pairs = [("URL", self.url.clone()), ("CA", self.ca.display().to_string())];
        pairs.into_iter().map(|(name, value)| (format!("ORCHESTR8_NATS_{name}"), value)).collect()
    }

    /// The environment with which a process logs in by its password.
    pub fn environment(&self, login: &str) -> Vec<(String, String)> {
        let own = ["USER", "PASSWORD"].map(|name| (format!("ORCHESTR8_NATS_{name}"), login.to_owned()));
        self.address().into_iter().chain(own).collect()
    }

    /// Lets it read its configuration again, as `nats-server --signal reload` does.
    pub fn reload(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(self.process.pid()), Signal::SIGHUP)?)
    }

    /// Its log.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.process.log())?)
    }

    /// Logs in as one of its logins, and hears what it forbids.
    pub async fn connect(&self, login: &str) -> Result<(Client, mpsc::UnboundedReceiver<String>)> {
        let settings = NatsSettings {
            credentials: Credentials::UserPassword { user: login.to_owned(), password: login.to_owned() },
            login: Some(login.parse()?),
            tls: TlsFiles { ca: Some(self.ca.clone()), own: None },
            ..NatsSettings::open(vec![self.url.clone()])
        };
        let (told, heard) = mpsc::unbounded_channel();
        let options = orchestr8_nats::options(&settings)?.event_callback(move |event| {
            told.send(event.to_string()).ok(); // The test may have heard enough.
            async {}
        });
        Ok((options.connect(settings.servers()?).await?, heard))
    }
}

/// Lets processes that are added from now on log in as `login`.
pub fn log_in(installation: &mut Installation, nats: &SecureNats, login: &str) {
    for (name, value) in nats.environment(login) {
        installation.set_environment(&name, &value);
    }
}

/// The exit code and the one line of a process that must not start.
pub async fn refused(words: &[String], environment: Vec<(String, String)>) -> Result<(Option<i32>, String)> {
    let runs = tempfile::tempdir()?;
    let mut command = tokio::process::Command::new(binary::orchestr8()?);
    command.args(words).args(["--time-base", "100ms"]).kill_on_drop(true).env("ORCHESTR8_LOG", "error");
    if words.first().is_some_and(|word| word == "executor") {
        command.arg("--run-root").arg(runs.path()).args(user_words()?);
    }
    let output = timeout(SOON, command.envs(environment).output()).await??;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let own = text.lines().find(|line| line.starts_with("orchestr8 ")).with_context(|| format!("no line of its own: {text}"))?;
    Ok((output.status.code(), own.to_owned()))
}

/// Lets processes that are added from now on find this authority and certificate for the API.
pub fn api_words(certificates: &Certificates) -> Vec<String> {
    ["--tls-cert".to_owned(), certificates.text("server.pem"), "--tls-key".to_owned(), certificates.text("server.key")].into()
}

/// The certificates in a file.
pub fn authorities(file: &Path) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>> {
    use rustls::pki_types::pem::PemObject;
    Ok(rustls::pki_types::CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>()?)
}
