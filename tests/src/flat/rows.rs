//! Large tables in little time: copies of an execution that the engine has made itself, under ids of their own.

use anyhow::{Context, Result, ensure};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

/// Executions of one task in one insert: a transaction of a million rows would fill the log.
const CHUNK: usize = 50_000;
/// The time in the id of the first copy of the first series: July 2017, before every id that was really drawn.
const FIRST_MS: usize = 1_500_000_000_000;
/// Between the first copies of two series; a millisecond for each copy.
const SERIES_MS: usize = 1_000_000_000;

/// Every column of a table but those that a copy has of its own.
const COLUMNS: &str = "select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
where attrelid = $1::regclass and attnum > 0 and not attisdropped and attname <> all ($2)";

/// A table whose rows are copied.
struct Layout {
    table: &'static str,
    /// The column that says whose row it is.
    key: &'static str,
    /// Whether that is the execution or its task.
    of: Whose,
    /// Columns that a copy has of its own, and what they are.
    own: &'static [&'static str],
    values: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Execution,
    Task,
}

const LAYOUTS: [Layout; 5] = [
    Layout { table: "workflow_executions", key: "id", of: Whose::Execution, own: &["id"], values: "n.execution" },
    Layout {
        table: "task_executions",
        key: "id",
        of: Whose::Task,
        own: &["id", "workflow_id", "shard", "dispatch_sequence", "dispatch_id"],
        values: "n.task, n.execution, n.shard, case when o.dispatch_sequence is not null then n.number end,
            case when o.dispatch_id is not null then gen_random_uuid() end",
    },
    Layout {
        table: "task_results",
        key: "task_execution_id",
        of: Whose::Task,
        own: &["id", "task_execution_id"],
        values: "gen_random_uuid(), n.task",
    },
    Layout {
        table: "task_attempts",
        key: "task_execution_id",
        of: Whose::Task,
        own: &["run_id", "task_execution_id"],
        values: "gen_random_uuid(), n.task",
    },
    Layout { table: "workflow_events", key: "workflow_id", of: Whose::Execution, own: &["workflow_id"], values: "n.execution" },
];

/// Tables in which every execution has a row.
const EVERY_ONE_HAS: [&str; 3] = ["workflow_executions", "task_executions", "workflow_events"];

/// Copies of one execution.
#[derive(Debug, Clone, Copy)]
pub struct Copies {
    /// An execution of one task, in any state.
    pub original: Uuid,
    /// How many copies, of all its rows.
    pub count: usize,
    /// Of the installation; copies lie in all of them.
    pub shards: u16,
    /// Where among the ids these copies lie; each original has another.
    pub series: u8,
}

/// Inserts the copies; of the rows that each insert wrote the fewest, 0 where the original has none in some table. Their ids are older than every id that is drawn from now on, as those of a table that grew would be.
///
/// # Errors
/// When there is no such execution, or the database refuses.
pub async fn insert(url: &str, copies: Copies) -> Result<u64> {
    let mut connection = PgConnection::connect(url).await?;
    let (mut from, mut fewest) = (0, u64::MAX);
    while from < copies.count {
        let through = copies.count.min(from + CHUNK);
        let mut transaction = connection.begin().await?;
        for layout in &LAYOUTS {
            let written = insert_chunk(&mut transaction, &copies, (layout, from, through)).await.context(layout.table)?;
            fewest = fewest.min(written);
            ensure!(written > 0 || !EVERY_ONE_HAS.contains(&layout.table), "there is no execution {} in {}", copies.original, layout.table);
        }
        transaction.commit().await?;
        from = through;
    }
    sqlx::query("vacuum analyze workflow_executions, task_executions, task_results, task_attempts, workflow_events")
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(fewest)
}

/// Writes to the disk what waits for it, so that it is not written while something is measured. The server's other databases wait too.
///
/// # Errors
/// When the database refuses.
pub async fn settle(url: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query("checkpoint").execute(&mut connection).await?;
    Ok(connection.close().await?)
}

/// The layout of the ids is that of `proto::ids`: milliseconds, version, shard, variant and a number, ordinal.
async fn insert_chunk(connection: &mut PgConnection, copies: &Copies, (layout, from, through): (&Layout, usize, usize)) -> Result<u64> {
    let Layout { table, key, own, values, of } = layout;
    let others: Option<String> = sqlx::query_scalar(COLUMNS).bind(table).bind(own).fetch_one(&mut *connection).await?;
    let others = others.context("it has no columns")?;
    let kept = others.split(", ").map(|column| format!("o.{column}")).collect::<Vec<_>>().join(", ");
    let (own, shards) = (own.join(", "), copies.shards);
    let first_ms = FIRST_MS + usize::from(copies.series) * SERIES_MS;
    let original = copies.original.as_u128() + u128::from(*of == Whose::Task);
    let sql = format!(
        "with n as (
          select number, number % {shards} as shard, (prefix || '00000')::uuid as execution, (prefix || '00001')::uuid as task
          from (select number, lpad(to_hex({first_ms} + number), 12, '0') || '7'
              || lpad(to_hex(number % {shards}), 3, '0') || '8' || lpad(to_hex(number), 10, '0') as prefix
            from generate_series({from}::bigint + 1, {through}) number) numbered)
        insert into {table} ({own}, {others}) select {values}, {kept} from n cross join {table} o where o.{key} = $1"
    );
    Ok(sqlx::query(AssertSqlSafe(sql)).bind(Uuid::from_u128(original)).execute(connection).await?.rows_affected())
}
