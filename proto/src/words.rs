//! The words that users see: priorities and states.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A word that is not one of the known ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is not a {what}: use one of {known}")]
pub struct UnknownWord {
    /// What was looked for, such as `priority`.
    pub what: &'static str,
    /// What was given.
    pub word: String,
    /// The words that would have been understood.
    pub known: String,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word in JSON, columns, subjects and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|known| known.as_str() == word).ok_or_else(|| UnknownWord {
                    what: $what,
                    word: word.to_owned(),
                    known: Self::ALL.iter().map(|known| known.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

words! {
    /// How urgent a task is within its queue; executors sweep in this order, with a turn against starvation.
    Priority: "priority" {
        /// First.
        Critical = "critical",
        /// Before the default.
        High = "high",
        /// The default.
        Normal = "normal",
        /// Last.
        Low = "low",
    }
}

words! {
    /// The state of a workflow execution.
    WorkflowStatus: "workflow status" {
        /// Accepted with `run_at` in the future; its start timer leads to `running`.
        Pending = "pending",
        /// At least one task may still start or end. Leaves when the last task ends.
        Running = "running",
        /// Set by an operator; nothing new starts until it is resumed.
        Paused = "paused",
        /// Final: every task ended, none failed (or only where `continue_on_failure` allows it).
        Completed = "completed",
        /// Final: a task failed for good.
        Failed = "failed",
        /// Final: cancelled before it could complete.
        Cancelled = "cancelled",
    }
}

words! {
    /// The state of a task.
    TaskStatus: "task status" {
        /// Waits for its upstreams; entered at submission, left when the last of them ends.
        Pending = "pending",
        /// Ready: published, or held until the broker has room. Left by a claim, an outcome or a cancel.
        Queued = "queued",
        /// A granted claim stored its holder. Left by the outcome, the loss or the release of that run.
        Running = "running",
        /// A failed attempt waits for its backoff; the timer leads back to `queued`.
        Retrying = "retrying",
        /// Parked on a timer (`sleep`, `run_at`), later also on children, a signal or an approval; holds no slot.
        Waiting = "waiting",
        /// Final: an outcome said so.
        Completed = "completed",
        /// Final: failed for good.
        Failed = "failed",
        /// Final: never ran, because an upstream failed or was skipped.
        Skipped = "skipped",
        /// Final: cancelled before it could complete.
        Cancelled = "cancelled",
    }
}

impl WorkflowStatus {
    /// Nothing leaves a final state.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl TaskStatus {
    /// Nothing leaves a final state.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Skipped | Self::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_unknown_ones_name_the_known() {
        for status in TaskStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(*status));
        }
        let error = "urgent".parse::<Priority>().expect_err("unknown");
        assert_eq!(error.to_string(), "`urgent` is not a priority: use one of critical, high, normal, low");
    }
}
