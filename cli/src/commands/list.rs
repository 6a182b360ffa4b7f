//! `list`: a table of tasks or workflows, newest first.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_part};
use super::values::{parse_since, parse_whole};
use crate::client::ClientError;
use crate::client::shapes::{Task, TaskPage, Workflow, WorkflowPage};
use crate::exit::Exit;
use crate::text::{harmless_line, show_duration};
use reqwest::Url;
use serde_json::{Map, Value, json};
use std::time::Duration;
use time::OffsetDateTime;

/// Rows asked for at once: what the API gives at most.
pub(super) const PAGE_ROWS_MAX: usize = 500;
/// Widest cell of a table, in columns.
const CELL_WIDTH_MAX: usize = 40;

/// List tasks or workflows, newest first.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// List workflows instead of tasks.
    #[arg(long)]
    workflows: bool,
    /// Only in this state. Repeatable.
    #[arg(long = "status", value_name = "STATUS")]
    statuses: Vec<String>,
    /// Only with this tag. Repeatable: with all of them.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only on this user's behalf.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Only of this agent: the agent, else the handler, else the kind of the task.
    #[arg(long, value_name = "AGENT", conflicts_with = "workflows")]
    agent: Option<String>,
    /// With --workflows: only of this workflow.
    #[arg(long, value_name = "NAME", requires = "workflows")]
    name: Option<String>,
    /// Only accepted since: RFC 3339, or a distance such as 2h or 7d.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<String>,
    /// Rows, at most.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = |text: &str| parse_whole(text, 1..=100_000))]
    limit: u32,
    /// Every row, however many there are.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Only what comes after a page: the cursor that was told with it.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Prints the table, page by page: however long it is, one page is held.
///
/// # Errors
/// [`CommandError::Client`].
pub async fn list(args: &ListArgs) -> Result<Exit, CommandError> {
    let context = Context::new(&args.client)?;
    let limit = if args.all { usize::MAX } else { args.limit as usize };
    let mut listed = Listed { context: &context, what: What::of(args), columns: Columns::default(), rows: 0 };
    let mut cursor = args.cursor.clone();
    loop {
        let path = with_query(listed.what.path(), &query(args, (limit - listed.rows).min(PAGE_ROWS_MAX), cursor.as_deref()));
        let mut answer = context.client.get(&path).await.map_err(|error| of_cursor(error, cursor.as_deref()))?;
        cursor = answer.get("next_cursor").and_then(Value::as_str).map(ToOwned::to_owned);
        listed.page(answer.get_mut(listed.what.key()).map(Value::take).unwrap_or_default())?;
        if cursor.is_none() || listed.rows >= limit {
            return listed.end(cursor.as_deref()).map(|()| Exit::Done);
        }
    }
}

/// A refused cursor in the words of the command line.
fn of_cursor(error: ClientError, cursor: Option<&str>) -> ClientError {
    match (error, cursor) {
        (ClientError::Refused(mut problem), Some(cursor)) if problem.field.as_deref() == Some("cursor") => {
            let cursor = cursor.escape_debug();
            problem.detail = format!("--cursor `{cursor}` is none of this list: write the one that `list` told, with the same filters");
            problem.value = None;
            ClientError::Refused(problem)
        }
        (error, _) => error,
    }
}

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Tasks,
    Workflows,
}

impl What {
    const fn of(args: &ListArgs) -> Self {
        if args.workflows { Self::Workflows } else { Self::Tasks }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Workflows => "workflows",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Tasks => "/api/v1/tasks",
            Self::Workflows => "/api/v1/workflows",
        }
    }

    const fn head(self) -> &'static [&'static str] {
        match self {
            Self::Tasks => &["TASK", "NAME", "AGENT", "STATUS", "ATTEMPT", "AGE", "TIME", "ERROR"],
            Self::Workflows => &["WORKFLOW", "NAME", "STATUS", "AGE", "TIME", "ERROR"],
        }
    }

    /// The rows of a page as they are shown.
    fn rows(self, context: &Context, page: Value) -> Result<Vec<Vec<String>>, CommandError> {
        let (now, document) = (OffsetDateTime::now_utc(), Value::Object(Map::from_iter([(self.key().to_owned(), page)])));
        Ok(match self {
            Self::Tasks => {
                let page: TaskPage = context.client.shaped(self.path(), &document)?;
                page.tasks.iter().map(|task| task_row(task, now)).collect()
            }
            Self::Workflows => {
                let page: WorkflowPage = context.client.shaped(self.path(), &document)?;
                page.workflows.iter().map(|workflow| workflow_row(workflow, now)).collect()
            }
        })
    }
}

/// What has been printed so far.
struct Listed<'a> {
    context: &'a Context,
    what: What,
    columns: Columns,
    rows: usize,
}

impl Listed<'_> {
    /// Prints a page, the first with what stands above it.
    fn page(&mut self, page: Value) -> Result<(), CommandError> {
        let count = page.as_array().map_or(0, Vec::len);
        let is_first = self.rows == 0;
        match self.context.format {
            Format::Json if is_first => emit_part(&format!("{{\n  \"{}\": [{}", self.what.key(), json_items(&page)))?,
            Format::Json => emit_part(&format!(",{}", json_items(&page)))?,
            Format::Text => {
                let head = self.what.head().iter().map(|&cell| cell.to_owned()).collect();
                let rows = self.what.rows(self.context, page)?;
                emit(&self.columns.text(is_first.then_some(head).into_iter().chain(rows)))?;
            }
        }
        self.rows += count;
        Ok(())
    }

    /// Says where it goes on, if it does.
    fn end(&self, next_cursor: Option<&str>) -> Result<(), CommandError> {
        match (self.context.format, next_cursor) {
            (Format::Json, next_cursor) => emit_part(&format!("\n  ],\n  \"next_cursor\": {}\n}}\n", json!(next_cursor))),
            (Format::Text, Some(next)) => {
                eprintln!("there are more: add `--cursor {}` for those after these, or `--all`", harmless_line(next));
                Ok(())
            }
            (Format::Text, None) => Ok(()),
        }
    }
}

/// The items of a page, two steps in. Line ends within them are those of the form alone: text has them escaped.
fn json_items(page: &Value) -> String {
    let item = |item: &Value| format!("\n    {}", format!("{item:#}").replace('\n', "\n    "));
    page.as_array().map(|items| items.iter().map(item).collect::<Vec<_>>().join(",")).unwrap_or_default()
}

fn workflow_row(workflow: &Workflow, now: OffsetDateTime) -> Vec<String> {
    let age = span(Some(workflow.created_at), None, now);
    let time = span(workflow.started_at, workflow.completed_at, now);
    let (id, name) = (workflow.workflow_id.to_string(), workflow.workflow_name.clone());
    vec![id, name, workflow.status.to_string(), age, time, workflow.error.clone().unwrap_or_default()]
}

fn task_row(task: &Task, now: OffsetDateTime) -> Vec<String> {
    let age = span(task.created_at, None, now);
    let time = span(task.started_at, task.completed_at, now);
    let agent = task.agent_name.clone().unwrap_or_default();
    let error = task.error.clone().unwrap_or_default();
    vec![task.task_id.to_string(), task.name.clone(), agent, task.status.to_string(), task.attempts.to_string(), age, time, error]
}

/// The time from one moment to another, or until now.
pub(super) fn span(from: Option<OffsetDateTime>, to: Option<OffsetDateTime>, now: OffsetDateTime) -> String {
    from.and_then(|from| Duration::try_from(to.unwrap_or(now) - from).ok()).map(show_duration).unwrap_or_default()
}

/// A table with a head.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head = head.iter().map(|&cell| cell.to_owned()).collect();
    Columns::default().text(std::iter::once(head).chain(rows))
}

/// Columns as wide as their widest cell so far; the last is not padded.
#[derive(Debug, Default)]
struct Columns {
    widths: Vec<usize>,
}

impl Columns {
    fn text(&mut self, rows: impl Iterator<Item = Vec<String>>) -> String {
        let cell = |cell: &String| console::truncate_str(&harmless_line(cell), CELL_WIDTH_MAX, "…").into_owned();
        let rows: Vec<Vec<String>> = rows.map(|row| row.iter().map(cell).collect()).collect();
        for row in &rows {
            self.widths.resize(row.len(), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(console::measure_text_width(cell));
            }
        }
        rows.iter().map(|row| self.line(row)).collect::<Vec<_>>().join("\n")
    }

    fn line(&self, row: &[String]) -> String {
        let padded = row.iter().zip(&self.widths).map(|(cell, &width)| console::pad_str(cell, width, console::Alignment::Left, None));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

fn query(args: &ListArgs, rows: usize, cursor: Option<&str>) -> Vec<(&'static str, String)> {
    let mut query = vec![("limit", rows.to_string())];
    query.extend(args.statuses.iter().map(|status| ("status", status.clone())));
    query.extend(args.tags.iter().map(|tag| ("tags", tag.clone())));
    let single = [("user_id", &args.user), ("agent", &args.agent), ("name", &args.name), ("since", &args.since)];
    query.extend(single.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    query.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
    query
}

/// The path with its query, encoded.
pub(super) fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let url = Url::parse_with_params(&format!("http://localhost{path}"), query).expect("a path of our own");
    format!("{}?{}", url.path(), url.query().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        list: ListArgs,
    }

    #[test]
    fn filters_become_encoded_parameters() {
        let words = [
            "list",
            "--status",
            "failed",
            "--status",
            "running",
            "--tag",
            "a&b",
            "--user",
            "ü",
            "--agent",
            "x",
            "--since",
            "2026-01-01T00:00:00+01:00",
        ];
        let line = Line::try_parse_from(words).expect("fits");
        let path = with_query("/api/v1/tasks", &query(&line.list, 7, Some("c")));
        let expected = "/api/v1/tasks?limit=7&status=failed&status=running&tags=a%26b&user_id=%C3%BC&agent=x&since=2026-01-01T00%3A00%3A00%2B01%3A00&cursor=c";
        assert_eq!(path, expected);
        assert!(Line::try_parse_from(["list", "--name", "x"]).is_err() && Line::try_parse_from(["list", "--limit", "0"]).is_err());
    }

    #[test]
    fn later_pages_keep_the_columns_of_the_first_unless_they_need_more() {
        let mut columns = Columns::default();
        let row = |cells: [&str; 2]| std::iter::once(cells.map(str::to_owned).to_vec());
        assert_eq!(columns.text(row(["aaaa", "b"])), "aaaa  b");
        assert_eq!((columns.text(row(["c", "d"])), columns.text(row(["eeeee", "f"]))), ("c     d".into(), "eeeee  f".into()));
    }

    #[test]
    fn pages_of_json_are_one_document() {
        let page = |number: u32| json_items(&json!([{"a": number, "t": "x\ny"}, [number]]));
        let whole = format!("{{\"tasks\": [{},{}\n]}}", page(1), page(2));
        let expected = json!({"tasks": [{"a": 1, "t": "x\ny"}, [1], {"a": 2, "t": "x\ny"}, [2]]});
        assert_eq!(serde_json::from_str::<Value>(&whole).expect("JSON"), expected);
        assert_eq!(json_items(&json!([])), "");
    }

    #[test]
    fn a_table_is_aligned_and_harmless() {
        let rows = vec![vec!["1".into(), "任務\u{1b}[2J".into(), "x".into()], vec!["22".into(), "b".into(), String::new()]];
        assert_eq!(table(&["ID", "NAME", "ERROR"], rows), "ID  NAME  ERROR\n1   任務  x\n22  b");
    }
}
