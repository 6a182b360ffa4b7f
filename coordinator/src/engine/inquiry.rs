//! What waits for the outcomes to be looked through (rule R6). When it may be decided is `orchestr8_core::inquiries`.

use super::work::Work;
use orchestr8_core::inquiries;
use orchestr8_proto::ids::TaskId;
use orchestr8_store::queue::Lot;
use std::sync::Arc;

/// What waits for a verdict.
#[derive(Debug)]
pub enum Doubt {
    /// An event: a claim or a loss.
    Event(Work),
    /// Queued rows whose message seems to be gone: to be published again, if they are still queued.
    Vanished(Arc<Lot>, Vec<(TaskId, i64)>),
}

/// The questions that are open.
pub type Inquiries = inquiries::Inquiries<Doubt>;
