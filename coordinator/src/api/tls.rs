//! The API's certificate.

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// What the API identifies itself with, on one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiCertificate {
    /// What its flags begin with: `--tls`, or `--external-metrics`.
    pub flags: &'static str,
    /// The certificate, then those between it and an authority, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// Why the API's certificate cannot be used; the operator must correct it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate.
    #[error("{flags}-cert {}: it cannot be used ({reason}): it must hold certificates, PEM", file.display())]
    Certificate {
        /// What its flag begins with.
        flags: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key.
    #[error("{flags}-key {}: it cannot be used ({reason}): it must hold the private key of {flags}-cert without a passphrase, PEM", file.display())]
    Key {
        /// What its flag begins with.
        flags: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong, never the key.
        reason: String,
    },
    /// Those who vouch for clients.
    #[error("--external-metrics-client-ca {}: it cannot be used ({reason}): it must hold certificates of authorities, PEM", file.display())]
    ClientAuthorities {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Who may connect.
pub(super) enum Clients {
    /// Whoever reaches the port; what they may do, a token says.
    Everyone,
    /// Who has a certificate that this one accepts.
    Verified(Arc<dyn ClientCertVerifier>),
}

/// Reads certificate and key.
///
/// # Errors
/// [`TlsError`] names file and remedy.
pub fn acceptor(files: &ApiCertificate) -> Result<TlsAcceptor, TlsError> {
    acceptor_for(files, Clients::Everyone)
}

/// The same, for these clients alone.
pub(super) fn acceptor_for(files: &ApiCertificate, clients: Clients) -> Result<TlsAcceptor, TlsError> {
    let flags = files.flags;
    let no_certificate = |reason: String| TlsError::Certificate { flags, file: files.certificate.clone(), reason };
    let no_key = |reason: String| TlsError::Key { flags, file: files.key.clone(), reason };
    let chain = CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| no_certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(no_certificate("it holds none".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| no_key(error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| no_certificate(error.to_string()))?;
    let builder = match clients {
        Clients::Everyone => builder.with_no_client_auth(),
        Clients::Verified(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| no_key(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_flag() {
        let folder = tempfile::tempdir().expect("a folder");
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "nothing\n").expect("writable");
        for certificate in [PathBuf::from("/nonexistent"), empty.clone()] {
            let files = ApiCertificate { flags: "--tls", certificate, key: empty.clone() };
            let error = acceptor(&files).err().expect("no certificate").to_string();
            assert!(error.starts_with("--tls-cert /") && error.contains("PEM"), "{error}");
        }
    }
}
