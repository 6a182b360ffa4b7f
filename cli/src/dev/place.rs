//! Where `dev` keeps its files: one folder, marked as ours, locked while in use, with a part that the servers' user can enter.
//!
//! ```text
//! .orchestr8/          root: token, token-keys, url, logs/, runs/, dev.lock, the marker, and tools/ from bootstrap.sh
//!   servers/           home: postgres/, nats/, template-*/ and ephemeral/*; outside the clone where the servers' user cannot enter it
//! ```

use super::accounts::{Account, can_enter, server_account};
use crate::client::address::DEV_FOLDER;

use super::files::{FileError, create_folder, failed, read_if_there, remove};
use nix::unistd::{Uid, User};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The file that says that a folder was made by `orchestr8 dev`, so that `--reset` may clear it.
const MARKER: &str = "made-by-orchestr8-dev";
/// The file whose lock says that a `dev` uses the folder; the system drops the lock when the process dies.
const LOCK: &str = "dev.lock";
/// What `--reset` removes of the root; everything else there is not its own.
const KEPT_IN_ROOT: [&str; 6] = ["token", "token-keys", "url", "logs", "runs", "nats-password"];
/// What `--reset` removes of the home. The templates stay: they hold no data.
const KEPT_IN_HOME: [&str; 2] = ["postgres", "nats"];
/// An ephemeral folder without a lock file is only swept when it is this old: a younger one is just being made.
const SWEEP_AFTER: Duration = Duration::from_mins(1);

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A step on a file failed.
    #[error("{0}; --data names another folder")]
    File(#[from] FileError),
    /// Root found no user for the servers.
    #[error(transparent)]
    Account(#[from] super::accounts::AccountError),
    /// The folder holds things that `dev` did not make; the caller must name another.
    #[error("--data {}: the folder is not empty and was not made by `orchestr8 dev`: name a new or empty folder", .0.display())]
    NotOurs(PathBuf),
    /// Another `dev` runs on this folder.
    #[error("another `orchestr8 dev` (process {pid}) uses {}: stop it, or name another folder with --data", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The other process, or `unknown`.
        pid: String,
    },
    /// The folder belongs to someone else, whose data it holds.
    #[error("--data {}: the folder belongs to {owner}: name another one", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// The user's name, else the number.
        owner: String,
    },
    /// Others can write to the folder, so the database's files would not be safe there.
    #[error("{}: it must be a folder that only its owner can write to: run `chmod go-w` on it, or name another folder with --data", .0.display())]
    UnsafeHome(PathBuf),
}

/// The folder of `--data`, prepared but not yet locked.
#[derive(Debug, Clone)]
pub struct Base {
    /// The absolute path.
    pub root: PathBuf,
    /// Where the servers' files go.
    pub home: PathBuf,
    /// The user of the servers, when it is not the caller.
    pub account: Option<Account>,
}

/// A locked folder with the files of one installation.
#[derive(Debug)]
pub struct Place {
    /// Tokens, logs, runs.
    pub root: PathBuf,
    /// The servers' files.
    pub servers: PathBuf,
    /// The user of the servers, when it is not the caller.
    pub account: Option<Account>,
    /// Held as long as this lives.
    _lock: File,
}

impl Base {
    /// Creates what is missing of the folder and marks it.
    ///
    /// # Errors
    /// [`PlaceError`] when the folder is not ours or cannot be made.
    pub fn prepare(root: &Path) -> Result<Self, PlaceError> {
        let account = server_account()?;
        create_folder(root, root_mode(account))?;
        let root = root.canonicalize().map_err(failed(root, "the folder could not be entered"))?;
        check_owner(&root)?;
        mark(&root)?;
        let home = home_of(&root, account)?;
        Ok(Self { root, home, account })
    }

    /// Whether the servers' files had to leave the folder.
    #[must_use]
    pub fn home_is_outside(&self) -> bool {
        !self.home.starts_with(&self.root)
    }

    /// Takes the folder for an installation whose data survives.
    ///
    /// # Errors
    /// [`PlaceError::InUse`] when another `dev` has it.
    pub fn lock(&self) -> Result<Place, PlaceError> {
        let place = lock_folder(&self.root, &self.home, self.account)?;
        create_folder(&place.logs(), 0o700)?;
        Ok(place)
    }

    /// Makes a folder for an installation that ends with the process, after it swept those of processes that were killed.
    ///
    /// # Errors
    /// [`PlaceError::File`] when it cannot be made.
    pub fn ephemeral(&self) -> Result<Place, PlaceError> {
        let parent = self.home.join("ephemeral");
        create_folder(&parent, root_mode(self.account))?;
        sweep(&parent);
        loop {
            let name = &super::secrets::fresh_secret()[..12];
            let folder = parent.join(name);
            create_folder(&folder, root_mode(self.account))?;
            match lock_folder(&folder, &folder, self.account) {
                // A sweep saw the new folder before its lock was held; it removes it, or has.
                Err(PlaceError::InUse { .. }) => {}
                Err(PlaceError::File(error)) if error.source.kind() == std::io::ErrorKind::NotFound => {}
                Ok(place) => {
                    create_folder(&place.logs(), 0o700)?;
                    return Ok(place);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes every trace of the data, and gives the names of what was there; tools and templates stay.
    ///
    /// # Errors
    /// [`PlaceError::File`] when something cannot be removed.
    pub fn reset(&self, _locked: &Place) -> Result<Vec<&'static str>, PlaceError> {
        let in_home = KEPT_IN_HOME.into_iter().map(|name| (&self.home, name));
        let in_root = KEPT_IN_ROOT.into_iter().map(|name| (&self.root, name));
        let mut removed = Vec::new();
        for (folder, name) in in_home.chain(in_root) {
            let path = folder.join(name);
            let is_empty = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
            if path.symlink_metadata().is_ok() && !is_empty {
                removed.push(name);
            }
            remove(&path)?;
        }
        create_folder(&self.root.join("logs"), 0o700)?;
        Ok(removed)
    }
}

impl Place {
    /// The folder of the children's logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }
}

/// Others may pass through, but not look, when the servers run as another user.
fn root_mode(account: Option<Account>) -> u32 {
    if account.is_some() { 0o711 } else { 0o700 }
}

/// Marks the folder, unless it holds something that is not ours. `tools` comes from the bootstrap script.
fn mark(root: &Path) -> Result<(), PlaceError> {
    let marker = root.join(MARKER);
    let mut is_foreign = false;
    for entry in fs::read_dir(root).map_err(failed(root, "the folder could not be read"))? {
        let name = entry.map_err(failed(root, "the folder could not be read"))?.file_name();
        is_foreign |= name != "tools" && name != MARKER;
    }
    // Looked for last: another `dev` that starts here at the same moment marks the folder before it puts anything into it.
    if marker.exists() {
        return Ok(());
    }
    if is_foreign {
        return Err(PlaceError::NotOurs(root.to_path_buf()));
    }
    fs::write(&marker, "The data of `orchestr8 dev`. `orchestr8 dev --reset-only` clears it.\n")
        .map_err(failed(&marker, "the file could not be written"))?;
    Ok(())
}

/// The servers' part: inside the root where their user can enter it, else a folder of our own under `/var/tmp`.
fn home_of(root: &Path, account: Option<Account>) -> Result<PathBuf, PlaceError> {
    let home = match account {
        Some(account) if !can_enter(account, root) => outside(root),
        Some(_) | None => root.join("servers"),
    };
    create_folder(&home, root_mode(account))?;
    let found = home.symlink_metadata().map_err(failed(&home, "the folder could not be read"))?;
    if found.uid() != Uid::effective().as_raw() {
        return Err(PlaceError::Foreign { path: home, owner: user_name(found.uid()) });
    }
    if found.is_dir() && found.mode() & 0o022 == 0 { Ok(home) } else { Err(PlaceError::UnsafeHome(home)) }
}

/// Root may use everybody's folder; nobody else may use another's, even where its mode would let them.
fn check_owner(root: &Path) -> Result<(), PlaceError> {
    let owner = root.metadata().map_err(failed(root, "the folder could not be read"))?.uid();
    if Uid::effective().is_root() || owner == Uid::effective().as_raw() {
        return Ok(());
    }
    Err(PlaceError::Foreign { path: root.to_path_buf(), owner: user_name(owner) })
}

fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("the user with number {uid}"), |user| user.name)
}

/// The folder of `dev` at or above `start`, where it was made or filled by the bootstrap script; else a new one at `start`.
///
/// One of another user does not count: what lies there is executed.
pub fn found_above(start: &Path) -> PathBuf {
    let is_ours = |folder: &PathBuf| is_trusted(folder) && (folder.join(MARKER).exists() || folder.join("tools").is_dir());
    start.ancestors().map(|step| step.join(DEV_FOLDER)).find(is_ours).unwrap_or_else(|| PathBuf::from(DEV_FOLDER))
}

/// Whether the folder is the caller's or root's, and nobody else may write there.
pub fn is_trusted(folder: &Path) -> bool {
    let may = |uid: u32| uid == 0 || uid == Uid::effective().as_raw();
    folder.symlink_metadata().is_ok_and(|found| found.is_dir() && may(found.uid()) && found.mode() & 0o022 == 0)
}

/// The same folder for the same root, every time.
fn outside(root: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let digest = Sha256::digest(root.as_os_str().as_bytes());
    let short = u64::from_be_bytes(digest[..8].try_into().expect("a SHA-256 has 32 bytes"));
    PathBuf::from(format!("/var/tmp/orchestr8-{short:016x}"))
}

fn lock_folder(root: &Path, servers: &Path, account: Option<Account>) -> Result<Place, PlaceError> {
    let path = root.join(LOCK);
    let lock = open_lock(&path)?;
    if lock.try_lock().is_err() {
        let pid = read_if_there(&path)?.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        return Err(PlaceError::InUse { path: root.to_path_buf(), pid: pid.unwrap_or_else(|| "unknown".to_owned()) });
    }
    fs::write(&path, format!("{}\n", std::process::id())).map_err(failed(&path, "the file could not be written"))?;
    Ok(Place { root: root.to_path_buf(), servers: servers.to_path_buf(), account, _lock: lock })
}

/// Opens or creates a file to lock it; the lock belongs to whoever holds this opening of it.
pub fn open_lock(path: &Path) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    options.create(true).read(true).append(true).mode(0o600);
    options.open(path).map_err(failed(path, "the file could not be opened"))
}

/// Removes the ephemeral folders that nobody holds. What cannot be removed now is left to the next sweep.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for folder in entries.flatten().map(|entry| entry.path()) {
        if let Some(_locks) = abandoned(&folder) {
            drop(remove(&folder));
        }
    }
}

/// All locks of a folder that nobody uses: the one of `dev` and those of the logs, which the servers hold as long as they live.
fn abandoned(folder: &Path) -> Option<Vec<File>> {
    let lock = folder.join(LOCK);
    if !lock.exists() {
        let made = folder.metadata().and_then(|found| found.modified()).ok()?;
        let old = SystemTime::now().duration_since(made).is_ok_and(|age| age > SWEEP_AFTER);
        return old.then(Vec::new);
    }
    let logs = fs::read_dir(folder.join("logs")).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(lock).chain(logs).map(|path| open_lock(&path).ok().filter(|file| file.try_lock().is_ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn base() -> (tempfile::TempDir, Base) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let base = Base::prepare(&folder.path().join("kept")).expect("a new folder");
        (folder, base)
    }

    #[test]
    fn a_second_dev_is_refused_until_the_first_is_gone() {
        let (_folder, base) = base();
        let first = base.lock().expect("nobody has it");
        let refused = base.lock().expect_err("it is taken").to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains("--data"), "{refused}");
        drop(first);
        base.lock().expect("free again");
    }

    #[test]
    fn a_foreign_folder_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let thesis = folder.path().join("thesis.txt");
        fs::write(&thesis, "years of work").expect("a writable folder");
        let refused = Base::prepare(folder.path()).expect_err("it is not ours");
        assert!(matches!(refused, PlaceError::NotOurs(_)), "{refused}");
        assert!(thesis.exists() && !folder.path().join(MARKER).exists());
    }

    #[test]
    fn several_that_start_at_once_in_a_new_folder_do_not_refuse_each_other() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for round in 0..100 {
            let root = folder.path().join(round.to_string());
            std::thread::scope(|threads| {
                let starts: Vec<_> = (0..4).map(|_| threads.spawn(|| Base::prepare(&root))).collect();
                starts.into_iter().for_each(|start| drop(start.join().expect("no panic").expect("all of them are ours")));
            });
        }
    }

    #[test]
    fn reset_removes_the_data_and_nothing_else() {
        let (_folder, base) = base();
        let place = base.lock().expect("nobody has it");
        create_folder(&base.home.join("postgres/cluster"), 0o700).expect("writable");
        create_folder(&base.root.join("tools/bin"), 0o700).expect("writable");
        for name in ["token", "notes.txt"] {
            fs::write(base.root.join(name), "text").expect("writable");
        }
        let removed = base.reset(&place).expect("removable");
        assert_eq!(removed, ["postgres", "token"], "what was there is told");
        assert!(!base.home.join("postgres").exists() && !base.root.join("token").exists());
        assert!(base.root.join("tools/bin").exists() && base.root.join("notes.txt").exists());
    }

    #[test]
    fn the_folder_is_found_upward_and_only_a_trusted_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (deep, kept) = (folder.path().join("a/b"), folder.path().join(DEV_FOLDER));
        create_folder(&deep, 0o700).expect("writable");
        assert_eq!(found_above(&deep), Path::new(DEV_FOLDER));
        create_folder(&kept.join("tools"), 0o755).expect("writable");
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o755)).expect("own folder");
        assert_eq!(found_above(&deep), kept);
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o777)).expect("own folder");
        assert_eq!(found_above(&deep), Path::new(DEV_FOLDER), "anybody could have put programs there");
    }

    #[test]
    fn a_folder_of_another_user_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        if Uid::effective().is_root() {
            let home = folder.path().join("servers");
            create_folder(&home, 0o700).expect("writable");
            nix::unistd::chown(&home, Some(Uid::from_raw(4_000_001)), None).expect("root may");
            let refused = home_of(folder.path(), None).expect_err("it is another's").to_string();
            assert!(refused.contains("the user with number 4000001") && refused.contains("name another"), "{refused}");
        } else {
            // Only root can make a folder for somebody else; the root of the file system is one.
            let refused = check_owner(Path::new("/")).expect_err("it is root's").to_string();
            assert!(refused.contains("belongs to root") && refused.contains("name another"), "{refused}");
        }
    }

    #[test]
    fn ephemeral_folders_are_swept_once_nobody_holds_them() {
        let (_folder, base) = base();
        let first = base.ephemeral().expect("a folder");
        let path = first.root.clone();
        let second = base.ephemeral().expect("another folder");
        assert!(path.exists(), "the first is still held");
        drop(first);
        let server_log = open_lock(&path.join("logs/postgres.log")).expect("writable");
        server_log.lock().expect("nobody holds it");
        let third = base.ephemeral().expect("another folder");
        assert!(path.exists(), "its server still runs");
        drop((server_log, third));
        let _fourth = base.ephemeral().expect("another folder");
        assert!(!path.exists() && second.root.exists());
    }

    #[test]
    fn the_folder_outside_depends_on_the_root_alone() {
        assert_eq!(outside(Path::new("/root/a")), outside(Path::new("/root/a")));
        assert_ne!(outside(Path::new("/root/a")), outside(Path::new("/root/b")));
    }
}
