//! Which workflow or task an id or the beginning of one means.

use super::CommandError;
use super::context::Context;
use crate::client::shapes::{TaskPage, Workflow};
use orchestr8_proto::ids::{ExecutionId, TaskId};
use serde_json::Value;
use std::fmt;
use uuid::Uuid;

/// Shortest beginning of an id that is looked up, in hexadecimal digits: what the API asks for.
const PREFIX_DIGITS_MIN: usize = 8;
/// The name of the workflow that a single task belongs to.
const SINGLE_TASK: &str = "task";

/// An id as it was given: whole, or its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GivenId {
    /// A whole workflow id.
    Workflow(ExecutionId),
    /// A whole task id.
    Task(TaskId),
    /// The beginning of either.
    Prefix(String),
}

/// What an id means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A workflow execution.
    Workflow(ExecutionId),
    /// A task.
    Task(TaskId),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workflow(id) => id.fmt(f),
            Self::Task(id) => id.fmt(f),
        }
    }
}

impl Target {
    /// The path of its resource.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Workflow(id) => format!("/api/v1/workflows/{id}"),
            Self::Task(id) => format!("/api/v1/tasks/{id}"),
        }
    }
}

/// Reads an id from the command line: a whole id says by itself what it is the id of.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_id(text: &str) -> Result<GivenId, String> {
    if let Ok(uuid) = Uuid::parse_str(text) {
        let task = TaskId::try_from(uuid).map(GivenId::Task);
        return task.or_else(|_| ExecutionId::try_from(uuid).map(GivenId::Workflow)).map_err(|error| error.to_string());
    }
    parse_prefix(text).map(GivenId::Prefix)
}

/// Reads a whole id or the beginning of one, whatever it is the id of.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_prefix(text: &str) -> Result<String, String> {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let is_prefix = (PREFIX_DIGITS_MIN..=32).contains(&digits) && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if is_prefix {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!("`{}` is no id: use a whole id or at least its first {PREFIX_DIGITS_MIN} digits", text.escape_default()))
    }
}

impl Context {
    /// Finds what the id means; a beginning is looked for among workflows, then among tasks.
    ///
    /// The beginning of a single task's id is that of its workflow too: it means the task.
    ///
    /// # Errors
    /// [`CommandError::Client`]: nothing, or more than one, starts like this.
    pub async fn resolve(&self, given: &GivenId) -> Result<Target, CommandError> {
        let prefix = match given {
            GivenId::Workflow(id) => return Ok(Target::Workflow(*id)),
            GivenId::Task(id) => return Ok(Target::Task(*id)),
            GivenId::Prefix(prefix) => prefix,
        };
        let path = format!("/api/v1/workflows/{prefix}");
        match self.client.get(&path).await {
            Ok(answer) => self.task_of_single(self.client.shaped(&path, &answer)?).await,
            Err(error) if error.is_not_found() => self.resolve_task(prefix).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn task_of_single(&self, workflow: Workflow) -> Result<Target, CommandError> {
        let id = workflow.workflow_id;
        if workflow.workflow_name != SINGLE_TASK {
            return Ok(Target::Workflow(id));
        }
        let path = format!("/api/v1/workflows/{id}/tasks");
        let page: TaskPage = self.client.shaped(&path, &self.client.get(&path).await?)?;
        match page.tasks.as_slice() {
            [task] => Ok(Target::Task(task.task_id)),
            _ => Ok(Target::Workflow(id)),
        }
    }

    async fn resolve_task(&self, prefix: &str) -> Result<Target, CommandError> {
        let path = format!("/api/v1/tasks/{prefix}");
        let answer = self.client.get(&path).await?;
        let id = self.client.shaped::<TaskOnly>(&path, &answer)?;
        Ok(Target::Task(id.task_id))
    }

    /// The whole answer about the target.
    ///
    /// # Errors
    /// [`CommandError::Client`].
    pub async fn about(&self, target: Target) -> Result<Value, CommandError> {
        Ok(self.client.get(&target.path()).await?)
    }
}

/// The id of a task or workflow, or the beginning of one, that a path of the API asks about.
#[must_use]
pub fn asked_id(path: &str) -> Option<&str> {
    let below = ["/api/v1/tasks/", "/api/v1/workflows/"].iter().find_map(|above| path.strip_prefix(above))?;
    below.split(['/', '?']).next().filter(|id| parse_prefix(id).is_ok())
}

/// What is said of an id, or the beginning of one, that nothing has.
#[must_use]
pub fn nothing_has(id: &str) -> String {
    let whole = if Uuid::parse_str(id).is_ok() { "the id" } else { "an id that starts with" };
    format!(
        "no workflow and no task has {whole} `{id}`: it may be of another installation, or gone; \
         `orchestr8 list` and `orchestr8 list --workflows` show what is there"
    )
}

#[derive(serde::Deserialize)]
struct TaskOnly {
    task_id: TaskId,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientError;
    use crate::client::problem::Problem;

    #[test]
    fn whole_ids_say_what_they_are() {
        let workflow = ExecutionId::generate(1_700_000_000_000, 3, &mut rand::rng());
        assert_eq!(parse_id(&workflow.to_string()), Ok(GivenId::Workflow(workflow)));
        assert_eq!(parse_id(&workflow.task(4).to_string()), Ok(GivenId::Task(workflow.task(4))));
    }

    #[test]
    fn an_id_that_nothing_has_is_told_without_a_path() {
        let id = ExecutionId::generate(1_700_000_000_000, 3, &mut rand::rng()).to_string();
        for path in [format!("/api/v1/tasks/{id}/result?wait=5ms"), format!("/api/v1/workflows/{id}")] {
            assert_eq!(asked_id(&path), Some(id.as_str()));
            let problem = Problem { status: 404, path, detail: "there is no task".into(), ..Problem::default() };
            let error = CommandError::from(ClientError::Refused(Box::new(problem))).to_string();
            assert!(error.starts_with(&format!("no workflow and no task has the id `{id}`: ")), "{error}");
        }
        assert!(nothing_has("0199abcd").starts_with("no workflow and no task has an id that starts with `0199abcd`: "));
        assert_eq!((asked_id("/api/v1/executors/0199abcd"), asked_id("/api/v1/tasks?limit=5")), (None, None));
    }

    #[test]
    fn beginnings_have_at_least_eight_digits_and_nothing_else() {
        assert_eq!(parse_id("0199ABCD-12"), Ok(GivenId::Prefix("0199abcd-12".to_owned())));
        for text in ["0199abc", "0199-abc", "0199abcdz", "../../etc", "", "task", &"a".repeat(33)] {
            assert!(parse_id(text).is_err(), "{text}");
        }
    }
}
