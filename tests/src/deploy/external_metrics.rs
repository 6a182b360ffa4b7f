//! `external.metrics.k8s.io` on a real port: what an HPA is told, and who is told nothing.

use crate::harness::installation::free_port;
use crate::scene::{Scene, executors};
use crate::secure::server::{Certificates, authorities};
use anyhow::{Context, Result, ensure};
use reqwest::{Client, StatusCode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::sync::Arc;

/// What the front proxy calls itself in most clusters.
const FRONT_PROXY: &str = "front-proxy-client";
const VALUES: &str = "namespaces/work/orchestr8_queue_demand_slots";

/// Its port, and who asks.
struct Stage {
    scene: Scene,
    port: u16,
    certificates: Certificates,
}

impl Stage {
    /// None, with a message, where there are no certificates to be made.
    async fn start() -> Result<Option<Self>> {
        let Some(certificates) = Certificates::make()? else { return Ok(None) };
        for (name, authority, common_name) in
            [("proxy", "ca", FRONT_PROXY), ("other", "ca", "kubelet"), ("forged", "stranger", FRONT_PROXY)]
        {
            certificates.client(name, authority, common_name)?;
        }
        let port = free_port()?;
        let mut options = executors(0);
        options.coordinator_words = vec![
            format!("--external-metrics-listen=127.0.0.1:{port}"),
            format!("--external-metrics-cert={}", certificates.text("server.pem")),
            format!("--external-metrics-key={}", certificates.text("server.key")),
            format!("--external-metrics-client-ca={}", certificates.text("ca.pem")),
            format!("--external-metrics-client-name={FRONT_PROXY}"),
        ];
        Ok(Some(Self { scene: Scene::start(options).await?, port, certificates }))
    }

    /// What this client is answered; an error where there is no connection.
    async fn ask(&self, client: Option<&str>, path: &str) -> Result<(StatusCode, Value)> {
        let url = format!("https://127.0.0.1:{}/apis/external.metrics.k8s.io/v1beta1/{path}", self.port);
        let answer = self.client(client)?.get(url.trim_end_matches('/')).send().await?;
        Ok((answer.status(), answer.json().await?))
    }

    fn client(&self, name: Option<&str>) -> Result<Client> {
        let mut roots = RootCertStore::empty();
        for authority in authorities(&self.certificates.path("ca.pem"))? {
            roots.add(authority)?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots);
        let config = match name {
            Some(name) => {
                let chain = vec![CertificateDer::from_pem_file(self.certificates.path(&format!("{name}.pem")))?];
                let key = PrivateKeyDer::from_pem_file(self.certificates.path(&format!("{name}.key")))?;
                builder.with_client_auth_cert(chain, key)?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Client::builder().tls_backend_preconfigured(config).no_proxy().build()?)
    }
}

#[tokio::test]
async fn the_front_proxy_alone_is_told_the_demand() -> Result<()> {
    let Some(stage) = Stage::start().await? else { return Ok(()) };
    for (queue, tasks) in [("default", 2), ("agents", 1), ("elsewhere", 1)] {
        for _ in 0..tasks {
            stage.scene.submit(&json!({"handler": "noop", "queue": queue})).await?;
        }
    }
    let (status, list) = stage.ask(Some("proxy"), "").await?;
    ensure!(status == StatusCode::OK && list["kind"] == "APIResourceList", "{status} {list}");
    ensure!(list["resources"][0]["name"] == "orchestr8_queue_demand_slots" && list["resources"][0]["namespaced"] == true, "{list}");
    let (status, values) = stage.ask(Some("proxy"), &format!("{VALUES}?labelSelector=queue%20in%20(default,agents)&timeout=5s")).await?;
    let of = |queue: usize| (&values["items"][queue]["metricLabels"]["queue"], &values["items"][queue]["value"]);
    ensure!(status == StatusCode::OK && values["kind"] == "ExternalMetricValueList", "{status} {values}");
    ensure!(values["items"].as_array().map(Vec::len) == Some(2), "{values}");
    ensure!((of(0), of(1)) == ((&json!("agents"), &json!("1")), (&json!("default"), &json!("2"))), "{values}");
    let (_, none) = stage.ask(Some("proxy"), &format!("{VALUES}?labelSelector=queue%3Dnobody")).await?;
    ensure!(none["items"][0]["value"] == "0" && none["items"][0]["timestamp"].is_string(), "{none}");
    for (path, expected) in [
        (VALUES.to_owned(), StatusCode::BAD_REQUEST),
        (format!("{VALUES}?labelSelector=queue!%3Da"), StatusCode::BAD_REQUEST),
        ("namespaces/work/requests".to_owned(), StatusCode::NOT_FOUND),
        ("namespaces".to_owned(), StatusCode::NOT_FOUND),
    ] {
        let (status, refusal) = stage.ask(Some("proxy"), &path).await?;
        ensure!(status == expected && refusal["kind"] == "Status" && refusal["code"] == expected.as_u16(), "{path}: {status} {refusal}");
    }
    refused(&stage).await?;
    stage.scene.finish().await;
    Ok(())
}

/// Nobody else gets as far as a request, and nothing but this is served there.
async fn refused(stage: &Stage) -> Result<()> {
    for client in [None, Some("other"), Some("forged")] {
        let refusal = stage.ask(client, "").await.err().with_context(|| format!("{client:?} was answered"))?;
        let connected = refusal.downcast_ref::<reqwest::Error>().is_some_and(|error| error.status().is_some() || error.is_decode());
        ensure!(!connected, "{client:?}: {refusal:#}");
    }
    let metrics = stage.client(Some("proxy"))?.get(format!("https://127.0.0.1:{}/metrics", stage.port)).send().await?;
    ensure!(metrics.status() == StatusCode::NOT_FOUND, "{}", metrics.status());
    Ok(())
}
