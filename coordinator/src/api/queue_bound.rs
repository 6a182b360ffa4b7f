//! How many queues there may be: each costs nats-server four consumers, so a new name beyond the bound is refused.
//!
//! What counts as a queue is what JetStream has consumers of, what lanes remember, what executors serve, and what was let in here of late. A
//! queue that nobody uses or serves is forgotten by all of them in time. Coordinators do not ask each other, and a task that waits for others
//! has its queue counted for a while only, so the bound may be passed by as much as was let in at once.

use super::ApiContext;
use super::problem::{Code, Problem};
use crate::engine::handle::Submission;
use orchestr8_core::plan::{DEFAULT_QUEUE, Plan, TaskKind, TaskPlan};
use orchestr8_proto::names;
use orchestr8_proto::words::Priority;
use orchestr8_store::read::depths;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A name that was let in is not asked for again, and counts as a queue, for so long.
const LET_IN_FOR: Duration = Duration::from_mins(10);
/// A submission waits no longer for what JetStream says of its consumers; then what else is known must do.
const BROKER_ANSWERS_MAX: Duration = Duration::from_millis(500);

/// The names that were let in of late.
#[derive(Debug)]
pub struct QueueBound {
    queues_max: usize,
    let_in: Mutex<HashMap<String, Instant>>,
}

impl QueueBound {
    /// At most so many queues, at least 1.
    #[must_use]
    pub fn new(queues_max: usize) -> Self {
        Self { queues_max, let_in: Mutex::default() }
    }

    /// Lets the queues of these submissions in.
    ///
    /// # Errors
    /// [`Code::TooManyQueues`] names the first queue beyond the bound; [`Code::Unavailable`].
    pub async fn admit(&self, context: &ApiContext, submissions: &[Submission]) -> Result<(), Problem> {
        let wanted = self.unknown(submissions);
        if wanted.is_empty() {
            return Ok(());
        }
        let mut present: BTreeSet<String> = depths::queues(&context.reads).await?.into_iter().collect();
        present.insert(DEFAULT_QUEUE.to_owned());
        present.extend(context.engine.executors().into_iter().flat_map(|executor| executor.queues));
        let consumers = tokio::time::timeout(BROKER_ANSWERS_MAX, queues_with_consumers(context)).await.unwrap_or(0);
        self.let_in_within(wanted, present, consumers)
    }

    /// The queues of the submissions that were not let in of late, each with the field that names it.
    fn unknown(&self, submissions: &[Submission]) -> Vec<(String, String)> {
        let let_in = self.let_in();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut unknown = Vec::new();
        for (index, submission) in submissions.iter().enumerate() {
            // Tasks of one shape share their plan.
            if index > 0 && Arc::ptr_eq(&submission.plan, &submissions[index - 1].plan) {
                continue;
            }
            for task in submission.plan.tasks.iter().filter(|task| is_bounded(task)) {
                if seen.insert(&task.queue) && !let_in.contains_key(&task.queue) {
                    let outer = if submissions.len() > 1 { format!("[{index}].") } else { String::new() };
                    unknown.push((task.queue.clone(), outer + &place(&submission.plan, task)));
                }
            }
        }
        unknown
    }

    /// `present` are queues that there are by their names, `consumers` is how many JetStream has.
    fn let_in_within(&self, wanted: Vec<(String, String)>, mut present: BTreeSet<String>, consumers: usize) -> Result<(), Problem> {
        let mut let_in = self.let_in();
        let now = Instant::now();
        let_in.retain(|_, at| now.saturating_duration_since(*at) < LET_IN_FOR);
        present.extend(let_in.keys().cloned());
        let mut room = self.queues_max.saturating_sub(present.len().max(consumers));
        for (queue, field) in wanted.iter().filter(|(queue, _)| !present.contains(queue)) {
            if room == 0 {
                return Err(self.refusal(queue, field));
            }
            room -= 1;
        }
        let_in.extend(wanted.into_iter().map(|(queue, _)| (queue, now)));
        Ok(())
    }

    fn refusal(&self, queue: &str, field: &str) -> Problem {
        let queues_max = self.queues_max;
        let detail = format!(
            "`{field}`: the queue `{queue}` is new, and there are {queues_max} queues, which is the limit: use one of those that there are \
             (GET /api/v1/queues), wait until unused ones are forgotten, or raise --queues-max"
        );
        Problem::new(Code::TooManyQueues, detail).at(field).with_value(&json!(queue))
    }

    fn let_in(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.let_in.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A timer is the coordinator's own, and lies in no queue; the default queue is always there.
fn is_bounded(task: &TaskPlan) -> bool {
    match task.kind {
        TaskKind::Run { .. } | TaskKind::Handler { .. } => task.queue != DEFAULT_QUEUE,
        TaskKind::Sleep { .. } => false,
    }
}

/// Where a submission names the queue of a task.
fn place(plan: &Plan, task: &TaskPlan) -> String {
    if plan.tasks.len() > 1 { format!("tasks.{}.queue", task.name) } else { "queue".to_owned() }
}

/// None that are known where JetStream does not answer.
async fn queues_with_consumers(context: &ApiContext) -> usize {
    let Some(Ok(facts)) = context.engine.ask_broker().await else { return 0 };
    let consumers = facts.streams.iter().find(|stream| stream.name == names::TASKS_STREAM).map_or(0, |stream| stream.consumers);
    usize::try_from(consumers).unwrap_or(usize::MAX) / Priority::ALL.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(queues: &[&str]) -> Vec<(String, String)> {
        queues.iter().map(|queue| ((*queue).to_owned(), "queue".to_owned())).collect()
    }

    fn present(queues: &[&str]) -> BTreeSet<String> {
        queues.iter().map(|queue| (*queue).to_owned()).collect()
    }

    #[test]
    fn a_new_queue_beyond_the_bound_is_refused_and_those_that_there_are_are_not() {
        let bound = QueueBound::new(3);
        assert_eq!(bound.let_in_within(wanted(&["a"]), present(&["default"]), 1), Ok(()));
        assert_eq!(bound.let_in_within(wanted(&["a", "b", "default"]), present(&["default"]), 1), Ok(()));
        let refused = bound.let_in_within(wanted(&["b", "c"]), present(&["default"]), 1).expect_err("a fourth");
        assert_eq!(refused.code(), Code::TooManyQueues);
        let said = format!("{refused:?}");
        assert!(said.contains("`c` is new") && said.contains("are 3 queues") && said.contains("--queues-max"), "{said}");
        // What was refused was not let in, and what is served elsewhere meanwhile is none of the new ones.
        assert_eq!(bound.let_in_within(wanted(&["c"]), present(&["default", "c"]), 1), Ok(()));
    }

    #[test]
    fn consumers_that_nobody_knows_by_name_count() {
        let bound = QueueBound::new(3);
        assert!(bound.let_in_within(wanted(&["a"]), present(&["default"]), 3).is_err());
        assert_eq!(bound.let_in_within(wanted(&["default"]), present(&["default"]), 9), Ok(()));
        assert_eq!(bound.let_in_within(wanted(&["a"]), present(&["default"]), 2), Ok(()));
    }

    #[test]
    fn one_submission_with_more_queues_than_there_may_be_is_refused() {
        let bound = QueueBound::new(2);
        assert!(bound.let_in_within(wanted(&["a", "b", "c"]), BTreeSet::new(), 0).is_err());
        assert!(bound.let_in().is_empty());
    }
}
