//! Histories that broke other systems, or an earlier thought about this one, each by its name, in the simulation.

use super::broker::TaskMessage;
use super::coordinator::Fate;
use super::mail::Letter;
use super::plans::{handler_task, plan_of};
use super::rules::{Rule, Rules};
use super::simulation::{Nudge, SECOND_US, Simulation};
use super::site::ToCoordinators;
use orchestr8_core::plan::TaskPlan;
use orchestr8_proto::ids::{ExecutionId, RunId};
use orchestr8_proto::words::{TaskStatus, WorkflowStatus};

/// After the last fault everything ends within this.
const QUIET_S: i64 = 600;

/// Coordinators and three executors; every command succeeds after so many seconds.
fn installation(coordinators: usize, command_s: i64) -> Simulation {
    installation_with(Rules::default(), coordinators, command_s)
}

fn installation_with(rules: Rules, coordinators: usize, command_s: i64) -> Simulation {
    let mut simulation = Simulation::new(rules, 1, (coordinators, 3));
    (simulation.command_us, simulation.failures_percent) = (Some(command_s * SECOND_US), 0);
    simulation.pass(4);
    simulation
}

fn submit(simulation: &mut Simulation) -> ExecutionId {
    simulation.submit(plan_of(vec![handler_task("a")]))
}

fn submit_once(simulation: &mut Simulation) -> ExecutionId {
    simulation.submit(plan_of(vec![TaskPlan { at_most_once: true, ..handler_task("a") }]))
}

/// A caller of a coordinator without the shard, who is told that it is stored, and leaves.
fn post(simulation: &mut Simulation, nudge: Nudge) -> ExecutionId {
    let id = submit(simulation);
    simulation.post(Letter::Submit(id), nudge);
    id
}

fn wait_for(simulation: &mut Simulation, what: &str, done: impl Fn(&Simulation) -> bool) {
    assert!(simulation.until(60, done), "it never came to this: {what}");
}

/// Everything completes, nothing that may not counts, and so many commands were started.
fn finish(mut simulation: Simulation, starts: usize) {
    assert!(simulation.until(QUIET_S, Simulation::is_done), "it never ends: {:#?}", simulation.database.rows);
    assert!(simulation.reference.violations.is_empty(), "{:?}", simulation.reference.violations);
    let statuses: Vec<WorkflowStatus> = simulation.database.rows.values().map(|row| row.status).collect();
    assert!(statuses.iter().all(|status| *status == WorkflowStatus::Completed), "{statuses:?}");
    assert_eq!(started(&simulation), starts, "commands started");
}

fn started(simulation: &Simulation) -> usize {
    simulation.reference.runs.values().filter(|run| run.started).count()
}

fn holder(simulation: &Simulation, id: ExecutionId) -> Option<RunId> {
    simulation.database.rows.get(&id)?.task(0).holder.map(|holder| holder.run_id)
}

fn status(simulation: &Simulation, id: ExecutionId) -> Option<TaskStatus> {
    simulation.database.rows.get(&id).map(|row| row.task(0).status.0)
}

fn first_message(simulation: &Simulation) -> Option<(u64, TaskMessage)> {
    simulation.broker.tasks.messages.first_key_value().map(|(sequence, message)| (*sequence, *message))
}

fn stand_still(simulation: &mut Simulation, seconds: i64) {
    let until_us = simulation.now_us + seconds * SECOND_US;
    simulation.hosts.iter_mut().for_each(|host| host.away_until_us = until_us);
}

/// A run has ended, its outcome is stored but unread, and its message comes to somebody else.
fn unread_outcome_and_redelivered_message() -> Simulation {
    let mut simulation = installation(1, 0);
    let id = submit(&mut simulation);
    wait_for(&mut simulation, "published", |simulation| first_message(simulation).is_some());
    let message = first_message(&simulation).expect("published");
    stand_still(&mut simulation, 10);
    wait_for(&mut simulation, "its outcome is stored", |simulation| simulation.broker.head().is_some());
    assert_eq!((status(&simulation, id), started(&simulation)), (Some(TaskStatus::Queued), 1));
    // The ack was lost, so the executor that published must not be the one that gets it again.
    let had = simulation.sites.iter().position(|site| site.ran() > 0).expect("one ran it");
    simulation.kill_site(had, 100);
    simulation.broker.tasks.messages.insert(message.0, TaskMessage { deliveries: 1, lent_until_us: None, ..message.1 });
    simulation
}

#[test]
fn position_above_the_last_sequence_of_a_new_stream() {
    let mut simulation = installation(1, 0);
    submit(&mut simulation);
    wait_for(&mut simulation, "ended", Simulation::is_done);
    simulation.pass(4);
    let saved = simulation.database.position.expect("saved with the renewal");
    // Somebody else made the streams, and they begin at 1.
    simulation.broker.wipe(1);
    submit(&mut simulation);
    wait_for(&mut simulation, "a new outcome", |simulation| simulation.broker.head().is_some());
    let (sequence, _) = simulation.broker.head().expect("a new outcome");
    assert!(saved.sequence > sequence, "{saved:?} is above {sequence}");
    finish(simulation, 2);
}

#[test]
fn a_late_ack_or_nak_after_a_wipe() {
    let mut simulation = installation(1, 8);
    submit(&mut simulation);
    wait_for(&mut simulation, "published", |simulation| first_message(simulation).is_some());
    let (before, _) = first_message(&simulation).expect("published");
    stand_still(&mut simulation, 3);
    simulation.wipe();
    wait_for(&mut simulation, "published again", |simulation| first_message(simulation).is_some());
    let after = first_message(&simulation).expect("published again");
    simulation.broker.nak(before);
    simulation.broker.ack(before);
    assert_eq!(first_message(&simulation), Some(after), "the ack of another stream's message removes nothing");
    finish(simulation, 1);
}

#[test]
fn a_republication_while_the_first_run_is_still_unclaimed() {
    let mut simulation = installation(1, 25);
    submit(&mut simulation);
    wait_for(&mut simulation, "started", |simulation| started(simulation) == 1);
    // Its claim reaches nobody; the new owner knows only that the dispatch was tried, and the server has forgotten its id.
    let had = simulation.sites.iter().position(|site| site.ran() > 0).expect("one runs it");
    simulation.sites[had].cut_until_us = simulation.now_us + 20 * SECOND_US;
    simulation.kill_host(0, 1);
    simulation.broker.lose_dispatches(0);
    wait_for(&mut simulation, "published twice", |simulation| simulation.broker.tasks.messages.values().any(|message| message.again));
    // The second run is granted, the first is killed when it is heard again, and its outcome is refused.
    finish(simulation, 2);
}

#[test]
fn outcomes_unread_while_the_reconciler_or_a_redelivered_claim_looks() {
    let mut simulation = unread_outcome_and_redelivered_message();
    wait_for(&mut simulation, "somebody asks", |simulation| {
        simulation.broker.tasks.messages.values().any(|message| message.deliveries == 2)
    });
    simulation.survey_now();
    finish(simulation, 1);
}

#[test]
fn a_run_listed_in_a_beat_while_its_predecessors_outcome_is_unread() {
    let mut simulation = unread_outcome_and_redelivered_message();
    let listed = |letter: &ToCoordinators| matches!(letter, ToCoordinators::Beat(beat) if !beat.runs.is_empty());
    wait_for(&mut simulation, "a beat lists the second run", |simulation| simulation.hosts[0].inbox.iter().any(listed));
    // The claim itself is lost: only the beat tells of the run.
    simulation.hosts[0].inbox.retain(listed);
    finish(simulation, 1);
}

#[test]
fn a_claim_lost_with_the_databases_last_commits() {
    let mut simulation = installation(1, 25);
    let id = submit(&mut simulation);
    wait_for(&mut simulation, "granted", |simulation| holder(simulation, id).is_some());
    let run = holder(&simulation, id);
    simulation.fail_over(1);
    assert_eq!(status(&simulation, id), Some(TaskStatus::Queued), "the claim is lost, the task is not");
    wait_for(&mut simulation, "adopted", |simulation| holder(simulation, id).is_some());
    assert_eq!(holder(&simulation, id), run, "the run that goes on is the holder again");
    finish(simulation, 1);
}

#[test]
fn a_full_subject_behind_the_watermark() {
    let mut simulation = installation(1, 2);
    simulation.broker.tasks.room = 1;
    simulation.sites.iter_mut().for_each(|site| site.cut_until_us = simulation.now_us + 20 * SECOND_US);
    for _ in 0..6 {
        submit(&mut simulation);
    }
    simulation.pass(10);
    assert_eq!(simulation.broker.tasks.messages.len(), 1);
    assert_eq!(simulation.database.queued((0, i64::MAX)).len(), 6);
    // What is held must be published by its owner's successor as well.
    simulation.kill_host(0, 1);
    assert!(simulation.until(50, Simulation::is_done), "before any survey could find what was forgotten");
    finish(simulation, 6);
}

#[test]
fn ten_seconds_of_postgres_standing_still_at_full_rate() {
    let mut simulation = installation(2, 2);
    for _ in 0..60 {
        submit(&mut simulation);
    }
    wait_for(&mut simulation, "at full rate", |simulation| started(simulation) > 6);
    simulation.database_away_until_us = simulation.now_us + 10 * SECOND_US;
    simulation.pass(10);
    finish(simulation, 60);
}

/// What becomes of the coordinator whose commit ended in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Dies,
    Lives,
}

#[test]
fn a_coordinator_dead_between_reserving_an_idempotency_key_and_its_batch() {
    for (fate, owner, made) in [(Fate::Lost, Owner::Dies, 0), (Fate::AnswerLost, Owner::Dies, 1), (Fate::AnswerLost, Owner::Lives, 1)] {
        let mut simulation = installation(2, 0);
        simulation.next_commit = Some(fate);
        submit(&mut simulation);
        simulation.step();
        assert_eq!(simulation.database.rows.len(), made, "{fate:?}");
        let owning = simulation.hosts.iter().position(|host| host.lane.lease == simulation.database.lease).expect("an owner");
        if owner == Owner::Dies {
            simulation.kill_host(owning, 30);
        }
        // The caller comes again with its key, and gets the stored id.
        finish(simulation, 1);
    }
}

#[test]
fn a_lost_tail_of_the_outcomes_written_over_before_the_owner_reconnects() {
    let mut simulation = installation(1, 0);
    submit(&mut simulation);
    wait_for(&mut simulation, "ended", Simulation::is_done);
    simulation.pass(4);
    let saved = simulation.database.position.expect("saved with the renewal");
    submit(&mut simulation);
    wait_for(&mut simulation, "published", |simulation| first_message(simulation).is_some());
    stand_still(&mut simulation, 4);
    // What the owner has decided is gone, and another outcome has its sequence.
    simulation.broker.lose_outcomes(1);
    wait_for(&mut simulation, "stored", |simulation| simulation.broker.head().is_some());
    assert_eq!(simulation.broker.head().map(|(sequence, _)| sequence), Some(saved.sequence));
    assert!(simulation.until(8, Simulation::is_done), "nobody reads the message under the old sequence");
    assert_eq!(simulation.broker.outcomes.stored, 2, "it had to be published again");
    finish(simulation, 2);
}

#[test]
fn an_outcome_lost_with_the_tail_is_published_again() {
    let mut simulation = installation(1, 0);
    submit(&mut simulation);
    wait_for(&mut simulation, "published", |simulation| first_message(simulation).is_some());
    stand_still(&mut simulation, 6);
    wait_for(&mut simulation, "stored", |simulation| simulation.broker.head().is_some());
    simulation.broker.lose_outcomes(1);
    assert_eq!(simulation.broker.head(), None);
    finish(simulation, 1);
}

#[test]
fn a_dispatch_too_large_to_publish() {
    let mut simulation = installation(1, 0);
    let large = submit(&mut simulation);
    simulation.broker.tasks.too_large = Some(large.task(0));
    let small = submit(&mut simulation);
    wait_for(&mut simulation, "both ended", Simulation::is_done);
    assert_eq!((status(&simulation, large), status(&simulation, small)), (Some(TaskStatus::Failed), Some(TaskStatus::Completed)));
    let failure = simulation.database.rows[&large].task(0).failure.clone().expect("failed");
    assert_eq!(failure.error_type, "too_large");
    simulation.pass(4);
    let marks = simulation.database.marks.as_ref().expect("saved");
    assert_eq!(marks.published_through, 2, "the mark passes it once its failure is committed");
}

#[test]
fn a_stream_that_answers_info_but_takes_no_message() {
    let mut simulation = installation(1, 0);
    simulation.broker.tasks.latched = true;
    let id = submit(&mut simulation);
    simulation.pass(30);
    assert_eq!((status(&simulation, id), started(&simulation)), (Some(TaskStatus::Queued), 0));
    // As designed: read to its end, deleted, made anew.
    simulation.wipe();
    finish(simulation, 1);
}

/// How long the loss of a dead executor's run takes while the shard is handed over every eight seconds, as far as it comes.
fn loss_in_spite_of_hand_overs(rules: Rules) -> Option<(Simulation, i64)> {
    let mut simulation = installation_with(rules, 2, 25);
    let id = submit(&mut simulation);
    wait_for(&mut simulation, "granted", |simulation| holder(simulation, id).is_some());
    let had = simulation.sites.iter().position(|site| site.ran() > 0).expect("one runs it");
    // Both coordinators have listened for longer than a lease.
    simulation.pass(16);
    simulation.kill_site(had, 1_000);
    let (run, died_us) = (holder(&simulation, id), simulation.now_us);
    simulation.command_us = Some(0);
    for _ in 0..8 {
        simulation.hand_over();
        if simulation.until(8, |simulation| holder(simulation, id) != run) {
            let after_us = simulation.now_us - died_us;
            return Some((simulation, after_us));
        }
    }
    None
}

#[test]
fn hand_overs_faster_than_a_lease_while_an_executor_is_dead() {
    let (simulation, after_us) = loss_in_spite_of_hand_overs(Rules::default()).expect("lost while the hand-overs go on");
    // A lease of 15 s from its last beat, and a tick of 3 s for each coordinator's own rhythm and the hand-over between them.
    assert!((9 * SECOND_US..=21 * SECOND_US).contains(&after_us), "lost {after_us} us after the death");
    finish(simulation, 2);
    assert!(loss_in_spite_of_hand_overs(Rules::without(Rule::Found)).is_none(), "every takeover grants full leases");
}

/// The owner dies with the nudge in its hands, or lives and is never nudged; how many seconds until the letter is decided.
fn decided_without_a_nudge(rules: Rules, owner: Owner) -> Option<(Simulation, i64)> {
    let mut simulation = installation_with(rules, 2, 2);
    let before = submit(&mut simulation);
    wait_for(&mut simulation, "ended", Simulation::is_done);
    let owning = simulation.owner().expect("an owner");
    let id = match owner {
        Owner::Dies => post(&mut simulation, Nudge::Arrives),
        Owner::Lives => post(&mut simulation, Nudge::Lost),
    };
    simulation.post(Letter::Cancel(before), Nudge::Lost);
    if owner == Owner::Dies {
        simulation.kill_host(owning, 30);
    }
    let posted_us = simulation.now_us;
    let decided = simulation.until(60, |simulation| simulation.database.rows.contains_key(&id) && simulation.database.inbox.is_empty());
    let after_us = simulation.now_us - posted_us;
    decided.then_some((simulation, after_us))
}

#[test]
fn a_nudge_lost_with_the_receiving_shards_owner() {
    // A renewal of the owner finds it; if the owner died, the takeover once the lease of the shard has run out.
    for (owner, seconds) in [(Owner::Lives, 4), (Owner::Dies, 11)] {
        let (simulation, after_us) = decided_without_a_nudge(Rules::default(), owner).expect("decided");
        assert!(after_us <= seconds * SECOND_US, "{owner:?}: decided after {after_us} us");
        finish(simulation, 2);
        assert!(decided_without_a_nudge(Rules::without(Rule::InboxLookedInto), owner).is_none(), "{owner:?}: only a nudge tells");
    }
}

/// A commit that decides a letter ends like this; the letter may be there twice.
fn a_letters_commit_in_doubt(rules: Rules, (fate, owner, copies): (Fate, Owner, usize)) -> (Simulation, bool) {
    let mut simulation = installation_with(rules, 2, 2);
    let owning = simulation.owner().expect("an owner");
    let id = post(&mut simulation, Nudge::Arrives);
    for _ in 1..copies {
        // The sender did not hear that it is stored, and its caller came again with the key.
        simulation.post(Letter::Submit(id), Nudge::Arrives);
    }
    simulation.next_commit = Some(fate);
    simulation.step();
    assert_eq!(simulation.next_commit, None, "the letter is what was committed");
    if rules == Rules::default() {
        let made = fate == Fate::AnswerLost;
        let left = if made { 0 } else { copies };
        assert_eq!((simulation.database.rows.contains_key(&id), simulation.database.inbox.len()), (made, left), "{fate:?}");
    }
    if owner == Owner::Dies {
        simulation.kill_host(owning, 30);
    }
    let done = simulation.until(60, Simulation::is_done);
    (simulation, done)
}

#[test]
fn a_commit_that_deleted_an_inbox_row_and_whose_answer_was_lost() {
    for fate in [Fate::AnswerLost, Fate::Lost] {
        for owner in [Owner::Lives, Owner::Dies] {
            for copies in [1, 2] {
                let (simulation, done) = a_letters_commit_in_doubt(Rules::default(), (fate, owner, copies));
                assert!(done, "{fate:?} {owner:?} {copies}");
                finish(simulation, 1);
            }
        }
    }
    let kept = Rules::without(Rule::InboxReadAgain);
    let (_, done) = a_letters_commit_in_doubt(kept, (Fate::AnswerLost, Owner::Lives, 1));
    assert!(!done, "made a second time by an owner that kept what it had in hand");
    let deleted = Rules::without(Rule::InboxWithCommit);
    let (simulation, _) = a_letters_commit_in_doubt(deleted, (Fate::Lost, Owner::Lives, 1));
    assert!(simulation.database.rows.is_empty(), "deleted when it was read, and lost with its commit");
}

#[test]
fn a_task_of_at_most_once_never_starts_twice_when_its_executor_dies() {
    let mut simulation = installation(2, 25);
    let id = submit_once(&mut simulation);
    wait_for(&mut simulation, "granted", |simulation| started(simulation) == 1);
    let had = simulation.sites.iter().position(|site| site.ran() > 0).expect("one runs it");
    simulation.kill_site(had, 1_000);
    wait_for(&mut simulation, "lost", Simulation::is_done);
    assert_eq!((status(&simulation, id), started(&simulation)), (Some(TaskStatus::Failed), 1));
}

/// Old incarnations and new ones together are more than three, and most of them are silent. But nobody is waited for who was replaced.
#[test]
fn executors_killed_twice_and_started_again_under_their_names() {
    let mut simulation = installation(1, 8);
    let ids = [submit(&mut simulation), submit(&mut simulation), submit(&mut simulation)];
    wait_for(&mut simulation, "claimed", |simulation| ids.iter().all(|id| holder(simulation, *id).is_some()));
    for _ in 0..2 {
        (0..simulation.sites.len()).for_each(|_| simulation.kill_site(0, 1));
        simulation.pass(5);
    }
    assert!(simulation.until(15, |simulation| started(simulation) == 6), "their losses are held back");
    finish(simulation, 6);
}
