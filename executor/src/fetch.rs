//! Which consumer is asked for how many messages, and when. Pure: requests come out, deliveries and statuses go in.
//!
//! A *sweep* asks the consumers one after the other, most urgent first, for as many messages as there are free slots, and
//! ends early when the slots are full. Only a sweep that brought nothing *parks* a pull for one message on every consumer.
//! Each consumer has at most one pull of ours at a time, so a delivery belongs to the pull of its consumer.

#[cfg(test)]
mod tests;

use crate::patience::Patience;
use orchestr8_proto::names::{consumer_name, next_subject};
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_proto::words::Priority;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Every so many sweeps one goes from the least urgent to the most urgent, so that nothing at the bottom starves. It begins with
/// another priority below the most urgent each time, so that nothing in between starves either.
const REVERSED_EVERY: u64 = 8;
/// A consumer found empty is passed over for this long while others deliver: a sweep under load costs one request then.
const EMPTY_FOR: Duration = Duration::from_millis(2);
/// Messages asked for at once, at most: JetStream's own bound where a consumer sets none.
const BATCH_MAX: usize = 1_000;

/// One `MSG.NEXT` to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PullRequest {
    /// Where to send it.
    pub subject: String,
    /// Comes back with each status of this pull.
    pub ticket: Ticket,
    /// The JSON to send.
    pub body: String,
}

/// Names one pull of one consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Place of the consumer.
    pub consumer: usize,
    /// Number of the pull.
    pub pull: u64,
}

/// What a status message says about a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PullStatus {
    /// 100: the server still has it.
    Alive,
    /// 404 or 408: it ended without (more) messages.
    Empty,
    /// 409, 503 and all else: the consumer is missing, moving or does not take it.
    Unavailable,
}

#[derive(Debug)]
enum Pull {
    None,
    Now { pull: u64, left: usize, sent_at: Instant },
    Parked { pull: u64, heard_at: Instant },
    Unavailable { until: Instant },
}

struct Consumer {
    name: String,
    queue: String,
    /// Nothing is fetched from its queue.
    is_paused: bool,
    subject: String,
    pull: Pull,
    pulled_at: Option<Instant>,
    /// Until then a message may be of a pull that was given up, and is older than [`Self::pulled_at`] tells.
    blurred_until: Option<Instant>,
    empty_until: Option<Instant>,
    patience: Patience,
}

#[derive(Debug, Default)]
struct Sweep {
    position: usize,
    delivered: usize,
}

/// The pulls of one executor.
pub(crate) struct Fetcher {
    consumers: Vec<Consumer>,
    by_name: HashMap<String, usize>,
    queues: usize,
    turn: u64,
    sweep: Sweep,
    /// The consumer whose answer the sweep waits for.
    asked: Option<usize>,
    pulls: u64,
    expiry: Duration,
    ack_wait: Duration,
    /// A pull without any answer for so long is given up.
    answer_within: Duration,
    /// A sweep goes on without the answer of one consumer after this: it must not hold up the others.
    sweep_waits: Duration,
}

impl Fetcher {
    /// Pulls for all priorities of `queues`.
    pub(crate) fn new(queues: &[String], times: &ProtocolTimes) -> Self {
        let pairs = Priority::ALL.iter().flat_map(|priority| queues.iter().map(move |queue| (queue, *priority)));
        let shortest = times.base().max(Duration::from_secs(1));
        let consumers: Vec<_> = pairs.map(|(queue, priority)| Consumer::new(queue, priority, shortest)).collect();
        Self {
            by_name: consumers.iter().enumerate().map(|(index, consumer)| (consumer.name.clone(), index)).collect(),
            consumers,
            queues: queues.len(),
            turn: 0,
            sweep: Sweep::default(),
            asked: None,
            pulls: 0,
            expiry: times.pull_expiry(),
            ack_wait: times.ack_wait(),
            answer_within: times.base() * 2,
            sweep_waits: times.base() / 4,
        }
    }

    /// The requests that fetch for `room` free slots; none while an answer is awaited or nothing is to be done.
    pub(crate) fn step(&mut self, room: usize, now: Instant) -> Vec<PullRequest> {
        if room == 0 || self.asked.is_some() {
            return Vec::new();
        }
        loop {
            if let Some(index) = self.next_in_sweep(now) {
                return vec![self.ask(index, room.min(BATCH_MAX), now)];
            }
            if self.end_sweep() == 0 {
                return self.park(now);
            }
        }
    }

    /// A message came from `consumer`; the age of the pull that brought it, if that is known for certain.
    pub(crate) fn delivered(&mut self, consumer: &str, now: Instant) -> Option<Duration> {
        let index = *self.by_name.get(consumer)?;
        let consumer = &mut self.consumers[index];
        consumer.patience.reset();
        consumer.empty_until = None;
        let since_pull = consumer.since_pull(now);
        self.sweep.delivered += 1;
        match &mut consumer.pull {
            Pull::Now { left, .. } if *left > 1 => *left -= 1,
            Pull::Now { .. } => {
                consumer.pull = Pull::None;
                if self.asked.take_if(|asked| *asked == index).is_some() {
                    self.end_sweep();
                }
            }
            Pull::Parked { .. } => consumer.pull = Pull::None,
            Pull::None | Pull::Unavailable { .. } => {}
        }
        since_pull
    }

    /// With what it delivered last the consumer was empty: the sweep need not ask it, and a parked pull brings what comes next.
    pub(crate) fn emptied(&mut self, consumer: &str, now: Instant) {
        if let Some(index) = self.by_name.get(consumer) {
            self.consumers[*index].empty_until = Some(now + EMPTY_FOR);
        }
    }

    /// The server says something about a pull; what concerns none of ours is passed over.
    pub(crate) fn status(&mut self, ticket: Ticket, status: PullStatus, now: Instant) {
        let Some(consumer) = self.consumers.get_mut(ticket.consumer) else { return };
        let ours = match consumer.pull {
            Pull::Now { pull, .. } | Pull::Parked { pull, .. } => pull == ticket.pull,
            Pull::None | Pull::Unavailable { .. } => false,
        };
        if !ours {
            return;
        }
        match status {
            PullStatus::Alive => {
                if let Pull::Parked { heard_at, .. } = &mut consumer.pull {
                    *heard_at = now;
                }
                return;
            }
            PullStatus::Empty => {
                consumer.patience.reset();
                consumer.empty_until = Some(now + EMPTY_FOR);
                consumer.pull = Pull::None;
            }
            PullStatus::Unavailable => consumer.set_unavailable(now),
        }
        self.unask(ticket.consumer);
    }

    /// Gives up pulls of which nothing was heard for too long; they are sent again by the next steps.
    pub(crate) fn notice_lost(&mut self, now: Instant) {
        for index in 0..self.consumers.len() {
            let consumer = &mut self.consumers[index];
            match consumer.pull {
                Pull::Now { sent_at, .. } if now > sent_at + self.answer_within => {
                    consumer.give_up(self.expiry, self.ack_wait, now);
                    consumer.set_unavailable(now);
                }
                Pull::Now { sent_at, .. } if now > sent_at + self.sweep_waits => {}
                Pull::Parked { heard_at, .. } if now > heard_at + idle_heartbeat(self.expiry) * 2 + self.answer_within => {
                    consumer.give_up(self.expiry, self.ack_wait, now);
                }
                Pull::Now { .. } | Pull::Parked { .. } | Pull::None | Pull::Unavailable { .. } => continue,
            }
            self.unask(index);
        }
    }

    /// Forgets all pulls: the connection or the streams are new.
    pub(crate) fn start_over(&mut self, now: Instant) {
        for consumer in &mut self.consumers {
            consumer.give_up(self.expiry, self.ack_wait, now);
            consumer.empty_until = None;
            consumer.patience.reset();
        }
        self.asked = None;
        self.sweep = Sweep::default();
    }

    /// Asks missing consumers again at once: a coordinator beat, so they may exist now.
    pub(crate) fn retry_unavailable(&mut self, now: Instant) {
        for consumer in &mut self.consumers {
            if let Pull::Unavailable { until } = &mut consumer.pull {
                *until = now;
            }
        }
    }

    /// These queues are paused, and no others; whether that is new. Pulls that are parked stay: what they bring is given back.
    pub(crate) fn pause(&mut self, queues: &[String]) -> bool {
        let mut changed = false;
        for consumer in &mut self.consumers {
            let is_paused = queues.contains(&consumer.queue);
            changed |= std::mem::replace(&mut consumer.is_paused, is_paused) != is_paused;
        }
        changed
    }

    /// Whether nothing may be fetched from this consumer.
    pub(crate) fn is_paused(&self, consumer: &str) -> bool {
        self.by_name.get(consumer).is_some_and(|index| self.consumers[*index].is_paused)
    }

    /// Those of our queues that are paused.
    pub(crate) fn paused(&self) -> Vec<&str> {
        // The first consumers are those of the most urgent priority, one of each queue.
        self.consumers[..self.queues].iter().filter(|consumer| consumer.is_paused).map(|consumer| consumer.queue.as_str()).collect()
    }

    /// Consumers that did not answer, for the log.
    pub(crate) fn unavailable(&self) -> impl Iterator<Item = &str> {
        self.consumers.iter().filter(|consumer| matches!(consumer.pull, Pull::Unavailable { .. })).map(|consumer| consumer.name.as_str())
    }

    /// Whether none of the consumers answers.
    pub(crate) fn is_cut_off(&self) -> bool {
        !self.consumers.is_empty() && self.consumers.iter().all(|consumer| matches!(consumer.pull, Pull::Unavailable { .. }))
    }

    /// Whether an answer is awaited.
    pub(crate) fn awaits_answer(&self) -> bool {
        self.asked.is_some()
    }

    fn next_in_sweep(&mut self, now: Instant) -> Option<usize> {
        while self.sweep.position < self.consumers.len() {
            let index = self.place(self.sweep.position);
            self.sweep.position += 1;
            if self.consumers[index].worth_asking(now) {
                return Some(index);
            }
        }
        None
    }

    /// The consumer at a position of this turn's order: queues rotate within a priority, some turns are reversed.
    fn place(&self, position: usize) -> usize {
        let (place, queue) = (position / self.queues, position % self.queues);
        let reversals = self.turn / REVERSED_EVERY;
        let is_reversed = self.turn % REVERSED_EVERY == REVERSED_EVERY - 1;
        let (priority, rotation) = if is_reversed { reversed(place, reversals) } else { (place, self.turn) };
        let rotation = usize::try_from(rotation % self.queues as u64).expect("below the number of queues");
        priority * self.queues + (queue + rotation) % self.queues
    }

    fn ask(&mut self, index: usize, batch: usize, now: Instant) -> PullRequest {
        let pull = self.next_pull();
        self.asked = Some(index);
        self.consumers[index].pull = Pull::Now { pull, left: batch, sent_at: now };
        self.request(index, pull, format!(r#"{{"batch":{batch},"no_wait":true}}"#), now)
    }

    fn park(&mut self, now: Instant) -> Vec<PullRequest> {
        let (expires, heartbeat) = (self.expiry.as_nanos(), idle_heartbeat(self.expiry).as_nanos());
        let mut requests = Vec::new();
        for index in 0..self.consumers.len() {
            if matches!(self.consumers[index].pull, Pull::None) && !self.consumers[index].is_paused {
                let pull = self.next_pull();
                self.consumers[index].pull = Pull::Parked { pull, heard_at: now };
                let body = format!(r#"{{"batch":1,"expires":{expires},"idle_heartbeat":{heartbeat}}}"#);
                requests.push(self.request(index, pull, body, now));
            }
        }
        requests
    }

    fn request(&mut self, index: usize, pull: u64, body: String, now: Instant) -> PullRequest {
        let consumer = &mut self.consumers[index];
        consumer.pulled_at = Some(now);
        PullRequest { subject: consumer.subject.clone(), ticket: Ticket { consumer: index, pull }, body }
    }

    /// Ends the sweep and says how many messages came during it.
    fn end_sweep(&mut self) -> usize {
        self.turn += 1;
        std::mem::take(&mut self.sweep).delivered
    }

    fn unask(&mut self, index: usize) {
        if self.asked == Some(index) {
            self.asked = None;
        }
    }

    fn next_pull(&mut self) -> u64 {
        self.pulls += 1;
        self.pulls
    }
}

impl Consumer {
    fn new(queue: &str, priority: Priority, shortest: Duration) -> Self {
        let name = consumer_name(queue, priority);
        Self {
            queue: queue.to_owned(),
            is_paused: false,
            subject: next_subject(&name),
            name,
            pull: Pull::None,
            pulled_at: None,
            blurred_until: None,
            empty_until: None,
            patience: Patience::between(shortest, shortest * 10),
        }
    }

    fn worth_asking(&self, now: Instant) -> bool {
        match self.pull {
            _ if self.is_paused => false,
            Pull::None => self.empty_until.is_none_or(|until| until <= now),
            Pull::Unavailable { until } => until <= now,
            // A parked pull says by itself when there is something.
            Pull::Now { .. } | Pull::Parked { .. } => false,
        }
    }

    /// Forgets the pull without its end. The server may go on serving it until it expires, and what it has brought
    /// may lie unread in our socket and have been delivered to others meanwhile: until an ack wait later nobody can
    /// tell by a newer pull how fresh a message is.
    fn give_up(&mut self, expiry: Duration, ack_wait: Duration, now: Instant) {
        let served_until = match std::mem::replace(&mut self.pull, Pull::None) {
            Pull::None | Pull::Unavailable { .. } => return,
            Pull::Now { .. } => now,
            Pull::Parked { .. } => self.pulled_at.map_or(now, |at| now.max(at + expiry)),
        };
        self.blurred_until = self.blurred_until.max(Some(served_until + ack_wait));
    }

    fn since_pull(&self, now: Instant) -> Option<Duration> {
        if self.blurred_until.is_some_and(|until| now < until) {
            return None;
        }
        self.pulled_at.map(|at| now.saturating_duration_since(at))
    }

    fn set_unavailable(&mut self, now: Instant) {
        self.pull = Pull::Unavailable { until: now + self.patience.next_wait() };
    }
}

fn idle_heartbeat(expiry: Duration) -> Duration {
    expiry / 6
}

/// Which priority is at a place of a reversed turn, after so many of them, and by how much its queues are rotated. Those below the
/// most urgent take turns at being first; the others follow, from the least urgent on.
fn reversed(place: usize, reversals: u64) -> (usize, u64) {
    let last = Priority::ALL.len() - 1;
    let turns = last as u64;
    let first = last - usize::try_from(reversals % turns).expect("below the number of priorities");
    let upwards = (last + 1).saturating_sub(place);
    let priority = match place {
        0 => first,
        _ if upwards > first => upwards,
        _ => upwards - 1,
    };
    (priority, reversals / turns)
}
