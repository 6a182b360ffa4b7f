//! What work cost the database: statements, rows and pages by table, and whether a table was read from end to end.

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection, Row};
use std::collections::BTreeMap;
use std::ops::Sub;

/// The tables that grow with what was ever submitted. The others have a row for each shard, lane or queue.
pub const GROWING: [&str; 7] =
    ["workflow_executions", "task_executions", "task_results", "task_attempts", "workflow_events", "plans", "idempotency_keys"];

/// Pages are those of the table, its indexes and its overflow, found in memory or read.
const TABLES: &str = "select s.relname::text as name, s.seq_scan, s.n_tup_ins + s.n_tup_upd + s.n_tup_del as written,
  s.seq_tup_read + coalesce(s.idx_tup_fetch, 0) as fetched,
  b.heap_blks_read + b.heap_blks_hit + coalesce(b.idx_blks_read, 0) + coalesce(b.idx_blks_hit, 0)
    + coalesce(b.toast_blks_read, 0) + coalesce(b.toast_blks_hit, 0) + coalesce(b.tidx_blks_read, 0) + coalesce(b.tidx_blks_hit, 0) as pages
from pg_stat_user_tables s join pg_statio_user_tables b using (relid)";
const TRANSACTIONS: &str = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
/// Their counts are complete once they have ended.
const OTHERS: &str = "select count(*) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'";

/// Counts up to a moment, or between two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Ended transactions; the engine's statements are one each.
    pub transactions: i64,
    /// By table, those of [`GROWING`].
    pub tables: BTreeMap<String, Table>,
}

/// What one table has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Table {
    /// Reads from end to end.
    pub scans: i64,
    /// Pages that were looked at; a page that was looked at twice counts twice.
    pub pages: i64,
    /// Rows that came out of the table for some statement.
    pub fetched: i64,
    /// Rows that were inserted, updated or deleted.
    pub written: i64,
}

impl Touched {
    /// All counts so far; none when others are still connected, since a connection tells its counts when it likes, and at its end.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn so_far(url: &str) -> Result<Option<Self>> {
        let mut connection = PgConnection::connect(url).await?;
        let others: i64 = sqlx::query_scalar(OTHERS).fetch_one(&mut connection).await?;
        if others > 0 {
            connection.close().await?;
            return Ok(None);
        }
        let transactions = sqlx::query_scalar(TRANSACTIONS).fetch_one(&mut connection).await?;
        let rows = sqlx::query(TABLES).fetch_all(&mut connection).await?;
        let mut tables = BTreeMap::new();
        for row in rows {
            let name: String = row.try_get("name")?;
            if GROWING.contains(&name.as_str()) {
                let [scans, pages, fetched, written] = ["seq_scan", "pages", "fetched", "written"].map(|column| row.try_get(column));
                tables.insert(name, Table { scans: scans?, pages: pages?, fetched: fetched?, written: written? });
            }
        }
        connection.close().await?;
        ensure!(tables.len() == GROWING.len(), "of {GROWING:?} there are only {:?}", tables.keys());
        Ok(Some(Self { transactions, tables }))
    }

    /// Pages of all tables.
    #[must_use]
    pub fn pages(&self) -> i64 {
        self.tables.values().map(|table| table.pages).sum()
    }

    /// Rows that were read, of all tables.
    #[must_use]
    pub fn fetched(&self) -> i64 {
        self.tables.values().map(|table| table.fetched).sum()
    }

    /// Rows that were written, of all tables.
    #[must_use]
    pub fn written(&self) -> i64 {
        self.tables.values().map(|table| table.written).sum()
    }

    /// The tables that were read from end to end.
    #[must_use]
    pub fn scanned(&self) -> Vec<&str> {
        self.tables.iter().filter(|(_, table)| table.scans > 0).map(|(name, _)| name.as_str()).collect()
    }

    /// What was counted since.
    ///
    /// # Errors
    /// When there are other tables now.
    pub fn since(self, before: &Self) -> Result<Self> {
        let difference = |(name, table): (String, Table)| {
            let before = before.tables.get(&name).with_context(|| format!("{name} is new"))?;
            Ok((name, table - *before))
        };
        let transactions = self.transactions - before.transactions;
        Ok(Self { transactions, tables: self.tables.into_iter().map(difference).collect::<Result<_>>()? })
    }
}

impl Sub for Table {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            scans: self.scans - before.scans,
            pages: self.pages - before.pages,
            fetched: self.fetched - before.fetched,
            written: self.written - before.written,
        }
    }
}
