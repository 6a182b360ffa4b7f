//! The directories of an attempt: a fresh one for its files, and the one in which the command starts.
//!
//! ```text
//! <folder>/<run_id>/     mode 0700, the command's user's; removed afterwards
//!   script               of a `run` task
//!   input.json           `with`
//!   output.json          what the command writes to $ORCHESTR8_OUTPUT
//!   work/                where the command starts, unless the task names a `workdir`
//! ```
//! A task's own `workdir` gets none of these files.

use super::WorkSettings;
use nix::unistd::{Gid, Uid, chown};
use orchestr8_proto::ids::RunId;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The root may be entered, not listed: commands of another user must reach their own directory.
pub(super) const ROOT_MODE: u32 = 0o711;
const PRIVATE_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Why an attempt has nowhere to run.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// The executor's machine or configuration is at fault.
    #[error("cannot prepare `{}` below `run_root`: {error}", path.display())]
    Prepare {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The task's `workdir` does not exist here, or cannot be entered.
    #[error("`workdir` `{workdir}` is no directory that this executor can use: {reason}")]
    NoDirectory {
        /// As the task names it.
        workdir: String,
        /// What is wrong.
        reason: String,
    },
    /// The task's `workdir`, symbolic links resolved, is not within an allowed one.
    #[error(
        "`workdir` `{workdir}`{} is outside the directories that this executor allows ({allowed}): \
         choose one inside them, or start the executor with --allow-workdir for it",
        led_to(workdir, resolved)
    )]
    NotAllowed {
        /// As the task names it.
        workdir: String,
        /// Where it leads.
        resolved: PathBuf,
        /// The allowed ones.
        allowed: String,
    },
}

/// Where symbolic links lead; nothing where there are none.
fn led_to(workdir: &str, resolved: &Path) -> String {
    if Path::new(workdir) == resolved { String::new() } else { format!(" (in truth `{}`)", resolved.display()) }
}

/// The fresh directory of one attempt. Dropping it removes it, which blocks on the disk.
#[derive(Debug)]
pub struct Scratch {
    root: PathBuf,
}

impl Scratch {
    /// Makes the directory and its files. Blocks on the disk.
    ///
    /// Everything is written while the directory is still the executor's, so that no other process of the command's
    /// user can plant a link under it; then it is given away as a whole.
    ///
    /// # Errors
    /// [`ScratchError::Prepare`]; what was made is removed.
    pub fn prepare(settings: &WorkSettings, run_id: RunId, script: &str, with_json: &[u8]) -> Result<Self, ScratchError> {
        let root = settings.run_root.join(run_id.to_string());
        create_below(&settings.run_root, &root)?;
        let scratch = Self { root };
        let with_json = if with_json.is_empty() { b"{}" } else { with_json };
        write(&scratch.script(), script.as_bytes())
            .and_then(|()| write(&scratch.input(), with_json))
            .and_then(|()| create(&scratch.work()))
            .and_then(|()| scratch.give_to(settings.user))?;
        Ok(scratch)
    }

    /// The script's file.
    #[must_use]
    pub fn script(&self) -> PathBuf {
        self.root.join("script")
    }

    /// The file with `with`.
    #[must_use]
    pub fn input(&self) -> PathBuf {
        self.root.join("input.json")
    }

    /// The file that the command may write.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.root.join("output.json")
    }

    /// The empty directory in which the command starts.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    fn give_to(&self, user: Option<(u32, u32)>) -> Result<(), ScratchError> {
        let Some((uid, gid)) = user else { return Ok(()) };
        for path in [self.script(), self.input(), self.work(), self.root.clone()] {
            let given = chown(&path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            given.map_err(|errno| ScratchError::Prepare { path, error: errno.into() })?;
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.root) {
            tracing::warn!(directory = %self.root.display(), %error, "the directory of an attempt cannot be removed");
        }
    }
}

/// Removes a directory with everything in it, also what a command made read-only; never follows a link. One that is
/// gone already is removed.
///
/// # Errors
/// What the system says of the first entry that stays.
pub(super) fn remove_tree(directory: &Path) -> io::Result<()> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    std::fs::remove_dir_all(directory)
        .or_else(|error| {
            if gone(&error) {
                return Ok(());
            }
            // Root needs no rights; and whoever owns a directory could lead its change of rights elsewhere by a link.
            if !Uid::effective().is_root() {
                make_writable(directory);
            }
            std::fs::remove_dir_all(directory)
        })
        .or_else(|error| if gone(&error) { Ok(()) } else { Err(error) })
}

/// The task's `workdir`, links resolved, if it lies in an allowed directory. Blocks on the disk.
///
/// # Errors
/// [`ScratchError::NoDirectory`], [`ScratchError::NotAllowed`].
pub fn resolve_workdir(settings: &WorkSettings, workdir: &str) -> Result<PathBuf, ScratchError> {
    let unusable = |reason: String| ScratchError::NoDirectory { workdir: workdir.to_owned(), reason };
    if !Path::new(workdir).is_absolute() {
        return Err(unusable("the path is not absolute".into()));
    }
    let resolved = std::fs::canonicalize(workdir).map_err(|error| unusable(error.to_string()))?;
    if !resolved.is_dir() {
        return Err(unusable("it is not a directory".into()));
    }
    let allowed = settings.workdirs_allowed.iter().filter_map(|allowed| std::fs::canonicalize(allowed).ok());
    if allowed.into_iter().any(|allowed| resolved.starts_with(allowed)) {
        return Ok(resolved);
    }
    Err(ScratchError::NotAllowed { workdir: workdir.to_owned(), resolved, allowed: allowed_text(&settings.workdirs_allowed) })
}

fn allowed_text(allowed: &[PathBuf]) -> String {
    if allowed.is_empty() {
        return "none".into();
    }
    allowed.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn create_below(root: &Path, directory: &Path) -> Result<(), ScratchError> {
    match create(directory) {
        Err(ScratchError::Prepare { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            create_root(root).map_err(|error| ScratchError::Prepare { path: root.to_owned(), error })?;
            create(directory)
        }
        created => created,
    }
}

/// Makes a directory for directories of attempts, and those above it.
pub(super) fn create_root(root: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(ROOT_MODE).create(root)
}

fn create(directory: &Path) -> Result<(), ScratchError> {
    let created = DirBuilder::new().mode(PRIVATE_MODE).create(directory);
    created.map_err(|error| ScratchError::Prepare { path: directory.to_owned(), error })
}

fn write(path: &Path, text: &[u8]) -> Result<(), ScratchError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path);
    file.and_then(|mut file| file.write_all(text)).map_err(|error| ScratchError::Prepare { path: path.to_owned(), error })
}

/// Gives the owner back the rights that a command took from its directories (a module cache is read-only, for one).
fn make_writable(directory: &Path) {
    // Whatever fails here shows when the removal fails.
    std::fs::set_permissions(directory, Permissions::from_mode(PRIVATE_MODE)).ok();
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    // The entry's own type: a link to a directory is a link.
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.for_each(|entry| make_writable(&entry.path()));
}
