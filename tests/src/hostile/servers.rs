//! Servers that are not there, do not fit, or belong to somebody else: one clear line and an exit code.

use crate::harness::installation::create_database;
use crate::harness::{Servers, binary};
use crate::scene::{SOON, Scene, executors};
use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;

const NOWHERE_DATABASE: &str = "postgres://nobody:secret-word@127.0.0.1:1/none";
/// What a start has by default.
const STARTUP_PATIENCE: Duration = Duration::from_secs(30);
const NOWHERE_NATS: &str = "nats://nobody:secret-word@127.0.0.1:1";

/// Starts a coordinator that must refuse to run at once; its exit code and its last line.
async fn refused(folder: &Path, database: &str, nats: &str) -> Result<(Option<i32>, String)> {
    let started = Instant::now();
    let ended = told(coordinator(folder, database, nats)?).await?;
    assert!(started.elapsed() < STARTUP_PATIENCE, "it waited {:?} for what cannot pass: {ended:?}", started.elapsed());
    Ok(ended)
}

/// The same for one that would wait, had it any patience.
async fn away(folder: &Path, database: &str, nats: &str) -> Result<(Option<i32>, String)> {
    let mut command = coordinator(folder, database, nats)?;
    command.args(["--startup-patience", "0s"]);
    told(command).await
}

fn coordinator(folder: &Path, database: &str, nats: &str) -> Result<Command> {
    use std::os::unix::fs::PermissionsExt;
    for (name, text) in
        [("token", "a-token-that-is-long-enough"), ("keys", "1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff")]
    {
        let file = folder.join(name);
        std::fs::write(&file, format!("{text}\n"))?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    }
    let mut command = Command::new(binary::orchestr8()?);
    command.args(["coordinator", "--listen", "127.0.0.1:0", "--time-base", "100ms", "--token-file"]).arg(folder.join("token"));
    command.arg("--token-keys-file").arg(folder.join("keys")).kill_on_drop(true);
    command.env("ORCHESTR8_DATABASE_URL", database).env("ORCHESTR8_NATS_URL", nats).env("ORCHESTR8_LOG", "error");
    Ok(command)
}

fn executor(nats: &str) -> Result<Command> {
    let mut command = Command::new(binary::orchestr8()?);
    command.args(["executor", "--time-base", "100ms", "--nats-url", nats]).kill_on_drop(true);
    if nix::unistd::Uid::effective().is_root() {
        command.args(["--user", "0:0"]);
    }
    Ok(command)
}

async fn told(mut command: Command) -> Result<(Option<i32>, String)> {
    let output = tokio::time::timeout(SOON, command.output()).await.context("it went on although nothing fits")??;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let own: Vec<&str> = text.lines().filter(|line| line.starts_with("orchestr8 ")).collect();
    assert_eq!(own.len(), 1, "one line of its own: {text}");
    assert!(!text.contains("secret-word"), "no password is shown: {text}");
    Ok((output.status.code(), own[0].to_owned()))
}

async fn database() -> Result<String> {
    let shared = tokio::task::spawn_blocking(Servers::shared_postgres).await??;
    create_database(shared.first.database_url.as_deref().context("an address")?).await
}

#[tokio::test]
async fn what_is_not_there_is_named_with_its_address() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let database = database().await?;
    let (code, line) = away(folder.path(), NOWHERE_DATABASE, NOWHERE_NATS).await?;
    assert!(code == Some(69) && line.contains("127.0.0.1:1") && line.contains("Postgres"), "{code:?} {line}");
    let (code, line) = refused(folder.path(), "mysql://x", NOWHERE_NATS).await?;
    assert!(code == Some(64) && line.contains("postgres://"), "{code:?} {line}");
    let (code, line) = away(folder.path(), &database, NOWHERE_NATS).await?;
    assert!(code == Some(69) && line.contains("127.0.0.1:1") && line.contains("NATS"), "{code:?} {line}");
    let (_, server) = database.rsplit_once('@').context("the address has a login")?;
    let wrong_password = format!("postgres://nobody:secret-word@{server}");
    let (code, line) = refused(folder.path(), &wrong_password, NOWHERE_NATS).await?;
    assert!(code == Some(64) && line.contains("nobody") && !line.contains("at line"), "{code:?} {line}");
    let (login, _) = database.rsplit_once('/').context("the address has a database")?;
    let (code, line) = refused(folder.path(), &format!("{login}/no-such-database"), NOWHERE_NATS).await?;
    assert!(code == Some(64) && line.contains("\"no-such-database\" does not exist") && !line.contains("at line"), "{code:?} {line}");
    let mut executor = executor(NOWHERE_NATS)?;
    executor.args(["--startup-patience", "0s"]);
    let (code, line) = told(executor).await?;
    assert!(code == Some(69) && line.contains("127.0.0.1:1"), "{code:?} {line}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_variable_is_named_and_an_address_in_use_with_its_flag() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (variable, value) in [("ORCHESTR8_TIME_BASE", "foo"), ("ORCHESTR8_STARTUP_PATIENCE", "soon"), ("ORCHESTR8_LISTEN", "8089")] {
        let mut command = Command::new(binary::orchestr8()?);
        command.arg("coordinator").env(variable, value).kill_on_drop(true);
        let (code, line) = told(command).await?;
        assert!(code == Some(64) && line.contains(&format!("the variable {variable}={value}")), "{code:?} {line}");
    }
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    // Writes the files of its secrets.
    drop(coordinator(folder.path(), NOWHERE_DATABASE, NOWHERE_NATS)?);
    let address = taken.local_addr()?;
    for (text, told_of) in [(format!("name: x\nlisten: {address}\n"), "(--listen)"), ("lanes: two\n".to_owned(), "a whole number")] {
        std::fs::write(folder.path().join("o.yaml"), text)?;
        let mut command = Command::new(binary::orchestr8()?);
        command.args(["coordinator", "--config"]).arg(folder.path().join("o.yaml")).kill_on_drop(true);
        command.arg("--token-file").arg(folder.path().join("token")).arg("--token-keys-file").arg(folder.path().join("keys"));
        command.env("ORCHESTR8_DATABASE_URL", NOWHERE_DATABASE).env("ORCHESTR8_LOG", "error");
        let (code, line) = told(command).await?;
        assert!(code == Some(64) && line.contains(told_of), "{code:?} {line}");
    }
    Ok(())
}

#[tokio::test]
async fn what_the_address_of_the_database_asks_for_is_not_passed_over() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let database = database().await?;
    let with = |parameter: &str| format!("{database}{}{parameter}", if database.contains('?') { '&' } else { '?' });
    for (parameter, told) in [
        ("sslmod=verify-full", "`sslmod=verify-full` is not known (did you mean `sslmode`?)"),
        ("foo=bar", "`foo=bar` is not known"),
        ("pasword=secret-word", "did you mean `password`?"),
        // The servers of the tests speak without.
        ("sslmode=verify-full", "no TLS"),
    ] {
        let (code, line) = refused(folder.path(), &with(parameter), NOWHERE_NATS).await?;
        assert!(code == Some(64) && line.contains(told), "{code:?} {line}");
    }
    Ok(())
}

#[tokio::test]
async fn an_old_nats_server_and_a_newer_schema_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let database = database().await?;
    let old = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let nats = format!("nats://{}", old.local_addr()?);
    let serving = tokio::spawn(async move {
        let info = "INFO {\"server_id\":\"X\",\"server_name\":\"X\",\"version\":\"2.9.25\",\"proto\":1,\"host\":\"127.0.0.1\",\"port\":1,\"headers\":true,\"max_payload\":1048576,\"jetstream\":true}\r\nPONG\r\n";
        let mut connections = Vec::new();
        while let Ok((mut connection, _)) = old.accept().await {
            if connection.write_all(info.as_bytes()).await.is_ok() {
                connections.push(connection);
            }
        }
    });
    let began = Instant::now();
    let (code, line) = told(executor(&nats)?).await?;
    assert!(code == Some(64) && line.contains("2.9.25") && line.contains("2.12") && began.elapsed() < STARTUP_PATIENCE, "{code:?} {line}");
    // A database's URL that leads to it: no Postgres begins to talk, or with such a byte.
    let (code, line) = refused(folder.path(), &format!("postgres://{}/d", nats.trim_start_matches("nats://")), &nats).await?;
    assert!(code == Some(64) && line.contains("is not Postgres"), "{code:?} {line}");
    let (code, line) = refused(folder.path(), &database, &nats).await?;
    serving.abort();
    assert!(code == Some(64) && line.contains("2.9.25") && line.contains("2.12"), "{code:?} {line}");
    let mut connection = PgConnection::connect(&database).await?;
    let newer =
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'newer', true, '', 0)";
    sqlx::query(newer).execute(&mut connection).await?;
    let (code, line) = refused(folder.path(), &database, NOWHERE_NATS).await?;
    assert!(code == Some(64) && line.contains("9999"), "{code:?} {line}");
    connection.close().await?;
    Ok(())
}

#[tokio::test]
async fn anothers_streams_are_left_alone_and_a_refused_login_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let scene = Scene::start(executors(0)).await?;
    let (code, line) = refused(folder.path(), &database().await?, &scene.installation.nats_url).await?;
    assert!(code == Some(64) && line.contains("installation"), "{code:?} {line}");
    let (_, server) = scene.installation.nats_url.rsplit_once('@').context("the address has a login")?;
    let stranger = executor(&format!("nats://nobody:secret-word@{server}"))?;
    let (code, line) = told(stranger).await?;
    assert!(code == Some(64) && line.contains("refused") && line.contains("check user, password"), "{code:?} {line}");
    scene.finish().await;
    Ok(())
}
