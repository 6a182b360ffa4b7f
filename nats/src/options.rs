//! Settings as options of the client, and what a failed connection means.

use crate::settings::{Credentials, NatsSettings, OwnCertificate, SettingsError};
use async_nats::rustls;
use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::{ConnectError, ConnectErrorKind, ConnectOptions};
use std::error::Error;
use std::path::Path;

const SEED_REMEDY: &str = "it must hold one line that starts with `SU`, as `nsc generate nkey --user` prints it";
const CREDENTIALS_REMEDY: &str = "it must hold a JWT and an NKEY seed, as `nsc generate creds` prints them";
const CERTIFICATE_REMEDY: &str = "it must hold certificates, PEM";
const KEY_REMEDY: &str = "it must hold a private key without a passphrase, PEM";

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answers, or not yet: it may pass.
    Away(String),
    /// The server does not know us: credentials are wrong.
    Refused(String),
    /// No TLS that both sides agree on: a certificate is wrong, or one side does not speak TLS.
    Tls(String),
}

impl Failure {
    /// What an error of the client means.
    #[must_use]
    pub fn of(error: &ConnectError) -> Self {
        if let Some(reason) = tls_reason(error) {
            return Self::Tls(reason);
        }
        match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Self::Refused(error.to_string()),
            ConnectErrorKind::Tls => Self::Tls(error.to_string()),
            ConnectErrorKind::ServerParse
            | ConnectErrorKind::Dns
            | ConnectErrorKind::TimedOut
            | ConnectErrorKind::Io
            | ConnectErrorKind::MaxReconnects => Self::Away(error.to_string()),
        }
    }
}

/// Options with login, certificates and inbox. Every file is read here, so that what is wrong with it is said at once.
///
/// # Errors
/// [`SettingsError::File`].
pub fn options(settings: &NatsSettings) -> Result<ConnectOptions, SettingsError> {
    let mut options = ConnectOptions::new();
    if let Some(login) = &settings.login {
        options = options.custom_inbox_prefix(login.inbox_prefix());
    }
    if let Some(ca) = &settings.tls.ca {
        check_certificates("NATS CA file", ca)?;
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    if let Some(OwnCertificate { certificate, key }) = &settings.tls.own {
        check_certificates("NATS certificate file", certificate)?;
        let unusable = |error: &dyn std::fmt::Display| unusable("NATS key file", key, error, KEY_REMEDY);
        PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(&error))?;
        options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
    }
    log_in(options, &settings.credentials)
}

fn log_in(options: ConnectOptions, credentials: &Credentials) -> Result<ConnectOptions, SettingsError> {
    Ok(match credentials {
        Credentials::None => options,
        Credentials::UserPassword { user, password } => options.user_and_password(user.clone(), password.clone()),
        Credentials::Token(token) => options.token(token.clone()),
        Credentials::NkeyFile(file) => options.nkey(seed(file)?),
        Credentials::CredentialsFile(file) => {
            let wrong = |error: &dyn std::fmt::Display| unusable("NATS credentials file", file, error, CREDENTIALS_REMEDY);
            let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
            options.credentials(&text).map_err(|error| wrong(&error))?
        }
    })
}

fn seed(file: &Path) -> Result<String, SettingsError> {
    let wrong = |error: &dyn std::fmt::Display| unusable("nkey file", file, error, SEED_REMEDY);
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU")).ok_or_else(|| wrong(&"no line starts with `SU`"))?;
    // The client would say no more than that it was refused.
    nkeys::KeyPair::from_seed(seed).map_err(|error| wrong(&error))?;
    Ok(seed.to_owned())
}

fn check_certificates(what: &'static str, file: &Path) -> Result<(), SettingsError> {
    let wrong = |error: &dyn std::fmt::Display| unusable(what, file, error, CERTIFICATE_REMEDY);
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(&error))?;
    if certificates.is_empty() { Err(wrong(&"it holds none")) } else { Ok(()) }
}

fn unusable(what: &'static str, file: &Path, reason: &dyn std::fmt::Display, remedy: &'static str) -> SettingsError {
    SettingsError::File { what, file: file.to_owned(), reason: reason.to_string(), remedy }
}

/// What TLS itself says, wherever it stands among the causes: a wrong certificate comes as an error of input and output.
fn tls_reason(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()).or_else(|| error.downcast_ref()) {
            return Some(tls.to_string());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::TlsFiles;
    use std::path::PathBuf;

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "SA-not-a-user\n").expect("writable");
        let cut = folder.path().join("cut");
        std::fs::write(&cut, "SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA\n").expect("writable");
        let missing = PathBuf::from("/nonexistent/file");
        let with = |credentials, tls| NatsSettings { credentials, tls, ..NatsSettings::open(vec!["nats://h".to_owned()]) };
        let ca = |file: &PathBuf| TlsFiles { ca: Some(file.clone()), own: None };
        for (settings, start) in [
            (with(Credentials::NkeyFile(missing.clone()), TlsFiles::default()), "nkey file `/nonexistent/file` cannot be used"),
            (with(Credentials::NkeyFile(empty.clone()), TlsFiles::default()), "nkey file `"),
            (with(Credentials::NkeyFile(cut.clone()), TlsFiles::default()), "nkey file `"),
            (with(Credentials::CredentialsFile(empty.clone()), TlsFiles::default()), "NATS credentials file `"),
            (with(Credentials::None, ca(&missing)), "NATS CA file `/nonexistent/file` cannot be used"),
            (with(Credentials::None, ca(&empty)), "NATS CA file `"),
        ] {
            let Err(error) = options(&settings) else { panic!("accepted, not refused as {start}") };
            let error = error.to_string();
            assert!(
                error.starts_with(start) && error.contains("it must hold") && !error.contains("SA-not") && !error.contains("SUAIO"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_wrong_certificate_is_found_among_the_causes() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = std::io::Error::new(std::io::ErrorKind::InvalidData, tls);
        assert_eq!(tls_reason(&error).as_deref(), Some("invalid peer certificate: UnknownIssuer"));
        assert_eq!(tls_reason(&std::io::Error::other("refused")), None);
    }
}
