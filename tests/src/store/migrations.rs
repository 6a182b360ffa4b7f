//! The newest migration works under the version before: what a coordinator of that version has prepared goes on.

use super::empty;
use crate::harness::binary;
use anyhow::{Context, Result, ensure};
use sqlx::{AssertSqlSafe, Connection, Row};
use uuid::Uuid;

/// What a lane of the version before asks as long as it lives, with nothing to save.
const RENEW: &str = "select now, next_due, inbox, lanes, rank, vacant, next_expiry
from renew_lane($1, 'before', true, 0, '{}'::position_row[], 10000, '{}'::mark_row[])";
const TAKE: &str = "select shard, stream_incarnation, outcome_sequence, outcome_time from take_vacant(2, $1, 'before', 10000)";
const RETAKE: &str = "select shard, stream_incarnation, outcome_sequence, outcome_time from retake_shards(array[$1], $1, 'before', 10000)";
const HAND_OVER: &str = "select hand_over_shards(array[0], array[$1])";

/// The migrations in their order.
fn migrations() -> Result<Vec<String>> {
    let folder = binary::workspace().join("coordinator/store/migrations");
    let mut files: Vec<_> = std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    files.iter().map(|file| std::fs::read_to_string(file).with_context(|| file.display().to_string())).collect()
}

#[tokio::test]
async fn what_a_lane_of_the_version_before_has_prepared_goes_on() -> Result<()> {
    let mut connection = empty().await?;
    sqlx::query("set plan_cache_mode = force_generic_plan").execute(&mut connection).await?;
    let migrations = migrations()?;
    let (newest, before) = migrations.split_last().context("migrations")?;
    for migration in before {
        sqlx::raw_sql(AssertSqlSafe(migration.clone())).execute(&mut connection).await?;
    }
    sqlx::raw_sql("insert into installation (shard_count) values (8); insert into shards (shard) select generate_series(0, 7)")
        .execute(&mut connection)
        .await?;
    let (lane, lease) = (Uuid::new_v4(), Uuid::new_v4());
    for round in 1..=3 {
        let renewed = sqlx::query(RENEW).bind(lane).fetch_one(&mut connection).await.with_context(|| format!("round {round}"))?;
        ensure!(renewed.try_get::<i32, _>("lanes")? == 1, "round {round}");
        let taken = sqlx::query(TAKE).bind(lease).fetch_all(&mut connection).await.with_context(|| format!("round {round}"))?;
        let held = sqlx::query(RETAKE).bind(lease).fetch_all(&mut connection).await.with_context(|| format!("round {round}"))?;
        ensure!(taken.len() == 2 && held.len() == 2 * round, "round {round}: {} taken, {} held", taken.len(), held.len());
        if round == 1 {
            sqlx::raw_sql(AssertSqlSafe(newest.clone())).execute(&mut connection).await?;
        }
    }
    sqlx::query(HAND_OVER).bind(lease).execute(&mut connection).await?;
    let held = sqlx::query(RETAKE).bind(lease).fetch_all(&mut connection).await?;
    ensure!(held.len() == 5, "{} held", held.len());
    connection.close().await?;
    Ok(())
}
