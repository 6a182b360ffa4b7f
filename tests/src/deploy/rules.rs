//! Our own rules for whatever runs in a cluster.

use super::rendering::{KUBERNETES_NEWEST, SETS, containers_of, helm, name_of, pod_of, texts};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Besides the commands' time: ending them, and handing in what they left.
const DRAIN_REST_S: i64 = 40;
/// What of a Secret executors are given, as JSON.
const EXECUTOR_TOKEN: &str = r#""items":[{"key":"executor-token","path":"token"}]"#;

#[test]
fn every_container_keeps_the_rules() -> Result<()> {
    let Some(helm) = helm("rules for containers") else { return Ok(()) };
    for set in SETS {
        for object in helm.objects(set, KUBERNETES_NEWEST)? {
            let Some(pod) = pod_of(&object) else { continue };
            let name = format!("{set}: {}", name_of(&object));
            restricted(pod).with_context(|| name.clone())?;
            for container in containers_of(pod) {
                bounded(container).with_context(|| name.clone())?;
                let is_probed = container["name"] != json!("test");
                for probe in ["livenessProbe", "readinessProbe"] {
                    ensure!(container[probe].is_object() == is_probed, "{name}: {probe}");
                }
            }
        }
    }
    Ok(())
}

/// Restricted Pod Security, and a little more: no token, no writable root, no variables of services.
fn restricted(pod: &Value) -> Result<()> {
    let context = &pod["securityContext"];
    ensure!(context["runAsNonRoot"] == json!(true) && context["runAsUser"].as_i64().is_some_and(|uid| uid > 0), "a user that is not root");
    ensure!(context["seccompProfile"]["type"] == json!("RuntimeDefault"), "seccomp");
    // Coordinators alone may tell the cluster something, where that is asked for: executors run other people's code.
    let tells = containers_of(pod).iter().any(|container| {
        container["name"] == json!("coordinator") && texts(&container["args"]).contains(&"--pod-deletion-cost".to_owned())
    });
    ensure!(pod["automountServiceAccountToken"] == json!(tells) && pod["enableServiceLinks"] == json!(false), "token and service links");
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        ensure!(pod[key].is_null(), "{key}");
    }
    let volumes = pod["volumes"].as_array().into_iter().flatten();
    ensure!(volumes.into_iter().all(|volume| volume["hostPath"].is_null()), "hostPath");
    for container in containers_of(pod) {
        let own = &container["securityContext"];
        ensure!(own["allowPrivilegeEscalation"] == json!(false) && own["readOnlyRootFilesystem"] == json!(true), "{own}");
        ensure!(own["capabilities"] == json!({"drop": ["ALL"]}) && own["privileged"].is_null(), "{own}");
    }
    Ok(())
}

/// A named image, and bounds on what it uses.
fn bounded(container: &Value) -> Result<()> {
    let image = container["image"].as_str().context("an image")?;
    let last = image.rsplit('/').next().unwrap_or_default();
    ensure!(image.contains('@') || last.split_once(':').is_some_and(|(_, tag)| !tag.is_empty() && tag != "latest"), "{image}");
    let resources = &container["resources"];
    ensure!(["cpu", "memory"].iter().all(|kind| resources["requests"][kind].is_string()), "requests of {image}");
    ensure!(["memory", "ephemeral-storage"].iter().all(|kind| resources["limits"][kind].is_string()), "limits of {image}");
    Ok(())
}

#[test]
fn the_grace_of_a_pod_fits_its_drain() -> Result<()> {
    let Some(helm) = helm("drain and grace") else { return Ok(()) };
    let mut seen = Vec::new();
    for set in SETS {
        for object in helm.objects(set, KUBERNETES_NEWEST)? {
            let Some(pod) = pod_of(&object) else { continue };
            for container in containers_of(pod) {
                let words = texts(&container["args"]);
                let Some(drain) = words.iter().find_map(|word| word.strip_prefix("--drain-timeout=")?.strip_suffix('s')) else { continue };
                let drain: i64 = drain.parse()?;
                let grace = pod["terminationGracePeriodSeconds"].as_i64();
                ensure!(grace == Some(drain + DRAIN_REST_S), "{}: drains for {drain} s, {grace:?}", name_of(&object));
                seen.push(drain);
            }
        }
    }
    ensure!(seen.contains(&60) && seen.contains(&259_200), "short and days: {seen:?}");
    Ok(())
}

#[test]
fn executors_are_not_told_what_only_coordinators_may_know() -> Result<()> {
    let Some(helm) = helm("secrets of executors") else { return Ok(()) };
    for set in SETS {
        let objects = helm.objects(set, KUBERNETES_NEWEST)?;
        let executors: Vec<&Value> =
            objects.iter().filter(|object| name_of(object).contains("-executor-") && pod_of(object).is_some()).collect();
        ensure!(!executors.is_empty(), "{set} has no executors");
        for executor in executors {
            // The token that opens the metrics of executors, and nothing else; that it is this one is looked at below.
            let known = ["automountServiceAccountToken", "--metrics-token-file=/etc/orchestr8/metrics/token", EXECUTOR_TOKEN];
            let rest = known.iter().fold(executor.to_string(), |text, known| text.replace(known, ""));
            for secret in ["DATABASE", "orchestr8-auth", "token", "\"key\":\"coordinator\"", "orchestr8-postgres", "tini"] {
                ensure!(!rest.contains(secret), "{set}: {} is given {secret}", name_of(executor));
            }
            ensure!(executor.to_string().contains(EXECUTOR_TOKEN), "{set}: {} has no token of its own", name_of(executor));
        }
    }
    Ok(())
}

#[test]
fn each_pool_has_a_login_of_its_own() -> Result<()> {
    let Some(helm) = helm("logins of pools") else { return Ok(()) };
    for set in ["keda", "pools", "trial"] {
        let objects = helm.objects(set, KUBERNETES_NEWEST)?;
        let variables = objects.iter().filter_map(pod_of).flat_map(containers_of).filter_map(|container| container["env"].as_array());
        let passwords: Vec<String> = variables
            .flatten()
            .filter(|variable| variable["name"] == json!("ORCHESTR8_NATS_PASSWORD"))
            .map(|variable| variable["valueFrom"]["secretKeyRef"].to_string())
            .collect();
        let different: BTreeSet<&String> = passwords.iter().collect();
        ensure!(different.len() == passwords.len() && passwords.len() >= 2, "{set}: {passwords:?}");
    }
    Ok(())
}

#[test]
fn a_scaled_pool_has_no_replicas_of_its_own() -> Result<()> {
    let Some(helm) = helm("replicas of scaled pools") else { return Ok(()) };
    for (set, kind) in [("keda", "ScaledObject"), ("hpa", "HorizontalPodAutoscaler")] {
        let objects = helm.objects(set, KUBERNETES_NEWEST)?;
        for object in objects.iter().filter(|object| object["kind"] == json!(kind)) {
            let target = &object["spec"]["scaleTargetRef"]["name"];
            let scaled = objects.iter().find(|object| object["kind"] == json!("Deployment") && &object["metadata"]["name"] == target);
            let scaled = scaled.with_context(|| format!("{set}: there is no Deployment {target}"))?;
            ensure!(scaled["spec"]["replicas"].is_null(), "{set}: {target} would be reset by every upgrade");
        }
    }
    Ok(())
}
