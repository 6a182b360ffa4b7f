//! What the server says it forbids. It tells us only beside everything else, and whoever waits for an answer waits in vain.

use async_nats::ServerError;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// Different ones that are told; a client that is refused everything would fill the log.
const TOLD_MAX: usize = 64;

/// One thing that the server does not let us do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Violation {
    /// Such as `publish to`.
    pub action: &'static str,
    /// The subject.
    pub subject: String,
}

/// All of them on one connection.
#[derive(Debug)]
pub struct Violations {
    told: Mutex<HashSet<Violation>>,
    first: watch::Sender<Option<Violation>>,
}

impl Default for Violations {
    fn default() -> Self {
        Self { told: Mutex::default(), first: watch::Sender::new(None) }
    }
}

impl Violations {
    /// Takes note of an error of the server if it is a violation, and says so in the log the first time. Whether it was one.
    pub fn heard(&self, error: &ServerError) -> bool {
        let ServerError::Other(text) = error else { return false };
        let Some(violation) = Violation::of(text) else { return false };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD_MAX && told.insert(violation.clone()) {
            tracing::error!(
                subject = violation.subject,
                "NATS does not let this login {violation}: grant it; `orchestr8 nats-accounts` prints every right that is needed, and why"
            );
        }
        drop(told);
        self.first.send_if_modified(|first| first.is_none() && first.replace(violation).is_none());
        true
    }

    /// Waits for the first violation.
    pub async fn first(&self) -> Violation {
        let mut first = self.first.subscribe();
        match first.wait_for(Option::is_some).await.ok().and_then(|first| first.clone()) {
            Some(violation) => violation,
            // The sender is `self`, so it lives.
            None => std::future::pending().await,
        }
    }
}

impl Violation {
    /// From `Permissions Violation for Publish to "x"`, or `Subscription to "x"`, perhaps with a queue group behind.
    fn of(text: &str) -> Option<Self> {
        let text = text.trim_matches('\'');
        let rest = strip_prefix_ignoring_case(text, "permissions violation for ")?;
        let (action, quoted) = rest.split_once('"')?;
        let action = match action.trim().to_ascii_lowercase().as_str() {
            "publish to" => "publish to",
            "subscription to" => "subscribe to",
            "publish with reply of" => "be answered on",
            _ => "use",
        };
        let subject = quoted.split('"').next().unwrap_or(quoted);
        Some(Self { action, subject: subject.to_owned() })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.action, self.subject)
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(text: &str) -> ServerError {
        ServerError::Other(text.to_owned())
    }

    #[test]
    fn a_violation_names_its_subject() {
        for (text, shown) in [
            (r#"Permissions Violation for Publish to "orchestr8.nudge""#, "publish to `orchestr8.nudge`"),
            (r#"'Permissions Violation for Subscription to "a.*" using queue "q"'"#, "subscribe to `a.*`"),
            (r#"permissions violation for publish with reply of "_R_.x""#, "be answered on `_R_.x`"),
        ] {
            assert_eq!(Violation::of(text).map(|violation| violation.to_string()).as_deref(), Some(shown));
        }
        assert_eq!(Violation::of("Stale Connection"), None);
    }

    #[tokio::test]
    async fn the_first_is_kept_and_what_is_none_is_passed_over() {
        let violations = Violations::default();
        assert!(!violations.heard(&other("Stale Connection")) && !violations.heard(&ServerError::AuthorizationViolation));
        assert!(violations.heard(&other(r#"Permissions Violation for Publish to "a""#)));
        assert!(violations.heard(&other(r#"Permissions Violation for Publish to "b""#)));
        assert_eq!(violations.first().await.subject, "a");
        assert_eq!(violations.told.lock().expect("no panic").len(), 2);
    }
}
