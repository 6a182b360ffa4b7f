//! Query parameters: each is read by name, and what nobody asked for is refused.

use super::problem::{Code, Problem};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use orchestr8_core::definition::parse_duration;
use orchestr8_proto::words::UnknownWord;
use orchestr8_store::read::PAGE_ROWS_MAX;
use serde_json::json;
use std::convert::Infallible;
use std::str::FromStr;
use std::time::Duration;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// Rows in a page when the caller does not say.
const PAGE_ROWS_DEFAULT: u16 = 100;
/// The longest that one request waits: proxies cut connections that are silent for longer.
pub const WAIT_MAX: Duration = Duration::from_mins(1);

/// The query parameters of one request.
#[derive(Debug, Default)]
pub struct Parameters {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl<S: Sync> FromRequestParts<S> for Parameters {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map(|query| query.0).unwrap_or_default();
        Ok(Self { pairs, known: Vec::new() })
    }
}

/// The one variable part of a path.
#[derive(Debug)]
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) if !text.contains('\0') => Ok(Self(text)),
            Ok(_) | Err(_) => Err(Problem::new(Code::BadParameter, "the path must be UTF-8 without NUL characters")),
        }
    }
}

impl Parameters {
    /// The text of a parameter that may be given once.
    ///
    /// # Errors
    /// [`Code::BadParameter`] when it is given twice, is empty, or holds a NUL character.
    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, Problem> {
        let mut given = self.all(name)?;
        match given.len() {
            0 | 1 => Ok(given.pop()),
            _ => Err(refused(name, &given[1], "is given twice: give it once")),
        }
    }

    /// Words of one kind, separated by commas or in several parameters of this name.
    ///
    /// # Errors
    /// [`Code::BadParameter`] names the word and the known ones.
    pub fn words<T: FromStr<Err = UnknownWord>>(&mut self, name: &'static str) -> Result<Vec<T>, Problem> {
        let words = self.listed(name)?;
        words.iter().map(|word| word.parse().map_err(|error: UnknownWord| refused(name, word, &error.to_string()))).collect()
    }

    /// Texts, separated by commas or in several parameters of this name.
    ///
    /// # Errors
    /// [`Code::BadParameter`] for an empty one.
    pub fn listed(&mut self, name: &'static str) -> Result<Vec<String>, Problem> {
        let given = self.all(name)?;
        let texts: Vec<String> = given.iter().flat_map(|texts| texts.split(',')).map(str::to_owned).collect();
        match texts.iter().find(|text| text.is_empty()) {
            Some(text) => Err(refused(name, text, "has an empty entry: separate entries by one comma")),
            None => Ok(texts),
        }
    }

    /// A time in RFC 3339.
    ///
    /// # Errors
    /// [`Code::BadParameter`] with the form.
    pub fn time(&mut self, name: &'static str) -> Result<Option<OffsetDateTime>, Problem> {
        let remedy = "must be a time in RFC 3339, such as 2026-01-31T12:00:00Z (write `+` as %2B)";
        let parse = |text: String| rfc3339(&text).ok_or_else(|| refused(name, &text, remedy));
        self.text(name)?.map(parse).transpose()
    }

    /// Rows of one page (`limit`).
    ///
    /// # Errors
    /// [`Code::BadParameter`] with the range.
    pub fn limit(&mut self) -> Result<u16, Problem> {
        let Some(text) = self.text("limit")? else { return Ok(PAGE_ROWS_DEFAULT) };
        let rows = text.parse().ok().filter(|rows| (1..=PAGE_ROWS_MAX).contains(rows));
        rows.ok_or_else(|| refused("limit", &text, &format!("must be a whole number from 1 to {PAGE_ROWS_MAX}")))
    }

    /// Where the page before ended (`cursor`).
    ///
    /// # Errors
    /// [`Code::BadCursor`] when it is none of this list's.
    pub fn cursor<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Problem> {
        let Some(text) = self.text("cursor")? else { return Ok(None) };
        let refusal = || Problem::new(Code::BadCursor, "pass `next_cursor` of the page before, from the same list").at("cursor");
        parse(&text).map(Some).ok_or_else(|| refusal().with_value(&json!(text)))
    }

    /// How long the caller waits for an end (`wait`); zero: not at all.
    ///
    /// # Errors
    /// [`Code::BadParameter`] with the form and the limit.
    pub fn wait(&mut self) -> Result<Duration, Problem> {
        let Some(text) = self.text("wait")? else { return Ok(Duration::ZERO) };
        let remedy = format!("must be a duration of at most {} s, such as 30s; ask again after it", WAIT_MAX.as_secs());
        let wait = parse_duration(&text).ok().filter(|wait| *wait <= WAIT_MAX);
        wait.ok_or_else(|| refused("wait", &text, &remedy))
    }

    /// A whole number from 0.
    ///
    /// # Errors
    /// [`Code::BadParameter`] when it is something else.
    pub fn number(&mut self, name: &'static str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        sequence_number(name, &text).map(Some)
    }

    /// Says that all known parameters have been read.
    ///
    /// # Errors
    /// [`Code::BadParameter`] names the first unknown one and the known ones.
    pub fn finish(self) -> Result<(), Problem> {
        let Some((name, value)) = self.pairs.into_iter().next() else { return Ok(()) };
        let known = if self.known.is_empty() { "none here".to_owned() } else { self.known.join(", ") };
        Err(refused(&name, &value, &format!("is not a known parameter; known are: {known}")))
    }

    fn all(&mut self, name: &'static str) -> Result<Vec<String>, Problem> {
        self.known.push(name);
        let given: Vec<String> = self.pairs.extract_if(.., |(key, _)| key == name).map(|(_, value)| value).collect();
        match given.iter().find(|value| value.is_empty() || value.contains('\0')) {
            Some(value) => Err(refused(name, value, "must be text without NUL characters, and not empty")),
            None => Ok(given),
        }
    }
}

/// The number of an event, from a parameter or a header of this name.
///
/// # Errors
/// [`Code::BadParameter`] when it is something else.
pub fn sequence_number(name: &str, text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| refused(name, text, "must be a whole number from 0, such as the `id` of the last event"))
}

/// A time in RFC 3339, in UTC; none when it is not one, or lies beyond the year 9999 there.
#[must_use]
pub fn rfc3339(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()?.checked_to_offset(UtcOffset::UTC)
}

fn refused(name: &str, value: &str, what: &str) -> Problem {
    Problem::new(Code::BadParameter, format!("`{name}` {what}")).at(name).with_value(&json!(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::words::TaskStatus;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        Parameters { pairs: pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(), known: Vec::new() }
    }

    #[test]
    fn lists_come_with_commas_or_repeated() {
        let mut given = parameters(&[("status", "queued,running"), ("status", "failed")]);
        let expected = vec![TaskStatus::Queued, TaskStatus::Running, TaskStatus::Failed];
        assert_eq!(given.words::<TaskStatus>("status"), Ok(expected));
        assert_eq!(given.finish(), Ok(()));
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        let debug = |problem: Problem| format!("{problem:?}");
        let said = debug(parameters(&[("status", "quued")]).words::<TaskStatus>("status").expect_err("unknown"));
        assert!(said.contains("`quued` is not a task status: use one of pending, queued"), "{said}");
        let said = debug(parameters(&[("wait", "2h")]).wait().expect_err("too long"));
        assert!(said.contains("at most 60 s"), "{said}");
        let said = debug(parameters(&[("limit", "1001")]).limit().expect_err("too many"));
        assert!(said.contains("from 1 to 1000"), "{said}");
        assert!(parameters(&[("user_id", "a"), ("user_id", "b")]).text("user_id").is_err());
        for since in ["yesterday", "9999-12-31T23:59:59-01:00"] {
            assert!(parameters(&[("since", since)]).time("since").is_err(), "{since}");
        }
        let mut given = parameters(&[("limt", "3")]);
        assert_eq!(given.limit(), Ok(PAGE_ROWS_DEFAULT));
        let said = debug(given.finish().expect_err("unknown"));
        assert!(said.contains("`limt` is not a known parameter; known are: limit"), "{said}");
    }
}
