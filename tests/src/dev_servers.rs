//! `orchestr8 dev`: servers that are found or fetched, data that survives, and nothing that is orphaned.

use crate::harness::servers::{Addresses, ServersOptions, command, connect_nats, is_alive};
use crate::harness::{Api, Servers, Which, binary, wait_for};
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Far above what any of these steps takes.
const SOON: Duration = Duration::from_secs(30);
/// From the start of a whole `dev` to its being up, on a loaded machine.
const UP_MAX: Duration = Duration::from_mins(2);
/// After a `dev` was killed nothing of it runs for longer.
const KILLED_DEV_MAX: Duration = Duration::from_secs(3);

/// A folder that the servers' user can enter, and options to keep data in it.
fn kept_folder() -> Result<(tempfile::TempDir, ServersOptions)> {
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711))?;
    let options = ServersOptions { data: Some(folder.path().join("data")), ..ServersOptions::default() };
    Ok((folder, options))
}

fn pids(addresses: &Addresses) -> Result<[i32; 2]> {
    Ok([addresses.postgres_pid.context("Postgres runs")?, addresses.nats_pid.context("nats-server runs")?])
}

async fn wait_until_gone(pids: &[i32]) -> Result<()> {
    wait_for("the servers to be gone", SOON, async || Ok(pids.iter().all(|pid| !is_alive(*pid)).then_some(()))).await
}

async fn connect(addresses: &Addresses) -> Result<PgConnection> {
    Ok(PgConnection::connect(addresses.database_url.as_deref().context("Postgres runs")?).await?)
}

/// The number of rows of a table that is made when it is missing, after one more was written.
async fn write_row(addresses: &Addresses) -> Result<i64> {
    let mut connection = connect(addresses).await?;
    sqlx::query("create table if not exists kept (at timestamptz default now())").execute(&mut connection).await?;
    sqlx::query("insert into kept default values").execute(&mut connection).await?;
    Ok(sqlx::query_scalar("select count(*) from kept").fetch_one(&mut connection).await?)
}

/// Runs `dev --servers-only` to its end, which comes with that of its stdin.
fn run_to_end(options: &ServersOptions) -> Result<Output> {
    Ok(command(options)?.stdin(Stdio::null()).stderr(Stdio::piped()).output()?)
}

/// The servers' part of a folder that their user cannot enter; removed with this.
struct Outside(std::path::PathBuf);

impl Drop for Outside {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[tokio::test]
async fn nothing_is_orphaned_when_dev_is_killed_and_the_data_survives() -> Result<()> {
    let (_folder, options) = kept_folder()?;
    let first = Servers::start(&options)?;
    assert_eq!(write_row(&first.first).await?, 1);
    let old = pids(&first.first)?;
    assert!(old.iter().all(|pid| is_alive(*pid)));
    let dev = first.dev_pid()?;
    kill(Pid::from_raw(dev), Signal::SIGKILL)?;
    wait_until_gone(&[dev]).await?;
    // At once, while the old servers may still be stopping: the next start waits for them.
    let second = Servers::start(&options)?;
    wait_until_gone(&old).await?;
    assert_eq!(write_row(&second.first).await?, 2);
    second.end().await
}

/// `orchestr8 dev` whole, started by this process without a shim between.
async fn start_whole(folder: &Path) -> Result<std::process::Child> {
    let log = folder.join("dev.log");
    let mut dev = Command::new(binary::orchestr8()?);
    dev.args(["dev", "--executors", "1", "--data"]).arg(folder.join("data")).current_dir(binary::workspace());
    dev.stdin(Stdio::null()).stdout(std::fs::File::create(&log)?).stderr(std::fs::File::create(folder.join("dev.err"))?);
    let dev = dev.spawn()?;
    let up = async || Ok(std::fs::read_to_string(&log)?.lines().any(|line| line == "ready").then_some(()));
    wait_for("`orchestr8 dev` to be up", UP_MAX, up).await?;
    Ok(dev)
}

/// Every living process below `ancestor`, and it.
fn tree_of(ancestor: i32) -> Result<Vec<i32>> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // One that has ended meanwhile is not of the tree.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let mut tree = vec![ancestor];
    let mut next = 0;
    while let Some(parent) = tree.get(next).copied() {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    Ok(tree)
}

#[tokio::test]
async fn nothing_runs_soon_after_a_dev_with_a_running_task_was_killed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711))?;
    let mut dev = start_whole(folder.path()).await?;
    let read = |name: &str| std::fs::read_to_string(folder.path().join("data").join(name)).map(|text| text.trim().to_owned());
    let api = Api::new(read("url")?, read("token")?);
    // It asks its process group for nothing and does not hear the usual request to end.
    api.post("/api/v1/tasks", &json!({"run": "trap '' TERM; while :; do sleep 1000 & wait; done"})).await?;
    let pid = i32::try_from(dev.id())?;
    let runs = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.starts_with("sleep\0"));
    wait_for("the task to run", SOON, async || Ok(tree_of(pid)?.iter().any(runs).then_some(()))).await?;
    let tree = tree_of(pid)?;
    assert!(tree.len() > 10, "shims, servers, coordinator, executor, task: {tree:?}");
    dev.kill()?;
    dev.wait()?;
    let gone = async || Ok(tree.iter().all(|pid| !is_alive(*pid)).then_some(()));
    let waited = wait_for("everything to be gone", KILLED_DEV_MAX, gone).await;
    let left: Vec<_> =
        tree.iter().filter(|pid| is_alive(**pid)).map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline"))).collect();
    waited.with_context(|| format!("these run: {left:?}"))
}

/// Stands for a test process: it starts `dev` with a pipe that only it holds, and is killed.
const SHELL: &str = r#"mkfifo "$0"; exec 3<>"$0"; "$@" 3<&- <"$0"; exit 0"#;

#[tokio::test]
async fn servers_end_with_the_process_that_started_them() -> Result<()> {
    let (_folder, options) = kept_folder()?;
    let dev = command(&options)?;
    let words: Vec<_> = std::iter::once(dev.get_program()).chain(dev.get_args()).collect();
    let pipe = options.data.as_deref().context("named")?.with_extension("pipe");
    let mut shell = Command::new("sh");
    shell.args(["-c", SHELL]).arg(pipe).args(words).current_dir(binary::workspace()).stdout(Stdio::piped());
    let mut parent = shell.spawn()?;
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(parent.stdout.take().context("a pipe")?), &mut line)?;
    let addresses: Addresses = serde_json::from_str(&line)?;
    parent.kill()?;
    parent.wait()?;
    wait_until_gone(&pids(&addresses)?).await
}

#[tokio::test]
async fn a_dev_that_goes_with_its_parent_ends_when_that_is_killed() -> Result<()> {
    let (_folder, options) = kept_folder()?;
    let dev = command(&ServersOptions { more: vec!["--with-parent".into()], ..options })?;
    let words: Vec<_> = std::iter::once(dev.get_program()).chain(dev.get_args()).collect();
    // Stands for `make`, which waits. The pipe stays open, so that its end cannot be what is noticed.
    let mut shell = Command::new("sh");
    shell.args(["-c", r#""$@"; exit 0"#, "make"]).args(words).current_dir(binary::workspace());
    let mut parent = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let _open = parent.stdin.take().context("a pipe")?;
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(parent.stdout.take().context("a pipe")?), &mut line)?;
    let addresses: Addresses = serde_json::from_str(&line)?;
    parent.kill()?;
    parent.wait()?;
    wait_until_gone(&pids(&addresses)?).await
}

#[tokio::test]
async fn an_orderly_end_leaves_no_process_and_no_ephemeral_folder() -> Result<()> {
    let servers = Servers::start(&ServersOptions::default())?;
    let (old, data) = (pids(&servers.first)?, servers.first.data.clone());
    assert!(data.is_dir());
    servers.end().await?;
    assert!(old.iter().all(|pid| !is_alive(*pid)) && !data.exists());
    Ok(())
}

#[tokio::test]
async fn a_second_dev_on_the_same_data_is_refused() -> Result<()> {
    let (_folder, options) = kept_folder()?;
    let first = Servers::start(&options)?;
    let second = run_to_end(&options)?;
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("another `orchestr8 dev`") && said.contains(&first.dev_pid()?.to_string()), "{said}");
    assert_eq!(write_row(&first.first).await?, 1, "the first is not disturbed");
    first.end().await
}

#[tokio::test]
async fn reset_clears_the_data() -> Result<()> {
    let (_folder, options) = kept_folder()?;
    let first = Servers::start(&options)?;
    assert_eq!(write_row(&first.first).await?, 1);
    first.end().await?;
    let again = ServersOptions { more: vec!["--reset".into()], ..options };
    let second = Servers::start(&again)?;
    assert_eq!(write_row(&second.first).await?, 1);
    second.end().await
}

#[tokio::test]
async fn both_servers_come_back_on_the_same_port_with_their_data_and_a_wipe_empties_jetstream() -> Result<()> {
    let (_folder, options) = kept_folder()?;
    let servers = Servers::start(&options)?;
    write_row(&servers.first).await?;
    let url = servers.first.nats_url.clone().context("nats-server runs")?;
    let config = async_nats::jetstream::stream::Config { name: "KEPT".to_owned(), subjects: vec!["kept".to_owned()], ..Default::default() };
    async_nats::jetstream::new(connect_nats(&url).await?).create_stream(config).await?;
    for order in
        ["stop postgres", "start postgres", "kill postgres", "start postgres", "stop nats", "start nats", "kill nats", "start nats"]
    {
        servers.order(order).await?;
    }
    assert_eq!(write_row(&servers.first).await?, 2);
    let context = async_nats::jetstream::new(connect_nats(&url).await?);
    assert!(context.get_stream("KEPT").await.is_ok());
    servers.order("wipe nats").await?;
    servers.order("start nats").await?;
    let context = async_nats::jetstream::new(connect_nats(&url).await?);
    assert!(context.get_stream("KEPT").await.is_err());
    servers.end().await
}

#[tokio::test]
async fn a_server_that_dies_is_started_again() -> Result<()> {
    let (_folder, options) = kept_folder()?;
    let servers = Servers::start(&options)?;
    let old = pids(&servers.first)?;
    for pid in old {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    wait_until_gone(&old).await?;
    wait_for("a row in the restarted Postgres", SOON, async || Ok(write_row(&servers.first).await.ok())).await?;
    let url = servers.first.nats_url.clone().context("nats-server runs")?;
    wait_for("the restarted nats-server", SOON, async || Ok(connect_nats(&url).await.ok())).await?;
    servers.end().await
}

#[tokio::test]
async fn durability_is_on_and_a_password_is_needed() -> Result<()> {
    let servers = Servers::start(&ServersOptions::default())?;
    let mut connection = connect(&servers.first).await?;
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let value: String = sqlx::query_scalar("select current_setting($1)").bind(setting).fetch_one(&mut connection).await?;
        assert_eq!(value, "on", "{setting}");
    }
    let without = |url: &Option<String>, scheme: &str| {
        let host = url.as_deref().and_then(|url| url.rsplit_once('@')).map_or(String::new(), |(_, host)| host.to_owned());
        format!("{scheme}://orchestr8:wrong@{host}")
    };
    assert!(PgConnection::connect(&without(&servers.first.database_url, "postgres")).await.is_err());
    assert!(connect_nats(&without(&servers.first.nats_url, "nats")).await.is_err());
    servers.end().await
}

#[tokio::test]
async fn what_a_folder_closed_to_the_servers_needs_lies_outside_of_it() -> Result<()> {
    if !Uid::effective().is_root() {
        return Ok(()); // The servers run as the caller, who can enter its own folders.
    }
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700))?; // As root's home.
    let options = ServersOptions { data: Some(folder.path().join("data")), ..ServersOptions::default() };
    let servers = Servers::start(&options)?;
    let postgres = servers.first.postgres_pid.context("Postgres runs")?;
    let words = std::fs::read_to_string(format!("/proc/{postgres}/cmdline"))?;
    let cluster = words.split('\0').nth(2).context("postgres -D FOLDER")?.to_owned();
    let _outside = Outside(Path::new(&cluster).ancestors().nth(2).context("home/postgres/cluster")?.to_path_buf());
    assert!(cluster.starts_with("/var/tmp/orchestr8-"), "{cluster}");
    assert_eq!(write_row(&servers.first).await?, 1);
    servers.end().await?;
    let again = Servers::start(&options)?;
    assert_eq!(write_row(&again.first).await?, 2);
    again.end().await
}

#[tokio::test]
async fn fetched_servers_run_where_the_machine_has_none() -> Result<()> {
    let tools = binary::workspace().join("target/fetched-tools");
    let environment = vec![("ORCHESTR8_TOOLS".to_owned(), tools.clone().into_os_string()), ("ORCHESTR8_TOOLS_ONLY".to_owned(), "1".into())];
    let bootstrap = || Command::new(binary::workspace().join("deploy/bootstrap.sh")).envs(environment.iter().cloned()).output();
    let first = bootstrap()?;
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let second = bootstrap()?;
    assert!(
        second.status.success() && second.stderr.is_empty(),
        "nothing is missing, so nothing is said: {}",
        String::from_utf8_lossy(&second.stderr)
    );
    let (folder, options) = kept_folder()?;
    let servers = Servers::start(&ServersOptions { which: Which::Both, environment, ..options })?;
    let mut connection = connect(&servers.first).await?;
    let version: String = sqlx::query_scalar("show server_version").fetch_one(&mut connection).await?;
    assert!(version.starts_with("17.10"), "{version}");
    connection.close().await?;
    servers.end().await?;
    drop(folder);
    Ok(())
}
