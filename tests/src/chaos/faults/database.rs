//! Sessions that end in mid-statement, and a database that goes back to an older copy.

use super::super::history::Restore;
use super::super::stage::Stage;
use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Looks for a session in mid-statement: a commit takes about a millisecond.
const LOOKS_MAX: usize = 200;
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
const END_ACTIVE: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and application_name = 'orchestr8-lane' and state <> 'idle'";
const END_ALL: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and application_name like 'orchestr8-%'";
/// The copy, beside the cluster.
const COPY: &str = "postgres/older-copy";
const CLUSTER: &str = "postgres/cluster";

/// Ends lanes' sessions in mid-statement if one can be caught, then all sessions of coordinators.
///
/// # Errors
/// When Postgres does not answer.
pub async fn end_sessions(stage: &Stage) -> Result<()> {
    for _ in 0..LOOKS_MAX {
        let ended: i64 = sqlx::query_scalar(END_ACTIVE).fetch_one(&stage.pool).await?;
        if ended > 0 {
            break;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    sqlx::query_scalar::<_, i64>(END_ALL).fetch_one(&stage.pool).await?;
    Ok(())
}

/// Copies the cluster while it runs, by the interface for backups; nothing is disturbed yet.
///
/// # Errors
/// When Postgres or the disk refuses.
pub async fn copy(stage: &mut Stage) -> Result<()> {
    let folder = stage.installation.server_folders()?.postgres;
    let (cluster, copy) = (folder.join(CLUSTER), folder.join(COPY));
    remove(&copy)?;
    let copied = SystemTime::now();
    let mut session = PgConnection::connect(&stage.installation.database_url).await?;
    sqlx::query("select pg_backup_start('chaos', true)").execute(&mut session).await?;
    copy_folder(&cluster, &copy)?;
    let label: String = sqlx::query_scalar("select labelfile from pg_backup_stop(false)").fetch_one(&mut session).await?;
    session.close().await?;
    remove(&copy.join("pg_wal"))?;
    copy_folder(&cluster.join("pg_wal"), &copy.join("pg_wal"))?;
    let label_file = copy.join("backup_label");
    std::fs::write(&label_file, label)?;
    let owner = std::fs::metadata(&cluster)?;
    chown(&label_file, Some(owner.uid()), Some(owner.gid()))?;
    stage.history.restores.push(Restore { copied, restored: copied });
    Ok(())
}

/// Postgres dies, and the copy comes up in its place.
///
/// # Errors
/// When Postgres does not start on it.
pub async fn restore(stage: &mut Stage) -> Result<()> {
    let folder = stage.installation.server_folders()?.postgres;
    stage.installation.postgres("kill postgres").await?;
    remove(&folder.join(CLUSTER))?;
    std::fs::rename(folder.join(COPY), folder.join(CLUSTER)).context("the copy")?;
    let answer = stage.installation.postgres("start postgres").await?;
    stage.postgres_pid = answer.postgres_pid.context("it was started")?;
    let restore = stage.history.restores.last_mut().context("it was copied before")?;
    restore.restored = SystemTime::now();
    Ok(())
}

/// Owners and modes stay; what vanishes meanwhile is left out, and the pid file too.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    take_over(from, to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&source, &target)?;
        } else if entry.file_name() != "postmaster.pid" {
            match std::fs::copy(&source, &target) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => other.map_err(anyhow::Error::from).and_then(|_| take_over(&source, &target))?,
            }
        }
    }
    Ok(())
}

fn take_over(from: &Path, to: &Path) -> Result<()> {
    let Ok(found) = std::fs::metadata(from) else { return Ok(()) };
    chown(to, Some(found.uid()), Some(found.gid()))?;
    Ok(std::fs::set_permissions(to, std::fs::Permissions::from_mode(found.mode()))?)
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| folder.display().to_string()),
        Ok(()) | Err(_) => Ok(()),
    }
}
