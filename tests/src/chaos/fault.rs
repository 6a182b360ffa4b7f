//! What can go wrong, with whom, for how long, and how soon work must run again.

use crate::harness::proxy::Route;
use std::fmt;

/// How many coordinators there are all the time.
pub const COORDINATORS: usize = 2;
/// The place of the one that joins and leaves.
pub const GUEST: usize = COORDINATORS;
/// How many executors there are: the fewest whose common silence is held back.
pub const EXECUTORS: usize = 3;

/// Something that can be struck; two faults at once strike different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spot {
    /// By its place.
    Coordinator(usize),
    /// By its place.
    Executor(usize),
    /// nats-server; of a cluster, all of it.
    Nats,
    /// One nats-server of a cluster, by its place.
    Server(usize),
    /// Postgres.
    Postgres,
}

/// A way between processes and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    /// Of one coordinator alone.
    CoordinatorToNats(usize),
    /// Of one coordinator alone.
    CoordinatorToPostgres(usize),
    /// Of one executor alone.
    ExecutorToNats(usize),
    /// Of all coordinators.
    CoordinatorsToNats,
    /// Of all coordinators.
    CoordinatorsToPostgres,
    /// Of all executors.
    ExecutorsToNats,
    /// Of one nats-server to the others.
    ServerToServers(usize),
}

/// How the guest leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// SIGTERM: it hands over what it owns.
    Orderly,
    /// SIGKILL.
    Sudden,
}

/// What goes wrong; each is healed after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; healed by a start.
    Kill(Spot),
    /// SIGSTOP; healed by SIGCONT.
    Pause(Spot),
    /// An orderly end; healed by a start.
    Stop(Spot),
    /// A partition.
    Cut(Line, Route),
    /// A store of JetStream is gone, or all of them; healed by a start.
    Wipe(Spot),
    /// At this sequence of the listing, a stream is deleted.
    DeleteStream(&'static str),
    /// Any consumer of a stream is deleted.
    DeleteConsumer(&'static str),
    /// A nats-server is killed and the end of the stream's last block is cut off, as by a power failure; healed by a start.
    CutTail(&'static str, Spot),
    /// One more coordinator joins; healing lets it leave. Shards are handed over both times.
    Visit(Leave),
    /// The lane's sessions are ended in mid-statement.
    EndSessions,
    /// Healing replaces the database by a copy taken when this struck, as an asynchronous replica that takes over.
    RestoreDatabase,
}

/// A fault with its duration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strike {
    /// Which.
    pub fault: Fault,
    /// From the round's begin, in bases.
    pub after: f64,
    /// Until it is healed, in bases.
    pub hold: f64,
}

impl Fault {
    /// What it strikes. One server of a cluster counts as all of it, so that two at once do not take the majority.
    #[must_use]
    pub fn spots(self) -> Vec<Spot> {
        match self {
            Self::Kill(Spot::Server(_))
            | Self::Pause(Spot::Server(_))
            | Self::Stop(Spot::Server(_))
            | Self::Cut(Line::ServerToServers(_), _)
            | Self::Wipe(_)
            | Self::DeleteStream(_)
            | Self::DeleteConsumer(_)
            | Self::CutTail(..) => vec![Spot::Nats],
            Self::Kill(spot) | Self::Pause(spot) | Self::Stop(spot) => vec![spot],
            Self::Cut(Line::CoordinatorToNats(number) | Line::CoordinatorToPostgres(number), _) => vec![Spot::Coordinator(number)],
            Self::Cut(Line::ExecutorToNats(number), _) => vec![Spot::Executor(number)],
            Self::Cut(Line::CoordinatorsToNats | Line::CoordinatorsToPostgres, _) => (0..COORDINATORS).map(Spot::Coordinator).collect(),
            Self::Cut(Line::ExecutorsToNats, _) => (0..EXECUTORS).map(Spot::Executor).collect(),
            Self::Visit(_) => vec![Spot::Coordinator(GUEST)],
            Self::EndSessions | Self::RestoreDatabase => vec![Spot::Postgres],
        }
    }

    /// The executor whose runs may be lost by it, because it alone cannot be heard.
    #[must_use]
    pub const fn silences(self) -> Option<usize> {
        match self {
            Self::Kill(Spot::Executor(number)) | Self::Pause(Spot::Executor(number)) | Self::Cut(Line::ExecutorToNats(number), _) => {
                Some(number)
            }
            Self::Kill(_)
            | Self::Pause(_)
            | Self::Stop(_)
            | Self::Cut(..)
            | Self::Wipe(_)
            | Self::DeleteStream(_)
            | Self::DeleteConsumer(_)
            | Self::CutTail(..)
            | Self::Visit(_)
            | Self::EndSessions
            | Self::RestoreDatabase => None,
        }
    }

    /// Whether any executor may be silent for it alone: those that are connected to a server that stands still or is cut off.
    #[must_use]
    pub const fn silences_some(self) -> bool {
        matches!(self, Self::Pause(Spot::Server(_)) | Self::Cut(Line::ServerToServers(_), _))
    }

    /// Which executor loses the runs that it has: it is silent, or asked to go.
    #[must_use]
    pub const fn takes_runs_of(self) -> Option<usize> {
        if let Self::Stop(Spot::Executor(number)) = self { Some(number) } else { self.silences() }
    }

    /// Whether nothing can run until it is healed: then recovery is counted from there.
    #[must_use]
    pub const fn blocks(self) -> bool {
        match self {
            Self::Kill(spot) | Self::Pause(spot) | Self::Stop(spot) => matches!(spot, Spot::Nats | Spot::Postgres),
            Self::Cut(line, _) => matches!(line, Line::CoordinatorsToNats | Line::CoordinatorsToPostgres | Line::ExecutorsToNats),
            Self::Wipe(spot) | Self::CutTail(_, spot) => matches!(spot, Spot::Nats),
            Self::RestoreDatabase => true,
            Self::DeleteStream(_) | Self::DeleteConsumer(_) | Self::EndSessions | Self::Visit(_) => false,
        }
    }

    /// From when to when it lasts, in bases. A pause outlasts the lease of its victim (10 of a
    /// coordinator, 15 of an executor), and a coordinator is cut off for longer than work may stand still for it.
    #[must_use]
    pub const fn hold(self) -> (f64, f64) {
        match self {
            Self::Kill(Spot::Coordinator(_)) => (0.0, 15.0),
            Self::Kill(Spot::Executor(_) | Spot::Server(_)) => (0.0, 10.0),
            Self::Kill(Spot::Nats | Spot::Postgres) => (0.0, 8.0),
            Self::Pause(Spot::Coordinator(_)) | Self::RestoreDatabase | Self::Visit(_) => (12.0, 20.0),
            Self::Pause(Spot::Executor(_) | Spot::Nats | Spot::Server(_) | Spot::Postgres) => (18.0, 25.0),
            Self::Stop(_) | Self::Wipe(_) | Self::CutTail(..) => (0.0, 3.0),
            Self::Cut(Line::CoordinatorToNats(_) | Line::CoordinatorToPostgres(_), _) => (20.0, 30.0),
            Self::Cut(Line::ExecutorToNats(_) | Line::ServerToServers(_), _) => (18.0, 30.0),
            Self::Cut(Line::CoordinatorsToNats | Line::ExecutorsToNats | Line::CoordinatorsToPostgres, _) => (30.0, 30.0),
            Self::DeleteStream(_) | Self::DeleteConsumer(_) | Self::EndSessions => (0.0, 0.0),
        }
    }

    /// Within how many bases work runs again when it strikes alone.
    #[must_use]
    pub const fn bound(self) -> f64 {
        match self {
            Self::Stop(Spot::Coordinator(_) | Spot::Executor(_)) | Self::Visit(Leave::Orderly) => 5.0,
            Self::Kill(Spot::Coordinator(_))
            | Self::Pause(Spot::Coordinator(_))
            | Self::Visit(Leave::Sudden)
            | Self::Cut(Line::CoordinatorToNats(_) | Line::CoordinatorToPostgres(_), _) => 15.0,
            Self::Kill(_)
            | Self::Pause(_)
            | Self::Stop(_)
            | Self::Cut(..)
            | Self::Wipe(_)
            | Self::DeleteStream(_)
            | Self::DeleteConsumer(_)
            | Self::CutTail(..)
            | Self::EndSessions
            | Self::RestoreDatabase => 20.0,
        }
    }

    /// Its kind, without the number of its victim.
    #[must_use]
    pub fn kind(self) -> String {
        self.to_string().replace(|letter: char| letter.is_ascii_digit(), "").replace('-', "")
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(number) => write!(f, "coordinator-{number}"),
            Self::Executor(number) => write!(f, "executor-{number}"),
            Self::Nats => f.write_str("nats"),
            Self::Server(number) => write!(f, "server-{number} of nats"),
            Self::Postgres => f.write_str("postgres"),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CoordinatorToNats(number) => write!(f, "coordinator-{number} from nats"),
            Self::CoordinatorToPostgres(number) => write!(f, "coordinator-{number} from postgres"),
            Self::ExecutorToNats(number) => write!(f, "executor-{number} from nats"),
            Self::CoordinatorsToNats => f.write_str("all coordinators from nats"),
            Self::CoordinatorsToPostgres => f.write_str("all coordinators from postgres"),
            Self::ExecutorsToNats => f.write_str("all executors from nats"),
            Self::ServerToServers(number) => write!(f, "server-{number} of nats from the others"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(spot) => write!(f, "kill {spot}"),
            Self::Pause(spot) => write!(f, "pause {spot}"),
            Self::Stop(spot) => write!(f, "stop {spot}"),
            Self::Cut(line, Route::Closed) => write!(f, "reset {line}"),
            Self::Cut(line, Route::Slow(_)) => write!(f, "slow {line}"),
            Self::Cut(line, Route::Silent | Route::Open) => write!(f, "cut {line}"),
            Self::Wipe(spot) => write!(f, "wipe {spot}"),
            Self::DeleteStream(stream) => write!(f, "delete {}", short(stream)),
            Self::DeleteConsumer(stream) => write!(f, "delete a consumer of {}", short(stream)),
            Self::CutTail(stream, spot) => write!(f, "cut the tail of {} at {spot}", short(stream)),
            Self::Visit(Leave::Orderly) => f.write_str("a coordinator joins and stops"),
            Self::Visit(Leave::Sudden) => f.write_str("a coordinator joins and dies"),
            Self::EndSessions => f.write_str("end sessions"),
            Self::RestoreDatabase => f.write_str("restore postgres"),
        }
    }
}

/// `orchestr8` has a digit, which is no victim's number.
fn short(stream: &str) -> String {
    stream.rsplit('_').next().unwrap_or(stream).to_lowercase()
}
