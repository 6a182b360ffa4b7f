//! Flags, environment and configuration file become one set of values: a flag wins over the environment, that over the file.
//!
//! The file is YAML, one mapping; its keys are the long flags without dashes in front. What the file says is parsed by
//! the same rules as a flag, so nothing can be written in one way only, and nothing unknown is accepted.

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use orchestr8_core::definition::nearest;
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The id of the flag that names the file.
const FILE_FLAG: &str = "config";
/// Largest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with the configuration file. Its author must correct it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// It cannot be read.
    #[error("--config {}: it cannot be read ({reason})", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It is not a mapping of keys to values.
    #[error("--config {}: {reason}", file.display())]
    Form {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key that is no flag.
    #[error("--config {}: `{key}` is not a setting{hint}; the settings are the long flags of --help", file.display())]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What was probably meant.
        hint: String,
    },
    /// A value that a flag would not take either.
    #[error("--config {}: {reason}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// What the parser of the flags said.
        reason: String,
    },
}

/// The values of the sub-command `name`. What is wrong with `words` themselves ends the process with its usage, code 2.
///
/// # Errors
/// [`ConfigurationError`] about the file.
pub fn matches(command: Command, words: &[OsString], name: &str) -> Result<ArgMatches, ConfigurationError> {
    let given = command.clone().try_get_matches_from(words).unwrap_or_else(|error| error.exit());
    let given = sub(given, name);
    let Some(file) = given.get_one::<PathBuf>(FILE_FLAG) else { return Ok(given) };
    let entries = read(file)?;
    let service = command.find_subcommand(name).expect("the sub-command was just matched");
    let mut words = words.to_vec();
    for (key, values) in entries {
        let Some(flag) = service.get_arguments().find(|flag| flag.get_long() == Some(&key) && key != FILE_FLAG) else {
            return Err(unknown(file, key, service));
        };
        let source = given.value_source(flag.get_id().as_str());
        if !matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            words.extend(values.into_iter().map(|value| OsString::from(format!("--{key}={value}"))));
        }
    }
    let merged = command.try_get_matches_from(&words);
    let wrong = |error: clap::Error| ConfigurationError::Value { file: file.clone(), reason: first_line(&error) };
    Ok(sub(merged.map_err(wrong)?, name))
}

fn sub(mut matches: ArgMatches, name: &str) -> ArgMatches {
    let (found, matches) = matches.remove_subcommand().expect("a sub-command is required");
    assert_eq!(found, name, "the sub-command was matched before");
    matches
}

fn unknown(file: &Path, key: String, service: &Command) -> ConfigurationError {
    let flags = service.get_arguments().filter_map(clap::Arg::get_long).filter(|flag| *flag != FILE_FLAG);
    let hint = nearest(&key, flags).map(|flag| format!(" (did you mean `{flag}`?)")).unwrap_or_default();
    ConfigurationError::UnknownKey { file: file.to_owned(), key, hint }
}

/// `error: invalid value …` without the usage that follows it.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    // What the standard library says of a text that is no number.
    match line.strip_suffix("invalid digit found in string") {
        Some(start) => format!("{start}it must be a whole number, in digits"),
        None => line.to_owned(),
    }
}

/// What is wrong with a value that came from an environment variable, which stands on no command line: none, where it did not.
#[must_use]
pub fn wrong_variable(error: &clap::Error, command: &Command, words: &[OsString]) -> Option<String> {
    let (Some(ContextValue::String(shown)), Some(ContextValue::String(value))) =
        (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
    else {
        return None;
    };
    let service = command.find_subcommand(words.get(1)?)?;
    let long = shown.strip_prefix("--")?.split([' ', '=']).next()?;
    let variable = service.get_arguments().find(|flag| flag.get_long() == Some(long))?.get_env()?;
    let is_given = words.iter().any(|word| {
        let word = word.to_string_lossy();
        word.strip_prefix("--").is_some_and(|word| word == long || word.strip_prefix(long).is_some_and(|rest| rest.starts_with('=')))
    });
    let stands = !is_given && std::env::var_os(variable).is_some_and(|set| set.to_string_lossy() == value.as_str());
    let reason = first_line(error);
    let reason = reason.split_once(&format!("'{shown}'")).map_or(reason.as_str(), |(_, reason)| reason).trim_start_matches([':', ' ']);
    stands.then(|| format!("the variable {}={value} (as --{long}): {reason}", variable.to_string_lossy()))
}

/// The entries of the file; a list gives several values.
fn read(file: &Path) -> Result<Vec<(String, Vec<String>)>, ConfigurationError> {
    let unreadable = |reason: String| ConfigurationError::Unreadable { file: file.to_owned(), reason };
    let found = file.metadata().map_err(|error| unreadable(error.to_string()))?;
    if found.len() > FILE_BYTES_MAX {
        return Err(unreadable(format!("more than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
    let entries = entries(&text).map_err(|reason| ConfigurationError::Form { file: file.to_owned(), reason })?;
    if found.permissions().mode() & 0o077 != 0 && entries.iter().any(|(key, _)| key.ends_with("-url")) {
        eprintln!("warning: {}: others can read it, and it names servers with their passwords; run `chmod 600 {0}`", file.display());
    }
    Ok(entries)
}

fn entries(text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let documents = Yaml::load_from_str(text).map_err(|error| error.to_string())?;
    let mapping = match documents.as_slice() {
        [] => return Ok(Vec::new()),
        [Yaml::Mapping(mapping)] => mapping,
        [_] | [_, _, ..] => return Err("it must be one mapping of settings, such as `listen: 127.0.0.1:8088`".to_owned()),
    };
    mapping.iter().map(|(key, value)| entry(key, value)).collect()
}

fn entry(key: &Yaml<'_>, value: &Yaml<'_>) -> Result<(String, Vec<String>), String> {
    let key = scalar(key).ok_or("a key must be text")?;
    let values = match value {
        Yaml::Sequence(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>(),
        other => scalar(other).map(|value| vec![value]),
    };
    let values = values.ok_or_else(|| format!("`{key}` must be a text, a number or a list of them"))?;
    Ok((key, values))
}

fn scalar(node: &Yaml<'_>) -> Option<String> {
    match node {
        Yaml::Value(Scalar::String(text)) => Some(text.to_string()),
        Yaml::Value(Scalar::Integer(number)) => Some(number.to_string()),
        Yaml::Value(Scalar::FloatingPoint(number)) => Some(number.to_string()),
        Yaml::Value(Scalar::Boolean(flag)) => Some(flag.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, ArgAction, value_parser};
    use std::os::unix::fs::PermissionsExt;

    fn command() -> Command {
        let service = Command::new("serve")
            .arg(Arg::new("config").long("config").value_parser(value_parser!(PathBuf)))
            .arg(Arg::new("listen").long("listen").default_value("default"))
            .arg(Arg::new("slots").long("slots").value_parser(value_parser!(u16)))
            .arg(Arg::new("queue").long("queue").action(ArgAction::Append));
        Command::new("o").subcommand(service).subcommand_required(true)
    }

    fn matched(text: &str, flags: &[&str]) -> Result<ArgMatches, String> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("writable");
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).expect("own file");
        let path = file.path().display().to_string();
        let words: Vec<OsString> = ["o", "serve", "--config", &path].iter().chain(flags).map(OsString::from).collect();
        matches(command(), &words, "serve").map_err(|error| error.to_string())
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_defaults() {
        let text = "listen: 127.0.0.1:1\nslots: 8\nqueue: [a, b]\n";
        let file = matched(text, &[]).expect("fits");
        assert_eq!(file.get_one::<String>("listen").map(String::as_str), Some("127.0.0.1:1"));
        assert_eq!(file.get_one::<u16>("slots"), Some(&8));
        assert_eq!(file.get_many::<String>("queue").expect("given").collect::<Vec<_>>(), ["a", "b"]);
        let flags = matched(text, &["--listen", "x", "--queue", "c"]).expect("fits");
        assert_eq!(flags.get_one::<String>("listen").map(String::as_str), Some("x"));
        assert_eq!(flags.get_many::<String>("queue").expect("given").collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn what_is_unknown_or_wrong_is_refused_with_the_remedy() {
        let refused = |text: &str| matched(text, &[]).expect_err(text);
        assert!(refused("slot: 8").contains("did you mean `slots`?"));
        assert!(refused("config: x").contains("`config` is not a setting"));
        assert!(refused("slots: many").contains("invalid value 'many' for '--slots"));
        assert!(refused("slots: many").ends_with("it must be a whole number, in digits"));
        assert!(refused("slots: {a: 1}").contains("`slots` must be a text"));
        assert!(refused("slots: 1\nslots: 2").contains("duplicate"));
        assert!(refused("- a").contains("one mapping"));
        assert!(matched("", &[]).is_ok(), "an empty file says nothing");
    }

    #[test]
    fn a_missing_file_is_named() {
        let words: Vec<OsString> = ["o", "serve", "--config", "/nonexistent/o.yaml"].iter().map(OsString::from).collect();
        let error = matches(command(), &words, "serve").expect_err("missing").to_string();
        assert!(error.contains("/nonexistent/o.yaml"), "{error}");
    }
}
