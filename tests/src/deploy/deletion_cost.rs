//! What a coordinator tells a cluster's API server of executors' pods. A small server stands for it.

use crate::harness::wait_for;
use crate::scene::{SOON, Scene, executors};
use crate::secure::server::Certificates;
use anyhow::{Context, Result, ensure};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const TOKEN: &str = "token-of-the-service-account";

/// One request as it came: its head, and its body.
type Asked = (String, Value);

/// Answers the first request with an error, and every other with success.
struct ApiServer {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl ApiServer {
    async fn start(certificates: &Certificates) -> Result<Self> {
        let chain = vec![CertificateDer::from_pem_file(certificates.path("server.pem"))?];
        let key = PrivateKeyDer::from_pem_file(certificates.path("server.key"))?;
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = builder.with_safe_default_protocol_versions()?.with_no_client_auth().with_single_cert(chain, key)?;
        let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await?);
        let (port, asked) = (listener.local_addr()?.port(), Arc::new(Mutex::new(Vec::new())));
        let seen = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Err(error) = answer(&acceptor, stream, &seen).await {
                    eprintln!("the API server's stand-in: {error:#}");
                }
            }
        });
        Ok(Self { port, asked })
    }

    /// The costs that pods were told, in the order of the requests.
    fn costs(&self) -> Vec<(String, String)> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = |(head, body): &Asked| {
            let pod = head.split(' ').nth(1).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
            (pod.to_owned(), body[1]["value"].as_str().unwrap_or_default().to_owned())
        };
        asked.iter().map(cost).collect()
    }
}

/// One request, one answer, and the connection ends.
async fn answer(acceptor: &TlsAcceptor, stream: TcpStream, seen: &Mutex<Vec<Asked>>) -> Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut text = Vec::new();
    let asked = loop {
        ensure!(stream.read_buf(&mut text).await? > 0, "it ended within a request");
        let text = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if length.is_none_or(|length: usize| body.len() >= length) {
            break (head.to_owned(), serde_json::from_str(body).unwrap_or_default());
        }
    };
    let is_first = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(asked);
        seen.len() == 1
    };
    let status = if is_first { "500 Internal Server Error" } else { "200 OK" };
    stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}").as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}

/// What the kubelet puts into a container.
fn service_account(folder: &Path, certificates: &Certificates) -> Result<()> {
    std::fs::write(folder.join("namespace"), "work")?;
    std::fs::write(folder.join("token"), format!("{TOKEN}\n"))?;
    std::fs::copy(certificates.path("ca.pem"), folder.join("ca.crt"))?;
    Ok(())
}

#[tokio::test]
async fn a_pod_costs_as_much_as_its_executor_runs() -> Result<()> {
    let Some(certificates) = Certificates::make()? else { return Ok(()) };
    let (server, folder) = (ApiServer::start(&certificates).await?, tempfile::tempdir()?);
    service_account(folder.path(), &certificates)?;
    let mut options = executors(2);
    options.coordinator_words = vec![format!("--pod-deletion-cost={}", folder.path().display())];
    options.environment = vec![
        ("KUBERNETES_SERVICE_HOST".to_owned(), "127.0.0.1".to_owned()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), server.port.to_string()),
    ];
    let scene = Scene::start(options).await?;
    let task = scene.submit(&json!({"handler": "sleep", "with": {"duration": "1h"}})).await?;
    let busy = format!("executor-{}", scene.holder(&task).await?);
    let told = |cost: &'static str| {
        let expected = (busy.clone(), cost.to_owned());
        let server = &server;
        async move || Ok((server.costs().last() == Some(&expected) && server.costs().len() > 1).then_some(()))
    };
    wait_for("the pod to be told that it is busy, again after the error", SOON, told("1")).await?;
    scene.api().post(&format!("/api/v1/tasks/{task}/cancel"), &json!({})).await?;
    wait_for("the pod to be told that it is idle", SOON, told("0")).await?;
    // The first was refused and said again; the idle one needed no word at all.
    ensure!(server.costs().iter().all(|(pod, _)| *pod == busy), "{:?}", server.costs());
    let (head, body) = server.asked.lock().unwrap_or_else(PoisonError::into_inner).last().cloned().context("a request")?;
    ensure!(head.starts_with(&format!("PATCH /api/v1/namespaces/work/pods/{busy} HTTP/1.1\r\n")), "{head}");
    for line in [format!("authorization: Bearer {TOKEN}"), "content-type: application/json-patch+json".to_owned()] {
        ensure!(head.lines().any(|found| found.eq_ignore_ascii_case(&line)), "{line}: {head}");
    }
    ensure!(body[0] == json!({"op": "test", "path": "/metadata/labels/orchestr8.role", "value": "executor"}), "{body}");
    ensure!(body[1]["path"] == "/metadata/annotations/controller.kubernetes.io~1pod-deletion-cost", "{body}");
    scene.finish().await;
    Ok(())
}
