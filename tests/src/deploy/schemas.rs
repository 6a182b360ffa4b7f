//! Strict validation of every manifest against the schemas of Kubernetes, KEDA and the Prometheus operator.

use super::rendering::{KUBERNETES_NEWEST, SETS, helm};
use super::tools::fetched;
use crate::harness::binary::workspace;
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Those that the chart supports: `kubeVersion` in Chart.yaml is the first.
const VERSIONS: [&str; 8] = ["1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36"];

#[test]
fn every_manifest_fits_every_version() -> Result<()> {
    let what = "schemas of manifests";
    let (Some(helm), Some(kubeconform), Some(schemas)) = (helm(what), fetched("bin/kubeconform", what), fetched("schemas", what)) else {
        return Ok(());
    };
    for version in VERSIONS {
        // The chart asks whether it is 1.30 or newer, and nothing else.
        let rendered_for = if version == VERSIONS[0] { "1.29.0" } else { KUBERNETES_NEWEST };
        let manifests = SETS.into_iter().map(|set| helm.template(set, rendered_for)).collect::<Result<Vec<_>>>()?;
        validate(&kubeconform, &schemas, version, &manifests.join("\n---\n")).with_context(|| format!("on {version}"))?;
    }
    let wrong = helm.template("keda", KUBERNETES_NEWEST)?.replace("cooldownPeriod:", "cooldown:");
    ensure!(validate(&kubeconform, &schemas, "1.36", &wrong).is_err(), "an unknown key of a ScaledObject was taken");
    let wrong = helm.template("trial", KUBERNETES_NEWEST)?.replace("periodSeconds: 10", "periodSeconds: often");
    ensure!(validate(&kubeconform, &schemas, "1.36", &wrong).is_err(), "a text was taken for a number");
    Ok(())
}

#[test]
fn what_watches_is_installed_with_the_files_of_this_repository() -> Result<()> {
    let what = "dashboards and alerts in the chart";
    let (Some(helm), Some(kubeconform), Some(schemas)) = (helm(what), fetched("bin/kubeconform", what), fetched("schemas", what)) else {
        return Ok(());
    };
    let words = ["template", "x", ".", "--set", "postgres.enabled=true,metrics.rules=true,metrics.dashboards=true,metrics.monitor=pod"];
    let manifests = helm.run(&words)?;
    validate(&kubeconform, &schemas, "1.36", &manifests)?;
    let deploy = workspace().join("deploy");
    for dashboard in std::fs::read_dir(deploy.join("grafana/dashboards")).into_iter().flatten() {
        let path = dashboard?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_dashboard = path.extension().is_some_and(|extension| extension == "json");
        ensure!(!is_dashboard || manifests.contains(&format!("\n  {name}: |")), "{name} is in no ConfigMap");
    }
    let has_alerts = deploy.join("prometheus/alerts.yaml").exists();
    ensure!(manifests.contains("kind: PrometheusRule") == has_alerts, "alerts.yaml exists: {has_alerts}");
    Ok(())
}

fn validate(kubeconform: &Path, schemas: &Path, version: &str, manifests: &str) -> Result<()> {
    let schemas = schemas.display();
    let mut command = Command::new(kubeconform);
    command
        .args(["-strict", "-summary", "-schema-location", &format!("{schemas}/{version}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json")])
        .args(["-schema-location", &format!("{schemas}/custom/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"), "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = command.spawn().context("kubeconform")?;
    running.stdin.take().context("a pipe")?.write_all(manifests.as_bytes())?;
    let output = running.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said.contains("Skipped: 0"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
