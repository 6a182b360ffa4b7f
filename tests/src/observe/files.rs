//! Dashboards and alerts, taken apart: their queries, and the metrics that these name.

use crate::harness::binary;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::PathBuf;

/// A query of a panel.
#[derive(Debug, Clone)]
pub struct Query {
    /// Dashboard and panel, for people.
    pub place: String,
    /// As Grafana sends it, once its variables are filled in.
    pub expression: String,
}

/// A file of this repository.
pub fn in_repository(path: &str) -> PathBuf {
    binary::workspace().join(path)
}

/// The text of a file of this repository.
pub fn text(path: &str) -> Result<String> {
    std::fs::read_to_string(in_repository(path)).with_context(|| path.to_owned())
}

/// Every dashboard by the name of its file.
pub fn dashboards() -> Result<Vec<(String, Value)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(in_repository("deploy/grafana/dashboards"))? {
        let path = entry?.path();
        let name = path.file_name().context("a file")?.to_string_lossy().into_owned();
        let document = serde_json::from_slice(&std::fs::read(&path)?).with_context(|| name.clone())?;
        found.push((name, document));
    }
    ensure!(found.len() >= 3, "only {} dashboards", found.len());
    Ok(found)
}

/// Every query of every panel, and those behind the variables, as they are written.
pub fn written_queries() -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    for (name, document) in dashboards()? {
        for panel in document["panels"].as_array().context("panels")? {
            let place = format!("{name}: {}", panel["title"].as_str().unwrap_or_default());
            let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
            let no_query = ["row", "text"].contains(&panel["type"].as_str().unwrap_or_default());
            ensure!(no_query || !targets.is_empty(), "{place} has no query");
            for target in targets {
                let expression = target["expr"].as_str().with_context(|| place.clone())?.to_owned();
                queries.push(Query { place: place.clone(), expression });
            }
        }
    }
    Ok(queries)
}

/// The metric and the label behind each variable that a query fills.
pub fn variables() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (name, document) in dashboards()? {
        for variable in document["templating"]["list"].as_array().context("variables")?.iter().filter(|one| one["type"] == "query") {
            let query = variable["query"]["query"].as_str().with_context(|| name.clone())?;
            let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (metric, label) = inside.and_then(|inside| inside.split_once(", ")).with_context(|| format!("{name}: {query}"))?;
            found.push((metric.to_owned(), label.to_owned()));
        }
    }
    Ok(found)
}

/// As Grafana sends it with all values chosen.
pub fn filled(expression: &str) -> String {
    expression.replace("$__rate_interval", "1m").replace("$queue", ".*").replace("$executor", ".*")
}

/// Every name of ours in a text, each once.
pub fn names_in(text: &str) -> Vec<String> {
    let is_part = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    let mut names: Vec<String> =
        text.split(|letter: char| !is_part(letter)).filter(|word| word.starts_with("orchestr8_")).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

/// The values of a key in a YAML file of ours, which has each on a line of its own.
pub fn values_of(yaml: &str, key: &str) -> Vec<String> {
    let value = |line: &str| line.trim().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(": ").map(str::to_owned);
    yaml.lines().filter_map(value).collect()
}
