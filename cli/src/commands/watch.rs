//! Following one workflow: its events into a tree, the tree onto stderr.

use super::CommandError;
use super::context::Context;
use super::wait::{ABSENCE_MAX, workflow_end};
use crate::client::shapes::{Task, Workflow, error_text};
use crate::client::sse::SseEvent;
use crate::client::{EventStream, Pauses, StreamEnd};
use crate::tree::{Colors, Ids, Look, Tree, TreeTask};
use orchestr8_proto::ids::{ExecutionId, TaskId};
use orchestr8_proto::timestamp::Timestamp;
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use serde::Deserialize;
use serde_json::Value;
use std::io::IsTerminal;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;

/// Frames are at least this far apart: more cannot be seen.
const FRAME_INTERVAL: Duration = Duration::from_millis(100);
/// Running times are shown anew this often.
const TICK: Duration = Duration::from_secs(1);
/// Tasks asked for at once.
const PAGE_ROWS: usize = 500;

/// Follows the workflow on stderr to its end, or to `deadline`; none: the time is over.
///
/// # Errors
/// [`CommandError::Client`]: refused, or away for too long where there is no deadline.
pub async fn follow(context: &Context, id: ExecutionId, deadline: Option<Instant>) -> Result<Option<Tree>, CommandError> {
    let mut followed = Followed::new(blank(read_tree(context, id).await?));
    let mut screen = Screen::new();
    let mut absent_since = None;
    let mut pauses = Pauses::default();
    while workflow_end(followed.tree.status).is_none() {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            screen.draw(&followed);
            return Ok(None);
        }
        match context.client.events(&format!("/api/v1/workflows/{id}/events"), followed.last_id.as_deref()).await {
            Ok(mut stream) => {
                absent_since = None;
                if followed.take_in(&mut stream, &mut screen, deadline).await {
                    pauses = Pauses::default();
                } else {
                    followed.end_without_events(read_tree(context, id).await);
                }
            }
            Err(error) if context.client.may_pass(&error) => {
                let since = *absent_since.get_or_insert_with(Instant::now);
                if deadline.is_none() && since.elapsed() > ABSENCE_MAX {
                    return Err(error.into());
                }
                pauses.told(&error);
            }
            Err(error) => return Err(error.into()),
        }
        if workflow_end(followed.tree.status).is_none() {
            pauses.pause(deadline).await;
        }
    }
    // Tasks that were too short to be claimed have no start among the events, but in the list.
    followed.tree = read_tree(context, id).await?;
    screen.draw(&followed);
    Ok(Some(followed.tree))
}

/// Reads a workflow with all its tasks.
///
/// # Errors
/// [`CommandError::Client`].
pub async fn read_tree(context: &Context, id: ExecutionId) -> Result<Tree, CommandError> {
    let path = format!("/api/v1/workflows/{id}");
    let workflow: Workflow = context.client.shaped(&path, &context.client.get(&path).await?)?;
    let tasks: Vec<Task> = context.client.shaped(&path, &Value::Array(read_tasks(context, id).await?))?;
    let tasks = tasks.into_iter().map(tree_task).collect();
    let Workflow { workflow_name: name, status, created_at, completed_at, .. } = workflow;
    Ok(Tree { name, status, created_at, completed_at, tasks })
}

/// All tasks of a workflow, as the coordinator answers them.
///
/// # Errors
/// [`CommandError::Client`].
pub async fn read_tasks(context: &Context, id: ExecutionId) -> Result<Vec<Value>, CommandError> {
    let mut tasks = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/v1/workflows/{id}/tasks?limit={PAGE_ROWS}{cursor}");
        let page: Page = context.client.shaped(&path, &context.client.get(&path).await?)?;
        tasks.extend(page.tasks);
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(tasks),
        }
    }
}

/// One page of tasks, not looked into.
#[derive(Debug, Deserialize)]
struct Page {
    tasks: Vec<Value>,
    #[serde(default)]
    next_cursor: Option<String>,
}

fn tree_task(task: Task) -> TreeTask {
    let error = error_text(task.error_type.as_deref(), task.error.as_deref());
    let Task { task_id: id, name, phase, status, started_at, completed_at, attempts, .. } = task;
    TreeTask { id, name, phase, status, started_at, completed_at, attempts, error }
}

/// The tree before anything happened: all that happened is in the events, which are read from the first.
fn blank(mut tree: Tree) -> Tree {
    for task in &mut tree.tasks {
        *task = TreeTask { status: TaskStatus::Pending, started_at: None, completed_at: None, attempts: 0, error: None, ..task.clone() };
    }
    Tree { status: WorkflowStatus::Pending, completed_at: None, ..tree }
}

/// One event of a workflow's history, as the API streams it.
#[derive(Debug, Deserialize)]
struct HistoryEvent {
    #[serde(rename = "type")]
    kind: String,
    at: Timestamp,
    #[serde(default)]
    task_id: Option<TaskId>,
    #[serde(default)]
    attempt: Option<u32>,
    #[serde(default)]
    started_at: Option<Timestamp>,
    #[serde(default)]
    error_type: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

/// A tree and where its event stream goes on.
#[derive(Debug)]
struct Followed {
    tree: Tree,
    last_id: Option<String>,
    /// The server's clock minus ours, as far as the freshest event tells.
    clock_offset: Option<time::Duration>,
    /// When the latest event happened, by the server's clock.
    happened_at: OffsetDateTime,
}

impl Followed {
    fn new(tree: Tree) -> Self {
        Self { last_id: None, clock_offset: None, happened_at: tree.created_at, tree }
    }

    /// Takes in events until the workflow or the stream ends; whether the stream brought any.
    async fn take_in(&mut self, stream: &mut EventStream, screen: &mut Screen, deadline: Option<Instant>) -> bool {
        let mut brought = false;
        let mut changed = false;
        let mut drawn = Instant::now();
        screen.draw(self);
        while workflow_end(self.tree.status).is_none() {
            let tick = drawn + if changed { FRAME_INTERVAL } else { TICK };
            let wake = deadline.map_or(tick, |deadline| deadline.min(tick));
            match tokio::time::timeout_at(wake, stream.next()).await {
                Ok(Ok(event)) => {
                    let change = self.apply(&event);
                    screen.tell(self, change);
                    (brought, changed) = (true, true);
                    if drawn.elapsed() < FRAME_INTERVAL {
                        continue;
                    }
                }
                Ok(Err(StreamEnd::Closed | StreamEnd::Broken(_) | StreamEnd::TooLarge(_))) => return brought,
                Err(_) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return brought,
                Err(_) => {}
            }
            screen.draw(self);
            (changed, drawn) = (false, Instant::now());
        }
        true
    }

    /// A stream that ends without a word may belong to a workflow that has ended: then its state counts.
    fn end_without_events(&mut self, read: Result<Tree, CommandError>) {
        if let Some(tree) = read.ok().filter(|tree| workflow_end(tree.status).is_some()) {
            self.tree = tree;
        }
    }

    /// Applies one event and says what it changed. Kinds of later versions are passed over.
    fn apply(&mut self, event: &SseEvent) -> Change {
        if !event.id.is_empty() {
            self.last_id = Some(event.id.clone());
        }
        let Ok(happened) = serde_json::from_str::<HistoryEvent>(&event.data) else { return Change::Nothing };
        let at = OffsetDateTime::from(happened.at);
        self.happened_at = self.happened_at.max(at);
        let offset = at - OffsetDateTime::now_utc();
        self.clock_offset = Some(self.clock_offset.map_or(offset, |known| known.max(offset)));
        match happened.kind.split_once('.') {
            Some(("task", state)) => self.apply_to_task(state, at, &happened),
            Some(("workflow", state)) => self.apply_to_workflow(state, at),
            Some(_) | None => Change::Nothing,
        }
    }

    fn apply_to_task(&mut self, state: &str, at: OffsetDateTime, happened: &HistoryEvent) -> Change {
        let Some(index) = happened.task_id.map(|id| id.index() as usize) else { return Change::Nothing };
        let Some(task) = self.tree.tasks.get_mut(index) else { return Change::Nothing };
        task.attempts = happened.attempt.unwrap_or(task.attempts);
        let error = error_text(happened.error_type.as_deref(), happened.error.as_deref());
        task.error = error.or_else(|| task.error.take());
        // `lost` and `released` are no states: the state that follows them has its own event.
        let Ok(status) = state.parse::<TaskStatus>() else { return Change::Nothing };
        task.status = status;
        task.completed_at = status.is_final().then_some(at);
        match status {
            // A run is claimed some time after its start: without that, no time is better than a wrong one.
            TaskStatus::Running => task.started_at = happened.started_at.map(OffsetDateTime::from),
            TaskStatus::Pending | TaskStatus::Queued | TaskStatus::Retrying | TaskStatus::Waiting => task.started_at = None,
            TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Skipped | TaskStatus::Cancelled => {}
        }
        Change::Task(index)
    }

    fn apply_to_workflow(&mut self, state: &str, at: OffsetDateTime) -> Change {
        let Ok(status) = state.parse::<WorkflowStatus>() else { return Change::Nothing };
        self.tree.status = status;
        self.tree.completed_at = status.is_final().then_some(at);
        Change::Workflow
    }

    /// The change in one line, with the time at which it happened: that of its arrival could lie behind the workflow's end.
    fn line(&self, change: Change) -> Option<String> {
        match change {
            Change::Task(index) => Some(self.tree.task_line(&self.tree.tasks[index], self.happened_at)),
            Change::Workflow => Some(self.tree.workflow_line(self.happened_at)),
            Change::Nothing => None,
        }
    }

    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + self.clock_offset.unwrap_or_default()
    }
}

/// What an event changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Nothing that is shown.
    Nothing,
    /// The task of this index.
    Task(usize),
    /// The workflow itself.
    Workflow,
}

/// stderr: redrawn in place on a terminal, else one line per change.
#[derive(Debug)]
enum Screen {
    Terminal { term: console::Term, colors: Colors, lines_drawn: usize },
    Lines,
}

impl Screen {
    fn new() -> Self {
        if std::io::stderr().is_terminal() && !console::is_dumb() {
            Self::Terminal { term: console::Term::stderr(), colors: Colors::of_stderr(), lines_drawn: 0 }
        } else {
            Self::Lines
        }
    }

    /// Draws the frame; what stderr does not take is lost, for the work goes on without it.
    fn draw(&mut self, followed: &Followed) {
        let Self::Terminal { term, colors, lines_drawn } = self else { return };
        let (rows, columns) = term.size();
        let (lines_max, columns) = (usize::from(rows).saturating_sub(1).max(2), usize::from(columns).max(20));
        let look = Look { lines_max, columns, colors: *colors, ids: Ids::Hidden };
        let lines = followed.tree.frame(look, followed.now());
        let up = (*lines_drawn).min(usize::from(rows));
        let mut frame = if up > 0 { format!("\u{1b}[{up}A\r") } else { String::new() };
        for line in &lines {
            frame.push_str(line);
            frame.push_str("\u{1b}[K\n");
        }
        frame.push_str("\u{1b}[J");
        *lines_drawn = lines.len();
        term.write_str(&frame).ok();
    }

    fn tell(&self, followed: &Followed, change: Change) {
        match self {
            Self::Lines => {
                if let Some(line) = followed.line(change) {
                    eprintln!("{line}");
                }
            }
            Self::Terminal { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn followed() -> Followed {
        let id = ExecutionId::generate(0, 0, &mut rand::rng());
        let task = TreeTask {
            id: id.task(0),
            name: "build".into(),
            phase: None,
            status: TaskStatus::Running,
            started_at: None,
            completed_at: None,
            attempts: 3,
            error: None,
        };
        let tree = Tree {
            name: "w".into(),
            status: WorkflowStatus::Running,
            created_at: OffsetDateTime::UNIX_EPOCH,
            completed_at: None,
            tasks: vec![task],
        };
        Followed::new(blank(tree))
    }

    fn happen(followed: &mut Followed, kind: &str, second: u8) -> Change {
        let id = followed.tree.tasks[0].id;
        let mut data = json!({"type": kind, "at": format!("2026-01-01T00:00:{second:02}Z"), "task_id": id, "task": "build", "attempt": 1});
        if kind == "task.running" {
            data["started_at"] = json!("2026-01-01T00:00:01Z");
        }
        followed.apply(&SseEvent { event: String::new(), data: data.to_string(), id: format!("{second}") })
    }

    #[test]
    fn the_history_alone_makes_the_tree() {
        let mut followed = followed();
        assert_eq!((followed.tree.tasks[0].status, followed.tree.tasks[0].attempts), (TaskStatus::Pending, 0));
        for (kind, second) in
            [("workflow.running", 1), ("task.queued", 1), ("task.running", 2), ("task.completed", 5), ("workflow.completed", 6)]
        {
            assert_ne!(happen(&mut followed, kind, second), Change::Nothing, "{kind}");
        }
        let task = &followed.tree.tasks[0];
        assert_eq!((task.status, task.attempts), (TaskStatus::Completed, 1));
        assert_eq!(task.duration(followed.now()), Some(Duration::from_secs(4)), "from its start, not from its claim");
        assert_eq!(followed.tree.status, WorkflowStatus::Completed);
        assert_eq!(followed.last_id.as_deref(), Some("6"));
    }

    #[test]
    fn the_times_of_lines_are_those_of_the_events_and_never_go_back() {
        let mut followed = followed();
        followed.tree.created_at = time::macros::datetime!(2026-01-01 00:00:00 UTC);
        let mut told = Vec::new();
        for (kind, second) in [("task.running", 2), ("task.completed", 5), ("workflow.completed", 5)] {
            let change = happen(&mut followed, kind, second);
            told.extend(followed.line(change).map(|line| line.split(']').next().unwrap_or_default().to_owned()));
        }
        assert_eq!(told, ["[   2.0s", "[   5.0s", "[   5.0s"]);
    }

    #[test]
    fn a_loss_is_no_state_but_its_reason_is_kept() {
        let mut followed = followed();
        happen(&mut followed, "task.running", 1);
        let data = json!({"type": "task.lost", "at": "2026-01-01T00:00:09Z", "task_id": followed.tree.tasks[0].id, "error_type": "lost", "error": "no beat"});
        followed.apply(&SseEvent { event: "task.lost".into(), data: data.to_string(), id: "9".into() });
        let task = &followed.tree.tasks[0];
        assert_eq!((task.status, task.error.as_deref()), (TaskStatus::Running, Some("lost: no beat")));
    }

    #[test]
    fn foreign_events_change_nothing() {
        let mut followed = followed();
        let before = followed.tree.clone();
        assert_eq!(followed.apply(&SseEvent { event: "x".into(), data: "not json".into(), id: String::new() }), Change::Nothing);
        assert_eq!(happen(&mut followed, "artifact", 1), Change::Nothing);
        assert_eq!(followed.tree, before);
    }
}
