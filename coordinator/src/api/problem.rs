//! Errors as `application/problem+json` (RFC 9457) with stable codes, and the page of each code.

use super::parameters::{Parameters, Segment};
use super::refusals::ERRORS_MAX;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use orchestr8_store::read::{Candidate, ReadError};
use serde::Serialize;
use serde_json::{Value, json};

/// Bytes of a refused value that are repeated in the answer, at most.
const VALUE_BYTES_SHOWN_MAX: usize = 200;
/// Callers that are told to come again are told to wait this long: a server that is away is mostly back in a moment.
const RETRY_AFTER_S: u64 = 1;
/// What waits takes a while to be worked off, and callers that come too early make it longer.
const RETRY_AFTER_OVERLOADED_S: u64 = 5;

macro_rules! codes {
    ($($variant:ident = $word:literal, $status:ident, $title:literal, $cause:literal, $remedy:literal;)+) => {
        /// The stable code of a problem; the number behind it is the HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $(#[doc = $title] $variant),+ }

        impl Code {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word in `code` and in the path of its page.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),+ }
            }

            /// In a few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }

            const fn cause_and_remedy(self) -> (&'static str, &'static str) {
                match self { $(Self::$variant => ($cause, $remedy)),+ }
            }
        }
    };
}

codes! {
    BadJson = "bad_json", BAD_REQUEST, "The body is not valid JSON",
        "The body is not one JSON document, nests too deeply, has a key twice, or holds a NUL character.",
        "Correct the body at the line and column in `detail`.";
    BadField = "bad_field", BAD_REQUEST, "A field has a wrong value",
        "A key of the body is missing, unknown, of the wrong type, too long or not one of the known words.",
        "`field` names the key and `detail` says what it must be; `errors` lists every wrong field of a submission.";
    BadParameter = "bad_parameter", BAD_REQUEST, "A parameter has a wrong value",
        "A query parameter, a header or a name in the path is unknown, given twice, or not of the form that it needs.",
        "`field` names the parameter and `detail` says what it must be.";
    BadCursor = "bad_cursor", BAD_REQUEST, "The cursor is not one of this list",
        "Cursors come from `next_cursor` of the page before and fit only the same list.",
        "Start again without a cursor, or pass `next_cursor` as it was given.";
    BadId = "bad_id", BAD_REQUEST, "This is not an id of what is meant",
        "An id is a UUID or at least the first 8 hex digits of one; workflows and tasks have different ids.",
        "Pass the id as it was given at submission.";
    Unauthorized = "unauthorized", UNAUTHORIZED, "A valid bearer token is required",
        "The request has no `Authorization: Bearer` header, or its token is not this coordinator's.",
        "Pass the token that the coordinator was configured with; `orchestr8 dev` writes it to .orchestr8/token.";
    NotFound = "not_found", NOT_FOUND, "There is no such thing",
        "No workflow, task, definition, executor, quarantined event or page has this id or name; it may be of another installation, a definition may not be registered, or an executor may have ended.",
        "Check the id or name; lists show what there is.";
    UnknownRoute = "unknown_route", NOT_FOUND, "There is no such route",
        "The API has nothing under this path.",
        "The routes are listed in docs/api.md; they start with /api/v1.";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The route has other methods",
        "The path exists, but not with this method.",
        "The `Allow` header names the methods.";
    AmbiguousId = "ambiguous_id", CONFLICT, "More than one could be meant",
        "Ids begin with their time: those drawn within the same minute share their first digits. Several executors may have one name.",
        "Pass more digits, or the `id` of one of `candidates` as a whole.";
    KeyReused = "key_reused", CONFLICT, "The idempotency key was used with another body",
        "An Idempotency-Key stands for one request; this one was sent before with another body or to another path. Bodies are compared byte by byte: the same JSON with other blanks or another order of keys is another body.",
        "Send the same bytes to get the first answer again, or draw a new key.";
    AlreadyFinal = "already_final", CONFLICT, "It has ended already",
        "What has completed, failed or been cancelled does not change any more.",
        "Nothing is left to do; submit it again to have it run again.";
    NotPaused = "not_paused", CONFLICT, "The queue is not paused",
        "Only a paused queue can be resumed; somebody else may have resumed it.",
        "Nothing is left to do; GET /api/v1/queues shows which queues are paused.";
    ComesByItself = "comes_by_itself", CONFLICT, "It comes again by itself",
        "What an executor reports, and what the coordinator looks at again anyway, is not kept for a redrive.",
        "Mend the cause that `error` of the entry names; the event comes again and is applied then. Discard the entry to forget it.";
    TooManyPaused = "too_many_paused", CONFLICT, "Too many queues are paused",
        "The number of queues that are paused at a time has a bound, which `detail` names.",
        "Resume those that need not be paused: GET /api/v1/queues shows them.";
    BodyIncomplete = "body_incomplete", BAD_REQUEST, "The body did not arrive as a whole",
        "The connection ended before the body did, or the body took too long.",
        "Send it again, with the same Idempotency-Key.";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large",
        "The whole body has a limit, which `detail` names.",
        "Send several requests, or pass large inputs by reference.";
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body must be JSON",
        "Only `Content-Type: application/json` is understood.",
        "Set the header; YAML definitions travel as a string in the JSON body.";
    InvalidDefinition = "invalid_definition", UNPROCESSABLE_ENTITY, "The definition has mistakes",
        "The definition or task does not make a plan.",
        "`problems` lists each mistake with line, column and, where there is one, a suggestion.";
    InvalidInput = "invalid_input", UNPROCESSABLE_ENTITY, "The input does not fit the definition",
        "The definition's `input` schema refuses the input.",
        "`problems` lists what does not fit, each with its path.";
    NotYet = "not_yet", UNPROCESSABLE_ENTITY, "Not available yet",
        "The key belongs to the API but is not delivered by this version; ignoring it would be wrong.",
        "Leave the key out, or wait for a version that has it.";
    Refused = "refused", UNPROCESSABLE_ENTITY, "The database refused the rows",
        "A value is valid JSON but cannot be stored.",
        "`detail` repeats what the database said.";
    TooManyQueues = "too_many_queues", UNPROCESSABLE_ENTITY, "There are too many queues",
        "The submission names a queue that there is not yet, and there are as many as the coordinator lets in: each costs nats-server memory.",
        "Use a queue that there is (GET /api/v1/queues), wait until those that nobody uses or serves are forgotten, or raise --queues-max. Tags, not queues, tell users and jobs apart.";
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "Not available at the moment",
        "Postgres or the lane that serves the request does not answer.",
        "Try again after `Retry-After` seconds, with the same Idempotency-Key; /readyz says which part is missing.";
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Too much waits for the database",
        "Submissions come faster than Postgres takes them; what waits in memory has a bound, which `detail` names.",
        "Try again after `Retry-After` seconds, with the same Idempotency-Key; if it lasts, find out why Postgres is slow.";
    TooManyListeners = "too_many_listeners", SERVICE_UNAVAILABLE, "Too many callers wait",
        "The number of open event streams and waits has a bound, which `detail` names.",
        "Try again after `Retry-After` seconds, or poll without `wait`.";
    Internal = "internal", INTERNAL_SERVER_ERROR, "An error of the coordinator",
        "A bug, or a database of another version than the coordinator's.",
        "Look at the coordinator's log at this time, and report it.";
}

/// One mistake in a definition or an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// From 1; null where there is no text to point into.
    pub line: Option<u32>,
    /// From 1.
    pub column: Option<u32>,
    /// Where it stands, such as `tasks.build.timeout`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What may have been meant.
    pub suggestion: Option<String>,
    /// What stands there, as far as it is known; shown with the field.
    #[serde(skip)]
    pub value: Option<Value>,
}

/// One refused request.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    inside: Box<Inside>,
}

#[derive(Debug, Clone, PartialEq)]
struct Inside {
    code: Code,
    detail: String,
    field: Option<String>,
    value: Option<Value>,
    findings: Vec<Finding>,
    candidates: Vec<Candidate>,
    errors: Vec<FieldError>,
}

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct FieldError {
    /// Its place, such as `[3].timeout`.
    field: Option<String>,
    /// As far as it can be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    /// What is wrong, and the remedy.
    message: String,
}

impl Problem {
    /// A problem of this kind; `detail` says what, where and what to do.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let (field, value) = (None, None);
        let (findings, candidates, errors) = (Vec::new(), Vec::new(), Vec::new());
        let inside = Inside { code, detail: detail.into(), field, value, findings, candidates, errors };
        Self { inside: Box::new(inside) }
    }

    /// Nothing has this id or name.
    #[must_use]
    pub fn not_found(what: &str, id: impl std::fmt::Display) -> Self {
        let remedy = match what {
            "task" | "workflow" => {
                format!(": check the id; it may be of another installation, or gone. GET /api/v1/{what}s lists what there is")
            }
            "definition" => ": check name and version, or register it. GET /api/v1/definitions lists what there is".to_owned(),
            "executor" => {
                ": check the name; it may have ended. GET /api/v1/executors (`orchestr8 executors list`) lists those that are heard"
                    .to_owned()
            }
            "quarantined event" => ": check the id; it may be redriven or discarded. GET /api/v1/quarantine lists what there is".to_owned(),
            _ => String::new(),
        };
        Self::new(Code::NotFound, format!("there is no {what} `{id}`{remedy}"))
    }

    /// Names the key or parameter that is at fault.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.inside.field = Some(field.into());
        self
    }

    /// Repeats the value that is at fault, cut to a readable length.
    #[must_use]
    pub fn with_value(mut self, value: &Value) -> Self {
        self.inside.value = Some(shown(value));
        self
    }

    /// Lists the mistakes of a definition or an input.
    #[must_use]
    pub fn with_findings(mut self, findings: Vec<Finding>) -> Self {
        self.inside.findings = findings;
        self
    }

    /// Lists what an ambiguous id could stand for.
    #[must_use]
    pub fn with_candidates(mut self, candidates: Vec<Candidate>) -> Self {
        self.inside.candidates = candidates;
        self
    }

    /// The key or parameter at fault stands within this one: `tasks[3]` and `timeout` become `tasks[3].timeout`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        let place = |field: Option<String>| Some(field.map_or_else(|| outer.to_owned(), |field| format!("{outer}.{field}")));
        self.inside.field = place(self.inside.field.take());
        for error in &mut self.inside.errors {
            error.field = place(error.field.take());
        }
        self
    }

    /// The first of several, which names them all, at most [`ERRORS_MAX`]; none: there is none.
    #[must_use]
    pub fn of_all(problems: Vec<Self>) -> Option<Self> {
        let errors: Vec<FieldError> = problems.iter().flat_map(Self::errors).take(ERRORS_MAX).collect();
        let mut first = problems.into_iter().next()?;
        first.inside.errors = errors;
        Some(first)
    }

    /// The wrong fields that it stands for: those that it names, or itself.
    fn errors(&self) -> Vec<FieldError> {
        let Inside { code, detail, field, value, findings, errors, .. } = self.inside.as_ref();
        if !errors.is_empty() {
            return errors.clone();
        }
        if *code == Code::BadField && !findings.is_empty() {
            let error = |finding: &Finding| FieldError {
                field: Some(finding.path.clone()),
                value: finding.value.as_ref().map(shown),
                message: finding.message.clone(),
            };
            return findings.iter().map(error).collect();
        }
        vec![FieldError { field: field.clone(), value: value.clone(), message: detail.clone() }]
    }

    /// Every key or parameter at fault.
    pub fn fields(&self) -> impl Iterator<Item = String> {
        self.errors().into_iter().filter_map(|error| error.field)
    }

    /// What, where and what to do.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.inside.detail
    }

    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.inside.code
    }

    /// What `Retry-After` says, in seconds; none: trying again changes nothing.
    fn retry_after_s(&self) -> Option<u64> {
        let comes_again = self.code().status() == StatusCode::SERVICE_UNAVAILABLE;
        let wait = if self.code() == Code::Overloaded { RETRY_AFTER_OVERLOADED_S } else { RETRY_AFTER_S };
        comes_again.then_some(wait)
    }

    /// The body of the answer.
    pub(super) fn document(&self) -> Value {
        let Inside { code, detail, field, value, findings, candidates, errors } = self.inside.as_ref();
        let mut document = json!({
            "type": format!("/problems/{}", code.word()),
            "title": code.title(),
            "status": code.status().as_u16(),
            "code": code.word(),
            "detail": detail,
        });
        if let Some(field) = field {
            document["field"] = json!(field);
        }
        if let Some(value) = value {
            document["value"] = value.clone();
        }
        if !findings.is_empty() {
            document["problems"] = json!(findings);
        }
        if !candidates.is_empty() {
            document["candidates"] = json!(candidates);
        }
        if !errors.is_empty() {
            document["errors"] = json!(errors);
        }
        document
    }
}

impl From<ReadError> for Problem {
    /// The details of a broken read are for the log: they name columns, not what the caller can change.
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable(cause) => {
                tracing::warn!(error = %cause, "a read was not answered");
                Self::new(Code::Unavailable, "the database does not answer; try again")
            }
            ReadError::Refused(_) | ReadError::Unreadable { .. } => {
                tracing::error!(%error, "a read failed");
                Self::new(Code::Internal, "the database and this coordinator do not fit together; its log says more")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let code = self.code();
        let mut response = (code.status(), Json(self.document())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"orchestr8\""));
        }
        if let Some(wait) = self.retry_after_s() {
            headers.insert(header::RETRY_AFTER, wait.into());
        }
        response
    }
}

/// `GET /problems`: all codes.
pub(super) async fn pages(parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    Ok(Json(json!({ "problems": Code::ALL.iter().map(|code| page_of(*code)).collect::<Vec<_>>() })))
}

/// `GET /problems/{code}`: cause and remedy of one code.
pub(super) async fn page(Segment(word): Segment, parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    let code = Code::ALL.iter().find(|code| code.word() == word).ok_or_else(|| Problem::not_found("problem page", &word))?;
    Ok(Json(page_of(*code)))
}

fn page_of(code: Code) -> Value {
    let (cause, remedy) = code.cause_and_remedy();
    json!({
        "type": format!("/problems/{}", code.word()),
        "code": code.word(),
        "title": code.title(),
        "status": code.status().as_u16(),
        "cause": cause,
        "remedy": remedy,
    })
}

fn shown(value: &Value) -> Value {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) => return value.clone(),
        Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    if text.len() <= VALUE_BYTES_SHOWN_MAX {
        return value.clone();
    }
    let cut = text.floor_char_boundary(VALUE_BYTES_SHOWN_MAX);
    Value::String(format!("{}…", &text[..cut]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_what_is_known_and_nothing_else() {
        let problem = Problem::new(Code::BadField, "must be text").at("timeout").with_value(&json!(7)).within("tasks[3]");
        let expected = json!({
            "type": "/problems/bad_field", "title": "A field has a wrong value", "status": 400, "code": "bad_field",
            "detail": "must be text", "field": "tasks[3].timeout", "value": 7,
        });
        assert_eq!(problem.document(), expected);
    }

    #[test]
    fn the_first_of_several_names_all_and_each_keeps_its_place() {
        let of = |field: &str| Problem::new(Code::BadField, format!("`{field}` is wrong")).at(field);
        let inner = Problem::of_all(vec![of("timeout").with_value(&json!("soon")), of("queue")]).expect("two").within("[3]");
        let all = Problem::of_all(vec![of("[1].run"), inner]).expect("two").document();
        assert_eq!((&all["detail"], &all["field"]), (&json!("`[1].run` is wrong"), &json!("[1].run")));
        let expected = json!([
            {"field": "[1].run", "message": "`[1].run` is wrong"},
            {"field": "[3].timeout", "value": "soon", "message": "`timeout` is wrong"},
            {"field": "[3].queue", "message": "`queue` is wrong"},
        ]);
        assert_eq!(all["errors"], expected);
        let many = Problem::of_all((0..=ERRORS_MAX).map(|_| of("x")).collect()).expect("many").document();
        assert_eq!(many["errors"].as_array().map(Vec::len), Some(ERRORS_MAX));
        assert_eq!(Problem::of_all(Vec::new()), None);
    }

    #[test]
    fn long_values_are_cut_at_a_character() {
        let Value::String(text) = shown(&json!("é".repeat(150))) else { panic!("text stays text") };
        assert_eq!(text.chars().count(), 101);
    }

    #[test]
    fn every_503_says_when_to_come_again_and_nothing_else_does() {
        for code in Code::ALL {
            let response = Problem::new(*code, "").into_response();
            let wait = response.headers().get(header::RETRY_AFTER).map(|wait| wait.to_str().expect("digits").to_owned());
            let expected = (code.status() == StatusCode::SERVICE_UNAVAILABLE).then(|| if *code == Code::Overloaded { "5" } else { "1" });
            assert_eq!(wait.as_deref(), expected, "{code:?}");
        }
    }

    #[test]
    fn codes_are_unique() {
        let mut words: Vec<_> = Code::ALL.iter().map(|code| code.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
    }
}
