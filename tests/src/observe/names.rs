//! Dashboards and alerts name metrics and labels that there are.

use super::described;
use super::exposition::metric_of;
use super::files::{dashboards, names_in, text, variables, written_queries};
use anyhow::{Context, Result};
use std::collections::HashSet;

#[test]
fn every_metric_that_a_panel_queries_is_described() -> Result<()> {
    let described = described();
    let queries = written_queries()?;
    assert!(queries.len() > 80, "only {} queries were read", queries.len());
    for query in queries {
        let names = names_in(&query.expression);
        assert!(!names.is_empty(), "{} asks for nothing of ours: {}", query.place, query.expression);
        for name in names {
            assert!(metric_of(&name, &described).is_some(), "{} names {name}, which nobody counts", query.place);
        }
    }
    for (metric, label) in variables()? {
        let found = metric_of(&metric, &described);
        // `instance` is the scraper's own.
        assert!(found.is_some_and(|found| label == "instance" || found.labels.contains(&label.as_str())), "{metric} has no {label}");
    }
    Ok(())
}

#[test]
fn every_metric_that_an_alert_or_a_page_names_is_described() -> Result<()> {
    let described = described();
    let mut pages = vec!["deploy/prometheus/alerts.yaml".to_owned(), "docs/api.md".to_owned()];
    for entry in std::fs::read_dir(super::files::in_repository("docs/runbooks"))? {
        pages.push(format!("docs/runbooks/{}", entry?.file_name().to_string_lossy()));
    }
    for page in pages {
        for name in names_in(&text(&page)?) {
            // The beginning of several names, in a pattern or a sentence.
            let is_beginning = described.iter().any(|metric| metric.name.starts_with(&name));
            assert!(is_beginning || metric_of(&name, &described).is_some(), "{page} names {name}, which nobody counts");
        }
    }
    Ok(())
}

#[test]
fn panels_do_not_overlap_and_every_one_explains_itself_by_its_title() -> Result<()> {
    for (name, document) in dashboards()? {
        assert!(name == format!("{}.json", document["uid"].as_str().unwrap_or_default()), "{name} has another uid");
        let (mut taken, mut ids) = (HashSet::new(), HashSet::new());
        for panel in document["panels"].as_array().context("panels")? {
            assert!(ids.insert(panel["id"].as_u64()), "{name}: {} has the id of another", panel["title"]);
            assert!(panel["type"] == "text" || panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{name}: {panel}");
            let place = |key: &str| panel["gridPos"][key].as_u64().with_context(|| format!("{name}: {key} of {}", panel["title"]));
            let (x, y, width, height) = (place("x")?, place("y")?, place("w")?, place("h")?);
            assert!(x + width <= 24, "{name}: {} is too wide", panel["title"]);
            let cells = (x..x + width).flat_map(|column| (y..y + height).map(move |row| (column, row)));
            assert!(cells.into_iter().all(|cell| taken.insert(cell)), "{name}: {} covers another", panel["title"]);
        }
    }
    Ok(())
}
