//! How lanes share shards, over the real `core::shares`: the tables as `0003_sharing.sql` keeps them, and lanes that renew,
//! balance, and recover as `engine/sharing.rs` does. `sharing_states` visits every state of it.

use orchestr8_core::shares::{Balance, Standing, balance};
use std::collections::BTreeSet;

/// Of a lease, or of a lane's place among all that ever joined.
pub(super) type Number = usize;

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Planted {
    Nothing,
    /// A take leaves the lease id as it is.
    TakeWithoutNewLease,
    /// A lane takes under one lease id all its life.
    LeaseOfTheLane,
    /// Whatever is vacant is taken, as if all of it were the lane's share.
    TakeMoreThanTheShare,
}

/// How much of each may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Faults {
    pub(super) joins: u8,
    pub(super) deaths: u8,
    /// Lanes that stand still for longer than their leases.
    pub(super) stalls: u8,
    /// Lanes that are cut off from NATS, or hear it again.
    pub(super) cuts: u8,
    /// Statements whose answer is lost, done or not.
    pub(super) doubts: u8,
    /// Commits that are under way while other things happen.
    pub(super) flights: u8,
}

/// Whether a lease is renewed, or has run out on the database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Validity {
    Valid,
    RunOut,
}

/// What the database knows of a lane's ears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Hears {
    Nothing,
    /// Not for long enough to share.
    Lately,
    Settled,
}

/// A row of `coordinator_lanes`; the rows are in the order of joining.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LaneRow {
    pub(super) lane: Number,
    pub(super) validity: Validity,
    pub(super) hears: Hears,
}

/// A row of `shards`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ShardRow {
    pub(super) lease: Option<Number>,
    /// Whose lease it is, for the clock alone.
    owner: Number,
    pub(super) validity: Validity,
}

/// A lane's process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    pub(super) alive: bool,
    pub(super) connected: bool,
    pub(super) in_doubt: bool,
    /// What it believes to own, and under which lease; by shard.
    pub(super) held: Vec<Option<Number>>,
    drawn: BTreeSet<Number>,
    /// What its last renewal made it want.
    pub(super) wants: Option<Balance>,
}

/// A batch whose commit is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flight {
    shard: usize,
    lease: Number,
    /// The shard was taken since.
    stale: bool,
}

/// The whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Sharing {
    pub(super) planted: Planted,
    pub(super) faults: Faults,
    pub(super) shards: Vec<ShardRow>,
    pub(super) rows: Vec<LaneRow>,
    pub(super) lanes: Vec<Lane>,
    pub(super) flight: Option<Flight>,
    /// A commit from before a take was taken for one of after it.
    pub(super) committed_stale: bool,
}

/// What becomes of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Comes,
    /// It was done, but the lane does not know.
    Lost,
    /// It was not done, and the lane does not know.
    NotDone,
}

/// One thing that may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Renew(Number),
    /// Takes or gives away what the renewal said.
    Act(Number, Answer),
    Recover(Number),
    Settle(Number),
    /// The leases of a dead lane, or of one that stands still, run out.
    RunOut(Number),
    Join,
    Die(Number),
    Hear(Number),
    Depart(Number, usize),
    Arrive,
}

impl Sharing {
    /// Nobody is there.
    pub(super) fn new(shards: usize, planted: Planted, faults: Faults) -> Self {
        let vacant = ShardRow { lease: None, owner: 0, validity: Validity::Valid };
        let (rows, lanes) = (Vec::new(), Vec::new());
        Self { planted, faults, shards: vec![vacant; shards], rows, lanes, flight: None, committed_stale: false }
    }

    /// What happens by itself, sooner or later, where nothing goes wrong.
    pub(super) fn quiet_actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (index, lane) in self.lanes.iter().enumerate() {
            match (lane.alive, lane.in_doubt) {
                (false, _) if self.runs(index) => actions.push(Action::RunOut(index)),
                (false, _) => {}
                (true, true) => actions.push(Action::Recover(index)),
                (true, false) if lane.wants.is_some() => actions.push(Action::Act(index, Answer::Comes)),
                (true, false) => actions.push(Action::Renew(index)),
            }
        }
        let lately = self.rows.iter().filter(|row| row.hears == Hears::Lately && self.lanes[row.lane].alive);
        actions.extend(lately.map(|row| Action::Settle(row.lane)));
        actions.extend(self.flight.map(|_| Action::Arrive));
        actions
    }

    /// What goes wrong.
    pub(super) fn faulty_actions(&self) -> Vec<Action> {
        let (mut actions, faults) = (Vec::new(), &self.faults);
        if faults.joins > 0 {
            actions.push(Action::Join);
        }
        for (index, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| lane.alive) {
            let acts = lane.wants.is_some() && !lane.in_doubt && faults.doubts > 0;
            let may = [
                (faults.deaths > 0, Action::Die(index)),
                (faults.stalls > 0 && self.runs(index), Action::RunOut(index)),
                (faults.cuts > 0, Action::Hear(index)),
                (acts, Action::Act(index, Answer::Lost)),
                (acts, Action::Act(index, Answer::NotDone)),
            ];
            actions.extend(may.into_iter().filter(|(may, _)| *may).map(|(_, action)| action));
            if faults.flights > 0 && self.flight.is_none() && !lane.in_doubt {
                let held = (0..self.shards.len()).filter(|shard| lane.held[*shard].is_some());
                actions.extend(held.map(|shard| Action::Depart(index, shard)));
            }
        }
        actions
    }

    /// The state after `action`, its leases numbered in the order of appearance.
    pub(super) fn after(&self, action: Action) -> Self {
        let mut next = self.clone();
        next.apply(action);
        next.number_leases();
        next
    }

    fn apply(&mut self, action: Action) {
        let faults = &mut self.faults;
        match action {
            Action::Renew(lane) => self.renew(lane),
            Action::Act(lane, answer) => {
                faults.doubts -= u8::from(answer != Answer::Comes);
                self.act(lane, answer);
            }
            Action::Recover(lane) => self.recover(lane),
            Action::Settle(lane) => self.row(lane, |row| row.hears = Hears::Settled),
            Action::RunOut(lane) => {
                faults.stalls -= u8::from(self.lanes[lane].alive);
                self.row(lane, |row| row.validity = Validity::RunOut);
                self.shards.iter_mut().filter(|row| row.owner == lane).for_each(|row| row.validity = Validity::RunOut);
            }
            Action::Join => {
                faults.joins -= 1;
                let (held, drawn) = (vec![None; self.shards.len()], BTreeSet::new());
                self.lanes.push(Lane { alive: true, connected: true, in_doubt: false, held, drawn, wants: None });
            }
            Action::Die(lane) => {
                faults.deaths -= 1;
                let dead = &mut self.lanes[lane];
                (dead.alive, dead.wants, dead.in_doubt) = (false, None, false);
                dead.held.fill(None);
                dead.drawn.clear();
            }
            Action::Hear(lane) => {
                faults.cuts -= 1;
                self.lanes[lane].connected ^= true;
            }
            Action::Depart(lane, shard) => {
                faults.flights -= 1;
                self.flight = self.lanes[lane].held[shard].map(|lease| Flight { shard, lease, stale: false });
            }
            Action::Arrive => {
                if let Some(flight) = self.flight.take() {
                    self.committed_stale |= flight.stale && self.shards[flight.shard].lease == Some(flight.lease);
                }
            }
        }
    }

    /// `renew_lane`, and what the lane makes of the answer.
    fn renew(&mut self, index: Number) {
        let hears = |before: Option<Hears>, connected: bool| match (connected, before) {
            (false, _) => Hears::Nothing,
            (true, None | Some(Hears::Nothing)) => Hears::Lately,
            (true, Some(before)) => before,
        };
        if self.is_fenced(index) {
            // The statement was rolled back.
            self.lanes[index].in_doubt = true;
            return;
        }
        let connected = self.lanes[index].connected;
        match self.rows.iter_mut().find(|row| row.lane == index) {
            Some(row) => (row.validity, row.hears) = (Validity::Valid, hears(Some(row.hears), connected)),
            None => self.rows.push(LaneRow { lane: index, validity: Validity::Valid, hears: hears(None, connected) }),
        }
        for (shard, row) in self.shards.iter_mut().enumerate().filter(|(shard, _)| self.lanes[index].held[*shard].is_some()) {
            row.validity = Validity::Valid;
            debug_assert_eq!(self.lanes[index].held[shard], row.lease);
        }
        let owned = count(self.lanes[index].held.iter().flatten());
        let wanted = match (balance(count(&self.shards), owned, self.standing(index)), self.planted) {
            (Balance::Keep, Planted::TakeMoreThanTheShare) if self.standing(index).vacant > 0 => Balance::Take(1),
            (wanted, _) => wanted,
        };
        self.lanes[index].wants = Some(wanted).filter(|wanted| *wanted != Balance::Keep);
    }

    fn is_fenced(&self, index: Number) -> bool {
        self.lanes[index].held.iter().zip(&self.shards).any(|(held, row)| held.is_some() && *held != row.lease)
    }

    /// As the renewal's answer tells it.
    pub(super) fn standing(&self, index: Number) -> Standing {
        let alive = || self.rows.iter().filter(|row| row.validity == Validity::Valid || row.lane == index);
        let any_hears = alive().any(|row| row.hears == Hears::Settled);
        let sharing: Vec<Number> = alive().filter(|row| row.hears == Hears::Settled || !any_hears).map(|row| row.lane).collect();
        let lanes = if sharing.contains(&index) { count(&sharing) } else { 0 };
        let place = |lane: Number| self.rows.iter().position(|row| row.lane == lane);
        let rank = count(sharing.iter().filter(|lane| place(**lane) < place(index)));
        Standing { lanes, rank, vacant: count(self.shards.iter().filter(|row| row.is_vacant())) }
    }

    fn act(&mut self, index: Number, answer: Answer) {
        let done = answer != Answer::NotDone;
        if matches!(self.lanes[index].wants, Some(Balance::HandOver(_))) && self.is_fenced(index) {
            // What is decided is saved first, and that fails.
            (self.lanes[index].wants, self.lanes[index].in_doubt) = (None, true);
            return;
        }
        match self.lanes[index].wants.take() {
            None | Some(Balance::Keep) => {}
            Some(Balance::Take(limit)) => {
                let lease = self.draw(index);
                let vacant: Vec<usize> = (0..self.shards.len()).filter(|shard| self.shards[*shard].is_vacant()).collect();
                let taken = if done { &vacant[..vacant.len().min(limit as usize)] } else { &[] };
                taken.iter().for_each(|shard| self.take(*shard, lease, index));
                if answer == Answer::Comes {
                    taken.iter().for_each(|shard| self.lanes[index].held[*shard] = self.shards[*shard].lease);
                }
            }
            Some(Balance::HandOver(number)) => {
                let leaving: Vec<usize> = (0..self.shards.len()).rev().filter(|shard| self.lanes[index].held[*shard].is_some()).collect();
                for shard in leaving.into_iter().take(number as usize) {
                    if done && self.shards[shard].lease == self.lanes[index].held[shard] {
                        self.shards[shard].lease = None;
                    }
                    if answer == Answer::Comes {
                        self.lanes[index].held[shard] = None;
                    }
                }
            }
        }
        self.lanes[index].in_doubt = answer != Answer::Comes;
        if answer == Answer::Comes {
            self.forget_drawn(index);
        }
    }

    /// `retake_shards` under a new lease.
    fn recover(&mut self, index: Number) {
        let mine = self.lanes[index].drawn.clone();
        let lease = self.draw(index);
        self.lanes[index].held.fill(None);
        for shard in 0..self.shards.len() {
            if self.shards[shard].lease.is_some_and(|lease| mine.contains(&lease)) {
                self.take(shard, lease, index);
                self.lanes[index].held[shard] = self.shards[shard].lease;
            }
        }
        self.lanes[index].in_doubt = false;
        self.forget_drawn(index);
    }

    fn draw(&mut self, index: Number) -> Number {
        let highest = self.leases().max().map_or(0, |highest| highest + 1);
        let lease = match self.planted {
            // Higher than any that is drawn.
            Planted::LeaseOfTheLane => 1_000 + index,
            Planted::Nothing | Planted::TakeWithoutNewLease | Planted::TakeMoreThanTheShare => highest,
        };
        self.lanes[index].drawn.insert(lease);
        lease
    }

    fn take(&mut self, shard: usize, lease: Number, owner: Number) {
        let before = self.shards[shard].lease;
        let kept = before.filter(|_| self.planted == Planted::TakeWithoutNewLease);
        self.lanes[owner].drawn.extend(kept);
        self.shards[shard] = ShardRow { lease: kept.or(Some(lease)), owner, validity: Validity::Valid };
        self.flight.iter_mut().filter(|flight| flight.shard == shard).for_each(|flight| flight.stale = true);
    }

    fn forget_drawn(&mut self, index: Number) {
        let lane = &mut self.lanes[index];
        lane.drawn.retain(|drawn| lane.held.contains(&Some(*drawn)));
    }

    fn leases(&self) -> impl Iterator<Item = Number> + '_ {
        let of_lane = |lane: &Lane| lane.held.iter().flatten().chain(&lane.drawn).copied().collect::<Vec<Number>>();
        let of_rows = self.shards.iter().filter_map(|row| row.lease);
        of_rows.chain(self.lanes.iter().flat_map(of_lane)).chain(self.flight.map(|flight| flight.lease))
    }

    /// States that differ in the names of their leases alone are one.
    fn number_leases(&mut self) {
        if self.planted == Planted::LeaseOfTheLane {
            return;
        }
        let mut known: Vec<Number> = Vec::new();
        for lease in self.leases() {
            if !known.contains(&lease) {
                known.push(lease);
            }
        }
        let number = |lease: Number| known.iter().position(|other| *other == lease).expect("every lease was gathered");
        self.shards.iter_mut().for_each(|row| row.lease = row.lease.map(number));
        for lane in &mut self.lanes {
            lane.held.iter_mut().for_each(|held| *held = held.map(number));
            lane.drawn = lane.drawn.iter().copied().map(number).collect();
        }
        self.flight.iter_mut().for_each(|flight| flight.lease = number(flight.lease));
    }

    fn row(&mut self, lane: Number, change: impl FnMut(&mut LaneRow)) {
        self.rows.iter_mut().filter(|row| row.lane == lane).for_each(change);
    }

    /// Whether anything of the lane has not run out yet.
    fn runs(&self, lane: Number) -> bool {
        let row = self.rows.iter().any(|row| row.lane == lane && row.validity == Validity::Valid);
        row || self.shards.iter().any(|row| row.lease.is_some() && row.owner == lane && row.validity == Validity::Valid)
    }
}

impl ShardRow {
    pub(super) fn is_vacant(&self) -> bool {
        self.lease.is_none() || self.validity == Validity::RunOut
    }
}

pub(super) fn count<T>(items: impl IntoIterator<Item = T>) -> u32 {
    items.into_iter().fold(0, |count, _| count + 1)
}
