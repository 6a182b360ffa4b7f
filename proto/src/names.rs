//! Subjects, streams, consumers and headers: every name that appears on a NATS server.

use crate::ids::Incarnation;
use crate::words::Priority;

/// Work queue with the dispatches that no executor has finished or claimed yet.
pub const TASKS_STREAM: &str = "ORCHESTR8_TASKS";
/// Outcomes, until every shard has committed them.
pub const OUTCOMES_STREAM: &str = "ORCHESTR8_OUTCOMES";

/// All subjects of [`TASKS_STREAM`].
pub const TASK_SUBJECTS: &str = "orchestr8.task.>";
/// Every queue and priority of [`TASK_SUBJECTS`].
pub const QUEUE_SUBJECTS: &str = "orchestr8.task.*.*";
/// All subjects of [`OUTCOMES_STREAM`].
pub const OUTCOME_SUBJECTS: &str = "orchestr8.outcome.*";
/// Claims for all shards.
pub const CLAIM_SUBJECTS: &str = "orchestr8.claim.*";
/// Heartbeats of all executors.
pub const BEAT_SUBJECTS: &str = "orchestr8.beat.*.*";
/// Control messages to each executor.
pub const CONTROL_SUBJECTS: &str = "orchestr8.control.*.*";
/// Control messages to all executors.
pub const CONTROL_ALL: &str = "orchestr8.control.all";
/// Beats of all coordinators.
pub const COORDINATOR_BEATS: &str = "orchestr8.coordinator";

/// What nats-server says when a consumer of [`TASKS_STREAM`] is deleted.
pub const TASK_CONSUMER_DELETED: &str = "$JS.EVENT.ADVISORY.CONSUMER.DELETED.ORCHESTR8_TASKS.>";
/// What nats-server says when a stream is deleted.
pub const STREAM_DELETED: &str = "$JS.EVENT.ADVISORY.STREAM.DELETED.>";
/// How the subjects begin on which clients wait for answers: `_INBOX.` without a login, `_INBOX_<login>.` with one.
pub const INBOXES: &str = "_INBOX";
/// What nats-server says of streams and consumers, the two above among it.
pub const ADVISORIES: &str = "$JS.EVENT.ADVISORY.>";
/// Where a client asks how much its account may store, and does.
pub const ACCOUNT_INFO: &str = "$JS.API.INFO";
/// Where a client asks which rights it has.
pub const OWN_RIGHTS: &str = "$SYS.REQ.USER.INFO";
/// Hints among coordinators.
pub const NUDGES: &str = "orchestr8.nudge";

/// Deduplication id of JetStream: the first dispatch's id.
pub const HEADER_MESSAGE_ID: &str = "Nats-Msg-Id";
/// Present on a dispatch that may have been published before: the executor asks before it starts (rule R5).
pub const HEADER_AGAIN: &str = "Orchestr8-Again";

/// Stream metadata: which database this stream belongs to.
pub const METADATA_INSTALLATION: &str = "orchestr8.installation";
/// Stream metadata: which creation of the stream this is.
pub const METADATA_INCARNATION: &str = "orchestr8.incarnation";
/// Consumer metadata: the queue it serves.
pub const METADATA_QUEUE: &str = "orchestr8.queue";
/// Consumer metadata: the priority it serves.
pub const METADATA_PRIORITY: &str = "orchestr8.priority";

/// Longest name of a queue, in bytes.
pub const QUEUE_NAME_BYTES_MAX: usize = 64;

/// Why a text is not a queue's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a queue name: use 1 to {QUEUE_NAME_BYTES_MAX} of a-z, 0-9, `-` and `_`, starting with a letter or digit")]
pub struct QueueNameError(pub String);

/// Checks the name of a queue: it becomes a subject token and part of a consumer's name.
///
/// # Errors
/// [`QueueNameError`] names the text and the allowed form.
pub fn check_queue_name(name: &str) -> Result<(), QueueNameError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    let starts_well = name.as_bytes().first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if starts_well && name.len() <= QUEUE_NAME_BYTES_MAX && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(QueueNameError(name.to_owned()))
    }
}

/// Where tasks of a queue and priority are published: `orchestr8.task.<queue>.<priority>`.
#[must_use]
pub fn task_subject(queue: &str, priority: Priority) -> String {
    format!("orchestr8.task.{queue}.{priority}")
}

/// The durable pull consumer of a queue and priority: `agents-normal`.
#[must_use]
pub fn consumer_name(queue: &str, priority: Priority) -> String {
    format!("{queue}-{priority}")
}

/// The queue of a consumer's name; none: it is not one of ours.
#[must_use]
pub fn queue_of_consumer(name: &str) -> Option<String> {
    let (queue, priority) = name.rsplit_once('-')?;
    priority.parse::<Priority>().ok().map(|_| queue.to_owned())
}

/// Where executors publish outcomes of a shard.
#[must_use]
pub fn outcome_subject(shard: u16) -> String {
    format!("orchestr8.outcome.{shard}")
}

/// The shard in an outcome's subject.
#[must_use]
pub fn shard_of_outcome_subject(subject: &str) -> Option<u16> {
    subject.strip_prefix("orchestr8.outcome.")?.parse().ok()
}

/// Where executors ask the owner of a shard.
#[must_use]
pub fn claim_subject(shard: u16) -> String {
    format!("orchestr8.claim.{shard}")
}

/// The shard in a claim's subject.
#[must_use]
pub fn shard_of_claim_subject(subject: &str) -> Option<u16> {
    subject.strip_prefix("orchestr8.claim.")?.parse().ok()
}

/// Where one executor beats. The first half of its incarnation is a token of its own: see [`crate::login::Login::seat`].
#[must_use]
pub fn beat_subject(incarnation: Incarnation) -> String {
    let (seat, life) = incarnation.0.as_u64_pair();
    format!("orchestr8.beat.{seat:016x}.{life:016x}")
}

/// Where all executors of one login beat.
#[must_use]
pub fn beats_of_seat(seat: u64) -> String {
    format!("orchestr8.beat.{seat:016x}.*")
}

/// Where one executor listens.
#[must_use]
pub fn control_subject(incarnation: Incarnation) -> String {
    let (seat, life) = incarnation.0.as_u64_pair();
    format!("orchestr8.control.{seat:016x}.{life:016x}")
}

/// Where all executors of one login listen.
#[must_use]
pub fn control_of_seat(seat: u64) -> String {
    format!("orchestr8.control.{seat:016x}.*")
}

/// Where messages of a consumer of [`TASKS_STREAM`] are asked for.
#[must_use]
pub fn next_subject(consumer: &str) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{TASKS_STREAM}.{consumer}")
}

/// Where messages of a consumer of [`TASKS_STREAM`] are acknowledged.
#[must_use]
pub fn ack_subjects(consumer: &str) -> String {
    format!("$JS.ACK.{TASKS_STREAM}.{consumer}.>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_names_are_subject_tokens() {
        for good in ["default", "gpu-a100", "7", "a_b"] {
            assert_eq!(check_queue_name(good), Ok(()));
        }
        for bad in ["", "Agents", "a.b", "a b", "*", ">", "-a", &"a".repeat(65)] {
            assert!(check_queue_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_outcome_subject_names_its_shard() {
        assert_eq!(shard_of_outcome_subject(&outcome_subject(4095)), Some(4095));
        assert_eq!(shard_of_outcome_subject("orchestr8.outcome.x"), None);
        assert_eq!(shard_of_claim_subject(&claim_subject(7)), Some(7));
    }
}
