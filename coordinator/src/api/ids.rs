//! Ids in paths: whole, or the first hex digits of one.

use super::ApiContext;
use super::problem::{Code, Problem};
use orchestr8_proto::ids::{ExecutionId, TaskId};
use orchestr8_store::read::{IdRange, PrefixMatch, executions, quarantine, tasks};
use serde_json::json;
use uuid::Uuid;

/// Hex digits of a prefix, at least.
pub const PREFIX_DIGITS_MIN: usize = 8;
const ID_DIGITS: usize = 32;

/// What a path says about an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Whole(Uuid),
    Prefix(IdRange),
}

/// The task that a path means.
///
/// # Errors
/// [`Code::BadId`], [`Code::NotFound`] or [`Code::AmbiguousId`].
pub async fn task(context: &ApiContext, text: &str) -> Result<TaskId, Problem> {
    let uuid = match given(text)? {
        Given::Whole(uuid) => uuid,
        Given::Prefix(range) => only_one(tasks::matching(&context.reads, range).await?, "task", text)?,
    };
    if let Ok(id) = TaskId::try_from(uuid) {
        return Ok(id);
    }
    // Any UUID has the form of one of the two: only an id that there is says what somebody took for what.
    let is_workflow = executions::status(&context.reads, ExecutionId(uuid)).await?.is_some();
    let remedy = "is the id of a workflow, not of a task; its tasks are under /api/v1/workflows/{id}/tasks";
    Err(if is_workflow { bad(text, remedy) } else { Problem::not_found("task", text) })
}

/// The workflow execution that a path means.
///
/// # Errors
/// [`Code::BadId`], [`Code::NotFound`] or [`Code::AmbiguousId`].
pub async fn execution(context: &ApiContext, text: &str) -> Result<ExecutionId, Problem> {
    let uuid = match given(text)? {
        Given::Whole(uuid) => uuid,
        Given::Prefix(range) => only_one(executions::matching(&context.reads, range).await?, "workflow", text)?,
    };
    if let Ok(id) = ExecutionId::try_from(uuid) {
        return Ok(id);
    }
    let is_task = tasks::brief(&context.reads, TaskId(uuid)).await?.is_some();
    let remedy = "is the id of a task, not of a workflow; GET /api/v1/tasks/{id} names its workflow";
    Err(if is_task { bad(text, remedy) } else { Problem::not_found("workflow", text) })
}

/// The quarantined event that a path means.
///
/// # Errors
/// [`Code::BadId`], [`Code::NotFound`] or [`Code::AmbiguousId`].
pub async fn quarantined(context: &ApiContext, text: &str) -> Result<Uuid, Problem> {
    match given(text)? {
        Given::Whole(uuid) => Ok(uuid),
        Given::Prefix(range) => only_one(quarantine::matching(&context.reads, range).await?, "quarantined event", text),
    }
}

/// The same where the event is to be forgotten: whole ids only, since nobody should forget what only looks alike.
///
/// # Errors
/// [`Code::BadId`].
pub fn quarantined_whole(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| bad(text, "is not the whole id of a quarantined event: pass a UUID, as GET /api/v1/quarantine shows it"))
}

fn given(text: &str) -> Result<Given, Problem> {
    let digits = text.replace('-', "");
    let remedy = format!("is not an id: pass a UUID, or at least its first {PREFIX_DIGITS_MIN} hex digits");
    let range = IdRange::of_prefix(&digits).filter(|_| digits.len() >= PREFIX_DIGITS_MIN).ok_or_else(|| bad(text, &remedy))?;
    Ok(if digits.len() == ID_DIGITS { Given::Whole(range.first) } else { Given::Prefix(range) })
}

fn only_one(found: PrefixMatch, what: &str, text: &str) -> Result<Uuid, Problem> {
    match found {
        PrefixMatch::None => Err(Problem::not_found(what, text)),
        PrefixMatch::One(id) => Ok(id),
        PrefixMatch::Many(candidates) => {
            let detail = format!("more than one {what} starts with `{text}`: pass more digits");
            Err(Problem::new(Code::AmbiguousId, detail).at("id").with_value(&json!(text)).with_candidates(candidates))
        }
    }
}

fn bad(text: &str, what: &str) -> Problem {
    Problem::new(Code::BadId, format!("`{text}` {what}")).at("id").with_value(&json!(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestr8_store::read::Candidate;

    #[test]
    fn an_id_is_whole_or_a_prefix() {
        let whole = "0190ab12-0000-7000-8000-000000000001";
        assert_eq!(given(whole), Ok(Given::Whole(whole.parse().expect("a UUID"))));
        assert_eq!(given("0190AB12-00"), Ok(Given::Prefix(IdRange::of_prefix("0190ab1200").expect("hex"))));
        for bad in ["", "0190ab1", "0190ab1g", "0190ab12-0000-7000-8000-0000000000011", "latest"] {
            assert_eq!(given(bad).map_err(|problem| problem.code()), Err(Code::BadId), "{bad}");
        }
    }

    #[test]
    fn an_ambiguous_prefix_names_its_candidates() {
        let candidate = |number, name: &str| {
            let created_at = time::macros::datetime!(2026-01-31 12:00 UTC);
            Candidate { id: Uuid::from_u128(number), name: name.into(), created_at }
        };
        let two = vec![candidate(2, "test"), candidate(1, "build")];
        let problem = only_one(PrefixMatch::Many(two), "task", "00000000").expect_err("ambiguous");
        assert_eq!(problem.code(), Code::AmbiguousId);
        let said = format!("{problem:?}");
        assert!(said.contains(&Uuid::from_u128(2).to_string()) && said.contains("build") && said.contains("2026-01-31"), "{said}");
    }
}
