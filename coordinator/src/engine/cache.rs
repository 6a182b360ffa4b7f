//! Executions and plans that were used lately. Never truth: every update carries its expected version.

use lru::LruCache;
use orchestr8_core::execution::Execution;
use orchestr8_core::plan::Plan;
use orchestr8_proto::ids::ExecutionId;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Plans that are kept; one is small, and shared by all its executions.
const PLANS_MAX: NonZeroUsize = NonZeroUsize::new(1_024).expect("not zero");

/// Executions, bounded in bytes.
pub struct ExecutionCache {
    executions: LruCache<ExecutionId, Execution>,
    bytes: usize,
    bytes_max: usize,
}

impl ExecutionCache {
    /// An empty cache; with 0 bytes it keeps nothing.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { executions: LruCache::unbounded(), bytes: 0, bytes_max }
    }

    /// Takes an execution out, for a batch.
    pub fn take(&mut self, id: ExecutionId) -> Option<Execution> {
        let execution = self.executions.pop(&id)?;
        self.bytes -= execution.cached_bytes();
        Some(execution)
    }

    /// Keeps an execution as it was committed; those that ended are not kept.
    pub fn put(&mut self, execution: Execution) {
        if execution.status.is_final() || self.bytes_max == 0 {
            return;
        }
        self.bytes += execution.cached_bytes();
        if let Some(replaced) = self.executions.put(execution.id, execution) {
            self.bytes -= replaced.cached_bytes();
        }
        while self.bytes > self.bytes_max
            && let Some((_, oldest)) = self.executions.pop_lru()
        {
            self.bytes -= oldest.cached_bytes();
        }
    }

    /// Forgets the executions of these shards.
    pub fn forget_shards(&mut self, shards: &BTreeSet<u16>) {
        let leaving: Vec<ExecutionId> = self.executions.iter().map(|(id, _)| *id).filter(|id| shards.contains(&id.shard())).collect();
        leaving.into_iter().for_each(|id| drop(self.take(id)));
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.executions.clear();
        self.bytes = 0;
    }
}

/// Plans by hash.
pub struct PlanCache {
    plans: LruCache<[u8; 32], Arc<Plan>>,
}

impl Default for PlanCache {
    fn default() -> Self {
        Self { plans: LruCache::new(PLANS_MAX) }
    }
}

impl PlanCache {
    /// The plan, if it is known.
    pub fn get(&mut self, hash: &[u8; 32]) -> Option<Arc<Plan>> {
        self.plans.get(hash).cloned()
    }

    /// Keeps a plan.
    pub fn put(&mut self, hash: [u8; 32], plan: Arc<Plan>) {
        self.plans.put(hash, plan);
    }
}
