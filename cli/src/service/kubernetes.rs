//! The flags of a coordinator about the Kubernetes cluster that it runs in.

use super::{ServiceError, parse_address};
use orchestr8_coordinator::ApiCertificate;
use orchestr8_coordinator::api::external_metrics::ExternalMetricsSettings;
use orchestr8_coordinator::deletion_cost::ClusterAccess;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where every container finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Where every container finds the API server.
const SERVER_VARIABLES: [&str; 2] = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];

/// What a cluster is served and told.
#[derive(Debug, Clone, clap::Args)]
pub struct KubernetesArgs {
    /// Where the demand of queues is served as external.metrics.k8s.io to Kubernetes' API server, by TLS [default: nowhere].
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_address, requires_all = ["external_metrics_cert", "external_metrics_key", "external_metrics_client_ca"])]
    external_metrics_listen: Option<SocketAddr>,
    /// The file with the certificate of --external-metrics-listen, which its `APIService` vouches for, PEM.
    #[arg(long, value_name = "FILE", requires = "external_metrics_listen")]
    external_metrics_cert: Option<PathBuf>,
    /// The file with the private key of --external-metrics-cert, PEM.
    #[arg(long, value_name = "FILE", requires = "external_metrics_listen")]
    external_metrics_key: Option<PathBuf>,
    /// A file with the authorities of the API server's front proxy (its requestheader-client-ca-file), PEM; who has no certificate of theirs is refused.
    #[arg(long, value_name = "FILE", requires = "external_metrics_listen")]
    external_metrics_client_ca: Option<PathBuf>,
    /// A common name that the front proxy's certificate may have (its requestheader-allowed-names). Repeatable [default: any].
    #[arg(long, value_name = "NAME", requires = "external_metrics_listen")]
    external_metrics_client_name: Vec<String>,
    /// Tell the cluster how many tasks each executor's pod runs, so that a scale-down takes idle ones first; DIR has the service account's token, ca.crt and namespace.
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = SERVICE_ACCOUNT)]
    pod_deletion_cost: Option<PathBuf>,
}

impl KubernetesArgs {
    /// What is served to the API server.
    pub fn external_metrics(&self) -> Option<ExternalMetricsSettings> {
        let certificate = self.external_metrics_cert.clone().zip(self.external_metrics_key.clone());
        let certificate = certificate.map(|(certificate, key)| ApiCertificate { flags: "--external-metrics", certificate, key })?;
        Some(ExternalMetricsSettings {
            listen: self.external_metrics_listen?,
            certificate,
            client_ca: self.external_metrics_client_ca.clone()?,
            client_names: self.external_metrics_client_name.clone(),
        })
    }

    /// Whom to tell how busy pods are; `variable` reads the environment.
    ///
    /// # Errors
    /// [`ServiceError::Configuration`] outside a cluster.
    pub fn cluster(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Option<ClusterAccess>, ServiceError> {
        let Some(folder) = self.pod_deletion_cost.clone() else { return Ok(None) };
        let [host, port] = SERVER_VARIABLES.map(|name| variable(name).filter(|value| !value.is_empty()));
        let (Some(host), Some(port)) = (host, port) else {
            let [host, port] = SERVER_VARIABLES;
            return Err(ServiceError::Configuration(format!(
                "--pod-deletion-cost: {host} and {port} are not set: this is no container of a Kubernetes cluster; leave the flag out"
            )));
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Ok(Some(ClusterAccess { server: format!("https://{host}:{port}"), folder }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        kubernetes: KubernetesArgs,
    }

    fn parsed(words: &[&str]) -> Result<KubernetesArgs, String> {
        let words = std::iter::once("x").chain(words.iter().copied());
        Line::try_parse_from(words).map(|line| line.kubernetes).map_err(|error| error.to_string())
    }

    #[test]
    fn the_external_metrics_need_a_port_a_certificate_and_the_front_proxys_authority() {
        let complete = [
            "--external-metrics-listen=0.0.0.0:8443",
            "--external-metrics-cert=c",
            "--external-metrics-key=k",
            "--external-metrics-client-ca=a",
        ];
        let found = parsed(&complete).expect("complete").external_metrics().expect("wanted");
        assert_eq!((found.listen.port(), found.client_ca, found.client_names.len()), (8443, PathBuf::from("a"), 0));
        for missing in 0..complete.len() {
            let words: Vec<&str> = complete.iter().enumerate().filter(|(index, _)| *index != missing).map(|(_, word)| *word).collect();
            assert!(parsed(&words).is_err(), "{words:?}");
        }
        assert!(parsed(&[]).expect("nothing").external_metrics().is_none());
    }

    #[test]
    fn a_cluster_is_found_by_what_every_container_is_told() {
        let at = |host: &'static str| move |name: &str| Some(if name.ends_with("HOST") { host } else { "6443" }.to_owned());
        let access = |words: &[&str], host| parsed(words).expect("fits").cluster(at(host)).expect("set").expect("wanted");
        assert_eq!(access(&["--pod-deletion-cost"], "10.0.0.1").folder, PathBuf::from(SERVICE_ACCOUNT));
        assert_eq!(
            access(&["--pod-deletion-cost=/a"], "fd00::1"),
            ClusterAccess { server: "https://[fd00::1]:6443".to_owned(), folder: "/a".into() }
        );
        assert!(parsed(&[]).expect("nothing").cluster(at("h")).is_ok_and(|access| access.is_none()));
        let outside = parsed(&["--pod-deletion-cost"]).expect("fits").cluster(|_| None).expect_err("no cluster").to_string();
        assert!(outside.contains("KUBERNETES_SERVICE_HOST"), "{outside}");
    }
}
