//! Who waits for which execution to change: callers of this process, and other coordinators on behalf of theirs.

use super::handle::Command;
use super::news::News;
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

/// What rings when an execution changes.
#[derive(Default)]
struct Doorbell {
    notify: Notify,
    /// Of the last change; none where another coordinator committed it.
    news: Mutex<Option<Arc<News>>>,
}

impl Doorbell {
    fn told(&self) -> Option<Arc<News>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Who waits for which execution. Entries vanish with their last watch, or with time.
#[derive(Default)]
pub(super) struct Listeners {
    waiting: Mutex<HashMap<ExecutionId, (usize, Arc<Doorbell>)>>,
    elsewhere: Mutex<HashMap<ExecutionId, Instant>>,
}

impl Listeners {
    pub(super) fn watch(self: &Arc<Self>, id: ExecutionId, elsewhere: Option<mpsc::Sender<Command>>) -> Watch {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, doorbell) = waiting.entry(id).or_insert_with(|| (0, Arc::default()));
        *count += 1;
        Watch { id, doorbell: doorbell.clone(), listeners: self.clone(), elsewhere }
    }

    /// Wakes who waits for these, with what there is to tell of each.
    pub(super) fn wake(&self, ids: impl Iterator<Item = ExecutionId>, news_of: impl Fn(ExecutionId) -> Option<News>) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            return;
        }
        for id in ids {
            if let Some((_, doorbell)) = waiting.get(&id) {
                *doorbell.news.lock().unwrap_or_else(PoisonError::into_inner) = news_of(id).map(Arc::new);
                doorbell.notify.notify_waiters();
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
    doorbell: Arc<Doorbell>,
    listeners: Arc<Listeners>,
    /// A lane that can ask the owner, where that is another coordinator.
    elsewhere: Option<mpsc::Sender<Command>>,
}

impl Watch {
    /// Runs `read` until it gives an answer: now, after each change, and at least every `reread`; none after `patience`. It is given
    /// what the change told, if it told something: then there may be no need to read.
    ///
    /// # Errors
    /// The first error of `read`.
    pub async fn until<T, E, F>(
        &self,
        patience: Duration,
        reread: Duration,
        mut read: impl FnMut(Option<Arc<News>>) -> F,
    ) -> Result<Option<T>, E>
    where
        F: Future<Output = Result<Option<T>, E>>,
    {
        let deadline = Instant::now() + patience;
        let mut news = None;
        loop {
            let changed = self.doorbell.notify.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.tell_owner().await;
            if let Some(answer) = read(news).await? {
                return Ok(Some(answer));
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            tokio::select! {
                () = changed => news = self.doorbell.told(),
                () = tokio::time::sleep_until(deadline.min(now + reread)) => news = None,
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
