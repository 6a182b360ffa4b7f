//! From the bytes of a task message to the dispatches in it, or to what can still be said about them. Pure.

use bytes::Bytes;
use orchestr8_proto::ids::{DispatchId, IdError, TaskId};
use orchestr8_proto::wire::{self, DispatchBatch, WireError};
use prost::Message;

/// One dispatch with its ids decoded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    /// The task.
    pub task_id: TaskId,
    /// The dispatch.
    pub dispatch_id: DispatchId,
    /// All of it.
    pub dispatch: wire::Dispatch,
}

/// What a message turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reading {
    /// Dispatches that this build understands; some may be of an unknown kind.
    Work(Vec<Member>),
    /// Dispatches whose ids can be read, but not what they ask for; and why.
    Unsupported(Vec<Member>, String),
    /// Dispatches of a newer version of which not even the ids can be read; and why. Another executor may know them.
    Newer(String),
    /// Nothing can be said, not even to whom; and why.
    Unreadable(String),
}

/// Reads a message of [`orchestr8_proto::names::TASKS_STREAM`].
pub(crate) fn read(payload: Bytes) -> Reading {
    match wire::decode_dispatches(&payload) {
        Ok(batch) => match members(batch) {
            Ok(members) if members.is_empty() => Reading::Unreadable("the message holds no dispatch".into()),
            Ok(members) => Reading::Work(members),
            Err(error) => Reading::Unreadable(error.to_string()),
        },
        Err(error @ WireError::Version(_)) => read_newer(payload, &error),
        Err(error) => Reading::Unreadable(error.to_string()),
    }
}

/// A newer sender keeps the numbers of the ids, so that an older executor can give its dispatches back.
fn read_newer(payload: Bytes, error: &WireError) -> Reading {
    match members(DispatchBatch::decode(payload).unwrap_or_default()) {
        Ok(members) if members.is_empty() => Reading::Unreadable(error.to_string()),
        Ok(members) => Reading::Unsupported(members, error.to_string()),
        Err(_) => Reading::Newer(error.to_string()),
    }
}

fn members(batch: DispatchBatch) -> Result<Vec<Member>, IdError> {
    let member = |dispatch: wire::Dispatch| {
        Ok(Member {
            task_id: TaskId::try_from(dispatch.task_id.as_ref())?,
            dispatch_id: DispatchId::try_from(dispatch.dispatch_id.as_ref())?,
            dispatch,
        })
    };
    batch.dispatches.into_iter().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::ids::ExecutionId;

    fn dispatch() -> wire::Dispatch {
        let task_id = ExecutionId::generate(1, 2, &mut rand::rng()).task(0);
        wire::Dispatch { task_id: task_id.to_bytes(), dispatch_id: DispatchId::random().to_bytes(), ..wire::Dispatch::default() }
    }

    fn bytes(schema_version: u32, dispatches: Vec<wire::Dispatch>) -> Bytes {
        DispatchBatch { schema_version, dispatches }.encode_to_vec().into()
    }

    #[test]
    fn a_bundle_is_read_in_order() {
        let dispatches = vec![dispatch(), dispatch()];
        let Reading::Work(members) = read(bytes(1, dispatches.clone())) else { panic!("it is work") };
        assert_eq!(members.into_iter().map(|member| member.dispatch).collect::<Vec<_>>(), dispatches);
    }

    #[test]
    fn a_newer_message_with_readable_ids_can_be_given_back() {
        let Reading::Unsupported(members, detail) = read(bytes(2, vec![dispatch()])) else { panic!("it is newer") };
        assert_eq!(members.len(), 1);
        assert!(detail.contains("schema version 2"), "{detail}");
    }

    #[test]
    fn anything_else_is_unreadable_and_says_why() {
        let no_ids = wire::Dispatch { task_id: Bytes::from_static(b"short"), ..dispatch() };
        assert!(matches!(read(bytes(2, vec![no_ids.clone()])), Reading::Newer(reason) if reason.contains("schema version 2")));
        for payload in [Bytes::from_static(&[0xff; 9]), bytes(1, vec![]), bytes(2, vec![]), bytes(1, vec![no_ids])] {
            assert!(matches!(read(payload), Reading::Unreadable(reason) if !reason.is_empty()));
        }
    }
}
