//! Dispatches by reference: what is too large for a message is named by size and hash, and put together from parts. Pure.

use crate::wire::{Dispatch, InputsPart, ReferenceKind, dispatch};
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

/// Bytes of a part, all but the last: well below the 1 MiB that nats-server takes by default.
pub const PART_BYTES: usize = 256 * 1024;
/// Largest inputs of one dispatch, unless an operator says otherwise.
pub const INPUTS_BYTES_MAX_DEFAULT: usize = 16 * 1024 * 1024;
/// The most that an operator may say: both sides keep them in memory as a whole.
pub const INPUTS_BYTES_LARGEST: usize = 64 * 1024 * 1024;

/// Why inputs cannot be put together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The sender is at fault, or newer than this build.
    #[error(
        "the dispatch refers to inputs of {bytes} bytes with a hash of {hash_bytes}: this version knows at most {INPUTS_BYTES_LARGEST} bytes and SHA-256"
    )]
    Unusable {
        /// Their size.
        bytes: u64,
        /// The hash's size.
        hash_bytes: usize,
    },
    /// The owner made something else of its state than whoever published the dispatch: a new dispatch must be made.
    #[error("the inputs that the shard's owner has are not those that the dispatch refers to")]
    Changed,
    /// They are what was referred to, but not what this build reads.
    #[error("the inputs cannot be read: {0}")]
    Malformed(String),
}

/// A dispatch without what it runs and its inputs, and these as bytes: the same for the same dispatch, whoever makes them.
#[must_use]
pub fn refer(dispatch: Dispatch) -> (Dispatch, Bytes) {
    let inputs = Dispatch {
        kind: dispatch.kind,
        with_json: dispatch.with_json,
        prompt: dispatch.prompt,
        environment: dispatch.environment,
        ..Dispatch::default()
    };
    let inputs = Bytes::from(inputs.encode_to_vec());
    let reference = ReferenceKind { bytes: inputs.len() as u64, sha256: Bytes::copy_from_slice(&Sha256::digest(&inputs)) };
    let referring = Dispatch {
        kind: Some(dispatch::Kind::Reference(reference)),
        with_json: Bytes::new(),
        prompt: String::new(),
        environment: Vec::new(),
        // Only who holds the run is given its inputs.
        ask_first: true,
        ..dispatch
    };
    (referring, inputs)
}

/// Makes a dispatch whole again; one of a kind that this build does not know is of none.
///
/// # Errors
/// [`ReferenceError::Malformed`].
pub fn restore(dispatch: &mut Dispatch, inputs: Bytes) -> Result<(), ReferenceError> {
    let inputs = Dispatch::decode(inputs).map_err(|error| ReferenceError::Malformed(error.to_string()))?;
    dispatch.kind = inputs.kind;
    (dispatch.with_json, dispatch.prompt, dispatch.environment) = (inputs.with_json, inputs.prompt, inputs.environment);
    Ok(())
}

/// The part of inputs that begins at an offset; none: no part begins there.
#[must_use]
pub fn part(inputs: &Bytes, offset: u64) -> Option<Bytes> {
    let offset = usize::try_from(offset).ok().filter(|offset| *offset < inputs.len() && offset.is_multiple_of(PART_BYTES))?;
    Some(inputs.slice(offset..inputs.len().min(offset + PART_BYTES)))
}

/// Inputs of which some parts have come, in order.
#[derive(Debug)]
pub struct Gathering {
    bytes: usize,
    sha256: Bytes,
    have: Vec<u8>,
}

/// What a part changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gathered {
    /// Nothing: it is not the next one.
    Nothing,
    /// The next one may be asked for.
    More,
    /// They are whole, and those that were referred to.
    All(Bytes),
    /// They are whole, and others: all parts are given up.
    Changed,
}

impl Gathering {
    /// Nothing has come yet.
    ///
    /// # Errors
    /// [`ReferenceError::Unusable`].
    pub fn new(reference: &ReferenceKind) -> Result<Self, ReferenceError> {
        let unusable = || ReferenceError::Unusable { bytes: reference.bytes, hash_bytes: reference.sha256.len() };
        let bytes =
            usize::try_from(reference.bytes).ok().filter(|bytes| (1..=INPUTS_BYTES_LARGEST).contains(bytes)).ok_or_else(unusable)?;
        if reference.sha256.len() != Sha256::output_size() {
            return Err(unusable());
        }
        Ok(Self { bytes, sha256: reference.sha256.clone(), have: Vec::new() })
    }

    /// What they will have as a whole.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the next part begins.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.have.len() as u64
    }

    /// Takes a part in.
    pub fn take(&mut self, part: &InputsPart) -> Gathered {
        let expected = PART_BYTES.min(self.bytes - self.have.len());
        if part.offset != self.offset() || part.part.is_empty() {
            return Gathered::Nothing;
        }
        // Of another length: they are others. Their end is not waited for.
        if part.part.len() != expected {
            self.have = Vec::new();
            return Gathered::Changed;
        }
        self.have.reserve_exact(self.bytes - self.have.len());
        self.have.extend_from_slice(&part.part);
        if self.have.len() < self.bytes {
            return Gathered::More;
        }
        let all = std::mem::take(&mut self.have);
        if Sha256::digest(&all)[..] == self.sha256[..] { Gathered::All(all.into()) } else { Gathered::Changed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{EnvironmentVariable, RunKind};

    fn large(bytes: usize) -> Dispatch {
        Dispatch {
            dispatch_id: Bytes::from_static(&[1; 16]),
            task_name: "gather".into(),
            attempt: 2,
            kind: Some(dispatch::Kind::Run(RunKind { script: "true".into() })),
            with_json: format!("{{\"a\":\"{}\"}}", "x".repeat(bytes)).into(),
            prompt: "look".into(),
            environment: vec![EnvironmentVariable { name: "A".into(), value: "1".into() }],
            outcome_token: Bytes::from_static(b"token"),
            ..Dispatch::default()
        }
    }

    fn reference(dispatch: &Dispatch) -> &ReferenceKind {
        let Some(dispatch::Kind::Reference(reference)) = &dispatch.kind else { panic!("it refers: {dispatch:?}") };
        reference
    }

    fn gather(reference: &ReferenceKind, inputs: &Bytes) -> Gathered {
        let mut gathering = Gathering::new(reference).expect("usable");
        loop {
            let offset = gathering.offset();
            let part = InputsPart { run_id: Bytes::new(), offset, part: part(inputs, offset).expect("there is one") };
            match gathering.take(&part) {
                Gathered::More => assert_eq!(gathering.take(&part), Gathered::Nothing, "it came twice"),
                other => return other,
            }
        }
    }

    #[test]
    fn what_is_referred_to_in_parts_is_whole_again() {
        for bytes in [0, PART_BYTES - 200, PART_BYTES, 3 * PART_BYTES + 17] {
            let whole = large(bytes);
            let (mut referring, inputs) = refer(whole.clone());
            assert!(referring.encoded_len() < 200 && referring.ask_first, "{referring:?}");
            assert_eq!(refer(whole.clone()).1, inputs, "the same for the same dispatch");
            let Gathered::All(gathered) = gather(reference(&referring), &inputs) else { panic!("all came") };
            restore(&mut referring, gathered).expect("it was written by this build");
            assert_eq!(referring, Dispatch { ask_first: true, ..whole });
        }
    }

    #[test]
    fn what_does_not_have_the_hash_is_not_what_was_referred_to() {
        let (referring, _) = refer(large(PART_BYTES + 5));
        let (_, mut other) = refer(Dispatch { prompt: "cool".into(), ..large(PART_BYTES + 5) });
        assert_eq!(gather(reference(&referring), &other), Gathered::Changed);
        other.truncate(other.len() - 1);
        assert_eq!(gather(reference(&referring), &other), Gathered::Changed);
    }

    #[test]
    fn a_part_that_was_not_asked_for_changes_nothing() {
        let (referring, inputs) = refer(large(2 * PART_BYTES));
        let mut gathering = Gathering::new(reference(&referring)).expect("usable");
        let at = |offset: u64, part: Bytes| InputsPart { run_id: Bytes::new(), offset, part };
        for strange in [
            at(1, inputs.slice(1..9)),
            at(PART_BYTES as u64, inputs.slice(PART_BYTES..)),
            at(0, Bytes::new()),
            at(u64::MAX, Bytes::from_static(b"x")),
        ] {
            assert_eq!(gathering.take(&strange), Gathered::Nothing);
        }
        assert_eq!(gathering.offset(), 0);
    }

    #[test]
    fn parts_begin_where_parts_begin() {
        let inputs = Bytes::from(vec![7; PART_BYTES + 1]);
        assert_eq!(part(&inputs, 0).map(|part| part.len()), Some(PART_BYTES));
        assert_eq!(part(&inputs, PART_BYTES as u64).map(|part| part.len()), Some(1));
        for offset in [1, PART_BYTES as u64 + 1, 2 * PART_BYTES as u64, u64::MAX] {
            assert_eq!(part(&inputs, offset), None, "{offset}");
        }
    }

    #[test]
    fn what_nobody_could_keep_or_check_is_refused_before_it_is_asked_for() {
        let good = ReferenceKind { bytes: 1, sha256: Bytes::from_static(&[0; 32]) };
        assert!(Gathering::new(&good).is_ok());
        for bad in [
            ReferenceKind { bytes: 0, ..good.clone() },
            ReferenceKind { bytes: INPUTS_BYTES_LARGEST as u64 + 1, ..good.clone() },
            ReferenceKind { bytes: u64::MAX, ..good.clone() },
            ReferenceKind { sha256: Bytes::from_static(&[0; 20]), ..good },
        ] {
            assert!(matches!(Gathering::new(&bad), Err(ReferenceError::Unusable { .. })), "{bad:?}");
        }
    }

    /// The numbers of the kinds that builds before references knew.
    #[derive(Clone, PartialEq, Message)]
    struct OlderKinds {
        #[prost(message, optional, tag = "10")]
        run: Option<RunKind>,
        #[prost(message, optional, tag = "11")]
        handler: Option<crate::wire::HandlerKind>,
    }

    #[test]
    fn to_an_older_build_a_reference_is_a_kind_that_it_does_not_know() {
        let (referring, _) = refer(large(PART_BYTES));
        assert_eq!(OlderKinds::decode(Bytes::from(referring.encode_to_vec())), Ok(OlderKinds { run: None, handler: None }));
    }
}
