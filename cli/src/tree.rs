//! The progress tree of one workflow: phases, tasks, states, times. Pure: state in, lines out.

use crate::text::{harmless_line, show_duration};
use orchestr8_proto::ids::TaskId;
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};
use std::time::Duration;
use time::OffsetDateTime;

/// Widest name column; longer names push their durations to the right.
const NAME_WIDTH_MAX: usize = 40;
/// Longest excerpt of an error in a task's line, in characters.
const ERROR_CHARACTERS_MAX: usize = 80;

/// Task time over wall time that is worth a word: less is what one task after the other has.
const GAIN_MIN: f64 = 1.1;

/// One task as the tree shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeTask {
    /// Its id; its place in the tree is its index.
    pub id: TaskId,
    /// Its name in the definition: somebody else's text.
    pub name: String,
    /// The phase it belongs to.
    pub phase: Option<String>,
    /// Its state.
    pub status: TaskStatus,
    /// The first start.
    pub started_at: Option<OffsetDateTime>,
    /// The end, once it is final.
    pub completed_at: Option<OffsetDateTime>,
    /// Attempts so far; 0 before the first.
    pub attempts: u32,
    /// Why it failed: somebody else's text.
    pub error: Option<String>,
}

impl TreeTask {
    /// How long it has been running, or ran.
    #[must_use]
    pub fn duration(&self, now: OffsetDateTime) -> Option<Duration> {
        let started = self.started_at?;
        Duration::try_from(self.completed_at.unwrap_or(now) - started).ok()
    }
}

/// One workflow as the tree shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The workflow's name: somebody else's text.
    pub name: String,
    /// Its state.
    pub status: WorkflowStatus,
    /// When it was accepted.
    pub created_at: OffsetDateTime,
    /// The end, once it is final.
    pub completed_at: Option<OffsetDateTime>,
    /// In the order of the definition.
    pub tasks: Vec<TreeTask>,
}

/// Whether escape sequences for colours may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colors {
    /// A terminal that wants them.
    On,
    /// A file, a pipe, `NO_COLOR` or a dumb terminal.
    Off,
}

/// Whether tasks are shown with their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// For whoever goes on with one of them.
    Shown,
    /// For whoever only watches.
    Hidden,
}

/// How a frame is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Lines that a frame may have.
    pub lines_max: usize,
    /// Columns that a line may have.
    pub columns: usize,
    /// Colours or none.
    pub colors: Colors,
    /// Ids or none.
    pub ids: Ids,
}

/// Sums for the end: what parallel work gained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// All tasks' times together.
    pub task_time: Duration,
    /// From the acceptance to the end.
    pub wall_time: Duration,
}

impl Summary {
    /// Task time over wall time; none where nothing was gained.
    #[must_use]
    pub fn gain(&self) -> Option<f64> {
        let gain = self.task_time.as_secs_f64() / self.wall_time.as_secs_f64();
        (gain.is_finite() && gain >= GAIN_MIN).then_some(gain)
    }
}

impl Tree {
    /// The state of one task in one line: for logs and pipes.
    #[must_use]
    pub fn task_line(&self, task: &TreeTask, now: OffsetDateTime) -> String {
        let ended = task.duration(now).filter(|_| task.status.is_final());
        let after = ended.map(|duration| format!(" after {}", show_duration(duration))).unwrap_or_default();
        let (attempts, error) = (attempts_note(task), error_note(task));
        format!("{} {} {}{after}{attempts}{error}", self.clock(now), harmless_line(&task.name), task.status)
    }

    /// The state of the workflow in one line.
    #[must_use]
    pub fn workflow_line(&self, now: OffsetDateTime) -> String {
        format!("{} workflow {} {}", self.clock(now), harmless_line(&self.name), self.status)
    }

    /// The tree in at most `look.lines_max` lines of at most `look.columns` columns.
    #[must_use]
    pub fn frame(&self, look: Look, now: OffsetDateTime) -> Vec<String> {
        let groups = self.groups();
        let mut lines = vec![self.headline(look.colors, now)];
        let room = look.lines_max.saturating_sub(1);
        let rows = lay_out(&groups, room);
        let width = self.tasks.iter().map(|task| console::measure_text_width(&harmless_line(&task.name))).max().unwrap_or(0);
        let pen = Pen { look, width: width.min(NAME_WIDTH_MAX), now };
        for row in rows {
            lines.push(pen.row(&row));
        }
        lines.iter().map(|line| console::truncate_str(line, look.columns, "…").into_owned()).collect()
    }

    /// Task time and wall time so far.
    #[must_use]
    pub fn summary(&self, now: OffsetDateTime) -> Summary {
        Summary { task_time: self.tasks.iter().filter_map(|task| task.duration(now)).sum(), wall_time: self.wall_time(now) }
    }

    /// The tasks that failed for good.
    pub fn failed(&self) -> impl Iterator<Item = &TreeTask> {
        self.tasks.iter().filter(|task| task.status == TaskStatus::Failed)
    }

    fn wall_time(&self, now: OffsetDateTime) -> Duration {
        Duration::try_from(self.completed_at.unwrap_or(now) - self.created_at).unwrap_or_default()
    }

    fn clock(&self, now: OffsetDateTime) -> String {
        format!("[{:>7}]", show_duration(self.wall_time(now)))
    }

    fn headline(&self, colors: Colors, now: OffsetDateTime) -> String {
        let ended = self.tasks.iter().filter(|task| task.status.is_final()).count();
        let status = colors.workflow(self.status);
        let time = show_duration(self.wall_time(now));
        format!("{}  {status}  {ended}/{} tasks  {time}", harmless_line(&self.name), self.tasks.len())
    }

    /// Consecutive tasks of the same phase; a flat list is one group without a name.
    fn groups(&self) -> Vec<Group<'_>> {
        let chunks = self.tasks.chunk_by(|a, b| a.phase == b.phase);
        chunks.map(|tasks| Group { phase: tasks[0].phase.as_deref(), tasks }).collect()
    }
}

/// The tasks of one phase.
#[derive(Debug, Clone, Copy)]
struct Group<'a> {
    phase: Option<&'a str>,
    tasks: &'a [TreeTask],
}

impl Group<'_> {
    fn is_done(&self) -> bool {
        self.tasks.iter().all(|task| matches!(task.status, TaskStatus::Completed | TaskStatus::Skipped))
    }

    fn header_lines(&self) -> usize {
        usize::from(self.phase.is_some())
    }

    /// The most telling state of its tasks.
    fn status(&self) -> TaskStatus {
        self.tasks.iter().map(|task| task.status).min_by_key(|status| interest(*status)).unwrap_or(TaskStatus::Pending)
    }
}

/// One line below the headline.
#[derive(Debug)]
enum Row<'a> {
    Phase { name: &'a str, group: Group<'a> },
    Task { task: &'a TreeTask, indent: &'static str },
    More { tasks: Vec<&'a TreeTask>, indent: &'static str },
    Cut(usize),
}

/// Chooses what fits: everything, else finished phases folded, else the most telling tasks of each phase.
fn lay_out<'a>(groups: &[Group<'a>], room: usize) -> Vec<Row<'a>> {
    let lines = |group: &Group<'_>| group.header_lines() + group.tasks.len();
    let everything: usize = groups.iter().map(lines).sum();
    let budgets: Vec<usize> = if everything <= room {
        groups.iter().map(|group| group.tasks.len()).collect()
    } else {
        let headers: usize = groups.iter().map(Group::header_lines).sum();
        let open = groups.iter().filter(|group| !group.is_done() || group.phase.is_none()).count().max(1);
        let share = room.saturating_sub(headers) / open;
        groups.iter().map(|group| if group.is_done() && group.phase.is_some() { 0 } else { share }).collect()
    };
    let mut rows: Vec<Row<'a>> = groups.iter().zip(budgets).flat_map(|(group, budget)| group_rows(*group, budget)).collect();
    if rows.len() > room {
        let hidden = rows.len() - room.saturating_sub(1);
        rows.truncate(room.saturating_sub(1));
        rows.push(Row::Cut(hidden));
    }
    rows
}

fn group_rows(group: Group<'_>, budget: usize) -> Vec<Row<'_>> {
    let indent = if group.phase.is_some() { "    " } else { "  " };
    let mut rows: Vec<Row<'_>> = group.phase.into_iter().map(|name| Row::Phase { name, group }).collect();
    if group.tasks.len() <= budget {
        rows.extend(group.tasks.iter().map(|task| Row::Task { task, indent }));
    } else if budget > 0 {
        let mut order: Vec<usize> = (0..group.tasks.len()).collect();
        order.sort_by_key(|&index| interest(group.tasks[index].status));
        let (mut shown, hidden) = (order[..budget - 1].to_vec(), &order[budget - 1..]);
        shown.sort_unstable();
        rows.extend(shown.into_iter().map(|index| Row::Task { task: &group.tasks[index], indent }));
        rows.push(Row::More { tasks: hidden.iter().map(|&index| &group.tasks[index]).collect(), indent });
    }
    rows
}

/// What people look for first has the lowest rank.
const fn interest(status: TaskStatus) -> u8 {
    match status {
        TaskStatus::Failed => 0,
        TaskStatus::Running => 1,
        TaskStatus::Retrying => 2,
        TaskStatus::Waiting => 3,
        TaskStatus::Queued => 4,
        TaskStatus::Pending => 5,
        TaskStatus::Cancelled => 6,
        TaskStatus::Completed => 7,
        TaskStatus::Skipped => 8,
    }
}

/// Writes rows.
struct Pen {
    look: Look,
    width: usize,
    now: OffsetDateTime,
}

impl Pen {
    fn row(&self, row: &Row<'_>) -> String {
        match row {
            Row::Phase { name, group } => self.phase(name, *group),
            Row::Task { task, indent } => self.task(task, indent),
            Row::More { tasks, indent } => format!("{indent}… {} more: {}", tasks.len(), counts(tasks)),
            Row::Cut(count) => format!("  … {count} more lines"),
        }
    }

    fn phase(&self, name: &str, group: Group<'_>) -> String {
        let ended = group.tasks.iter().filter(|task| task.status.is_final()).count();
        format!("  {} {}  {ended}/{}", self.look.colors.symbol(group.status()), harmless_line(name), group.tasks.len())
    }

    fn task(&self, task: &TreeTask, indent: &str) -> String {
        let name = harmless_line(&task.name);
        let name = console::pad_str(&name, self.width, console::Alignment::Left, None);
        let time = task.duration(self.now).map(show_duration).unwrap_or_default();
        let state = match task.status {
            TaskStatus::Completed | TaskStatus::Running => String::new(),
            TaskStatus::Pending
            | TaskStatus::Queued
            | TaskStatus::Retrying
            | TaskStatus::Waiting
            | TaskStatus::Failed
            | TaskStatus::Skipped
            | TaskStatus::Cancelled => format!("  {}", self.look.colors.task(task.status, task.status.as_str())),
        };
        let id = match self.look.ids {
            Ids::Shown => format!("{} ", task.id),
            Ids::Hidden => String::new(),
        };
        let (symbol, attempts, error) = (self.look.colors.symbol(task.status), attempts_note(task), error_note(task));
        let line = format!("{indent}{symbol} {id}{name}  {time:>7}{state}{attempts}{error}");
        line.trim_end().to_owned()
    }
}

fn attempts_note(task: &TreeTask) -> String {
    if task.attempts > 1 { format!("  attempt {}", task.attempts) } else { String::new() }
}

fn error_note(task: &TreeTask) -> String {
    let error = task.error.as_deref().filter(|_| matches!(task.status, TaskStatus::Failed | TaskStatus::Retrying));
    error.map(|error| format!("  {}", excerpt(error))).unwrap_or_default()
}

fn excerpt(error: &str) -> String {
    console::truncate_str(&harmless_line(error), ERROR_CHARACTERS_MAX, "…").into_owned()
}

fn counts(tasks: &[&TreeTask]) -> String {
    let count = |status: TaskStatus| tasks.iter().filter(|task| task.status == status).count();
    let counted = TaskStatus::ALL.iter().map(|&status| (count(status), status)).filter(|(count, _)| *count > 0);
    counted.map(|(count, status)| format!("{count} {status}")).collect::<Vec<_>>().join(", ")
}

impl Colors {
    /// What stderr wants: colours on a terminal, unless `NO_COLOR` is set (no-color.org) or the terminal is dumb.
    #[must_use]
    pub fn of_stderr() -> Self {
        use std::io::IsTerminal;
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || console::is_dumb();
        if std::io::stderr().is_terminal() && !unwanted { Self::On } else { Self::Off }
    }

    /// The text in the color of a task's state.
    #[must_use]
    pub fn task(self, status: TaskStatus, text: &str) -> String {
        let styled = console::style(text).force_styling(self == Self::On);
        match status {
            TaskStatus::Completed => styled.green(),
            TaskStatus::Failed => styled.red().bold(),
            TaskStatus::Running => styled.cyan(),
            TaskStatus::Retrying | TaskStatus::Cancelled => styled.yellow(),
            TaskStatus::Waiting | TaskStatus::Queued | TaskStatus::Pending | TaskStatus::Skipped => styled.dim(),
        }
        .to_string()
    }

    fn workflow(self, status: WorkflowStatus) -> String {
        let styled = console::style(status.as_str()).force_styling(self == Self::On);
        match status {
            WorkflowStatus::Completed => styled.green().bold(),
            WorkflowStatus::Failed => styled.red().bold(),
            WorkflowStatus::Running => styled.cyan(),
            WorkflowStatus::Cancelled | WorkflowStatus::Paused => styled.yellow(),
            WorkflowStatus::Pending => styled.dim(),
        }
        .to_string()
    }

    fn symbol(self, status: TaskStatus) -> String {
        let symbol = match status {
            TaskStatus::Completed => "✓",
            TaskStatus::Failed => "✗",
            TaskStatus::Running => "●",
            TaskStatus::Retrying => "↻",
            TaskStatus::Waiting => "~",
            TaskStatus::Queued => "○",
            TaskStatus::Pending => "·",
            TaskStatus::Skipped => "-",
            TaskStatus::Cancelled => "x",
        };
        self.task(status, symbol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_proto::ids::ExecutionId;
    use proptest::prelude::*;
    use time::macros::datetime;

    const START: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);
    const WIDE: Look = Look { lines_max: 50, columns: 100, colors: Colors::Off, ids: Ids::Hidden };

    fn tree(tasks: &[(&str, Option<&str>, TaskStatus)]) -> Tree {
        let id = ExecutionId::generate(0, 0, &mut rand::rng());
        let task = |(index, (name, phase, status)): (usize, &(&str, Option<&str>, TaskStatus))| TreeTask {
            id: id.task(u32::try_from(index).expect("few")),
            name: (*name).to_owned(),
            phase: phase.map(ToOwned::to_owned),
            status: *status,
            started_at: (*status != TaskStatus::Pending).then_some(START),
            completed_at: status.is_final().then(|| START + Duration::from_secs(2)),
            attempts: 1,
            error: (*status == TaskStatus::Failed).then(|| "exit code 1\u{1b}[2J\nsecond line".to_owned()),
        };
        let tasks = tasks.iter().enumerate().map(task).collect();
        Tree { name: "gates".into(), status: WorkflowStatus::Running, created_at: START, completed_at: None, tasks }
    }

    #[test]
    fn phases_and_tasks_are_shown_with_states_and_times() {
        let tree = tree(&[
            ("inventory", Some("collect"), TaskStatus::Completed),
            ("links", Some("gates"), TaskStatus::Failed),
            ("size", Some("gates"), TaskStatus::Running),
            ("report", Some("report"), TaskStatus::Pending),
        ]);
        let expected = [
            "gates  running  2/4 tasks  5.0s",
            "  ✓ collect  1/1",
            "    ✓ inventory     2.0s",
            "  ✗ gates  1/2",
            "    ✗ links         2.0s  failed  exit code 1 second line",
            "    ● size          5.0s",
            "  · report  0/1",
            "    · report              pending",
        ];
        assert_eq!(tree.frame(WIDE, START + Duration::from_secs(5)), expected);
        let with_ids = tree.frame(Look { ids: Ids::Shown, ..WIDE }, START);
        assert_eq!(with_ids[2], format!("    ✓ {} inventory     2.0s", tree.tasks[0].id));
    }

    #[test]
    fn finished_phases_fold_first_when_room_is_short() {
        let tree = tree(&[
            ("a", Some("one"), TaskStatus::Completed),
            ("b", Some("one"), TaskStatus::Completed),
            ("c", Some("two"), TaskStatus::Completed),
            ("d", Some("two"), TaskStatus::Running),
            ("e", Some("two"), TaskStatus::Pending),
        ]);
        let lines = tree.frame(Look { lines_max: 5, ..WIDE }, START);
        assert_eq!(lines[1..], ["  ✓ one  2/2", "  ● two  1/3", "    ● d      0ms", "    … 2 more: 1 pending, 1 completed"]);
    }

    #[test]
    fn a_state_is_told_in_one_line() {
        let mut tree = tree(&[("a", None, TaskStatus::Completed), ("b\n", None, TaskStatus::Failed)]);
        tree.tasks[1].attempts = 2;
        tree.status = WorkflowStatus::Failed;
        let now = START + Duration::from_secs(4);
        assert_eq!(tree.task_line(&tree.tasks[0], now), "[   4.0s] a completed after 2.0s");
        assert_eq!(tree.task_line(&tree.tasks[1], now), "[   4.0s] b failed after 2.0s  attempt 2  exit code 1 second line");
        assert_eq!(tree.workflow_line(now), "[   4.0s] workflow gates failed");
    }

    #[test]
    fn the_summary_is_task_time_over_wall_time() {
        let mut tree = tree(&[("a", None, TaskStatus::Completed), ("b", None, TaskStatus::Completed)]);
        tree.completed_at = Some(START + Duration::from_secs(2));
        let summary = tree.summary(START + Duration::from_mins(1));
        assert_eq!((summary.task_time, summary.wall_time, summary.gain()), (Duration::from_secs(4), Duration::from_secs(2), Some(2.0)));
        for completed_at in [START, START + Duration::from_secs(4)] {
            tree.completed_at = Some(completed_at);
            assert_eq!(tree.summary(START).gain(), None, "nothing was gained");
        }
    }

    #[test]
    fn colors_are_escape_sequences_only_when_wanted() {
        assert!(Colors::On.task(TaskStatus::Failed, "x").contains('\u{1b}'));
        assert_eq!(Colors::Off.task(TaskStatus::Failed, "x"), "x");
    }

    proptest! {
        #[test]
        fn a_frame_never_exceeds_its_room(
            statuses in proptest::collection::vec((proptest::sample::select(TaskStatus::ALL), proptest::option::of(0u8..6)), 0..60),
            lines_max in 2usize..30,
            columns in 1usize..60,
        ) {
            let named: Vec<(String, Option<String>, TaskStatus)> =
                statuses.iter().map(|(status, phase)| ("täsk 任務".to_owned(), phase.map(|p| format!("p{p}")), *status)).collect();
            let borrowed: Vec<_> = named.iter().map(|(name, phase, status)| (name.as_str(), phase.as_deref(), *status)).collect();
            let lines = tree(&borrowed).frame(Look { lines_max, columns, colors: Colors::On, ids: Ids::Shown }, START);
            prop_assert!(lines.len() <= lines_max, "{} lines", lines.len());
            prop_assert!(lines.iter().all(|line| console::measure_text_width(line) <= columns));
        }
    }
}
