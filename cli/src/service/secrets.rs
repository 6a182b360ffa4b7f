//! Secrets from files: the API's tokens and the keys of the tokens between the servers.

use super::ServiceError;
use orchestr8_proto::tokens::TokenKeys;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Largest file of secrets, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Reads the keys that sign and verify outcomes: one line a key, `<number from 0 to 255>:<at least 64 hexadecimal digits>`
/// (a blank may stand for the colon). The first signs, all verify. Blank lines and lines with `#` in front say nothing.
///
/// # Errors
/// [`ServiceError::Configuration`] names file, line and remedy, never the key.
pub fn read_token_keys(flag: &str, file: &Path) -> Result<TokenKeys, ServiceError> {
    let text = read_private(flag, file)?;
    let wrong = |reason: String| ServiceError::Configuration(format!("{flag} {}: {reason}", file.display()));
    let mut keys: Vec<(u8, Vec<u8>)> = Vec::new();
    for (index, line) in text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let key = key_of(line).ok_or_else(|| wrong(format!("line {}: write NUMBER:HEXADECIMAL, such as 1:<64 digits>", index + 1)))?;
        if keys.iter().any(|(id, _)| *id == key.0) {
            return Err(wrong(format!("line {}: the number {} is used twice", index + 1, key.0)));
        }
        keys.push(key);
    }
    TokenKeys::new(keys).map_err(|error| wrong(error.to_string()))
}

/// Reads one secret of one line.
///
/// # Errors
/// [`ServiceError::Configuration`] names file and remedy.
pub fn read_secret(flag: &str, file: &Path) -> Result<String, ServiceError> {
    let text = read_private(flag, file)?.trim().to_owned();
    if text.is_empty() || text.contains(char::is_whitespace) {
        return Err(ServiceError::Configuration(format!("{flag} {}: it must hold one line", file.display())));
    }
    Ok(text)
}

/// Reads a file that others should not be able to read; says so when they can, of a file alone: the remedy would break a device.
fn read_private(flag: &str, file: &Path) -> Result<String, ServiceError> {
    let unreadable = |error: std::io::Error| ServiceError::Configuration(format!("{flag} {}: it cannot be read ({error})", file.display()));
    let found = file.metadata().map_err(unreadable)?;
    if found.len() > FILE_BYTES_MAX {
        return Err(ServiceError::Configuration(format!("{flag} {}: more than {FILE_BYTES_MAX} bytes", file.display())));
    }
    if found.is_file() && found.permissions().mode() & 0o077 != 0 {
        tracing::warn!(file = %file.display(), "others can read this secret: run `chmod 600` on it");
    }
    std::fs::read_to_string(file).map_err(unreadable)
}

fn key_of(line: &str) -> Option<(u8, Vec<u8>)> {
    let (id, digits) = line.split_once([':', ' ', '\t'])?;
    let digits = digits.trim();
    let nibbles: Vec<u8> = digits.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect::<Option<_>>()?;
    let (pairs, rest) = nibbles.as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    rest.is_empty().then_some((id.trim().parse().ok()?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::ids::{DispatchId, ExecutionId};
    use orchestr8_proto::tokens::Purpose;

    fn keys(text: &str) -> Result<TokenKeys, String> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("writable");
        read_token_keys("--token-keys-file", file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn both_forms_give_the_same_key_and_the_first_signs() {
        let hex = "0f".repeat(32);
        let (task, dispatch) = (ExecutionId::generate(0, 0, &mut rand::rng()).task(0), DispatchId::random());
        let blank = keys(&format!("# made by dev\n1 {hex}\n")).expect("a key");
        let colon = keys(&format!("1:{hex}\n\n2:{}\n", "aa".repeat(32))).expect("two keys");
        let token = colon.sign(Purpose::Outcome, task, dispatch);
        assert!(blank.verify(&token, Purpose::Outcome, task, dispatch));
        let expected = TokenKeys::new(vec![(1, vec![0x0f; 32])]).expect("a key");
        assert_eq!(expected.sign(Purpose::Outcome, task, dispatch), token);
    }

    #[test]
    fn wrong_keys_are_refused_without_being_shown() {
        let hex = "ab".repeat(32);
        for (text, reason) in [
            (String::new(), "at least one token key"),
            ("1:abcd".to_owned(), "at least 32 bytes"),
            (format!("1:{hex}\n1:{hex}"), "line 2: the number 1 is used twice"),
            (format!("300:{hex}"), "line 1: write NUMBER:HEXADECIMAL"),
            (format!("1:{hex}f"), "line 1: write NUMBER:HEXADECIMAL"),
            ("1:zz".to_owned(), "line 1: write NUMBER:HEXADECIMAL"),
        ] {
            let error = keys(&text).expect_err(&text);
            assert!(error.contains(reason) && !error.contains(&hex), "{error}");
        }
    }

    #[test]
    fn a_secret_is_one_line() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "secret\n").expect("writable");
        assert_eq!(read_secret("--token-file", file.path()).expect("one line"), "secret");
        std::fs::write(file.path(), "two\nlines\n").expect("writable");
        assert!(read_secret("--token-file", file.path()).is_err());
        assert!(read_secret("--token-file", Path::new("/nonexistent")).is_err());
    }
}
