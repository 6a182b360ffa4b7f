//! The manifests are those that somebody looked at: `UPDATE_GOLDEN=1 cargo test -p orchestr8-tests deploy::golden` writes them anew.

use super::rendering::{KUBERNETES_NEWEST, SETS, helm, values_of};
use crate::harness::binary::workspace;
use anyhow::{Context, Result, ensure};

const UPDATE_VARIABLE: &str = "UPDATE_GOLDEN";

#[test]
fn the_chart_renders_what_was_reviewed() -> Result<()> {
    let Some(helm) = helm("golden manifests") else { return Ok(()) };
    let folder = workspace().join("tests/src/deploy/golden");
    for set in SETS {
        let file = folder.join(format!("{set}.yaml"));
        let rendered = without_chance(&helm.template(set, KUBERNETES_NEWEST)?);
        if std::env::var_os(UPDATE_VARIABLE).is_some() {
            std::fs::create_dir_all(&folder)?;
            std::fs::write(&file, &rendered)?;
        }
        let reviewed =
            std::fs::read_to_string(&file).with_context(|| format!("{}: set {UPDATE_VARIABLE}=1 to write it", file.display()))?;
        let differs = rendered.lines().zip(reviewed.lines()).position(|(new, old)| new != old);
        ensure!(
            rendered == reviewed,
            "{set}: differs from {} at line {:?}; look at it and set {UPDATE_VARIABLE}=1",
            file.display(),
            differs.map(|line| line + 1)
        );
    }
    Ok(())
}

#[test]
fn helm_finds_nothing_to_complain_of() -> Result<()> {
    let Some(helm) = helm("helm lint") else { return Ok(()) };
    for set in SETS {
        helm.run(&["lint", "--strict", ".", "--values", &values_of(set)])?;
    }
    Ok(())
}

#[test]
fn values_that_cannot_work_are_refused_with_their_remedy() -> Result<()> {
    let Some(helm) = helm("refused values") else { return Ok(()) };
    for (words, reason) in [
        (&[][..], "database.urlSecret"),
        (&["--set", "postgres.enabled=true,database.urlSecret=x"], "two databases"),
        (&["--set", "postgres.enabled=true,nats.enabled=false"], "nats.external.urlSecret"),
        (&["--set", "postgres.enabled=true,nats.enabled=false,nats.external.urlSecret=x"], "executors.default.nats.urlSecret"),
        (&["--set", "postgres.enabled=true,executors.a.slots=2"], "executors.a.queues is empty"),
        (&["--set", "postgres.enabled=true,coordinator.replica=2"], "replica"),
        (&["--set", "postgres.enabled=true,image.tag=latest"], "image"),
        (&["--set", "postgres.enabled=true,nats.replicas=2"], "replicas"),
        (&["--set", "postgres.enabled=true,executors.a.queues={Upper}"], "queues"),
        (&["--set", "postgres.enabled=true,executors.coordinator.queues={a}"], "executors.coordinator"),
        (&["--set", "postgres.enabled=true,externalMetrics.enabled=true"], "requestheader-client-ca-file"),
        (&["--set", "database.urlSecret=x,database.caSecret=y,database.sslMode=require"], "database.sslMode=verify-full"),
    ] {
        let words = [&["template", "x", "."], words].concat();
        let refused = helm.run(&words).err().with_context(|| format!("{words:?} was taken"))?.to_string();
        ensure!(refused.contains(reason), "{words:?}: {refused}");
    }
    Ok(())
}

/// Secrets are drawn anew at each rendering.
fn without_chance(rendered: &str) -> String {
    let mut is_secret = false;
    let mut lines = Vec::new();
    for line in rendered.lines() {
        is_secret = if line == "---" { false } else { is_secret || line == "kind: Secret" };
        let drawn =
            line.split_once(": ").filter(|(key, value)| is_secret && key.starts_with("  ") && !key.starts_with("   ") && value.len() >= 40);
        lines.push(drawn.map_or_else(|| line.trim_end().to_owned(), |(key, _)| format!("{key}: …")));
    }
    lines.join("\n").trim_end().to_owned() + "\n"
}
