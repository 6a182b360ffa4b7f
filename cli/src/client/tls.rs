//! Whose certificate is believed when a coordinator speaks TLS.

use super::address::Address;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// For `https` those of `--ca`, else the system's; for `http` nobody, and nothing is read.
///
/// # Errors
/// What is wrong with the authorities, as one line.
pub fn trusted(address: &Address) -> Result<ClientConfig, String> {
    let authorities = match (address.url.scheme(), &address.ca) {
        ("https", Some(file)) => of_file(file)?,
        ("https", None) => of_system()?,
        _ => RootCertStore::empty(),
    };
    Ok(believing(authorities))
}

/// For whoever the system's authorities vouch for.
///
/// # Errors
/// What is wrong with the authorities, as one line.
pub fn system() -> Result<ClientConfig, String> {
    of_system().map(believing)
}

/// For addresses of this machine, which speak without TLS: nobody is believed.
#[must_use]
pub fn nobody() -> ClientConfig {
    believing(RootCertStore::empty())
}

fn believing(authorities: RootCertStore) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("the provider has the suites of TLS 1.2 and 1.3");
    builder.with_root_certificates(authorities).with_no_client_auth()
}

fn of_file(file: &Path) -> Result<RootCertStore, String> {
    let wrong = |reason: &dyn std::fmt::Display| {
        format!("--ca {}: it cannot be used ({reason}): it must hold certificates of authorities, PEM", file.display())
    };
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))? {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        authorities.add(certificate).map_err(|error| wrong(&error))?;
    }
    if authorities.is_empty() { Err(wrong(&"it holds none")) } else { Ok(authorities) }
}

fn of_system() -> Result<RootCertStore, String> {
    let mut authorities = RootCertStore::empty();
    let (known, _) = authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if known == 0 {
        return Err("this system names no certificate authorities: install ca-certificates, or give --ca".to_owned());
    }
    Ok(authorities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_authorities_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for path in [file.path(), Path::new("/nonexistent")] {
            let error = of_file(path).expect_err("none");
            assert!(error.starts_with(&format!("--ca {}: it cannot be used", path.display())), "{error}");
        }
    }
}
