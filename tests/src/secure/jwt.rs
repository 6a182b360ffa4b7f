//! Operator, accounts and users of a nats-server as JWTs, with the exports, imports and rights that `orchestr8 nats-accounts` prints.

use anyhow::Result;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use orchestr8_proto::login::Login;
use orchestr8_proto::names;
use orchestr8_proto::rights::{self, Right, Rights};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Who signs the accounts, and the accounts of one pool and of the coordinators, which have the streams.
pub struct Operator {
    key: KeyPair,
    system: KeyPair,
    coordinators: KeyPair,
    executors: KeyPair,
}

/// A user that a server knows by a JWT.
pub struct User {
    /// What `--nats-creds` wants.
    pub credentials: String,
    /// What no log may show.
    pub seed: String,
}

impl Operator {
    /// New keys.
    pub fn new() -> Self {
        Self {
            key: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            coordinators: KeyPair::new_account(),
            executors: KeyPair::new_account(),
        }
    }

    /// What stands in the server's configuration instead of accounts, where the pool's login serves these queues.
    pub fn configuration(&self, pool: &Login, queues: &[String]) -> Result<String> {
        let operator = signed(&self.key, &self.key.public_key(), &json!({"type": "operator", "version": 2}))?;
        let owns = json!({"limits": limits(-1), "exports": exports(), "type": "account", "version": 2});
        let imports = self.imports(&rights::of_executors(Some(pool), queues));
        let borrows = json!({"limits": limits(0), "imports": imports, "type": "account", "version": 2});
        let system = json!({"limits": limits(0), "type": "account", "version": 2});
        let accounts = [(&self.system, system), (&self.coordinators, owns), (&self.executors, borrows)];
        let accounts = accounts.into_iter().map(|(account, claims)| {
            let name = account.public_key();
            Ok(format!("  {name}: {}", signed(&self.key, &name, &claims)?))
        });
        let accounts = accounts.collect::<Result<Vec<_>>>()?.join("\n");
        let system = self.system.public_key();
        Ok(format!("operator: {operator}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload {{\n{accounts}\n}}\n"))
    }

    /// A coordinator.
    pub fn coordinator(&self, login: &Login) -> Result<User> {
        user(&self.coordinators, &rights::of_coordinators(Some(login)), None)
    }

    /// An executor of the pool.
    pub fn executor(&self, login: &Login, queues: &[String]) -> Result<User> {
        user(&self.executors, &rights::of_executors(Some(login), queues), None)
    }

    /// The same, whose JWT was good until a minute ago.
    pub fn expired_executor(&self, login: &Login, queues: &[String]) -> Result<User> {
        let minute_ago = SystemTime::now().duration_since(UNIX_EPOCH)?.saturating_sub(Duration::from_mins(1));
        user(&self.executors, &rights::of_executors(Some(login), queues), Some(minute_ago.as_secs()))
    }

    /// Everything but the inbox and the question about its own rights.
    fn imports(&self, rights: &Rights) -> Vec<Value> {
        let from = |kind: &str, Right { subject, .. }: &Right| json!({"name": subject, "subject": subject, "account": self.coordinators.public_key(), "type": kind});
        let asked = rights.publish.iter().filter(|right| right.subject != names::OWN_RIGHTS).map(|right| from("service", right));
        asked
            .chain(rights.subscribe.iter().filter(|right| right.subject.starts_with("orchestr8.")).map(|right| from("stream", right)))
            .collect()
    }
}

fn exports() -> Vec<Value> {
    let fetches = json!({"name": "fetch", "subject": names::next_subject("*"), "type": "service", "response_type": "Stream"});
    let acks = names::ack_subjects("*");
    let services = [acks.as_str(), names::OUTCOME_SUBJECTS, names::CLAIM_SUBJECTS, names::BEAT_SUBJECTS];
    let streams = [names::CONTROL_SUBJECTS, names::CONTROL_ALL, names::COORDINATOR_BEATS];
    let services = services.map(|subject| json!({"name": subject, "subject": subject, "type": "service"}));
    let streams = streams.map(|subject| json!({"name": subject, "subject": subject, "type": "stream"}));
    [fetches].into_iter().chain(services).chain(streams).collect()
}

/// `stored` is -1 for any amount in JetStream, 0 for an account without it.
fn limits(stored: i64) -> Value {
    let mut limits = json!({"mem_storage": stored, "disk_storage": stored, "streams": stored, "consumer": stored, "wildcards": true});
    for unlimited in ["subs", "data", "payload", "imports", "exports", "conn", "leaf"] {
        limits[unlimited] = json!(-1);
    }
    limits
}

fn user(account: &KeyPair, rights: &Rights, expires_s: Option<u64>) -> Result<User> {
    let key = KeyPair::new_user();
    let allow = |rights: &[Right]| json!({"allow": rights.iter().map(|right| right.subject.as_str()).collect::<Vec<_>>()});
    let mut claims = json!({"type": "user", "version": 2, "pub": allow(&rights.publish), "sub": allow(&rights.subscribe)});
    for unlimited in ["subs", "data", "payload"] {
        claims[unlimited] = json!(-1);
    }
    let body = body(account, &key.public_key(), &claims, expires_s);
    let (token, seed) = (sign(account, &body)?, key.seed()?);
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    Ok(User { credentials, seed })
}

fn signed(issuer: &KeyPair, subject: &str, claims: &Value) -> Result<String> {
    sign(issuer, &body(issuer, subject, claims, None))
}

fn body(issuer: &KeyPair, subject: &str, claims: &Value, expires_s: Option<u64>) -> Value {
    let mut body = json!({"jti": subject, "iat": 1, "iss": issuer.public_key(), "name": subject, "sub": subject, "nats": claims});
    if let Some(expires_s) = expires_s {
        body["exp"] = json!(expires_s);
    }
    body
}

fn sign(issuer: &KeyPair, body: &Value) -> Result<String> {
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let text = format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(body));
    let signature = BASE64URL_NOPAD.encode(&issuer.sign(text.as_bytes())?);
    Ok(format!("{text}.{signature}"))
}
