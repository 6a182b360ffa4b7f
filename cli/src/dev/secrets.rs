//! Tokens, keys and passwords that `dev` makes once and keeps, each in a file that only its owner can read.

use super::files::{FileError, failed, read_if_there, write_private};
use rand::RngExt;
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Bytes of randomness in each secret.
const SECRET_BYTES: usize = 32;

/// 32 random bytes as 64 hexadecimal digits.
#[must_use]
pub fn fresh_secret() -> String {
    use std::fmt::Write;
    let bytes: [u8; SECRET_BYTES] = rand::rng().random();
    bytes.iter().fold(String::with_capacity(SECRET_BYTES * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

/// The secret in the file; the first time, one is made. The file ends readable for its owner alone.
///
/// # Errors
/// [`FileError`] when it can neither be read nor made.
pub fn kept_secret(path: &Path) -> Result<String, FileError> {
    kept_text(path, fresh_secret)
}

/// The file with the keys of the tokens: one line a key, `<number> <64 hexadecimal digits>`; the first signs, all verify.
///
/// # Errors
/// [`FileError`] when it can neither be read nor made.
pub fn keep_token_keys(path: &Path) -> Result<(), FileError> {
    kept_text(path, || format!("1 {}", fresh_secret())).map(drop)
}

fn kept_text(path: &Path, make: impl FnOnce() -> String) -> Result<String, FileError> {
    let kept = read_if_there(path)?.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    if let Some(text) = kept {
        set_permissions(path, Permissions::from_mode(0o600)).map_err(failed(path, "its mode could not be set"))?;
        return Ok(text);
    }
    let text = make();
    write_private(path, &format!("{text}\n"))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("token");
        let first = kept_secret(&path).expect("a writable folder");
        assert_eq!(first.len(), SECRET_BYTES * 2);
        set_permissions(&path, Permissions::from_mode(0o644)).expect("own file");
        assert_eq!(kept_secret(&path).expect("a readable file"), first);
        assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_ne!(fresh_secret(), first);
    }

    #[test]
    fn an_empty_file_is_no_secret() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "\n").expect("a writable folder");
        assert_eq!(kept_secret(&path).expect("a new secret").len(), SECRET_BYTES * 2);
    }
}
