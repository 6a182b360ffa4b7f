//! Which JSON can be stored, and read back by everybody: on both sides of the wire the same.

use serde_json::{Number, Value};

/// Arrays and objects within each other, at most. JSON readers stop at 128, and what is stored is wrapped a few times more in rows,
/// dispatches and answers.
pub const NESTING_MAX: usize = 64;

/// Why a value cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unstorable {
    /// JSON may hold it, Postgres not.
    #[error("holds a NUL character (\\u0000) in a text, which cannot be stored: remove it")]
    Nul,
    /// More than [`NESTING_MAX`].
    #[error("has more than {NESTING_MAX} arrays and objects within each other: flatten it, or pass it as a text")]
    TooDeep,
}

/// Checks a value of any depth that was parsed.
///
/// # Errors
/// [`Unstorable`] says what is wrong and what to do, to follow the name of the value in a sentence.
pub fn check(value: &Value) -> Result<(), Unstorable> {
    within(value, NESTING_MAX)
}

/// A number as Postgres gives it back, none where it is not finite: what is stored with an exponent comes back in digits, as an
/// integer where it is one, and zero has no sign. Who keeps a value and who reads it from its row must make the same of it.
#[must_use]
pub fn number(float: f64) -> Option<Number> {
    // Also of the negative zero.
    let number = Number::from_f64(if float == 0.0 { 0.0 } else { float })?;
    if float.fract() != 0.0 || !number.to_string().contains('e') {
        return Some(number);
    }
    let digits = format!("{float:.0}");
    let whole = digits.parse::<u64>().map(Number::from).or_else(|_| digits.parse::<i64>().map(Number::from));
    Some(whole.unwrap_or(number))
}

/// A value with its numbers as Postgres gives them back.
pub fn as_read_back(value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => {}
        Value::Number(given) => {
            if let Some(stored) = given.as_f64().filter(|_| given.is_f64()).and_then(number) {
                *given = stored;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(as_read_back),
        Value::Object(entries) => entries.values_mut().for_each(as_read_back),
    }
}

fn within(value: &Value, levels: usize) -> Result<(), Unstorable> {
    let inner = || levels.checked_sub(1).ok_or(Unstorable::TooDeep);
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        Value::String(text) => text_without_nul(text),
        Value::Array(items) => inner().and_then(|inner| items.iter().try_for_each(|item| within(item, inner))),
        Value::Object(entries) => {
            inner().and_then(|inner| entries.iter().try_for_each(|(key, item)| text_without_nul(key).and_then(|()| within(item, inner))))
        }
    }
}

fn text_without_nul(text: &str) -> Result<(), Unstorable> {
    if text.contains('\0') { Err(Unstorable::Nul) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_and_deep_nesting_are_found_wherever_they_are() {
        let nested = |levels: usize| serde_json::from_str::<Value>(&format!("{}{}", "[".repeat(levels), "]".repeat(levels))).expect("JSON");
        assert_eq!(check(&nested(NESTING_MAX)), Ok(()));
        assert_eq!(check(&nested(NESTING_MAX + 1)), Err(Unstorable::TooDeep));
        let objects = format!("{}1{}", "{\"a\": ".repeat(NESTING_MAX + 1), "}".repeat(NESTING_MAX + 1));
        assert_eq!(check(&serde_json::from_str(&objects).expect("JSON")), Err(Unstorable::TooDeep));
        for nul in [r#""\u0000""#, r#"{"\u0000": 1}"#, r#"{"a": [1, "x\u0000"]}"#] {
            assert_eq!(check(&serde_json::from_str(nul).expect("JSON")), Err(Unstorable::Nul), "{nul}");
        }
        assert_eq!(check(&serde_json::from_str(r#"{"a": ["\\u0000", -0.0, null]}"#).expect("JSON")), Ok(()));
    }

    #[test]
    fn numbers_are_what_postgres_makes_of_them() {
        for (text, expected) in [
            ("1e16", "10000000000000000"),
            ("-1e16", "-10000000000000000"),
            ("1.8446744073709552e19", "1.8446744073709552e+19"),
            ("-0.0", "0.0"),
            ("-0", "0.0"),
            ("1e2", "100.0"),
            ("1000000000000000.0", "1000000000000000.0"),
            ("1.5e-7", "1.5e-7"),
            ("1e300", "1e+300"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            let mut value: Value = serde_json::from_str(&format!("{{\"a\":[{text}]}}")).expect("JSON");
            as_read_back(&mut value);
            assert_eq!(value.to_string(), format!("{{\"a\":[{expected}]}}"), "{text}");
        }
        assert_eq!(number(f64::INFINITY), None);
    }
}
