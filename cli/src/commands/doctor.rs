//! `doctor`: everything that a user can get wrong, one line each.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_json};
use crate::client::ClientError;
use crate::client::operating::{Check, Diagnosis, Level};
use crate::exit::Exit;
use crate::text::{harmless_line, show_duration};
use nix::sys::statvfs::statvfs;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;
use time::OffsetDateTime;

const PATH: &str = "/api/v1/doctor";
/// This program's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Where `dev` keeps its data.
const DEV_FOLDER: &str = ".orchestr8";
/// Free bytes below which servers may meet a full disk any moment.
const FREE_BYTES_FAIL: u64 = 256 << 20;
/// Free bytes below which somebody should look.
const FREE_BYTES_WARN: u64 = 2 << 30;
/// Seconds by which this machine's clock may differ from the coordinator's.
const CLOCK_DIFFERENCE_MAX_S: u64 = 2;

/// Check everything that can be wrong: coordinator, token, versions, clocks, Postgres, NATS, shards, executors, queues, disk.
///
/// Each line is ok, warn or fail, with the remedy below it. Exit code 1 if one says fail; as of every command, 64 or 69 where the coordinator could not be asked.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Checks.
///
/// # Errors
/// [`CommandError::Output`]: what is wrong otherwise is a line.
pub async fn doctor(args: &DoctorArgs) -> Result<Exit, CommandError> {
    let (mut checks, unasked) = match Context::new(&args.client) {
        Ok(context) => match asked(&context).await {
            Ok(checks) => (checks, None),
            Err(error) => (vec![refused(context.client.url(), &error)], Some(CommandError::from(error).exit())),
        },
        Err(error) => {
            let remedy = "name the coordinator with --url, and the token with --token-file";
            (vec![fail("configuration", error.to_string(), remedy)], Some(error.exit()))
        }
    };
    checks.extend(disk(&std::env::current_dir().unwrap_or_default()));
    let worst = checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok);
    match args.client.output.format {
        Format::Json => emit_json(&json!({ "level": worst, "version": VERSION, "checks": checks }))?,
        Format::Text => emit(&lines(&checks))?,
    }
    Ok(unasked.unwrap_or(if worst == Level::Fail { Exit::Failed } else { Exit::Done }))
}

/// What the coordinator says, and what asking it says.
async fn asked(context: &Context) -> Result<Vec<Check>, ClientError> {
    let asked_at = Instant::now();
    let answer = context.client.get(PATH).await;
    let took = asked_at.elapsed();
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let url = context.client.url();
    let diagnosis: Diagnosis = context.client.shaped(PATH, &answer?)?;
    let mut checks = vec![
        fine("coordinator", format!("{url} answers within {}", show_duration(took))),
        fine("token", "it is accepted".to_owned()),
        version(&diagnosis.version),
        clock(now, diagnosis.unix_time_s),
    ];
    checks.extend(diagnosis.checks);
    Ok(checks)
}

fn refused(url: &str, error: &ClientError) -> Check {
    match error {
        ClientError::Unreachable { reason, .. } => {
            let remedy = "start a coordinator (`orchestr8 dev`), or name another with --url or ORCHESTR8_URL";
            fail("coordinator", format!("nobody answers at {url} ({reason})"), remedy)
        }
        ClientError::Unauthorized { .. } => {
            fail("token", format!("{url} refuses it"), "check ORCHESTR8_TOKEN, --token-file or .orchestr8/token")
        }
        error if error.is_not_found() => {
            fail("version", format!("the coordinator at {url} has no `{PATH}`"), "it is older than this program: upgrade it")
        }
        ClientError::Plain { url, plain } => fail("coordinator", format!("what answers at {url} speaks no TLS"), &format!("write {plain}")),
        error @ ClientError::Foreign { .. } => fail("coordinator", error.to_string(), "name the coordinator with --url or ORCHESTR8_URL"),
        error @ (ClientError::Refused(_) | ClientError::Malformed { .. } | ClientError::Authorities(_) | ClientError::Setup(_)) => {
            fail("coordinator", error.to_string(), "look at the coordinator's log")
        }
    }
}

fn version(coordinator: &str) -> Check {
    if coordinator == VERSION {
        return fine("version", format!("this program and the coordinator are of version {VERSION}"));
    }
    let message = format!("this program is of version {VERSION}, the coordinator of {coordinator}");
    warn("version", message, "use the same version for both")
}

fn clock(ours_s: i64, theirs_s: i64) -> Check {
    let side = if theirs_s < ours_s { "behind" } else { "ahead of" };
    let message = format!("the coordinator's clock is {} s {side} this machine's", ours_s.abs_diff(theirs_s));
    // Both are whole seconds, and the answer took its time.
    if ours_s.abs_diff(theirs_s) <= CLOCK_DIFFERENCE_MAX_S + 1 {
        return fine("clock", message);
    }
    warn("clock", message, "ages and times in lists mislead: run NTP on both machines")
}

/// The disk of the data of `dev`, where there is one here or above.
fn disk(start: &Path) -> Option<Check> {
    let folder: PathBuf = start.ancestors().map(|above| above.join(DEV_FOLDER)).find(|folder| folder.is_dir())?;
    Some(match statvfs(&folder) {
        Ok(found) => space(&folder, found.blocks_available().saturating_mul(found.fragment_size())),
        Err(error) => {
            warn("disk", format!("the disk of {} cannot be looked at ({error})", folder.display()), "check the rights of the folder")
        }
    })
}

fn space(folder: &Path, free_bytes: u64) -> Check {
    let message = format!("{} MiB are free on the disk of {}", free_bytes >> 20, folder.display());
    let remedy = "make room: Postgres and nats-server stop taking work when the disk is full";
    match free_bytes {
        ..FREE_BYTES_FAIL => fail("disk", message, remedy),
        FREE_BYTES_FAIL..FREE_BYTES_WARN => warn("disk", message, remedy),
        FREE_BYTES_WARN.. => fine("disk", message),
    }
}

fn lines(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let shown = |check: &Check| {
        let remedy = check.remedy.as_ref().map(|remedy| format!("\n      {:width$}  {}", "", harmless_line(remedy))).unwrap_or_default();
        format!("{:<4}  {:width$}  {}{remedy}", check.level.word(), harmless_line(&check.name), harmless_line(&check.message))
    };
    checks.iter().map(shown).collect::<Vec<_>>().join("\n")
}

fn fine(name: &str, message: String) -> Check {
    Check { name: name.to_owned(), level: Level::Ok, message, remedy: None }
}

fn warn(name: &str, message: String, remedy: &str) -> Check {
    Check { name: name.to_owned(), level: Level::Warn, message, remedy: Some(remedy.to_owned()) }
}

fn fail(name: &str, message: String, remedy: &str) -> Check {
    Check { name: name.to_owned(), level: Level::Fail, message, remedy: Some(remedy.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_says_how_it_is_and_what_to_do() {
        let checks = [fine("token", "it is accepted".into()), fail("nats", "no\u{1b}[2J answer".into(), "start it")];
        assert_eq!(lines(&checks), "ok    token  it is accepted\nfail  nats   no answer\n             start it");
    }

    #[test]
    fn limits_have_their_levels() {
        let levels: Vec<Level> = [0, FREE_BYTES_FAIL, FREE_BYTES_WARN].iter().map(|free| space(Path::new("x"), *free).level).collect();
        assert_eq!(levels, [Level::Fail, Level::Warn, Level::Ok]);
        assert_eq!((clock(100, 103).level, clock(100, 96).level, clock(100, 104).level), (Level::Ok, Level::Warn, Level::Warn));
        assert!(clock(100, 96).message.contains("is 4 s behind this") && clock(96, 100).message.contains("is 4 s ahead of this"));
        assert_eq!((version(VERSION).level, version("0.0.1").level), (Level::Ok, Level::Warn));
    }

    #[test]
    fn the_folder_of_dev_is_found_above() {
        let place = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir_all(place.path().join("a/b")).expect("a folder");
        let none = disk(&place.path().join("a/b"));
        std::fs::create_dir(place.path().join(DEV_FOLDER)).expect("a folder");
        let found = disk(&place.path().join("a/b")).expect("found above");
        assert!(found.message.contains(&place.path().display().to_string()), "{found:?} after {none:?}");
    }
}
