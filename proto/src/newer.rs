//! A build of tomorrow, for tests of rolling upgrades. Compiled in with the feature `kill-points` only.
//!
//! `ORCHESTR8_TEST_SCHEMA_VERSION`: with `next` this process writes one schema version more than it was built for and reads up to
//! it. With `next` or `kinds` it knows one more kind of dispatch: a script that begins with [`MARK`] goes as that kind.

use crate::wire::{Dispatch, DispatchBatch, RunKind, SCHEMA_VERSION, dispatch};
use bytes::Bytes;
use prost::Message;
use std::sync::LazyLock;

/// The first words of a script that is dispatched as the newer kind.
const MARK: &str = "# a newer kind";

/// How this process speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speech {
    /// As it was built.
    Today,
    /// The same schema version, and one more kind.
    Kinds,
    /// The next schema version, and one more kind.
    Next,
}

static SPEECH: LazyLock<Speech> = LazyLock::new(|| match std::env::var("ORCHESTR8_TEST_SCHEMA_VERSION").unwrap_or_default().as_str() {
    "" => Speech::Today,
    "kinds" => Speech::Kinds,
    "next" => Speech::Next,
    other => panic!("ORCHESTR8_TEST_SCHEMA_VERSION=`{other}`: use `kinds` or `next`"),
});

/// A batch as bytes that hold what an older build does not know.
#[derive(Clone, PartialEq, Message)]
struct NewerBatch {
    #[prost(uint32, tag = "1")]
    schema_version: u32,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    dispatches: Vec<Bytes>,
}

/// The member of a dispatch's kinds that an older build does not know.
#[derive(Clone, PartialEq, Message)]
struct NewerKind {
    #[prost(message, optional, tag = "13")]
    run: Option<RunKind>,
}

/// The highest schema version that this process reads, and the one that it writes.
pub(crate) fn schema_version() -> u32 {
    match *SPEECH {
        Speech::Today | Speech::Kinds => SCHEMA_VERSION,
        Speech::Next => SCHEMA_VERSION + 1,
    }
}

/// An encoded envelope with this process's version: of a field that comes twice the last counts.
pub(crate) fn stamped(mut message: Vec<u8>) -> Vec<u8> {
    if schema_version() != SCHEMA_VERSION {
        prost::encoding::uint32::encode(1, &schema_version(), &mut message);
    }
    message
}

/// An encoded batch with the newer kind where a script is marked; none: this process does not know it.
pub(crate) fn with_kinds(batch: &DispatchBatch) -> Option<Vec<u8>> {
    let dispatches = match *SPEECH {
        Speech::Today => return None,
        Speech::Kinds | Speech::Next => batch.dispatches.iter().cloned().map(encode_kind).collect(),
    };
    Some(NewerBatch { schema_version: batch.schema_version, dispatches }.encode_to_vec())
}

/// The batch with the kinds that today's types have passed over in its bytes.
pub(crate) fn with_newer_kinds(mut batch: DispatchBatch, bytes: Bytes) -> DispatchBatch {
    match *SPEECH {
        Speech::Today => return batch,
        Speech::Kinds | Speech::Next => {}
    }
    let newer = NewerBatch::decode(bytes).unwrap_or_default();
    for (dispatch, bytes) in batch.dispatches.iter_mut().zip(newer.dispatches) {
        decode_kind(dispatch, bytes);
    }
    batch
}

fn encode_kind(dispatch: Dispatch) -> Bytes {
    let run = match &dispatch.kind {
        Some(dispatch::Kind::Run(run)) if run.script.starts_with(MARK) => run.clone(),
        Some(dispatch::Kind::Run(_) | dispatch::Kind::Handler(_) | dispatch::Kind::Reference(_)) | None => {
            return dispatch.encode_to_vec().into();
        }
    };
    let mut bytes = Dispatch { kind: None, ..dispatch }.encode_to_vec();
    bytes.extend(NewerKind { run: Some(run) }.encode_to_vec());
    bytes.into()
}

fn decode_kind(dispatch: &mut Dispatch, bytes: Bytes) {
    if dispatch.kind.is_none() {
        let newer = NewerKind::decode(bytes).unwrap_or_default();
        dispatch.kind = newer.run.map(dispatch::Kind::Run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_kind_is_nothing_to_an_older_build_and_comes_back_in_a_newer_one() {
        let run = RunKind { script: format!("{MARK}\ntrue") };
        let sent = Dispatch { attempt: 3, kind: Some(dispatch::Kind::Run(run)), ..Dispatch::default() };
        let bytes = encode_kind(sent.clone());
        let mut read = Dispatch::decode(bytes.clone()).expect("a dispatch");
        assert_eq!(read, Dispatch { kind: None, ..sent.clone() });
        decode_kind(&mut read, bytes);
        assert_eq!(read, sent);
        let usual = Dispatch { kind: Some(dispatch::Kind::Run(RunKind { script: "true".into() })), ..sent };
        assert_eq!(encode_kind(usual.clone()), usual.encode_to_vec());
    }
}
