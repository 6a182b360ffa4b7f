//! Every statement is valid against the migrated schema, and the schema explains itself.

use super::migrated;
use anyhow::Result;
use orchestr8_store::migrate::Database;
use sqlx::{AssertSqlSafe, Connection, Executor, SqlSafeStr};

const UNCOMMENTED: &str = "select c.relname || coalesce('.' || a.attname, '')
from pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'public'
left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relkind = 'r' and c.relname <> '_sqlx_migrations' and col_description(c.oid, a.attnum) is null
union all
select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'public'
where c.relkind = 'r' and c.relname <> '_sqlx_migrations' and obj_description(c.oid, 'pg_class') is null order by 1";
const UNEXPLAINED_INDEXES: &str = "select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid
join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'public'
where not i.indisprimary and obj_description(c.oid, 'pg_class') is null order by 1";

#[tokio::test]
async fn every_statement_fits_the_schema() -> Result<()> {
    let mut connection = migrated().await?;
    let all = orchestr8_store::migrate::statements().into_iter().chain(orchestr8_store::read::statements());
    let mut count = 0;
    for (name, sql) in all {
        let prepared = (&mut connection).prepare(AssertSqlSafe(sql).into_sql_str()).await;
        assert!(prepared.is_ok(), "{name}: {:?}", prepared.err());
        count += 1;
    }
    assert!(count > 30, "only {count} statements are listed");
    connection.close().await?;
    Ok(())
}

#[tokio::test]
async fn every_table_and_column_has_a_comment_and_every_index_says_whom_it_serves() -> Result<()> {
    let mut connection = migrated().await?;
    let uncommented: Vec<String> = sqlx::query_scalar(UNCOMMENTED).fetch_all(&mut connection).await?;
    assert!(uncommented.is_empty(), "{} without comment: {uncommented:?}", uncommented.len());
    let unexplained: Vec<String> = sqlx::query_scalar(UNEXPLAINED_INDEXES).fetch_all(&mut connection).await?;
    assert!(unexplained.is_empty(), "{unexplained:?}");
    connection.close().await?;
    Ok(())
}

#[tokio::test]
async fn preparing_twice_and_together_gives_the_same_installation() -> Result<()> {
    let shared = tokio::task::spawn_blocking(crate::harness::Servers::shared_postgres).await??;
    let url = crate::harness::installation::create_database(shared.first.database_url.as_deref().unwrap_or_default()).await?;
    let database = Database::new(&url)?;
    let (one, two) = tokio::join!(database.prepare(16), database.prepare(32));
    let (one, two) = (one?, two?);
    assert_eq!(one, two, "the first one decides");
    assert_eq!(database.prepare(64).await?, one);
    Ok(())
}
