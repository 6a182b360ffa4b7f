//! Where the coordinator is and which token opens it: flags, environment, then what `orchestr8 dev` wrote.

use reqwest::Url;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The address of a coordinator when nothing says otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8088";
/// The folder that `orchestr8 dev` keeps its files in; looked for upward from the current directory.
pub const DEV_FOLDER: &str = ".orchestr8";
/// The file in [`DEV_FOLDER`] with the coordinator's address.
pub const URL_FILE: &str = "url";
/// The file in [`DEV_FOLDER`] with the bearer token.
pub const TOKEN_FILE: &str = "token";
/// The environment variable with the bearer token.
pub const TOKEN_VARIABLE: &str = "ORCHESTR8_TOKEN";
/// Longest token file that is read, in bytes.
const TOKEN_FILE_BYTES_MAX: u64 = 4_096;

/// Why no coordinator can be addressed. The caller must correct the configuration.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not an address that a coordinator can have.
    #[error("{from}: `{url}` is not a coordinator's address: {reason}; write for instance {DEFAULT_URL}")]
    Url {
        /// The flag or file that named it.
        from: String,
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder that was merely found must not send a token elsewhere.
    #[error("{}: `{url}` is not an address of this machine; name it yourself with --url if you trust it", file.display())]
    NotLocal {
        /// The file that named it.
        file: PathBuf,
        /// What it says.
        url: String,
    },
    /// A file that was named, or found, cannot be read.
    #[error("{}: it cannot be read ({reason})", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A token that cannot be sent.
    #[error("{from}: it holds no usable token: one line of printable ASCII characters is needed")]
    Token {
        /// The file or variable.
        from: String,
    },
    /// The `dev` that wrote the token does not run: its token goes to nobody else who may listen there now.
    #[error("the `orchestr8 dev` of {} does not run: start it, or name a coordinator with --url", folder.display())]
    DevStopped {
        /// Its folder.
        folder: PathBuf,
    },
    /// Authorities vouch for `https` addresses alone.
    #[error("--ca {}: {url} does not begin with https://, so there is no certificate to check: correct --url, or leave --ca out", file.display())]
    CaWithoutTls {
        /// The file of authorities.
        file: PathBuf,
        /// The coordinator's address.
        url: String,
    },
    /// Nothing names a token.
    #[error(
        "no token for {url}: set {TOKEN_VARIABLE}, or use --token-file; {DEV_FOLDER}/{TOKEN_FILE}, which `orchestr8 dev` writes, is for addresses of this machine alone"
    )]
    NoToken {
        /// The coordinator.
        url: String,
    },
}

/// A bearer token. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The text for the `Authorization` header.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn new(text: &str, from: impl Into<String>) -> Result<Self, AddressError> {
        let text = text.trim();
        let usable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if usable { Ok(Self(text.to_owned())) } else { Err(AddressError::Token { from: from.into() }) }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What flags and environment say about the address.
#[derive(Debug, Clone, Default)]
pub struct AddressOptions {
    /// `--url` or `ORCHESTR8_URL`.
    pub url: Option<String>,
    /// `--ca` or `ORCHESTR8_CA`.
    pub ca: Option<PathBuf>,
    /// `--token-file`.
    pub token_file: Option<PathBuf>,
    /// The value of [`TOKEN_VARIABLE`].
    pub token: Option<Token>,
}

/// A coordinator that can be spoken to.
#[derive(Debug, Clone)]
pub struct Address {
    /// Without path, query or credentials.
    pub url: Url,
    /// The only authorities that may vouch for it; none: those of the system.
    pub ca: Option<PathBuf>,
    /// Sent with every request.
    pub token: Token,
    /// The variable or file that the token is from, for messages.
    pub token_from: String,
}

/// The token of the environment, if there is one.
///
/// # Errors
/// [`AddressError::Token`] when it cannot be sent as a header.
pub fn token_from_environment() -> Result<Option<Token>, AddressError> {
    let text = std::env::var_os(TOKEN_VARIABLE).filter(|text| !text.is_empty());
    text.map(|text| Token::new(&text.to_string_lossy(), TOKEN_VARIABLE)).transpose()
}

/// Reads a token from a file of one line; warns on stderr when others can read it.
///
/// # Errors
/// [`AddressError`] when the file cannot be read or holds no token.
pub fn read_token_file(file: &Path) -> Result<Token, AddressError> {
    let unreadable = |error: std::io::Error| AddressError::Unreadable { file: file.to_owned(), reason: error.to_string() };
    let found = file.metadata().map_err(unreadable)?;
    if found.is_dir() {
        return Err(AddressError::Unreadable { file: file.to_owned(), reason: "it is a directory: name the file in it".to_owned() });
    }
    if found.len() > TOKEN_FILE_BYTES_MAX {
        return Err(AddressError::Token { from: file.display().to_string() });
    }
    if let Some(warning) = exposure(file, &found) {
        eprintln!("{warning}");
    }
    let mut text = String::new();
    File::open(file).and_then(|opened| opened.take(TOKEN_FILE_BYTES_MAX + 1).read_to_string(&mut text)).map_err(unreadable)?;
    Token::new(&text, file.display().to_string())
}

/// That others can read the token. Only of a file: the same remedy would break a device or a pipe for everybody else.
fn exposure(file: &Path, found: &Metadata) -> Option<String> {
    let is_exposed = found.is_file() && found.permissions().mode() & 0o077 != 0;
    is_exposed.then(|| format!("warning: {0}: others can read this token; run `chmod 600 {0}`", file.display()))
}

impl Address {
    /// Puts together what the options, else the [`DEV_FOLDER`] at or above `start`, else the default say.
    ///
    /// A found folder counts only for addresses of this machine: a directory that someone else made
    /// must not redirect a token, and the token of `dev` goes nowhere else.
    ///
    /// # Errors
    /// [`AddressError`] names what must be corrected.
    pub fn find(options: &AddressOptions, start: &Path) -> Result<Self, AddressError> {
        let folder = start.ancestors().map(|folder| folder.join(DEV_FOLDER)).find(|folder| folder.join(TOKEN_FILE).exists());
        let url = match (&options.url, &folder) {
            (Some(url), _) => parse_url(url, "--url")?,
            (None, Some(folder)) if folder.join(URL_FILE).exists() => found_url(&folder.join(URL_FILE))?,
            (None, Some(folder)) if options.token.is_none() && options.token_file.is_none() => {
                return Err(AddressError::DevStopped { folder: folder.clone() });
            }
            (None, Some(_) | None) => default_url(),
        };
        if let Some(file) = options.ca.as_ref().filter(|_| url.scheme() != "https") {
            return Err(AddressError::CaWithoutTls { file: file.clone(), url: url.to_string() });
        }
        let from_file = |file: &Path| read_token_file(file).map(|token| (token, format!("the file {}", file.display())));
        let (token, token_from) = match (&options.token_file, &options.token, folder) {
            (Some(file), _, _) => from_file(file)?,
            (None, Some(token), _) => (token.clone(), format!("the variable {TOKEN_VARIABLE}")),
            (None, None, Some(folder)) if is_local(&url) => from_file(&folder.join(TOKEN_FILE))?,
            (None, None, _) => return Err(AddressError::NoToken { url: url.to_string() }),
        };
        Ok(Self { url, ca: options.ca.clone(), token, token_from })
    }
}

/// Whether the host is this machine.
#[must_use]
pub fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn found_url(file: &Path) -> Result<Url, AddressError> {
    let text =
        std::fs::read_to_string(file).map_err(|error| AddressError::Unreadable { file: file.to_owned(), reason: error.to_string() })?;
    let url = parse_url(text.trim(), &file.display().to_string())?;
    if is_local(&url) { Ok(url) } else { Err(AddressError::NotLocal { file: file.to_owned(), url: url.to_string() }) }
}

fn parse_url(text: &str, from: &str) -> Result<Url, AddressError> {
    let refused = |reason: &str| AddressError::Url { from: from.to_owned(), url: text.to_owned(), reason: reason.to_owned() };
    if !text.contains("://") && !text.contains('@') {
        return Err(refused(&format!("it has no scheme, so write http://{text}")));
    }
    let url = Url::parse(text).map_err(|error| refused(&error.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(refused("only http and https are spoken"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refused("it names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(AddressError::Url {
            from: from.to_owned(),
            url: "http://…@…".to_owned(),
            reason: "credentials do not belong into it".to_owned(),
        });
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(refused("it must have no path, query or fragment"));
    }
    Ok(url)
}

fn default_url() -> Url {
    Url::parse(DEFAULT_URL).expect("a constant")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn dev_folder(url: Option<&str>) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join(DEV_FOLDER);
        fs::create_dir_all(root.path().join("deep/er")).expect("writable");
        fs::create_dir(&folder).expect("writable");
        fs::write(folder.join(TOKEN_FILE), "found-token\n").expect("writable");
        if let Some(url) = url {
            fs::write(folder.join(URL_FILE), format!("{url}\n")).expect("writable");
        }
        root
    }

    fn options(url: Option<&str>, token: Option<&str>) -> AddressOptions {
        let token = token.map(|token| Token::new(token, "test").expect("usable"));
        AddressOptions { url: url.map(ToOwned::to_owned), ca: None, token_file: None, token }
    }

    #[test]
    fn what_dev_wrote_is_found_upward() {
        let root = dev_folder(Some("http://127.0.0.1:9123"));
        let address = Address::find(&options(None, None), &root.path().join("deep/er")).expect("found");
        assert_eq!((address.url.as_str(), address.token.reveal()), ("http://127.0.0.1:9123/", "found-token"));
    }

    #[test]
    fn the_token_of_a_stopped_dev_goes_nowhere() {
        let root = dev_folder(None);
        let found = Address::find(&options(None, None), root.path());
        assert!(matches!(found, Err(AddressError::DevStopped { .. })), "{found:?}");
        let own = Address::find(&options(None, Some("mine")), root.path()).expect("a token of one's own");
        assert_eq!((own.url.as_str(), own.token.reveal()), ("http://127.0.0.1:8088/", "mine"));
    }

    #[test]
    fn flags_and_environment_come_first() {
        let root = dev_folder(Some("http://127.0.0.1:9123"));
        let address = Address::find(&options(Some("http://[::1]:1"), Some("mine")), root.path()).expect("named");
        assert_eq!((address.url.as_str(), address.token.reveal()), ("http://[::1]:1/", "mine"));
        let file = root.path().join("other");
        fs::write(&file, "from-file").expect("writable");
        let both = AddressOptions { token_file: Some(file), ..options(None, Some("mine")) };
        let both = Address::find(&both, root.path()).expect("named");
        assert_eq!(both.token.reveal(), "from-file");
        assert_eq!((address.token_from.as_str(), both.token_from.ends_with("/other")), ("the variable ORCHESTR8_TOKEN", true));
    }

    #[test]
    fn a_found_folder_sends_no_token_elsewhere() {
        let root = dev_folder(Some("http://198.51.100.7:80"));
        let redirected = Address::find(&options(None, Some("mine")), root.path());
        assert!(matches!(redirected, Err(AddressError::NotLocal { .. })), "{redirected:?}");
        let elsewhere = Address::find(&options(Some("http://198.51.100.7"), None), root.path());
        assert!(matches!(elsewhere, Err(AddressError::NoToken { .. })), "{elsewhere:?}");
    }

    #[test]
    fn wrong_addresses_are_refused_with_the_reason() {
        for (url, reason) in [
            ("ftp://x", "only http and https"),
            ("127.0.0.1:8088", "not a coordinator's address"),
            ("127.0.0.1:8088", "write http://127.0.0.1:8088"),
            ("localhost:8088", "write http://localhost:8088"),
            ("http://u:secret@h", "credentials"),
            ("http://h/api", "no path"),
        ] {
            let error = parse_url(url, "--url").expect_err(url).to_string();
            assert!(error.contains(reason) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn authorities_vouch_for_https_alone() {
        let root = dev_folder(None);
        let with = |url: &str| AddressOptions { ca: Some("ca.pem".into()), ..options(Some(url), Some("mine")) };
        let secure = Address::find(&with("https://h:1"), root.path()).expect("named");
        assert_eq!((secure.url.as_str(), secure.ca), ("https://h:1/", Some("ca.pem".into())));
        let plain = Address::find(&with("http://h:1"), root.path());
        assert!(matches!(plain, Err(AddressError::CaWithoutTls { .. })), "{plain:?}");
    }

    #[test]
    fn only_of_a_file_the_rights_are_to_be_changed() {
        let root = dev_folder(None);
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let error = read_token_file(root.path()).expect_err("a directory").to_string();
        assert!(error.contains("it is a directory") && !error.contains("chmod"), "{error}");
        let exposed = |path: &Path| exposure(path, &path.metadata().expect("there"));
        assert_eq!((exposed(root.path()), exposed(Path::new("/dev/null"))), (None, None));
        let file = root.path().join("token");
        for (mode, is_exposed) in [(0o644, true), (0o600, false)] {
            fs::write(&file, "the-token").expect("writable");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("ours");
            assert_eq!(exposed(&file).is_some_and(|warning| warning.contains("chmod 600")), is_exposed, "{mode:o}");
        }
    }

    #[test]
    fn a_token_is_one_printable_line_and_never_shown() {
        assert!(Token::new("a b", "x").is_err() && Token::new("", "x").is_err() && Token::new("a\nb", "x").is_err());
        assert_eq!(format!("{:?}", Token::new("secret", "x").expect("usable")), "Token(…)");
    }

    #[test]
    fn without_any_token_the_remedies_are_named() {
        let empty = tempfile::tempdir().expect("a temporary folder");
        let error = Address::find(&options(None, None), empty.path()).expect_err("no token").to_string();
        assert!(error.contains("ORCHESTR8_TOKEN") && error.contains("orchestr8 dev"), "{error}");
    }
}
