//! Why a request to a coordinator brought no answer, and what of it may pass.

use super::problem::Problem;
use rustls::InvalidMessage;
use std::error::Error;
use std::time::Duration;

/// No answer makes a client wait longer than this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers. Start the coordinator, or correct the address.
    #[error("no coordinator answers at {url} ({reason}): start one with `orchestr8 dev`, or name another with --url or ORCHESTR8_URL")]
    Unreachable {
        /// The coordinator's address.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// Whoever answers there does not speak TLS. Correct the address.
    #[error("--url {url}: what answers there speaks no TLS, so write {plain}, or the address of the port that does")]
    Plain {
        /// The address as it is named.
        url: String,
        /// The same address without TLS.
        plain: String,
    },
    /// The token is not the coordinator's. Correct the configuration.
    #[error(
        "the coordinator at {url} refuses the token of {from}: it is another coordinator's, or from before a --reset; correct it, or leave it out where .orchestr8/token is meant"
    )]
    Unauthorized {
        /// The coordinator's address.
        url: String,
        /// The variable or file that the token is from.
        from: String,
    },
    /// The coordinator refused the request and says why.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// Something else answers: a proxy in front, or another service. Correct the address, or look at what stands in between.
    #[error(
        "{path}: what answers at {url} is no orchestr8 coordinator ({reason}): check --url and ORCHESTR8_URL, or what stands in between"
    )]
    Foreign {
        /// The coordinator's address.
        url: String,
        /// What was asked.
        path: String,
        /// What came instead.
        reason: String,
    },
    /// What came back is not what a coordinator of this version answers.
    #[error("{path}: the answer of {url} is not understood ({reason}): is it an orchestr8 coordinator of this version?")]
    Malformed {
        /// The coordinator's address.
        url: String,
        /// What was asked.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// There is nobody who may vouch for an https address. Correct `--ca`, or install the system's authorities.
    #[error("{0}")]
    Authorities(String),
    /// The client itself cannot be set up: a defect of this machine, such as no file descriptors.
    #[error("the HTTP client cannot be set up: {0}")]
    Setup(String),
}

impl ClientError {
    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(problem) => matches!(problem.status, 502..=504),
            Self::Plain { .. }
            | Self::Unauthorized { .. }
            | Self::Foreign { .. }
            | Self::Malformed { .. }
            | Self::Authorities(_)
            | Self::Setup(_) => false,
        }
    }

    /// How long the coordinator wants to be left alone, at most [`RETRY_AFTER_MAX`]; zero where it says nothing.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Refused(problem) => problem.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX),
            Self::Unreachable { .. }
            | Self::Plain { .. }
            | Self::Unauthorized { .. }
            | Self::Foreign { .. }
            | Self::Malformed { .. }
            | Self::Authorities(_)
            | Self::Setup(_) => Duration::ZERO,
        }
    }

    /// Whether the coordinator said that there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.status == 404)
    }
}

/// The innermost cause: `Connection refused` says more than `error sending request`.
#[must_use]
pub fn reasons(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Whether somebody answered a greeting of TLS with something else, as a port for plain HTTP does.
#[must_use]
pub fn is_plain(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(one) = cause {
        if let Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) = one.downcast_ref() {
            return true;
        }
        // The system's error passes over what it holds when it is asked for its cause.
        let held = one.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = held.map(|held| held as &(dyn Error + 'static)).or_else(|| one.source());
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::Client;
    use super::super::address::{Address, AddressOptions};
    use crate::commands::CommandError;
    use crate::exit::Exit;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Of nobody: it is never asked.
    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBdDCCARmgAwIBAgIUM3llfUIB2/XcqG+R5Yes4IEz3yIwCgYIKoZIzj0EAwIw\n\
        DzENMAsGA1UEAwwEdGVzdDAeFw0yNjExMjMxMjI5MzJaFw0zNjExMjAxMjI5MzJa\n\
        MA8xDTALBgNVBAMMBHRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAR1SiBd\n\
        rZlLyRH3jCm+pkJIW/9lAM6FdhSAtjKK46joS5Xcq05pLS4PqjUaU3dvwr5bclfh\n\
        tzzx1EBRYiWJs+c7o1MwUTAdBgNVHQ4EFgQUWPWnagBEHVB8SM8Tp8Fx4pvrimUw\n\
        HwYDVR0jBBgwFoAUWPWnagBEHVB8SM8Tp8Fx4pvrimUwDwYDVR0TAQH/BAUwAwEB\n\
        /zAKBggqhkjOPQQDAgNJADBGAiEA1Y0dSMAUS+xi2bpndZhx8AH0zqmgEGzDHmmN\n\
        KHLc5LACIQD84gAD4xs06g001Q3COOims6f2TbNyDoFtKJQm+khpzA==\n\
        -----END CERTIFICATE-----";

    fn address(url: &str, ca: Option<&str>) -> Address {
        let token = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(token.path(), "the-token").expect("writable");
        let token_file = Some(token.path().to_owned());
        let options = AddressOptions { url: Some(url.to_owned()), ca: ca.map(Into::into), token_file, token: None };
        Address::find(&options, std::path::Path::new("/")).expect("named")
    }

    #[test]
    fn a_file_of_authorities_is_a_flag_s_file() {
        let error = CommandError::from(Client::new(address("https://h", Some("/nonexistent"))).expect_err("no such file"));
        assert!(error.exit() == Exit::Configuration && error.to_string().starts_with("--ca /nonexistent: "), "{error}");
    }

    #[tokio::test]
    async fn tls_at_a_plain_port_is_told_with_the_address_to_write() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), AUTHORITY).expect("writable");
        let port = listener.local_addr().expect("bound").port();
        let client = Client::new(address(&format!("https://127.0.0.1:{port}"), file.path().to_str())).expect("a client");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            assert!(stream.read(&mut [0; 4_096]).await.expect("a greeting") > 0);
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("the client reads");
        });
        let error = CommandError::from(client.get("/x").await.expect_err("no TLS"));
        server.await.expect("served");
        assert!(error.exit() == Exit::Configuration && error.to_string().contains(&format!("write http://127.0.0.1:{port}")), "{error}");
    }
}
