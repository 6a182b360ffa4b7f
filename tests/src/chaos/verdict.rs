//! What the API and the database say at the end, compared with what really ran.

use super::history::{History, Patience};
use super::ledger::{Entry, Mark};
use super::load::{Accepted, Book, Kind};
use super::rows::{ExecutionRow, FINAL, Rows, TaskRow};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The heading of runs that were declared lost while they lived.
pub const FALSE_LOSS: &str = "false loss";

/// A promise, a count or a bound that was broken, in words.
pub type Complaint = String;

/// What the installation made of its promises.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Executions accepted.
    pub accepted: usize,
    /// Of them, ended.
    pub ended: usize,
    /// Accepted, and unknown or without a plan, also after those that a database had lost were submitted again.
    pub lost: Vec<Complaint>,
    /// Two ends of one task or execution, two successors of one completion, two executions of one key, or a result that no run reached.
    pub counted_twice: Vec<Complaint>,
    /// Accepted and not ended in time.
    pub stuck: Vec<Complaint>,
    /// Runs that were declared lost although their executor lived and could be heard.
    pub false_losses: Vec<Complaint>,
    /// Ends that no fault explains: a failure that nobody ordered, a quarantined event, a history with gaps, another answer of the API.
    pub wrong: Vec<Complaint>,
    /// `at_most_once` tasks that started twice.
    pub started_twice: Vec<Complaint>,
}

/// What is compared.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// What was promised.
    pub book: &'a Book,
    /// What really ran, in the order of the ledger.
    pub entries: &'a [Entry],
    /// What was done.
    pub history: &'a History,
    /// The longest that a loss and its run may follow their executor's absence.
    pub patience: Patience,
    /// Status by execution as the API tells it.
    pub told: &'a BTreeMap<String, String>,
    /// Rows.
    pub rows: &'a Rows,
}

/// Compares everything.
#[must_use]
pub fn judge(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    promises(evidence, &mut verdict);
    executions(evidence, &mut verdict);
    let ends = ends_by_task(evidence.entries);
    for task in &evidence.rows.tasks {
        once(task, &ends, &mut verdict);
    }
    order_of_runs(evidence, &mut verdict);
    starts(evidence, &mut verdict);
    losses(evidence, &mut verdict);
    let rows = evidence.rows;
    verdict.wrong.extend(rows.broken_histories.iter().map(|id| format!("the history of {id} has gaps")));
    verdict.lost.extend(rows.without_plan.iter().map(|id| format!("the plan of {id}")));
    verdict.stuck.extend(rows.inbox.iter().map(|event| format!("in the inbox of shard {event}")));
    verdict.wrong.extend(rows.quarantined.iter().map(|event| format!("quarantined: {event}")));
    let unwaited = evidence.book.unwaited.iter().filter(|(id, _)| rows.executions.contains_key(id));
    verdict.wrong.extend(unwaited.map(|(id, said)| format!("{id}: {said}")));
    verdict.wrong.extend(evidence.book.refused.iter().cloned());
    verdict
}

/// Every accepted execution is there, has ended, and the API says the same.
fn promises(evidence: &Evidence<'_>, verdict: &mut Verdict) {
    for (accepted, id) in evidence.book.accepted.iter().flat_map(|accepted| accepted.executions.iter().map(move |id| (accepted, id))) {
        verdict.accepted += 1;
        let what = format!("{:?} {id} (key {})", accepted.order.kind, accepted.order.key);
        let Some(row) = evidence.rows.executions.get(id) else {
            verdict.lost.push(what);
            continue;
        };
        if FINAL.contains(&row.status.as_str()) {
            verdict.ended += 1;
        } else {
            verdict.stuck.push(format!("{what} is {}: {}", row.status, unfinished(evidence.rows, id)));
        }
        if evidence.told.get(id) != Some(&row.status) {
            verdict.wrong.push(format!("{what} is {}, but the API says {:?}", row.status, evidence.told.get(id)));
        }
        verdict.wrong.extend(wrong_end(evidence, accepted, row).map(|wrong| format!("{what}: {wrong}")));
    }
}

fn unfinished(rows: &Rows, execution: &str) -> String {
    let open = rows.tasks.iter().filter(|task| task.workflow_id == execution && !FINAL.contains(&task.status.as_str()));
    open.map(|task| format!("{} {} {}", task.task_name, task.id, task.status)).collect::<Vec<_>>().join(", ")
}

/// An end that nothing explains. What must not start twice may fail with its executor, and a run that was killed for a cancel
/// that the database then forgot ends as a failure.
fn wrong_end(evidence: &Evidence<'_>, accepted: &Accepted, row: &ExecutionRow) -> Option<String> {
    let cancelled = evidence.book.cancelled.contains(&row.id);
    match row.status.as_str() {
        "cancelled" if !cancelled => Some("cancelled, and nobody asked for it".to_owned()),
        "failed" => {
            let failed = evidence.rows.tasks.iter().find(|task| task.workflow_id == row.id && task.status == "failed")?;
            let explained = match failed.error_type.as_deref() {
                Some("lost") => accepted.order.kind == Kind::Once,
                Some("killed") => cancelled && !evidence.history.restores.is_empty(),
                Some(_) | None => false,
            };
            (!explained).then(|| format!("failed: {failed:?}"))
        }
        _ => None,
    }
}

/// One end each, and as many executions of a key as were submitted under it.
fn executions(evidence: &Evidence<'_>, verdict: &mut Verdict) {
    let mut by_key: BTreeMap<&str, usize> = BTreeMap::new();
    for row in evidence.rows.executions.values() {
        *by_key.entry(row.key.as_deref().unwrap_or("none")).or_default() += 1;
        if row.ends > 1 {
            verdict.counted_twice.push(format!("{} ended {} times", row.id, row.ends));
        }
    }
    for accepted in &evidence.book.accepted {
        let made = by_key.get(accepted.order.key.as_str()).copied().unwrap_or(0);
        if made > accepted.executions.len() {
            verdict.counted_twice.push(format!("key {} made {made} executions", accepted.order.key));
        }
    }
}

fn ends_by_task(entries: &[Entry]) -> HashSet<(&str, &str)> {
    entries.iter().filter(|entry| entry.mark == Mark::End).map(|entry| (entry.task.as_str(), entry.run.as_str())).collect()
}

/// One end, one successor for each end of a run, and a result that is one of the ledger's ends.
fn once(task: &TaskRow, ends: &HashSet<(&str, &str)>, verdict: &mut Verdict) {
    let count = |kinds: &[&str]| task.events.iter().filter(|event| kinds.contains(&event.as_str())).count();
    let terminal = count(&["task.completed", "task.failed", "task.skipped", "task.cancelled"]);
    if terminal > 1 || task.results > 1 {
        verdict.counted_twice.push(format!("{terminal} ends and {} results: {task:?}", task.results));
    }
    if count(&["task.queued"]) > 1 + count(&["task.retrying", "task.lost", "task.released"]) {
        verdict.counted_twice.push(format!("queued more often than anything asked for: {task:?}"));
    }
    let ran = task.status == "completed" && task.agent == "run";
    let run = task.result.as_ref().and_then(Value::as_str).unwrap_or_default();
    if ran && !ends.contains(&(task.id.as_str(), run)) {
        verdict.counted_twice.push(format!("no run with this result reached its end: {task:?}"));
    }
}

/// No task of a chain or fan begins before the ones that it needs have ended.
fn order_of_runs(evidence: &Evidence<'_>, verdict: &mut Verdict) {
    let mut names: HashMap<&str, HashMap<&str, &str>> = HashMap::new();
    for task in &evidence.rows.tasks {
        names.entry(&task.workflow_id).or_default().insert(&task.task_name, &task.id);
    }
    let mut first_end: HashMap<&str, usize> = HashMap::new();
    let mut first_start: HashMap<&str, usize> = HashMap::new();
    for (place, entry) in evidence.entries.iter().enumerate() {
        let firsts = match entry.mark {
            Mark::Start => &mut first_start,
            Mark::End => &mut first_end,
            Mark::Failed => continue,
        };
        firsts.entry(&entry.task).or_insert(place);
    }
    for tasks in names.values() {
        for (before, after) in [("a", "b"), ("b", "c"), ("first", "m0"), ("m0", "last"), ("m4", "last")] {
            let (Some(before), Some(after)) = (tasks.get(before), tasks.get(after)) else { continue };
            let began = first_start.get(after);
            if began.is_some_and(|began| first_end.get(before).is_none_or(|ended| ended > began)) {
                verdict.wrong.push(format!("{after} began before {before} had ended"));
            }
        }
    }
}

/// What must not start twice did not, unless the database forgot the first start.
fn starts(evidence: &Evidence<'_>, verdict: &mut Verdict) {
    let mut starts: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in evidence.entries.iter().filter(|entry| entry.mark == Mark::Start && entry.kind == "once") {
        starts.entry(&entry.task).or_default().push(entry);
    }
    for (task, starts) in starts.iter().filter(|(_, starts)| starts.len() > 1) {
        let forgotten = starts.iter().rev().skip(1).any(|start| evidence.history.lost_with_database(start.at));
        if !forgotten {
            let each: Vec<String> = starts.iter().map(|start| format!("{} on {} at {:?}", start.run, start.executor, start.at)).collect();
            verdict.started_twice.push(format!("{task}: {}", each.join(", ")));
        }
    }
}

fn losses(evidence: &Evidence<'_>, verdict: &mut Verdict) {
    for loss in &evidence.rows.losses {
        if !evidence.history.explains_loss(loss, evidence.patience) {
            verdict.false_losses.push(format!("{} on {} at {:?}, begun at {:?}", loss.task, loss.executor, loss.decided, loss.begun));
        }
    }
}

impl Verdict {
    /// Whether every promise was kept.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.complaints().is_empty()
    }

    /// Everything that is wrong, with its heading.
    #[must_use]
    pub fn complaints(&self) -> Vec<Complaint> {
        let headed =
            |heading: &'static str, list: &[Complaint]| list.iter().map(move |one| format!("{heading}: {one}")).collect::<Vec<_>>();
        [
            headed("lost", &self.lost),
            headed("counted twice", &self.counted_twice),
            headed("stuck", &self.stuck),
            headed(FALSE_LOSS, &self.false_losses),
            headed("wrong", &self.wrong),
            headed("started twice", &self.started_twice),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::Absence;
    use super::super::load::Order;
    use super::super::rows::LossRow;
    use super::*;
    use serde_json::json;
    use std::time::{Duration, Instant, SystemTime};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// One task that ran once on executor-0 and completed.
    struct World {
        book: Book,
        entries: Vec<Entry>,
        history: History,
        told: BTreeMap<String, String>,
        rows: Rows,
    }

    fn entry(mark: Mark, run: &str) -> Entry {
        let (task, run, executor, kind) = ("t".to_owned(), run.to_owned(), "executor-0".to_owned(), "once".to_owned());
        Entry { mark, task, run, executor, kind, seen: Instant::now(), at: SystemTime::now() }
    }

    fn world() -> World {
        let order = Order { kind: Kind::Once, key: "k".to_owned(), path: "/api/v1/tasks", body: Value::Null, first: 0 };
        let accepted = Accepted { order, executions: vec!["w".to_owned()], tasks: vec!["t".to_owned()], at: SystemTime::now() };
        let task = TaskRow {
            id: "t".to_owned(),
            workflow_id: "w".to_owned(),
            task_name: "task".to_owned(),
            agent: "run".to_owned(),
            status: "completed".to_owned(),
            executor: Some("executor-0".to_owned()),
            error_type: None,
            error: None,
            result: Some(json!("r")),
            results: 1,
            events: ["task.queued", "task.running", "task.completed"].map(str::to_owned).to_vec(),
        };
        let execution = ExecutionRow { id: "w".to_owned(), status: "completed".to_owned(), key: Some("k".to_owned()), ends: 1 };
        World {
            book: Book { accepted: vec![accepted], ..Book::default() },
            entries: vec![entry(Mark::Start, "r"), entry(Mark::End, "r")],
            history: History::default(),
            told: BTreeMap::from([("w".to_owned(), "completed".to_owned())]),
            rows: Rows {
                tasks: vec![task],
                executions: HashMap::from([("w".to_owned(), execution)]),
                losses: Vec::new(),
                broken_histories: Vec::new(),
                without_plan: Vec::new(),
                quarantined: Vec::new(),
                inbox: Vec::new(),
            },
        }
    }

    /// The headings of what is wrong with a world that was changed.
    fn complaints(change: impl FnOnce(&mut World)) -> Vec<String> {
        let mut world = world();
        change(&mut world);
        let World { book, entries, history, told, rows } = &world;
        let verdict =
            judge(&Evidence { book, entries, history, patience: Patience { verdict: PATIENCE, claim: PATIENCE / 10 }, told, rows });
        verdict.complaints().iter().filter_map(|one| Some(one.split_once(':')?.0.to_owned())).collect()
    }

    fn execution(world: &mut World) -> &mut ExecutionRow {
        world.rows.executions.get_mut("w").expect("it is there")
    }

    #[test]
    fn what_is_well_is_well_and_what_is_missing_is_lost() {
        assert!(complaints(|_| {}).is_empty());
        assert_eq!(complaints(|world| world.rows.executions.clear()), ["lost"]);
        assert_eq!(complaints(|world| world.rows.without_plan.push("w".to_owned())), ["lost"]);
    }

    #[test]
    fn what_counts_twice_is_seen() {
        assert_eq!(complaints(|world| execution(world).ends = 2), ["counted twice"]);
        assert_eq!(complaints(|world| world.rows.tasks[0].results = 2), ["counted twice"]);
        assert_eq!(complaints(|world| world.rows.tasks[0].events.push("task.failed".to_owned())), ["counted twice"]);
        assert_eq!(complaints(|world| world.rows.tasks[0].result = Some(json!("another run"))), ["counted twice"]);
        assert_eq!(complaints(|world| world.rows.tasks[0].events.extend(["task.queued"; 1].map(str::to_owned))), ["counted twice"]);
        let again = |world: &mut World| {
            let more = ExecutionRow { id: "x".to_owned(), status: "completed".to_owned(), key: Some("k".to_owned()), ends: 1 };
            world.rows.executions.insert("x".to_owned(), more);
        };
        assert_eq!(complaints(again), ["counted twice"]);
    }

    #[test]
    fn what_does_not_end_is_stuck_and_the_api_must_agree() {
        let unfinished = |world: &mut World| {
            "running".clone_into(&mut execution(world).status);
            world.told.insert("w".to_owned(), "running".to_owned());
        };
        assert_eq!(complaints(unfinished), ["stuck"]);
        assert_eq!(complaints(|world| drop(world.told.remove("w"))), ["wrong"]);
        assert_eq!(complaints(|world| world.rows.inbox.push("event".to_owned())), ["stuck"]);
        assert_eq!(complaints(|world| world.rows.quarantined.push("event".to_owned())), ["wrong"]);
    }

    #[test]
    fn a_failure_needs_a_loss_of_what_must_not_start_twice() {
        let fail = |error_type: &str| {
            let error_type = error_type.to_owned();
            complaints(move |world| {
                let task = &mut world.rows.tasks[0];
                "failed".clone_into(&mut task.status);
                task.error_type = Some(error_type);
                "failed".clone_into(&mut execution(world).status);
                world.told.insert("w".to_owned(), "failed".to_owned());
            })
        };
        assert!(fail("lost").is_empty());
        assert_eq!(fail("internal"), ["wrong"]);
        assert_eq!(fail("killed"), ["wrong"], "nobody cancelled it");
    }

    #[test]
    fn a_second_start_needs_a_database_that_forgot_the_first() {
        assert_eq!(complaints(|world| world.entries.push(entry(Mark::Start, "s"))), ["started twice"]);
        let forgotten = |world: &mut World| {
            let around = |at: SystemTime| super::super::history::Restore { copied: at, restored: at + PATIENCE };
            world.history.restores.push(around(world.entries[0].at));
            world.entries.push(entry(Mark::Start, "s"));
        };
        assert!(complaints(forgotten).is_empty());
    }

    #[test]
    fn a_loss_needs_an_absence_that_its_run_met() {
        let lose = |world: &mut World, begun: SystemTime| {
            let (task, executor) = ("t".to_owned(), "executor-0".to_owned());
            world.rows.losses.push(LossRow { task, executor, begun: Some(begun), decided: SystemTime::now() });
        };
        let before = SystemTime::now() - PATIENCE * 3;
        assert_eq!(complaints(|world| lose(world, before)), ["false loss"]);
        let explained = |executor: &str, ago: Duration, begun: SystemTime| {
            let from = SystemTime::now() - ago;
            let absence = Absence { executor: executor.to_owned(), from, to: Some(from) };
            complaints(move |world| {
                lose(world, begun);
                world.history.absences.push(absence);
            })
        };
        assert!(explained("executor-0", PATIENCE / 2, before).is_empty());
        assert_eq!(explained("executor-0", PATIENCE * 2, before), ["false loss"], "too long ago");
        assert_eq!(explained("executor-1", PATIENCE / 2, before), ["false loss"], "another one's");
        assert_eq!(explained("executor-0", PATIENCE / 2, SystemTime::now()), ["false loss"], "begun after its return");
    }
}
