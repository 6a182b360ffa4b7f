//! Definitions in requests: by name, as an object, or as text; and one execution of one.

use super::fields::{Fields, Submitter, refused};
use super::problem::{Code, Finding, Problem};
use super::refusals::Refusals;
use super::submit::check_input_size;
use crate::engine::handle::Submission;
use orchestr8_core::definition::{self, InputProblem, Problems, SOURCE_BYTES_MAX, check_input, nearest, plan_hash};
use orchestr8_core::plan::Plan;
use orchestr8_store::read::ReadError;
use orchestr8_store::read::definitions::{self, StoredPlan};
use serde_json::{Map, Value, json};
use sqlx::PgPool;
use std::sync::Arc;
use time::OffsetDateTime;

/// Keys of the API that this version does not deliver.
const NOT_YET: [&str; 5] = ["callback_url", "on_completion", "on_failure", "priority", "deadline"];
/// Registered names among which the one that was meant is looked for.
const NAMES_MAX: u16 = 1_000;

/// A name, and a version if one is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// As registered.
    pub name: String,
    /// None: the current one.
    pub version: Option<i32>,
}

impl Reference {
    /// Reads `name` or `name@version`; none when the version is no number from 1.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let Some((name, version)) = text.rsplit_once('@') else {
            return Some(Self { name: text.to_owned(), version: None });
        };
        let number = version.parse().ok().filter(|number| *number >= 1)?;
        Some(Self { name: name.to_owned(), version: Some(number) })
    }
}

/// The `definition` of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Definition {
    /// A registered one.
    Registered(Reference),
    /// YAML or JSON text: problems have lines.
    Text(String),
    /// A JSON object: problems have paths only.
    Object(Map<String, Value>),
}

/// A definition that was read, and the text that it is kept as.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// Resolved.
    pub plan: Plan,
    /// SHA-256 of its canonical JSON.
    pub plan_hash: [u8; 32],
    /// As given, or the object as JSON.
    pub source: String,
}

impl Definition {
    /// Takes the key `definition`.
    ///
    /// # Errors
    /// [`Code::BadField`].
    pub fn take(fields: &mut Fields) -> Result<Self, Problem> {
        match fields.value("definition") {
            Some(Value::Object(object)) => Ok(Self::Object(object)),
            Some(Value::String(text)) if text.contains(['\n', ':']) => Ok(Self::Text(text)),
            Some(Value::String(text)) if !text.trim().is_empty() => {
                let remedy = "must be a name, name@version with a version from 1, an object, or YAML text";
                Reference::read(text.trim()).map(Self::Registered).ok_or_else(|| refused("definition", &json!(text), remedy))
            }
            Some(other) => Err(refused("definition", &other, "must be a name, name@version, an object, or YAML text")),
            None => Err(refused("definition", &Value::Null, "is missing: give a name, name@version, an object, or YAML text")),
        }
    }

    /// Reads a definition that the request itself brings; none for a registered one.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] with every mistake.
    pub async fn read(self) -> Result<Result<Read, Reference>, Problem> {
        let (source, lines) = match self {
            Self::Registered(reference) => return Ok(Err(reference)),
            Self::Text(text) => (text, Lines::OfTheCaller),
            Self::Object(object) => (written(&Value::Object(object)), Lines::Ours),
        };
        // Text of megabytes takes a while: other requests go on meanwhile.
        let read = tokio::task::spawn_blocking(move || parse(source, lines)).await;
        let panicked = |error| {
            tracing::error!(%error, "reading a definition panicked");
            Problem::new(Code::Internal, "the definition could not be read; the coordinator's log says more")
        };
        read.map_err(panicked)?.map(Ok)
    }
}

/// With a line for each entry, for those who read it later; a definition that would be too long so is as the caller may have sent it.
fn written(object: &Value) -> String {
    let lines = format!("{object:#}");
    if lines.len() > SOURCE_BYTES_MAX { object.to_string() } else { lines }
}

fn parse(source: String, lines: Lines) -> Result<Read, Problem> {
    let plan = definition::parse(&source).map_err(|problems| invalid(problems, lines))?.plan;
    Ok(Read { plan_hash: plan_hash(&plan), plan, source })
}

/// Whose lines a problem's numbers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    OfTheCaller,
    Ours,
}

/// One execution as a caller wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkflowRequest {
    definition: Definition,
    input: Value,
    submitter: Submitter,
    run_at: Option<OffsetDateTime>,
}

impl WorkflowRequest {
    /// Reads the keys of a request.
    ///
    /// # Errors
    /// [`Code::BadField`] or [`Code::NotYet`] with every key that is wrong.
    pub fn read(value: Value) -> Result<Self, Problem> {
        let (mut fields, mut refusals) = (Fields::new(value, "the body")?, Refusals::default());
        fields.refuse_not_yet(&NOT_YET, &mut refusals);
        // What it is read as where it is refused, to hear of the other keys.
        let definition = refusals.keep(Definition::take(&mut fields)).unwrap_or(Definition::Text(String::new()));
        let input = fields.value("input").unwrap_or_else(|| json!({}));
        refusals.keep(check_input_size("input", "`input` has", &input));
        let submitter = fields.submitter(&mut refusals);
        let run_at = refusals.or_default(fields.time("run_at"));
        refusals.keep(fields.finish());
        refusals.finish()?;
        Ok(Self { definition, input, submitter, run_at })
    }

    /// The execution, its definition resolved and its input checked.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`], [`Code::InvalidInput`], [`Code::NotFound`] for a name, [`Code::Unavailable`].
    pub async fn into_submission(self, reads: &PgPool) -> Result<Submission, Problem> {
        let StoredPlan { plan, plan_hash } = match self.definition.read().await? {
            Ok(read) => StoredPlan { plan_hash: read.plan_hash, plan: read.plan },
            Err(reference) => registered(reads, &reference).await?,
        };
        check_input(&plan, &self.input).map_err(|problems| misfit(&problems))?;
        let Submitter { user_id, tags, metadata } = self.submitter;
        let (plan, input, metadata) = (Arc::new(plan), Arc::new(self.input), Arc::new(metadata));
        Ok(Submission { plan, plan_hash, input, user_id, metadata, tags, run_at: self.run_at, trace: None })
    }
}

async fn registered(reads: &PgPool, reference: &Reference) -> Result<StoredPlan, Problem> {
    let shown = reference.version.map_or(reference.name.clone(), |version| format!("{}@{version}", reference.name));
    let found = definitions::plan(reads, &reference.name, reference.version).await.map_err(|error| match error {
        ReadError::Unreadable { column: "plan", reason } => {
            let detail = format!("the definition `{shown}` was stored by another version and cannot be read ({reason}): register it again");
            Problem::new(Code::InvalidDefinition, detail).at("definition").with_value(&json!(shown))
        }
        error @ (ReadError::Unreadable { .. } | ReadError::Unavailable(_) | ReadError::Refused(_)) => error.into(),
    })?;
    match found {
        Some(plan) => Ok(plan),
        None => Err(unregistered(reads, reference, &shown).await),
    }
}

/// Names what was probably meant, where the names can be read.
async fn unregistered(reads: &PgPool, reference: &Reference, shown: &str) -> Problem {
    let registered = definitions::page(reads, "", NAMES_MAX).await.unwrap_or_default();
    let meant = nearest(&reference.name, registered.iter().map(|record| record.name.as_str()).filter(|name| *name != reference.name));
    let hint = meant.map_or_else(String::new, |meant| format!(" (did you mean `{meant}`?)"));
    Problem::new(
        Code::NotFound,
        format!("there is no definition `{shown}`{hint}: check name and version, or register it with POST /api/v1/definitions (`orchestr8 definitions put FILE`)"),
    )
    .at("definition")
}

fn invalid(problems: Problems, lines: Lines) -> Problem {
    let place = |number: usize| match lines {
        Lines::OfTheCaller => u32::try_from(number).ok(),
        Lines::Ours => None,
    };
    let finding = |problem: definition::Problem| Finding {
        line: place(problem.line),
        column: place(problem.column),
        path: problem.path,
        message: problem.message,
        suggestion: problem.suggestion,
        value: None,
    };
    let findings: Vec<Finding> = problems.0.into_iter().map(finding).collect();
    let detail = format!("the definition has {}", counted(findings.len()));
    Problem::new(Code::InvalidDefinition, detail).at("definition").with_findings(findings)
}

fn misfit(problems: &[InputProblem]) -> Problem {
    let finding = |problem: &InputProblem| {
        let (path, message) = (format!("input{}", problem.pointer), problem.message.clone());
        Finding { line: None, column: None, path, message, suggestion: None, value: None }
    };
    let detail = format!("the input has {}", counted(problems.len()));
    Problem::new(Code::InvalidInput, detail).at("input").with_findings(problems.iter().map(finding).collect())
}

fn counted(mistakes: usize) -> String {
    if mistakes == 1 { "a mistake".to_owned() } else { format!("{mistakes} mistakes") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_core::definition::TASKS_MAX;

    fn definition(value: &Value) -> Result<Definition, Problem> {
        Definition::take(&mut Fields::new(json!({ "definition": value }), "the body").expect("an object"))
    }

    #[test]
    fn a_definition_is_a_name_a_text_or_an_object() {
        let reference = |name: &str, version| Definition::Registered(Reference { name: name.into(), version });
        assert_eq!(definition(&json!("nightly")), Ok(reference("nightly", None)));
        assert_eq!(definition(&json!("nightly@7")), Ok(reference("nightly", Some(7))));
        assert_eq!(definition(&json!("name: x")), Ok(Definition::Text("name: x".into())));
        assert!(matches!(definition(&json!({"name": "x"})), Ok(Definition::Object(_))));
        for bad in [json!("nightly@latest"), json!("nightly@0"), json!(" "), json!(7), json!(null), json!([])] {
            assert_eq!(definition(&bad).map_err(|problem| problem.code()), Err(Code::BadField), "{bad}");
        }
    }

    #[tokio::test]
    async fn an_object_is_kept_in_lines_unless_these_are_too_long() {
        let object = |tasks: usize| {
            let tasks: Vec<Value> = (0..tasks).map(|number| json!({"name": format!("t{number}"), "handler": "noop"})).collect();
            definition(&json!({"name": "x", "tasks": tasks})).expect("an object")
        };
        let few = object(2).read().await.expect("valid").expect("not registered");
        assert!(few.source.contains("\n      \"handler\": \"noop\",\n"), "{}", few.source);
        let many = object(TASKS_MAX).read().await.expect("as many as there may be").expect("not registered");
        assert!(many.source.starts_with("{\"name\":\"x\",\"tasks\":[{\"handler\":"), "{}", &many.source[..100]);
        assert_eq!(many.plan.tasks.len(), TASKS_MAX);
    }

    #[tokio::test]
    async fn mistakes_have_lines_in_text_and_paths_in_objects() {
        let text = "name: x\ntasks:\n  - name: a\n    run: echo\n    timeot: 3s\n";
        let problem = definition(&json!(text)).expect("text").read().await.expect_err("a mistake");
        assert_eq!(problem.code(), Code::InvalidDefinition);
        assert!(format!("{problem:?}").contains("line: Some(5)"), "{problem:?}");
        let nul = "name: x\ntasks:\n  - name: a\n    run: echo\n    with: {a: \"x\\0y\"}\n";
        let problem = definition(&json!(nul)).expect("text").read().await.expect_err("a NUL");
        assert!(format!("{problem:?}").contains("NUL"), "{problem:?}");
        let object = json!({"name": "x", "tasks": [{"name": "a", "run": "echo", "timeot": "3s"}]});
        let problem = definition(&object).expect("an object").read().await.expect_err("a mistake");
        let said = format!("{problem:?}");
        assert!(said.contains("line: None") && said.contains("tasks[0]") && said.contains("timeout"), "{said}");
    }
}
