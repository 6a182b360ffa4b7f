//! Strings into literals and expressions.

use super::{ExpressionError, shown};

/// Starts an expression.
pub(super) const OPEN: &str = "${{";

/// A piece of a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment<'a> {
    /// Text that stays as it is.
    Literal(&'a str),
    /// The source between the braces, trimmed.
    Expression(&'a str),
}

/// Splits a string into its pieces, in order; one that is empty or never closed is an error in its place.
pub(super) fn split(text: &str) -> Vec<Result<Segment<'_>, ExpressionError>> {
    let mut segments = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(OPEN) {
        if start > 0 {
            segments.push(Ok(Segment::Literal(&rest[..start])));
        }
        let inside = &rest[start + OPEN.len()..];
        let Some(length) = end_of_expression(inside) else {
            segments.push(Err(ExpressionError::Unterminated(shown(&rest[start..]))));
            return segments;
        };
        let source = inside[..length].trim();
        segments.push(if source.is_empty() { Err(ExpressionError::Empty) } else { Ok(Segment::Expression(source)) });
        rest = &inside[length + 2..];
    }
    if !rest.is_empty() {
        segments.push(Ok(Segment::Literal(rest)));
    }
    segments
}

/// The offset of the `}}` that closes the expression: not one inside a string or of a map literal.
fn end_of_expression(inside: &str) -> Option<usize> {
    let bytes = inside.as_bytes();
    let mut depth = 0usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' | b'\'' => at = end_of_string(bytes, at)?,
            b'{' => depth += 1,
            b'}' if depth > 0 => depth -= 1,
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// The offset of the last byte of the string literal that starts at `start`; raw and triple-quoted ones included.
fn end_of_string(bytes: &[u8], start: usize) -> Option<usize> {
    let quote = bytes[start];
    let raw = start > 0 && matches!(bytes[start - 1], b'r' | b'R');
    let width = if bytes[start..].starts_with(&[quote; 3]) { 3 } else { 1 };
    let mut at = start + width;
    while at < bytes.len() {
        if bytes[at] == b'\\' && !raw {
            at += 2;
        } else if bytes[at..].starts_with(&[quote; 3][..width]) {
            return Some(at + width - 1);
        } else {
            at += 1;
        }
    }
    None
}
