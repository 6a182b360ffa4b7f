//! docs/definitions.md: its example runs, and its tables name exactly the keys that the language has.

use crate::document::blocks;
use crate::harness::{Installation, InstallationOptions, binary};
use anyhow::{Context, Result, ensure};
use orchestr8_core::definition::parse;
use serde_json::json;
use std::collections::BTreeSet;

const DOCUMENT: &str = "docs/definitions.md";

/// Everything that a definition's problems say.
fn problems(definition: &str) -> String {
    parse(definition).map_or_else(|problems| problems.to_string(), |_| String::new())
}

/// The text of a section, from its heading to the next of any level.
fn section(heading: &str) -> Result<String> {
    let text = std::fs::read_to_string(binary::workspace().join(DOCUMENT))?;
    let (_, rest) = text.split_once(&format!("\n{heading}\n")).with_context(|| format!("no section {heading:?}"))?;
    let lines = rest.lines().take_while(|line| !line.starts_with('#'));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// The keys that the first column of the section's tables names.
fn documented(heading: &str) -> Result<BTreeSet<String>> {
    let section = section(heading)?;
    Ok(section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(key, _)| key.to_owned()).collect())
}

/// The keys that the language knows where `definition` has the key `unknown`.
fn known(definition: &str) -> Result<BTreeSet<String>> {
    let said = problems(definition);
    let (_, rest) = said.split_once("unknown key `unknown`: use one of ").with_context(|| said.clone())?;
    let names = rest.split(['\n', '(']).next().unwrap_or_default();
    Ok(names.split(',').map(|name| name.trim().to_owned()).collect())
}

#[test]
fn the_tables_name_exactly_the_keys_that_exist() -> Result<()> {
    for (heading, definition) in [
        ("## The whole", "name: w\nunknown: 1\ntasks: [{name: a, run: x}]"),
        ("## A phase", "name: w\nphases:\n- name: p\n  unknown: 1\n  tasks: [{name: a, run: x}]"),
        ("## A task", "name: w\ntasks:\n- name: a\n  run: x\n  unknown: 1"),
        ("### Retry", "name: w\ntasks:\n- name: a\n  run: x\n  retry: {unknown: 1}"),
    ] {
        assert_eq!(documented(heading)?, known(definition)?, "{heading}");
    }
    Ok(())
}

#[test]
fn what_is_documented_as_not_yet_is_refused_so() -> Result<()> {
    let mut checked = 0;
    for line in section("## Not yet")?.lines().filter(|line| line.contains('`')) {
        let (place, keys) = line.trim_matches('|').split_once('|').context("two columns")?;
        for key in keys.split('`').skip(1).step_by(2) {
            let definition = match place.trim() {
                "the whole" => format!("name: w\n{key}: 1\ntasks: [{{name: a, run: x}}]"),
                "a phase" => format!("name: w\nphases:\n- name: p\n  {key}: 1\n  tasks: [{{name: a, run: x}}]"),
                "a task" => format!("name: w\ntasks:\n- name: a\n  run: x\n  {key}: 1"),
                "kinds of tasks" => format!("name: w\ntasks:\n- name: a\n  {key}: 1"),
                other => anyhow::bail!("a place {other:?} that this test does not know"),
            };
            let said = problems(&definition);
            ensure!(said.contains(&format!("`{key}` is not yet supported")), "{place}, {key}: {said:?}");
            checked += 1;
        }
    }
    ensure!(checked > 30, "only {checked} keys were found");
    Ok(())
}

#[tokio::test]
async fn the_example_runs() -> Result<()> {
    let examples = blocks(DOCUMENT, "yaml")?;
    let example = examples.first().context("an example")?;
    let installation = Installation::start(InstallationOptions::default()).await?;
    let accepted = installation.api.post("/api/v1/workflows", &json!({"definition": example, "input": {"tag": "v1"}})).await?;
    let id = accepted["workflow_id"].as_str().context("an id")?;
    let ended = installation.api.get(&format!("/api/v1/workflows/{id}?wait=60s")).await?;
    assert_eq!((&ended["status"], &ended["output"]), (&json!("completed"), &json!({"message": "built, notes are completed"})), "{ended}");
    let tasks = installation.api.get(&format!("/api/v1/workflows/{id}/tasks")).await?;
    let compile = tasks["tasks"][0]["task_id"].as_str().context("an id")?;
    assert_eq!(installation.api.get(&format!("/api/v1/tasks/{compile}/result")).await?["result"], "building release of v1");
    installation.finish().await;
    Ok(())
}

#[tokio::test]
async fn the_gather_runs() -> Result<()> {
    let examples = blocks(DOCUMENT, "yaml")?;
    let example = examples.iter().find(|example| example.starts_with("name: gather")).context("an example")?;
    let installation = Installation::start(InstallationOptions::default()).await?;
    let accepted = installation.api.post("/api/v1/workflows", &json!({"definition": example})).await?;
    let id = accepted["workflow_id"].as_str().context("an id")?;
    let ended = installation.api.get(&format!("/api/v1/workflows/{id}?wait=60s")).await?;
    assert_eq!((&ended["status"], &ended["output"]), (&json!("completed"), &json!({"sold": [3, 4], "south": 4})), "{ended}");
    installation.finish().await;
    Ok(())
}
