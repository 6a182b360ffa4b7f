//! The alerts: valid, tested one by one, and firing when they should.

use super::files::{in_repository, text, values_of};
use super::tools::Tools;
use anyhow::{Context, Result};

const RULES: &str = "deploy/prometheus/alerts.yaml";
const TESTS: &str = "deploy/prometheus/alerts_test.yaml";

#[test]
fn every_alert_has_a_test() -> Result<()> {
    let (alerts, tested) = (values_of(&text(RULES)?, "alert"), values_of(&text(TESTS)?, "alertname"));
    assert!(alerts.len() >= 15, "only {} alerts were read", alerts.len());
    for alert in &alerts {
        assert!(tested.contains(alert), "{alert} has no test in {TESTS}");
    }
    Ok(())
}

#[test]
fn the_alerts_fire_when_they_should() -> Result<()> {
    let Some(tools) = Tools::find("the alerts fire when they should") else { return Ok(()) };
    let path = |file: &str| in_repository(file).to_str().map(str::to_owned).context("UTF-8");
    tools.promtool(&["check", "rules", "--lint=all", "--lint-fatal", &path(RULES)?], "")?;
    let said = tools.promtool(&["test", "rules", &path(TESTS)?], "")?;
    assert!(said.contains("SUCCESS"), "{said}");
    Ok(())
}
