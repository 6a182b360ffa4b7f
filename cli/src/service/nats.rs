//! The flags about NATS that coordinators and executors share.

use super::ServiceError;
use super::secrets::read_secret;
use orchestr8_nats::settings::OwnCertificate;
use orchestr8_nats::{Credentials, NatsSettings, TlsFiles};
use orchestr8_proto::login::Login;
use std::path::PathBuf;

/// The environment variable with the password of --nats-user, where there is no --nats-password-file.
const PASSWORD_VARIABLE: &str = "ORCHESTR8_NATS_PASSWORD";

/// Where NATS is, how to log in, and whom to trust.
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_field_names, reason = "the fields are the flags")]
pub struct NatsArgs {
    /// nats-server, `nats://[user:password@]host:port`, or `tls://…`; several by commas. Better in the environment: a command line is for everyone to read.
    #[arg(long, env = "ORCHESTR8_NATS_URL", hide_env_values = true, value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    pub nats_url: String,
    /// The user to log in to NATS as; its password comes from --nats-password-file or the variable `ORCHESTR8_NATS_PASSWORD`.
    #[arg(long, env = "ORCHESTR8_NATS_USER", value_name = "USER")]
    pub nats_user: Option<String>,
    /// The file with the password of --nats-user.
    #[arg(long, env = "ORCHESTR8_NATS_PASSWORD_FILE", value_name = "FILE")]
    pub nats_password_file: Option<PathBuf>,
    /// A file with the NKEY seed to log in to NATS with (a line that starts with SU).
    #[arg(long, env = "ORCHESTR8_NATS_NKEY_SEED_FILE", value_name = "FILE")]
    pub nats_nkey_seed_file: Option<PathBuf>,
    /// A file with NATS credentials (JWT and NKEY seed).
    #[arg(long, env = "ORCHESTR8_NATS_CREDS", value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,
    /// The name of the login, which rights on the server are bound to; see `orchestr8 nats-accounts` [default: the user].
    #[arg(long, env = "ORCHESTR8_NATS_LOGIN", value_name = "NAME")]
    pub nats_login: Option<String>,
    /// A file with the only certificate authorities that may vouch for nats-server, PEM; insists on TLS.
    #[arg(long, env = "ORCHESTR8_NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// A file with our own certificate, where nats-server asks for one, PEM.
    #[arg(long, env = "ORCHESTR8_NATS_CERT", value_name = "FILE", requires = "nats_key")]
    pub nats_cert: Option<PathBuf>,
    /// A file with the private key of --nats-cert, PEM.
    #[arg(long, env = "ORCHESTR8_NATS_KEY", value_name = "FILE", requires = "nats_cert")]
    pub nats_key: Option<PathBuf>,
}

impl NatsArgs {
    /// The settings; a password comes by file or environment alone.
    ///
    /// # Errors
    /// [`ServiceError::Configuration`] names the flags and the remedy, never a secret.
    pub fn settings(&self) -> Result<NatsSettings, ServiceError> {
        let wrong = |reason: String| ServiceError::Configuration(reason);
        let settings = NatsSettings::from_urls(&self.nats_url).map_err(|error| wrong(format!("--nats-url: {error}")))?;
        let mut given = self.credentials()?;
        given.extend(Some(settings.credentials.clone()).filter(|login| *login != Credentials::None));
        let credentials = match given.as_slice() {
            [] => Credentials::None,
            [one] => one.clone(),
            [_, _, ..] => {
                let flags = "a login in --nats-url, --nats-user, --nats-nkey-seed-file and --nats-creds";
                return Err(wrong(format!("{flags}: give one of them")));
            }
        };
        let named = self.nats_login.as_deref().map(|name| name.parse::<Login>().map_err(|error| wrong(format!("--nats-login: {error}"))));
        // A user whose name is no token of a subject binds no rights; then a name must be given.
        let login = named.transpose()?.or_else(|| credentials.user().and_then(|user| user.parse().ok()));
        let own = self.nats_cert.clone().zip(self.nats_key.clone()).map(|(certificate, key)| OwnCertificate { certificate, key });
        Ok(NatsSettings { credentials, login, tls: TlsFiles { ca: self.nats_ca.clone(), own }, ..settings })
    }

    fn credentials(&self) -> Result<Vec<Credentials>, ServiceError> {
        let in_environment = || std::env::var(PASSWORD_VARIABLE).ok().filter(|password| !password.is_empty());
        let named = match (&self.nats_user, &self.nats_password_file) {
            (Some(user), Some(file)) => Some((user, read_secret("--nats-password-file", file)?)),
            (Some(user), None) => {
                let missing = || {
                    ServiceError::Configuration(format!(
                        "--nats-user {user}: name the file of its password with --nats-password-file, or set {PASSWORD_VARIABLE}"
                    ))
                };
                Some((user, in_environment().ok_or_else(missing)?))
            }
            (None, Some(_)) => return Err(ServiceError::Configuration("--nats-password-file: name its user with --nats-user".to_owned())),
            (None, None) => None,
        };
        let named = named.map(|(user, password)| Credentials::UserPassword { user: user.clone(), password });
        let files =
            [self.nats_nkey_seed_file.clone().map(Credentials::NkeyFile), self.nats_creds.clone().map(Credentials::CredentialsFile)];
        Ok(named.into_iter().chain(files.into_iter().flatten()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        nats: NatsArgs,
    }

    fn settings(words: &[&str]) -> Result<NatsSettings, String> {
        let words = std::iter::once("x").chain(words.iter().copied());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.nats.settings().map_err(|error| error.to_string())
    }

    #[test]
    fn each_way_to_log_in_is_taken_and_names_the_login() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "pass\n").expect("writable");
        let path = file.path().display().to_string();
        let user = settings(&["--nats-user", "builders", "--nats-password-file", &path]).expect("complete");
        assert_eq!(user.credentials, Credentials::UserPassword { user: "builders".to_owned(), password: "pass".to_owned() });
        assert_eq!(user.login.map(|login| login.to_string()).as_deref(), Some("builders"));
        let nkey = settings(&["--nats-nkey-seed-file", "seed", "--nats-login", "gpu", "--nats-ca", "ca.pem"]).expect("complete");
        assert_eq!((nkey.credentials, nkey.tls.ca), (Credentials::NkeyFile("seed".into()), Some("ca.pem".into())));
        assert_eq!(nkey.login.map(|login| login.to_string()).as_deref(), Some("gpu"));
    }

    #[test]
    fn what_is_half_or_twice_is_refused() {
        for (words, reason) in [
            (&["--nats-url", "nats://u:secret@h", "--nats-creds", "f"][..], "give one of them"),
            (&["--nats-user", "u"], "--nats-password-file"),
            (&["--nats-password-file", "f"], "--nats-user"),
            (&["--nats-cert", "f"], "--nats-key"),
            (&["--nats-login", "a.b"], "not a login's name"),
            (&["--nats-url", "http://u:secret@h"], "--nats-url: NATS address"),
        ] {
            let refused = settings(words).expect_err(reason);
            assert!(refused.contains(reason) && !refused.contains("secret"), "{refused}");
        }
    }
}
