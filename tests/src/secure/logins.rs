//! Every way to log in to NATS beside a password, against a server that knows no other; and what is said of one that does not work.

use super::jwt::Operator;
use super::server::{Certificates, SecureNats, refused};
use crate::harness::{InstallationOptions, binary, wait_for};
use crate::scene::{SOON, Scene, noop};
use anyhow::{Context, Result, ensure};
use nkeys::KeyPair;
use serde_json::json;
use std::process::Command;

/// Variables of a process, their names without what all begin with.
type Variables<'a> = &'a [(&'a str, String)];

/// A server without a coordinator and executors yet.
struct Stage {
    scene: Scene,
    nats: SecureNats,
    certificates: Certificates,
    folder: tempfile::TempDir,
}

impl Stage {
    /// The configuration of `deploy/nats` with these accounts, and more in its `tls`. None, with a message, without openssl.
    async fn start(accounts: &str, tls: &str) -> Result<Option<Self>> {
        let Some(certificates) = Certificates::make()? else { return Ok(None) };
        let scene = Scene::start(InstallationOptions { coordinators: 0, executors: 0, ..InstallationOptions::default() }).await?;
        let folder = tempfile::tempdir()?;
        let deployed = std::fs::read_to_string(binary::workspace().join("deploy/nats/nats-server.conf"))?;
        let start_of_tls = "\ntls {\n";
        ensure!(deployed.matches(start_of_tls).count() == 1, "{deployed}");
        let configuration = folder.path().join("nats-server.conf");
        std::fs::write(&configuration, deployed.replace(start_of_tls, &format!("{start_of_tls}  {tls}\n")))?;
        std::fs::write(folder.path().join("accounts.conf"), accounts)?;
        let nats = SecureNats::start_with(&scene.installation, &certificates, &configuration).await?;
        Ok(Some(Self { scene, nats, certificates, folder }))
    }

    /// Writes a file of its own.
    fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// Other accounts, which the server learns by being told to read its configuration again: imports of accounts that are new count
    /// from the second time on.
    async fn change_accounts(&self, accounts: &str) -> Result<()> {
        self.file("accounts.conf", accounts)?;
        for times in 1..=2 {
            self.nats.reload()?;
            let look = async || Ok((self.nats.log()?.matches("Reloaded server configuration").count() == times).then_some(()));
            wait_for("a reload", SOON, look).await?;
        }
        Ok(())
    }

    /// A new certificate of this common name.
    fn shows(&self, name: &str, authority: &str) -> Result<Vec<(&'static str, String)>> {
        self.certificates.client(name, authority, name)?;
        let file = |ending: &str| self.certificates.text(&format!("{name}.{ending}"));
        Ok(vec![("CERT", file("pem")), ("KEY", file("key"))])
    }

    fn environment(&self, own: Variables<'_>) -> Vec<(String, String)> {
        let own = own.iter().map(|(name, value)| (format!("ORCHESTR8_NATS_{name}"), value.clone()));
        self.nats.address().into_iter().chain(own).collect()
    }

    /// Both log in, a short task runs, and one that is claimed; no log shows a secret.
    async fn works(&mut self, coordinator: Variables<'_>, executor: Variables<'_>, secrets: &[&str]) -> Result<()> {
        self.log_in(coordinator);
        self.scene.installation.add_coordinator().await?;
        self.scene.installation.wait_ready(0).await?;
        self.scene.installation.api = self.scene.installation.api_of(0);
        self.log_in(executor);
        self.scene.installation.add_executor().await?;
        let short = self.scene.submit(&noop(&json!("done"))).await?;
        assert_eq!(self.scene.result(&short).await?["result"], "done");
        let claimed = self.scene.submit(&json!({"run": "sleep 1; echo claimed"})).await?;
        assert_eq!(self.scene.holder(&claimed).await?, 0, "the executor");
        assert_eq!(self.scene.result(&claimed).await?["status"], "completed");
        for process in self.scene.installation.coordinators.iter().chain(&self.scene.installation.executors) {
            let log = std::fs::read_to_string(process.log())?;
            let shown = secrets.iter().any(|secret| log.contains(secret));
            ensure!(!shown && !log.contains("does not let this login"), "{}: {log}", process.name());
        }
        Ok(())
    }

    /// One more executor, which serves this queue, gets a task of it and holds that.
    async fn serves(&mut self, queue: &str) -> Result<()> {
        self.scene.installation.serve_queues(&[queue]);
        let number = self.scene.installation.add_executor().await?;
        let task = self.scene.submit(&json!({"run": "sleep 1; echo served", "queue": queue})).await?;
        ensure!(self.scene.holder(&task).await? == number, "{queue}");
        ensure!(self.scene.result(&task).await?["status"] == "completed", "{queue}");
        Ok(())
    }

    fn log_in(&mut self, own: Variables<'_>) {
        for (name, value) in self.environment(own) {
            self.scene.installation.set_environment(&name, &value);
        }
    }

    /// Neither a coordinator nor an executor starts with this: one line with each of `told`, and none of `secrets`.
    async fn refuses(&self, own: Variables<'_>, told: &[&str], secrets: &[&str]) -> Result<()> {
        let keys = self.file("token-keys", &format!("1:{}", "ab".repeat(32)))?;
        let coordinator =
            ["coordinator", "--listen", "127.0.0.1:0", "--startup-patience", "1s", "--token-keys-file", &keys].map(str::to_owned);
        let executor = ["executor", "--queues", "default", "--startup-patience", "1s"].map(str::to_owned);
        for words in [&coordinator[..], &executor[..]] {
            let mut environment = self.environment(own);
            environment.push(("ORCHESTR8_DATABASE_URL".to_owned(), self.scene.installation.database_url.clone()));
            environment.push(("ORCHESTR8_TOKEN".to_owned(), "a-token-for-this-test".to_owned()));
            let (code, line) = refused(words, environment).await?;
            let tells = told.iter().all(|part| line.contains(part)) && !secrets.iter().any(|secret| line.contains(secret));
            ensure!(code == Some(64) && tells, "{}: {code:?}, not {told:?}: {line}", words[0]);
        }
        Ok(())
    }
}

/// What `orchestr8 nats-accounts` prints for the pool `builders`.
fn accounts(words: &[String]) -> Result<String> {
    accounts_of(&["builders=default"], words)
}

fn accounts_of(pools: &[&str], words: &[String]) -> Result<String> {
    let pools = pools.iter().flat_map(|pool| ["--executors", pool]);
    let output = Command::new(binary::orchestr8()?).arg("nats-accounts").args(pools).args(words).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test]
async fn nkeys_log_in_and_what_is_wrong_with_one_is_said() -> Result<()> {
    let (coordinator, builders, stranger) = (KeyPair::new_user(), KeyPair::new_user(), KeyPair::new_user().seed()?);
    let words = [("coordinator", &coordinator), ("builders", &builders)];
    let words = words.map(|(login, key)| ["--nkey".to_owned(), format!("{login}={}", key.public_key())]);
    let Some(mut stage) = Stage::start(&accounts(&words.concat())?, "").await? else { return Ok(()) };
    let seeds = [coordinator.seed()?, builders.seed()?];
    // As tools print it, with more around it.
    let file = stage.file("builders.nk", &format!("# the pool `builders`\n{}\n", seeds[1]))?;
    let of_coordinator = [("NKEY_SEED_FILE", stage.file("coordinator.nk", &seeds[0])?), ("LOGIN", "coordinator".to_owned())];
    let of_builders = [("NKEY_SEED_FILE", file.clone()), ("LOGIN", "builders".to_owned())];
    stage.works(&of_coordinator, &of_builders, &[&seeds[0], &seeds[1]]).await?;

    let cut = &seeds[1][..40];
    for (text, told) in [(stranger.as_str(), "check"), (cut, "must hold one line"), ("hunter2", "must hold one line")] {
        let file = stage.file("wrong.nk", text)?;
        stage.refuses(&[("NKEY_SEED_FILE", file.clone())], &[&file, told], &[text]).await?;
    }
    for file in unreadable(&stage) {
        stage.refuses(&[("NKEY_SEED_FILE", file.clone())], &[&file, "cannot be used"], &[]).await?;
    }
    // The key of another login has none of this one's rights.
    let borrowed = [("NKEY_SEED_FILE", file), ("LOGIN", "coordinator".to_owned())];
    stage.refuses(&borrowed, &["`coordinator` may not"], &[&seeds[1]]).await?;
    stage.scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn credentials_log_in_and_what_is_wrong_with_them_is_said() -> Result<()> {
    let (operator, other) = (Operator::new(), Operator::new());
    let (coordinator, builders) = ("coordinator".parse()?, "builders".parse()?);
    let queues = ["default".to_owned()];
    let Some(mut stage) = Stage::start(&operator.configuration(&builders, &queues)?, "").await? else { return Ok(()) };
    let users = [operator.coordinator(&coordinator)?, operator.executor(&builders, &queues)?];
    let of_coordinator = [("CREDS", stage.file("coordinator.creds", &users[0].credentials)?), ("LOGIN", "coordinator".to_owned())];
    let of_builders = [("CREDS", stage.file("builders.creds", &users[1].credentials)?), ("LOGIN", "builders".to_owned())];
    stage.works(&of_coordinator, &of_builders, &[&users[0].seed, &users[1].seed]).await?;

    let strangers = [other.executor(&builders, &queues)?, operator.expired_executor(&builders, &queues)?];
    let cut = users[1].credentials.replace(&users[1].seed, &users[1].seed[..40]);
    let (jwt, _) = users[1].credentials.split_once("-----BEGIN USER").context("a seed")?;
    for (text, told) in [
        (strangers[0].credentials.as_str(), "check"),
        (&strangers[1].credentials, "check"),
        (&cut, "must hold a JWT"),
        (jwt, "must hold a JWT"),
        ("hunter2", "must hold a JWT"),
    ] {
        let file = stage.file("wrong.creds", text)?;
        stage.refuses(&[("CREDS", file.clone())], &[&file, told], &[text, &users[1].seed[..40]]).await?;
    }
    for file in unreadable(&stage) {
        stage.refuses(&[("CREDS", file.clone())], &[&file, "cannot be used"], &[]).await?;
    }
    stage.scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_certificate_is_shown_where_the_server_verifies_clients() -> Result<()> {
    let Some(mut stage) = Stage::start(&accounts(&[])?, "ca_file: $ORCHESTR8_NATS_TLS_CA, verify: true").await? else { return Ok(()) };
    let with = |login: &str| vec![("USER", login.to_owned()), ("PASSWORD", login.to_owned())];
    let of_coordinator = [with("coordinator"), stage.shows("one", "ca")?].concat();
    let of_builders = [with("builders"), stage.shows("two", "ca")?].concat();
    let of_stranger = [with("builders"), stage.shows("three", "stranger")?].concat();
    stage.works(&of_coordinator, &of_builders, &[]).await?;
    stage.refuses(&with("builders"), &["TLS", "--nats-cert"], &[]).await?;
    stage.refuses(&of_stranger, &["TLS", "--nats-cert"], &[]).await?;
    stage.scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn certificates_log_in_and_what_is_wrong_with_one_is_said() -> Result<()> {
    let words = ["coordinator=CN=the-coordinators", "builders=CN=the-builders"].map(|of| ["--certificate".to_owned(), of.to_owned()]);
    let tls = "ca_file: $ORCHESTR8_NATS_TLS_CA, verify_and_map: true";
    let Some(mut stage) = Stage::start(&accounts(&words.concat())?, tls).await? else { return Ok(()) };
    let login = |name: &str| vec![("LOGIN", name.to_owned())];
    let of_coordinator = [stage.shows("the-coordinators", "ca")?, login("coordinator")].concat();
    let of_builders = [stage.shows("the-builders", "ca")?, login("builders")].concat();
    let unknown = stage.shows("nobody", "ca")?;
    stage.works(&of_coordinator, &of_builders, &[]).await?;
    stage.refuses(&unknown, &["check"], &[]).await?;
    stage.refuses(&login("builders"), &["TLS", "--nats-cert"], &[]).await?;
    let mixed = [of_builders[0].clone(), ("KEY", stage.certificates.text("nobody.key"))];
    stage.refuses(&mixed, &["--nats-key"], &[]).await?;
    for file in unreadable(&stage) {
        let mixed = [("CERT", file.clone()), of_builders[1].clone()];
        stage.refuses(&mixed, &["NATS certificate file", &file, "cannot be used"], &[]).await?;
        let mixed = [of_builders[0].clone(), ("KEY", file.clone())];
        stage.refuses(&mixed, &["NATS key file", &file, "cannot be used"], &[]).await?;
    }
    stage.scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn new_logins_and_queues_need_two_reloads_and_no_restart() -> Result<()> {
    let Some(mut stage) = Stage::start(&accounts(&[])?, "").await? else { return Ok(()) };
    let address = stage.nats.address()[0].1.clone();
    let in_url = |login: &str| [("URL", address.replace("://", &format!("://{login}:{login}@")))];
    stage.works(&in_url("coordinator"), &in_url("builders"), &[]).await?;
    let running = stage.scene.submit(&json!({"run": "sleep 5; echo through"})).await?;
    stage.scene.holder(&running).await?;

    let gpu = KeyPair::new_user();
    let key = ["--nkey".to_owned(), format!("gpu={}", gpu.public_key())];
    let accounts = accounts_of(&["builders=default,agents", "gpu=gpu", "late=slow"], &key)?;
    // The server's environment does not change, so the variable stands in the file.
    stage.change_accounts(&format!("ORCHESTR8_NATS_PASSWORD_LATE: \"late\"\n{accounts}")).await?;
    let by_key = [("NKEY_SEED_FILE", stage.file("gpu.nk", &gpu.seed()?)?), ("LOGIN", "gpu".to_owned())];
    for (queue, own) in [("agents", &in_url("builders")[..]), ("slow", &in_url("late")), ("gpu", &by_key)] {
        stage.log_in(own);
        stage.serves(queue).await?;
    }
    let rows = stage.scene.all_completed().await?;
    ensure!(rows.iter().all(|row| row.attempt == 1), "a task ran through the reloads: {rows:?}");
    stage.scene.finish().await;
    Ok(())
}

/// A file that is not there, and one that cannot be read.
fn unreadable(stage: &Stage) -> [String; 2] {
    [stage.folder.path().join("missing"), stage.folder.path().to_owned()].map(|path| path.display().to_string())
}
