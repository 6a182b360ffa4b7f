//! The form of the code: the arrows between the crates, the lengths of functions and files.

use crate::harness::binary;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Which of our crates each may depend on; whatever else is forbidden.
const ARROWS: [(&str, &[&str]); 7] = [
    ("proto", &[]),
    ("nats", &["proto"]),
    ("coordinator/core", &["proto"]),
    ("coordinator/store", &["proto", "core"]),
    ("coordinator", &["proto", "nats", "core", "store"]),
    ("executor", &["proto", "nats"]),
    ("cli", &["proto", "nats", "core", "coordinator", "executor"]),
];
/// What the pure crate must never need, not even for its tests.
const RUNTIME: [&str; 9] = ["tokio", "sqlx", "async-nats", "axum", "reqwest", "futures", "rand", "nix", "tracing"];

/// The sections of a Cargo.toml with the names of their keys.
fn sections(path: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut sections: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some(key) = line.split(['.', ' ', '=']).next().filter(|key| !key.is_empty() && !key.starts_with(['#', ']', '"'])) {
            sections.entry(section.clone()).or_default().push(key.to_owned());
        }
    }
    Ok(sections)
}

/// What a crate needs in any way: itself, its tests or its build.
fn needs(krate: &str) -> Result<Vec<String>> {
    let sections = sections(&binary::workspace().join(krate).join("Cargo.toml"))?;
    Ok(sections.into_iter().filter(|(section, _)| section.contains("dependencies")).flat_map(|(_, keys)| keys).collect())
}

#[test]
fn the_arrows_between_the_crates_point_one_way() -> Result<()> {
    for (krate, allowed) in ARROWS {
        let needs = needs(krate)?;
        assert!(!needs.is_empty(), "{krate}: nothing was read");
        for ours in needs.iter().filter_map(|name| name.strip_prefix("orchestr8-")) {
            assert!(allowed.contains(&ours), "{krate} must not depend on {ours}");
        }
    }
    for krate in ["proto", "coordinator/core"] {
        for name in needs(krate)? {
            assert!(!RUNTIME.contains(&name.as_str()) || (krate, name.as_str()) == ("proto", "rand"), "{krate} must not need {name}");
        }
    }
    let store = needs("executor")?;
    assert!(!store.contains(&"sqlx".to_owned()), "the executor knows nothing of Postgres");
    Ok(())
}

#[test]
fn nothing_but_the_store_writes_sql() -> Result<()> {
    for krate in ["proto", "nats", "coordinator/core", "coordinator/src", "executor", "cli"] {
        for file in sources(&binary::workspace().join(krate))?.into_iter().filter(|file| !file.ends_with("target")) {
            if file.starts_with(binary::workspace().join("coordinator/store")) {
                continue;
            }
            let text = std::fs::read_to_string(&file)?;
            assert!(!text.contains("sqlx::query"), "{} writes SQL: that belongs in coordinator/store", file.display());
        }
    }
    Ok(())
}

#[test]
fn files_and_functions_are_short() -> Result<()> {
    let mut long = Vec::new();
    let mut functions = 0;
    for file in sources(&binary::workspace())? {
        let text = std::fs::read_to_string(&file)?;
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            long.push(format!("{}: {} lines", file.display(), lines.len()));
        }
        for (start, length) in functions_of(&lines) {
            functions += 1;
            if length > FUNCTION_LINES_MAX {
                long.push(format!("{}:{}: a function of {length} lines", file.display(), start + 1));
            }
        }
    }
    assert!(functions > 500, "only {functions} functions were seen");
    assert!(long.is_empty(), "{long:#?}");
    Ok(())
}

#[test]
fn a_long_function_would_be_seen() {
    let body = (0..80).map(|number| format!("        let x{number} = {number};\n")).collect::<Vec<_>>().concat();
    let text = format!("impl X {{\n    pub async fn long(\n        &self,\n    ) {{\n{body}    }}\n    fn short() {{}}\n}}\n");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(functions_of(&lines), [(1, 84), (85, 1)]);
}

/// First line and length of every function; formatted code closes one at the column where it began.
fn functions_of(lines: &[&str]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate().filter(|(_, line)| is_function(line)) {
        let indent = line.len() - line.trim_start().len();
        let close = format!("{}}}", " ".repeat(indent));
        let one_line = line.trim_end().ends_with(['}', ';']);
        let end = if one_line {
            Some(0)
        } else {
            lines[start..].iter().position(|line| *line == close || *line == format!("{}) -> Self;", " ".repeat(indent)))
        };
        found.extend(end.map(|end| (start, end + 1)));
    }
    found
}

fn is_function(line: &str) -> bool {
    let mut words =
        line.trim_start().split(' ').skip_while(|word| word.starts_with("pub") || ["const", "async", "in", "crate)"].contains(word));
    words.next() == Some("fn")
        && words.next().is_some_and(|name| name.starts_with(|letter: char| letter.is_ascii_lowercase() || letter == '_'))
}

/// All Rust files below a folder, without what is built or kept.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}
