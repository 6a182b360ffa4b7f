//! Small steps on files that the rest of `dev` shares: private files, private folders, copies with an owner.

use super::accounts::Account;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

/// A step on a file or folder that the system refused.
#[derive(Debug, thiserror::Error)]
#[error("{}: {action}: {source}", path.display())]
pub struct FileError {
    /// The file or folder.
    pub path: PathBuf,
    /// What was tried, as in "could not be created".
    pub action: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// Turns an `io::Error` into one that names the file.
pub fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_path_buf();
    move |source| FileError { path, action, source }
}

/// Creates a folder and its parents; `mode` holds for all that are new, and exactly for the last, whatever the umask.
///
/// # Errors
/// [`FileError`] when one of them cannot be created.
pub fn create_folder(path: &Path, mode: u32) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed(path, "the folder could not be created"))?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed(path, "its mode could not be set"))
}

/// Hands a file or folder to `account`, if there is one.
///
/// # Errors
/// [`FileError`] when the system refuses.
pub fn hand_over(path: &Path, account: Option<Account>) -> Result<(), FileError> {
    let Some(account) = account else { return Ok(()) };
    chown(path, Some(account.uid), Some(account.gid)).map_err(failed(path, "its owner could not be set"))
}

/// Writes a file that only its owner can read, in one step: a reader sees the old text or the new one.
///
/// # Errors
/// [`FileError`] when it cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), FileError> {
    let draft = path.with_extension("draft");
    remove(&draft)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(failed(&draft, "the file could not be created"))?;
    file.write_all(text.as_bytes()).map_err(failed(&draft, "the file could not be written"))?;
    file.sync_all().map_err(failed(&draft, "the file could not be written"))?;
    fs::rename(&draft, path).map_err(failed(path, "the file could not be replaced"))
}

/// The text of a file, `None` if there is no such file.
///
/// # Errors
/// [`FileError`] when it exists and cannot be read.
pub fn read_if_there(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(path, "the file could not be read")(source)),
    }
}

/// Removes a file or a whole folder; what is not there is no error.
///
/// # Errors
/// [`FileError`] when something is left.
pub fn remove(path: &Path) -> Result<(), FileError> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, "it could not be removed")(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Copies a file or a whole folder with its modes, and hands each copy to `account`.
///
/// # Errors
/// [`FileError`] at the first thing that cannot be copied; what was copied so far stays.
pub fn copy_all(from: &Path, to: &Path, account: Option<Account>) -> Result<(), FileError> {
    let found = from.symlink_metadata().map_err(failed(from, "it could not be read"))?;
    if found.is_symlink() {
        let target = fs::read_link(from).map_err(failed(from, "the link could not be read"))?;
        return symlink(target, to).map_err(failed(to, "the link could not be created"));
    }
    if !found.is_dir() {
        fs::copy(from, to).map_err(failed(to, "the file could not be copied"))?;
        return hand_over(to, account);
    }
    create_folder(to, 0o700)?;
    for entry in fs::read_dir(from).map_err(failed(from, "the folder could not be read"))? {
        let entry = entry.map_err(failed(from, "the folder could not be read"))?;
        copy_all(&entry.path(), &to.join(entry.file_name()), account)?;
    }
    let mode = Permissions::from_mode(found.permissions().mode());
    fs::set_permissions(to, mode).map_err(failed(to, "its mode could not be set"))?;
    hand_over(to, account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_replaced_whole_and_stays_private() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("token");
        for text in ["first", "second"] {
            write_private(&path, text).expect("a writable folder");
            assert_eq!(read_if_there(&path).expect("readable").as_deref(), Some(text));
            assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_copy_keeps_modes_and_links() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        create_folder(&from.join("inner"), 0o750).expect("a writable folder");
        write_private(&from.join("inner/secret"), "text").expect("a writable folder");
        symlink("inner/secret", from.join("link")).expect("a link");
        copy_all(&from, &to, None).expect("a copy");
        assert_eq!(fs::read_to_string(to.join("link")).expect("the link leads to the copy"), "text");
        assert_eq!(to.join("inner").metadata().expect("copied").permissions().mode() & 0o777, 0o750);
        assert_eq!(to.join("inner/secret").metadata().expect("copied").permissions().mode() & 0o777, 0o600);
        remove(&from).expect("removable");
        assert!(!from.exists() && read_if_there(&from).expect("no file is no error").is_none());
    }
}
