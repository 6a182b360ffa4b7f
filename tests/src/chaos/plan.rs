//! Which faults there are, in what order a seed draws them, and how soon work must run again.

use super::draws::Draws;
use super::proxy::Route;
use orchestr8_proto::names;
use std::fmt;

/// How many coordinators there are.
pub const COORDINATORS: usize = 2;
/// How many executors there are: the fewest whose common silence is held back.
pub const EXECUTORS: usize = 3;
/// One round in so many has two faults at once.
const OVERLAP_ONE_IN: usize = 4;
/// The second of two faults strikes within this after the first, in bases.
const SECOND_WITHIN: (f64, f64) = (0.0, 5.0);

/// Something that can be struck; two faults at once strike different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spot {
    /// By its place.
    Coordinator(usize),
    /// By its place.
    Executor(usize),
    /// nats-server.
    Nats,
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
    /// The whole JetStream store is gone; healed by a start.
    WipeNats,
    /// At this sequence of the listing, a stream is deleted.
    DeleteStream(&'static str),
    /// Any consumer of a stream is deleted.
    DeleteConsumer(&'static str),
    /// nats-server is killed and the end of the stream's last block is cut off, as by a power failure; healed by a start.
    CutTail(&'static str),
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

/// One fault, or two at once; the next round begins when work runs again.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// One or two.
    pub strikes: Vec<Strike>,
}

/// The rounds of a seed, without end.
#[derive(Debug)]
pub struct Rounds {
    draws: Draws,
    deck: Vec<Fault>,
}

impl Rounds {
    /// From the first.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { draws: Draws::new(seed), deck: Vec::new() }
    }

    /// A fault that strikes other things than `first`. Two silent executors at once are drawn on purpose: chance seldom gives them.
    fn beside(&mut self, first: Fault) -> Fault {
        if let Some(executor) = first.silences()
            && self.draws.below(2) == 0
        {
            let other = (executor + 1 + self.draws.below(EXECUTORS - 1)) % EXECUTORS;
            let spot = Spot::Executor(other);
            return *self.draws.one(&[Fault::Kill(spot), Fault::Pause(spot), Fault::Cut(Line::ExecutorToNats(other), Route::Silent)]);
        }
        let taken = first.spots();
        let fits = |fault: &Fault| fault.spots().iter().all(|spot| !taken.contains(spot));
        if !self.deck.iter().any(fits) {
            self.shuffle_in();
        }
        let place = self.deck.iter().rposition(fits).expect("a whole deck has faults of every spot");
        self.deck.remove(place)
    }

    /// Every kind comes once before any comes twice.
    fn deal(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.shuffle_in();
        }
        self.deck.pop().expect("it was just filled")
    }

    /// One more of each kind, below what is left.
    fn shuffle_in(&mut self) {
        let mut fresh = kinds(&mut self.draws);
        self.draws.shuffle(&mut fresh);
        fresh.append(&mut self.deck);
        self.deck = fresh;
    }
}

impl Iterator for Rounds {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let fault = self.deal();
        let mut strikes = vec![Strike { fault, after: 0.0, hold: self.draws.between(fault.hold()) }];
        if self.draws.below(OVERLAP_ONE_IN) == 0 {
            let fault = self.beside(fault);
            strikes.push(Strike { fault, after: self.draws.between(SECOND_WITHIN), hold: self.draws.between(fault.hold()) });
        }
        Some(Round { strikes })
    }
}

/// One of each kind, its victim drawn.
fn kinds(draws: &mut Draws) -> Vec<Fault> {
    let coordinators = [(); 5].map(|()| draws.below(COORDINATORS));
    let executors = [(); 4].map(|()| draws.below(EXECUTORS));
    let mut route = || *draws.one(&[Route::Silent, Route::Closed]);
    vec![
        Fault::Kill(Spot::Coordinator(coordinators[0])),
        Fault::Kill(Spot::Coordinator(1 - coordinators[0])),
        Fault::Kill(Spot::Executor(executors[0])),
        Fault::Kill(Spot::Nats),
        Fault::Kill(Spot::Postgres),
        Fault::Pause(Spot::Coordinator(coordinators[1])),
        Fault::Pause(Spot::Coordinator(1 - coordinators[1])),
        Fault::Pause(Spot::Executor(executors[1])),
        Fault::Pause(Spot::Nats),
        Fault::Stop(Spot::Coordinator(coordinators[2])),
        Fault::Stop(Spot::Executor(executors[2])),
        Fault::Stop(Spot::Nats),
        Fault::Stop(Spot::Postgres),
        Fault::Cut(Line::CoordinatorToNats(coordinators[3]), route()),
        Fault::Cut(Line::CoordinatorToNats(1 - coordinators[3]), route()),
        Fault::Cut(Line::CoordinatorToPostgres(coordinators[4]), route()),
        Fault::Cut(Line::CoordinatorToPostgres(1 - coordinators[4]), route()),
        Fault::Cut(Line::ExecutorToNats(executors[3]), route()),
        Fault::Cut(Line::CoordinatorsToNats, route()),
        Fault::Cut(Line::CoordinatorsToPostgres, route()),
        Fault::Cut(Line::ExecutorsToNats, route()),
        Fault::WipeNats,
        Fault::DeleteStream(names::TASKS_STREAM),
        Fault::DeleteStream(names::OUTCOMES_STREAM),
        Fault::DeleteConsumer(names::TASKS_STREAM),
        Fault::DeleteConsumer(names::OUTCOMES_STREAM),
        Fault::CutTail(names::TASKS_STREAM),
        Fault::CutTail(names::OUTCOMES_STREAM),
        Fault::EndSessions,
        Fault::RestoreDatabase,
    ]
}

impl Fault {
    /// What it strikes.
    #[must_use]
    pub fn spots(self) -> Vec<Spot> {
        match self {
            Self::Kill(spot) | Self::Pause(spot) | Self::Stop(spot) => vec![spot],
            Self::Cut(Line::CoordinatorToNats(number) | Line::CoordinatorToPostgres(number), _) => vec![Spot::Coordinator(number)],
            Self::Cut(Line::ExecutorToNats(number), _) => vec![Spot::Executor(number)],
            Self::Cut(Line::CoordinatorsToNats | Line::CoordinatorsToPostgres, _) => (0..COORDINATORS).map(Spot::Coordinator).collect(),
            Self::Cut(Line::ExecutorsToNats, _) => (0..EXECUTORS).map(Spot::Executor).collect(),
            Self::WipeNats | Self::DeleteStream(_) | Self::DeleteConsumer(_) | Self::CutTail(_) => vec![Spot::Nats],
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
            | Self::WipeNats
            | Self::DeleteStream(_)
            | Self::DeleteConsumer(_)
            | Self::CutTail(_)
            | Self::EndSessions
            | Self::RestoreDatabase => None,
        }
    }

    /// Whether nothing can run until it is healed: then recovery is counted from there.
    #[must_use]
    pub const fn blocks(self) -> bool {
        match self {
            Self::Kill(spot) | Self::Pause(spot) | Self::Stop(spot) => matches!(spot, Spot::Nats | Spot::Postgres),
            Self::Cut(line, _) => matches!(line, Line::CoordinatorsToNats | Line::CoordinatorsToPostgres | Line::ExecutorsToNats),
            Self::WipeNats | Self::CutTail(_) | Self::RestoreDatabase => true,
            Self::DeleteStream(_) | Self::DeleteConsumer(_) | Self::EndSessions => false,
        }
    }

    /// From when to when it lasts, in bases. A pause outlasts the lease of its victim (10 of a
    /// coordinator, 15 of an executor), and a coordinator is cut off for longer than work may stand still for it.
    const fn hold(self) -> (f64, f64) {
        match self {
            Self::Kill(Spot::Coordinator(_)) => (0.0, 15.0),
            Self::Kill(Spot::Executor(_)) => (0.0, 10.0),
            Self::Kill(Spot::Nats | Spot::Postgres) => (0.0, 8.0),
            Self::Pause(Spot::Coordinator(_)) | Self::RestoreDatabase => (12.0, 20.0),
            Self::Pause(Spot::Executor(_) | Spot::Nats | Spot::Postgres) => (18.0, 25.0),
            Self::Stop(_) | Self::WipeNats | Self::CutTail(_) => (0.0, 3.0),
            Self::Cut(Line::CoordinatorToNats(_) | Line::CoordinatorToPostgres(_), _) => (20.0, 30.0),
            Self::Cut(Line::ExecutorToNats(_), _) => (18.0, 30.0),
            Self::Cut(Line::CoordinatorsToNats | Line::ExecutorsToNats | Line::CoordinatorsToPostgres, _) => (30.0, 30.0),
            Self::DeleteStream(_) | Self::DeleteConsumer(_) | Self::EndSessions => (0.0, 0.0),
        }
    }

    /// Within how many bases work runs again when it strikes alone.
    #[must_use]
    pub const fn bound(self) -> f64 {
        match self {
            Self::Stop(Spot::Coordinator(_) | Spot::Executor(_)) => 5.0,
            Self::Kill(Spot::Coordinator(_))
            | Self::Pause(Spot::Coordinator(_))
            | Self::Cut(Line::CoordinatorToNats(_) | Line::CoordinatorToPostgres(_), _) => 15.0,
            Self::Kill(_)
            | Self::Pause(_)
            | Self::Stop(_)
            | Self::Cut(..)
            | Self::WipeNats
            | Self::DeleteStream(_)
            | Self::DeleteConsumer(_)
            | Self::CutTail(_)
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

impl Round {
    /// The words for a table: the kind of the fault, or that there were several.
    #[must_use]
    pub fn kind(&self) -> String {
        match self.strikes.as_slice() {
            [single] => single.fault.kind(),
            _ if self.is_mass_silence() => "overlapping, several executors silent".to_owned(),
            _ => "overlapping".to_owned(),
        }
    }

    /// Within how many bases work must run again.
    #[must_use]
    pub fn bound(&self) -> f64 {
        match self.strikes.as_slice() {
            [single] => single.fault.bound(),
            _ if self.is_mass_silence() => 80.0,
            _ => 45.0,
        }
    }

    /// Executors fall silent together, so their losses are held back.
    fn is_mass_silence(&self) -> bool {
        self.strikes.iter().filter(|strike| strike.fault.silences().is_some()).count() >= 2
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(number) => write!(f, "coordinator-{number}"),
            Self::Executor(number) => write!(f, "executor-{number}"),
            Self::Nats => f.write_str("nats"),
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
            Self::Cut(line, Route::Silent | Route::Open) => write!(f, "cut {line}"),
            Self::WipeNats => f.write_str("wipe nats"),
            Self::DeleteStream(stream) => write!(f, "delete {}", short(stream)),
            Self::DeleteConsumer(stream) => write!(f, "delete a consumer of {}", short(stream)),
            Self::CutTail(stream) => write!(f, "cut the tail of {}", short(stream)),
            Self::EndSessions => f.write_str("end sessions"),
            Self::RestoreDatabase => f.write_str("restore postgres"),
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, strike) in self.strikes.iter().enumerate() {
            let beside = if number == 0 { "" } else { " + " };
            write!(f, "{beside}{} for {:.1} bases", strike.fault, strike.hold)?;
        }
        Ok(())
    }
}

/// `orchestr8` has a digit, which is no victim's number.
fn short(stream: &str) -> String {
    stream.rsplit('_').next().unwrap_or(stream).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_gives_the_same_rounds_and_every_kind_comes() {
        let draw = |seed| Rounds::new(seed).take(60).collect::<Vec<_>>();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let drawn: BTreeSet<String> = draw(7).iter().flat_map(|round| round.strikes.iter().map(|strike| strike.fault.kind())).collect();
        let all: BTreeSet<String> = kinds(&mut Draws::new(7)).into_iter().map(Fault::kind).collect();
        let missing: Vec<&String> =
            all.iter().filter(|kind| !drawn.contains(*kind) && !kind.contains("cut") && !kind.contains("reset")).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn two_faults_at_once_strike_different_things() {
        let both: Vec<Round> = Rounds::new(3).take(1_000).filter(|round| round.strikes.len() == 2).collect();
        assert!(both.len() > 100);
        for round in &both {
            let [first, second] = [round.strikes[0].fault.spots(), round.strikes[1].fault.spots()];
            assert!(first.iter().all(|spot| !second.contains(spot)), "{round}");
        }
        assert!(both.iter().any(Round::is_mass_silence));
    }
}
