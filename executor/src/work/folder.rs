//! The folder of one executor below `run_root`, and the removal of what dead executors left there.
//!
//! ```text
//! <run_root>/e-1f2e3d4c/       one executor's; mode 0711; removed at its end
//!   orchestr8-executor.lock    locked (flock) for as long as that executor lives
//!   <run_id>/                  one attempt's
//! ```
//! Several executors may share one `run_root`. The system lets go of a lock when its holder dies, however it dies: a
//! folder whose lock can be had is nobody's. Its name, its lock file and their owner say that it is ours at all. The name
//! is short because the path of a Unix socket, which a command may want in its directory, has at most 107 bytes.

use super::scratch::{ROOT_MODE, create_root, remove_tree};
use nix::fcntl::OFlag;
use nix::unistd::Uid;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What a folder's name begins with.
const NAME_START: &str = "e-";
/// And how many hexadecimal digits follow.
const NAME_DIGITS: usize = 8;
/// Its presence says that a folder is an executor's.
const LOCK_FILE: &str = "orchestr8-executor.lock";
/// What the lock file is called until it is locked, so that nobody takes its folder for a dead one's.
const UNLOCKED_FILE: &str = "orchestr8-executor.new";
const LOCK_MODE: u32 = 0o600;

/// Why an executor has no folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The machine or the configuration is at fault.
    #[error("run_root: cannot use `{}`: {error}; name a directory that this executor's user may write to", path.display())]
    Unusable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Its owner could change what commands are made of.
    #[error("run_root: `{}` belongs to user {owner}, who could change what runs there: name another directory, or change its owner", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Neither root nor the executor's user.
        owner: u32,
    },
}

/// The folder of a living executor. Dropping it removes it, which blocks on the disk.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Locked until it is closed.
    _lock: File,
}

impl Folder {
    /// Makes a folder below `run_root`, which is made as well when it is absent. Blocks on the disk.
    ///
    /// # Errors
    /// Every [`FolderError`].
    pub(crate) fn claim(run_root: &Path) -> Result<Self, FolderError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |error| FolderError::Unusable { path, error }
        };
        create_root(run_root).map_err(unusable(run_root))?;
        let run_root = run_root.canonicalize().map_err(unusable(run_root))?;
        let owner = run_root.metadata().map_err(unusable(&run_root))?.uid();
        if owner != 0 && owner != Uid::effective().as_raw() {
            return Err(FolderError::Foreign { path: run_root, owner });
        }
        let path = run_root.join(format!("{NAME_START}{:0NAME_DIGITS$x}", rand::random::<u32>()));
        // Fails when it exists: a folder is never shared.
        DirBuilder::new().mode(ROOT_MODE).create(&path).map_err(unusable(&path))?;
        let lock = lock_new(&path).map_err(unusable(&path))?;
        Ok(Self { path, _lock: lock })
    }

    /// Where directories of attempts are made.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(folder = %self.path.display(), %error, "the folder of this executor cannot be removed: the next executor tries again");
        }
    }
}

/// Removes the folders of dead executors below `run_root`; how many. Blocks on the disk.
pub(crate) fn sweep(run_root: &Path) -> usize {
    let entries = std::fs::read_dir(run_root).into_iter().flatten().flatten();
    let abandoned = entries.filter_map(|entry| {
        let path = entry.path();
        lock_abandoned(&path).map(|lock| (path, lock))
    });
    abandoned.filter(|(path, _lock)| remove_abandoned(path)).count()
}

fn remove_abandoned(folder: &Path) -> bool {
    match remove_tree(folder) {
        Ok(()) => {
            tracing::info!(folder = %folder.display(), "removed what an executor left that did not end in order");
            true
        }
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "the folder of a dead executor cannot be removed");
            false
        }
    }
}

/// The lock of a folder that was an executor's of our user and is nobody's now.
fn lock_abandoned(folder: &Path) -> Option<File> {
    let ours = |found: &std::fs::Metadata| found.uid() == Uid::effective().as_raw();
    if !is_named_as_ours(folder) || !folder.symlink_metadata().is_ok_and(|found| found.is_dir() && ours(&found)) {
        return None;
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(folder.join(LOCK_FILE)).ok()?;
    if !file.metadata().is_ok_and(|found| found.is_file() && ours(&found)) {
        return None;
    }
    match file.try_lock() {
        // Another executor may have removed it between our opening and our locking: then it has no name any more.
        Ok(()) => file.metadata().is_ok_and(|found| found.nlink() > 0).then_some(file),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(error)) => {
            tracing::warn!(folder = %folder.display(), %error, "whether an executor uses this folder cannot be told: it stays");
            None
        }
    }
}

fn is_named_as_ours(folder: &Path) -> bool {
    let digits = folder.file_name().and_then(|name| name.to_str()?.strip_prefix(NAME_START));
    digits.is_some_and(|digits| digits.len() == NAME_DIGITS && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')))
}

fn lock_new(folder: &Path) -> io::Result<File> {
    let unlocked = folder.join(UNLOCKED_FILE);
    let file = OpenOptions::new().write(true).create_new(true).mode(LOCK_MODE).open(&unlocked)?;
    file.try_lock().map_err(io::Error::from)?;
    std::fs::rename(&unlocked, folder.join(LOCK_FILE))?;
    Ok(file)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use nix::unistd::chown;
    use std::os::unix::fs::symlink;

    const NOBODY: u32 = 65_534;

    pub(crate) fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).expect("a directory");
        let mut names: Vec<String> = entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    fn name() -> String {
        format!("e-{:08x}", rand::random::<u32>())
    }

    /// A folder with an attempt in it, as a killed executor leaves it.
    pub(crate) fn abandoned(run_root: &Path) -> PathBuf {
        let folder = run_root.join(name());
        std::fs::create_dir_all(folder.join("run/work")).expect("made");
        std::fs::write(folder.join(LOCK_FILE), "").expect("written");
        folder
    }

    #[test]
    fn a_folder_is_removed_at_its_end() {
        let place = tempfile::tempdir().expect("a directory");
        let run_root = place.path().join("a/b");
        let folder = Folder::claim(&run_root).expect("usable");
        std::fs::create_dir(folder.path().join("left")).expect("made");
        assert_eq!(names(folder.path()), ["left", LOCK_FILE]);
        drop(folder);
        assert_eq!(names(&run_root), Vec::<String>::new());
    }

    #[test]
    fn what_dead_executors_left_is_removed_and_what_living_ones_use_is_not() {
        let place = tempfile::tempdir().expect("a directory");
        let living = [place.path(), place.path()].map(|root| Folder::claim(root).expect("usable"));
        let killed = Folder::claim(place.path()).expect("usable");
        let dead = killed.path().to_owned();
        // The end of the process closes the file and runs no destructor.
        let Folder { _lock: lock, .. } = &killed;
        lock.unlock().expect("locked before");
        std::mem::forget(killed);
        abandoned(place.path());
        assert_eq!((sweep(place.path()), sweep(place.path())), (2, 0));
        assert!(living.iter().all(|folder| folder.path().join(LOCK_FILE).exists()) && !dead.exists());
    }

    #[test]
    fn what_does_not_look_like_ours_stays() {
        let (place, elsewhere) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let named = |name: &str| place.path().join(name);
        let fresh = || named(&name());
        let unmarked = fresh();
        std::fs::create_dir_all(unmarked.join("work")).expect("made");
        std::fs::write(unmarked.join(UNLOCKED_FILE), "").expect("written");
        for other in ["backup", "e-1F2E3D4C", "e-1f2e3d4", "e-1f2e3d4c5", "1f2e3d4c", "e-1f2e3d4g"] {
            std::fs::rename(abandoned(place.path()), named(other)).expect("renamed");
        }
        std::fs::write(fresh(), "a file").expect("written");
        symlink(abandoned(elsewhere.path()), fresh()).expect("made");
        let marked_by_link = fresh();
        std::fs::create_dir(&marked_by_link).expect("made");
        symlink(abandoned(elsewhere.path()).join(LOCK_FILE), marked_by_link.join(LOCK_FILE)).expect("made");
        // Only root can give something away.
        if Uid::effective().is_root() {
            chown(&abandoned(place.path()), Some(Uid::from_raw(NOBODY)), None).expect("root may");
            chown(&abandoned(place.path()).join(LOCK_FILE), Some(Uid::from_raw(NOBODY)), None).expect("root may");
        }
        let before = (names(place.path()), names(elsewhere.path()));
        assert_eq!((sweep(place.path()), names(place.path()), names(elsewhere.path())), (0, before.0, before.1));
        assert_eq!(sweep(&named("absent")), 0);
    }

    #[test]
    fn a_root_that_cannot_be_used_is_named_with_the_remedy() {
        let place = tempfile::tempdir().expect("a directory");
        let file = place.path().join("file");
        std::fs::write(&file, "").expect("written");
        let error = Folder::claim(&file).expect_err("no directory").to_string();
        assert!(error.contains(&file.display().to_string()) && error.contains("name a directory"), "{error}");
        // Only root can give something away.
        if Uid::effective().is_root() {
            chown(place.path(), Some(Uid::from_raw(NOBODY)), None).expect("root may");
            assert!(matches!(Folder::claim(place.path()), Err(FolderError::Foreign { owner: NOBODY, .. })));
        }
    }
}
