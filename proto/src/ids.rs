//! Ids: time-ordered, with the shard in fixed bits (the layout of UUIDv7, RFC 9562 §5.7).
//!
//! ```text
//! 48 bits  Unix milliseconds
//!  4 bits  version 7
//! 12 bits  shard
//!  2 bits  variant
//! 42 bits  random
//! 20 bits  ordinal: 0 for the execution, task index + 1 for its tasks
//! ```
//! So a task's id names its execution, its index and its shard without a look-up, and the rows of one
//! execution lie together in the primary key.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Tasks in one execution, at most (20 bits of ordinal, 0 is the execution itself).
pub const TASKS_MAX: u32 = (1 << ORDINAL_BITS) - 1;
/// Shards in one installation, at most (12 bits).
pub const SHARDS_MAX: u16 = 1 << 12;

const ORDINAL_BITS: u32 = 20;
const ORDINAL_MASK: u128 = (1 << ORDINAL_BITS) - 1;

/// Why bytes or text are not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 16 bytes on the wire.
    #[error("an id has 16 bytes, this one has {0}")]
    Length(usize),
    /// Not a UUID in text.
    #[error("`{0}` is not a UUID")]
    Text(String),
    /// The ordinal says that this is the id of something else.
    #[error("`{0}` is not the id of {1}")]
    Kind(Uuid, &'static str),
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The 16 bytes on the wire.
            #[must_use]
            pub fn to_bytes(self) -> bytes::Bytes {
                bytes::Bytes::copy_from_slice(self.0.as_bytes())
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;
            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                let uuid = Uuid::from_slice(bytes).map_err(|_| IdError::Length(bytes.len()))?;
                Self::try_from(uuid)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let uuid = Uuid::parse_str(text).map_err(|_| IdError::Text(text.to_owned()))?;
                Self::try_from(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        id_type!($(#[$doc])* $name);

        impl $name {
            /// Draws a new one: 122 random bits.
            #[must_use]
            pub fn random() -> Self {
                Self(uuid::Builder::from_random_bytes(rand::rng().random()).into_uuid())
            }
        }

        impl TryFrom<Uuid> for $name {
            type Error = IdError;
            fn try_from(uuid: Uuid) -> Result<Self, IdError> {
                Ok(Self(uuid))
            }
        }
    };
}

id_type! {
    /// One execution of a workflow (`workflow_id` in JSON, columns, spans and logs).
    ExecutionId
}
id_type! {
    /// One task of one execution.
    TaskId
}
random_id! {
    /// One publication of a task. Drawn anew by every deliberate dispatch: it is the `Nats-Msg-Id`, and what claims and outcomes are checked against.
    DispatchId
}
random_id! {
    /// One start of a dispatch by one executor. The granted one is stored as the task's holder.
    RunId
}
random_id! {
    /// One life of one executor process.
    Incarnation
}
random_id! {
    /// One ownership of a shard by a coordinator, compared by equality.
    LeaseId
}

impl Incarnation {
    /// Its first half: the same for all incarnations of one login (see [`crate::login::Login::seat`]), else random.
    #[must_use]
    pub const fn seat(self) -> u64 {
        self.0.as_u64_pair().0
    }
}

impl ExecutionId {
    /// Draws an execution id for `shard` at `unix_ms`.
    #[must_use]
    pub fn generate(unix_ms: u64, shard: u16, random: &mut impl Rng) -> Self {
        debug_assert!(shard < SHARDS_MAX);
        let time = (u128::from(unix_ms) & 0xffff_ffff_ffff) << 80;
        let shard = u128::from(shard & (SHARDS_MAX - 1)) << 64;
        let entropy = u128::from(random.random::<u64>() & ((1 << 42) - 1)) << ORDINAL_BITS;
        Self(Uuid::from_u128(time | (7 << 76) | shard | (0b10 << 62) | entropy))
    }

    /// The id of this execution's task number `index` (from 0, below [`TASKS_MAX`]).
    #[must_use]
    pub fn task(self, index: u32) -> TaskId {
        debug_assert!(index < TASKS_MAX);
        TaskId(Uuid::from_u128(self.0.as_u128() | (u128::from(index + 1) & ORDINAL_MASK)))
    }

    /// The last id that a task of this execution can have: with the execution's own id the bounds of its rows.
    #[must_use]
    pub fn last_task(self) -> TaskId {
        TaskId(Uuid::from_u128(self.0.as_u128() | ORDINAL_MASK))
    }

    /// The shard that decides everything about this execution.
    #[must_use]
    pub fn shard(self) -> u16 {
        shard_of(self.0)
    }
}

impl TaskId {
    /// The execution that the task belongs to.
    #[must_use]
    pub fn execution(self) -> ExecutionId {
        ExecutionId(Uuid::from_u128(self.0.as_u128() & !ORDINAL_MASK))
    }

    /// The task's place in its plan, from 0.
    ///
    /// # Panics
    /// Never: the bits are too few for it.
    #[must_use]
    pub fn index(self) -> u32 {
        u32::try_from((self.0.as_u128() & ORDINAL_MASK) - 1).expect("20 bits")
    }

    /// The shard of its execution.
    #[must_use]
    pub fn shard(self) -> u16 {
        shard_of(self.0)
    }
}

impl TryFrom<Uuid> for ExecutionId {
    type Error = IdError;
    fn try_from(uuid: Uuid) -> Result<Self, IdError> {
        if uuid.as_u128() & ORDINAL_MASK == 0 { Ok(Self(uuid)) } else { Err(IdError::Kind(uuid, "a workflow execution")) }
    }
}

impl TryFrom<Uuid> for TaskId {
    type Error = IdError;
    fn try_from(uuid: Uuid) -> Result<Self, IdError> {
        if uuid.as_u128() & ORDINAL_MASK == 0 { Err(IdError::Kind(uuid, "a task")) } else { Ok(Self(uuid)) }
    }
}

fn shard_of(uuid: Uuid) -> u16 {
    u16::try_from((uuid.as_u128() >> 64) & 0xfff).expect("12 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_task_id_names_its_execution_index_and_shard(ms in 0u64..1 << 48, shard in 0..SHARDS_MAX, index in 0..TASKS_MAX) {
            let execution = ExecutionId::generate(ms, shard, &mut rand::rng());
            let task = execution.task(index);
            prop_assert_eq!(task.execution(), execution);
            prop_assert_eq!(task.index(), index);
            prop_assert_eq!((task.shard(), execution.shard()), (shard, shard));
            prop_assert!(execution.0 < task.0 && task <= execution.last_task());
            prop_assert_eq!(execution.0.get_version_num(), 7);
            prop_assert_eq!(TaskId::try_from(task.to_bytes().as_ref()), Ok(task));
            prop_assert!(ExecutionId::try_from(task.0).is_err() && TaskId::try_from(execution.0).is_err());
        }
    }

    #[test]
    fn ids_are_ordered_by_time() {
        let early = ExecutionId::generate(1_000, 15, &mut rand::rng());
        let late = ExecutionId::generate(1_001, 0, &mut rand::rng());
        assert!(early < late);
    }

    #[test]
    fn malformed_ids_are_errors() {
        assert_eq!(RunId::try_from([0u8; 3].as_slice()), Err(IdError::Length(3)));
        assert!("nonsense".parse::<TaskId>().is_err());
    }
}
