//! Processor time, statements and write-ahead log between two moments.

use super::figures::Figures;
use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// `/proc/PID/stat` counts in hundredths of a second on every Linux, whatever the kernel's own clock.
const TICK: Duration = Duration::from_millis(10);
/// Fields of `/proc/PID/stat` after the name: the parent, and processor time in user and kernel mode, own and of ended children.
const PARENT: usize = 1;
const OWN: [usize; 2] = [11, 12];
const CHILDREN: [usize; 2] = [13, 14];

/// How statements are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedBy {
    /// `pg_stat_statements`: calls from clients, `begin` and `commit` included, what a function does inside it excluded.
    Statements,
    /// Where that extension is not installed: ended transactions.
    Transactions,
}

/// A process and what counts as its own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metered {
    /// It alone.
    Alone(i32),
    /// With its children, alive or ended: Postgres has one per connection.
    WithChildren(i32),
}

/// Reads one database and some processes.
#[derive(Debug)]
pub struct Meters {
    connection: Mutex<PgConnection>,
    counted_by: CountedBy,
    database: String,
    processes: Vec<(&'static str, Metered)>,
}

/// What the meters showed at one moment.
#[derive(Debug)]
pub struct Reading {
    at: Instant,
    cpu: BTreeMap<&'static str, Duration>,
    statements: i64,
    wal_bytes: f64,
}

impl Meters {
    /// Over the database `database`, read through another one (`server_url`), so that reading is not counted.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn new(server_url: &str, database: &str, counted_by: CountedBy, processes: Vec<(&'static str, Metered)>) -> Result<Self> {
        let mut connection = PgConnection::connect(server_url).await?;
        if counted_by == CountedBy::Statements {
            sqlx::query("create extension if not exists pg_stat_statements").execute(&mut connection).await?;
        }
        Ok(Self { connection: Mutex::new(connection), counted_by, database: database.to_owned(), processes })
    }

    /// Reads all.
    ///
    /// # Errors
    /// When Postgres does not answer or a process is gone.
    pub async fn read(&self) -> Result<Reading> {
        let mut connection = self.connection.lock().await;
        let statements = self.statements(&mut connection).await?;
        let wal = "select (pg_current_wal_lsn() - '0/0'::pg_lsn)::float8";
        let wal_bytes = sqlx::query_scalar(wal).fetch_one(&mut *connection).await?;
        let cpu = self.processes.iter().map(|(name, metered)| Ok((*name, metered.cpu()?))).collect::<Result<_>>()?;
        Ok(Reading { at: Instant::now(), cpu, statements, wal_bytes })
    }

    async fn statements(&self, connection: &mut PgConnection) -> Result<i64> {
        let query = match self.counted_by {
            CountedBy::Statements => {
                "select coalesce(sum(s.calls), 0)::bigint from pg_stat_statements(false) s join pg_database d on d.oid = s.dbid where d.datname = $1"
            }
            CountedBy::Transactions => "select xact_commit + xact_rollback from pg_stat_database where datname = $1",
        };
        Ok(sqlx::query_scalar(query).bind(&self.database).fetch_one(connection).await?)
    }
}

impl Reading {
    /// What each of `tasks` tasks cost since `before`; `looks` statements were the measurement's own.
    #[must_use]
    pub fn per_task(&self, before: &Self, tasks: f64, looks: i64) -> Figures {
        let mut figures = Figures::new();
        figures.insert("statements_per_task".to_owned(), self.statements_since(before, looks) / tasks);
        figures.insert("wal_bytes_per_task".to_owned(), (self.wal_bytes - before.wal_bytes) / tasks);
        for (name, cpu) in &self.cpu {
            let us = cpu.saturating_sub(before.cpu[name]).as_secs_f64() * 1e6;
            figures.insert(format!("cpu_us_per_task.{name}"), us / tasks);
        }
        figures
    }

    /// What each second cost since `before`, in a phase of that name.
    #[must_use]
    pub fn per_second(&self, before: &Self, phase: &str) -> Figures {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let mut figures = Figures::new();
        figures.insert(format!("{phase}_statements_per_s"), self.statements_since(before, 0) / seconds);
        for (name, cpu) in &self.cpu {
            let ms = cpu.saturating_sub(before.cpu[name]).as_secs_f64() * 1e3;
            figures.insert(format!("{phase}_cpu_ms_per_s.{name}"), ms / seconds);
        }
        figures
    }

    fn statements_since(&self, before: &Self, looks: i64) -> f64 {
        let count = self.statements.saturating_sub(before.statements).saturating_sub(looks).max(0);
        i32::try_from(count).map_or(f64::INFINITY, f64::from)
    }
}

impl CountedBy {
    /// For the report.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Statements => "pg_stat_statements",
            Self::Transactions => "pg_stat_database.xact_commit",
        }
    }
}

impl Metered {
    fn cpu(self) -> Result<Duration> {
        match self {
            Self::Alone(pid) => Ok(ticks(&fields(pid)?, &OWN)),
            Self::WithChildren(pid) => {
                let first = fields(pid)?;
                let living: Duration = children(pid)?.iter().map(|child| ticks(child, &OWN)).sum();
                Ok(ticks(&first, &OWN) + ticks(&first, &CHILDREN) + living)
            }
        }
    }
}

/// The fields of `/proc/PID/stat` after the name, which may hold anything.
fn fields(pid: i32) -> Result<Vec<u64>> {
    let text =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).with_context(|| format!("process {pid} is gone"))?;
    let (_, rest) = text.rsplit_once(')').context("a name in parentheses")?;
    Ok(rest.split_whitespace().map(|field| field.parse().unwrap_or_default()).collect())
}

/// The fields of all children that are alive.
fn children(parent: i32) -> Result<Vec<Vec<u64>>> {
    let parent = u64::try_from(parent)?;
    let pids = std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter_map(|pid| fields(pid).ok()).filter(|fields| fields.get(PARENT) == Some(&parent)).collect())
}

fn ticks(fields: &[u64], which: &[usize]) -> Duration {
    let ticks: u64 = which.iter().filter_map(|field| fields.get(*field)).sum();
    TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_as_processor_time() {
        let own = i32::try_from(std::process::id()).expect("a process id");
        let before = Metered::Alone(own).cpu().expect("alive");
        let begun = Instant::now();
        while begun.elapsed() < TICK * 5 {
            std::hint::spin_loop();
        }
        assert!(Metered::Alone(own).cpu().expect("alive") > before);
    }

    #[test]
    fn an_ended_child_counts_with_its_parent() {
        let own = i32::try_from(std::process::id()).expect("a process id");
        let both = Metered::WithChildren(own);
        let before = both.cpu().expect("alive");
        let ended = std::process::Command::new("sh").args(["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"]).status();
        assert!(ended.expect("a shell").success());
        assert!(both.cpu().expect("alive") > before);
    }
}
