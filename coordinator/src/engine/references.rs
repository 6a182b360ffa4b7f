//! Dispatches by reference: inputs that are too large for a message. They are made like those of any dispatch, kept for a while,
//! and served in parts to who holds the run, under a fence that held (rule R3).

use super::dispatches::Wanted;
use super::lane::Lane;
use super::outputs::{reads_of_all, too_much_to_read};
use super::untrusted::{self, Refusal};
use crate::bus::publisher::Again;
use crate::kill_points;
use bytes::Bytes;
use orchestr8_core::execution::{Execution, Failure};
use orchestr8_proto::ids::{DispatchId, ExecutionId, Incarnation, RunId, TaskId};
use orchestr8_proto::reference::{self, PART_BYTES};
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::wire::{Dispatch, InputsAsk, InputsPart};
use orchestr8_store::StoreError;
use orchestr8_store::commit::{self, Batch};
use orchestr8_store::load::Outputs;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Runs whose asks wait: those beyond them are dropped, and come again.
const ASKS_MAX: usize = 1_024;
/// Bytes of inputs that are kept; those that were made last may lie above it.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bases for which inputs that are being fetched are kept whatever else is asked for: an executor that never ends must not keep
/// the room.
const FETCH_BASES_MAX: u32 = 30;
/// Bases after which the inputs of one dispatch are made again once more. Within the patience of executors, and above the time for
/// which they are kept while they are fetched: who asks for the end, and then for the beginning, holds the lane once, not always.
const MADE_AGAIN_BASES: u32 = 40;

/// A run wants the part of its inputs that begins at `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    pub task: TaskId,
    pub dispatch: DispatchId,
    pub run: RunId,
    pub offset: u64,
}

/// What is asked for, and what was made.
#[derive(Debug)]
pub(super) struct References {
    /// The newest ask of each run.
    asks: HashMap<RunId, Ask>,
    /// In order of arrival.
    order: VecDeque<RunId>,
    /// The oldest first.
    made: VecDeque<Made>,
    made_bytes: usize,
    /// When the inputs of a dispatch were last made again, or that was tried.
    made_again: HashMap<DispatchId, Instant>,
    /// Who does not ask for so long has given up, or is served by another.
    quiet: Duration,
    fetch_max: Duration,
    made_again_after: Duration,
}

#[derive(Debug)]
struct Made {
    task: TaskId,
    dispatch: DispatchId,
    inputs: Bytes,
    since: Instant,
    asked_at: Option<Instant>,
    /// The last part was served.
    served: bool,
}

impl References {
    pub(super) fn new(times: &ProtocolTimes) -> Self {
        Self {
            asks: HashMap::new(),
            order: VecDeque::new(),
            made: VecDeque::new(),
            made_bytes: 0,
            made_again: HashMap::new(),
            quiet: times.claim_again() * 2,
            fetch_max: times.base() * FETCH_BASES_MAX,
            made_again_after: times.base() * MADE_AGAIN_BASES,
        }
    }

    fn ask(&mut self, ask: Ask) {
        if let Some(waiting) = self.asks.get_mut(&ask.run) {
            *waiting = ask;
        } else if self.asks.len() < ASKS_MAX {
            self.asks.insert(ask.run, ask);
            self.order.push_back(ask.run);
        }
    }

    fn next(&mut self) -> Option<Ask> {
        let run = self.order.pop_front()?;
        self.asks.remove(&run)
    }

    fn has(&self, dispatch: DispatchId) -> bool {
        self.made.iter().any(|made| made.dispatch == dispatch)
    }

    /// Whether inputs are made again now: there is room, and it is not the same ones over and over. It counts as done.
    fn may_make_again(&mut self, dispatch: DispatchId, now: Instant) -> bool {
        let after = self.made_again_after;
        self.made_again.retain(|_, at| now < *at + after);
        if self.made_again.contains_key(&dispatch) || !self.makes_room(1, now) {
            return false;
        }
        self.made_again.insert(dispatch, now);
        true
    }

    /// Keeps inputs that were just made, where there is room for them.
    fn keep(&mut self, (task, dispatch): (TaskId, DispatchId), inputs: Bytes, now: Instant) {
        if !self.has(dispatch) && self.makes_room(inputs.len(), now) {
            self.insert((task, dispatch), inputs, now);
        }
    }

    fn insert(&mut self, (task, dispatch): (TaskId, DispatchId), inputs: Bytes, now: Instant) {
        self.made_bytes += inputs.len();
        self.made.push_back(Made { task, dispatch, inputs, since: now, asked_at: None, served: false });
    }

    /// Gives up what nobody fetches, the oldest first, until so many bytes fit; whether they do.
    fn makes_room(&mut self, bytes: usize, now: Instant) -> bool {
        while !self.made.is_empty() && self.made_bytes + bytes > KEPT_BYTES_MAX {
            let Some(position) = self.made.iter().position(|made| !self.is_fetched(made, now)) else { return false };
            self.give_up(position);
        }
        true
    }

    fn is_fetched(&self, made: &Made, now: Instant) -> bool {
        let asked = made.asked_at.is_some_and(|at| now < at + self.quiet);
        asked && !made.served && now < made.since + self.fetch_max
    }

    fn give_up(&mut self, position: usize) {
        if let Some(made) = self.made.remove(position) {
            self.made_bytes -= made.inputs.len();
        }
    }

    fn part(&mut self, ask: &Ask, now: Instant) -> Option<InputsPart> {
        let made = self.made.iter_mut().find(|made| made.dispatch == ask.dispatch)?;
        let part = reference::part(&made.inputs, ask.offset)?;
        made.asked_at = Some(now);
        made.served |= ask.offset + PART_BYTES as u64 >= made.inputs.len() as u64;
        Some(InputsPart { run_id: ask.run.to_bytes(), offset: ask.offset, part })
    }

    /// Forgets inputs that were neither made nor asked for since then.
    pub(super) fn forget_idle(&mut self, since: Instant) {
        self.retain(|made| made.asked_at.unwrap_or(made.since) >= since);
    }

    /// Forgets what belongs to these shards; their asks find no lease.
    pub(super) fn forget_shards(&mut self, shards: &BTreeSet<u16>) {
        self.retain(|made| !shards.contains(&made.task.shard()));
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.asks.clear();
        self.order.clear();
        self.made_again.clear();
        self.retain(|_| false);
    }

    fn retain(&mut self, stays: impl Fn(&Made) -> bool) {
        self.made.retain(stays);
        self.made_bytes = self.made.iter().map(|made| made.inputs.len()).sum();
    }
}

impl Lane {
    /// A dispatch that is too large for a message, without what is too large in it.
    pub(super) fn referring(&mut self, wanted: Wanted, dispatch: Dispatch) -> Result<Dispatch, Failure> {
        let (referring, inputs) = reference::refer(dispatch);
        if inputs.len() > self.parts.inputs_bytes_max {
            return Err(too_large(self.parts.inputs_bytes_max));
        }
        self.references.keep((wanted.task, wanted.dispatch), inputs, Instant::now());
        Ok(referring)
    }

    /// An executor asks for a part. Who does not hold the run, and is not refused, hears it from heartbeats: no answer is one.
    pub(super) fn take_ask(&mut self, ask: &InputsAsk) -> Result<(), Refusal> {
        let ask = untrusted::inputs_ask(ask, &self.parts.keys)?;
        if self.owns(ask.task.shard()) && self.holder(&ask).is_some() {
            self.references.ask(ask);
        }
        Ok(())
    }

    fn holder(&self, ask: &Ask) -> Option<Incarnation> {
        let (incarnation, lease) = self.leases.lease(ask.run)?;
        (lease.task == ask.task && lease.dispatch == ask.dispatch).then_some(incarnation)
    }

    /// Whether somebody waits for a part that could leave.
    pub(super) fn wants_parts(&self) -> bool {
        !self.references.order.is_empty() && self.owns_shards() && self.parts.carrier.room() > 0
    }

    /// Serves as many asks as there is room for parts. The inputs of one dispatch at most are made in one pass.
    pub(super) async fn serve_inputs(&mut self) -> Result<(), StoreError> {
        if !self.wants_parts() {
            return Ok(());
        }
        let (mut parts, mut shards, mut has_made) = (Vec::new(), BTreeSet::new(), false);
        for _ in 0..self.references.order.len().min(self.parts.carrier.room()) {
            let Some(ask) = self.references.next() else { break };
            let Some(incarnation) = self.holder(&ask) else { continue };
            if !self.references.has(ask.dispatch) {
                if has_made {
                    self.references.ask(ask);
                    continue;
                }
                has_made = self.make_inputs(&ask).await?;
            }
            if let Some(part) = self.references.part(&ask, Instant::now()) {
                shards.insert(ask.task.shard());
                parts.push((incarnation, part));
            }
        }
        if parts.is_empty() {
            return Ok(());
        }
        let mut fence = Batch::default();
        shards.into_iter().for_each(|shard| self.fence(&mut fence, shard));
        self.clock.told(commit::commit(&mut self.parts.connection, &fence).await?);
        for (incarnation, part) in parts {
            kill_points::pass(kill_points::AFTER_FENCE_BEFORE_INPUTS_PART);
            self.parts.carrier.carry(incarnation, part);
        }
        Ok(())
    }

    /// Makes the inputs of a dispatch again, from the rows; false where others are being fetched and leave no room, or where that
    /// was done a while ago: it asks again.
    async fn make_inputs(&mut self, ask: &Ask) -> Result<bool, StoreError> {
        if !self.references.may_make_again(ask.dispatch, Instant::now()) {
            return Ok(false);
        }
        let id = ask.task.execution();
        let executions = match self.executions(BTreeSet::from([id])).await {
            Err(error @ (StoreError::Unreadable(_) | StoreError::Refused { .. })) => return Ok(unmade(ask, &error)),
            loaded => loaded?,
        };
        let made = self.inputs_of(ask, &executions).await;
        executions.into_values().for_each(|execution| self.executions.put(execution));
        match made {
            Ok(Some(inputs)) => self.references.insert((ask.task, ask.dispatch), inputs, Instant::now()),
            Ok(None) => {}
            Err(error @ StoreError::Unreadable(_)) => return Ok(unmade(ask, &error)),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    async fn inputs_of(&mut self, ask: &Ask, executions: &HashMap<ExecutionId, Execution>) -> Result<Option<Bytes>, StoreError> {
        let index = ask.task.index();
        let Some(execution) = executions.get(&ask.task.execution()).filter(|execution| execution.has_task(index)) else { return Ok(None) };
        if !execution.task(index).is_current(ask.dispatch) {
            return Ok(None);
        }
        let wanted = Wanted { task: ask.task, dispatch: ask.dispatch, sequence: 0, again: Again::MayBe };
        let reads = reads_of_all(&[wanted], executions);
        let whole = match self.outputs_for(&[wanted], &reads, &HashMap::new()).await? {
            Outputs::All(outputs) => self.whole(execution, wanted, &outputs),
            Outputs::TooLarge => Err(too_much_to_read()),
        };
        match whole {
            Ok(dispatch) => Ok(Some(reference::refer(dispatch).1)),
            Err(failure) => {
                tracing::warn!(task_id = %ask.task, reason = failure.message, "the inputs of a running task cannot be made again");
                Ok(None)
            }
        }
    }
}

/// The executor gives the run back when its patience ends, and the next dispatch tells why it cannot be made.
fn unmade(ask: &Ask, error: &StoreError) -> bool {
    tracing::error!(task_id = %ask.task, %error, "the inputs of a running task cannot be read");
    true
}

pub(super) fn too_large(bytes_max: usize) -> Failure {
    let message = format!(
        "the evaluated script, `with`, `env` and prompt have more than {bytes_max} bytes, the coordinators' --inputs-bytes-max: raise it, or pass a reference, such as a path or a URL, instead"
    );
    Failure { error_type: "too_large".into(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references() -> References {
        References::new(&ProtocolTimes::default())
    }

    fn ask(offset: u64) -> Ask {
        let task = ExecutionId::generate(1, 3, &mut rand::rng()).task(0);
        Ask { task, dispatch: DispatchId::random(), run: RunId::random(), offset }
    }

    fn keep(references: &mut References, ask: &Ask, bytes: usize, now: Instant) {
        references.keep((ask.task, ask.dispatch), Bytes::from(vec![7; bytes]), now);
    }

    #[test]
    fn the_newest_ask_of_each_run_waits_and_no_more_runs_than_the_bound() {
        let (mut references, flood) = (references(), ask(0));
        (0..10_000).for_each(|offset| references.ask(Ask { offset, ..flood }));
        assert_eq!((references.next(), references.next()), (Some(Ask { offset: 9_999, ..flood }), None));
        (0..2 * ASKS_MAX).for_each(|_| references.ask(ask(0)));
        assert_eq!((references.asks.len(), references.order.len()), (ASKS_MAX, ASKS_MAX));
    }

    #[test]
    fn what_is_not_fetched_makes_room_and_what_is_fetched_stays() {
        let (mut references, now) = (references(), Instant::now());
        let asks: Vec<Ask> = (0..5).map(|_| ask(0)).collect();
        let quarter = KEPT_BYTES_MAX / 4;
        asks.iter().for_each(|ask| keep(&mut references, ask, quarter, now));
        assert!(!references.has(asks[0].dispatch), "the oldest made room");
        assert_eq!(references.made_bytes, KEPT_BYTES_MAX);
        for ask in &asks[1..] {
            assert!(references.part(ask, now).is_some());
        }
        let late = ask(0);
        keep(&mut references, &late, quarter, now);
        assert!(!references.has(late.dispatch) && !references.makes_room(1, now), "all of them are being fetched");
        assert!(references.part(&Ask { offset: (quarter - PART_BYTES) as u64, ..asks[3] }, now).is_some());
        keep(&mut references, &late, quarter, now);
        assert!(references.has(late.dispatch) && !references.has(asks[3].dispatch), "one had been served to its end");
        assert!(references.makes_room(quarter, now + references.quiet), "who is quiet has given up");
    }

    #[test]
    fn who_never_ends_does_not_keep_the_room() {
        let (mut references, now) = (references(), Instant::now());
        let ask = ask(0);
        keep(&mut references, &ask, KEPT_BYTES_MAX, now);
        for second in 0..30 {
            let now = now + Duration::from_secs(second);
            assert!(references.part(&ask, now).is_some());
            assert!(!references.makes_room(1, now));
        }
        assert!(references.makes_room(1, now + Duration::from_secs(30)));
        assert_eq!((references.made_bytes, references.part(&ask, now)), (0, None));
    }

    #[test]
    fn the_same_inputs_are_not_made_over_and_over() {
        let (mut references, now) = (references(), Instant::now());
        let (greedy, other) = (ask(0), ask(0));
        let seconds = |seconds: u64| now + Duration::from_secs(seconds);
        assert!(references.may_make_again(greedy.dispatch, now));
        references.insert((greedy.task, greedy.dispatch), Bytes::from(vec![7; KEPT_BYTES_MAX]), now);
        // It asks for the end first: nothing keeps them from then on.
        assert!(references.part(&Ask { offset: (KEPT_BYTES_MAX - PART_BYTES) as u64, ..greedy }, now).is_some());
        assert!(references.may_make_again(other.dispatch, now), "others are not in its way");
        assert!(!references.has(greedy.dispatch));
        for second in 0..40 {
            assert!(!references.may_make_again(greedy.dispatch, seconds(second)), "after {second} s");
        }
        assert!(references.may_make_again(greedy.dispatch, seconds(40)));
        assert_eq!(references.made_again.len(), 1, "what is over is forgotten");
        references.clear();
        assert!(references.may_make_again(greedy.dispatch, seconds(40)), "another start knows nothing of it");
        keep(&mut references, &other, KEPT_BYTES_MAX, now);
        assert!(references.part(&other, now).is_some());
        let third = ask(0);
        assert!(!references.may_make_again(third.dispatch, now), "there is no room");
        assert!(references.may_make_again(third.dispatch, now + references.quiet), "that was no try");
    }

    #[test]
    fn parts_that_do_not_exist_are_no_answers() {
        let (mut references, now) = (references(), Instant::now());
        let ask = ask(0);
        keep(&mut references, &ask, 2 * PART_BYTES, now);
        for offset in [1, PART_BYTES as u64 - 1, 2 * PART_BYTES as u64, u64::MAX] {
            assert_eq!(references.part(&Ask { offset, ..ask }, now), None);
        }
        assert_eq!(references.part(&Ask { dispatch: DispatchId::random(), ..ask }, now), None);
        assert_eq!(references.part(&ask, now).map(|part| (part.offset, part.part.len())), Some((0, PART_BYTES)));
    }

    #[test]
    fn what_is_idle_and_what_leaves_is_forgotten() {
        let (mut references, now) = (references(), Instant::now());
        let (one, two) = (ask(0), ask(0));
        keep(&mut references, &one, 100, now);
        keep(&mut references, &two, 50, now + Duration::from_secs(1));
        references.forget_idle(now + Duration::from_secs(1));
        assert_eq!((references.made.len(), references.made_bytes), (1, 50));
        references.forget_shards(&BTreeSet::from([4]));
        assert_eq!(references.made_bytes, 50);
        references.forget_shards(&BTreeSet::from([3]));
        assert_eq!((references.made.len(), references.made_bytes), (0, 0));
    }
}
