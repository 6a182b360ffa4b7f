//! The inbox of the shard: what others want of it, stored by the sender and deleted by the commit that decides it.

use super::coordinator::{Coordinator, Stage, Work};
use super::rules::Rule;
use orchestr8_proto::ids::ExecutionId;
use std::collections::BTreeSet;

/// Of a row, in the order of sending.
pub(super) type LetterId = u64;

/// What a row wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Letter {
    /// Make this execution, under this id.
    Submit(ExecutionId),
    Cancel(ExecutionId),
}

impl Work {
    /// The row that it came from.
    pub(super) fn letter(&self) -> Option<LetterId> {
        match self {
            Self::Letter(letter, _) => Some(*letter),
            Self::Start(_)
            | Self::Outcome(_)
            | Self::Claim(..)
            | Self::Lost(..)
            | Self::Position(_)
            | Self::Due(_)
            | Self::Cancel(_)
            | Self::Undeliverable(..) => None,
        }
    }
}

impl Coordinator {
    /// Takes in what came for the shard, but for what is in hand.
    pub(super) fn read_inbox(&mut self, stage: &mut Stage<'_>) {
        if !std::mem::take(&mut self.inbox_due) {
            return;
        }
        let in_hand: BTreeSet<LetterId> = self.pending.iter().filter_map(Work::letter).collect();
        let new = stage.database.inbox.iter().filter(|(id, _)| !in_hand.contains(id));
        self.pending.extend(new.map(|(id, letter)| Work::Letter(*id, *letter)));
        if !self.rules.keep(Rule::InboxWithCommit) {
            stage.database.inbox.clear();
        }
    }
}
