//! Fenced blocks of the documents, which the tests below run.

use crate::harness::binary;
use anyhow::{Context, Result};

/// The text of every fenced block whose info string is `info`, in the order of the document (a path in the workspace).
pub fn blocks(document: &str, info: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(binary::workspace().join(document)).with_context(|| format!("{document} cannot be read"))?;
    let mut blocks = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in text.lines() {
        open = match (open, line.strip_prefix("```")) {
            (None, Some(found)) => Some((found == info, String::new())),
            (None, None) => None,
            (Some((wanted, block)), Some(_)) => {
                blocks.extend(wanted.then_some(block));
                None
            }
            (Some((wanted, block)), None) => Some((wanted, block + line + "\n")),
        };
    }
    Ok(blocks)
}
