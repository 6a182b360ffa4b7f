//! Programs that not every machine has: where they are, or that a test is skipped without them.

use crate::harness::binary::workspace;
use std::io::Write;
use std::path::PathBuf;

/// Another folder than `.orchestr8/tools`, as for `deploy/tools.sh`.
const FOLDER_VARIABLE: &str = "ORCHESTR8_TOOLS";

/// What `deploy/tools.sh` fetched, or none: then the test `what` says so.
pub fn fetched(name: &str, what: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(FOLDER_VARIABLE).map_or_else(|| workspace().join(".orchestr8/tools"), PathBuf::from);
    let found = folder.join(name);
    if found.exists() {
        return Some(found);
    }
    // Past the test runner, which shows nothing of tests that pass.
    writeln!(std::io::stderr(), "\nSKIPPED {what}: {} is missing: run deploy/tools.sh", found.display()).ok();
    None
}
