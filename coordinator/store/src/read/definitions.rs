//! Named definitions: reading them, and registering a new version.

use super::{ReadError, rfc3339};
use orchestr8_core::plan::Plan;
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, PgExecutor, Row};
use std::fmt::Write;
use time::OffsetDateTime;

/// One version of a named definition, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DefinitionRecord {
    /// Its name.
    pub name: String,
    /// From 1.
    pub version: i32,
    /// SHA-256 of the resolved definition, in hex.
    pub plan_hash: String,
    /// When it was registered.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// One version with its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DefinitionDetail {
    /// What lists show.
    #[serde(flatten)]
    pub record: DefinitionRecord,
    /// The YAML or JSON text as it was given.
    pub source: String,
}

/// A version that can be executed.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPlan {
    /// The resolved definition.
    pub plan: Plan,
    /// SHA-256 of its canonical JSON.
    pub plan_hash: [u8; 32],
}

/// What to register.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NewDefinition<'a> {
    /// The resolved definition; its name is the name.
    pub plan: &'a Plan,
    /// SHA-256 of its canonical JSON.
    pub plan_hash: [u8; 32],
    /// The text as it was given.
    pub source: &'a str,
}

/// What registering did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// It is the current version now.
    New(DefinitionRecord),
    /// The current version says the same: nothing was written.
    Unchanged(DefinitionRecord),
}

/// The highest version of a name, or the given one.
macro_rules! of_version {
    () => {
        " where d.name = $1 and ($2::int is null or d.version = $2) order by d.version desc limit 1"
    };
}

const ONE: &str = concat!("select d.name, d.version, d.plan_hash, d.created_at, d.source from workflow_definitions d", of_version!());

const PLAN: &str = concat!("select p.plan, d.plan_hash from workflow_definitions d join plans p on p.hash = d.plan_hash", of_version!());

const PAGE: &str = "select distinct on (name) name, version, plan_hash, created_at from workflow_definitions
    where name > $1 order by name, version desc limit $2";

/// One registration of a name at a time, so that versions have no gaps and equal content is seen.
const LOCK: &str = "select pg_advisory_xact_lock(hashtextextended('definition ' || $1, 0))";

const INSERT_PLAN: &str = "insert into plans (hash, plan) values ($1, $2) on conflict do nothing";

const INSERT: &str = "insert into workflow_definitions (name, version, plan_hash, source)
    select $1, coalesce(max(version), 0) + 1, $2, $3 from workflow_definitions where name = $1
    returning name, version, plan_hash, created_at";

pub(super) const STATEMENTS: &[(&str, &str)] = &[
    ("definitions one", ONE),
    ("definitions plan", PLAN),
    ("definitions page", PAGE),
    ("definitions lock", LOCK),
    ("definitions insert plan", INSERT_PLAN),
    ("definitions insert", INSERT),
];

/// One version, or the current one, with its text.
///
/// # Errors
/// [`ReadError`].
pub async fn one(db: impl PgExecutor<'_>, name: &str, version: Option<i32>) -> Result<Option<DefinitionDetail>, ReadError> {
    let Some(row) = sqlx::query(ONE).bind(name).bind(version).fetch_optional(db).await? else { return Ok(None) };
    Ok(Some(DefinitionDetail { record: record(&row)?, source: row.try_get("source")? }))
}

/// The plan of one version, or of the current one.
///
/// # Errors
/// [`ReadError`].
pub async fn plan(db: impl PgExecutor<'_>, name: &str, version: Option<i32>) -> Result<Option<StoredPlan>, ReadError> {
    let Some(row) = sqlx::query(PLAN).bind(name).bind(version).fetch_optional(db).await? else { return Ok(None) };
    let plan: Value = row.try_get("plan")?;
    let unreadable = |reason: String| ReadError::Unreadable { column: "plan", reason };
    let plan = serde_json::from_value(plan).map_err(|error| unreadable(error.to_string()))?;
    let hash: Vec<u8> = row.try_get("plan_hash")?;
    let plan_hash = hash.try_into().map_err(|_| unreadable("its hash has not 32 bytes".into()))?;
    Ok(Some(StoredPlan { plan, plan_hash }))
}

/// The current version of each name after `after`, by name.
///
/// # Errors
/// [`ReadError`].
pub async fn page(db: impl PgExecutor<'_>, after: &str, rows: u16) -> Result<Vec<DefinitionRecord>, ReadError> {
    let rows = sqlx::query(PAGE).bind(after).bind(i64::from(rows)).fetch_all(db).await?;
    rows.iter().map(record).collect()
}

/// Makes it the current version of its name, unless the current one says the same.
///
/// # Errors
/// [`ReadError`]; nothing was written.
///
/// # Panics
/// Never: a plan is plain values.
pub async fn register(db: &mut PgConnection, new: NewDefinition<'_>) -> Result<Registered, ReadError> {
    let mut transaction = db.begin().await?;
    sqlx::query(LOCK).bind(&new.plan.name).execute(&mut *transaction).await?;
    let current = one(&mut *transaction, &new.plan.name, None).await?;
    if let Some(current) = current.filter(|current| current.record.plan_hash == hex(&new.plan_hash)) {
        return Ok(Registered::Unchanged(current.record));
    }
    let plan = serde_json::to_value(new.plan).expect("a plan is plain values");
    sqlx::query(INSERT_PLAN).bind(new.plan_hash.as_slice()).bind(plan).execute(&mut *transaction).await?;
    let insert = sqlx::query(INSERT).bind(&new.plan.name).bind(new.plan_hash.as_slice()).bind(new.source);
    let row = insert.fetch_one(&mut *transaction).await?;
    let registered = record(&row)?;
    transaction.commit().await?;
    Ok(Registered::New(registered))
}

fn record(row: &PgRow) -> Result<DefinitionRecord, ReadError> {
    let hash: Vec<u8> = row.try_get("plan_hash")?;
    Ok(DefinitionRecord {
        name: row.try_get("name")?,
        version: row.try_get("version")?,
        plan_hash: hex(&hash),
        created_at: row.try_get("created_at")?,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}
