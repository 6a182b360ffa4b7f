//! The six rules, what takeovers and inboxes rest on besides, and a switch in the model's own glue that breaks one of them, to
//! show that the break is found.

use std::fmt;

/// A rule of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Rule {
    /// Identity. Broken: an outcome counts for its task, whatever dispatch it is of.
    R1,
    /// One recovery. Broken: after a doubt the lane goes on with what it remembers.
    R2,
    /// Nothing leaves without the fence. Broken: the lane acts before its commit.
    R3,
    /// A heartbeat is a set. Broken: it is a sign of life of an executor's name.
    R4,
    /// Doubt asks first. Broken: every delivery starts at once.
    R5,
    /// No verdict before the outcomes. Broken: evidence is believed at once.
    R6,
    /// A lane that listened grants no new lease when it takes a shard. Broken: every takeover grants full ones.
    Found,
    /// Who takes a shard, and every renewal, looks into its inbox. Broken: only a nudge tells that something came.
    InboxLookedInto,
    /// A letter leaves the inbox with the commit that decides it. Broken: when it is read.
    InboxWithCommit,
    /// A recovery reads letters again, and nothing is made twice. Broken: it keeps those in hand, and makes them unasked.
    InboxReadAgain,
}

/// The rule that is broken, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Rules {
    broken: Option<Rule>,
}

impl Rules {
    /// All rules hold but this one.
    pub(super) const fn without(rule: Rule) -> Self {
        Self { broken: Some(rule) }
    }

    /// Whether the rule holds.
    pub(super) fn keep(self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.broken {
            None => write!(f, "all rules"),
            Some(rule) => write!(f, "all rules but {rule:?}"),
        }
    }
}
