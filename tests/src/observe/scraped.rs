//! A real installation under load, scraped by a real Prometheus: what it exposes is what is described, and no panel is empty.

use super::described;
use super::exposition::{metric_of, series};
use super::files::{Query, filled, in_repository, variables, written_queries};
use super::tools::Tools;
use crate::deploy::trigger::demand_query;
use crate::harness::api::http_client;
use crate::harness::installation::free_port;
use crate::harness::process::ProcessPlan;
use crate::harness::{InstallationOptions, Process, wait_for};
use crate::scene::{SOON, Scene, noop};
use anyhow::{Context, Result, ensure};
use orchestr8_proto::exposition::Described;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// Opens `/metrics` and nothing else.
const METRICS_TOKEN: &str = "a-token-for-those-who-only-watch";
/// Until every panel has something to show: rates need two scrapes with something between them.
const SHOWN_WITHIN: Duration = Duration::from_secs(90);

/// An installation with two coordinators and an executor that can be scraped.
struct Watched {
    scene: Scene,
    executor: String,
    folder: tempfile::TempDir,
    client: Client,
}

impl Watched {
    async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("orchestr8-observe-").tempdir()?;
        let token = write_private(&folder.path().join("metrics-token"), METRICS_TOKEN)?;
        let executor = format!("127.0.0.1:{}", free_port()?);
        let scene = Scene::start(InstallationOptions {
            coordinators: 2,
            coordinator_words: vec!["--metrics-token-file".into(), token.clone()],
            executor_words: vec!["--metrics-listen".into(), executor.clone(), "--metrics-token-file".into(), token],
            ..InstallationOptions::default()
        })
        .await?;
        let watched = Self { scene, executor, folder, client: http_client(Vec::new()) };
        watched.occupy().await?;
        Ok(watched)
    }

    /// Something in every state that lasts: running, retrying, and queued where nobody fetches.
    async fn occupy(&self) -> Result<()> {
        let gated = self.scene.submit(&self.scene.ledger.gated("end")).await?;
        self.scene.holder(&gated).await?;
        self.scene.submit(&json!({"run": "true", "queue": "nobody"})).await?;
        let retrying = self.scene.submit(&json!({"run": "exit 3", "max_retries": 1, "retry_backoff": {"initial_interval": "1h"}})).await?;
        self.scene.until(&retrying, "retrying").await?;
        Ok(())
    }

    /// Work that comes and goes: rates are of what happens between two scrapes.
    async fn work(&self) -> Result<()> {
        let failing = json!({"handler": "fail", "with": {"times": 1}, "retry_backoff": {"initial_interval": "10ms"}, "max_retries": 1});
        let failed = json!({"handler": "fail", "max_retries": 0});
        self.scene.api().post("/api/v1/tasks", &json!([noop(&json!(1)), failing, failed])).await?;
        Ok(())
    }

    fn coordinators(&self) -> Vec<String> {
        (0..2).map(|number| self.scene.installation.api_of(number).url.trim_start_matches("http://").to_owned()).collect()
    }

    /// The text of a target's metrics.
    async fn metrics(&self, target: &str) -> Result<String> {
        let answer = self.client.get(format!("http://{target}/metrics")).bearer_auth(METRICS_TOKEN).send().await?;
        ensure!(answer.status().is_success(), "{target}: {}", answer.status());
        Ok(answer.text().await?)
    }

    async fn status(&self, path: &str, token: Option<&str>) -> Result<StatusCode> {
        let request = self.client.get(format!("http://{path}"));
        let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
        Ok(request.send().await?.status())
    }
}

#[tokio::test]
async fn what_is_exposed_is_what_is_described() -> Result<()> {
    let watched = Watched::start().await?;
    let mut targets = watched.coordinators();
    targets.push(watched.executor.clone());
    let described = described();
    let mut missing = Vec::new();
    let complete = async || {
        watched.work().await?;
        let mut seen = BTreeSet::new();
        for target in &targets {
            seen.extend(check_described(&watched.metrics(target).await?, &described));
        }
        missing = described.iter().map(|metric| metric.name).filter(|name| !seen.contains(name)).collect();
        ensure!(missing.is_empty(), "nobody exposes {missing:?}");
        Ok(Some(()))
    };
    wait_for("every described metric to be exposed", SOON, complete).await?;
    if let Some(tools) = Tools::find("promtool check metrics") {
        for target in &targets {
            let said = tools.promtool(&["check", "metrics"], &watched.metrics(target).await?)?;
            assert!(said.trim().is_empty(), "{target}: {said}");
        }
    }
    watched.scene.finish().await;
    Ok(())
}

/// The described metrics that a text has; nothing else may be in it, and no other labels.
fn check_described(text: &str, described: &[Described]) -> Vec<&'static str> {
    let mut seen = Vec::new();
    for (name, labels) in series(text) {
        let metric = metric_of(&name, described).unwrap_or_else(|| panic!("{name} is exposed and not described"));
        let found: BTreeSet<&str> = labels.iter().map(String::as_str).filter(|label| *label != "le").collect();
        let expected: BTreeSet<&str> = metric.labels.iter().copied().collect();
        assert_eq!(found, expected, "the labels of {name}");
        seen.push(metric.name);
    }
    seen
}

#[tokio::test]
async fn who_watches_may_do_nothing_else() -> Result<()> {
    let watched = Watched::start().await?;
    let (coordinator, executor) = (watched.coordinators().remove(0), watched.executor.clone());
    for (path, token, status) in [
        (format!("{coordinator}/metrics"), Some(METRICS_TOKEN), StatusCode::OK),
        (format!("{coordinator}/metrics"), None, StatusCode::UNAUTHORIZED),
        (format!("{coordinator}/api/v1/tasks"), Some(METRICS_TOKEN), StatusCode::UNAUTHORIZED),
        (format!("{executor}/metrics"), None, StatusCode::UNAUTHORIZED),
        (format!("{executor}/metrics"), Some("another-token-of-that-length"), StatusCode::UNAUTHORIZED),
        (format!("{executor}/healthz"), None, StatusCode::OK),
        (format!("{executor}/readyz"), None, StatusCode::OK),
        (format!("{executor}/api/v1/tasks"), Some(METRICS_TOKEN), StatusCode::NOT_FOUND),
    ] {
        assert_eq!(watched.status(&path, token).await?, status, "{path} with {token:?}");
    }
    watched.scene.finish().await;
    Ok(())
}

#[tokio::test]
async fn no_panel_is_empty() -> Result<()> {
    let Some(tools) = Tools::find("no panel is empty") else { return Ok(()) };
    let watched = Watched::start().await?;
    let (mut process, prometheus) = start_prometheus(&watched, &tools).await?;
    let mut empty: Vec<Query> = written_queries()?;
    let asked = empty.len();
    let all_shown = async || {
        watched.work().await?;
        let mut still_empty = Vec::new();
        for query in &empty {
            if !prometheus.shows(&query.expression).await? {
                still_empty.push(query.clone());
            }
        }
        empty = still_empty;
        ensure!(empty.is_empty(), "{} of {asked} queries give nothing: {empty:#?}", empty.len());
        Ok(Some(()))
    };
    wait_for("every panel to show something", SHOWN_WITHIN, all_shown).await?;
    for (metric, label) in variables()? {
        let values = prometheus.get("series", &[("match[]", metric.as_str())]).await?;
        assert!(values.as_array().is_some_and(|series| series.iter().any(|one| one[&label].is_string())), "{metric} {label}");
    }
    prometheus.check_rules().await?;
    check_demand(&watched, &prometheus).await?;
    process.kill().await?;
    watched.scene.finish().await;
    Ok(())
}

/// KEDA is told by Prometheus what the API tells: of what was left in `occupy`, the running and the queued one.
async fn check_demand(watched: &Watched, prometheus: &Prometheus) -> Result<()> {
    let selector = "job=\"coordinator\"";
    for (queues, selector, expected) in [
        (&["default", "nobody"][..], selector, Some(2.0)),
        (&["nobody"], selector, Some(1.0)),
        (&["unheard"], selector, Some(0.0)),
        (&["nobody"], "job=\"another\"", None),
    ] {
        let Some(query) = demand_query(queues, selector, "demand in a real Prometheus")? else { return Ok(()) };
        let look = async || {
            let seen = prometheus.number(&query).await?;
            ensure!(seen == expected, "{query}: {seen:?}, not {expected:?}");
            Ok(Some(()))
        };
        wait_for("Prometheus to know the demand", SOON, look).await?;
        if let Some(slots) = expected {
            let told = watched.scene.api().get(&format!("/api/v1/queues/{}/demand", queues.join(","))).await?;
            ensure!(told["demand_slots"].as_f64() == Some(slots), "{told}");
        }
    }
    Ok(())
}

/// A Prometheus that answers.
struct Prometheus {
    client: Client,
    url: String,
}

async fn start_prometheus(watched: &Watched, tools: &Tools) -> Result<(Process, Prometheus)> {
    let folder = watched.folder.path();
    let rules = in_repository("deploy/prometheus/alerts.yaml");
    let authorization = json!({"credentials_file": folder.join("metrics-token")});
    let job = |name: &str, targets: Vec<String>| json!({"job_name": name, "authorization": authorization, "static_configs": [{"targets": targets}]});
    // JSON is YAML.
    let configuration = json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [rules],
        "scrape_configs": [job("coordinator", watched.coordinators()), job("executor", vec![watched.executor.clone()])],
    });
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, configuration.to_string())?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let words = vec![
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", folder.join("tsdb").display()),
        format!("--web.listen-address={address}"),
    ];
    let (name, log) = ("prometheus".to_owned(), folder.join("prometheus.log"));
    let plan = ProcessPlan { name, program: Some(tools.program("prometheus")), words, environment: Vec::new(), log };
    let process = Process::start(plan).await?;
    let prometheus = Prometheus { client: watched.client.clone(), url: format!("http://{address}/api/v1") };
    wait_for("Prometheus to answer", SOON, async || prometheus.get("query", &[("query", "vector(1)")]).await.map(Some)).await?;
    Ok((process, prometheus))
}

impl Prometheus {
    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let answer = self.client.get(format!("{}/{path}", self.url)).query(parameters).send().await?;
        let body: Value = answer.json().await?;
        ensure!(body["status"] == "success", "{path} {parameters:?}: {body}");
        Ok(body["data"].clone())
    }

    /// The one number that a query gives, if it gives any.
    async fn number(&self, expression: &str) -> Result<Option<f64>> {
        let data = self.get("query", &[("query", expression)]).await?;
        let samples = data["result"].as_array().context("a result")?;
        ensure!(samples.len() <= 1, "{expression}: {samples:?}");
        Ok(samples.first().and_then(|sample| sample["value"][1].as_str()).map(str::parse).transpose()?)
    }

    /// Whether a query gives at least one number.
    async fn shows(&self, expression: &str) -> Result<bool> {
        let data = self.get("query", &[("query", &filled(expression))]).await?;
        let samples = data["result"].as_array().context("a result")?;
        let is_number = |sample: &Value| sample["value"][1].as_str().is_some_and(|value| value != "NaN");
        Ok(samples.iter().any(is_number))
    }

    /// Every rule can be evaluated, and the one about the queue that nobody serves has noticed it.
    async fn check_rules(&self) -> Result<()> {
        let noticed = async || {
            let data = self.get("rules", &[("type", "alert")]).await?;
            let groups = data["groups"].as_array().context("groups")?;
            let rules: Vec<&Value> =
                groups.iter().flat_map(|group| group["rules"].as_array().map(Vec::as_slice).unwrap_or_default()).collect();
            ensure!(rules.len() >= 15, "only {} rules are loaded", rules.len());
            for rule in &rules {
                ensure!(rule["health"] == "ok", "{}: {} {}", rule["name"], rule["health"], rule["lastError"]);
            }
            let unserved = rules.iter().find(|rule| rule["name"] == "Orchestr8QueueUnserved").context("the rule")?;
            ensure!(unserved["alerts"][0]["labels"]["queue"] == "nobody", "{unserved}");
            Ok(Some(()))
        };
        wait_for("the rules to be evaluated", SOON, noticed).await
    }
}

fn write_private(path: &Path, text: &str) -> Result<String> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(path.to_string_lossy().into_owned())
}
