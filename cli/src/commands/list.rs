//! `list`: a table of tasks or workflows, newest first.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_json};
use super::values::parse_since;
use crate::client::shapes::{Task, TaskPage, Workflow, WorkflowPage};
use crate::exit::Exit;
use crate::text::{harmless_line, show_duration};
use reqwest::Url;
use serde_json::{Value, json};
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
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    client: ClientArgs,
}

/// Prints the table.
///
/// # Errors
/// [`CommandError::Client`].
pub async fn list(args: &ListArgs) -> Result<Exit, CommandError> {
    let context = Context::new(&args.client)?;
    let (what, path) = if args.workflows { ("workflows", "/api/v1/workflows") } else { ("tasks", "/api/v1/tasks") };
    let limit = args.limit as usize;
    let mut rows: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let path = with_query(path, &query(args, (limit - rows.len()).min(PAGE_ROWS_MAX), cursor.as_deref()));
        let mut answer = context.client.get(&path).await?;
        cursor = answer.get("next_cursor").and_then(Value::as_str).map(ToOwned::to_owned);
        if let Some(Value::Array(page)) = answer.get_mut(what).map(Value::take) {
            rows.extend(page);
        }
        if cursor.is_none() || rows.len() >= limit {
            break;
        }
    }
    rows.truncate(limit);
    let document = json!({ what: rows, "next_cursor": cursor });
    match context.format {
        Format::Json => emit_json(&document)?,
        Format::Text => emit(&rows_text(args, &context, &document)?)?,
    }
    if cursor.is_some() && context.format == Format::Text {
        eprintln!("there are more: raise --limit, or narrow the list");
    }
    Ok(Exit::Done)
}

fn rows_text(args: &ListArgs, context: &Context, document: &Value) -> Result<String, CommandError> {
    let now = OffsetDateTime::now_utc();
    let table = if args.workflows {
        let page: WorkflowPage = context.client.shaped("/api/v1/workflows", document)?;
        let rows = page.workflows.iter().map(|workflow| workflow_row(workflow, now)).collect();
        table(&["WORKFLOW", "NAME", "STATUS", "AGE", "TIME", "ERROR"], rows)
    } else {
        let page: TaskPage = context.client.shaped("/api/v1/tasks", document)?;
        let rows = page.tasks.iter().map(|task| task_row(task, now)).collect();
        table(&["TASK", "NAME", "AGENT", "STATUS", "ATTEMPT", "AGE", "TIME", "ERROR"], rows)
    };
    Ok(table)
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

/// Columns as wide as their widest cell; the last is not padded.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head = head.iter().map(|&cell| cell.to_owned()).collect();
    let cells =
        |row: Vec<String>| row.iter().map(|cell| console::truncate_str(&harmless_line(cell), CELL_WIDTH_MAX, "…").into_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).map(cells).collect();
    let width = |column: usize| rows.iter().map(|row| console::measure_text_width(&row[column])).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let padded = row.iter().zip(&widths).map(|(cell, &width)| console::pad_str(cell, width, console::Alignment::Left, None));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
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
    fn a_table_is_aligned_and_harmless() {
        let rows = vec![vec!["1".into(), "任務\u{1b}[2J".into(), "x".into()], vec!["22".into(), "b".into(), String::new()]];
        assert_eq!(table(&["ID", "NAME", "ERROR"], rows), "ID  NAME  ERROR\n1   任務  x\n22  b");
    }
}
