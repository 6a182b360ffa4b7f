//! YAML (and so JSON) text to a tree in which every node knows its line.
//!
//! Built from the parser's events, so that depth, size and aliases are bounded before anything recurses over the tree.

use super::SOURCE_BYTES_MAX;
use super::problem::{Collector, Problem};
use orchestr8_proto::storable;
use saphyr::Scalar;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// How deep values may lie inside each other.
pub const NESTING_MAX: usize = 64;
/// All values together, aliases resolved, each counted with 8 bytes more.
pub const VALUES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a value costs besides its text.
const VALUE_BYTES: usize = 8;
const NUL: &str = "this text has a NUL character, which cannot be stored: remove it";
const NOT_FINITE: &str = "this number is not finite, which JSON cannot hold: give a number or a string in quotes";

/// Where something stands, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub line: usize,
    pub column: usize,
}

/// A value and where it starts.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub position: Position,
    pub content: Content,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// Null, a boolean, a number or a string.
    Scalar(Value),
    List(Vec<Node>),
    /// In order; keys are unique.
    Mapping(Vec<Entry>),
    /// Something whose mistake is in the collector already: no type is wrong here.
    Unreadable,
}

/// One key with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub position: Position,
    pub value: Node,
}

impl Node {
    /// What it is, in words, for errors.
    pub fn described(&self) -> String {
        match &self.content {
            Content::Scalar(Value::Null) | Content::Unreadable => "nothing".to_owned(),
            Content::Scalar(Value::Bool(flag)) => format!("the boolean {flag}"),
            Content::Scalar(Value::Number(number)) => format!("the number {number}"),
            Content::Scalar(_) => "a string".to_owned(),
            Content::List(_) => "a list".to_owned(),
            Content::Mapping(_) => "a mapping".to_owned(),
        }
    }

    /// The value without its positions.
    pub fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::Unreadable => Value::Null,
            Content::List(items) => items.iter().map(Self::to_json).collect(),
            Content::Mapping(entries) => {
                Value::Object(entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect::<Map<_, _>>())
            }
        }
    }
}

/// Reads one document. Problems that do not stop the reading (duplicate keys, odd scalars) go to the collector.
///
/// None when the text cannot be read at all; the reason is in the collector.
pub(super) fn read(source: &str, problems: &mut Collector) -> Option<Node> {
    if source.len() > SOURCE_BYTES_MAX {
        let message =
            format!("the definition has {} bytes, the limit is {SOURCE_BYTES_MAX}: move large values into the input", source.len());
        problems.add(Position { line: 1, column: 1 }, "", message);
        return None;
    }
    let mut builder = Builder { problems, open: Vec::new(), root: None, anchors: HashMap::new(), bytes: 0, documents: 0 };
    let without_pairs = surrogate_pairs_joined(source);
    match builder.read(&without_pairs) {
        Ok(()) => builder.root,
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

/// JSON writes a character beyond the first 65,536 as two escapes, YAML as one: `\ud83d\ude00` becomes `\U0001f600`.
///
/// Only in text that is JSON, where every backslash starts an escape. What follows on the same line moves two columns to the left.
fn surrogate_pairs_joined(source: &str) -> Cow<'_, str> {
    let has_pairs = source.contains("\\ud") || source.contains("\\uD");
    if !has_pairs || serde_json::from_str::<serde::de::IgnoredAny>(source).is_err() {
        return Cow::Borrowed(source);
    }
    let mut joined = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('\\') {
        joined.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = if let Some(sign) = surrogate_pair(rest) {
            joined.extend(["\\U", &format!("{:08x}", u32::from(sign))]);
            PAIR_BYTES
        } else {
            joined.push_str(&rest[..2]);
            2
        };
        rest = &rest[length..];
    }
    joined.push_str(rest);
    Cow::Owned(joined)
}

/// Length of two escapes of four digits.
const PAIR_BYTES: usize = 12;

fn surrogate_pair(text: &str) -> Option<char> {
    let pair = text.get(..PAIR_BYTES)?;
    let unit = |escape: &str| u16::from_str_radix(escape.strip_prefix("\\u")?, 16).ok();
    char::decode_utf16([unit(pair.get(..6)?)?, unit(pair.get(6..)?)?]).next()?.ok().filter(|sign| u32::from(*sign) > 0xffff)
}

struct Builder<'a> {
    problems: &'a mut Collector,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    bytes: usize,
    documents: usize,
}

/// A collection whose end has not been read yet.
struct Open {
    position: Position,
    anchor: usize,
    content: Content,
    /// The key whose value comes next.
    key: Option<(String, Position)>,
    /// Where each key stood first.
    seen: HashMap<String, Position>,
}

/// What the parser says, and what mostly is the cause. Of a tab it says what it expected of the line before.
fn not_yaml(reason: &str, at: Position, source: &str) -> Problem {
    let is_indented_by_tab = |line: &str| line.trim_start_matches(' ').starts_with('\t');
    let near = source.lines().enumerate().skip(at.line.saturating_sub(1)).take(2);
    if let Some((index, line)) = near.into_iter().find(|(_, line)| is_indented_by_tab(line)) {
        let column = line.len() - line.trim_start_matches(' ').len() + 1;
        let at = Position { line: index + 1, column };
        return Problem::at(at, "", format!("this is not YAML: the line is indented with a tab ({reason}): use blanks"));
    }
    let remedy = "check indentation, colons, quotes and brackets here and in the line before";
    Problem::at(at, "", format!("this is not YAML: {reason}; {remedy}"))
}

impl Builder<'_> {
    fn read(&mut self, source: &str) -> Result<(), Problem> {
        for event in Parser::new_from_str(source) {
            let (event, span) = event.map_err(|error| not_yaml(error.info(), position(*error.marker()), source))?;
            self.event(event, position(span.start))?;
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, at: Position) -> Result<(), Problem> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => self.document(at),
            Event::Scalar(text, style, anchor, tag) => self.scalar((text, style, tag), anchor, at),
            Event::SequenceStart(anchor, tag) => self.start(Content::List(Vec::new()), (anchor, tag), at),
            Event::MappingStart(anchor, tag) => self.start(Content::Mapping(Vec::new()), (anchor, tag), at),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, at),
        }
    }

    fn document(&mut self, at: Position) -> Result<(), Problem> {
        self.documents += 1;
        if self.documents == 1 {
            return Ok(());
        }
        Err(Problem::at(at, "", "a second document starts here: a definition is one document, put the other into its own file".to_owned()))
    }

    fn scalar(
        &mut self,
        (text, style, tag): (Cow<'_, str>, ScalarStyle, Option<Cow<'_, Tag>>),
        anchor: usize,
        at: Position,
    ) -> Result<(), Problem> {
        self.spend(VALUE_BYTES + text.len(), at)?;
        if self.expects_key() {
            self.key(text.into_owned(), at);
            return Ok(());
        }
        let content = self.resolved(text, (style, tag), at).map_or(Content::Unreadable, Content::Scalar);
        self.finish(Node { position: at, content }, anchor)
    }

    /// None: it cannot be read, which is reported.
    fn resolved(&mut self, text: Cow<'_, str>, (style, tag): (ScalarStyle, Option<Cow<'_, Tag>>), at: Position) -> Option<Value> {
        let tag = self.known(tag, at);
        if style == ScalarStyle::Plain
            && tag.is_none()
            && let Ok(number) = text.parse::<u64>()
        {
            return Some(Value::from(number));
        }
        if text.contains('\0') {
            return self.unreadable(at, NUL);
        }
        match Scalar::parse_from_cow_and_metadata(text, style, tag.as_ref()) {
            Some(Scalar::Null) => Some(Value::Null),
            Some(Scalar::Boolean(flag)) => Some(Value::from(flag)),
            Some(Scalar::Integer(int)) => Some(Value::from(int)),
            Some(Scalar::String(text)) => Some(Value::from(text.into_owned())),
            Some(Scalar::FloatingPoint(float)) => storable::number(*float).map(Value::Number).or_else(|| self.unreadable(at, NOT_FINITE)),
            None => self.unreadable(at, "the value does not fit its tag: remove the tag"),
        }
    }

    /// The tag; one without meaning is reported, and its value read as if it were removed.
    fn known<'t>(&mut self, tag: Option<Cow<'t, Tag>>, at: Position) -> Option<Cow<'t, Tag>> {
        let tag = tag?;
        if tag.is_yaml_core_schema() {
            return Some(tag);
        }
        self.problems.add(at, "", format!("the tag `{tag}` has no meaning here: remove it"));
        None
    }

    fn unreadable(&mut self, at: Position, message: &str) -> Option<Value> {
        self.problems.add(at, "", message.to_owned());
        None
    }

    fn start(&mut self, content: Content, (anchor, tag): (usize, Option<Cow<'_, Tag>>), at: Position) -> Result<(), Problem> {
        self.spend(VALUE_BYTES, at)?;
        if self.open.len() >= NESTING_MAX {
            return Err(Problem::at(at, "", format!("values lie more than {NESTING_MAX} levels deep here: flatten them")));
        }
        if self.expects_key() {
            return Err(key_problem(at));
        }
        self.known(tag, at);
        self.open.push(Open { position: at, anchor, content, key: None, seen: HashMap::new() });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        let Some(Open { position, anchor, content, .. }) = self.open.pop() else { return Ok(()) };
        self.finish(Node { position, content }, anchor)
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<(), Problem> {
        if self.expects_key() {
            return Err(key_problem(at));
        }
        let Some(target) = self.anchors.get(&anchor) else {
            return Err(Problem::at(at, "", "an alias cannot stand inside its own anchor".to_owned()));
        };
        let (size, depth) = (size_of(target), depth_of(target));
        if self.open.len() + depth > NESTING_MAX {
            return Err(Problem::at(at, "", format!("values lie more than {NESTING_MAX} levels deep here: flatten them")));
        }
        let node = Node { position: at, content: target.content.clone() };
        self.spend(size, at)?;
        self.finish(node, 0)
    }

    fn expects_key(&self) -> bool {
        self.open.last().is_some_and(|open| matches!(open.content, Content::Mapping(_)) && open.key.is_none())
    }

    fn key(&mut self, key: String, at: Position) {
        let Some(open) = self.open.last_mut() else { return };
        if key.contains('\0') {
            self.problems.add(at, "", NUL.to_owned());
        }
        if let Some(first) = open.seen.get(&key) {
            let message = format!("`{key}` is given twice, first at line {}: keep one of them", first.line);
            self.problems.add(at, "", message);
        } else if key == "<<" {
            self.problems.add(
                at,
                "",
                "merge keys (`<<`) are not supported: repeat the keys, or use an alias for the whole value".to_owned(),
            );
        } else {
            open.seen.insert(key.clone(), at);
        }
        open.key = Some((key, at));
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        if anchor > 0 {
            self.spend(size_of(&node), node.position)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.content {
            Content::List(items) => items.push(node),
            Content::Mapping(entries) => {
                let (key, position) = open.key.take().expect("a value follows its key");
                if open.seen.get(&key) == Some(&position) {
                    entries.push(Entry { key, position, value: node });
                }
            }
            Content::Scalar(_) | Content::Unreadable => {}
        }
        Ok(())
    }

    fn spend(&mut self, bytes: usize, at: Position) -> Result<(), Problem> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes <= VALUES_BYTES_MAX {
            return Ok(());
        }
        let message = format!(
            "the values are larger than {VALUES_BYTES_MAX} bytes here, aliases resolved: use fewer aliases, or move values into the input"
        );
        Err(Problem::at(at, "", message))
    }
}

fn key_problem(at: Position) -> Problem {
    Problem::at(at, "", "a key must be plain text: write an expression in quotes, as in \"${{ input.name }}\"".to_owned())
}

fn size_of(node: &Node) -> usize {
    VALUE_BYTES
        + match &node.content {
            Content::Scalar(Value::String(text)) => text.len(),
            Content::Scalar(_) | Content::Unreadable => 0,
            Content::List(items) => items.iter().map(size_of).sum(),
            Content::Mapping(entries) => entries.iter().map(|entry| VALUE_BYTES + entry.key.len() + size_of(&entry.value)).sum(),
        }
}

fn depth_of(node: &Node) -> usize {
    match &node.content {
        Content::Scalar(_) | Content::Unreadable => 0,
        Content::List(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
        Content::Mapping(entries) => 1 + entries.iter().map(|entry| depth_of(&entry.value)).max().unwrap_or(0),
    }
}

fn position(marker: Marker) -> Position {
    Position { line: marker.line().max(1), column: marker.col() + 1 }
}
