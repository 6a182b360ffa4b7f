//! The private Postgres: creating its cluster, its settings, starting it, hearing when it is ready.

use super::find::Server;
use super::{Started, started_in_time};
use crate::dev::accounts::Account;
use crate::dev::child::{ChildError, ChildPlan, run_to_end};
use crate::dev::files::{FileError, copy_all, create_folder, failed, hand_over, read_if_there, remove, write_private};
use crate::dev::place::{Base, Place};
use crate::dev::secrets::fresh_secret;
use orchestr8_executor::shim::{ShimSpec, StopSignal};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The database's superuser, and the only one.
const USER: &str = "orchestr8";
/// Fast shutdown writes a checkpoint; this is ample on a slow disk. After it, recovery replays the log at the next start.
const GRACE_MS: u64 = 25_000;
/// Coordinators of many tests share one server.
const CONNECTIONS_MAX: u32 = 300;
/// The state in the last line of `postmaster.pid` when connections are accepted.
const READY: &str = "ready";
/// The line of `postmaster.pid` with the state, from 0.
const STATE_LINE: usize = 7;

/// A cluster on disk with its password.
#[derive(Debug, Clone)]
pub struct Cluster {
    folder: PathBuf,
    password: String,
}

/// What a start needs.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    /// Settings that go last, so that they win: `name=value`.
    pub settings: Vec<String>,
}

/// The major version that wrote the data, `None` where there is none yet.
///
/// # Errors
/// [`FileError`] when it is there but unreadable.
pub fn data_major(place: &Place) -> Result<Option<u32>, FileError> {
    let text = read_if_there(&cluster_folder(&place.servers.join("postgres")).join("PG_VERSION"))?;
    Ok(text.and_then(|text| text.trim().parse().ok()))
}

/// The cluster of this place; the first time, it is created.
///
/// # Errors
/// [`ChildError`] when it cannot be created.
pub async fn kept_cluster(server: &Server, place: &Place) -> Result<Cluster, ChildError> {
    let folder = place.servers.join("postgres");
    if let Some(cluster) = existing(&folder)? {
        return Ok(cluster);
    }
    create_cluster(server, place, &folder).await
}

/// A fresh cluster for this place, copied from a template that is created once for each version.
///
/// Copies are not flushed to disk, which is right for what ends with the process.
///
/// # Errors
/// [`ChildError`] when it cannot be created.
pub async fn copied_cluster(server: &Server, base: &Base, place: &Place) -> Result<Cluster, ChildError> {
    let template = base.home.join(format!("template-{}", server.version));
    if existing(&template)?.is_none() {
        create_cluster(server, place, &template).await?;
    }
    let folder = place.servers.join("postgres");
    copy_all(&template, &folder, place.account)?;
    Ok(existing(&folder)?.expect("it was just copied from a complete one"))
}

/// How to run it. The log of an earlier process must not be held by anyone.
///
/// # Errors
/// [`FileError`] when its settings cannot be written.
pub fn plan(server: &Server, cluster: &Cluster, place: &Place, options: &PostgresOptions) -> Result<ChildPlan, FileError> {
    for (name, text) in [("postgresql.conf", settings(options)), ("pg_hba.conf", HOST_RULES.to_owned())] {
        let path = cluster.folder.join(name);
        write_private(&path, &text)?;
        hand_over(&path, place.account)?;
    }
    let argv = vec![text_of(&server.program), "-D".to_owned(), text_of(&cluster.folder)];
    Ok(ChildPlan { name: "postgres".to_owned(), shim: spec(argv, place), log: log_of(place) })
}

/// Waits until connections are accepted.
///
/// # Errors
/// [`ChildError::Failed`] when it ends before, or does not get ready in time.
pub async fn wait_ready(cluster: &Cluster, place: &Place, started: &Started<'_>) -> Result<(), ChildError> {
    let pid_file = cluster.folder.join("postmaster.pid");
    let ready = async |pid: i32| {
        let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
        let mut lines = text.lines();
        let its_own = lines.next().is_some_and(|line| line.trim() == pid.to_string());
        its_own && lines.nth(STATE_LINE - 1).is_some_and(|line| line.trim() == READY)
    };
    started_in_time(started, &log_of(place), ready).await
}

/// Removes the pid file of a server that was killed, if its process id now belongs to something else.
///
/// Postgres refuses to start when any process of its user has that id, as happens in containers where ids are small.
///
/// # Errors
/// [`FileError`] when it cannot be removed.
pub fn remove_stale_pid_file(cluster: &Cluster) -> Result<(), FileError> {
    let path = cluster.folder.join("postmaster.pid");
    let Some(pid) = read_if_there(&path)?.and_then(|text| text.lines().next().map(|line| line.trim().to_owned())) else { return Ok(()) };
    let name = std::fs::read_to_string(Path::new("/proc").join(pid).join("comm")).unwrap_or_default();
    if name.trim().starts_with("postgres") { Ok(()) } else { remove(&path) }
}

/// The address for clients, with the password.
#[must_use]
pub fn url(cluster: &Cluster, port: u16) -> String {
    format!("postgres://{USER}:{}@127.0.0.1:{port}/postgres", cluster.password)
}

/// Loopback only, by password only; there is no socket file.
const HOST_RULES: &str = "host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n";

/// Durability is never relaxed here: `fsync` and `synchronous_commit` are on.
fn settings(options: &PostgresOptions) -> String {
    let mut lines = vec![
        "# Written at every start by `orchestr8 dev`.".to_owned(),
        "listen_addresses = '127.0.0.1'".to_owned(),
        format!("port = {}", options.port),
        "unix_socket_directories = ''".to_owned(),
        format!("max_connections = {CONNECTIONS_MAX}"),
        "password_encryption = 'scram-sha-256'".to_owned(),
        "fsync = on".to_owned(),
        "synchronous_commit = on".to_owned(),
        "timezone = 'UTC'".to_owned(),
        "log_timezone = 'UTC'".to_owned(),
        "log_line_prefix = '%m [%p] %q%a '".to_owned(),
    ];
    lines.extend(
        options
            .settings
            .iter()
            .filter_map(|setting| setting.split_once('='))
            .map(|(name, value)| format!("{name} = '{}'", value.replace('\'', "''"))),
    );
    lines.join("\n") + "\n"
}

/// A complete cluster: it is moved to its name only when it is one.
fn existing(folder: &Path) -> Result<Option<Cluster>, FileError> {
    let password = read_if_there(&password_file(folder))?;
    Ok(password.map(|text| Cluster { folder: cluster_folder(folder), password: text.trim().to_owned() }))
}

async fn create_cluster(server: &Server, place: &Place, target: &Path) -> Result<Cluster, ChildError> {
    let draft = place.servers.join("draft-cluster"); // The place is locked, so it is nobody else's.
    remove(&draft)?;
    create_folder(&draft, 0o700)?;
    hand_over(&draft, place.account)?;
    let password = password_file(&draft);
    write_private(&password, &format!("{}\n", fresh_secret()))?;
    hand_over(&password, place.account)?;
    let argv = vec![
        text_of(&server.program.with_file_name("initdb")),
        format!("--pgdata={}", text_of(&cluster_folder(&draft))),
        format!("--username={USER}"),
        format!("--pwfile={}", text_of(&password)),
        "--auth=scram-sha-256".to_owned(),
        "--encoding=UTF8".to_owned(),
        "--locale=C".to_owned(),
    ];
    let made = run_to_end(ChildPlan { name: "initdb".to_owned(), shim: spec(argv, place), log: log_of(place) }).await;
    if let Err(error) = made {
        remove(&draft)?;
        return Err(error);
    }
    if let Err(error) = std::fs::rename(&draft, target) {
        remove(&draft)?; // Another process may have made the same template in the meantime.
        if existing(target)?.is_none() {
            return Err(failed(target, "the folder could not be moved to its place")(error).into());
        }
    }
    Ok(existing(target)?.expect("it was just moved there, or another process made it"))
}

fn spec(argv: Vec<String>, place: &Place) -> ShimSpec {
    server_spec(argv, place, GRACE_MS, StopSignal::Int)
}

/// A server sees nothing of our environment.
pub fn server_spec(argv: Vec<String>, place: &Place, grace_ms: u64, stop_signal: StopSignal) -> ShimSpec {
    let env = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LC_ALL", "C"), ("TZ", "UTC")];
    let env: BTreeMap<String, String> = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let account: Option<Account> = place.account;
    ShimSpec {
        argv,
        env,
        cwd: place.servers.clone(),
        uid: account.map(|it| it.uid),
        gid: account.map(|it| it.gid),
        timeout_ms: None,
        grace_ms,
        orphan_grace_ms: None,
        stop_signal,
    }
}

fn cluster_folder(folder: &Path) -> PathBuf {
    folder.join("cluster")
}

fn password_file(folder: &Path) -> PathBuf {
    folder.join("password")
}

fn log_of(place: &Place) -> PathBuf {
    place.logs().join("postgres.log")
}

/// Paths that we make are text; one that is not cannot be named in a command line of the shim.
pub fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_is_on_and_given_settings_come_last() {
        let text = settings(&PostgresOptions { port: 25_432, settings: vec!["work_mem=8MB".to_owned(), "search_path=it's".to_owned()] });
        for line in ["fsync = on", "synchronous_commit = on", "port = 25432", "unix_socket_directories = ''"] {
            assert!(text.lines().any(|found| found == line), "{line} is missing from\n{text}");
        }
        assert!(text.ends_with("work_mem = '8MB'\nsearch_path = 'it''s'\n"), "{text}");
    }

    #[test]
    fn a_cluster_counts_only_when_it_is_complete() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        create_folder(&cluster_folder(folder.path()), 0o700).expect("writable");
        assert!(existing(folder.path()).expect("readable").is_none());
        write_private(&password_file(folder.path()), "secret\n").expect("writable");
        let cluster = existing(folder.path()).expect("readable").expect("complete");
        assert_eq!(url(&cluster, 5_432), "postgres://orchestr8:secret@127.0.0.1:5432/postgres");
    }

    #[test]
    fn only_the_pid_file_of_another_program_is_removed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cluster = Cluster { folder: folder.path().to_path_buf(), password: String::new() };
        let path = folder.path().join("postmaster.pid");
        std::fs::write(&path, format!("{}\n", std::process::id())).expect("writable");
        remove_stale_pid_file(&cluster).expect("removable");
        assert!(!path.exists(), "this test is no Postgres");
        remove_stale_pid_file(&cluster).expect("nothing to remove");
    }
}
