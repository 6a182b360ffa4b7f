//! Request bodies: JSON of a bounded size, or none.

use super::json;
use super::problem::{Code, Problem};
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Bytes of a body, at most.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A body that takes longer to arrive is given up.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A JSON body.
#[derive(Debug)]
pub struct JsonBody {
    /// What it says.
    pub value: Value,
    /// Its size.
    pub bytes: usize,
    /// SHA-256 of path and bytes: what an idempotency key stands for.
    pub hash: [u8; 32],
}

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        check_content_type(request.headers())?;
        let mut hasher = Sha256::new();
        hasher.update(request.uri().path().as_bytes());
        hasher.update([0]);
        let bytes = bytes(request, state).await?;
        hasher.update(&bytes);
        Ok(Self { value: json::parse(&bytes)?, bytes: bytes.len(), hash: hasher.finalize().into() })
    }
}

/// A request whose body says nothing: empty or `{}`.
#[derive(Debug)]
pub struct NoBody;

impl<S: Send + Sync> FromRequest<S> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = bytes(request, state).await?;
        match bytes.trim_ascii() {
            b"" | b"{}" => Ok(Self),
            _ => Err(Problem::new(Code::BadField, "this request has no fields: send no body")),
        }
    }
}

async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    let slow =
        |_| Problem::new(Code::BodyIncomplete, format!("the body did not arrive within {} s: send it again", BODY_TIMEOUT.as_secs()));
    tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await.map_err(slow)?.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let detail = format!("a body may have at most {BODY_BYTES_MAX} bytes (8 MiB): send several requests");
            Problem::new(Code::BodyTooLarge, detail)
        } else {
            Problem::new(Code::BodyIncomplete, "the body did not arrive as a whole: send it again")
        }
    })
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let media_type = given.as_deref().and_then(|given| given.split(';').next()).map(str::trim);
    if media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    let given = given.map_or("there is no Content-Type".to_owned(), |given| format!("`{given}` is not understood"));
    Err(Problem::new(Code::UnsupportedMediaType, format!("{given}: send Content-Type: application/json")).at("Content-Type"))
}
