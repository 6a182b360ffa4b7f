//! Exit codes: how a script or a coding agent learns what happened.

use std::process::ExitCode;

/// How the process ends. Codes from 64 are those of BSD's sysexits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked; the work that was waited for completed.
    Done,
    /// The work failed or was cancelled, or the request was refused.
    Failed,
    /// The command line cannot be understood, or names a file that cannot be read: nothing was asked for.
    Usage,
    /// A flag, variable or file has a wrong value, or a token or login is missing or refused.
    Configuration,
    /// The coordinator, Postgres or NATS cannot be reached or used.
    Unavailable,
    /// The time given for waiting is over; the work goes on.
    TimedOut,
    /// Ctrl-C: by custom 128 and the number of the signal.
    Interrupted,
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Configuration => 64,
            Self::Unavailable => 69,
            Self::TimedOut => 124,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table at the end of `--help`.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
  0    done; the work that was waited for completed
  1    the work failed or was cancelled, or the request was refused
  2    the command line cannot be understood, or a file that it names cannot be read
  64   wrong configuration, or a token or login that is missing or refused
  69   the coordinator, Postgres or NATS cannot be reached
  124  the time given for waiting is over; the work goes on
  130  ended by Ctrl-C; what was submitted goes on
docs/commands.md says what 1 and 2 mean for each command.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_code() {
        for exit in [Exit::Done, Exit::Failed, Exit::Usage, Exit::Configuration, Exit::Unavailable, Exit::TimedOut, Exit::Interrupted] {
            assert!(EXIT_CODES_HELP.contains(&format!("\n  {:<4} ", exit.code())), "{exit:?}");
        }
    }
}
