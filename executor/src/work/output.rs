//! Which JSON value an attempt produced.
//!
//! The file `$ORCHESTR8_OUTPUT`, if it is not empty: one JSON value, kept as it was written. Else stdout: if, trimmed,
//! it is one JSON object or array, that value; otherwise a JSON string of it without the newlines at its end, invalid UTF-8 and
//! NUL characters replaced by U+FFFD; of a stdout over the limit only its end. A NUL in JSON is refused: Postgres cannot store it.
//! JSON that is nested too deeply is refused in the file, and on stdout is text.

use super::{Retryable, WorkResult};
use crate::work::streams::Captured;
use bytes::Bytes;
use nix::fcntl::OFlag;
use orchestr8_proto::storable::{self, Unstorable};
use orchestr8_proto::wire::OUTPUT_BYTES_MAX;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// What is kept as output of a stdout that does not fit, where it has little to escape: the limit, less the line that says so.
const STDOUT_END_BYTES_MAX: usize = OUTPUT_BYTES_MAX - 64;
/// What is kept at least: with every byte escaped it still fits.
const STDOUT_END_BYTES_MIN: usize = 32 * 1024;

/// Why what an attempt produced is no output.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The task must write one JSON value.
    #[error("the file $ORCHESTR8_OUTPUT is not one JSON value: {0}")]
    NotJson(serde_json::Error),
    /// A symbolic link, a pipe, a directory, or a file of another user.
    #[error("the file $ORCHESTR8_OUTPUT is not a regular file of the task's own: write the JSON into it directly")]
    NotOwnFile,
    /// The machine's fault, or the task took its own rights away.
    #[error("the file $ORCHESTR8_OUTPUT cannot be read: {0}")]
    Unreadable(io::Error),
    /// The task must write something else.
    #[error("the output {0}")]
    Unstorable(#[from] Unstorable),
    /// Over the limit.
    #[error("{source_name} is over the limit of {OUTPUT_BYTES_MAX} bytes for an output: {remedy}")]
    TooLarge {
        /// Where it came from.
        source_name: &'static str,
        /// What to do.
        remedy: &'static str,
    },
}

impl From<OutputError> for WorkResult {
    fn from(error: OutputError) -> Self {
        let (error_type, retryable) = match error {
            OutputError::TooLarge { .. } => ("output_too_large", Retryable::No),
            OutputError::Unstorable(_) | OutputError::NotOwnFile => ("output", Retryable::No),
            // A half-written file, as after a full disk, may be whole the next time.
            OutputError::NotJson(_) | OutputError::Unreadable(_) => ("output", Retryable::Yes),
        };
        Self::failed(error_type, error.to_string(), retryable)
    }
}

/// A handler's value.
///
/// # Errors
/// [`OutputError::TooLarge`], [`OutputError::Unstorable`].
pub fn from_value(value: &Value) -> Result<Bytes, OutputError> {
    let remedy = "return less, and put the rest where later tasks can fetch it";
    encode(value, OutputError::TooLarge { source_name: "what the handler returned", remedy })
}

/// The value in the output file; none, if there is no such file or it is empty. Blocks on the disk.
///
/// The task owns the directory: whatever it planted there is opened without following a link and without waiting
/// for a writer, and read only if it is a regular file of `owner` (when the executor is root, a hard link could
/// otherwise lead to anybody's file).
///
/// # Errors
/// Every [`OutputError`].
pub fn from_file(path: &Path, owner: Option<u32>) -> Result<Option<Bytes>, OutputError> {
    let file = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => return Err(OutputError::NotOwnFile),
        opened => opened.map_err(OutputError::Unreadable)?,
    };
    let metadata = file.metadata().map_err(OutputError::Unreadable)?;
    if !metadata.is_file() || owner.is_some_and(|owner| owner != metadata.uid()) {
        return Err(OutputError::NotOwnFile);
    }
    let mut text = Vec::new();
    file.take(OUTPUT_BYTES_MAX as u64 + 1).read_to_end(&mut text).map_err(OutputError::Unreadable)?;
    if text.len() > OUTPUT_BYTES_MAX {
        let remedy = "write less, and put the rest where later tasks can fetch it";
        return Err(OutputError::TooLarge { source_name: "the file $ORCHESTR8_OUTPUT", remedy });
    }
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(text).map_err(OutputError::NotJson)?;
    storable::check(&value)?;
    Ok(Some(Bytes::copy_from_slice(text)))
}

/// The value of what was written to stdout. Of more than fits, the end: a long build does not fail for being talkative.
///
/// # Errors
/// [`OutputError::Unstorable`].
pub fn from_stdout(stdout: &Captured) -> Result<Bytes, OutputError> {
    let Some(whole) = stdout.whole().filter(|text| text.len() <= OUTPUT_BYTES_MAX) else { return Ok(end_of(stdout)) };
    match composite(whole).map(|value| storable::check(&value)) {
        Some(Ok(())) => return Ok(Bytes::copy_from_slice(whole.trim_ascii())),
        Some(Err(nul @ Unstorable::Nul)) => return Err(nul.into()),
        // As what no reader takes as JSON.
        Some(Err(Unstorable::TooDeep)) | None => {}
    }
    let json = Value::String(readable(whole)).to_string();
    // Escapes may make it longer than it was.
    Ok(if json.len() > OUTPUT_BYTES_MAX { end_of(stdout) } else { json.into() })
}

/// The end of stdout as a JSON string that says in its first line what it leaves out; as much as fits, else half of that, and so on.
fn end_of(stdout: &Captured) -> Bytes {
    let mut bytes_max = STDOUT_END_BYTES_MAX;
    loop {
        let tail = stdout.tail(bytes_max);
        let left_out = stdout.bytes_total().saturating_sub(tail.len() as u64);
        let json = Value::String(format!("[{left_out} bytes left out]\n{}", readable(&tail))).to_string();
        if json.len() <= OUTPUT_BYTES_MAX || bytes_max == STDOUT_END_BYTES_MIN {
            return json.into();
        }
        bytes_max = (bytes_max / 2).max(STDOUT_END_BYTES_MIN);
    }
}

fn readable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace('\0', "\u{fffd}").trim_end_matches(['\n', '\r']).to_owned()
}

/// Opens without following a link at the end of the path and without waiting for the writer of a pipe.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path)
}

/// One JSON object or array and nothing else.
fn composite(text: &[u8]) -> Option<Value> {
    let text = text.trim_ascii();
    matches!(text.first(), Some(b'{' | b'[')).then(|| serde_json::from_slice(text).ok()).flatten()
}

fn encode(value: &Value, too_large: OutputError) -> Result<Bytes, OutputError> {
    storable::check(value)?;
    let json = value.to_string();
    if json.len() > OUTPUT_BYTES_MAX { Err(too_large) } else { Ok(json.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn stdout_value(text: &[u8]) -> Result<Bytes, OutputError> {
        let mut captured = Captured::new(OUTPUT_BYTES_MAX);
        captured.fill(Some(text)).await;
        from_stdout(&captured)
    }

    #[tokio::test]
    async fn stdout_is_a_string_unless_it_is_one_object_or_array() {
        for (stdout, json) in [
            ("hello\nworld\n", r#""hello\nworld""#),
            ("", r#""""#),
            ("42\n", r#""42""#),
            (" {\"a\": 1}\n", r#"{"a": 1}"#),
            ("[1, 2]", "[1, 2]"),
            ("[1] [2]", r#""[1] [2]""#),
            ("{oops", r#""{oops""#),
            ("a\0b", "\"a\u{fffd}b\""),
        ] {
            assert_eq!(stdout_value(stdout.as_bytes()).await.expect(stdout), json);
        }
        assert_eq!(stdout_value(b"\xffx").await.expect("lossy"), "\"\u{fffd}x\"");
    }

    #[tokio::test]
    async fn a_nul_in_json_and_an_output_over_the_limit_are_refused() {
        assert!(matches!(stdout_value(br#"{"a": ["\u0000"]}"#).await, Err(OutputError::Unstorable(Unstorable::Nul))));
        assert!(stdout_value(br#"["\\u0000"]"#).await.is_ok());
        let limit = OUTPUT_BYTES_MAX - 2;
        assert_eq!(stdout_value(&vec![b'x'; limit]).await.expect("fits").len(), OUTPUT_BYTES_MAX);
        for (byte, count, kept) in
            [(b'x', limit + 1, STDOUT_END_BYTES_MAX), (b'x', 4 * limit, STDOUT_END_BYTES_MAX), (1, limit, STDOUT_END_BYTES_MIN)]
        {
            let end = stdout_value(&vec![byte; count]).await.expect("its end fits");
            let left_out = count - kept;
            assert!(end.len() <= OUTPUT_BYTES_MAX && end.starts_with(format!("\"[{left_out} bytes left out]").as_bytes()));
        }
        assert!(matches!(from_value(&Value::String("\0".into())), Err(OutputError::Unstorable(Unstorable::Nul))));
        for levels in [storable::NESTING_MAX, storable::NESTING_MAX + 1, 10_000] {
            let nested = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let text = stdout_value(nested.as_bytes()).await.expect("stored");
            assert_eq!(text.starts_with(b"\""), levels > storable::NESTING_MAX, "{levels}");
        }
    }
}
