//! What a refusal says: `application/problem+json` (RFC 9457) with the coordinator's own members.

use crate::text::{harmless, harmless_line};
use serde::Deserialize;
use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// Longest part of an answer that is no problem document and is shown all the same, in characters.
const FOREIGN_CHARACTERS_MAX: usize = 200;

/// Why the coordinator refused a request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// What was asked for.
    #[serde(skip)]
    pub path: String,
    /// When to come again, as the header `Retry-After` says.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
    /// The stable code of the error.
    #[serde(default)]
    pub code: String,
    /// What it is about, in a few words.
    #[serde(default)]
    pub title: String,
    /// What happened and what to do.
    #[serde(default)]
    pub detail: String,
    /// The key or parameter at fault, such as `tasks[3].timeout`.
    #[serde(default)]
    pub field: Option<String>,
    /// What was given there, cut to a readable length.
    #[serde(default)]
    pub value: Option<Value>,
    /// What an ambiguous id could stand for.
    #[serde(default)]
    pub candidates: Vec<Candidate>,
    /// Each mistake with its place.
    #[serde(default)]
    pub problems: Vec<PlacedProblem>,
    /// Every wrong field of a submission, those of `problems` too.
    #[serde(default)]
    pub errors: Vec<PlacedProblem>,
}

/// One of several things whose ids start alike.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Candidate {
    /// Its whole id.
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// When it was accepted.
    #[serde(default)]
    pub created_at: String,
}

/// One mistake in what was submitted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct PlacedProblem {
    /// Line in the definition, from 1.
    #[serde(default)]
    pub line: Option<u64>,
    /// Column in the line, from 1.
    #[serde(default)]
    pub column: Option<u64>,
    /// Where it stands when there are no lines, such as `tasks[0].run`.
    #[serde(default, alias = "path")]
    pub field: Option<String>,
    /// What was given there, cut to a readable length.
    #[serde(default)]
    pub value: Option<Value>,
    /// What is wrong.
    #[serde(default)]
    pub message: String,
    /// What was probably meant.
    #[serde(default)]
    pub suggestion: Option<String>,
}

impl Problem {
    /// Reads the body of a refusal; whatever it is, something can be said about it.
    #[must_use]
    pub fn read(status: u16, path: &str, body: &[u8]) -> Self {
        let read = serde_json::from_slice::<Self>(body).ok().filter(|problem| !problem.title.is_empty() || !problem.detail.is_empty());
        match read {
            Some(problem) => Self { status, path: path.to_owned(), ..problem },
            None => Self {
                status,
                path: path.to_owned(),
                title: format!("HTTP status {status} for {path}"),
                detail: excerpt(body),
                ..Self::default()
            },
        }
    }
}

impl Problem {
    /// One line per mistake that the detail has not told, and per candidate; `file` stands before the lines of mistakes.
    #[must_use]
    pub fn lines(&self, file: Option<&str>) -> Vec<String> {
        let mistakes = if self.errors.is_empty() { &self.problems } else { &self.errors };
        let mistakes = mistakes.iter().filter(|problem| !self.has_told(problem)).map(|problem| problem.show(file));
        let candidates = self.candidates.iter().map(|one| harmless_line(&format!("{} {} {}", one.id, one.created_at, one.name)));
        mistakes.chain(candidates).collect()
    }

    /// Whether the detail has told this mistake. Several fields may have the same one, and it names them where it tells more than its own.
    fn has_told(&self, problem: &PlacedProblem) -> bool {
        let names = |field: &String| self.field.as_ref() == Some(field) || self.detail.contains(&format!("`{field}`"));
        self.detail.contains(&problem.message) && problem.field.as_ref().is_none_or(names)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.title.as_str(), self.detail.as_str()) {
            (title, "") => f.write_str(&harmless_line(title))?,
            ("", detail) => f.write_str(&harmless(detail))?,
            // A problem of the coordinator's says the same in both, the detail with its particulars.
            (_, detail) if !self.code.is_empty() => f.write_str(&harmless(detail))?,
            (title, detail) => write!(f, "{}: {}", harmless_line(title), harmless(detail))?,
        }
        f.write_str(&given(self.value.as_ref(), &self.detail))?;
        // A plain field is named in the detail; a nested one says which of several.
        if let Some(field) = self.field.as_ref().filter(|field| field.contains(['[', '.']) && !self.detail.contains(field.as_str())) {
            write!(f, " [{}]", harmless_line(field))?;
        }
        if !self.code.is_empty() {
            write!(f, " ({})", harmless_line(&self.code))?;
        }
        Ok(())
    }
}

impl PlacedProblem {
    /// `file:line:column: message (did you mean …?)`; without a file the field stands first.
    #[must_use]
    pub fn show(&self, file: Option<&str>) -> String {
        let mut place = file.unwrap_or_default().to_owned();
        if let (Some(line), Some(column)) = (self.line, self.column) {
            let start = if place.is_empty() { "line ".to_owned() } else { format!("{place}:") };
            place = format!("{start}{line}:{column}");
        } else if let Some(field) = self.field.as_ref().filter(|_| place.is_empty()) {
            place.clone_from(field);
        }
        let hint = self.suggestion.as_ref().map(|suggestion| format!(" (did you mean `{suggestion}`?)")).unwrap_or_default();
        let separator = if place.is_empty() { "" } else { ": " };
        harmless(&format!("{place}{separator}{}{}{hint}", self.message, given(self.value.as_ref(), &self.message)))
    }
}

/// The value at fault, as JSON so that an empty text is seen; nothing where what was said names it.
fn given(value: Option<&Value>, said: &str) -> String {
    let named = |value: &Value| said.contains(&format!("`{}`", value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)));
    value.filter(|value| !named(value)).map(|value| harmless_line(&format!("; got {value}"))).unwrap_or_default()
}

fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    harmless_line(&text.chars().take(FOREIGN_CHARACTERS_MAX).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_problem_is_shown_with_its_places() {
        let body = json!({"type": "x", "title": "The definition is not valid", "detail": "the definition has 2 mistakes", "code": "definition_invalid", "problems": [
            {"line": 3, "column": 5, "message": "`nedes` is not a key of a task", "suggestion": "needs"},
            {"path": "input.n", "message": "is not a number"},
        ]});
        let problem = Problem::read(422, "/api/v1/workflows", body.to_string().as_bytes());
        assert_eq!(problem.to_string(), "the definition has 2 mistakes (definition_invalid)");
        assert_eq!(problem.status, 422);
        assert_eq!(problem.problems[0].show(Some("flow.yaml")), "flow.yaml:3:5: `nedes` is not a key of a task (did you mean `needs`?)");
        assert_eq!(problem.problems[0].show(None), "line 3:5: `nedes` is not a key of a task (did you mean `needs`?)");
        assert_eq!(problem.problems[1].show(None), "input.n: is not a number");
    }

    #[test]
    fn a_mistake_is_told_once() {
        let message = "`A B` is not a queue name: use 1 to 64 of a-z";
        let body = json!({"title": "T", "detail": format!("`queue`: {message}"), "code": "bad_field", "problems": [{"path": "queue", "message": message}]});
        assert!(Problem::read(400, "/api/v1/tasks", body.to_string().as_bytes()).lines(None).is_empty());
    }

    #[test]
    fn every_wrong_field_is_told() {
        let wrong = |field: &str, message: &str| json!({"field": field, "value": 1, "message": message});
        let errors = [wrong("timeout", "`timeout` must be"), wrong("env.A", "must be text"), wrong("env.B", "must be text")];
        let body = json!({"title": "T", "detail": "`timeout` must be", "code": "bad_field", "field": "timeout", "errors": errors});
        let lines = Problem::read(400, "/api/v1/tasks", body.to_string().as_bytes()).lines(None);
        assert_eq!(lines, ["env.A: must be text; got 1", "env.B: must be text; got 1"]);
    }

    #[test]
    fn the_value_at_fault_is_told_once() {
        let told = |detail: &str, value: Value| {
            let body = json!({"title": "T", "detail": detail, "code": "bad_field", "field": "timeout", "value": value}).to_string();
            Problem::read(400, "/api/v1/tasks", body.as_bytes()).to_string()
        };
        assert_eq!(
            told("`timeout` must be a duration", json!("soon\u{1b}[2J")),
            "`timeout` must be a duration; got \"soon\\u001b[2J\" (bad_field)"
        );
        assert_eq!(told("`tags` must not be empty", json!("")), "`tags` must not be empty; got \"\" (bad_field)");
        assert_eq!(told("`A B` is no queue", json!("A B")), "`A B` is no queue (bad_field)");
        assert_eq!(told("`timeout` must be", Value::Null), "`timeout` must be (bad_field)");
    }

    #[test]
    fn candidates_are_told_with_time_and_name() {
        let candidates = json!([{"id": "0199abcd", "name": "build\u{1b}[2J", "created_at": "2026-01-31T12:00:00Z"}]);
        let body = json!({"title": "More than one", "detail": "more than one task", "code": "ambiguous_id", "candidates": candidates});
        let problem = Problem::read(409, "/x", body.to_string().as_bytes());
        assert_eq!(problem.lines(None), ["0199abcd 2026-01-31T12:00:00Z build"]);
    }

    #[test]
    fn what_is_no_problem_document_is_named_and_harmless() {
        let problem = Problem::read(502, "/api/v1/tasks", b"<html>\x1b[2Jbad gateway</html>");
        assert_eq!(problem.to_string(), "HTTP status 502 for /api/v1/tasks: <html>bad gateway</html>");
        assert_eq!(Problem::read(500, "/x", b"").to_string(), "HTTP status 500 for /x");
    }
}
