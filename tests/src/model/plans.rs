//! Plans of the models.

use orchestr8_core::plan::{LargeValues, Plan, RetryPolicy, TaskKind, TaskPlan};
use orchestr8_proto::words::Priority;
use std::collections::BTreeMap;

/// A plan of these tasks.
pub(super) fn plan_of(tasks: Vec<TaskPlan>) -> Plan {
    Plan { name: "model".into(), input_schema: None, output: None, phases: Vec::new(), tasks }
}

/// A task that any executor can run, tried once.
pub(super) fn handler_task(name: &str) -> TaskPlan {
    TaskPlan {
        name: name.into(),
        phase: None,
        needs: Vec::new(),
        needs_phases: Vec::new(),
        dependents: Vec::new(),
        kind: TaskKind::Handler { name: "noop".into() },
        with: BTreeMap::new(),
        env: BTreeMap::new(),
        prompt: None,
        retry: RetryPolicy::none(),
        timeout: None,
        continue_on_failure: false,
        at_most_once: false,
        priority: Priority::Normal,
        queue: "default".into(),
        workdir: None,
        large_values: LargeValues::Refused,
        agent_name: "noop".into(),
    }
}
