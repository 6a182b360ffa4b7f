//! The API's certificate.

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// What the API identifies itself with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiCertificate {
    /// The certificate, then those between it and an authority, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// Why the API's certificate cannot be used; the operator must correct it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate.
    #[error("--tls-cert {}: it cannot be used ({reason}): it must hold certificates, PEM", file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key.
    #[error("--tls-key {}: it cannot be used ({reason}): it must hold the private key of --tls-cert without a passphrase, PEM", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// What is wrong, never the key.
        reason: String,
    },
}

/// Reads certificate and key.
///
/// # Errors
/// [`TlsError`] names file and remedy.
pub fn acceptor(files: &ApiCertificate) -> Result<TlsAcceptor, TlsError> {
    let no_certificate = |reason: String| TlsError::Certificate { file: files.certificate.clone(), reason };
    let no_key = |reason: String| TlsError::Key { file: files.key.clone(), reason };
    let chain = CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| no_certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(no_certificate("it holds none".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| no_key(error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| no_certificate(error.to_string()))?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(|error| no_key(error.to_string()))?;
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
            let files = ApiCertificate { certificate, key: empty.clone() };
            let error = acceptor(&files).err().expect("no certificate").to_string();
            assert!(error.starts_with("--tls-cert /") && error.contains("PEM"), "{error}");
        }
    }
}
