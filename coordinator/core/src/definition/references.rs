//! The references of a JSON Schema: into itself, to something that is there, and never in a circle.

use serde_json::Value;
use std::collections::HashMap;

/// Values in a schema, its references followed: every value of an input may be compared with each of them.
const SCHEMA_VALUES_MAX: usize = 5_000;
/// Characters of a reference that are repeated, at most.
const SHOWN_CHARS: usize = 80;

/// One reference that leads nowhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// JSON pointer into the schema; empty for the schema as a whole.
    pub pointer: String,
    /// What is wrong, and the remedy.
    pub message: String,
}

/// Everything that is wrong with the references of a schema. One that is too large is not looked at further.
pub(super) fn mistakes(schema: &Value) -> Vec<Mistake> {
    let too_large = || {
        let message = format!("the schema has more than {SCHEMA_VALUES_MAX} values, references followed: simplify it");
        vec![Mistake { pointer: String::new(), message }]
    };
    if values_of(schema) > SCHEMA_VALUES_MAX {
        return too_large();
    }
    let mut walk = Walk { root: schema, sizes: HashMap::new(), mistakes: Vec::new() };
    if walk.values(schema, "") > SCHEMA_VALUES_MAX { too_large() } else { walk.mistakes }
}

/// Without following references.
fn values_of(schema: &Value) -> usize {
    1 + match schema {
        Value::Array(items) => items.iter().map(values_of).sum::<usize>(),
        Value::Object(entries) => entries.values().map(values_of).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Counts a schema with its references followed: a few that double each other would make a check last for ever.
struct Walk<'s> {
    root: &'s Value,
    /// Size of each target; none while it is being counted.
    sizes: HashMap<&'s str, Option<usize>>,
    mistakes: Vec<Mistake>,
}

impl<'s> Walk<'s> {
    fn values(&mut self, schema: &'s Value, pointer: &str) -> usize {
        let mut total = 1usize;
        match schema {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    total = total.saturating_add(self.values(item, &format!("{pointer}/{index}")));
                }
            }
            Value::Object(entries) => {
                for (key, item) in entries {
                    let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                    let size = match (key.as_str(), item) {
                        ("$ref", Value::String(target)) => self.target(target, &pointer),
                        ("$dynamicRef" | "$recursiveRef", _) => {
                            self.refuse(&pointer, format!("`{key}` is not supported: use `$ref` with a path such as #/$defs/name"))
                        }
                        _ => self.values(item, &pointer),
                    };
                    total = total.saturating_add(size);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        total
    }

    fn target(&mut self, target: &'s str, pointer: &str) -> usize {
        let shown: String = target.chars().take(SHOWN_CHARS).collect();
        match self.sizes.get(target) {
            Some(Some(size)) => return *size,
            Some(None) => {
                return self
                    .refuse(pointer, format!("`$ref: {shown}` leads back to itself: a schema that contains itself is not supported"));
            }
            None => {}
        }
        let Some((within, schema)) = target.strip_prefix('#').and_then(|within| Some((within, self.root.pointer(within)?))) else {
            let remedy = "use a path such as #/$defs/name; other documents are not fetched";
            return self.refuse(pointer, format!("`$ref: {shown}` is not in this schema: {remedy}"));
        };
        self.sizes.insert(target, None);
        let size = self.values(schema, within);
        self.sizes.insert(target, Some(size));
        size
    }

    /// Each place once, although targets are walked through as part of the whole as well. Counts as one value.
    fn refuse(&mut self, pointer: &str, message: String) -> usize {
        if self.mistakes.iter().all(|mistake| mistake.pointer != pointer) {
            self.mistakes.push(Mistake { pointer: pointer.to_owned(), message });
        }
        1
    }
}
