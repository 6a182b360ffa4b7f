//! Where the `orchestr8` binary and the workspace are.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// Overrides the search, for a binary that was built elsewhere.
pub const BINARY_VARIABLE: &str = "ORCHESTR8_BINARY";

/// The `orchestr8` binary of the same build profile as this test: `target/PROFILE/orchestr8`.
///
/// # Errors
/// When it is not there: tests of one package alone do not build the binary of another.
pub fn orchestr8() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(BINARY_VARIABLE) {
        let named = PathBuf::from(named);
        ensure!(named.is_file(), "{BINARY_VARIABLE}={} is no file", named.display());
        return Ok(named);
    }
    let this = std::env::current_exe().context("the path of this program")?;
    let folder = this.parent().context("a program lies in a folder")?;
    let profile = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let binary = profile.join("orchestr8");
    ensure!(
        binary.is_file(),
        "{} is missing: run `cargo build --workspace --bins --features orchestr8-cli/kill-points` first, as `make test` does",
        binary.display()
    );
    Ok(binary)
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap_or_else(|_| PathBuf::from(".."))
}
