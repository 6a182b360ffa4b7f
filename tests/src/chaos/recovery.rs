//! How long it takes from a fault until work runs again.

use super::draws::Draws;
use super::ledger::Ledger;
use super::load::{Kind, Load};
use anyhow::Result;
use sqlx::postgres::PgPool;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Between two looks into the ledger.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// One look in so many asks the database which tasks have ended in another way.
const ASK_ONE_IN: usize = 20;
const OWED: &str = "select id::text from task_executions
where id = any($1::text[]::uuid[]) and status not in ('completed', 'failed', 'skipped', 'cancelled')";

/// From a moment until work ran again; none: it did not within the patience.
pub type Measure = JoinHandle<Option<Duration>>;

/// What measures need.
#[derive(Debug, Clone)]
pub struct Meter {
    /// Makes probes.
    pub load: Load,
    /// Of tasks that ended in another way.
    pub pool: PgPool,
    /// How long a measure goes on.
    pub patience: Duration,
}

impl Meter {
    /// Submits an urgent task now; until it has started.
    #[must_use]
    pub fn probe(&self, from: Instant) -> Measure {
        let meter = self.clone();
        tokio::spawn(async move {
            let started = tokio::time::timeout(meter.patience, meter.probe_starts()).await.ok()?.ok()?;
            Some(started.saturating_duration_since(from))
        })
    }

    /// Until each of these tasks has begun once more since `struck`, or needs no more runs; counted from `from`.
    #[must_use]
    pub fn run_again(&self, tasks: Vec<String>, (struck, from): (Instant, Instant)) -> Measure {
        let meter = self.clone();
        tokio::spawn(async move {
            let all = meter.all_run_again(tasks, struck);
            let last = tokio::time::timeout(meter.patience, all).await.ok()?;
            Some(last.map_or(Duration::ZERO, |last| last.saturating_duration_since(from)))
        })
    }

    async fn probe_starts(&self) -> Result<Instant> {
        let order = self.load.order(Kind::Probe, &mut Draws::new(uuid::Uuid::new_v4().as_u64_pair().0));
        let accepted = self.load.submit(&order).await?;
        loop {
            let first = accepted.tasks.iter().find_map(|task| self.ledger().seen().starts_of(task).first().copied());
            if let Some(first) = first {
                return Ok(first);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// When the last one began again.
    async fn all_run_again(&self, mut owed: Vec<String>, struck: Instant) -> Option<Instant> {
        let mut last = None;
        for look in 0_usize.. {
            owed.retain(|task| {
                let again = self.ledger().seen().starts_of(task).iter().copied().find(|start| *start > struck);
                last = last.max(again);
                again.is_none()
            });
            if look % ASK_ONE_IN == 0
                && let Ok(ids) = sqlx::query_scalar::<_, String>(OWED).bind(&owed).fetch_all(&self.pool).await
            {
                let ids: HashSet<String> = ids.into_iter().collect();
                owed.retain(|task| ids.contains(task));
            }
            if owed.is_empty() {
                break;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        last
    }

    fn ledger(&self) -> &Arc<Ledger> {
        &self.load.ledger
    }
}
