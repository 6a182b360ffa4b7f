//! The messages of `wire/orchestr8.proto`, and strict encoding and decoding.
//!
//! What cannot be understood is an error, never a default: a newer schema version, an unknown enum value, a
//! message over its limit, bytes that are not the message.

// Generated code: its style is prost's.
#[allow(clippy::pedantic, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/orchestr8.v1.rs"));
}
pub use generated::*;

#[cfg(feature = "kill-points")]
use crate::newer::{schema_version as schema_version_max, stamped};
use bytes::Bytes;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use prost::{DecodeError, Message};

/// The version that this build writes, and the highest that it reads.
pub const SCHEMA_VERSION: u32 = 1;
/// Largest message, below the 1 MiB that nats-server takes by default, with room for headers.
pub const MESSAGE_BYTES_MAX: usize = 1_000_000;
/// Largest dispatch that travels whole; of a larger one kind and inputs are fetched by its holder (see [`crate::reference`]).
pub const DISPATCH_BYTES_MAX: usize = 512 * 1024;
/// Largest output of a task.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// What is kept of each of stdout and stderr.
pub const TAIL_BYTES_MAX: usize = 64 * 1024;
/// Runs in one part of a heartbeat.
pub const HELD_RUNS_MAX: usize = 4_096;
/// Outcomes, claims, verdicts or confirmations in one message.
pub const BATCH_ITEMS_MAX: usize = 4_096;
/// Fields of one message, a repeated one counted each time: an empty item has two bytes on the wire and hundreds in memory.
pub const FIELDS_MAX: usize = 4 * BATCH_ITEMS_MAX;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The sender must split or shrink it.
    #[error("message of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// What it has.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The sender must split it.
    #[error("message of more than {FIELDS_MAX} fields, items counted one by one")]
    TooMany,
    /// Not protobuf, or not this message.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The sender is newer than this build: upgrade the receiver first.
    #[error("schema version {0} is not supported: this build reads 1 to {SCHEMA_VERSION}")]
    Version(u32),
    /// An enum value that this build does not know, or none where one is required.
    #[error("field `{field}` has the unknown value {value}")]
    UnknownValue {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: i32,
    },
    /// A oneof without a known member: sent by a newer build.
    #[error("field `{0}` is missing or of an unknown kind")]
    Missing(&'static str),
}

/// A message that stands alone on a subject.
pub trait Envelope: Message + Default {
    /// The version its sender wrote.
    fn schema_version(&self) -> u32;
}

macro_rules! envelopes {
    ($($name:ident),+) => { $(impl Envelope for $name {
        fn schema_version(&self) -> u32 { self.schema_version }
    })+ };
}
envelopes!(DispatchBatch, OutcomeBatch, ClaimBatch, Heartbeat, Control, CoordinatorBeat, Nudge);

/// Encodes a message.
///
/// # Errors
/// [`WireError::TooLarge`]: the server would refuse it.
pub fn encode(message: &impl Envelope) -> Result<Bytes, WireError> {
    let bytes = message.encoded_len();
    if bytes > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLarge { bytes, limit: MESSAGE_BYTES_MAX });
    }
    Ok(stamped(message.encode_to_vec()).into())
}

/// Encodes dispatches.
///
/// # Errors
/// As of [`encode`].
pub fn encode_dispatches(batch: &DispatchBatch) -> Result<Bytes, WireError> {
    let bytes = encode(batch)?;
    #[cfg(feature = "kill-points")]
    let bytes = crate::newer::with_kinds(batch).map_or(bytes, |newer| stamped(newer).into());
    Ok(bytes)
}

/// Decodes a message of a version that this build reads.
///
/// # Errors
/// Every [`WireError`] but the unknown values, which the message's own checks find.
pub fn decode<M: Envelope>(bytes: Bytes) -> Result<M, WireError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLarge { bytes: bytes.len(), limit: MESSAGE_BYTES_MAX });
    }
    let malformed = |error: DecodeError| WireError::Malformed(error.to_string());
    if fields(&bytes).map_err(malformed)? > FIELDS_MAX {
        return Err(WireError::TooMany);
    }
    let message = M::decode(bytes).map_err(malformed)?;
    match message.schema_version() {
        version if (1..=schema_version_max()).contains(&version) => Ok(message),
        other => Err(WireError::Version(other)),
    }
}

/// How many fields a message has, as far as [`FIELDS_MAX`] and one more; nothing is built for it.
fn fields(mut bytes: &[u8]) -> Result<usize, DecodeError> {
    let mut fields = 0;
    while !bytes.is_empty() && fields <= FIELDS_MAX {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?;
        fields += 1;
    }
    Ok(fields)
}

/// Decodes dispatches; a kind that this build does not know is none.
///
/// # Errors
/// As of [`decode`].
pub fn decode_dispatches(bytes: &Bytes) -> Result<DispatchBatch, WireError> {
    let batch = decode(bytes.clone())?;
    #[cfg(feature = "kill-points")]
    let batch = crate::newer::with_newer_kinds(batch, bytes.clone());
    Ok(batch)
}

#[cfg(not(feature = "kill-points"))]
const fn schema_version_max() -> u32 {
    SCHEMA_VERSION
}

#[cfg(not(feature = "kill-points"))]
const fn stamped(message: Vec<u8>) -> Vec<u8> {
    message
}

/// A known, specified value of a proto enum.
///
/// # Errors
/// [`WireError::UnknownValue`] for the unspecified and the unknown.
pub fn known<E: TryFrom<i32> + Copy>(field: &'static str, value: i32) -> Result<E, WireError> {
    if value == 0 {
        return Err(WireError::UnknownValue { field, value });
    }
    E::try_from(value).map_err(|_| WireError::UnknownValue { field, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat() -> Heartbeat {
        Heartbeat { schema_version: SCHEMA_VERSION, executor: "e".into(), ..Heartbeat::default() }
    }

    #[test]
    fn what_is_encoded_decodes() {
        let bytes = encode(&beat()).expect("small");
        assert_eq!(decode::<Heartbeat>(bytes), Ok(beat()));
    }

    #[test]
    fn a_newer_or_absent_version_is_refused_by_name() {
        for version in [0, SCHEMA_VERSION + 1] {
            let bytes = encode(&Heartbeat { schema_version: version, ..beat() }).expect("small");
            assert_eq!(decode::<Heartbeat>(bytes), Err(WireError::Version(version)));
        }
    }

    #[test]
    fn malformed_and_oversized_messages_are_errors() {
        assert!(matches!(decode::<Heartbeat>(Bytes::from_static(&[0xff; 9])), Err(WireError::Malformed(_))));
        let huge = Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]);
        assert!(matches!(decode::<Heartbeat>(huge), Err(WireError::TooLarge { .. })));
        let long = Heartbeat { executor: "x".repeat(MESSAGE_BYTES_MAX), ..beat() };
        assert!(matches!(encode(&long), Err(WireError::TooLarge { .. })));
    }

    #[test]
    fn items_that_are_small_only_on_the_wire_are_refused_before_they_are_built() {
        let with_items = |items: usize| OutcomeBatch { schema_version: SCHEMA_VERSION, outcomes: vec![Outcome::default(); items] };
        let bytes = encode(&with_items(FIELDS_MAX)).expect("two bytes each");
        assert_eq!(decode::<OutcomeBatch>(bytes), Err(WireError::TooMany));
        let bytes = encode(&with_items(BATCH_ITEMS_MAX)).expect("two bytes each");
        assert!(decode::<OutcomeBatch>(bytes).is_ok());
    }

    #[test]
    fn unknown_enum_values_are_errors() {
        assert_eq!(known::<Verdict>("verdict", 1), Ok(Verdict::Granted));
        assert!(known::<Verdict>("verdict", 0).is_err());
        assert!(known::<Verdict>("verdict", 99).is_err());
    }
}
