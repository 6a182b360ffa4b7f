//! The values, their schema and the chart's README say the same.

use super::rendering::{chart, read};
use crate::harness::binary::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Command;

#[test]
fn the_readme_of_the_chart_is_written_from_its_values() -> Result<()> {
    let output = Command::new("python3").arg(workspace().join("helm/readme.py")).arg("--check").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn every_value_is_described_and_no_other_is_taken() -> Result<()> {
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(chart().join("values.schema.json"))?)?;
    let values = read(&chart().join("values.yaml"))?;
    let described = compare(&schema, &schema, &values, "")?;
    ensure!(described > 100, "only {described} values were seen");
    Ok(())
}

/// Each key of the values is in the schema, with a description, and the other way round. How many there are.
fn compare(schema: &Value, part: &Value, values: &Value, path: &str) -> Result<usize> {
    let part = match part["$ref"].as_str() {
        Some(_) => &schema["$defs"]["pool"],
        None => part,
    };
    let (Some(known), Some(given)) = (part["properties"].as_object(), values.as_object()) else { return Ok(1) };
    ensure!(part["additionalProperties"] == Value::Bool(false), "{path} takes any key");
    for key in given.keys() {
        ensure!(known.contains_key(key), "{path}.{key} is not in the schema");
    }
    let mut seen = 0;
    for (key, inner) in known.iter().filter(|(key, _)| *key != "global") {
        let path = format!("{path}.{key}");
        ensure!(inner["description"].as_str().is_some_and(|text| text.len() > 5), "{path} has no description");
        seen += compare(schema, inner, given.get(key).with_context(|| format!("{path} has no value"))?, &path)?;
    }
    Ok(seen)
}
