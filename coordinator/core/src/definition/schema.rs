//! The JSON Schema of an input: every mistake in it, where it stands.

use super::fields::{Reader, joined, shortened};
use super::problem::Problem;
use super::references;
use super::yaml::{Content, Node};
use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value};

/// What `type` can be.
const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];
/// Mistakes that are looked for: each is put aside and the rest is built again.
const MISTAKES_MAX: usize = 50;
/// Characters of a message, at most: some repeat a whole value.
const MESSAGE_CHARS_MAX: usize = 300;

/// Reports what is wrong with the schema that stands under `input`.
pub(super) fn check(reader: &mut Reader, root: &Node, schema: &Value) {
    let mut rest = schema.clone();
    for mistake in references::mistakes(schema) {
        let (node, path) = spot(root, &mistake.pointer);
        reader.problems.add(node.position, &path, mistake.message);
        if !put_aside(&mut rest, &mistake.pointer, None) {
            return;
        }
    }
    for found in 0..MISTAKES_MAX {
        let Err(error) = build(&rest) else { return };
        // What was put aside may have been referred to.
        let follows = found > 0 && matches!(error.kind(), ValidationErrorKind::Referencing(_));
        if follows {
            return;
        }
        report(reader, root, &error);
        if !put_aside(&mut rest, error.instance_path().as_str(), Some(error.kind())) {
            return;
        }
    }
}

/// References to other documents are refused, not fetched; patterns are matched in linear time.
pub(super) fn build(schema: &Value) -> Result<Validator, ValidationError<'static>> {
    jsonschema::options().offline().with_pattern_options(PatternOptions::regex()).build(schema)
}

fn report(reader: &mut Reader, root: &Node, error: &ValidationError<'_>) {
    let (node, path) = spot(root, error.instance_path().as_str());
    match error.kind() {
        ValidationErrorKind::AnyOf { .. } if path.rsplit('.').next() == Some("type") => report_types(reader, node, &path),
        ValidationErrorKind::AnyOf { .. } | ValidationErrorKind::OneOfNotValid { .. } => {
            let message = format!("this is {}, which JSON Schema does not take here: correct it, or leave it out", node.described());
            reader.problems.add(node.position, &path, message);
        }
        ValidationErrorKind::Type { kind } => reader.wrong_type(node, &path, &words_of(kind).join(" or ")),
        ValidationErrorKind::Format { format } if format == "regex" => {
            let shown = shortened(error.instance().as_str().unwrap_or_default());
            let message =
                format!("`{shown}` is not a regular expression here: correct it; look-around and back-references are not supported");
            reader.problems.add(node.position, &path, message);
        }
        _ => {
            let said: String = error.to_string().chars().take(MESSAGE_CHARS_MAX).collect();
            reader.problems.add(node.position, &path, format!("this is not valid in a JSON Schema: {said}: correct it, or leave it out"));
        }
    }
}

fn report_types(reader: &mut Reader, node: &Node, path: &str) {
    let named: Vec<(&Node, String)> = match &node.content {
        Content::List(items) => items.iter().enumerate().map(|(index, item)| (item, format!("{path}[{index}]"))).collect(),
        Content::Scalar(_) | Content::Mapping(_) | Content::Unreadable => vec![(node, path.to_owned())],
    };
    let before = reader.problems.len();
    for (node, path) in named {
        match &node.content {
            Content::Scalar(Value::String(word)) if TYPES.contains(&word.as_str()) => {}
            Content::Scalar(Value::String(word)) => {
                let message = format!("`{}` is not a type of JSON Schema: use one of {}", shortened(word), TYPES.join(", "));
                reader.problems.add_unknown(Problem::at(node.position, &path, message), word, TYPES.into_iter());
            }
            Content::Scalar(_) | Content::List(_) | Content::Mapping(_) | Content::Unreadable => {
                reader.wrong_type(node, &path, &format!("one of {}, or a list of them", TYPES.join(", ")));
            }
        }
    }
    if reader.problems.len() == before && !matches!(node.content, Content::Unreadable) {
        reader.problems.add(node.position, path, "the list of types is empty or names one twice: name each once".to_owned());
    }
}

fn words_of(kind: &TypeKind) -> Vec<&'static str> {
    match kind {
        TypeKind::Single(one) => vec![one.as_str()],
        TypeKind::Multiple(several) => several.iter().map(JsonType::as_str).collect(),
    }
}

/// The node that a JSON pointer into the schema means, or the last one on its way, and its path in the definition.
fn spot<'n>(root: &'n Node, pointer: &str) -> (&'n Node, String) {
    let (mut node, mut path) = (root, "input".to_owned());
    for token in pointer.split('/').skip(1) {
        let key = token.replace("~1", "/").replace("~0", "~");
        let next = match &node.content {
            Content::Mapping(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| (joined(&path, &key), &entry.value)),
            Content::List(items) => key.parse().ok().and_then(|index: usize| Some((format!("{path}[{index}]"), items.get(index)?))),
            Content::Scalar(_) | Content::Unreadable => None,
        };
        let Some((further, inner)) = next else { break };
        (path, node) = (further, inner);
    }
    (node, path)
}

/// Takes what is wrong out of the schema, so that the rest can be looked at; false: the schema as a whole is wrong.
///
/// What is a schema itself becomes one that takes everything, because others may refer to it.
fn put_aside(schema: &mut Value, pointer: &str, kind: Option<&ValidationErrorKind>) -> bool {
    let wanted = match kind {
        Some(ValidationErrorKind::Type { kind }) => words_of(kind),
        Some(_) | None => Vec::new(),
    };
    if wanted.contains(&"object")
        && let Some(value) = schema.pointer_mut(pointer)
    {
        *value = Value::Object(Map::new());
        return !pointer.is_empty();
    }
    let Some((outer, token)) = pointer.rsplit_once('/') else { return false };
    match schema.pointer_mut(outer) {
        Some(Value::Object(entries)) => entries.remove(&token.replace("~1", "/").replace("~0", "~")).is_some(),
        // Its place in the list counts: what follows it keeps its own.
        Some(Value::Array(items)) if wanted == ["string"] => {
            let stand_in = Value::from(format!("\u{0}{token}"));
            token.parse().ok().and_then(|index: usize| items.get_mut(index)).map(|item| *item = stand_in).is_some()
        }
        Some(_) | None => put_aside(schema, outer, None),
    }
}
