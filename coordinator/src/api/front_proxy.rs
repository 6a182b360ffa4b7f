//! Who may ask on the port for Kubernetes' API server: its front proxy alone, by the certificate that it shows.

use super::tls::TlsError;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;

/// The attribute `commonName` of a subject.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Certificates of one authority whose subject has one of some common names.
#[derive(Debug)]
struct FrontProxy {
    vouched: Arc<dyn ClientCertVerifier>,
    /// Empty: any name that the authority vouches for.
    names: Vec<String>,
}

/// Accepts certificates that the authorities in `file` vouch for and whose common name is one of `names`; no names: any.
///
/// # Errors
/// [`TlsError::ClientAuthorities`].
pub(super) fn verifier(file: &Path, names: &[String]) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let wrong = |reason: String| TlsError::ClientAuthorities { file: file.to_owned(), reason };
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))? {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        authorities.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::new(ring::default_provider()));
    let vouched = builder.build().map_err(|error| wrong(error.to_string()))?;
    Ok(Arc::new(FrontProxy { vouched, names: names.to_vec() }))
}

impl ClientCertVerifier for FrontProxy {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.vouched.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.vouched.verify_client_cert(end_entity, intermediates, now)?;
        let is_allowed = self.names.is_empty() || common_names(end_entity).iter().any(|name| self.names.contains(name));
        if is_allowed { Ok(verified) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.vouched.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.vouched.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.vouched.supported_verify_schemes()
    }
}

/// The common names of the subject; none where it cannot be read.
fn common_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(certificate) else { return Vec::new() };
    let attributes = certificate.tbs_certificate.subject.0.iter().flat_map(|name| name.0.iter());
    let named = attributes.filter(|attribute| attribute.oid == COMMON_NAME);
    named.filter_map(|attribute| std::str::from_utf8(attribute.value.value()).ok().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_authorities_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for path in [file.path(), Path::new("/nonexistent")] {
            let error = verifier(path, &[]).expect_err("none").to_string();
            assert!(error.starts_with(&format!("--external-metrics-client-ca {}: it cannot be used", path.display())), "{error}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_name() {
        assert!(common_names(&CertificateDer::from(b"nothing".to_vec())).is_empty());
    }
}
