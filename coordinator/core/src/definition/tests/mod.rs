mod beside;
mod problems;
mod properties;
mod valid;

use super::{Parsed, parse};

/// The plan's definition must be valid.
fn parsed(source: &str) -> Parsed {
    parse(source).unwrap_or_else(|problems| panic!("{problems}\n---\n{}", source.chars().take(2000).collect::<String>()))
}

/// The problems as they are printed, one a line.
fn refused(source: &str) -> Vec<String> {
    match parse(source) {
        Ok(parsed) => panic!("accepted: {parsed:?}"),
        Err(problems) => problems.0.iter().map(ToString::to_string).collect(),
    }
}
