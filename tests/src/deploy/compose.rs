//! `deploy/compose.yaml`: the same rules as for the chart, and words that the binary understands.

use super::commands::accepted_words;
use super::rendering::{read, texts};
use super::tools::fetched;
use crate::harness::binary::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Services of our own image.
const OURS: [&str; 3] = ["coordinator-1", "coordinator-2", "executor"];

#[test]
fn the_composed_services_start_what_exists() -> Result<()> {
    let compose = read(&workspace().join("deploy/compose.yaml"))?;
    let services = compose["services"].as_object().context("services")?;
    for (name, service) in services {
        let own = |key: &str| merged(service, key);
        let image = own("image").and_then(|image| image.as_str().map(str::to_owned)).with_context(|| format!("{name}: image"))?;
        let tag = image.rsplit(':').next().unwrap_or_default();
        ensure!(tag != image && tag != "latest", "{name}: {image}");
        if OURS.contains(&name.as_str()) {
            let words = own("command").map(texts).with_context(|| format!("{name}: command"))?;
            accepted_words(&words).with_context(|| name.clone())?;
            ensure!(own("cap_drop").map(texts) == Some(vec!["ALL".to_owned()]) && own("read_only") == Some(&Value::Bool(true)), "{name}");
        }
    }
    ensure!(OURS.iter().all(|name| services.contains_key(*name)) && services["executor"]["scale"] == 3, "{:?}", services.keys());
    ensure!(!texts(&services["executor"]["networks"]).iter().any(|network| network != "broker"), "executors reach NATS alone");
    Ok(())
}

#[test]
fn every_secret_of_the_composed_services_is_drawn() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("secrets.sh");
    std::fs::copy(workspace().join("deploy/compose/secrets.sh"), &script)?;
    let draw = || std::process::Command::new("sh").arg(&script).status();
    ensure!(draw()?.success(), "secrets.sh failed");
    let token = std::fs::read_to_string(folder.path().join("secrets/token"))?;
    ensure!(draw()?.success() && std::fs::read_to_string(folder.path().join("secrets/token"))? == token, "the token was drawn anew");
    let compose = read(&workspace().join("deploy/compose.yaml"))?;
    let named = compose["secrets"].as_object().context("secrets")?.values().filter_map(|secret| secret["file"].as_str());
    let services = compose["services"].as_object().context("services")?;
    let files = services.values().flat_map(|service| merged(service, "env_file").map(texts).unwrap_or_default());
    for file in named.map(str::to_owned).chain(files) {
        let drawn = folder.path().join(file.strip_prefix("compose/").context("below compose")?);
        ensure!(std::fs::read_to_string(&drawn).is_ok_and(|text| text.len() > 30), "{} is missing", drawn.display());
    }
    Ok(())
}

#[test]
fn nats_server_takes_the_composed_configuration() -> Result<()> {
    let Some(server) = fetched("bin/nats-server", "the NATS configuration of compose.yaml") else { return Ok(()) };
    let file = workspace().join("deploy/compose/nats.conf");
    let drawn = "x0123456789abcdef";
    let mut command = std::process::Command::new(server);
    let passwords = ["ORCHESTR8_NATS_PASSWORD_COORDINATOR", "ORCHESTR8_NATS_PASSWORD_DEFAULT"].map(|name| (name, drawn));
    let output = command.envs(passwords).arg("-t").arg("--config").arg(file).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A key of a service, or of what it takes over by `<<`.
pub fn merged<'a>(service: &'a Value, key: &str) -> Option<&'a Value> {
    service.get(key).or_else(|| service["<<"].get(key))
}
