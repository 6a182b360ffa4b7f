//! `docs/metrics.md` is made from the code: `ORCHESTR8_UPDATE_DOCS=1 cargo test -p orchestr8-tests observe::table` writes it.

use super::files::{in_repository, text};
use anyhow::{Context, Result};
use orchestr8_proto::exposition::table;

const DOCUMENT: &str = "docs/metrics.md";

/// Set, and the document is written instead of compared.
const UPDATE_VARIABLE: &str = "ORCHESTR8_UPDATE_DOCS";

/// The text with the table between the two marks of `part` replaced.
fn with_table(text: &str, part: &str, table: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- made from the code: {part} -->\n"), format!("<!-- end: {part} -->"));
    let (before, rest) = text.split_once(&begin).with_context(|| format!("{DOCUMENT} lacks `{begin}`"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("{DOCUMENT} lacks `{end}`"))?;
    Ok(format!("{before}{begin}\n{table}\n{end}{after}"))
}

#[test]
fn the_documented_metrics_are_those_of_the_code() -> Result<()> {
    let document = text(DOCUMENT)?;
    let coordinator = table(orchestr8_coordinator::metrics::catalogue::ALL);
    let executor = table(orchestr8_executor::metrics::METRICS);
    let made = with_table(&with_table(&document, "coordinator", &coordinator)?, "executor", &executor)?;
    if std::env::var_os(UPDATE_VARIABLE).is_some() {
        std::fs::write(in_repository(DOCUMENT), &made)?;
        return Ok(());
    }
    assert!(document == made, "{DOCUMENT} is not what the code says: run this test with {UPDATE_VARIABLE}=1");
    Ok(())
}
