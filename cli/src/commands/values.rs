//! Values on the command line: `NAME=VALUE`, JSON or text, durations and times.

use super::CommandError;
use orchestr8_coordinator::api::submit::KEY_BYTES_MAX;
use orchestr8_core::definition::parse_duration;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Largest file of inputs or definitions that is read, in bytes: more than the coordinator accepts.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// `NAME=VALUE` of which the value is JSON when it reads as JSON, else text.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_json_pair(text: &str) -> Result<(String, Value), String> {
    let (name, value) = parse_pair(text)?;
    let json = serde_json::from_str(&value).unwrap_or(Value::String(value));
    Ok((name, json))
}

/// `NAME=VALUE` of which the value is text.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("write NAME=VALUE".to_owned()),
    }
}

/// A duration above zero, in the form that definitions use: `90s`, `2h`, `1h30m`, or a number of seconds.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() { Err("it must be longer than zero".to_owned()) } else { Ok(duration) }
}

/// A whole number within a range.
///
/// # Errors
/// What is wrong with the text, with the range in words.
pub fn parse_whole(text: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("write a whole number from {} to {}", range.start(), range.end()))
}

/// An idempotency key: it travels in a header.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_key(text: &str) -> Result<String, String> {
    let is_printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    // Spaces around it would be lost on the way.
    let is_key = (1..=KEY_BYTES_MAX).contains(&text.len()) && is_printable && text == text.trim();
    if is_key { Ok(text.to_owned()) } else { Err(format!("write 1 to {KEY_BYTES_MAX} printable ASCII characters, no space at the ends")) }
}

/// A time: RFC 3339, or `+2h` from now. The result is RFC 3339.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_run_at(text: &str) -> Result<String, String> {
    match text.strip_prefix('+') {
        Some(duration) => shifted(duration, OffsetDateTime::checked_add),
        None if parse_span(text).is_ok() => Err(format!("`{text}` is a distance: write `+{text}` for {text} from now")),
        None => point_in_time(text, "+2h for two hours from now"),
    }
}

/// A time in the past: RFC 3339, or `2h` ago. The result is RFC 3339.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_since(text: &str) -> Result<String, String> {
    if parse_duration(text).is_ok() { shifted(text, OffsetDateTime::checked_sub) } else { point_in_time(text, "2h for two hours ago") }
}

fn shifted(duration: &str, shift: fn(OffsetDateTime, time::Duration) -> Option<OffsetDateTime>) -> Result<String, String> {
    let duration = parse_span(duration)?;
    let duration = time::Duration::try_from(duration).map_err(|_| "it is too long".to_owned())?;
    let point = shift(OffsetDateTime::now_utc(), duration).ok_or("it is too long")?;
    point.format(&Rfc3339).map_err(|error| error.to_string())
}

fn point_in_time(text: &str, distance: &str) -> Result<String, String> {
    let refused = |_| format!("`{text}` is not a time: write for instance 2026-01-31T14:00:00Z, or {distance}");
    OffsetDateTime::parse(text, &Rfc3339).map_err(refused)?;
    Ok(text.to_owned())
}

/// The pairs as one object.
///
/// # Errors
/// [`CommandError::Usage`] for a name given twice.
pub fn object_of(flag: &str, pairs: &[(String, Value)]) -> Result<Map<String, Value>, CommandError> {
    let mut object = Map::new();
    for (name, value) in pairs {
        if object.insert(name.clone(), value.clone()).is_some() {
            return Err(CommandError::Usage(format!("{flag} names `{name}` twice: give it once")));
        }
    }
    Ok(object)
}

/// The text pairs as one object.
///
/// # Errors
/// [`CommandError::Usage`] for a name given twice.
pub fn text_object_of(flag: &str, pairs: &[(String, String)]) -> Result<Map<String, Value>, CommandError> {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect();
    object_of(flag, &pairs)
}

/// The text of a file, or of stdin for `-`.
///
/// # Errors
/// [`CommandError::File`].
pub fn read_text(file: &Path) -> Result<String, CommandError> {
    use std::io::Read;
    let shown = if file.as_os_str() == "-" { Path::new("stdin") } else { file };
    let unreadable = |reason: String| CommandError::File { file: shown.to_owned(), reason };
    let mut text = String::new();
    let mut read = |from: &mut dyn Read| from.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map(drop);
    if file.as_os_str() == "-" {
        read(&mut std::io::stdin().lock())
    } else {
        std::fs::File::open(file).and_then(|mut opened| read(&mut opened))
    }
    .map_err(|error| unreadable(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX { Err(unreadable(format!("more than {FILE_BYTES_MAX} bytes"))) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_json_where_they_can_be() {
        for (text, expected) in [
            ("n=3", json!(3)),
            ("s=abc", json!("abc")),
            ("l=[1]", json!([1])),
            ("e=a=b", json!("a=b")),
            ("x=", json!("")),
            ("q=\"3\"", json!("3")),
        ] {
            assert_eq!(parse_json_pair(text).expect(text).1, expected);
        }
        assert!(parse_json_pair("=1").is_err() && parse_pair("name").is_err());
    }

    #[test]
    fn ranges_and_keys_are_told_in_words() {
        assert_eq!((parse_whole("7", 0..=9), parse_whole("9", 0..=9)), (Ok(7), Ok(9)));
        for text in ["10", "-1", "x", "1.5", ""] {
            assert_eq!(parse_whole(text, 0..=9), Err("write a whole number from 0 to 9".to_owned()), "{text}");
        }
        assert_eq!(parse_key("order-7/a#1").as_deref(), Ok("order-7/a#1"));
        assert_eq!(parse_key("order 7").as_deref(), Ok("order 7"));
        for text in ["", " ", " a", "a ", "a\tb", "ä", "a\n", &"k".repeat(KEY_BYTES_MAX + 1)] {
            assert!(parse_key(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        let pairs = [("a".to_owned(), json!(1)), ("a".to_owned(), json!(2))];
        assert!(object_of("--input", &pairs).expect_err("twice").to_string().contains("`a` twice"));
    }

    #[test]
    fn times_are_points_or_distances() {
        assert_eq!(parse_run_at("2026-01-31T14:00:00Z").as_deref(), Ok("2026-01-31T14:00:00Z"));
        let soon = OffsetDateTime::parse(&parse_run_at("+1h").expect("a distance"), &Rfc3339).expect("a time");
        assert!(soon > OffsetDateTime::now_utc());
        let past = OffsetDateTime::parse(&parse_since("1h").expect("a distance"), &Rfc3339).expect("a time");
        assert!(past < OffsetDateTime::now_utc());
        assert!(parse_run_at("2h").expect_err("no time").contains("`+2h`"));
        assert!(parse_run_at("tomorrow").expect_err("no time").contains("or +2h for two hours from now"));
        for text in ["Tuesday", "yesterday"] {
            assert!(parse_since(text).expect_err("no time").contains("2026-01-31T14:00:00Z, or 2h for two hours ago"), "{text}");
        }
        assert!(parse_since("0s").expect_err("no distance").contains("longer than zero"));
    }
}
