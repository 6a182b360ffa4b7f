//! Handlers: code that an executor runs in its own process, registered by name, and the built-in ones.
//!
//! An executor built on this library adds its own:
//! ```
//! use orchestr8_executor::handlers::{HandlerError, Handlers};
//! let handlers = Handlers::builtin().with("greet", |context| async move {
//!     match context.with["name"].as_str() {
//!         Some(name) => Ok(format!("hello {name}").into()),
//!         None => Err(HandlerError::permanent("input", "`with.name` is missing: give it a string")),
//!     }
//! });
//! assert!(handlers.names().any(|name| name == "greet"));
//! ```

use crate::work::Retryable;
use futures::future::BoxFuture;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What a handler is given.
#[derive(Debug, Clone)]
pub struct HandlerContext {
    /// The task's evaluated `with`: always a JSON object.
    pub with: Value,
    /// The task's evaluated prompt.
    pub prompt: Option<String>,
    /// The number of this try, from 1.
    pub attempt: u32,
    /// Triggered by a kill, a timeout or the end of a drain; a handler that goes on is dropped after the executor's grace.
    pub cancelled: CancellationToken,
}

/// Why a handler failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error_type}: {message}")]
pub struct HandlerError {
    /// A stable word, for `retry.non_retryable` and reports.
    pub error_type: String,
    /// For people: what happened and what to do.
    pub message: String,
    /// Whether another attempt makes sense.
    pub retryable: Retryable,
    /// The earliest next attempt, where the failed party named one.
    pub retry_after: Option<Duration>,
}

impl HandlerError {
    /// Another attempt may succeed.
    pub fn transient(error_type: impl Into<String>, message: impl Into<String>) -> Self {
        Self { error_type: error_type.into(), message: message.into(), retryable: Retryable::Yes, retry_after: None }
    }

    /// No attempt can succeed.
    pub fn permanent(error_type: impl Into<String>, message: impl Into<String>) -> Self {
        Self { retryable: Retryable::No, ..Self::transient(error_type, message) }
    }
}

/// The future of one call.
pub type HandlerFuture = BoxFuture<'static, Result<Value, HandlerError>>;
/// A registered handler. It must not block its thread: other tasks share it.
pub type Handler = Arc<dyn Fn(HandlerContext) -> HandlerFuture + Send + Sync>;

/// Handlers by name.
#[derive(Clone, Default)]
pub struct Handlers(BTreeMap<String, Handler>);

impl Handlers {
    /// `noop`, `sleep` and `fail`.
    ///
    /// - `noop` returns `with.output` (null without it) at once.
    /// - `sleep` holds its slot for `with.duration` (`"10ms"`, `"1.5s"`, `"2m"`, `"1h"`, or a number of seconds), then returns null.
    /// - `fail` fails with `with.message` and `with.error_type`; only the first `with.times` attempts, if that is given.
    #[must_use]
    pub fn builtin() -> Self {
        Self::default().with("noop", noop).with("sleep", sleep).with("fail", fail)
    }

    /// Adds a handler, or replaces the one of that name.
    #[must_use]
    pub fn with<F, R>(mut self, name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(HandlerContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Value, HandlerError>> + Send + 'static,
    {
        self.0.insert(name.into(), Arc::new(move |context| Box::pin(handler(context))));
        self
    }

    /// The handler of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Handler> {
        self.0.get(name).cloned()
    }

    /// The names of all, in order: what heartbeats announce.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

async fn noop(mut context: HandlerContext) -> Result<Value, HandlerError> {
    Ok(context.with.get_mut("output").map_or(Value::Null, Value::take))
}

async fn sleep(context: HandlerContext) -> Result<Value, HandlerError> {
    let duration = duration(&context.with["duration"])?;
    tokio::select! {
        () = context.cancelled.cancelled() => Err(HandlerError::transient("killed", "the sleep was cancelled")),
        () = tokio::time::sleep(duration) => Ok(Value::Null),
    }
}

async fn fail(context: HandlerContext) -> Result<Value, HandlerError> {
    let times = context.with["times"].as_u64().unwrap_or(u64::MAX);
    if u64::from(context.attempt) > times {
        return Ok(Value::Null);
    }
    let text = |key: &str, default: &str| context.with[key].as_str().unwrap_or(default).to_owned();
    Err(HandlerError::transient(text("error_type", "fail"), text("message", "the handler `fail` fails")))
}

fn duration(value: &Value) -> Result<Duration, HandlerError> {
    let seconds = match value {
        Value::Number(seconds) => seconds.as_f64(),
        Value::String(text) => seconds_in(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(|| {
        let message = format!("`with.duration` is {value}: use a text such as \"10ms\", \"1.5s\", \"2m\", \"1h\", or a number of seconds");
        HandlerError::permanent("input", message)
    })
}

fn seconds_in(text: &str) -> Option<f64> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let unit_seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    number.trim().parse::<f64>().ok().map(|number| number * unit_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn context(with: Value, attempt: u32) -> HandlerContext {
        HandlerContext { with, prompt: None, attempt, cancelled: CancellationToken::new() }
    }

    #[tokio::test]
    async fn noop_returns_its_output_or_null() {
        assert_eq!(noop(context(json!({}), 1)).await, Ok(Value::Null));
        assert_eq!(noop(context(json!({"output": [1]}), 1)).await, Ok(json!([1])));
    }

    #[tokio::test]
    async fn fail_fails_its_first_attempts_only() {
        let with = json!({"times": 2, "message": "not yet", "error_type": "busy"});
        assert_eq!(fail(context(with.clone(), 2)).await, Err(HandlerError::transient("busy", "not yet")));
        assert_eq!(fail(context(with, 3)).await, Ok(Value::Null));
        assert!(fail(context(json!({}), 1_000)).await.is_err());
    }

    #[tokio::test]
    async fn sleep_ends_when_cancelled() {
        let context = context(json!({"duration": "1h"}), 1);
        context.cancelled.cancel();
        assert_eq!(sleep(context).await.expect_err("cancelled").error_type, "killed");
    }

    #[test]
    fn durations_are_texts_or_seconds_and_all_else_is_refused_with_the_remedy() {
        for (value, milliseconds) in [(json!("10ms"), 10), (json!("1.5s"), 1_500), (json!("2m"), 120_000), (json!(0.25), 250)] {
            assert_eq!(duration(&value), Ok(Duration::from_millis(milliseconds)), "{value}");
        }
        for value in [json!(null), json!("10"), json!("ms"), json!("5 parsecs"), json!(-1), json!("NaNs"), json!("1e300h")] {
            let error = duration(&value).expect_err("refused");
            assert_eq!(error.retryable, Retryable::No);
            assert!(error.message.contains("with.duration") && error.message.contains("1.5s"), "{error}");
        }
    }
}
