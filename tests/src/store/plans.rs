//! The hot queries use their indexes, also when the tables are large.

use super::migrated;
use anyhow::Result;
use orchestr8_store::{load, queue};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

/// Executions of four tasks each: of a hundred thousand tasks two thousand are queued, a hundred run, and fifty wait for a time.
const ROWS: [&str; 4] = [
    "insert into plans (hash, plan) values ('\\x00', '{}')",
    "with numbers as (select n, (lpad(to_hex(n), 16, '0') || '80000000000' || '00000')::uuid as id from generate_series(1, 25000) n)
insert into workflow_executions (id, workflow_name, status, created_at, updated_at, plan_hash)
select id, 'w', 'completed', now(), now(), '\\x00' from numbers",
    "with numbers as (select n, (lpad(to_hex((n - 1) / 4 + 1), 16, '0') || '80000000000' || lpad(to_hex((n - 1) % 4 + 1), 5, '0'))::uuid as id,
  (lpad(to_hex((n - 1) / 4 + 1), 16, '0') || '80000000000' || '00000')::uuid as workflow from generate_series(1, 100000) n)
insert into task_executions (id, workflow_id, task_name, agent_name, task_description, status, priority, queue, created_at, shard,
  dispatch_sequence, dispatch_id, run_id, incarnation, due_at)
select id, workflow, 't', 'run', 't',
  case when n % 50 = 0 then 'queued' when n % 1000 = 1 then 'running' when n % 2000 = 2 then 'waiting' else 'completed' end,
  'normal', 'default', now(), n % 16, n, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(),
  case when n % 2000 = 2 then now() end from numbers",
    "insert into task_results (task_execution_id, result_type, result_content) select id, 'summary', '1' from task_executions",
];

async fn filled() -> Result<PgConnection> {
    let mut connection = migrated().await?;
    for (number, sql) in ROWS.iter().enumerate() {
        sqlx::query(AssertSqlSafe(*sql)).execute(&mut connection).await.map_err(|error| anyhow::anyhow!("{number}: {error}"))?;
    }
    sqlx::query("analyze").execute(&mut connection).await?;
    Ok(connection)
}

#[tokio::test]
async fn hot_queries_never_scan_a_table() -> Result<()> {
    let mut connection = filled().await?;
    let first = "array['00000000-0000-0001-8000-000000000000'::uuid, '00000000-0000-0777-8000-000000000000']";
    let last = "array['00000000-0000-0001-8000-0000000fffff'::uuid, '00000000-0000-0777-8000-0000000fffff']";
    let shards = "array[0, 1, 2, 3]";
    let values: [(&str, &str, Vec<&str>); 7] = [
        ("load", load::LOAD, vec![first, first, last]),
        ("outputs", load::OUTPUTS, vec![first]),
        ("queued above", queue::QUEUED_ABOVE, vec!["2", "'default'", "'normal'", "50000", "100"]),
        ("queued through", queue::QUEUED_THROUGH, vec!["2", "'default'", "'normal'", "0", "50000", "100"]),
        ("due", queue::DUE, vec![shards, "now()", "100"]),
        ("next due", queue::NEXT_DUE, vec![shards, "now()"]),
        ("running", queue::RUNNING, vec![shards]),
    ];
    for (name, sql, values) in values {
        let plan = explained(&mut connection, sql, &values).await?;
        for table in ["task_executions", "workflow_executions", "task_results"] {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{name}:\n{plan}");
        }
    }
    for (name, sql) in orchestr8_store::read::statements() {
        if ["depths", "oldest_queued"].contains(&name) {
            let plan = explained(&mut connection, sql, &[]).await?;
            assert!(!plan.contains("Seq Scan on task_executions"), "{name}:\n{plan}");
        }
    }
    let unindexed = explained(&mut connection, "select count(*) from task_executions where task_name = $1", &["'x'"]).await?;
    assert!(unindexed.contains("Seq Scan on task_executions"), "this test would see one:\n{unindexed}");
    connection.close().await?;
    Ok(())
}

/// The plan with the values in place of `$1` and so on, highest first so that `$1` does not hit `$10`.
async fn explained(connection: &mut PgConnection, sql: &str, values: &[&str]) -> Result<String> {
    let numbered = values.iter().enumerate().rev();
    let text = numbered.fold(sql.to_owned(), |text, (index, value)| text.replace(&format!("${}", index + 1), value));
    let lines = sqlx::query(AssertSqlSafe(format!("explain {text}"))).fetch_all(connection).await?;
    Ok(lines.iter().map(|line| line.get::<String, _>(0)).collect::<Vec<_>>().join("\n"))
}
