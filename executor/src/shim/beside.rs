//! Which program an executor starts as shims: the small one beside its own, if it is what it should be, else its own again. The whole
//! program has 40,000 addresses to relocate at each start, and pages of its own to do so.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// What a shim is and nothing else.
pub(super) const SMALL_PROGRAM: &str = "orchestr8-shim";

/// What the small program says to `--version`. The number at the end counts the changes of what the two sides say to each other.
pub const SMALL_VERSION: &str = concat!("orchestr8-shim ", env!("CARGO_PKG_VERSION"), " 1");

/// A program that is asked for its version answers within this time.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The small program beside this one, if whoever may change this one has put it there and it says that it is of this version; else
/// this one, with a word in the log where another one lies there. Starts the small one once.
pub async fn program_beside(own: &Path) -> PathBuf {
    let small = own.with_file_name(SMALL_PROGRAM);
    let reason = match asked(&small, own).await {
        Ok(version) if version == SMALL_VERSION => return small,
        Ok(version) => format!("it says that it is `{version}`, not `{SMALL_VERSION}`"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return own.to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(program = %small.display(), reason, "the shim is left alone, and this program is its own shim");
    own.to_owned()
}

async fn asked(small: &Path, own: &Path) -> io::Result<String> {
    // Not through a link: where it leads may change. Whoever can only add files to the folder must not choose what is started.
    let (file, whole) = (small.symlink_metadata()?, own.metadata()?);
    if !file.is_file() || ![0, whole.uid()].contains(&file.uid()) {
        return Err(io::Error::other("it is no file of root or of the owner of this program"));
    }
    let mut command = Command::new(small);
    command.arg("--version").env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let answer = tokio::time::timeout(ANSWER_MAX, command.output()).await;
    let answer = answer.map_err(|_| io::Error::other(format!("no answer within {} s", ANSWER_MAX.as_secs())))??;
    if !answer.status.success() {
        return Err(io::Error::other(format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.stderr).trim_end())));
    }
    Ok(String::from_utf8_lossy(&answer.stdout).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::shim_program;
    use super::*;
    use nix::unistd::{Uid, chown};
    use std::fs;

    #[tokio::test]
    async fn the_small_program_is_taken_if_it_is_what_it_should_be() {
        let place = tempfile::tempdir().expect("a directory");
        let (own, small) = (place.path().join("orchestr8"), place.path().join(SMALL_PROGRAM));
        fs::write(&own, "").expect("written");
        assert_eq!(program_beside(&own).await, own, "alone it does");
        for other in ["/bin/echo", "/bin/false", "/etc/passwd"] {
            fs::copy(other, &small).expect("copied");
            assert_eq!(program_beside(&own).await, own, "{other}");
            fs::remove_file(&small).expect("there");
        }
        std::os::unix::fs::symlink(shim_program(), &small).expect("made");
        assert_eq!(program_beside(&own).await, own, "a link");
        fs::remove_file(&small).expect("there");
        fs::copy(shim_program(), &small).expect("copied");
        assert_eq!(program_beside(&own).await, small);
        // Only root can give something away.
        if Uid::effective().is_root() {
            chown(&small, Some(Uid::from_raw(65_534)), None).expect("root may");
            assert_eq!(program_beside(&own).await, own, "somebody else's");
        }
    }
}
