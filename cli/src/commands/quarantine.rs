//! `quarantine`: events that could not be applied; looking at them, trying them again, forgetting them.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_json};
use super::list::{PAGE_ROWS_MAX, span, table, with_query};
use super::target::parse_prefix;
use super::values::parse_whole;
use crate::client::shapes::{QuarantinePage, QuarantinedEvent};
use crate::exit::Exit;
use crate::text::{harmless, harmless_line};
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

const PATH: &str = "/api/v1/quarantine";

/// Look at events that could not be applied, and have them tried again.
///
/// What the coordinator cannot apply (a task's timer whose definition cannot be read, a request of another version) is set
/// aside, so that everything beside it goes on. The metric `orchestr8_events_quarantined_total` counts them. Mend the cause that
/// ERROR names, then redrive. What executors report is not redriven: it comes again by itself.
#[derive(Debug, clap::Args)]
pub struct QuarantineArgs {
    #[command(subcommand)]
    command: QuarantineCommand,
}

#[derive(Debug, clap::Subcommand)]
enum QuarantineCommand {
    /// List quarantined events, newest first.
    List {
        /// Rows, at most.
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = |text: &str| parse_whole(text, 1..=100_000))]
        limit: u32,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show all that is known of one.
    Show(OneArgs),
    /// Send one to its shard once more; exit code 1 if it needs none, because it comes again by itself.
    Redrive(OneArgs),
    /// Forget one. A timer is tried again by itself within the hour.
    Discard(WholeArgs),
}

#[derive(Debug, clap::Args)]
struct OneArgs {
    /// The id of a quarantined event, or at least its first 8 digits.
    #[arg(value_name = "ID", value_parser = parse_prefix)]
    id: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, clap::Args)]
struct WholeArgs {
    /// The whole id of a quarantined event, as `quarantine list` shows it.
    #[arg(value_name = "ID", value_parser = parse_event_id)]
    id: Uuid,
    #[command(flatten)]
    client: ClientArgs,
}

/// Lists, shows, redrives or discards.
///
/// # Errors
/// [`CommandError`].
pub async fn quarantine(args: &QuarantineArgs) -> Result<Exit, CommandError> {
    match &args.command {
        QuarantineCommand::List { limit, client } => list(*limit as usize, &Context::new(client)?).await?,
        QuarantineCommand::Show(one) => show(one).await?,
        QuarantineCommand::Redrive(one) => {
            let context = Context::new(&one.client)?;
            let answer = context.client.command(&format!("{PATH}/{}/redrive", one.id)).await?;
            told(&context, &answer)?;
        }
        QuarantineCommand::Discard(one) => {
            let context = Context::new(&one.client)?;
            let answer = context.client.delete(&format!("{PATH}/{}", one.id)).await?;
            told(&context, &answer)?;
        }
    }
    Ok(Exit::Done)
}

/// Only whole ids: whoever discards should not guess.
fn parse_event_id(text: &str) -> Result<Uuid, String> {
    text.parse().map_err(|_| format!("`{}` is no whole id: write it as `orchestr8 quarantine list` shows it", text.escape_default()))
}

async fn list(limit: usize, context: &Context) -> Result<(), CommandError> {
    let mut events: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("limit", (limit - events.len()).min(PAGE_ROWS_MAX).to_string())];
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let mut answer = context.client.get(&with_query(PATH, &query)).await?;
        cursor = answer.get("next_cursor").and_then(Value::as_str).map(ToOwned::to_owned);
        if let Some(Value::Array(page)) = answer.get_mut("events").map(Value::take) {
            events.extend(page);
        }
        if cursor.is_none() || events.len() >= limit {
            break;
        }
    }
    let document = json!({ "events": events, "next_cursor": cursor });
    if context.format == Format::Json {
        return emit_json(&document);
    }
    let page: QuarantinePage = context.client.shaped(PATH, &document)?;
    if page.events.is_empty() {
        eprintln!("nothing is quarantined");
        return Ok(());
    }
    emit(&rows_text(&page, OffsetDateTime::now_utc()))?;
    if cursor.is_some() {
        eprintln!("there are more: raise --limit");
    }
    Ok(())
}

async fn show(one: &OneArgs) -> Result<(), CommandError> {
    let context = Context::new(&one.client)?;
    let path = format!("{PATH}/{}", one.id);
    let answer = context.client.get(&path).await?;
    match context.format {
        Format::Json => emit_json(&answer),
        Format::Text => emit(&event_lines(&context.client.shaped(&path, &answer)?)),
    }
}

fn told(context: &Context, answer: &Value) -> Result<(), CommandError> {
    let word = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    match context.format {
        Format::Json => emit_json(answer),
        Format::Text => emit(&harmless_line(&format!("{} {}", word("id"), word("status")))),
    }
}

fn rows_text(page: &QuarantinePage, now: OffsetDateTime) -> String {
    let rows = page.events.iter().map(|event| row(event, now)).collect();
    table(&["EVENT", "AGE", "KIND", "WORKFLOW", "TASK", "SEEN", "ERROR"], rows)
}

fn row(event: &QuarantinedEvent, now: OffsetDateTime) -> Vec<String> {
    let age = span(Some(event.created_at), None, now);
    let named = |name: &Option<String>, id: Option<Uuid>| name.clone().or(id.map(|id| id.to_string())).unwrap_or_default();
    let workflow = named(&event.workflow_name, event.workflow_id);
    let task = named(&event.task_name, event.task_id);
    vec![event.id.to_string(), age, event.kind.clone(), workflow, task, event.seen_count.to_string(), event.error.clone()]
}

fn event_lines(event: &QuarantinedEvent) -> String {
    let named = |id: Option<Uuid>, name: &Option<String>| id.map(|id| format!("{id} {}", name.as_deref().unwrap_or_default()));
    let redrive =
        if event.redrivable { format!("orchestr8 quarantine redrive {}", event.id) } else { "none: it comes again by itself".into() };
    let lines = [
        ("event", Some(event.id.to_string())),
        ("kind", Some(event.kind.clone())),
        ("workflow", named(event.workflow_id, &event.workflow_name)),
        ("task", named(event.task_id, &event.task_name)),
        ("error", Some(event.error.clone())),
        ("seen", Some(format!("{} x, first {}, last {}", event.seen_count, event.created_at, event.last_seen_at))),
        ("redrive", Some(redrive)),
    ];
    let shown = lines.into_iter().filter_map(|(name, value)| Some(format!("{name:<9} {}", harmless_line(&value?))));
    let content = harmless(&format!("{:#}", event.event));
    shown.chain([format!("content   {}", content.replace('\n', "\n          "))]).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> QuarantinePage {
        let event = json!({
            "id": Uuid::from_u128(1), "kind": "due", "workflow_id": Uuid::from_u128(2), "workflow_name": "nightly", "task_id": null,
            "error": "no\u{1b}[2J plan", "seen_count": 3, "redrivable": true, "created_at": "2026-01-31T12:00:00Z",
            "last_seen_at": "2026-01-31T12:00:09Z", "event": {"event": "due"},
        });
        serde_json::from_value(json!({ "events": [event] })).expect("a page")
    }

    #[test]
    fn the_beginning_of_an_id_is_refused_with_the_remedy() {
        assert!(parse_event_id("0199abcd").expect_err("a beginning").contains("whole id"));
        assert_eq!(parse_event_id("00000000-0000-0000-0000-000000000001"), Ok(Uuid::from_u128(1)));
    }

    #[test]
    fn a_list_is_a_table_and_one_entry_says_what_to_do() {
        let now = time::macros::datetime!(2026-01-31 12:02:05 UTC);
        let text = rows_text(&page(), now);
        let words: Vec<&str> = text.lines().nth(1).expect("a row").split_whitespace().collect();
        assert_eq!(words[1..], ["2m", "05s", "due", "nightly", "3", "no", "plan"], "{text}");
        let lines = event_lines(&page().events[0]);
        assert!(
            lines.contains("quarantine redrive 00000000-0000-0000-0000-000000000001") && lines.contains("\"event\": \"due\""),
            "{lines}"
        );
        let by_itself = QuarantinedEvent { redrivable: false, ..page().events[0].clone() };
        assert!(event_lines(&by_itself).contains("comes again by itself"));
    }
}
