//! What operators want of this executor: no new work at all, or none of some queues.

use super::drain::Cause;
use super::{Desk, Mode};
use crate::beats::Outlook;
use crate::clock::Clock;
use orchestr8_proto::wire::{ExecutorOrder, PausedQueues};

impl Desk {
    /// An order of a control message; most carry none.
    pub(super) fn ordered(&mut self, order: i32, clock: Clock) {
        match ExecutorOrder::try_from(order) {
            Ok(ExecutorOrder::Unspecified) => return,
            Ok(ExecutorOrder::Cordon) => self.cordon(),
            Ok(ExecutorOrder::Uncordon) => self.uncordon(),
            Ok(ExecutorOrder::Drain) => self.begin_drain(Cause::Order, clock),
            Err(_) => tracing::warn!(order, "an order of a newer coordinator was passed over"),
        }
        // Whoever gave it waits to see it.
        self.rhythm.hurry(clock.now);
    }

    /// What an operator wants logged; most control messages say nothing of it.
    pub(super) fn log_ordered(&mut self, filter: &str, clock: Clock) {
        if filter.is_empty() {
            return;
        }
        if let Err(error) = self.identity.log.set(filter) {
            tracing::warn!(%error, "an operator wants something logged that cannot be");
        }
        self.rhythm.hurry(clock.now);
    }

    /// A coordinator says which queues are paused; an older one says nothing.
    pub(super) fn queues_paused(&mut self, paused: Option<&PausedQueues>) {
        let Some(paused) = paused else { return };
        if self.fetcher.pause(&paused.queues) {
            tracing::info!(paused = self.fetcher.paused().join(","), "what is fetched from has changed");
        }
    }

    /// What the next heartbeat shows.
    pub(super) const fn outlook(&self) -> Outlook {
        match self.mode {
            Mode::Working => Outlook::Working,
            Mode::Cordoned => Outlook::Cordoned,
            Mode::Draining(_) => Outlook::Draining,
        }
    }

    /// A drain is a cordon already.
    fn cordon(&mut self) {
        if matches!(self.mode, Mode::Working) {
            tracing::info!("cordoned: no new work is taken; what runs goes on");
            self.mode = Mode::Cordoned;
        }
    }

    fn uncordon(&mut self) {
        let is_ordered = match &self.mode {
            Mode::Working => false,
            Mode::Cordoned => true,
            // A process that is to end takes nothing more.
            Mode::Draining(drain) => drain.cause == Cause::Order,
        };
        if is_ordered {
            tracing::info!("uncordoned: new work is taken again");
            self.mode = Mode::Working;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::{FIRST, Scene, dispatch, killed, seconds};
    use super::*;
    use orchestr8_proto::wire::outcome::Result as Told;
    use orchestr8_proto::wire::{self, Control, CoordinatorBeat};

    fn order(scene: &mut Scene, order: ExecutorOrder) {
        scene.control(Control { order: order.into(), ..Control::default() });
    }

    /// What the heartbeats since the last look say at their end: cordoned, draining.
    fn shown(scene: &mut Scene) -> (bool, bool) {
        scene.pass(seconds(3));
        scene.beats().last().map(|beat| (beat.cordoned, beat.draining)).expect("a beat within three seconds")
    }

    fn pause(scene: &mut Scene, paused: Option<&[&str]>) {
        let paused = paused.map(|queues| PausedQueues { queues: queues.iter().map(|queue| (*queue).to_owned()).collect() });
        let beat = CoordinatorBeat { schema_version: 1, installation: "installation".into(), paused, ..CoordinatorBeat::default() };
        scene.desk.hear(wire::encode(&beat).unwrap(), scene.clock);
    }

    /// Pulls that leave once all earlier ones are forgotten.
    fn pulls(scene: &mut Scene) -> usize {
        scene.sent.clear();
        scene.desk.reconnected(scene.clock);
        scene.act();
        scene.sent.iter().filter(|sent| sent.subject.contains("MSG.NEXT")).count()
    }

    #[test]
    fn a_cordoned_executor_takes_nothing_ends_what_runs_and_takes_work_again() {
        let mut scene = Scene::new();
        scene.deliver(vec![dispatch()], FIRST);
        order(&mut scene, ExecutorOrder::Cordon);
        assert_eq!(shown(&mut scene), (true, false));
        let ack = scene.deliver(vec![dispatch()], FIRST);
        assert_eq!((scene.answers(&ack), scene.started.len()), (vec!["-NAK".to_owned()], 1), "what a parked pull brought goes back");
        assert_eq!(pulls(&mut scene), 0);
        assert!(!scene.started[0].1.is_cancelled() && !scene.desk.is_drained(scene.clock.now));
        order(&mut scene, ExecutorOrder::Uncordon);
        assert_eq!(shown(&mut scene), (false, false));
        scene.hear("installation");
        assert!(pulls(&mut scene) > 0);
    }

    #[test]
    fn an_ordered_drain_gives_back_what_does_not_end_and_can_be_taken_back() {
        let mut scene = Scene::new();
        scene.deliver(vec![dispatch()], FIRST);
        order(&mut scene, ExecutorOrder::Drain);
        assert_eq!((shown(&mut scene), pulls(&mut scene)), ((false, true), 0));
        scene.pass(seconds(30));
        assert!(scene.started[0].1.is_cancelled(), "its time is up");
        scene.end(scene.run_id(0), killed());
        let told = scene.store_outcomes().remove(0);
        assert!(matches!(told.result, Some(Told::Released(_))), "{told:?}");
        scene.confirm(&told.run_id);
        assert!(!scene.desk.is_drained(scene.clock.now), "the process stays");
        order(&mut scene, ExecutorOrder::Cordon);
        assert_eq!(shown(&mut scene), (false, true), "a drain is a cordon already");
        order(&mut scene, ExecutorOrder::Uncordon);
        scene.hear("installation");
        assert_eq!(shown(&mut scene), (false, false));
        assert!(pulls(&mut scene) > 0);
    }

    #[test]
    fn a_process_that_is_to_end_ends_whatever_was_ordered() {
        let mut scene = Scene::new();
        order(&mut scene, ExecutorOrder::Drain);
        assert!(!scene.desk.is_drained(scene.clock.now));
        scene.desk.drain(scene.clock);
        order(&mut scene, ExecutorOrder::Uncordon);
        scene.pass(seconds(1));
        assert!(scene.desk.is_drained(scene.clock.now));
    }

    #[test]
    fn nothing_is_fetched_from_a_paused_queue_until_a_coordinator_says_otherwise() {
        let mut scene = Scene::new();
        pause(&mut scene, Some(&["default"]));
        let ack = scene.deliver(vec![dispatch()], FIRST);
        assert_eq!((scene.answers(&ack), scene.started.len()), (vec!["-NAK".to_owned()], 0));
        assert_eq!(pulls(&mut scene), 0);
        pause(&mut scene, None);
        assert_eq!(pulls(&mut scene), 0, "a coordinator of an older version says nothing about queues");
        pause(&mut scene, Some(&["other"]));
        assert!(pulls(&mut scene) > 0);
    }
}
