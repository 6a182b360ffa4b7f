//! Where NATS is, who we are there, and whom we trust to be it.

use async_nats::ServerAddr;
use orchestr8_proto::login::Login;
use percent_encoding::percent_decode_str;
use std::fmt;
use std::path::PathBuf;

/// Where NATS is and how to log in.
#[derive(Debug, Clone)]
pub struct NatsSettings {
    /// Such as `nats://127.0.0.1:4222`, without a login; any of them will do. `tls://` insists on TLS.
    pub addresses: Vec<String>,
    /// How to log in.
    pub credentials: Credentials,
    /// The name that rights are bound to; none: nothing binds them to us.
    pub login: Option<Login>,
    /// Certificates.
    pub tls: TlsFiles,
}

/// How to log in.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The server asks for nothing.
    None,
    /// By name.
    UserPassword {
        /// The user.
        user: String,
        /// Its password.
        password: String,
    },
    /// By a shared token.
    Token(String),
    /// By the NKEY seed in this file (one line that starts with `SU`).
    NkeyFile(PathBuf),
    /// By the JWT and the NKEY seed in this file.
    CredentialsFile(PathBuf),
}

/// Files of certificates and keys, PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The only authorities that may vouch for the server; then TLS is insisted on. None: those of the system.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key.
    pub own: Option<OwnCertificate>,
}

/// A certificate that the server may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The certificate, then those between it and an authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A setting that cannot work; its author must correct it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No server.
    #[error("no NATS server is named: give one, such as nats://127.0.0.1:4222")]
    NoAddress,
    /// Not an address.
    #[error("NATS address `{address}` is not usable ({reason}): use `nats://host:port`, or `tls://host:port`")]
    Address {
        /// What was given, without its login.
        address: String,
        /// What the parser says.
        reason: String,
    },
    /// Servers of one cluster share their users.
    #[error("the login must be the same in all NATS addresses")]
    SeveralLogins,
    /// A file cannot be used.
    #[error("{what} `{}` cannot be used ({reason}): {remedy}", file.display())]
    File {
        /// What it should be.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
        /// What it must hold.
        remedy: &'static str,
    },
}

impl NatsSettings {
    /// These servers, without any login.
    #[must_use]
    pub fn open(addresses: Vec<String>) -> Self {
        Self { addresses, credentials: Credentials::None, login: None, tls: TlsFiles::default() }
    }

    /// From `nats://[user:password@|token@]host:port`, several by commas; the login leaves the addresses, which may be shown then.
    ///
    /// # Errors
    /// [`SettingsError`] about the addresses, without their secrets.
    pub fn from_urls(urls: &str) -> Result<Self, SettingsError> {
        let mut settings = Self::open(Vec::new());
        let mut logins: Vec<&str> = Vec::new();
        for url in urls.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
            let (login, host) = rest.rsplit_once('@').unwrap_or(("", rest));
            settings.addresses.push(format!("{scheme}://{host}"));
            if !logins.contains(&login) {
                logins.push(login);
            }
        }
        settings.credentials = match logins.as_slice() {
            [] => return Err(SettingsError::NoAddress),
            [login] => of_url(login),
            [_, _, ..] => return Err(SettingsError::SeveralLogins),
        };
        settings.servers()?;
        settings.login = settings.credentials.user().and_then(|user| user.parse().ok());
        Ok(settings)
    }

    /// The addresses as the client wants them.
    ///
    /// # Errors
    /// [`SettingsError::Address`] and [`SettingsError::NoAddress`].
    pub fn servers(&self) -> Result<Vec<ServerAddr>, SettingsError> {
        if self.addresses.is_empty() {
            return Err(SettingsError::NoAddress);
        }
        let refused = |address: &String, reason: String| SettingsError::Address { address: address.clone(), reason };
        let parsed = |address: &String| match address.parse::<ServerAddr>() {
            // The client would pass over them, whatever they ask for.
            Ok(_) if has_more_than_host_and_port(address) => {
                Err(refused(address, "it has a path or parameters, and NATS has none; flags such as --nats-ca say the rest".to_owned()))
            }
            Ok(server) if server.host().is_empty() => Err(refused(address, "it names no host".to_owned())),
            Ok(server) => Ok(server),
            Err(error) => Err(refused(address, error.to_string())),
        };
        self.addresses.iter().map(parsed).collect()
    }

    /// What we show of ourselves at the login, for logs and errors; never a secret.
    #[must_use]
    pub fn shown_login(&self) -> String {
        match &self.tls.own {
            Some(own) if self.credentials == Credentials::None => format!("the certificate in `{}`", own.certificate.display()),
            Some(_) | None => format!("{:?}", self.credentials),
        }
    }

    /// The addresses, for logs and errors.
    #[must_use]
    pub fn shown(&self) -> String {
        self.addresses.join(",")
    }
}

impl Credentials {
    /// The user, where there is one.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::UserPassword { user, .. } => Some(user),
            Self::None | Self::Token(_) | Self::NkeyFile(_) | Self::CredentialsFile(_) => None,
        }
    }
}

impl fmt::Debug for Credentials {
    /// Never shows a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "no credentials"),
            Self::UserPassword { user, .. } => write!(f, "user `{user}`"),
            Self::Token(_) => write!(f, "a token"),
            Self::NkeyFile(path) => write!(f, "the nkey in `{}`", path.display()),
            Self::CredentialsFile(path) => write!(f, "the credentials in `{}`", path.display()),
        }
    }
}

fn has_more_than_host_and_port(address: &str) -> bool {
    let host = address.split_once("://").map_or(address, |(_, host)| host);
    host.strip_suffix('/').unwrap_or(host).contains(['/', '?', '#'])
}

fn of_url(login: &str) -> Credentials {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    match login.split_once(':') {
        _ if login.is_empty() => Credentials::None,
        Some((user, password)) => Credentials::UserPassword { user: decoded(user), password: decoded(password) },
        None => Credentials::Token(decoded(login)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leaves_the_address() {
        let settings = NatsSettings::from_urls("nats://u:p%40ss@a:1, tls://u:p%40ss@b:2").expect("one login");
        assert_eq!(
            (settings.addresses.as_slice(), settings.shown().as_str()),
            (&["nats://a:1".to_owned(), "tls://b:2".to_owned()][..], "nats://a:1,tls://b:2")
        );
        assert_eq!(settings.credentials, Credentials::UserPassword { user: "u".to_owned(), password: "p@ss".to_owned() });
        assert_eq!(settings.login.map(|login| login.to_string()), Some("u".to_owned()));
        let token = NatsSettings::from_urls("nats://tok@a").expect("a token");
        assert_eq!((token.credentials, token.login), (Credentials::Token("tok".to_owned()), None));
        assert_eq!(NatsSettings::from_urls("a:4222").expect("no login").credentials, Credentials::None);
        let odd = NatsSettings::from_urls("nats://me%40home:x@a").expect("a user");
        assert_eq!((odd.credentials.user(), odd.login), (Some("me@home"), None), "what is no token of a subject binds nothing");
    }

    #[test]
    fn wrong_addresses_are_named_without_their_login() {
        assert_eq!(NatsSettings::from_urls("nats://u:p@a,nats://b").err(), Some(SettingsError::SeveralLogins));
        assert_eq!(NatsSettings::from_urls(" ,").err(), Some(SettingsError::NoAddress));
        for (url, shown) in [("http://u:secret@x", "http://x"), ("nats://u:secret@", "nats://")] {
            let error = NatsSettings::from_urls(url).expect_err(url).to_string();
            assert!(error.starts_with(&format!("NATS address `{shown}` is not usable")) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_the_client_would_pass_over_is_refused() {
        for url in ["nats://h:1?tls=true", "tls://h/?insecure=1", "nats://u:p@h/account", "nats://h#x"] {
            let error = NatsSettings::from_urls(url).expect_err(url).to_string();
            assert!(error.contains("it has a path or parameters"), "{error}");
        }
        assert!(NatsSettings::from_urls("nats://u:p@h:1/").is_ok());
    }

    #[test]
    fn debug_shows_no_secret() {
        let settings = NatsSettings::from_urls("nats://u:hunter2@h").expect("a login");
        assert!(format!("{settings:?}").contains("user `u`") && !format!("{settings:?}").contains("hunter2"));
        assert_eq!(format!("{:?}", Credentials::Token("hunter2".to_owned())), "a token");
        let own = OwnCertificate { certificate: "c.pem".into(), key: "k.pem".into() };
        let open = NatsSettings { tls: TlsFiles { ca: None, own: Some(own) }, ..NatsSettings::open(Vec::new()) };
        assert_eq!(open.shown_login(), "the certificate in `c.pem`");
        assert_eq!(settings.shown_login(), "user `u`");
    }
}
