//! The keys of a JSON object: each is read by name, and what nobody asked for is refused. A null is a key not given.

use super::parameters::rfc3339;
use super::problem::{Code, Problem};
use super::refusals::{ERRORS_MAX, Refusals};
use orchestr8_core::definition::{DURATION_MAX, nearest_key, parse_duration};
use serde_json::{Map, Value, json};
use std::time::Duration;
use time::OffsetDateTime;

/// Bytes of the submitter's `metadata` as JSON, at most.
pub const METADATA_BYTES_MAX: usize = 64 * 1024;
/// Tags of one submission, at most.
pub const TAGS_MAX: usize = 64;
/// Bytes of one tag, at most.
pub const TAG_BYTES_MAX: usize = 128;
/// Bytes of a `user_id`, at most.
pub const USER_ID_BYTES_MAX: usize = 255;

/// The keys of one object that have not been read yet.
#[derive(Debug)]
pub struct Fields {
    object: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    /// The keys of `value`, which is called `what` in refusals.
    ///
    /// # Errors
    /// [`Code::BadField`] when it is not an object.
    pub fn new(value: Value, what: &str) -> Result<Self, Problem> {
        match value {
            Value::Object(object) => Ok(Self::of(object)),
            other => Err(Problem::new(Code::BadField, format!("{what} must be a JSON object")).with_value(&other)),
        }
    }

    /// The keys of an object.
    #[must_use]
    pub fn of(object: Map<String, Value>) -> Self {
        Self { object, known: Vec::new() }
    }

    /// The value of a key, if it is given.
    pub fn value(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.object.remove(name).filter(|value| !value.is_null())
    }

    /// Text of 1 to `bytes_max` bytes.
    ///
    /// # Errors
    /// [`Code::BadField`].
    pub fn text(&mut self, name: &'static str, bytes_max: usize) -> Result<Option<String>, Problem> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) if (1..=bytes_max).contains(&text.len()) => Ok(Some(text)),
            Some(other) => Err(refused(name, &other, &format!("must be text of 1 to {bytes_max} bytes"))),
        }
    }

    /// A whole number from 0 to `max`.
    ///
    /// # Errors
    /// [`Code::BadField`].
    pub fn number(&mut self, name: &'static str, max: u32) -> Result<Option<u32>, Problem> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number <= max);
        number.map(Some).ok_or_else(|| refused(name, &value, &format!("must be a whole number from 0 to {max}")))
    }

    /// A number from `min` to `max`.
    ///
    /// # Errors
    /// [`Code::BadField`].
    pub fn factor(&mut self, name: &'static str, (min, max): (f64, f64)) -> Result<Option<f64>, Problem> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| (min..=max).contains(number));
        number.map(Some).ok_or_else(|| refused(name, &value, &format!("must be a number from {min} to {max}")))
    }

    /// `true` or `false`; not given: false.
    ///
    /// # Errors
    /// [`Code::BadField`].
    pub fn flag(&mut self, name: &'static str) -> Result<bool, Problem> {
        match self.value(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(refused(name, &other, "must be true or false")),
        }
    }

    /// A duration such as "2h", or seconds as a number; longer than zero.
    ///
    /// # Errors
    /// [`Code::BadField`].
    pub fn duration(&mut self, name: &'static str) -> Result<Option<Duration>, Problem> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let duration = match &value {
            Value::String(text) => parse_duration(text).ok(),
            Value::Number(seconds) => seconds.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        let days = DURATION_MAX.as_secs() / 86_400;
        let remedy =
            format!("must be a duration longer than zero and at most {days}d, such as \"90s\", \"2h\" or \"3d\", or seconds as a number");
        duration.filter(|duration| !duration.is_zero() && *duration <= DURATION_MAX).map(Some).ok_or_else(|| refused(name, &value, &remedy))
    }

    /// A time in RFC 3339.
    ///
    /// # Errors
    /// [`Code::BadField`].
    pub fn time(&mut self, name: &'static str) -> Result<Option<OffsetDateTime>, Problem> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let time = value.as_str().and_then(rfc3339);
        time.map(Some).ok_or_else(|| refused(name, &value, "must be a time in RFC 3339, such as \"2026-01-31T12:00:00Z\""))
    }

    /// An object; not given: an empty one.
    ///
    /// # Errors
    /// [`Code::BadField`].
    pub fn object(&mut self, name: &'static str) -> Result<Map<String, Value>, Problem> {
        match self.value(name) {
            None => Ok(Map::new()),
            Some(Value::Object(object)) => Ok(object),
            Some(other) => Err(refused(name, &other, "must be an object")),
        }
    }

    /// An array of texts of 1 to `bytes_max` bytes; not given: an empty one.
    ///
    /// # Errors
    /// [`Code::BadField`].
    pub fn texts(&mut self, name: &'static str, (count_max, bytes_max): (usize, usize)) -> Result<Vec<String>, Problem> {
        let Some(value) = self.value(name) else { return Ok(Vec::new()) };
        let text = |item: &Value| item.as_str().filter(|text| (1..=bytes_max).contains(&text.len())).map(str::to_owned);
        let texts = value.as_array().filter(|items| items.len() <= count_max).and_then(|items| items.iter().map(text).collect());
        let remedy = format!("must be an array of at most {count_max} texts of 1 to {bytes_max} bytes");
        texts.ok_or_else(|| refused(name, &value, &remedy))
    }

    /// The keys that every submission has; what is wrong with them goes to `refusals`.
    pub fn submitter(&mut self, refusals: &mut Refusals) -> Submitter {
        Submitter {
            tags: refusals.or_default(self.tags()),
            metadata: Value::Object(refusals.or_default(self.metadata())),
            user_id: refusals.or_default(self.text("user_id", USER_ID_BYTES_MAX)),
        }
    }

    fn tags(&mut self) -> Result<Vec<String>, Problem> {
        let tags = self.texts("tags", (TAGS_MAX, TAG_BYTES_MAX))?;
        match tags.iter().find(|tag| tag.contains(',')) {
            Some(tag) => Err(refused("tags", &json!(tag), "must not contain a comma: it separates tags in queries")),
            None => Ok(tags),
        }
    }

    fn metadata(&mut self) -> Result<Map<String, Value>, Problem> {
        let metadata = self.object("metadata")?;
        let metadata_bytes = serde_json::to_string(&metadata).expect("values of JSON").len();
        if metadata_bytes > METADATA_BYTES_MAX {
            let remedy = format!("has {metadata_bytes} bytes as JSON: at most {METADATA_BYTES_MAX} (64 KiB) are stored");
            return Err(refused("metadata", &Value::Null, &remedy));
        }
        Ok(metadata)
    }

    /// Refuses keys that belong to the API but are not delivered by this version, each with [`Code::NotYet`].
    pub fn refuse_not_yet(&mut self, names: &[&str], refusals: &mut Refusals) {
        for name in names.iter().filter(|name| self.object.remove(**name).is_some_and(|value| !value.is_null())) {
            refusals.keep::<()>(Err(Problem::new(Code::NotYet, format!("`{name}` is not yet available: leave it out")).at(*name)));
        }
    }

    /// Says that all known keys have been read.
    ///
    /// # Errors
    /// [`Code::BadField`] names the unknown ones, and the known ones.
    pub fn finish(mut self) -> Result<(), Problem> {
        self.known.sort_unstable();
        let unknown = |(name, value): (&String, &Value)| {
            let hint = nearest_key(name, &self.known).map(|key| format!(" (did you mean `{key}`?)")).unwrap_or_default();
            refused(name, value, &format!("is not a known key{hint}; known are: {}", self.known.join(", ")))
        };
        Problem::of_all(self.object.iter().take(ERRORS_MAX).map(unknown).collect()).map_or(Ok(()), Err)
    }
}

/// Who submits, in the submitter's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitter {
    /// On whose behalf.
    pub user_id: Option<String>,
    /// At most [`TAGS_MAX`].
    pub tags: Vec<String>,
    /// An object of at most [`METADATA_BYTES_MAX`].
    pub metadata: Value,
}

/// A refusal of one key.
#[must_use]
pub fn refused(name: &str, value: &Value, what: &str) -> Problem {
    let problem = Problem::new(Code::BadField, format!("`{name}` {what}")).at(name);
    if value.is_null() { problem } else { problem.with_value(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::new(value, "the body").expect("an object")
    }

    /// What is said of the keys that every submission has.
    fn submitter(value: Value) -> String {
        let mut refusals = Refusals::default();
        fields(value).submitter(&mut refusals);
        said(refusals.finish())
    }

    fn said<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
        format!("{:?}", result.expect_err("refused"))
    }

    #[test]
    fn durations_are_words_or_seconds() {
        for (value, seconds) in [(json!("2h"), 7_200), (json!(90), 90), (json!("90s"), 90)] {
            assert_eq!(fields(json!({"timeout": value})).duration("timeout"), Ok(Some(Duration::from_secs(seconds))));
        }
        for value in [json!(0), json!(-1), json!("soon"), json!(true), json!(1e300)] {
            assert!(said(fields(json!({"timeout": value})).duration("timeout")).contains("longer than zero"), "{value}");
        }
    }

    #[test]
    fn limits_are_named() {
        let long_tag = json!({"tags": ["x".repeat(129)]});
        assert!(submitter(long_tag).contains("at most 64 texts of 1 to 128 bytes"));
        assert!(submitter(json!({"tags": ["a,b"]})).contains("comma"));
        assert!(submitter(json!({"metadata": {"x": "y".repeat(65_536)}})).contains("64 KiB"));
        assert!(submitter(json!({"metadata": []})).contains("must be an object"));
        assert!(submitter(json!({"user_id": ""})).contains("1 to 255 bytes"));
        assert!(said(fields(json!({"n": 1.5})).number("n", 7)).contains("from 0 to 7"));
    }

    #[test]
    fn unknown_and_future_keys_are_refused_differently() {
        let mut given = fields(json!({"run": null, "usr_id": "x"}));
        assert_eq!(given.text("run", 10), Ok(None));
        assert!(said(given.finish()).contains("`usr_id` is not a known key; known are: run"));
        for (key, meant) in
            [("users_id", "`users_id` is not a known key (did you mean `user_id`?); known are: run, user_id"), ("command", "`run`")]
        {
            let mut given = fields(json!({key: "x"}));
            drop((given.value("user_id"), given.value("run")));
            assert!(said(given.finish()).contains(meant), "{key}");
        }
        let (mut given, mut refusals) = (fields(json!({"callback_url": null})), Refusals::default());
        given.refuse_not_yet(&["callback_url"], &mut refusals);
        assert_eq!((given.finish(), refusals.finish()), (Ok(()), Ok(())), "a null is a key not given");
        let mut refusals = Refusals::default();
        fields(json!({"callback_url": "x"})).refuse_not_yet(&["callback_url"], &mut refusals);
        assert_eq!(refusals.finish().map_err(|problem| problem.code()), Err(Code::NotYet));
    }
}
