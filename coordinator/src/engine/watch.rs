//! Who waits for which execution to change: callers of this process, and other coordinators on behalf of theirs.

use super::handle::Command;
use orchestr8_proto::ids::ExecutionId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

/// Executions that are watched for others at once; beyond it they look by themselves.
const ELSEWHERE_MAX: usize = 10_000;
/// So long an execution is watched for another coordinator; it asks again each time it reads.
const ELSEWHERE_TIME: Duration = Duration::from_secs(30);

/// A read waits at most so long until the owner knows of it.
const TELL_MAX: Duration = Duration::from_secs(1);

/// Who waits for which execution. Entries vanish with their last watch, or with time.
#[derive(Default)]
pub(super) struct Listeners {
    waiting: Mutex<HashMap<ExecutionId, (usize, Arc<Notify>)>>,
    elsewhere: Mutex<HashMap<ExecutionId, Instant>>,
}

impl Listeners {
    pub(super) fn watch(self: &Arc<Self>, id: ExecutionId, elsewhere: Option<mpsc::Sender<Command>>) -> Watch {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, notify) = waiting.entry(id).or_insert_with(|| (0, Arc::default()));
        *count += 1;
        Watch { id, notify: notify.clone(), listeners: self.clone(), elsewhere }
    }

    pub(super) fn wake(&self, ids: impl Iterator<Item = ExecutionId>) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            return;
        }
        for id in ids {
            if let Some((_, notify)) = waiting.get(&id) {
                notify.notify_waiters();
            }
        }
    }

    pub(super) fn watch_for_another(&self, id: ExecutionId) {
        let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if elsewhere.len() >= ELSEWHERE_MAX {
            elsewhere.retain(|_, until| *until > now);
        }
        if elsewhere.len() < ELSEWHERE_MAX {
            elsewhere.insert(id, now + ELSEWHERE_TIME);
        }
    }

    pub(super) fn watched_elsewhere(&self, ids: impl Iterator<Item = ExecutionId>) -> Vec<ExecutionId> {
        let elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        if elsewhere.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        ids.filter(|id| elsewhere.get(id).is_some_and(|until| *until > now)).collect()
    }
}

/// A registration for the changes of one execution.
pub struct Watch {
    id: ExecutionId,
    notify: Arc<Notify>,
    listeners: Arc<Listeners>,
    /// A lane that can ask the owner, where that is another coordinator.
    elsewhere: Option<mpsc::Sender<Command>>,
}

impl Watch {
    /// Runs `read` until it gives an answer: now, after each change, and at least every `reread`; none after `patience`.
    ///
    /// # Errors
    /// The first error of `read`.
    pub async fn until<T, E, F>(&self, patience: Duration, reread: Duration, mut read: impl FnMut() -> F) -> Result<Option<T>, E>
    where
        F: Future<Output = Result<Option<T>, E>>,
    {
        let deadline = Instant::now() + patience;
        loop {
            let changed = self.notify.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.tell_owner().await;
            if let Some(answer) = read().await? {
                return Ok(Some(answer));
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(deadline.min(now + reread)) => {}
            }
        }
    }

    /// Before a read, so that no change after it is missed. Without an answer the read is repeated anyway.
    async fn tell_owner(&self) {
        let Some(lane) = &self.elsewhere else { return };
        let (reply, told) = oneshot::channel();
        let tell = async {
            if lane.send(Command::Watch { execution: self.id, reply }).await.is_ok() {
                told.await.ok();
            }
        };
        // A lane that is busy must not keep a reader from reading.
        tokio::time::timeout(TELL_MAX, tell).await.ok();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut waiting = self.listeners.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, _)) = waiting.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.id);
            }
        }
    }
}
