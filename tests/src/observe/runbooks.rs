//! Each alert has a page, and what a page tells to type exists.

use super::files::{in_repository, text, values_of};
use crate::document::blocks;
use crate::harness::binary;
use crate::store::migrated;
use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, Connection, Executor, SqlSafeStr};
use std::collections::BTreeSet;
use std::process::Command;

const HEADINGS: [&str; 4] =
    ["## What it means", "## What to look at", "## What to do", "## May I purge or delete the stream, and what happens then?"];

/// The pages below `docs/runbooks`.
fn pages() -> Result<Vec<String>> {
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(in_repository("docs/runbooks"))? {
        pages.push(format!("docs/runbooks/{}", entry?.file_name().to_string_lossy()));
    }
    Ok(pages)
}

#[test]
fn every_alert_has_a_page_and_every_page_its_parts() -> Result<()> {
    let rules = text("deploy/prometheus/alerts.yaml")?;
    let (alerts, books) = (values_of(&rules, "alert"), values_of(&rules, "runbook"));
    assert_eq!(alerts.len(), books.len(), "each alert names one page");
    let index = text("docs/runbooks/README.md")?;
    for (alert, book) in alerts.iter().zip(&books) {
        let page = text(book)?;
        assert!(page.starts_with(&format!("# {alert}\n")), "{book} is not about {alert}");
        for heading in HEADINGS {
            assert!(page.contains(heading), "{book} lacks `{heading}`");
        }
        assert!(index.contains(&format!("[{alert}]")), "the list of pages lacks {alert}");
    }
    let about: BTreeSet<&String> = books.iter().collect();
    for page in pages()?.iter().filter(|page| !page.ends_with("README.md") && !page.ends_with("streams.md")) {
        assert!(about.contains(page), "{page} belongs to no alert");
    }
    Ok(())
}

#[test]
fn every_command_of_a_page_exists() -> Result<()> {
    let mut commands = BTreeSet::new();
    for page in pages()? {
        for block in blocks(&page, "sh")? {
            let words = |line: &str| line.strip_prefix("orchestr8 ").map(|rest| rest.split(" #").next().unwrap_or(rest).to_owned());
            commands.extend(block.lines().filter_map(words));
        }
    }
    assert!(commands.len() >= 5, "only {commands:?} were read");
    for page in pages()? {
        assert!(!text(&page)?.contains("127.0.0.1:"), "{page} names an address: `orchestr8 dev` may have another, use $ORCHESTR8_URL");
    }
    for command in commands {
        // With `--help` the flags are not looked at, but one that does not exist is in no help text.
        let words: Vec<&str> = command.split_whitespace().collect();
        let names: Vec<&str> =
            words.iter().take_while(|word| word.starts_with(|letter: char| letter.is_ascii_lowercase())).copied().collect();
        let output = Command::new(binary::orchestr8()?).args(&names).arg("--help").output()?;
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "`orchestr8 {command}` does not exist");
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(*flag), "`orchestr8 {command}`: there is no {flag}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_statement_of_a_page_fits_the_schema() -> Result<()> {
    let mut connection = migrated().await?;
    let mut count = 0;
    for page in pages()? {
        for block in blocks(&page, "sql")? {
            for statement in block.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
                let prepared = (&mut connection).prepare(AssertSqlSafe(statement.to_owned()).into_sql_str()).await;
                prepared.with_context(|| format!("{page}: {statement}"))?;
                count += 1;
            }
        }
    }
    assert!(count >= 10, "only {count} statements were read");
    connection.close().await?;
    Ok(())
}
