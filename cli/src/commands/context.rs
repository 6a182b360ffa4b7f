//! What every command has: a connection, a form of output.

use super::CommandError;
use crate::client::Client;
use crate::client::address::{Address, AddressOptions, token_from_environment};
use crate::text::harmless;
use clap::builder::{OsStringValueParser, TypedValueParser};
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

const URL_VARIABLE: &str = "ORCHESTR8_URL";
const CA_VARIABLE: &str = "ORCHESTR8_CA";

/// Flags of every command that asks a coordinator.
#[derive(Debug, Clone, clap::Args)]
pub struct ClientArgs {
    /// The coordinator's address [default: what `orchestr8 dev` wrote to .orchestr8/url here or above, else <http://127.0.0.1:8088>].
    #[arg(long, env = URL_VARIABLE, value_name = "URL", help_heading = "Connection and output")]
    pub url: Option<String>,
    /// A file with the only certificate authorities that may vouch for an https address, PEM [default: those of the system].
    #[arg(long, env = CA_VARIABLE, value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from), help_heading = "Connection and output")]
    pub ca: Option<PathBuf>,
    /// The file with the bearer token [default: the variable `ORCHESTR8_TOKEN`, else .orchestr8/token here or above, for an address of this machine].
    #[arg(long, value_name = "FILE", help_heading = "Connection and output")]
    pub token_file: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The form of what goes to stdout.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct OutputArgs {
    /// The form of what goes to stdout: text for people, or the coordinator's whole answer as JSON.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Text, value_name = "FORMAT", help_heading = "Connection and output")]
    pub format: Format,
}

/// What stdout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people and simple scripts.
    Text,
    /// For programs.
    Json,
}

/// The connection and the form of output of one command.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where questions go.
    pub client: Client,
    /// What stdout is for.
    pub format: Format,
}

impl Context {
    /// From flags, environment and what `dev` wrote.
    ///
    /// # Errors
    /// [`CommandError::Address`] when no coordinator or no token is named.
    pub fn new(args: &ClientArgs) -> Result<Self, CommandError> {
        let start = std::env::current_dir().unwrap_or_default();
        let options = AddressOptions {
            url: args.url.clone().filter(|url| !(url.is_empty() && is_set_empty(URL_VARIABLE))),
            ca: args.ca.clone().filter(|file| !(file.as_os_str().is_empty() && is_set_empty(CA_VARIABLE))),
            token_file: args.token_file.clone(),
            token: token_from_environment()?,
        };
        let client = Client::new(Address::find(&options, &start)?)?;
        Ok(Self { client, format: args.output.format })
    }
}

/// Whether the variable is there without a value, which counts as not there; a flag without a value is a mistake.
fn is_set_empty(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value.is_empty())
}

/// Writes to stdout as it is, and ends the line.
///
/// # Errors
/// [`CommandError::Output`].
pub fn emit(text: &str) -> Result<(), CommandError> {
    let mut stdout = std::io::stdout().lock();
    let ended = if text.ends_with('\n') { "" } else { "\n" };
    write!(stdout, "{text}{ended}").and_then(|()| stdout.flush()).map_err(CommandError::Output)
}

/// Writes somebody else's text to stdout: unchanged into a pipe or file, harmless on a terminal.
///
/// # Errors
/// [`CommandError::Output`].
pub fn emit_foreign(text: &str) -> Result<(), CommandError> {
    if std::io::stdout().is_terminal() { emit(&harmless(text)) } else { emit(text) }
}

/// Writes a part of a document to stdout, as it is into a pipe or file, harmless on a terminal.
///
/// # Errors
/// [`CommandError::Output`].
pub fn emit_part(text: &str) -> Result<(), CommandError> {
    let mut stdout = std::io::stdout().lock();
    let shown = if stdout.is_terminal() { harmless(text) } else { text.to_owned() };
    write!(stdout, "{shown}").and_then(|()| stdout.flush()).map_err(CommandError::Output)
}

/// Writes JSON to stdout, indented. JSON text escapes every control character by itself, but not what reorders text.
///
/// # Errors
/// [`CommandError::Output`].
pub fn emit_json(value: &Value) -> Result<(), CommandError> {
    emit_foreign(&format!("{value:#}"))
}

/// A result for people: a string as it is, anything else as JSON.
#[must_use]
pub fn shown_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => format!("{value:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn string_results_are_raw_and_others_json() {
        assert_eq!(shown_value(&json!("hello \"you\"")), "hello \"you\"");
        assert_eq!(shown_value(&json!(null)), "null");
        assert_eq!(shown_value(&json!([1, "a"])), "[\n  1,\n  \"a\"\n]");
    }
}
