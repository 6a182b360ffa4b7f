//! `validate`, `graph` and `definitions`: definitions in files and at the coordinator.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, OutputArgs, emit_foreign, emit_json};
use super::values::read_text;
use crate::client::problem::PlacedProblem;
use crate::exit::Exit;
use crate::text::{counted, harmless_line};
use orchestr8_core::definition::{Parsed, Problem, Problems, mermaid, parse};
use serde_json::{Value, json};
use std::fmt;
use std::path::{Path, PathBuf};

const PATH: &str = "/api/v1/definitions";

/// Check definitions without a coordinator; prints every mistake as `FILE:LINE:COLUMN: MESSAGE`, exit code 1 if there is one.
#[derive(Debug, clap::Args)]
pub struct ValidateArgs {
    /// Files with definitions (YAML or JSON), `-` for stdin.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Print a definition as a Mermaid flowchart, without a coordinator.
#[derive(Debug, clap::Args)]
pub struct GraphArgs {
    /// A file with a definition (YAML or JSON), `-` for stdin.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Register definitions under their names, and list what is registered.
#[derive(Debug, clap::Args)]
pub struct DefinitionsArgs {
    #[command(subcommand)]
    command: DefinitionsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DefinitionsCommand {
    /// Register the definition in a file under its name; a changed one becomes the next version. Prints NAME@VERSION.
    Put {
        /// A file with a definition (YAML or JSON), `-` for stdin.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List the current version of every registered definition.
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Print the text of a registered definition.
    Get {
        /// NAME or NAME@VERSION.
        #[arg(value_name = "NAME[@VERSION]", value_parser = parse_reference)]
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// Checks files.
///
/// # Errors
/// [`CommandError::File`] for one that cannot be read.
pub fn validate(args: &ValidateArgs) -> Result<Exit, CommandError> {
    let mut documents = Vec::new();
    let mut exit = Exit::Done;
    for file in &args.files {
        let name = shown_name(file);
        let read = parse_as(&name, &read_text(file)?);
        match (&read, args.output.format) {
            (_, Format::Json) => documents.push(document(&name, &read)),
            (Ok(parsed), Format::Text) => eprintln!("{name}: valid: {}", described(parsed)),
            (Err(problems), Format::Text) => emit_foreign(&problem_lines(&name, problems).join("\n"))?,
        }
        if read.is_err() {
            exit = Exit::Failed;
        }
    }
    if args.output.format == Format::Json {
        emit_json(&Value::Array(documents))?;
    }
    Ok(exit)
}

/// Prints the flowchart.
///
/// # Errors
/// [`CommandError::Definition`] after the mistakes were told on stderr.
pub fn graph(args: &GraphArgs) -> Result<Exit, CommandError> {
    let parsed = check_text(&shown_name(&args.file), &read_text(&args.file)?, Undone::Drawn)?;
    emit_foreign(&mermaid(&parsed.plan))?;
    Ok(Exit::Done)
}

/// Registers, lists or prints.
///
/// # Errors
/// [`CommandError`].
pub async fn definitions(args: &DefinitionsArgs) -> Result<Exit, CommandError> {
    match &args.command {
        DefinitionsCommand::Put { file, client } => put(file, &Context::new(client)?).await?,
        DefinitionsCommand::List { client } => list(&Context::new(client)?).await?,
        DefinitionsCommand::Get { name, client } => get(name, &Context::new(client)?).await?,
    }
    Ok(Exit::Done)
}

/// Reads a definition; tells its mistakes on stderr with the file's name.
///
/// # Errors
/// [`CommandError::Definition`].
pub fn check_text(file: &str, text: &str, undone: Undone) -> Result<Parsed, CommandError> {
    parse_as(file, text).map_err(|problems| {
        for line in problem_lines(file, &problems) {
            eprintln!("{line}");
        }
        CommandError::Definition { file: file.to_owned(), count: problems.0.len(), undone }
    })
}

/// What a definition with mistakes was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// Run.
    Submitted,
    /// Put under its name.
    Registered,
    /// Shown as a flowchart.
    Drawn,
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Submitted => "nothing was submitted",
            Self::Registered => "nothing was registered",
            Self::Drawn => "nothing was drawn",
        })
    }
}

/// YAML contains JSON, so one reader is enough; but who wrote JSON should not be told of YAML.
fn parse_as(file: &str, text: &str) -> Result<Parsed, Problems> {
    parse(text).map_err(|mut problems| {
        if Path::new(file).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
            for problem in &mut problems.0 {
                problem.message = problem.message.replacen("this is not YAML", "this is not JSON", 1);
            }
        }
        problems
    })
}

fn problem_lines(file: &str, problems: &Problems) -> Vec<String> {
    problems.0.iter().map(|problem| placed(problem).show(Some(file))).collect()
}

fn placed(problem: &Problem) -> PlacedProblem {
    let message = if problem.path.is_empty() { problem.message.clone() } else { format!("{}: {}", problem.path, problem.message) };
    PlacedProblem {
        line: u64::try_from(problem.line).ok(),
        column: u64::try_from(problem.column).ok(),
        field: None,
        value: None,
        message,
        suggestion: problem.suggestion.clone(),
    }
}

fn document(name: &str, read: &Result<Parsed, Problems>) -> Value {
    match read {
        Ok(parsed) => json!({"file": name, "valid": true, "name": parsed.plan.name, "tasks": parsed.plan.tasks.len()}),
        Err(problems) => json!({"file": name, "valid": false, "problems": problems}),
    }
}

fn described(parsed: &Parsed) -> String {
    let phases = parsed.plan.phases.len();
    let phases = if phases == 0 { String::new() } else { format!(" in {phases} phases") };
    format!("{}, {}{phases}", harmless_line(&parsed.plan.name), counted(parsed.plan.tasks.len(), "task"))
}

/// What a file is called in messages.
pub fn shown_name(file: &Path) -> String {
    if file.as_os_str() == "-" { "stdin".to_owned() } else { file.display().to_string() }
}

async fn put(file: &Path, context: &Context) -> Result<(), CommandError> {
    let text = read_text(file)?;
    check_text(&shown_name(file), &text, Undone::Registered)?;
    let answer = context.client.submit(PATH, &json!({ "definition": text })).await?;
    match context.format {
        Format::Json => emit_json(&answer),
        Format::Text => emit_foreign(&reference_of(&answer)),
    }
}

async fn list(context: &Context) -> Result<(), CommandError> {
    let mut registered = Vec::new();
    let mut cursor = String::new();
    loop {
        let mut answer = context.client.get(&format!("{PATH}{cursor}")).await?;
        if let Some(Value::Array(page)) = answer.get_mut("definitions").map(Value::take) {
            registered.extend(page);
        }
        match answer.get("next_cursor").and_then(Value::as_str) {
            Some(next) if is_plain(next) => cursor = format!("?cursor={next}"),
            Some(_) | None => break,
        }
    }
    match context.format {
        Format::Json => emit_json(&json!({ "definitions": registered })),
        Format::Text if registered.is_empty() => {
            eprintln!("nothing is registered: `orchestr8 definitions put FILE`");
            Ok(())
        }
        Format::Text => emit_foreign(&registered.iter().map(reference_of).collect::<Vec<_>>().join("\n")),
    }
}

async fn get(name: &str, context: &Context) -> Result<(), CommandError> {
    let answer = context.client.get(&format!("{PATH}/{name}")).await?;
    match context.format {
        Format::Json => emit_json(&answer),
        Format::Text => emit_foreign(answer.get("source").and_then(Value::as_str).unwrap_or_default()),
    }
}

fn reference_of(definition: &Value) -> String {
    let name = definition.get("name").and_then(Value::as_str).unwrap_or_default();
    format!("{}@{}", harmless_line(name), definition.get("version").and_then(Value::as_u64).unwrap_or_default())
}

/// A reference that needs no encoding in a path.
fn parse_reference(text: &str) -> Result<String, String> {
    if is_plain(text) { Ok(text.to_owned()) } else { Err("write NAME or NAME@VERSION".to_owned()) }
}

fn is_plain(text: &str) -> bool {
    let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    starts_well && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_placed_in_their_file() {
        let problem =
            Problem { line: 4, column: 7, path: "tasks[0]".into(), message: "`rnu` is not a key".into(), suggestion: Some("run".into()) };
        let lines = problem_lines("flow.yaml", &Problems(vec![problem]));
        assert_eq!(lines, ["flow.yaml:4:7: tasks[0]: `rnu` is not a key (did you mean `run`?)"]);
    }

    #[test]
    fn a_broken_definition_counts_its_mistakes() {
        let error = check_text("x.yaml", "name: [", Undone::Drawn).expect_err("no YAML");
        assert!(matches!(&error, CommandError::Definition { count: 1.., .. }), "{error}");
        assert!(error.to_string().ends_with("nothing was drawn"), "{error}");
        assert_eq!(error.exit(), Exit::Failed);
    }

    #[test]
    fn a_json_file_is_called_json() {
        let said = |file: &str| parse_as(file, "{\"name\": \"x\", \"tasks\": [").expect_err("cut off").0[0].message.clone();
        assert!(said("x.json").contains("not JSON") && said("x.yaml").contains("not YAML"), "{}", said("x.json"));
    }

    #[test]
    fn references_cannot_leave_their_path() {
        assert_eq!(parse_reference("gates@3").as_deref(), Ok("gates@3"));
        assert!(["../tasks", "a/b", "", "a?b", ".."].into_iter().all(|text| parse_reference(text).is_err()));
    }
}
