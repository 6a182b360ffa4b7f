//! Who gets in: the bearer token. And the counting of requests.

use super::ApiContext;
use super::problem::{Code, Problem};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::fmt;
use std::time::Instant;
use subtle::ConstantTimeEq;

/// Bytes of a token, at least: shorter ones can be guessed.
pub const TOKEN_BYTES_MIN: usize = 16;

/// Paths that need no token: they say nothing about anyone's work.
const OPEN_PATHS: [&str; 3] = ["/healthz", "/readyz", "/problems"];

/// What those who only watch and scale may read: figures, and nothing of anyone's work.
const WATCHED_ROUTES: [&str; 2] = ["/metrics", "/api/v1/queues/{queue}/demand"];

/// Why a text cannot be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It could be guessed.
    #[error("the API token has {0} bytes: use at least {TOKEN_BYTES_MIN}, drawn at random")]
    Short(usize),
    /// It could not travel in a header.
    #[error("the API token has characters other than visible ASCII: use letters and digits, drawn at random")]
    Characters,
}

/// A bearer token; only its SHA-256 is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token {
    digest: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// A token as it was configured; white space around it is no part of it.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Characters);
        }
        if text.len() < TOKEN_BYTES_MIN {
            return Err(TokenError::Short(text.len()));
        }
        Ok(Self { digest: Sha256::digest(text).into() })
    }
}

/// Lets a request through when its path is open or its token is one of ours.
pub(super) async fn authorize(State(context): State<ApiContext>, matched: Option<MatchedPath>, request: Request, next: Next) -> Response {
    if is_open(request.uri().path()) {
        return next.run(request).await;
    }
    let settings = &context.settings;
    let is_watched = request.method() == Method::GET && matched.is_some_and(|route| WATCHED_ROUTES.contains(&route.as_str()));
    let watchers = if is_watched { settings.metrics_tokens.as_slice() } else { &[] };
    match check(request.headers(), settings.tokens.iter().chain(watchers)) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Counts the answers by route and status.
pub(super) async fn count(State(context): State<ApiContext>, matched: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = matched.as_ref().map_or("other", MatchedPath::as_str).to_owned();
    let method = if request.method().as_str().len() <= 7 { request.method().to_string() } else { "other".to_owned() };
    let response = next.run(request).await;
    context.metrics.request_answered(&method, &route, response.status().as_u16());
    context.metrics.request_took(&route, started.elapsed());
    response
}

fn is_open(path: &str) -> bool {
    OPEN_PATHS.contains(&path) || path.starts_with("/problems/")
}

/// All tokens are compared, each in constant time, so that the time tells nothing about them.
fn check<'a>(headers: &HeaderMap, tokens: impl IntoIterator<Item = &'a Token>) -> Result<(), Problem> {
    let refusal = |detail: &str| Err(Problem::new(Code::Unauthorized, detail).at("Authorization"));
    let Some(given) = headers.get(header::AUTHORIZATION) else {
        return refusal("send the header `Authorization: Bearer TOKEN`");
    };
    let Some(given) =
        given.to_str().ok().and_then(|given| given.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
    else {
        return refusal("the header must be `Authorization: Bearer TOKEN`");
    };
    let digest: [u8; 32] = Sha256::digest(given.1.trim()).into();
    let matches = tokens.into_iter().fold(subtle::Choice::from(0), |matches, token| matches | token.digest.ct_eq(&digest));
    if bool::from(matches) { Ok(()) } else { refusal("this token is not one of this coordinator's") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn code(header: Option<&str>, tokens: &[Token]) -> Result<(), Code> {
        let mut headers = HeaderMap::new();
        if let Some(text) = header {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(text).expect("visible"));
        }
        check(&headers, tokens).map_err(|problem| problem.code())
    }

    #[test]
    fn only_a_configured_token_opens() {
        let tokens = [Token::new("first-token-0123456789").expect("long"), Token::new("second-token-0123456789\n").expect("long")];
        assert_eq!(code(Some("Bearer first-token-0123456789"), &tokens), Ok(()));
        assert_eq!(code(Some("bearer second-token-0123456789"), &tokens), Ok(()));
        for bad in ["Bearer first-token-012345678", "Bearer ", "Bearer", "Basic first-token-0123456789", "first-token-0123456789"] {
            assert_eq!(code(Some(bad), &tokens), Err(Code::Unauthorized), "{bad}");
        }
        assert_eq!(code(None, &tokens), Err(Code::Unauthorized));
        assert_eq!(code(Some("Bearer "), &[]), Err(Code::Unauthorized));
    }

    #[test]
    fn a_token_that_can_be_guessed_is_refused() {
        assert_eq!(Token::new("short"), Err(TokenError::Short(5)));
        assert_eq!(Token::new("with blanks in it 0123"), Err(TokenError::Characters));
    }
}
