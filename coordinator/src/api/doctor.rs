//! `GET /api/v1/doctor`: everything that an operator can get wrong, as this coordinator sees it, with what to do about it.

use super::ApiContext;
use super::parameters::Parameters;
use super::problem::Problem;
use super::queues::{self, QueueRecord};
use super::shards;
use super::silence::{Holder, Silent};
use crate::bus::facts::BrokerFacts;
use crate::engine::handle::ExecutorView;
use axum::Json;
use axum::extract::State;
use orchestr8_proto::times::ProtocolTimes;
use orchestr8_store::read::ReadError;
use orchestr8_store::read::operating::{self, PostgresFacts, STUCK_SHOWN_MAX, ShardRecord, StuckRun};
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt;
use std::time::Duration;
use time::OffsetDateTime;

/// This program's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A statement that takes longer than this makes every commit slow.
const ROUND_TRIP_SLOW: Duration = Duration::from_millis(20);
/// Clocks that differ by more make times in lists and logs misleading. The protocol itself trusts none of them.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(2);
/// Part of a limit from which on it is told.
const FULL_WARN: f64 = 0.8;
/// Somebody should have taken it by then, also on a busy machine.
const INBOX_AGE_MAX_S: f64 = 60.0;
/// A queue whose oldest task waits longer, though somebody serves it and it is not paused, is worth a look.
const QUEUED_AGE_WARN_S: f64 = 3_600.0;
/// Of many that are alike, so many are named.
const NAMED_MAX: usize = 3;

/// How one check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    Ok,
    /// It works, but somebody should look.
    Warn,
    /// Something does not work.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Check {
    /// A stable word.
    name: &'static str,
    level: Level,
    /// What was found.
    message: String,
    /// What to do; none: nothing.
    remedy: Option<String>,
}

/// What Postgres said, all at once.
struct Database {
    round_trip: Duration,
    clock_ahead: time::Duration,
    postgres: PostgresFacts,
    shards: Vec<ShardRecord>,
    stuck: Vec<StuckRun>,
}

/// `GET /api/v1/doctor`: 200 whatever it finds; the worst is in `level`.
pub(super) async fn doctor(State(context): State<ApiContext>, parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.finish()?;
    // Once: in the middle of the checks it would give half of them.
    let has_listened = context.engine.has_listened();
    let all = context.engine.all_executors();
    let executors: Vec<ExecutorView> = all.iter().filter(|executor| executor.silence.is_none()).cloned().collect();
    let broker = match context.engine.ask_broker().await {
        Some(answer) => answer.map_err(|error| error.to_string()),
        None => Err("this coordinator has no connection yet, or is stopping".to_owned()),
    };
    let mut checks = Vec::new();
    match database(&context, &executors).await {
        Ok(database) => {
            checks.extend(postgres(&database));
            checks.extend(owners(&database, broker.as_ref().ok()));
            checks.extend(has_listened.then(|| stuck(&database.stuck, &all, context.settings.times)));
        }
        Err(error) => {
            checks.push(fail("postgres", error.to_string(), "see whether Postgres runs and takes connections; /readyz says more"));
        }
    }
    match &broker {
        Ok(facts) => checks.extend(nats(facts)),
        Err(error) => checks.push(fail("nats", error.clone(), "see whether nats-server runs with JetStream; /readyz says more")),
    }
    checks.push(versions(&executors));
    match queues::all(&context).await {
        Ok(_) if !has_listened => {
            let message = "this coordinator has just begun to listen to executors".to_owned();
            checks.push(warn("executors", message, "ask again in some seconds"));
        }
        Ok(queues) => {
            checks.extend(served(&queues, &executors));
            checks.extend(silent(&all, context.settings.times));
        }
        Err(problem) => {
            checks.push(fail("queues", format!("the queues cannot be read ({})", problem.code().word()), "mend Postgres first"));
        }
    }
    let level = if checks.iter().any(|check| check.level == Level::Fail) {
        Level::Fail
    } else if checks.iter().any(|check| check.level == Level::Warn) {
        Level::Warn
    } else {
        Level::Ok
    };
    let now = OffsetDateTime::now_utc().unix_timestamp();
    Ok(Json(json!({ "version": VERSION, "level": level, "unix_time_s": now, "checks": checks })))
}

async fn database(context: &ApiContext, executors: &[ExecutorView]) -> Result<Database, ReadError> {
    let mut connection = context.reads.acquire().await?;
    let round_trip = operating::round_trip(&mut *connection).await?;
    let asked_at = OffsetDateTime::now_utc();
    let postgres = operating::postgres(&mut *connection).await?;
    let ours = asked_at + (OffsetDateTime::now_utc() - asked_at) / 2;
    let shards = operating::shards(&mut *connection).await?;
    let heard: Vec<_> = executors.iter().map(|executor| executor.incarnation.0).collect();
    let stuck = operating::stuck(&mut *connection, &heard).await?;
    Ok(Database { round_trip, clock_ahead: postgres.now - ours, postgres, shards, stuck })
}

fn postgres(database: &Database) -> Vec<Check> {
    let Database { round_trip, postgres, .. } = database;
    let shown = format!("Postgres {}, schema {}, a round trip in {round_trip:.1?}", postgres.version, postgres.migration.unwrap_or(0));
    let (used, max) = (postgres.connections, postgres.connections_max);
    let connections = format!("{used} of {max} connections are used");
    let crowded = part(u64::try_from(used).unwrap_or(0), u64::try_from(max).unwrap_or(0)) >= FULL_WARN;
    vec![
        match () {
            () if postgres.is_replica => fail("postgres", format!("{shown}; it is a replica"), "name the primary in the database's URL"),
            () if *round_trip > ROUND_TRIP_SLOW => {
                warn("postgres", shown, "every commit waits for it: put coordinator and Postgres near each other, and look at its load")
            }
            () => fine("postgres", shown),
        },
        match (postgres.fsync.as_str(), postgres.synchronous_commit.as_str()) {
            ("off", _) => warn("postgres_durability", "fsync is off".into(), "a crash of the machine can lose everything: set fsync = on"),
            (_, "off") => warn(
                "postgres_durability",
                "synchronous_commit is off".into(),
                "a crash loses accepted work of the last moments: set synchronous_commit = on",
            ),
            (_, level) => fine("postgres_durability", format!("fsync on, synchronous_commit {level}")),
        },
        if crowded {
            warn("postgres_connections", connections, "raise max_connections, or end what holds them; a coordinator takes 8 and 1 a lane")
        } else {
            fine("postgres_connections", connections)
        },
        clock("postgres_clock", "Postgres", database.clock_ahead),
        if postgres.quarantined > 0 {
            warn("quarantine", format!("{} events could not be applied", postgres.quarantined), "look with `orchestr8 quarantine list`")
        } else {
            fine("quarantine", "no event is quarantined".into())
        },
    ]
}

fn nats(facts: &BrokerFacts) -> Vec<Check> {
    let round_trip = Duration::from_micros(facts.round_trip_us);
    let shown = format!("nats-server {} at {}, JetStream answers in {round_trip:.1?}", facts.version, facts.address);
    let slow = round_trip > ROUND_TRIP_SLOW * 5;
    let mut checks = vec![
        if slow {
            warn("nats", shown, "every task waits for it: put coordinator and NATS near each other, and look at its load")
        } else {
            fine("nats", shown)
        },
        clock("nats_clock", "nats-server", time::Duration::microseconds(facts.clock_ahead_us)),
    ];
    let room = format!("{} bytes of JetStream's storage are used", facts.storage_bytes);
    checks.push(match facts.storage_bytes_max.map(|max| (part(facts.storage_bytes, max), max)) {
        Some((used, max)) if used >= FULL_WARN => {
            warn("nats_storage", format!("{room}, of {max}"), "raise the account's limit; tasks beyond it wait in Postgres")
        }
        Some((_, max)) => fine("nats_storage", format!("{room}, of {max}")),
        None => fine("nats_storage", room),
    });
    for stream in &facts.streams {
        let shown = format!("{}: {} messages, {} bytes, {} consumers", stream.name, stream.messages, stream.bytes, stream.consumers);
        let fullest = [(stream.bytes, stream.bytes_max), (stream.consumers, stream.consumers_max)];
        let fullest = fullest.into_iter().filter_map(|(used, max)| Some(part(used, max?))).fold(0.0, f64::max);
        checks.push(match () {
            () if stream.replicas_behind > 0 => warn(
                "nats_stream",
                format!("{shown}; {} of {} copies are not up to date", stream.replicas_behind, stream.replicas),
                "see which nats-server is away: `nats stream report`",
            ),
            () if fullest >= FULL_WARN => warn(
                "nats_stream",
                format!("{shown}; a limit is nearly reached"),
                "outcomes that are not decided fill it: see that the coordinators run; nothing needs to be purged by hand",
            ),
            () => fine("nats_stream", shown),
        });
    }
    checks
}

fn owners(database: &Database, broker: Option<&BrokerFacts>) -> Vec<Check> {
    let vacant: Vec<i32> = database.shards.iter().filter(|shard| !shard.is_owned).map(|shard| shard.shard).collect();
    let waiting: Vec<i32> = database.shards.iter().filter(|shard| shard.inbox_age_s > INBOX_AGE_MAX_S).map(|shard| shard.shard).collect();
    let stream = broker.and_then(shards::outcomes);
    let behind = database.shards.iter().filter_map(|shard| shards::behind(shard, stream)).max();
    let behind = behind.map(|behind| format!(", outcomes at most {behind} messages behind")).unwrap_or_default();
    let (shards, lanes) = (counted(database.shards.len(), "shard"), counted(database.postgres.lanes, "lane"));
    let shown = format!("{shards}, {lanes} of coordinators{behind}");
    vec![match () {
        () if !vacant.is_empty() => fail(
            "shards",
            format!("{shown}; nobody owns {vacant:?}"),
            "their work stands still: see that coordinators run; a lease that ran out is taken within seconds",
        ),
        () if !waiting.is_empty() => warn(
            "shards",
            format!("{shown}; commands wait for more than a minute in the inbox of {waiting:?}"),
            "look at the log of their owner, which `orchestr8 shards` names",
        ),
        () => fine("shards", shown),
    }]
}

fn stuck(stuck: &[StuckRun], executors: &[ExecutorView], times: ProtocolTimes) -> Check {
    // Whoever was heard after the rows were read is not silent.
    let silent = |run: &StuckRun| {
        let holder = Holder { name: &run.executor_id, incarnation: run.incarnation };
        Silent::holder(holder, executors, times).map(|silent| (run.task_id, run.name.clone(), silent))
    };
    let silent: Vec<_> = stuck.iter().filter_map(silent).collect();
    if silent.is_empty() {
        return fine("leases", "every running task's executor is heard".into());
    }
    let named: Vec<String> = silent.iter().take(NAMED_MAX).map(|(id, name, silent)| format!("{id} (`{name}`): {silent}")).collect();
    let count = match silent.len() {
        1 => "1 running task".to_owned(),
        all if stuck.len() >= STUCK_SHOWN_MAX => format!("{all} or more running tasks"),
        all => format!("{all} running tasks"),
    };
    let more = if silent.len() > NAMED_MAX { "; and others" } else { "" };
    let message = format!("the executor of {count} is not heard: {}{more}", named.join("; "));
    let lease_s = times.run_lease().as_secs_f64();
    let remedy = if silent.iter().any(|(_, _, silent)| silent.held_back) {
        let hold_s = (times.run_lease() + times.mass_silence_hold()).as_secs_f64();
        format!(
            "more than half of the executors fell silent together, which is hardly their death: look at the way between them and NATS; \
             unless they come back, these tasks run again {hold_s} s after the last heartbeat"
        )
    } else {
        format!("they run again {lease_s} s after the last heartbeat; where it lasts, look at the way between executors and NATS")
    };
    warn("leases", message, &remedy)
}

/// Executors that have fallen silent and that no newer one of their name has replaced.
fn silent(executors: &[ExecutorView], times: ProtocolTimes) -> Option<Check> {
    let silent: Vec<Silent> = executors.iter().filter_map(|executor| Silent::executor(executor, times)).collect();
    let alone: Vec<String> = silent.iter().filter(|silent| silent.replaced_by.is_none()).map(Silent::who).collect();
    let more = alone.len().checked_sub(NAMED_MAX).filter(|more| *more > 0).map(|more| format!(" and {more} more")).unwrap_or_default();
    let message = format!("{}{more}", alone.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", "));
    let remedy = "look whether it runs, and at the way between it and NATS; what it ran is in `orchestr8 list --status running`";
    (!alone.is_empty()).then(|| warn("executors", message, remedy))
}

fn versions(executors: &[ExecutorView]) -> Check {
    let others: Vec<String> = executors
        .iter()
        .filter(|executor| executor.version != VERSION)
        .map(|executor| format!("{} {}", executor.name, executor.version))
        .take(5)
        .collect();
    if others.is_empty() {
        return fine("versions", format!("all {} executors are of version {VERSION}, as this coordinator", executors.len()));
    }
    let message = format!("executors of other versions than this coordinator ({VERSION}): {}", others.join(", "));
    warn("versions", message, "mixed versions work during an upgrade; finish it")
}

fn served(queues: &[QueueRecord], executors: &[ExecutorView]) -> Vec<Check> {
    let mut checks = Vec::new();
    for queue in queues {
        let name = &queue.queue;
        if queue.is_paused() {
            let message = format!("queue `{name}` is paused, {} tasks are queued", queue.queued_total);
            checks.push(warn("queue", message, &format!("`orchestr8 queues resume {name}` when it should go on")));
        } else if queue.executors == 0 && queue.has_tasks() {
            let message = format!("queue `{name}` has tasks, and no executor takes work of it");
            let remedy = format!("start an executor with --queues {name}, or uncordon one (`orchestr8 executors list`)");
            checks.push(fail("queue", message, &remedy));
        } else if queue.oldest_queued_age_s.is_some_and(|age| age > QUEUED_AGE_WARN_S) {
            let message = format!("the oldest task of queue `{name}` has been queued for more than an hour");
            checks.push(warn("queue", message, "add executors or slots; `orchestr8 why TASK` says what it waits for"));
        } else {
            checks.push(fine("queue", format!("queue `{name}`: {} executors, {} tasks queued", queue.executors, queue.queued_total)));
        }
    }
    if executors.is_empty() {
        checks.push(warn("executors", "no executor is heard".into(), "start one: `orchestr8 executor`"));
    }
    checks
}

/// `1 lane`, `2 lanes`.
fn counted(count: impl fmt::Display, what: &str) -> String {
    let count = count.to_string();
    if count == "1" { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn clock(name: &'static str, whose: &str, ahead: time::Duration) -> Check {
    let side = if ahead.is_negative() { "behind" } else { "ahead of" };
    let message = format!("the clock of {whose} is {:.3} s {side} this coordinator's", ahead.unsigned_abs().as_secs_f64());
    if ahead.unsigned_abs() > CLOCK_DIFFERENCE_MAX {
        return warn(name, message, "times in lists and logs mislead: run NTP on all machines");
    }
    fine(name, message)
}

#[allow(clippy::cast_precision_loss, reason = "a part of a limit, for a person")]
fn part(used: u64, max: u64) -> f64 {
    if max == 0 { 0.0 } else { used as f64 / max as f64 }
}

fn fine(name: &'static str, message: String) -> Check {
    Check { name, level: Level::Ok, message, remedy: None }
}

fn warn(name: &'static str, message: String, remedy: &str) -> Check {
    Check { name, level: Level::Warn, message, remedy: Some(remedy.to_owned()) }
}

fn fail(name: &'static str, message: String, remedy: &str) -> Check {
    Check { name, level: Level::Fail, message, remedy: Some(remedy.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::super::silence::tests::{executor, incarnation, silent_for};
    use super::*;
    use orchestr8_core::leases::Standing;
    use time::macros::datetime;

    fn database() -> Database {
        let shard = ShardRecord {
            shard: 0,
            owner: Some("c".into()),
            is_owned: true,
            owned_since: None,
            expires_at: None,
            stream_incarnation: None,
            outcome_sequence: None,
            outcome_time: None,
            inbox: 0,
            inbox_age_s: 0.0,
        };
        let postgres = PostgresFacts {
            version: "15.1".into(),
            now: datetime!(2026-01-31 12:00 UTC),
            is_replica: false,
            synchronous_commit: "on".into(),
            fsync: "on".into(),
            connections_max: 100,
            connections: 10,
            migration: Some(6),
            installation: None,
            lanes: 1,
            quarantined: 0,
        };
        let (round_trip, clock_ahead) = (Duration::from_micros(300), time::Duration::ZERO);
        Database { round_trip, clock_ahead, postgres, shards: vec![shard], stuck: Vec::new() }
    }

    fn broker() -> BrokerFacts {
        BrokerFacts {
            address: "nats://h:1".into(),
            version: "2.15.1".into(),
            round_trip_us: 500,
            clock_ahead_us: 0,
            storage_bytes: 10,
            storage_bytes_max: None,
            streams: vec![crate::bus::facts::StreamFacts {
                name: "S".into(),
                messages: 1,
                bytes: 10,
                bytes_max: Some(100),
                last_sequence: 5,
                consumers: 4,
                consumers_max: Some(40_000),
                replicas: 1,
                replicas_behind: 0,
                incarnation: None,
            }],
        }
    }

    fn lost(runs: &[StuckRun]) -> Check {
        stuck(runs, &[], ProtocolTimes::default())
    }

    /// Every check that is not ok, with its level.
    fn found(database: &Database, broker: &BrokerFacts) -> Vec<(&'static str, Level)> {
        let checks =
            postgres(database).into_iter().chain(owners(database, Some(broker))).chain([lost(&database.stuck)]).chain(nats(broker));
        let found: Vec<Check> = checks.filter(|check| check.level != Level::Ok).collect();
        assert!(found.iter().all(|check| check.remedy.is_some()), "{found:?}");
        found.iter().map(|check| (check.name, check.level)).collect()
    }

    fn with(change: impl FnOnce(&mut Database)) -> Vec<(&'static str, Level)> {
        let mut changed = database();
        change(&mut changed);
        found(&changed, &broker())
    }

    fn with_broker(change: impl FnOnce(&mut BrokerFacts)) -> Vec<(&'static str, Level)> {
        let mut changed = broker();
        change(&mut changed);
        found(&database(), &changed)
    }

    #[test]
    fn what_is_well_is_ok_and_each_defect_of_postgres_has_its_line() {
        assert_eq!(with(|_| {}), vec![]);
        assert_eq!(with(|found| found.round_trip = Duration::from_millis(30)), [("postgres", Level::Warn)]);
        assert_eq!(with(|found| found.postgres.is_replica = true), [("postgres", Level::Fail)]);
        assert_eq!(with(|found| found.postgres.fsync = "off".into()), [("postgres_durability", Level::Warn)]);
        assert_eq!(with(|found| found.postgres.synchronous_commit = "off".into()), [("postgres_durability", Level::Warn)]);
        assert_eq!(with(|found| found.postgres.connections = 80), [("postgres_connections", Level::Warn)]);
        assert_eq!(with(|found| found.clock_ahead = time::Duration::seconds(-3)), [("postgres_clock", Level::Warn)]);
        assert_eq!(with(|found| found.postgres.quarantined = 1), [("quarantine", Level::Warn)]);
        assert_eq!(with(|found| found.shards[0].is_owned = false), [("shards", Level::Fail)]);
        assert_eq!(with(|found| found.shards[0].inbox_age_s = 61.0), [("shards", Level::Warn)]);
        assert_eq!(with(|found| found.stuck = vec![stuck_run()]), [("leases", Level::Warn)]);
    }

    fn stuck_run() -> StuckRun {
        let (executor_id, incarnation) = ("e1".into(), incarnation(1));
        StuckRun { task_id: uuid::Uuid::nil(), name: "t".into(), queue: "q".into(), executor_id, incarnation }
    }

    #[test]
    fn a_silent_executor_is_named_with_what_becomes_of_its_runs() {
        let times = ProtocolTimes::default();
        let told = |standing, others: &[ExecutorView]| {
            let executors: Vec<_> = [silent_for(9_000, standing, executor(1))].into_iter().chain(others.iter().cloned()).collect();
            (stuck(&[stuck_run()], &executors, times), silent(&executors, times))
        };
        let (leases, executors) = told(Standing::default(), &[]);
        assert!(
            leases.message.contains("the executor of 1 running task is") && leases.message.contains("its lease ends in about 6.0 s"),
            "{leases:?}"
        );
        assert!(leases.remedy.is_some_and(|remedy| remedy.starts_with("they run again 15 s after")));
        assert!(executors.is_some_and(|check| check.message.contains("`e1`") && check.message.ends_with("has been silent for 9.0 s")));
        let (leases, _) = told(Standing { held_back: true, replaced_by: None }, &[]);
        assert!(leases.remedy.is_some_and(|remedy| remedy.contains("run again 75 s after the last heartbeat")));
        let (leases, executors) = told(Standing { held_back: false, replaced_by: Some(incarnation(2)) }, &[executor(2)]);
        assert!(leases.message.contains("a newer `e1`"), "{leases:?}");
        assert_eq!(executors, None, "its successor works");
        assert_eq!(stuck(&[stuck_run()], &[executor(1)], times).level, Level::Ok, "it was heard meanwhile");
    }

    #[test]
    fn a_clock_is_ahead_or_behind_and_one_lane_is_one() {
        let said = |milliseconds| clock("x", "Postgres", time::Duration::milliseconds(milliseconds)).message;
        assert_eq!(said(-16), "the clock of Postgres is 0.016 s behind this coordinator's");
        assert_eq!(said(1_500), "the clock of Postgres is 1.500 s ahead of this coordinator's");
        let lanes = |lanes| {
            let mut found = database();
            found.postgres.lanes = lanes;
            owners(&found, None)[0].message.clone()
        };
        assert_eq!((lanes(1).as_str(), lanes(2).as_str()), ("1 shard, 1 lane of coordinators", "1 shard, 2 lanes of coordinators"));
    }

    #[test]
    fn each_defect_of_nats_has_its_line() {
        assert_eq!(with_broker(|found| found.round_trip_us = 200_000), [("nats", Level::Warn)]);
        assert_eq!(with_broker(|found| found.clock_ahead_us = 3_000_000), [("nats_clock", Level::Warn)]);
        assert_eq!(with_broker(|found| found.storage_bytes_max = Some(12)), [("nats_storage", Level::Warn)]);
        assert_eq!(with_broker(|found| found.streams[0].bytes = 90), [("nats_stream", Level::Warn)]);
        assert_eq!(with_broker(|found| found.streams[0].consumers = 39_000), [("nats_stream", Level::Warn)]);
        assert_eq!(with_broker(|found| found.streams[0].replicas_behind = 1), [("nats_stream", Level::Warn)]);
    }
}
