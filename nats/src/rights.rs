//! Whether a login has every right that it needs: the server tells who asks, and only so all that is missing is known at once.

use crate::settings::NatsSettings;
use crate::violations::{Violation, Violations};
use async_nats::{Client, Request};
use orchestr8_proto::names::OWN_RIGHTS;
use orchestr8_proto::rights::{Right, Rights, covers, overlap};
use serde::Deserialize;
use std::time::Duration;

/// A server that does not tell is believed to allow everything; a violation shows later what it does not.
const TELLS_WITHIN: Duration = Duration::from_secs(2);

/// A login lacks rights. Whoever configures the server must grant them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the login {login} may not {}: grant this on the server; `orchestr8 nats-accounts` prints every right that is needed, and why{hint}",
    shown(missing)
)]
pub struct RightsError {
    /// Whose.
    pub login: String,
    /// What is missing.
    pub missing: Vec<Violation>,
    /// What else may be wrong, for those without a name.
    hint: &'static str,
}

/// Asks the server for our rights and compares them with what is `needed`.
///
/// # Errors
/// [`RightsError`] names everything that is missing.
pub async fn check_rights(client: &Client, settings: &NatsSettings, needed: &Rights, violations: &Violations) -> Result<(), RightsError> {
    let missing = tokio::select! {
        granted = granted(client) => granted.map(|granted| granted.missing(needed)).unwrap_or_default(),
        // Even the question or its answer may be forbidden.
        violation = violations.first() => vec![violation],
    };
    if missing.is_empty() {
        return Ok(());
    }
    Err(RightsError::new(settings, missing))
}

impl RightsError {
    /// The login of `settings` lacks these.
    #[must_use]
    pub fn new(settings: &NatsSettings, missing: Vec<Violation>) -> Self {
        let hint = if settings.login.is_none() { "; and give the login's name with --nats-login, which rights are bound to" } else { "" };
        let login = settings.login.as_ref().map_or_else(|| format!("with {}", settings.shown_login()), |login| format!("`{login}`"));
        Self { login, missing, hint }
    }
}

async fn granted(client: &Client) -> Option<Granted> {
    let request = Request::new().timeout(Some(TELLS_WITHIN));
    match client.send_request(OWN_RIGHTS, request).await {
        Ok(answer) => match serde_json::from_slice::<Told>(&answer.payload) {
            Ok(told) => told.data.permissions,
            Err(error) => {
                tracing::warn!(%error, "NATS tells our rights in words that are not understood: they are not checked");
                None
            }
        },
        Err(error) => {
            tracing::warn!(%error, "NATS does not tell our rights: they are not checked");
            None
        }
    }
}

fn shown(missing: &[Violation]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The answer of the server, as far as it matters.
#[derive(Debug, Deserialize)]
struct Told {
    data: User,
}

#[derive(Debug, Deserialize)]
struct User {
    permissions: Option<Granted>,
}

#[derive(Debug, Default, Deserialize)]
struct Granted {
    publish: Option<Subjects>,
    subscribe: Option<Subjects>,
}

/// What is not named is allowed, unless something is.
#[derive(Debug, Default, Deserialize)]
struct Subjects {
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
}

impl Granted {
    fn missing(&self, needed: &Rights) -> Vec<Violation> {
        let lacks = |granted: &Option<Subjects>, needed: &[Right], action: &'static str| -> Vec<Violation> {
            let allows = |subject: &str| granted.as_ref().is_none_or(|granted| granted.allows(subject));
            let lacking = needed.iter().filter(|right| !allows(&right.subject));
            lacking.map(|right| Violation { action, subject: right.subject.clone() }).collect()
        };
        let mut missing = lacks(&self.publish, &needed.publish, "publish to");
        missing.extend(lacks(&self.subscribe, &needed.subscribe, "subscribe to"));
        missing
    }
}

impl Subjects {
    fn allows(&self, subject: &str) -> bool {
        let allowed = self.allow.is_empty() || self.allow.iter().any(|granted| covers(granted, subject));
        allowed && !self.deny.iter().any(|denied| overlap(denied, subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed() -> Rights {
        let right = |subject: &str| Right { subject: subject.to_owned(), why: String::new() };
        Rights { publish: vec![right("a.*"), right("b")], subscribe: vec![right("_INBOX_x.>")] }
    }

    fn missing(told: &str) -> String {
        let told: Told = serde_json::from_str(told).expect("an answer");
        shown(&told.data.permissions.unwrap_or_default().missing(&needed()))
    }

    #[test]
    fn what_is_missing_is_told_together() {
        assert_eq!(missing(r#"{"server":{},"data":{"user":"u"}}"#), "", "no rights are configured");
        assert_eq!(missing(r#"{"data":{"permissions":{"publish":{"allow":["a.>","b"]},"subscribe":{"allow":["_INBOX_x.>"]}}}}"#), "");
        assert_eq!(
            missing(r#"{"data":{"permissions":{"publish":{"allow":["a.x"],"deny":["c"]},"subscribe":{"allow":["_INBOX.>"]}}}}"#),
            "publish to `a.*`, publish to `b`, subscribe to `_INBOX_x.>`"
        );
        assert_eq!(missing(r#"{"data":{"permissions":{"publish":{"deny":["a.secret"]}}}}"#), "publish to `a.*`");
    }
}
