//! What the manifests start is what the binary understands, and what the binary serves.

use super::rendering::{KUBERNETES_NEWEST, SETS, containers_of, helm, name_of, pod_of, texts};
use super::tools::fetched;
use crate::harness::binary;
use crate::secure::server::Certificates;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Settings that come by the environment; the binary's help names them.
const PREFIX: &str = "ORCHESTR8_";
/// Of these the chart makes others, and the binary knows no more of them than that they are its own.
const PARTS: [&str; 2] = ["ORCHESTR8_NATS_PASSWORD", "ORCHESTR8_DATABASE_PASSWORD"];

#[test]
fn the_binary_accepts_every_flag_and_variable() -> Result<()> {
    let Some(helm) = helm("flags of manifests") else { return Ok(()) };
    let mut checked = 0;
    for set in SETS {
        for object in helm.objects(set, KUBERNETES_NEWEST)? {
            let containers = pod_of(&object).map(containers_of).unwrap_or_default();
            for container in
                containers.into_iter().filter(|container| texts(&container["command"]).iter().any(|word| word.ends_with("/orchestr8")))
            {
                accepted(container).with_context(|| format!("{set}: {}", name_of(&object)))?;
                checked += 1;
            }
        }
    }
    ensure!(checked >= 3 * SETS.len(), "only {checked} containers");
    ensure!(!help(&["executor".to_owned(), "--slot=1".to_owned()])?.status.success(), "an unknown flag was accepted");
    Ok(())
}

/// Its words, and that the binary reads every variable of ours.
fn accepted(container: &Value) -> Result<()> {
    let words = texts(&container["args"]);
    let told = accepted_words(&words)?;
    for variable in container["env"].as_array().into_iter().flatten().filter_map(|variable| variable["name"].as_str()) {
        let own = variable.starts_with(PREFIX) && !PARTS.contains(&variable);
        ensure!(!own || told.contains(variable), "{variable} means nothing to `orchestr8 {}`", words[0]);
    }
    Ok(())
}

/// What the help says after these words: they are parsed in their order, so it is only reached when all of them are right.
pub fn accepted_words(words: &[String]) -> Result<String> {
    let output = help(words)?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn help(words: &[String]) -> Result<Output> {
    Command::new(binary::orchestr8()?).args(words).arg("--help").output().context("orchestr8")
}

#[test]
fn the_accounts_of_nats_are_those_of_the_command() -> Result<()> {
    let Some(helm) = helm("accounts of NATS") else { return Ok(()) };
    for set in SETS.into_iter().filter(|set| *set != "external") {
        let objects = helm.objects(set, KUBERNETES_NEWEST)?;
        let configuration = objects.iter().find_map(|object| object["data"]["nats.conf"].as_str()).context("nats.conf")?;
        let (_, accounts) = configuration.split_once("\naccounts {").context("accounts")?;
        let pools = objects.iter().filter_map(pod_of).flat_map(containers_of).filter(|container| container["name"] == "executor");
        let logins = pools.map(|container| login_of(&texts(&container["args"]))).collect::<Result<Vec<_>>>()?;
        let words = logins.iter().flat_map(|login| ["--executors", login]);
        let output = Command::new(binary::orchestr8()?).arg("nats-accounts").args(words).output()?;
        let printed = String::from_utf8(output.stdout)?;
        let (_, printed) = printed.split_once("\naccounts {").with_context(|| format!("{logins:?}"))?;
        let (written, printed) = (without_reasons(accounts), without_reasons(printed));
        let differs = written.iter().zip(&printed).find(|(one, other)| one != other);
        ensure!(written == printed, "{set}: chart and command differ: {differs:?}");
    }
    Ok(())
}

/// nats-server looks into the files that its configuration names; none, with a message, where no certificates can be made.
fn with_certificates(configuration: &str, folder: &TempDir) -> Result<Option<String>> {
    const MOUNTED: &str = "/etc/nats-tls";
    if !configuration.contains(MOUNTED) {
        return Ok(Some(configuration.to_owned()));
    }
    let Some(made) = Certificates::make()? else { return Ok(None) };
    for (file, mounted) in [("server.pem", "tls.crt"), ("server.key", "tls.key"), ("ca.pem", "ca.crt")] {
        std::fs::copy(made.path(file), folder.path().join(mounted))?;
    }
    Ok(Some(configuration.replace(MOUNTED, &folder.path().display().to_string())))
}

/// `LOGIN=QUEUE,…`, as the command wants it.
fn login_of(words: &[String]) -> Result<String> {
    let value = |flag: &str| words.iter().find_map(|word| word.strip_prefix(flag)).with_context(|| format!("{flag} in {words:?}"));
    Ok(format!("{}={}", value("--nats-login=")?, value("--queues=")?))
}

/// The lines that say something to nats-server, in their order.
fn without_reasons(accounts: &str) -> Vec<String> {
    let lines = accounts.lines().map(|line| line.split(" # ").next().unwrap_or_default().trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn nats_server_takes_its_configuration() -> Result<()> {
    let what = "the chart's NATS configuration";
    let (Some(helm), Some(server)) = (helm(what), fetched("bin/nats-server", what)) else { return Ok(()) };
    for set in SETS.into_iter().filter(|set| *set != "external") {
        let objects = helm.objects(set, KUBERNETES_NEWEST)?;
        let configuration = objects.iter().find_map(|object| object["data"]["nats.conf"].as_str()).context("nats.conf")?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("nats.conf");
        let Some(configuration) = with_certificates(configuration, &folder)? else { continue };
        std::fs::write(&file, configuration)?;
        let pod =
            objects.iter().find(|object| name_of(object) == "StatefulSet/orchestr8-nats").and_then(pod_of).context("a StatefulSet")?;
        let mut command = Command::new(&server);
        for variable in pod["containers"][0]["env"].as_array().into_iter().flatten() {
            // As the kubelet does, with a password of the kind that the chart draws.
            let value = variable["value"].as_str().unwrap_or("abcdefghij").replace("$(CLUSTER_PASSWORD)", "abcdefghij");
            command.env(variable["name"].as_str().context("a name")?, value);
        }
        let output = command.arg("-t").arg("--config").arg(&file).output()?;
        ensure!(output.status.success(), "{set}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
