//! Who waits for which execution to change: callers of this process, and other coordinators on behalf of theirs.

use super::handle::Command;
use super::news::{News, Standing};
use lru::LruCache;
use orchestr8_proto::ids::ExecutionId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

/// Executions that are remembered as not ended, those of the last commits: about 1 MiB.
const KNOWN_MAX: usize = 8_192;
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
pub(super) struct Listeners {
    waiting: Mutex<HashMap<ExecutionId, (usize, Arc<Doorbell>)>>,
    elsewhere: Mutex<HashMap<ExecutionId, Instant>>,
    /// What was committed here last and had not ended: who begins to wait for it need not read it.
    known: Mutex<LruCache<ExecutionId, Standing>>,
}

impl Default for Listeners {
    fn default() -> Self {
        Self { waiting: Mutex::default(), elsewhere: Mutex::default(), known: Mutex::new(LruCache::unbounded()) }
    }
}

impl Listeners {
    /// Remembers what was committed, before anybody is woken for it.
    pub(super) fn remember(&self, committed: impl Iterator<Item = (ExecutionId, Option<Standing>)>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, standing) in committed {
            match standing {
                Some(standing) => drop(known.put(id, standing)),
                None => drop(known.pop(&id)),
            }
        }
        while known.len() > KNOWN_MAX {
            known.pop_lru();
        }
    }

    /// Whoever commits may have changed: what is remembered may be old.
    pub(super) fn forget_all(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn known(&self, id: ExecutionId) -> Option<Arc<News>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.peek(&id).map(|standing| Arc::new(News::from(*standing)))
    }

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

/// Why who waits looks now.
enum Look {
    First,
    Rung,
    Again,
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
    /// what is remembered, and then what the change told, if anything: then there may be no need to read.
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
        let mut look = Look::First;
        loop {
            let changed = self.doorbell.notify.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.tell_owner().await;
            // Only now: what changes after this look rings.
            let news = match look {
                Look::First => self.listeners.known(self.id),
                Look::Rung => self.doorbell.told(),
                Look::Again => None,
            };
            if let Some(answer) = read(news).await? {
                return Ok(Some(answer));
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            tokio::select! {
                () = changed => look = Look::Rung,
                () = tokio::time::sleep_until(deadline.min(now + reread)) => look = Look::Again,
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

#[cfg(test)]
mod tests {
    use super::super::news::OnlyTask;
    use super::*;
    use orchestr8_proto::words::WorkflowStatus;
    use uuid::Uuid;

    const SINGLE: Standing = Standing { status: WorkflowStatus::Running, has_one_task: true };
    const HOUR: Duration = Duration::from_hours(1);
    /// In a test nothing takes longer, unless a change was missed.
    const SOON: Duration = Duration::from_secs(10);

    fn id(number: u128) -> ExecutionId {
        ExecutionId(Uuid::from_u128(number << 20))
    }

    /// What is told at the beginning of a wait.
    async fn first_told(listeners: &Arc<Listeners>, id: ExecutionId) -> Option<Arc<News>> {
        let told = async |news| Ok::<_, std::convert::Infallible>(Some(news));
        listeners.watch(id, None).until(HOUR, HOUR, told).await.expect("infallible").expect("an answer")
    }

    #[tokio::test]
    async fn what_was_committed_here_and_goes_on_need_not_be_read() {
        let listeners = Arc::new(Listeners::default());
        assert_eq!(first_told(&listeners, id(1)).await, None, "nothing is known");
        let several = Standing { has_one_task: false, ..SINGLE };
        listeners.remember([(id(1), Some(SINGLE)), (id(2), Some(several))].into_iter());
        let told = [first_told(&listeners, id(1)).await, first_told(&listeners, id(2)).await];
        assert_eq!(told.map(|news| news.expect("known").task.clone()), [OnlyTask::Unfinished, OnlyTask::Untold]);
        listeners.remember([(id(1), None)].into_iter());
        assert_eq!(first_told(&listeners, id(1)).await, None, "it has ended");
        listeners.forget_all();
        assert_eq!(first_told(&listeners, id(2)).await, None, "forgotten");
    }

    #[tokio::test]
    async fn the_end_is_heard_however_close_to_the_beginning_of_the_wait() {
        let listeners = Arc::new(Listeners::default());
        listeners.remember([(id(1), Some(SINGLE))].into_iter());
        let ended = Arc::new(News { status: WorkflowStatus::Completed, task: OnlyTask::Untold });
        let mut looks = Vec::new();
        let watch = listeners.watch(id(1), None);
        let answer = watch.until(HOUR, HOUR, |news| {
            looks.push(news.clone());
            if looks.len() == 1 {
                // The commit comes between the look and the wait.
                listeners.remember([(id(1), None)].into_iter());
                listeners.wake([id(1)].into_iter(), |_| Some(News::clone(&ended)));
            }
            async { Ok::<_, std::convert::Infallible>(news.filter(|news| news.status.is_final())) }
        });
        assert_eq!(tokio::time::timeout(SOON, answer).await.expect("it is heard"), Ok(Some(ended.clone())));
        assert_eq!(looks, [Some(Arc::new(News::from(SINGLE))), Some(ended)]);
    }

    #[tokio::test]
    async fn of_two_changes_close_together_the_last_one_is_told() {
        let listeners = Arc::new(Listeners::default());
        let running = News::from(SINGLE);
        let ended = News { status: WorkflowStatus::Completed, task: OnlyTask::Untold };
        let watch = listeners.watch(id(1), None);
        let answer =
            watch.until(HOUR, HOUR, |news| async { Ok::<_, std::convert::Infallible>(news.filter(|news| news.status.is_final())) });
        tokio::pin!(answer);
        assert!(futures::poll!(answer.as_mut()).is_pending(), "the first look");
        for news in [&running, &ended] {
            listeners.wake([id(1)].into_iter(), |_| Some(news.clone()));
        }
        let told = tokio::time::timeout(SOON, answer).await.expect("it is heard");
        assert_eq!(told, Ok(Some(Arc::new(ended))));
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let listeners = Arc::new(Listeners::default());
        let many = u128::try_from(KNOWN_MAX).expect("small");
        listeners.remember((0..=many).map(|number| (id(number), Some(SINGLE))));
        assert_eq!(first_told(&listeners, id(0)).await, None, "the oldest");
        assert!(first_told(&listeners, id(1)).await.is_some() && first_told(&listeners, id(many)).await.is_some());
    }
}
