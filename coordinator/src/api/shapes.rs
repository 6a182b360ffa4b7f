//! Shapes of single tasks that came of late: tasks of one shape share their plan, which is made and hashed once.

use orchestr8_core::definition::{FieldProblem, SingleTask, plan_hash, single_task};
use orchestr8_core::plan::{Plan, TaskKind};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Shapes that are remembered; the oldest goes first.
const SHAPES_MAX: usize = 16;
/// Bytes of text in a shape that is remembered, at most.
const SHAPE_BYTES_MAX: usize = 4 * 1024;

/// A plan, and what it is stored under.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Shared by all tasks of the shape.
    pub plan: Arc<Plan>,
    /// Its SHA-256.
    pub hash: [u8; 32],
}

/// The shapes of one coordinator.
#[derive(Debug, Default)]
pub struct Shapes(Mutex<VecDeque<Arc<(SingleTask, Planned)>>>);

impl Shapes {
    /// The plan of a shape.
    ///
    /// # Errors
    /// As of [`single_task`].
    pub fn planned(&self, shape: SingleTask) -> Result<Planned, Vec<FieldProblem>> {
        let known = self.known().iter().find(|known| known.0 == shape).map(|known| known.1.clone());
        if let Some(planned) = known {
            return Ok(planned);
        }
        let kept = is_small(&shape).then(|| shape.clone());
        let plan = single_task(shape)?;
        let planned = Planned { hash: plan_hash(&plan), plan: Arc::new(plan) };
        if let Some(shape) = kept {
            let mut known = self.known();
            known.truncate(SHAPES_MAX - 1);
            known.push_front(Arc::new((shape, planned.clone())));
        }
        Ok(planned)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<(SingleTask, Planned)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_small(shape: &SingleTask) -> bool {
    let kind = match &shape.kind {
        TaskKind::Run { script } => script.len(),
        TaskKind::Handler { name } => name.len(),
        TaskKind::Sleep { .. } => 0,
    };
    let keys: usize = shape.with_keys.iter().chain(&shape.env_keys).map(|key| key.len() + size_of::<String>()).sum();
    let names: usize = [&shape.queue, &shape.workdir, &shape.large_values, &shape.agent_name].into_iter().flatten().map(String::len).sum();
    let codes = shape.retry.iter().flat_map(|retry| &retry.non_retryable).map(|code| code.len() + size_of::<String>()).sum::<usize>();
    kind + keys + names + codes <= SHAPE_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::words::Priority;

    fn shape(script: &str) -> SingleTask {
        SingleTask {
            kind: TaskKind::Run { script: script.to_owned() },
            with_keys: Vec::new(),
            env_keys: Vec::new(),
            has_prompt: false,
            retry: None,
            timeout: None,
            at_most_once: false,
            priority: Priority::Normal,
            queue: None,
            workdir: None,
            large_values: None,
            agent_name: None,
        }
    }

    #[test]
    fn tasks_of_one_shape_share_their_plan_and_others_do_not() {
        let shapes = Shapes::default();
        let [first, again, other] = ["a", "a", "b"].map(|script| shapes.planned(shape(script)).expect("valid"));
        assert!(Arc::ptr_eq(&first.plan, &again.plan) && first.hash == again.hash);
        assert_ne!(first.hash, other.hash);
        let often = SingleTask { at_most_once: true, ..shape("a") };
        assert_ne!(shapes.planned(often).expect("valid").hash, first.hash);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_invalid_is_not_kept() {
        let shapes = Shapes::default();
        (0..SHAPES_MAX * 2).for_each(|number| drop(shapes.planned(shape(&number.to_string())).expect("valid")));
        assert_eq!(shapes.known().len(), SHAPES_MAX);
        let large = "x".repeat(SHAPE_BYTES_MAX + 1);
        let [one, two] = [&large, &large].map(|script| shapes.planned(shape(script)).expect("valid"));
        assert!(!Arc::ptr_eq(&one.plan, &two.plan) && one.hash == two.hash);
        assert!(shapes.planned(shape("")).is_err() && shapes.planned(shape("")).is_err());
    }
}
