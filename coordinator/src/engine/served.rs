//! The queues that executors say they serve, for which consumers are made before there is any task: few, whatever they say.

use orchestr8_proto::names::check_queue_name;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Queues for which consumers are made because executors name them. Others get theirs with their first task.
const QUEUES_MAX: usize = 1_000;

/// Names of executors. Each stays for as long as the server keeps consumers from which nobody fetches.
#[derive(Debug)]
pub struct Served {
    named_at: HashMap<String, Instant>,
    forgotten_after: Duration,
}

impl Served {
    /// None yet.
    #[must_use]
    pub fn new(forgotten_after: Duration) -> Self {
        Self { named_at: HashMap::new(), forgotten_after }
    }

    /// Those that may have consumers. Whoever named a queue before keeps its place while it goes on.
    pub fn admit<'a>(&mut self, queues: &'a [String], now: Instant) -> Vec<&'a String> {
        queues.iter().filter(|queue| self.admits(queue, now)).collect()
    }

    fn admits(&mut self, queue: &str, now: Instant) -> bool {
        if let Some(named_at) = self.named_at.get_mut(queue) {
            *named_at = now;
            return true;
        }
        if self.named_at.len() >= QUEUES_MAX {
            let forgotten_after = self.forgotten_after;
            self.named_at.retain(|_, named_at| now.saturating_duration_since(*named_at) < forgotten_after);
        }
        let fits = self.named_at.len() < QUEUES_MAX && check_queue_name(queue).is_ok();
        if fits {
            self.named_at.insert(queue.to_owned(), now);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_executors_together_name_so_many_queues_and_no_more_until_some_are_forgotten() {
        let (mut served, now) = (Served::new(Duration::from_mins(1)), Instant::now());
        let later = |seconds: u64| now + Duration::from_secs(seconds);
        let many = |of: &str| (0..QUEUES_MAX).map(|number| format!("{of}-{number}")).collect::<Vec<_>>();
        let own = ["builds".to_owned()];
        assert_eq!(served.admit(&own, now).len(), 1);
        let wrong = ["no name".to_owned()];
        assert!(served.admit(&wrong, now).is_empty());
        assert_eq!(served.admit(&many("a"), now).len(), QUEUES_MAX - 1);
        assert!(served.admit(&many("b"), now).is_empty(), "another executor, or the same one with other names");
        assert_eq!(served.admit(&own, later(59)).len(), 1, "who was there before is served");
        assert_eq!(served.admit(&many("b"), later(60)).len(), QUEUES_MAX - 1);
        assert_eq!((served.admit(&own, later(60)).len(), served.named_at.len()), (1, QUEUES_MAX));
    }
}
