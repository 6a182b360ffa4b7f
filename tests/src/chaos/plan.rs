//! In what order a seed draws the faults, and how soon work must run again after each round.

use super::broker::Servers;
use super::cluster::SERVERS;
use super::draws::Draws;
use super::fault::{COORDINATORS, EXECUTORS, Fault, Leave, Line, Spot, Strike};
use crate::harness::proxy::Route;
use orchestr8_proto::names;
use std::fmt;

/// One round in so many has two faults at once.
const OVERLAP_ONE_IN: usize = 4;
/// The second of two faults strikes within this after the first, in bases.
const SECOND_WITHIN: (f64, f64) = (0.0, 5.0);
/// From the restart of one server to the next one's, in bases, when the first has caught up sooner.
const ROLL_INTERVAL: f64 = 5.0;

/// One fault, two at once, or the restart of one server after the other; the next round begins when work runs again.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// In the order of time.
    pub strikes: Vec<Strike>,
}

/// The rounds of a seed, without end.
#[derive(Debug)]
pub struct Rounds {
    draws: Draws,
    servers: Servers,
    calm: Vec<Fault>,
    deck: Vec<Card>,
}

/// What is dealt.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Card {
    One(Fault),
    /// Each server of a cluster is restarted, one after the other.
    Roll,
}

impl Rounds {
    /// From the first.
    #[must_use]
    pub fn new(seed: u64, servers: Servers) -> Self {
        let mut draws = Draws::new(seed);
        let mut calm = without_losses(&mut draws);
        draws.shuffle(&mut calm);
        Self { draws, servers, calm, deck: Vec::new() }
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
        let fits = |card: &Card| match card {
            Card::One(fault) => fault.spots().iter().all(|spot| !taken.contains(spot)),
            Card::Roll => false,
        };
        if !self.deck.iter().any(fits) {
            self.shuffle_in();
        }
        let place = self.deck.iter().rposition(fits).expect("a whole deck has faults of every spot");
        match self.deck.remove(place) {
            Card::One(fault) => fault,
            Card::Roll => unreachable!("it does not fit"),
        }
    }

    fn strike(&mut self, fault: Fault, after: f64) -> Strike {
        Strike { fault, after, hold: self.draws.between(fault.hold()) }
    }

    /// Every kind comes once before any comes twice.
    fn deal(&mut self) -> Card {
        if self.deck.is_empty() {
            self.shuffle_in();
        }
        self.deck.pop().expect("it was just filled")
    }

    /// One more of each kind, below what is left.
    fn shuffle_in(&mut self) {
        let faults = kinds(&mut self.draws).into_iter().chain(match self.servers {
            Servers::One => broken_store(Spot::Nats),
            Servers::Cluster => of_cluster(&mut self.draws),
        });
        let mut fresh: Vec<Card> = faults.map(Card::One).collect();
        match self.servers {
            Servers::One => {}
            Servers::Cluster => fresh.push(Card::Roll),
        }
        self.draws.shuffle(&mut fresh);
        fresh.append(&mut self.deck);
        self.deck = fresh;
    }
}

impl Iterator for Rounds {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        if let Some(fault) = self.calm.pop() {
            return Some(Round { strikes: vec![self.strike(fault, 0.0)] });
        }
        let fault = match self.deal() {
            Card::One(fault) => fault,
            Card::Roll => {
                let stop = |number: u8| self.strike(Fault::Stop(Spot::Server(usize::from(number))), ROLL_INTERVAL * f64::from(number));
                return Some(Round { strikes: (0_u8..).take(SERVERS).map(stop).collect() });
            }
        };
        let mut strikes = vec![self.strike(fault, 0.0)];
        if self.draws.below(OVERLAP_ONE_IN) == 0 {
            let beside = self.beside(fault);
            let after = self.draws.between(SECOND_WITHIN);
            strikes.push(self.strike(beside, after));
        }
        Some(Round { strikes })
    }
}

/// What must never make a loss. It comes first and alone: nothing before it can be the reason of one.
fn without_losses(draws: &mut Draws) -> Vec<Fault> {
    let mut route = || *draws.one(&[Route::Silent, Route::Closed]);
    let cut = [Fault::Cut(Line::CoordinatorsToNats, route()), Fault::Cut(Line::ExecutorsToNats, route())];
    let restart = *draws.one(&[Fault::Kill(Spot::Nats), Fault::Stop(Spot::Nats)]);
    cut.into_iter().chain([restart]).collect()
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
        Fault::Pause(Spot::Postgres),
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
        Fault::Wipe(Spot::Nats),
        Fault::DeleteStream(names::TASKS_STREAM),
        Fault::DeleteStream(names::OUTCOMES_STREAM),
        Fault::DeleteConsumer(names::TASKS_STREAM),
        Fault::DeleteConsumer(names::OUTCOMES_STREAM),
        Fault::EndSessions,
        Fault::RestoreDatabase,
        Fault::Visit(Leave::Orderly),
        Fault::Visit(Leave::Sudden),
    ]
}

fn broken_store(spot: Spot) -> Vec<Fault> {
    vec![Fault::CutTail(names::TASKS_STREAM, spot), Fault::CutTail(names::OUTCOMES_STREAM, spot)]
}

/// What happens to one server of three.
fn of_cluster(draws: &mut Draws) -> Vec<Fault> {
    let mut server = || draws.below(SERVERS);
    let mut faults = vec![
        Fault::Kill(Spot::Server(server())),
        Fault::Kill(Spot::Server(server())),
        Fault::Pause(Spot::Server(server())),
        Fault::Stop(Spot::Server(server())),
        Fault::Wipe(Spot::Server(server())),
    ];
    faults.extend(broken_store(Spot::Server(server())));
    let cut = server();
    faults.push(Fault::Cut(Line::ServerToServers(cut), *draws.one(&[Route::Silent, Route::Closed])));
    faults
}

impl Round {
    /// The words for a table: the kind of the fault, or that there were several.
    #[must_use]
    pub fn kind(&self) -> String {
        match self.strikes.as_slice() {
            [single] => single.fault.kind(),
            _ if self.is_roll() => "restart nats one after the other".to_owned(),
            _ if self.is_mass_silence() => "overlapping, several executors silent".to_owned(),
            _ => "overlapping".to_owned(),
        }
    }

    /// Within how many bases work must run again.
    #[must_use]
    pub fn bound(&self) -> f64 {
        match self.strikes.as_slice() {
            [single] => single.fault.bound(),
            [first, ..] if self.is_roll() => first.fault.bound(),
            _ if self.is_mass_silence() => 80.0,
            _ => 45.0,
        }
    }

    /// Whether work is to run again after each strike, and not only after all.
    #[must_use]
    pub fn is_one_by_one(&self) -> bool {
        self.strikes.len() == 1 || self.is_roll()
    }

    fn is_roll(&self) -> bool {
        self.strikes.len() == SERVERS && self.strikes.iter().all(|strike| matches!(strike.fault, Fault::Stop(Spot::Server(_))))
    }

    /// Executors fall silent together, so their losses are held back.
    fn is_mass_silence(&self) -> bool {
        self.strikes.iter().filter(|strike| strike.fault.silences().is_some()).count() >= 2
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_gives_the_same_rounds_and_every_kind_comes() {
        let draw = |seed| Rounds::new(seed, Servers::Cluster).take(80).collect::<Vec<_>>();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let drawn: BTreeSet<String> = draw(7).iter().flat_map(|round| round.strikes.iter().map(|strike| strike.fault.kind())).collect();
        let mut draws = Draws::new(7);
        let all: BTreeSet<String> = kinds(&mut draws).into_iter().chain(of_cluster(&mut draws)).map(Fault::kind).collect();
        let missing: Vec<&String> =
            all.iter().filter(|kind| !drawn.contains(*kind) && !kind.contains("cut") && !kind.contains("reset")).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn what_must_never_make_a_loss_comes_first_and_alone() {
        for seed in 0..50 {
            let first: Vec<Round> = Rounds::new(seed, Servers::One).take(3).collect();
            assert!(first.iter().all(|round| round.strikes.len() == 1), "{seed}");
            let has = |fits: fn(Fault) -> bool| first.iter().any(|round| fits(round.strikes[0].fault));
            assert!(has(|fault| matches!(fault, Fault::Cut(Line::CoordinatorsToNats, _))), "{seed}");
            assert!(has(|fault| matches!(fault, Fault::Cut(Line::ExecutorsToNats, _))), "{seed}");
            assert!(has(|fault| matches!(fault, Fault::Kill(Spot::Nats) | Fault::Stop(Spot::Nats))), "{seed}");
        }
    }

    #[test]
    fn two_faults_at_once_strike_different_things() {
        let both: Vec<Round> = Rounds::new(3, Servers::Cluster).take(1_000).filter(|round| round.strikes.len() == 2).collect();
        assert!(both.len() > 100);
        for round in &both {
            let [first, second] = [round.strikes[0].fault.spots(), round.strikes[1].fault.spots()];
            assert!(first.iter().all(|spot| !second.contains(spot)), "{round}");
        }
        assert!(both.iter().any(Round::is_mass_silence));
    }
}
