//! Strict JSON: a key given twice, a NUL character or deep nesting is refused, with line and column.

use super::problem::{Code, Problem};
use orchestr8_proto::storable;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Objects and arrays within each other, at most: what is stored is wrapped a few times more.
pub const NESTING_MAX: usize = 64;

/// Reads one JSON document.
///
/// # Errors
/// [`Code::BadJson`] with line and column.
pub fn parse(bytes: &[u8]) -> Result<Value, Problem> {
    read(bytes).map_err(|error| Problem::new(Code::BadJson, format!("the body is not acceptable JSON: {error}")))
}

/// The same for who has no caller to answer.
///
/// # Errors
/// What is not acceptable, with line and column.
pub fn read(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { nesting: 0 }.deserialize(&mut deserializer)?;
    deserializer.end().map(|()| value)
}

/// A value at this depth.
#[derive(Clone, Copy)]
struct Strict {
    nesting: usize,
}

impl Strict {
    fn inner<E: Error>(self) -> Result<Self, E> {
        if self.nesting >= NESTING_MAX {
            return Err(E::custom(format_args!("more than {NESTING_MAX} objects and arrays within each other")));
        }
        Ok(Self { nesting: self.nesting + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        storable::number(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        without_nul(text).map(|text| Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            without_nul(&key)?;
            let value = entries.next_value_seed(inner)?;
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{key}` is given twice")));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// Postgres cannot store the character.
fn without_nul<E: Error>(text: &str) -> Result<&str, E> {
    if text.contains('\0') { Err(E::custom("text with a NUL character, which cannot be stored")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(text: &str) -> String {
        format!("{:?}", parse(text.as_bytes()).expect_err("refused"))
    }

    #[test]
    fn valid_json_is_read_as_it_is() {
        let text = r#"{"a": [1, -2, 1.5, "x", null, true], "b": {"c": 18446744073709551615, "d": 1e16}}"#;
        let expected = json!({"a": [1, -2, 1.5, "x", null, true], "b": {"c": u64::MAX, "d": 10_000_000_000_000_000_u64}});
        assert_eq!(parse(text.as_bytes()).map_err(|problem| problem.code()), Ok(expected));
    }

    #[test]
    fn what_would_be_ignored_or_cannot_be_stored_is_refused() {
        assert!(refusal(r#"{"a": 1, "b": {"x": 1, "x": 2}}"#).contains("the key `x` is given twice at line 1"));
        assert!(refusal(r#"["a\u0000b"]"#).contains("NUL character"));
        assert!(refusal(r#"{"\u0000": 1}"#).contains("NUL character"));
        assert!(refusal("{\n  \"a\": }").contains("line 2 column 8"));
        assert!(refusal("{} {}").contains("trailing characters"));
        assert!(refusal("").contains("EOF"));
    }

    #[test]
    fn nesting_has_a_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(NESTING_MAX).as_bytes()).is_ok());
        assert!(refusal(&nested(NESTING_MAX + 1)).contains("more than 64"));
        assert!(refusal(&nested(1_000_000)).contains("more than 64"));
    }
}
