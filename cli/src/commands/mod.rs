//! The client commands: each asks a coordinator, writes what it got to stdout, and talks on stderr.
//!
//! - [`context`]: connection and output of every command
//! - [`target`]: which workflow or task an id or prefix means
//! - [`values`]: `NAME=VALUE`, JSON values, numbers and times on the command line
//! - [`run`], [`task`], [`batch`]: submit; [`watch`], [`wait`]: follow
//! - [`show`], [`logs`], [`list`]: look; [`cancel`]: end
//! - [`definition`]: `validate`, `graph`, `definitions`
//! - [`quarantine`]: events that could not be applied
//! - [`nats_accounts`]: `nats-accounts`, the rights of a nats-server's users
//! - [`why`]: what a task waits for; [`queues`], [`executors`], [`shards`], [`doctor`], [`log_level`]: for operators

pub mod batch;
pub mod cancel;
pub mod context;
pub mod definition;
pub mod doctor;
pub mod executors;
pub mod list;
pub mod log_level;
pub mod logs;
pub mod nats_accounts;
pub mod quarantine;
pub mod queues;
pub mod run;
pub mod shards;
pub mod show;
pub mod target;
pub mod task;
pub mod values;
pub mod wait;
pub mod watch;
pub mod why;

use crate::client::ClientError;
use crate::client::address::AddressError;
use crate::exit::Exit;
use std::path::PathBuf;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The coordinator cannot be asked, or refused.
    #[error(transparent)]
    Client(ClientError),
    /// Nothing says where the coordinator is, or what opens it.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Something on the command line does not fit; the caller must correct it.
    #[error("{0}")]
    Usage(String),
    /// The inputs do not fit the definition, which were compared here; the caller must correct them.
    #[error("{0}")]
    Input(String),
    /// There is nothing of that id; the caller must look for another.
    #[error("{0}")]
    Unknown(String),
    /// A file cannot be read.
    #[error("{}: it cannot be read ({reason})", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The definition in a file has mistakes, which were printed.
    #[error("{file}: {}; {undone}", crate::text::counted(*count, "mistake"))]
    Definition {
        /// The file.
        file: String,
        /// How many.
        count: usize,
        /// What was not done because of them.
        undone: definition::Undone,
    },
    /// stdout does not take what is written.
    #[error("the output cannot be written: {0}")]
    Output(std::io::Error),
}

impl From<ClientError> for CommandError {
    /// An id that nothing has is told in the words of the command line: what the coordinator says names a path of the API, and
    /// whether a task or a workflow was meant only the caller knows.
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(problem) if problem.status == 404 => match target::asked_id(&problem.path) {
                Some(id) => Self::Unknown(target::nothing_has(id)),
                None => Self::Client(ClientError::Refused(problem)),
            },
            other => Self::Client(other),
        }
    }
}

impl CommandError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Client(ClientError::Unreachable { .. } | ClientError::Foreign { .. } | ClientError::Setup(_))
            | Self::Address(AddressError::DevStopped { .. }) => Exit::Unavailable,
            Self::Client(ClientError::Refused(problem)) if problem.status == 503 => Exit::Unavailable,
            Self::Client(ClientError::Plain { .. } | ClientError::Unauthorized { .. } | ClientError::Authorities(_)) | Self::Address(_) => {
                Exit::Configuration
            }
            Self::Usage(_) | Self::File { .. } => Exit::Usage,
            // Whoever reads has seen enough, as `head` does.
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Client(ClientError::Refused(_) | ClientError::Malformed { .. })
            | Self::Input(_)
            | Self::Unknown(_)
            | Self::Definition { .. }
            | Self::Output(_) => Exit::Failed,
        }
    }

    /// Says on stderr what happened: one line, then one line per mistake with its place.
    pub fn tell(&self) {
        if self.exit() == Exit::Done {
            return;
        }
        eprintln!("error: {}", crate::text::harmless(&self.to_string()));
        if let Self::Client(ClientError::Refused(problem)) = self {
            for line in problem.lines(None) {
                eprintln!("  {line}");
            }
        }
    }
}
