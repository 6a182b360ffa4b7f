//! The identity of a plan.

use crate::plan::Plan;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// SHA-256 over the plan as canonical JSON: keys in order, no spaces. Equal plans have equal hashes on every machine.
///
/// # Panics
/// Never: a plan is always JSON.
#[must_use]
pub fn plan_hash(plan: &Plan) -> [u8; 32] {
    let value = serde_json::to_value(plan).expect("a plan has string keys and finite numbers");
    let mut hasher = Sha256::new();
    feed(&value, &mut hasher);
    hasher.finalize().into()
}

/// Written out, so that the order of keys does not depend on how maps are built.
fn feed(value: &Value, hasher: &mut Sha256) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => hasher.update(value.to_string()),
        Value::Array(items) => {
            hasher.update("[");
            for item in items {
                feed(item, hasher);
                hasher.update(",");
            }
            hasher.update("]");
        }
        Value::Object(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            hasher.update("{");
            for (key, item) in entries {
                hasher.update(Value::from(key.as_str()).to_string());
                hasher.update(":");
                feed(item, hasher);
                hasher.update(",");
            }
            hasher.update("}");
        }
    }
}
