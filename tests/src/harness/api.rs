//! HTTP with the token.

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::sync::Arc;

/// A client of one coordinator.
#[derive(Debug, Clone)]
pub struct Api {
    client: reqwest::Client,
    /// The coordinator's address, as in `http://127.0.0.1:8088`.
    pub url: String,
    /// The bearer token.
    pub token: String,
}

impl Api {
    /// For the coordinator at `url`.
    #[must_use]
    pub fn new(url: String, token: String) -> Self {
        Self { client: http_client(Vec::new()), url, token }
    }

    /// The same, believing these authorities alone.
    #[must_use]
    pub fn trusting(self, authorities: Vec<CertificateDer<'static>>) -> Self {
        Self { client: http_client(authorities), ..self }
    }

    /// The same token, another coordinator.
    #[must_use]
    pub fn at(&self, url: String) -> Self {
        Self { url, ..self.clone() }
    }

    /// A request to a path, with the token; for whatever the methods below do not cover.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    /// Gets JSON; anything but success is an error that shows the answer.
    ///
    /// # Errors
    /// When there is no answer, or another one.
    pub async fn get(&self, path: &str) -> Result<Value> {
        successful(path, self.answer(self.request(Method::GET, path)).await?)
    }

    /// Posts JSON; anything but success is an error that shows the answer.
    ///
    /// # Errors
    /// When there is no answer, or another one.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        successful(path, self.answer(self.request(Method::POST, path).json(body)).await?)
    }

    /// The status and the JSON of any answer (`null` where there is none).
    ///
    /// # Errors
    /// When there is no answer, or one that is not JSON.
    pub async fn answer(&self, request: reqwest::RequestBuilder) -> Result<(StatusCode, Value)> {
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))? };
        Ok((status, body))
    }

    /// Whether the coordinator says that it is ready.
    pub async fn is_ready(&self) -> bool {
        self.request(Method::GET, "/readyz").send().await.is_ok_and(|answer| answer.status().is_success())
    }
}

/// An HTTP client that believes these authorities.
///
/// # Panics
/// When the system gives no client, or an authority is none.
#[must_use]
pub fn http_client(authorities: Vec<CertificateDer<'static>>) -> reqwest::Client {
    let mut roots = RootCertStore::empty();
    authorities.into_iter().for_each(|authority| roots.add(authority).expect("an authority"));
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("the provider has the suites of TLS 1.2 and 1.3");
    let trusted = builder.with_root_certificates(roots).with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(trusted).build().expect("a client")
}

fn successful(path: &str, (status, body): (StatusCode, Value)) -> Result<Value> {
    ensure!(status.is_success(), "{path}: {status}: {body}");
    Ok(body)
}
