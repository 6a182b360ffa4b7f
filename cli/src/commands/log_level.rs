//! `log-level`: what a coordinator or an executor logs, shown and changed while it runs.

use super::CommandError;
use super::context::{ClientArgs, Context, Format, emit, emit_json};
use crate::client::operating::{Executor, LogLevel};
use crate::exit::Exit;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

const PATH: &str = "/api/v1/log-level";
const EXECUTORS: &str = "/api/v1/executors";

/// Show or change what the coordinator at --url logs, or an executor: until its process ends.
///
/// Several coordinators each have their own: name each with --url.
#[derive(Debug, clap::Args)]
pub struct LogLevelArgs {
    /// off, error, warn, info, debug or trace, or levels by module such as `orchestr8_coordinator=debug,info` [default: show what is logged].
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    /// Of this executor instead, by its name or incarnation.
    #[arg(long, value_name = "EXECUTOR")]
    executor: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Shows or changes it. An executor's is answered when its heartbeat shows it.
///
/// # Errors
/// [`CommandError`].
pub async fn log_level(args: &LogLevelArgs) -> Result<Exit, CommandError> {
    let context = Context::new(&args.client)?;
    match &args.executor {
        None => of_coordinator(&context, args.filter.as_deref()).await?,
        Some(name) => of_executors(&context, name, args.filter.as_deref()).await?,
    }
    Ok(Exit::Done)
}

async fn of_coordinator(context: &Context, filter: Option<&str>) -> Result<(), CommandError> {
    let answer = match filter {
        None => context.client.get(PATH).await?,
        Some(filter) => context.client.put(PATH, &json!({ "filter": filter })).await?,
    };
    if context.format == Format::Json {
        return emit_json(&answer);
    }
    let level: LogLevel = context.client.shaped(PATH, &answer)?;
    emit(&format!("{} {}", level.coordinator, level.filter))
}

async fn of_executors(context: &Context, name: &str, filter: Option<&str>) -> Result<(), CommandError> {
    let path = format!("{EXECUTORS}/{}/log-level", utf8_percent_encode(name, NON_ALPHANUMERIC));
    let answer = match filter {
        None => named(context.client.get(EXECUTORS).await?, name)?,
        Some(filter) => context.client.put(&path, &json!({ "filter": filter })).await?,
    };
    if context.format == Format::Json {
        return emit_json(&answer);
    }
    let executor: Executor = context.client.shaped(&path, &answer)?;
    emit(&format!("{} {}", executor.executor_id, executor.log_filter))
}

/// The executor of this name or incarnation, of all that are heard.
fn named(mut all: Value, name: &str) -> Result<Value, CommandError> {
    let unknown = || CommandError::Unknown(format!("there is no executor `{name}`: `orchestr8 executors list` shows those that are heard"));
    let executors = all["executors"].as_array_mut().ok_or_else(unknown)?;
    let found = executors.iter().position(|executor| executor["executor_id"] == name || executor["incarnation"] == name);
    Ok(executors.swap_remove(found.ok_or_else(unknown)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executor_is_known_by_its_name_or_incarnation() {
        let all = json!({ "executors": [{ "executor_id": "a", "incarnation": "1" }, { "executor_id": "b", "incarnation": "2" }] });
        assert_eq!(named(all.clone(), "b").expect("a name")["incarnation"], "2");
        assert_eq!(named(all.clone(), "1").expect("an incarnation")["executor_id"], "a");
        assert!(named(all, "c").expect_err("nobody").to_string().contains("no executor `c`"));
    }
}
