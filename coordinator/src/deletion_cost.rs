//! The deletion cost of executors' pods: how many tasks each runs, so that a scale-down takes idle pods first.
//!
//! A coordinator says it to the cluster, not the executor: a pod that may patch pods can become any pod of its namespace, and an
//! executor's commands can read whatever its own user can. What an executor says of itself (its name) picks a pod of this namespace
//! that carries the label of executors, and nothing else of it.

use crate::engine::handle::{EngineHandle, ExecutorView};
use futures::{StreamExt, stream};
use orchestr8_proto::ids::Incarnation;
use reqwest::{Client, StatusCode, header};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The API server answers within this time, or is asked again in the next pass.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Patches in one pass, at most; the rest follows in the next.
const PATCHES_MAX: usize = 500;
/// Patches under way at the same time.
const PATCHES_AT_ONCE: usize = 8;
/// Longest name of a pod.
const POD_NAME_BYTES_MAX: usize = 253;
/// Costs are 32-bit numbers; nobody runs more.
const COST_MAX: u32 = 1_000_000;
/// The shard whose owner does it.
const SHARD: u16 = 0;

/// How to reach the cluster's API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterAccess {
    /// `https://10.0.0.1:443`.
    pub server: String,
    /// The service account's files `token`, `ca.crt` and `namespace`.
    pub folder: PathBuf,
}

/// Why the API server cannot be asked; the operator must correct it.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A file of the service account.
    #[error("--pod-deletion-cost: {} cannot be used ({reason}): give the pod a service account and automountServiceAccountToken", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The client.
    #[error("--pod-deletion-cost: no client for {server} ({reason})")]
    Client {
        /// The API server.
        server: String,
        /// What is wrong.
        reason: String,
    },
}

/// What the pods have been told.
pub(crate) struct DeletionCosts {
    client: Client,
    /// `https://…/api/v1/namespaces/work/pods`.
    pods: String,
    /// Read anew in each pass: it is replaced every hour.
    token: PathBuf,
    told: BTreeMap<Incarnation, u32>,
}

/// One pod and what it is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    incarnation: Incarnation,
    pod: String,
    cost: u32,
}

/// What became of a patch.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Done,
    /// No pod of this namespace with the label of executors has this name: it runs elsewhere.
    Elsewhere,
    Failed(String),
}

impl DeletionCosts {
    /// Reads the service account's files.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) fn new(access: &ClusterAccess) -> Result<Self, ClusterError> {
        let read = |name: &str| {
            let file = access.folder.join(name);
            let text = std::fs::read_to_string(&file);
            text.map_err(|error| ClusterError::File { file, reason: error.to_string() })
        };
        let namespace = read("namespace")?;
        read("token")?;
        let no_client = |reason: String| ClusterError::Client { server: access.server.clone(), reason };
        let builder = Client::builder().tls_backend_preconfigured(believing(access)?).redirect(reqwest::redirect::Policy::none());
        let client = builder.no_proxy().timeout(ANSWER_WITHIN).build().map_err(|error| no_client(error.to_string()))?;
        let pods = format!("{}/api/v1/namespaces/{}/pods", access.server, namespace.trim());
        Ok(Self { client, pods, token: access.folder.join("token"), told: BTreeMap::new() })
    }

    /// Makes a pass in each interval until `shutdown`, while this coordinator owns shard 0. Nothing that fails here ends anything.
    pub(crate) async fn keep(mut self, engine: EngineHandle, interval: Duration, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = shutdown.cancelled() => return,
            }
            if !engine.owns_shard(SHARD) {
                // Another one tells them now; whoever takes over tells all.
                self.told.clear();
                continue;
            }
            if let Err(reason) = self.tell(&engine.executors()).await {
                tracing::warn!(reason, "deletion costs of executors' pods were not set: a scale-down may choose a busy one");
            }
        }
    }

    /// One pass: patches the pods whose executors run more or fewer tasks than the pods say.
    async fn tell(&mut self, executors: &[ExecutorView]) -> Result<(), String> {
        self.told.retain(|incarnation, _| executors.iter().any(|view| view.incarnation == *incarnation));
        let changes = changes(executors, &self.told);
        if changes.is_empty() {
            return Ok(());
        }
        let token = tokio::fs::read_to_string(&self.token).await.map_err(|error| format!("{}: {error}", self.token.display()))?;
        let (this, token) = (&*self, token.trim());
        let asked = stream::iter(changes).map(async |change| (this.patch(&change, token).await, change));
        let answers: Vec<(Answer, Change)> = asked.buffer_unordered(PATCHES_AT_ONCE).collect().await;
        let mut failed = None;
        for (answer, change) in answers {
            match answer {
                Answer::Done => drop(self.told.insert(change.incarnation, change.cost)),
                Answer::Elsewhere => {
                    tracing::debug!(pod = change.pod, "this executor is no pod of ours");
                    self.told.insert(change.incarnation, change.cost);
                }
                Answer::Failed(reason) => failed = Some(format!("{}: {reason}", change.pod)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn patch(&self, change: &Change, token: &str) -> Answer {
        let request = self.client.patch(format!("{}/{}", self.pods, change.pod)).bearer_auth(token);
        let request = request.header(header::CONTENT_TYPE, "application/json-patch+json").body(patch_of(change.cost).to_string());
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Answer::Done,
            Ok(answer) if [StatusCode::NOT_FOUND, StatusCode::UNPROCESSABLE_ENTITY].contains(&answer.status()) => Answer::Elsewhere,
            Ok(answer) => Answer::Failed(format!("the API server answered {}", answer.status())),
            Err(error) => Answer::Failed(reasons(&error)),
        }
    }
}

/// Only the cluster's own authority vouches for its API server.
fn believing(access: &ClusterAccess) -> Result<ClientConfig, ClusterError> {
    let file = access.folder.join("ca.crt");
    let wrong = |reason: String| ClusterError::File { file: file.clone(), reason };
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&file).map_err(|error| wrong(error.to_string()))? {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        authorities.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if authorities.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| wrong(error.to_string()))?;
    Ok(builder.with_root_certificates(authorities).with_no_client_auth())
}

/// The executors whose pods must be told something new.
fn changes(executors: &[ExecutorView], told: &BTreeMap<Incarnation, u32>) -> Vec<Change> {
    let change =
        |view: &ExecutorView| Change { incarnation: view.incarnation, pod: view.name.clone(), cost: view.slots_busy.min(COST_MAX) };
    // A pod without the annotation costs nothing, so an idle one needs to be told nothing at first.
    let is_new = |change: &Change| told.get(&change.incarnation).copied().unwrap_or_default() != change.cost;
    executors.iter().map(change).filter(|change| is_new(change) && is_pod_name(&change.pod)).take(PATCHES_MAX).collect()
}

/// The name comes from an executor and goes into a path.
fn is_pod_name(name: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let bytes = name.as_bytes();
    bytes.len() <= POD_NAME_BYTES_MAX && is_end(bytes.first()) && is_end(bytes.last()) && bytes.iter().copied().all(is_inside)
}

/// Applies to pods that carry the label of executors, and to no other.
fn patch_of(cost: u32) -> Value {
    json!([
        {"op": "test", "path": "/metadata/labels/orchestr8.role", "value": "executor"},
        {"op": "add", "path": "/metadata/annotations/controller.kubernetes.io~1pod-deletion-cost", "value": cost.to_string()},
    ])
}

/// The error and what is behind it: the outermost says little.
fn reasons(error: &reqwest::Error) -> String {
    let mut reasons = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        reasons.push(inner.to_string());
        source = inner.source();
    }
    reasons.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::login::Login;
    use time::OffsetDateTime;

    fn view(name: &str, slots_busy: u32) -> ExecutorView {
        let login: Login = "pool".parse().expect("a name");
        ExecutorView {
            name: name.to_owned(),
            incarnation: login.incarnation(&mut rand::rng()),
            version: String::new(),
            queues: Vec::new(),
            handlers: Vec::new(),
            slots: 4,
            slots_busy,
            draining: false,
            cordoned: false,
            log_filter: String::new(),
            seen_at: OffsetDateTime::UNIX_EPOCH,
            silence: None,
        }
    }

    #[test]
    fn a_pod_is_told_when_its_tasks_have_changed() {
        let (busy, idle, changed) = (view("pod-1", 2), view("pod-2", 0), view("pod-3", 0));
        let told = BTreeMap::from([(changed.incarnation, 3)]);
        let found = changes(&[busy.clone(), idle, changed.clone()], &told);
        let expected = [
            Change { incarnation: busy.incarnation, pod: "pod-1".to_owned(), cost: 2 },
            Change { incarnation: changed.incarnation, pod: "pod-3".to_owned(), cost: 0 },
        ];
        assert_eq!(found, expected);
        let told = expected.into_iter().map(|change| (change.incarnation, change.cost)).collect();
        assert!(changes(&[busy, changed], &told).is_empty());
    }

    #[test]
    fn a_name_that_is_no_pods_is_never_part_of_a_path() {
        for name in ["", "../secrets/x", "a/b", "a?b", "a%2fb", "A", "a b", "-a", "a.", "..", "ä", &"a".repeat(254)] {
            assert!(!is_pod_name(name), "{name}");
            assert!(changes(&[view(name, 1)], &BTreeMap::new()).is_empty());
        }
        assert!(is_pod_name("orchestr8-executor-default-6d4cf56db6-x2x9z"));
    }

    #[test]
    fn a_service_account_that_is_not_there_is_named_with_its_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let access = ClusterAccess { server: "https://127.0.0.1:1".to_owned(), folder: folder.path().to_owned() };
        let error = DeletionCosts::new(&access).err().expect("no files").to_string();
        assert!(error.contains("namespace") && error.contains("automountServiceAccountToken"), "{error}");
        for file in ["namespace", "token", "ca.crt"] {
            std::fs::write(folder.path().join(file), "x\n").expect("writable");
        }
        let error = DeletionCosts::new(&access).err().expect("no authority").to_string();
        assert!(error.contains("ca.crt"), "{error}");
    }
}
