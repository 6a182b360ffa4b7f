//! The text of `/metrics`, taken apart far enough to know names and labels.

use orchestr8_proto::exposition::{Described, MetricKind};
use std::collections::{BTreeMap, BTreeSet};

/// What the series of a histogram end with.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The metric that a series belongs to: those of a histogram have a part behind its name.
pub fn metric_of<'a>(series: &str, described: &'a [Described]) -> Option<&'a Described> {
    let exact = described.iter().find(|metric| metric.name == series && metric.kind != MetricKind::Histogram);
    let part = |metric: &&Described| {
        metric.kind == MetricKind::Histogram && series.strip_prefix(metric.name).is_some_and(|rest| PARTS.contains(&rest))
    };
    exact.or_else(|| described.iter().find(part))
}

/// Every series' name with the labels that any of its lines has.
pub fn series(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        found.entry(name.to_owned()).or_default().extend(labels(line));
    }
    found
}

/// The names of the labels of one line; their values may hold anything.
fn labels(line: &str) -> Vec<String> {
    let Some((_, mut rest)) = line.split_once('{') else { return Vec::new() };
    let mut names = Vec::new();
    while let Some((name, value)) = rest.split_once("=\"") {
        names.push(name.to_owned());
        let mut escaped = false;
        let end = value.find(|letter| {
            let closes = letter == '"' && !escaped;
            escaped = letter == '\\' && !escaped;
            closes
        });
        rest = value[end.map_or(value.len(), |end| end + 1)..].trim_start_matches(',');
    }
    names
}

#[test]
fn labels_are_read_whatever_their_values_hold() {
    let text = "# HELP a b\na{b=\"x=\\\"{,\\\\\",c=\"\"} 1\na{d=\"1\"} 2\ne 3\n";
    let found = series(text);
    assert_eq!(found["a"].iter().map(String::as_str).collect::<Vec<_>>(), ["b", "c", "d"]);
    assert!(found["e"].is_empty() && found.len() == 2);
}
