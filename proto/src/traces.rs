//! Traces: the context that travels (W3C `traceparent`), spans as plain values, and where they go. Nothing is kept.

use crate::timestamp::Timestamp;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use uuid::Uuid;

/// Bytes of a `traceparent` of version 00.
const PARENT_BYTES: usize = 55;
/// The flag that asks for spans.
const SAMPLED: u8 = 1;

/// Which trace, and which span of it is the parent of what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Names the trace; not zero.
    pub trace_id: [u8; 16],
    /// Names the span; not zero.
    pub span_id: [u8; 8],
    /// Of the standard; the lowest bit says whether spans are recorded.
    pub flags: u8,
}

/// The text is no `traceparent` of W3C Trace Context. The standard says: go on without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent of W3C Trace Context: version, trace, parent and flags as lower-case hexadecimal digits with dashes between")]
pub struct NoTraceParent;

impl TraceParent {
    /// The first span of a new trace, recorded.
    #[must_use]
    pub fn random() -> Self {
        Self { trace_id: Uuid::new_v4().into_bytes(), span_id: random_span(), flags: SAMPLED }
    }

    /// A span of the same trace with an id of its own, drawn.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span_id: random_span(), ..self }
    }

    /// The span of the same trace for something that has an id: the same whoever asks, and however often.
    #[must_use]
    pub fn span_of(self, kind: &str, id: Uuid, number: u32) -> Self {
        let digest = Sha256::new().chain_update(kind).chain_update(id.as_bytes()).chain_update(number.to_be_bytes()).finalize();
        let mut span_id = [0; 8];
        span_id.copy_from_slice(&digest[..8]);
        Self { span_id, ..self }
    }

    /// Whether spans of this trace are recorded.
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// A random UUID has no zero in either half: its version and its variant are ones.
fn random_span() -> [u8; 8] {
    let drawn = Uuid::new_v4().into_bytes();
    std::array::from_fn(|index| drawn[8 + index])
}

impl FromStr for TraceParent {
    type Err = NoTraceParent;

    fn from_str(text: &str) -> Result<Self, NoTraceParent> {
        let (head, rest) = text.split_at_checked(PARENT_BYTES).ok_or(NoTraceParent)?;
        let fields: Vec<&str> = head.split('-').collect();
        let [version, trace, parent, flags] = fields[..] else { return Err(NoTraceParent) };
        let [version] = digits(version)?;
        // A version of tomorrow may say more behind a dash; today's may not, and ff is none.
        let fits = if version == 0 { rest.is_empty() } else { version != u8::MAX && (rest.is_empty() || rest.starts_with('-')) };
        let (trace_id, span_id, [flags]): ([u8; 16], [u8; 8], [u8; 1]) = (digits(trace)?, digits(parent)?, digits(flags)?);
        if fits && trace_id != [0; 16] && span_id != [0; 8] { Ok(Self { trace_id, span_id, flags }) } else { Err(NoTraceParent) }
    }
}

fn digits<const N: usize>(text: &str) -> Result<[u8; N], NoTraceParent> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(NoTraceParent),
    };
    if text.len() != 2 * N {
        return Err(NoTraceParent);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id));
        write!(formatter, "00-{trace:032x}-{span:016x}-{:02x}", self.flags)
    }
}

/// Something that began and ended. Ids, names, states and counts only: never input, output or a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// For people; one of few.
    pub name: String,
    /// Its part in the trace.
    pub kind: SpanKind,
    /// Its own id, in its trace.
    pub context: TraceParent,
    /// The span that it belongs to; none: it is the first.
    pub parent: Option<[u8; 8]>,
    /// On the clock of who says so.
    pub started_at: Timestamp,
    /// Not before the start.
    pub ended_at: Timestamp,
    /// A stable word for what went wrong; none: nothing.
    pub failure: Option<String>,
    /// Names of the OpenTelemetry conventions, else with `orchestr8.` in front.
    pub attributes: Vec<(&'static str, AttributeValue)>,
    /// What happened meanwhile.
    pub events: Vec<(&'static str, Timestamp)>,
}

/// What a span is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// A request from outside is answered.
    Server,
    /// Work that goes on here.
    Internal,
    /// Work that came by a message.
    Consumer,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    /// An id, a name or a word.
    Text(String),
    /// A count.
    Number(i64),
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for AttributeValue {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for AttributeValue {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

/// Where spans go. Cheap to clone; the default goes nowhere.
#[derive(Clone, Default)]
pub struct SpanSink(Option<Arc<dyn Fn(Span) + Send + Sync>>);

impl SpanSink {
    /// Gives every span to `take`, which must not wait.
    #[must_use]
    pub fn new(take: impl Fn(Span) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(take)))
    }

    /// Whether somebody takes spans of this trace: nothing is made of others.
    #[must_use]
    pub fn wants(&self, trace: TraceParent) -> bool {
        self.is_on() && trace.is_sampled()
    }

    /// Whether somebody takes spans.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Gives one away.
    pub fn emit(&self, span: Span) {
        if let Some(take) = &self.0 {
            take(span);
        }
    }
}

impl fmt::Debug for SpanSink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("SpanSink").field(&self.is_on()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parsed(text: &str) -> Result<TraceParent, NoTraceParent> {
        text.parse()
    }

    #[test]
    fn only_the_form_of_the_standard_is_a_traceparent() {
        assert!(parsed(GOOD).expect("good").is_sampled());
        assert!(!parsed(&GOOD.replace("-01", "-00")).expect("good").is_sampled());
        for bad in [
            "",
            "00-1-2-01",
            &GOOD.to_uppercase(),
            &GOOD[1..],
            &format!("{GOOD}0"),
            &format!("{GOOD}-00"),
            &GOOD.replace('-', "_"),
            &GOOD.replacen("00-", "ff-", 1),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace("4bf9", "4b\n9"),
            &GOOD.replace("4bf9", "4b é"),
        ] {
            assert_eq!(parsed(bad), Err(NoTraceParent), "{bad:?}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = GOOD.replacen("00-", "01-", 1);
        assert_eq!(parsed(&later).map(|parent| parent.to_string()), Ok(GOOD.to_owned()));
        assert!(parsed(&format!("{later}-more")).is_ok() && parsed(&format!("{later}more")).is_err());
    }

    #[test]
    fn what_has_an_id_has_one_span_in_each_trace() {
        let (trace, id) = (TraceParent::random(), Uuid::new_v4());
        let span = trace.span_of("attempt", id, 1);
        assert_eq!((span, span.trace_id), (trace.child().span_of("attempt", id, 1), trace.trace_id));
        let others = [trace.span_of("attempt", id, 2), trace.span_of("execution", id, 1), trace.span_of("attempt", Uuid::new_v4(), 1)];
        assert!(others.iter().all(|other| other.span_id != span.span_id));
        assert!(trace.child().span_id != trace.span_id);
    }

    #[test]
    fn a_sink_wants_recorded_traces_only() {
        let sampled = parsed(GOOD).expect("good");
        assert!(!SpanSink::default().wants(sampled));
        let sink = SpanSink::new(|_| ());
        assert!(sink.wants(sampled) && !sink.wants(TraceParent { flags: 0, ..sampled }));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(trace_id in 1_u128.., span_id in 1_u64.., flags: u8) {
            let parent = TraceParent { trace_id: trace_id.to_be_bytes(), span_id: span_id.to_be_bytes(), flags };
            prop_assert_eq!(parent.to_string().parse(), Ok(parent));
        }

        #[test]
        fn no_text_panics(text: String) {
            prop_assert!(parsed(&text).is_ok() || parsed(&text) == Err(NoTraceParent));
        }
    }
}
