//! The simulated installation: coordinators, executors with the real desk, and a broker, on a virtual clock.

use super::broker::Broker;
use super::coordinator::{Coordinator, Fate, Stage, Work};
use super::database::Database;
use super::mail::Letter;
use super::messages::{Ending, Sent};
use super::reference::Reference;
use super::rules::Rules;
use super::site::{Around, Site, ToCoordinators, inputs};
use bytes::Bytes;
use orchestr8_core::leases::LeaseTicks;
use orchestr8_core::machine::Answer;
use orchestr8_core::plan::Plan;
use orchestr8_executor::simulation::Moment;
use orchestr8_proto::ids::{ExecutionId, Incarnation, RunId};
use orchestr8_proto::wire::{self, Control, CoordinatorBeat, RunVerdict, SCHEMA_VERSION, Verdict};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The virtual clock goes in steps of this.
pub(super) const STEP_US: i64 = 250_000;
pub(super) const SECOND_US: i64 = 1_000_000;
const START_US: i64 = 1_700_000_000 * SECOND_US;
/// `ProtocolTimes` in ticks of a beat.
const TICKS: LeaseTicks = LeaseTicks { lease: 5, mass_silence_hold: 20, forget: 20 };
const BEAT_US: i64 = 3 * SECOND_US;
const SHARD_LEASE_US: i64 = 10 * SECOND_US;
const SURVEY_US: i64 = 60 * SECOND_US;
const DUPLICATE_WINDOW_US: i64 = 20 * SECOND_US;
const OVERLAP_US: i64 = 2 * SECOND_US;
/// Commits that a failover may lose.
const BEHIND_MAX: usize = 4;

/// A small generator, so that a seed is all there is.
pub(super) struct Random(pub(super) u64);

impl Random {
    /// The next number below `bound` (`SplitMix64`).
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A coordinator process.
pub(super) struct Host {
    pub(super) lane: Coordinator,
    pub(super) inbox: Vec<ToCoordinators>,
    own_leases: Vec<u64>,
    /// The process is there from then on, and hears; what comes while it stands still waits for it.
    hears_from_us: i64,
    next_beat_us: i64,
    next_survey_us: i64,
    again_from_us: i64,
    /// It does nothing before this: dead, stopped, or waiting for the database.
    pub(super) away_until_us: i64,
}

/// What becomes of a nudge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nudge {
    Arrives,
    Lost,
}

/// All of it.
pub(super) struct Simulation {
    pub(super) rules: Rules,
    pub(super) now_us: i64,
    epoch: Instant,
    pub(super) database: Database,
    behind: VecDeque<Database>,
    pub(super) database_away_until_us: i64,
    /// How the next commit ends, if not well.
    pub(super) next_commit: Option<Fate>,
    pub(super) broker: Broker,
    pub(super) hosts: Vec<Host>,
    pub(super) sites: Vec<Site>,
    dead: Vec<(i64, u8)>,
    letters: Vec<(i64, usize, Bytes)>,
    pub(super) reference: Reference,
    pub(super) plans: BTreeMap<ExecutionId, Arc<Plan>>,
    /// Their callers were told that they are stored in the inbox, and do not come again.
    posted: BTreeSet<ExecutionId>,
    pub(super) random: Random,
    /// How long commands take, in microseconds; none: drawn.
    pub(super) command_us: Option<i64>,
    pub(super) failures_percent: u64,
    /// Everything that was sent to executors, as a checksum of the story.
    pub(super) story: u64,
}

impl Simulation {
    /// `coordinators` and `executors`, all up.
    pub(super) fn new(rules: Rules, seed: u64, (coordinators, executors): (usize, u8)) -> Self {
        let epoch = Instant::now();
        let mut simulation = Self {
            rules,
            now_us: START_US,
            epoch,
            database: Database::default(),
            behind: VecDeque::new(),
            database_away_until_us: 0,
            next_commit: None,
            broker: Broker::new(START_US.unsigned_abs(), DUPLICATE_WINDOW_US),
            hosts: Vec::new(),
            sites: Vec::new(),
            dead: Vec::new(),
            letters: Vec::new(),
            reference: Reference::default(),
            plans: BTreeMap::new(),
            posted: BTreeSet::new(),
            random: Random(seed),
            command_us: None,
            failures_percent: 20,
            story: 0,
        };
        simulation.hosts = (0..coordinators).map(|_| simulation.host()).collect();
        simulation.sites = (0..executors).map(|name| Site::new(name, simulation.moment())).collect();
        simulation
    }

    fn host(&self) -> Host {
        Host {
            lane: Coordinator::new(self.rules, TICKS),
            inbox: Vec::new(),
            own_leases: Vec::new(),
            hears_from_us: self.now_us,
            next_beat_us: 0,
            next_survey_us: self.now_us + SURVEY_US,
            again_from_us: 0,
            away_until_us: 0,
        }
    }

    fn moment(&self) -> Moment {
        let passed = Duration::from_micros((self.now_us - START_US).unsigned_abs());
        Moment { now: self.epoch + passed, wall_us: self.now_us }
    }

    /// Submits an execution under its id; again if it is there already, which changes nothing.
    pub(super) fn submit(&mut self, plan: Plan) -> ExecutionId {
        let number = self.plans.len() as u128 + 1;
        let id = ExecutionId(Uuid::from_u128((number << 80) | (7 << 76) | (0b10 << 62)));
        self.plans.insert(id, Arc::new(plan));
        id
    }

    /// Whether everything is ended, and forgotten by who ran it.
    pub(super) fn is_done(&self) -> bool {
        let decided = self.database.rows.len() == self.plans.len() && self.database.inbox.is_empty();
        decided && self.database.all_ended() && self.sites.iter().all(|site| site.running() == 0)
    }

    /// Lets so many seconds go by.
    pub(super) fn pass(&mut self, seconds: i64) {
        let until_us = self.now_us + seconds * SECOND_US;
        while self.now_us < until_us {
            self.step();
        }
    }

    /// Lets time go by until `done`, at most so many seconds; whether it came.
    pub(super) fn until(&mut self, seconds: i64, done: impl Fn(&Self) -> bool) -> bool {
        let until_us = self.now_us + seconds * SECOND_US;
        while self.now_us < until_us && !done(self) {
            self.step();
        }
        done(self)
    }

    /// One step of the clock.
    pub(super) fn step(&mut self) {
        self.now_us += STEP_US;
        let now_us = self.now_us;
        let due: Vec<u8> = self.dead.iter().filter(|(at, _)| *at <= now_us).map(|(_, name)| *name).collect();
        self.dead.retain(|(at, _)| *at > now_us);
        let moment = self.moment();
        self.sites.extend(due.into_iter().map(|name| Site::new(name, moment)));
        self.deliver_letters();
        for index in 0..self.sites.len() {
            self.pass_site(index);
        }
        for index in 0..self.hosts.len() {
            if self.hosts[index].away_until_us <= now_us && self.database_away_until_us <= now_us {
                self.pass_host(index);
            }
        }
    }

    fn deliver_letters(&mut self) {
        let (now_us, moment) = (self.now_us, self.moment());
        let (due, later) = std::mem::take(&mut self.letters).into_iter().partition(|(at, ..)| *at <= now_us);
        self.letters = later;
        let due: Vec<(i64, usize, Bytes)> = due;
        for (_, to, payload) in due {
            for site in self.sites.iter_mut().filter(|site| !site.is_cut(now_us)) {
                // Names are small; a beat goes to everybody.
                if to == usize::MAX {
                    site.hear(payload.clone(), moment);
                } else if usize::from(site.name) == to {
                    site.control(payload.clone(), moment);
                }
            }
        }
    }

    fn pass_site(&mut self, index: usize) {
        let moment = self.moment();
        let (random, command_us, failures) = (&mut self.random, self.command_us, self.failures_percent);
        let mut fate_of = || {
            let ending = if random.below(100) < failures { Ending::Failed } else { Ending::Completed };
            let lengths_us = [0, STEP_US, 2 * SECOND_US, 8 * SECOND_US, 25 * SECOND_US];
            let length = usize::try_from(random.below(lengths_us.len() as u64)).expect("small");
            (command_us.unwrap_or(lengths_us[length]), ending)
        };
        let plans = &self.plans;
        let once =
            |task: orchestr8_proto::ids::TaskId| plans.get(&task.execution()).is_some_and(|plan| plan.task(task.index()).at_most_once);
        let around = Around {
            broker: &mut self.broker,
            reference: &mut self.reference,
            rules: self.rules,
            once: &once,
            fate_of: &mut fate_of,
            moment,
        };
        for sent in self.sites[index].pass(around) {
            self.tell_hosts(&sent);
        }
    }

    fn tell_hosts(&mut self, sent: &ToCoordinators) {
        for host in self.hosts.iter_mut().filter(|host| host.hears_from_us <= self.now_us) {
            host.inbox.push(sent.clone());
        }
    }

    /// A coordinator without the shard stores a letter for it, and nudges; the nudge may be lost.
    pub(super) fn post(&mut self, letter: Letter, nudge: Nudge) {
        self.reference.letters += 1;
        self.database.inbox.insert(self.reference.letters, letter);
        if let Letter::Submit(id) = letter {
            self.posted.insert(id);
        }
        match nudge {
            Nudge::Arrives => self.tell_hosts(&ToCoordinators::Nudge),
            Nudge::Lost => {}
        }
    }

    fn pass_host(&mut self, index: usize) {
        let now_us = self.now_us;
        let mut inbox = std::mem::take(&mut self.hosts[index].inbox);
        self.own(index);
        if self.hosts[index].lane.in_doubt {
            self.listen(index, inbox);
            return;
        }
        let commit = self.next_commit.take();
        if self.behind.back().is_none_or(|last| last.rows != self.database.rows) {
            self.behind.push_back(self.database.clone());
            if self.behind.len() > BEHIND_MAX {
                self.behind.pop_front();
            }
        }
        let beats = self.hosts[index].next_beat_us <= now_us;
        let surveys = self.hosts[index].next_survey_us <= now_us;
        let host = &mut self.hosts[index];
        host.lane.heard = host.again_from_us <= now_us;
        let comes_again =
            |id: &&ExecutionId| !self.database.rows.contains_key(id) && (!self.posted.contains(id) || self.reference.database_lost);
        let missing: Vec<Work> = self.plans.keys().filter(comes_again).map(|id| Work::Start(*id)).collect();
        host.lane.pending.extend(missing);
        let mut stage = Stage {
            database: &mut self.database,
            broker: &mut self.broker,
            reference: &mut self.reference,
            plans: &self.plans,
            now_us,
            sent: Vec::new(),
        };
        let mut wants = Vec::new();
        for letter in inbox.drain(..) {
            match letter {
                ToCoordinators::Wants(asked) => wants.push(asked),
                ToCoordinators::Claims(claims) => claims.into_iter().for_each(|asked| host.lane.take_claim(asked, stage.broker)),
                ToCoordinators::Beat(beat) => host.lane.take_beat(&beat, stage.broker),
                ToCoordinators::Nudge => host.lane.inbox_due = true,
            }
        }
        go_on(&mut host.lane, &mut stage, commit.unwrap_or(Fate::Committed));
        host.lane.serve(&wants, &mut stage);
        if beats && !host.lane.in_doubt {
            host.next_beat_us = now_us + BEAT_US;
            host.lane.tick(stage.broker);
        }
        if surveys && !host.lane.in_doubt {
            host.next_survey_us = now_us + SURVEY_US;
            host.lane.survey(&stage);
        }
        let sent = stage.sent;
        self.send(sent);
        if beats {
            self.coordinator_beat();
        }
    }

    /// A lane without the shard knows who is silent.
    fn listen(&mut self, index: usize, inbox: Vec<ToCoordinators>) {
        let host = &mut self.hosts[index];
        for letter in inbox {
            match letter {
                ToCoordinators::Beat(beat) => host.lane.take_beat(&beat, &self.broker),
                // They are for the shard's owner.
                ToCoordinators::Claims(_) | ToCoordinators::Wants(_) | ToCoordinators::Nudge => {}
            }
        }
        if host.next_beat_us <= self.now_us {
            host.next_beat_us = self.now_us + BEAT_US;
            host.lane.tick(&self.broker);
        }
    }

    /// Renews the lease, or takes the shard where nobody holds it.
    fn own(&mut self, index: usize) {
        let now_us = self.now_us;
        let host = &mut self.hosts[index];
        let mut stage = Stage {
            database: &mut self.database,
            broker: &mut self.broker,
            reference: &mut self.reference,
            plans: &self.plans,
            now_us,
            sent: Vec::new(),
        };
        if !host.lane.in_doubt && host.next_beat_us <= now_us && host.lane.save(&mut stage).is_ok() {
            stage.database.lease_until_us = now_us + SHARD_LEASE_US;
        }
        let free = stage.database.lease_until_us <= now_us || host.own_leases.contains(&stage.database.lease);
        if host.lane.in_doubt && free {
            host.lane.recover(&mut stage, OVERLAP_US);
            host.own_leases.push(host.lane.lease);
            stage.database.lease_until_us = now_us + SHARD_LEASE_US;
            host.again_from_us = now_us + BEAT_US;
        } else if !host.lane.in_doubt && !host.lane.reads(stage.broker) {
            host.lane.streams_seen(stage.broker);
            host.lane.start_reader(stage.broker, OVERLAP_US);
        }
        let sent = stage.sent;
        self.send(sent);
    }

    fn send(&mut self, sent: Vec<Sent>) {
        let names: BTreeMap<Incarnation, u8> = self.sites.iter().map(|site| (site.incarnation(), site.name)).collect();
        for sent in sent {
            let (to, control) = match sent {
                Sent::Answer(run, incarnation, answer) => (names.get(&incarnation).copied(), verdict(run, answer)),
                Sent::Confirm(run, incarnation) => {
                    let confirmed_run_ids = vec![run.to_bytes()];
                    (names.get(&incarnation).copied(), Control { confirmed_run_ids, ..Control::default() })
                }
                Sent::Drop(dispatch) => {
                    let dropped_dispatch_ids = vec![dispatch.to_bytes()];
                    (None, Control { dropped_dispatch_ids, ..Control::default() })
                }
                Sent::Inputs(run, incarnation, dispatch) => {
                    let inputs = Some(inputs(run, dispatch));
                    (names.get(&incarnation).copied(), Control { inputs, ..Control::default() })
                }
                Sent::BeatNow => (None, Control { beat_now: true, ..Control::default() }),
            };
            let all: Vec<u8> = self.sites.iter().map(|site| site.name).collect();
            let broadcast = matches!(sent, Sent::Drop(_) | Sent::BeatNow);
            let payload = wire::encode(&Control { schema_version: SCHEMA_VERSION, ..control }).expect("small");
            for name in if broadcast { all } else { to.into_iter().collect() } {
                let delay_us = i64::try_from(self.random.below(3)).expect("small") * STEP_US;
                self.letters.push((self.now_us + delay_us, usize::from(name), payload.clone()));
            }
            self.story = self.story.wrapping_mul(31).wrapping_add(self.now_us.unsigned_abs());
        }
    }

    fn coordinator_beat(&mut self) {
        let beat = CoordinatorBeat {
            schema_version: SCHEMA_VERSION,
            coordinator: "c".into(),
            installation: "i".into(),
            jetstream_now_us: self.now_us,
            stream_incarnation: self.broker.outcomes.incarnation.to_string(),
            executors: 0,
            executors_late: 0,
            paused: None,
            time_base_ms: 0,
        };
        self.letters.push((self.now_us, usize::MAX, wire::encode(&beat).expect("small")));
    }

    /// An executor dies; another of its name comes after so many seconds.
    pub(super) fn kill_site(&mut self, index: usize, seconds: i64) {
        let site = self.sites.remove(index);
        self.dead.push((self.now_us + seconds * SECOND_US, site.name));
    }

    /// A coordinator dies, and comes back after so many seconds.
    pub(super) fn kill_host(&mut self, index: usize, seconds: i64) {
        self.hosts[index] = self.host();
        self.hosts[index].away_until_us = self.now_us + seconds * SECOND_US;
        self.hosts[index].hears_from_us = self.now_us + seconds * SECOND_US;
    }

    /// Somebody cancels one of the executions.
    pub(super) fn cancel(&mut self, pick: usize) {
        let Some(id) = self.plans.keys().nth(pick).copied() else { return };
        let lease = self.database.lease;
        let owner = self.hosts.iter_mut().find(|host| host.lane.lease == lease);
        owner.into_iter().for_each(|host| host.lane.pending.push_back(Work::Cancel(id)));
    }

    /// Who owns the shard.
    pub(super) fn owner(&self) -> Option<usize> {
        self.hosts.iter().position(|host| host.lane.lease == self.database.lease)
    }

    /// Every coordinator looks for vanished messages at its next step.
    pub(super) fn survey_now(&mut self) {
        self.hosts.iter_mut().for_each(|host| host.next_survey_us = 0);
    }

    /// The owner gives its shard to another coordinator.
    pub(super) fn hand_over(&mut self) {
        if let Some(owner) = self.owner() {
            let mut stage = Stage {
                database: &mut self.database,
                broker: &mut self.broker,
                reference: &mut self.reference,
                plans: &self.plans,
                now_us: self.now_us,
                sent: Vec::new(),
            };
            self.hosts[owner].lane.hand_over(&mut stage);
            self.hosts[owner].own_leases.clear();
            self.hosts.rotate_left(owner + 1);
        }
        self.database.lease_until_us = 0;
    }

    /// The whole store is gone. The new streams begin at the clock.
    pub(super) fn wipe(&mut self) {
        self.broker.wipe(self.now_us.unsigned_abs());
        let (moment, now_us) = (self.moment(), self.now_us);
        self.sites.iter_mut().filter(|site| !site.is_cut(now_us)).for_each(|site| site.pulls_end(moment));
    }

    /// The database goes back by up to so many commits.
    pub(super) fn fail_over(&mut self, commits: usize) {
        for _ in 0..commits {
            if let Some(behind) = self.behind.pop_back() {
                self.database = behind;
            }
        }
        self.reference.database_lost = true;
        for host in &mut self.hosts {
            host.lane.in_doubt = true;
            host.own_leases.push(self.database.lease);
        }
    }
}

fn go_on(lane: &mut Coordinator, stage: &mut Stage<'_>, fate: Fate) {
    while lane.read(stage.broker) {}
    lane.take_due(stage);
    lane.read_inbox(stage);
    // A doubt stays with the lane: it recovers when it is free to.
    if !lane.pending.is_empty() && lane.process(stage, (512, fate)).is_err() {
        return;
    }
    lane.ask(stage.broker);
    lane.decide(stage);
    lane.feed(stage).ok();
}

fn verdict(run: RunId, answer: Answer) -> Control {
    let verdict = match answer {
        Answer::Granted => Verdict::Granted,
        Answer::Refused => Verdict::Refused,
        Answer::Kill | Answer::Cancel => Verdict::Kill,
        Answer::Current => Verdict::Current,
    };
    let verdict = RunVerdict { run_id: run.to_bytes(), verdict: verdict.into(), cancelled: answer == Answer::Cancel };
    Control { verdicts: vec![verdict], ..Control::default() }
}
