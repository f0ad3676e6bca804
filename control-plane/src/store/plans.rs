//! `plans` with its `rate_limit_policies`: one row of each per plan version, always read together.

use jiff::Timestamp;
use rust_decimal::Decimal;
use tokio_postgres::Row;
use uuid::Uuid;

use super::row::closed_text;
use super::{After, StoreError, Transaction, Values};
use crate::domain::plan::{Algorithm, OnRedisDown, PlanStatus, PlanTerms, QuotaMode};

#[derive(Clone, Debug)]
pub struct PlanRow {
    pub id: Uuid,
    pub meter_id: i64,
    pub product_id: Uuid,
    pub family_id: Uuid,
    pub version: i32,
    pub slug: String,
    pub name: String,
    pub description: String,
    pub status: PlanStatus,
    pub price: Decimal,
    pub currency: String,
    pub rate_limit: i32,
    pub included_requests: Option<i64>,
    pub quota_mode: QuotaMode,
    pub overage_price_per_1000: Option<Decimal>,
    pub trial_days: i32,
    pub billable_statuses: Vec<String>,
    pub policy: PolicyRow,
    pub row_version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct PolicyRow {
    pub requests_per_minute: i32,
    pub burst_limit: i32,
    pub algorithm: Algorithm,
    pub on_redis_down: OnRedisDown,
    pub strict: bool,
}

/// Whose a plan is, and of which product.
#[derive(Clone, Copy, Debug)]
pub struct PlanOwner {
    pub organization: Uuid,
    pub product: Uuid,
}

/// A plan version's place: a new family is its own first version.
#[derive(Clone, Copy, Debug)]
pub struct PlanPlace {
    pub id: Uuid,
    pub product: Uuid,
    pub family: Uuid,
    pub version: i32,
}

macro_rules! columns {
    () => {
        "s.id, s.meter_id, s.product_id, s.family_id, s.version, s.slug, s.name, s.description, s.status, s.price, \
         s.currency::text AS currency, s.rate_limit, s.included_requests, s.quota_mode, s.overage_price_per_1000, \
         s.trial_days, s.billable_statuses, s.row_version, s.created_at, s.updated_at, l.requests_per_minute, \
         l.burst_limit, l.algorithm, l.on_redis_down, l.strict"
    };
}
pub(super) use columns;

macro_rules! joined {
    () => {
        " FROM plans s JOIN rate_limit_policies l ON l.plan_id = s.id JOIN api_products p ON p.id = s.product_id "
    };
}
pub(super) use joined;

pub async fn owner_of(tx: &Transaction<'_>, id: Uuid) -> Result<Option<PlanOwner>, StoreError> {
    let sql = "-- plans.owner_of\n\
        SELECT p.organization_id, p.id FROM plans s JOIN api_products p ON p.id = s.product_id WHERE s.id = $1";
    let Some(row) = tx.query_opt_cached(sql, &[&id]).await? else { return Ok(None) };
    Ok(Some(PlanOwner { organization: row.try_get("organization_id")?, product: row.try_get("id")? }))
}

/// Writes the version and its policy; the database demands both by the commit.
pub async fn insert(tx: &Transaction<'_>, place: PlanPlace, terms: &PlanTerms) -> Result<(), StoreError> {
    let sql = "-- plans.insert\n\
        INSERT INTO plans (id, product_id, family_id, version, slug, name, description, price, currency, rate_limit, \
            included_requests, quota_mode, overage_price_per_1000, trial_days, billable_statuses) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text, $10, $11, $12, $13, $14, $15)";
    tx.execute_cached(
        sql,
        &[
            &place.id,
            &place.product,
            &place.family,
            &place.version,
            &terms.slug.as_str(),
            &terms.name.as_str(),
            &terms.description.as_str(),
            &terms.price,
            &terms.currency,
            &terms.policy.rate.requests_per_minute.get(),
            &terms.included_requests,
            &terms.quota_mode.as_str(),
            &terms.overage_price_per_1000,
            &terms.trial_days,
            &terms.billable_statuses,
        ],
    )
    .await?;
    let sql = "-- plans.insert_policy\n\
        INSERT INTO rate_limit_policies (id, plan_id, requests_per_minute, burst_limit, algorithm, on_redis_down, strict) \
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let policy = &terms.policy;
    tx.execute_cached(
        sql,
        &[
            &Uuid::now_v7(),
            &place.id,
            &policy.rate.requests_per_minute.get(),
            &policy.rate.burst_limit.get(),
            &policy.algorithm.as_str(),
            &policy.on_redis_down.as_str(),
            &policy.strict,
        ],
    )
    .await?;
    Ok(())
}

pub async fn get(tx: &Transaction<'_>, organization: Uuid, id: Uuid) -> Result<Option<PlanRow>, StoreError> {
    let sql = concat!("-- plans.get\nSELECT ", columns!(), joined!(), "WHERE s.id = $1 AND p.organization_id = $2");
    tx.query_opt_cached(sql, &[&id, &organization]).await?.as_ref().map(PlanRow::try_from).transpose()
}

pub async fn lock(tx: &Transaction<'_>, organization: Uuid, id: Uuid) -> Result<Option<PlanRow>, StoreError> {
    let sql = concat!(
        "-- plans.lock\nSELECT ",
        columns!(),
        joined!(),
        "WHERE s.id = $1 AND p.organization_id = $2 FOR UPDATE OF s, l"
    );
    tx.query_opt_cached(sql, &[&id, &organization]).await?.as_ref().map(PlanRow::try_from).transpose()
}

pub async fn list(
    tx: &Transaction<'_>,
    organization: Uuid,
    product: Uuid,
    status: Option<PlanStatus>,
    after: Option<After>,
    limit: i64,
) -> Result<Vec<PlanRow>, StoreError> {
    let sql = concat!(
        "-- plans.list\nSELECT ",
        columns!(),
        joined!(),
        "WHERE s.product_id = $1 AND p.organization_id = $2 AND ($3::text IS NULL OR s.status = $3) \
         AND ($4::timestamptz IS NULL OR (s.created_at, s.id) > ($4, $5)) ORDER BY s.created_at, s.id LIMIT $6"
    );
    let (created_at, id) = After::split(after);
    let values: Values<'_> = &[&product, &organization, &status.map(PlanStatus::as_str), &created_at, &id, &limit];
    tx.query_cached(sql, values).await?.iter().map(PlanRow::try_from).collect()
}

/// The versions that a publish is about: drafts to be activated, and what is sold now.
pub async fn list_unarchived(
    tx: &Transaction<'_>,
    organization: Uuid,
    product: Uuid,
) -> Result<Vec<PlanRow>, StoreError> {
    let sql = concat!(
        "-- plans.list_unarchived\nSELECT ",
        columns!(),
        joined!(),
        "WHERE s.product_id = $1 AND p.organization_id = $2 AND s.status <> 'archived' \
         ORDER BY s.created_at, s.id FOR UPDATE OF s, l"
    );
    tx.query_cached(sql, &[&product, &organization]).await?.iter().map(PlanRow::try_from).collect()
}

/// The family's newest version and its status.
pub async fn newest_version(tx: &Transaction<'_>, family: Uuid) -> Result<(i32, PlanStatus), StoreError> {
    let sql =
        "-- plans.newest_version\nSELECT version, status FROM plans WHERE family_id = $1 ORDER BY version DESC LIMIT 1";
    let row = tx.query_one_cached(sql, &[&family]).await?;
    Ok((row.try_get("version")?, closed_text(&row, "status", PlanStatus::parse)?))
}

pub async fn count(tx: &Transaction<'_>, product: Uuid) -> Result<i64, StoreError> {
    let sql = "-- plans.count\nSELECT count(*) AS n FROM plans WHERE product_id = $1";
    Ok(tx.query_one_cached(sql, &[&product]).await?.try_get("n")?)
}

/// Rewrites a draft and its policy.
pub async fn update_draft(tx: &Transaction<'_>, id: Uuid, terms: &PlanTerms) -> Result<(), StoreError> {
    let sql = "-- plans.update_draft\n\
        UPDATE plans SET slug = $2, name = $3, description = $4, price = $5, currency = $6::text, rate_limit = $7, \
            included_requests = $8, quota_mode = $9, overage_price_per_1000 = $10, trial_days = $11, billable_statuses = $12 \
        WHERE id = $1 AND status = 'draft'";
    let values: Values<'_> = &[
        &id,
        &terms.slug.as_str(),
        &terms.name.as_str(),
        &terms.description.as_str(),
        &terms.price,
        &terms.currency,
        &terms.policy.rate.requests_per_minute.get(),
        &terms.included_requests,
        &terms.quota_mode.as_str(),
        &terms.overage_price_per_1000,
        &terms.trial_days,
        &terms.billable_statuses,
    ];
    StoreError::expect_one("plans.update_draft", tx.execute_cached(sql, values).await?)?;
    let sql = "-- plans.update_policy\n\
        UPDATE rate_limit_policies SET requests_per_minute = $2, burst_limit = $3, algorithm = $4, on_redis_down = $5, strict = $6 \
        WHERE plan_id = $1";
    let policy = &terms.policy;
    let values: Values<'_> = &[
        &id,
        &policy.rate.requests_per_minute.get(),
        &policy.rate.burst_limit.get(),
        &policy.algorithm.as_str(),
        &policy.on_redis_down.as_str(),
        &policy.strict,
    ];
    StoreError::expect_one("plans.update_policy", tx.execute_cached(sql, values).await?)
}

/// What stays editable once a version is sold.
pub async fn update_words(tx: &Transaction<'_>, id: Uuid, name: &str, description: &str) -> Result<(), StoreError> {
    let sql = "-- plans.update_words\nUPDATE plans SET name = $2, description = $3 WHERE id = $1";
    StoreError::expect_one("plans.update_words", tx.execute_cached(sql, &[&id, &name, &description]).await?)
}

pub async fn set_status(tx: &Transaction<'_>, id: Uuid, status: PlanStatus) -> Result<(), StoreError> {
    let sql = "-- plans.set_status\nUPDATE plans SET status = $2 WHERE id = $1";
    StoreError::expect_one("plans.set_status", tx.execute_cached(sql, &[&id, &status.as_str()]).await?)
}

/// The family's active version steps aside for a newer one; its subscribers keep it.
pub async fn archive_active(tx: &Transaction<'_>, family: Uuid) -> Result<u64, StoreError> {
    let sql =
        "-- plans.archive_active\nUPDATE plans SET status = 'archived' WHERE family_id = $1 AND status = 'active'";
    tx.execute_cached(sql, &[&family]).await
}

pub async fn delete_draft(tx: &Transaction<'_>, id: Uuid) -> Result<(), StoreError> {
    let sql = "-- plans.delete_draft\nDELETE FROM plans WHERE id = $1 AND status = 'draft'";
    StoreError::expect_one("plans.delete_draft", tx.execute_cached(sql, &[&id]).await?)
}

impl TryFrom<&Row> for PlanRow {
    type Error = StoreError;
    fn try_from(row: &Row) -> Result<Self, StoreError> {
        Ok(PlanRow {
            id: row.try_get("id")?,
            meter_id: row.try_get("meter_id")?,
            product_id: row.try_get("product_id")?,
            family_id: row.try_get("family_id")?,
            version: row.try_get("version")?,
            slug: row.try_get("slug")?,
            name: row.try_get("name")?,
            description: row.try_get("description")?,
            status: closed_text(row, "status", PlanStatus::parse)?,
            price: row.try_get("price")?,
            currency: row.try_get("currency")?,
            rate_limit: row.try_get("rate_limit")?,
            included_requests: row.try_get("included_requests")?,
            quota_mode: closed_text(row, "quota_mode", QuotaMode::parse)?,
            overage_price_per_1000: row.try_get("overage_price_per_1000")?,
            trial_days: row.try_get("trial_days")?,
            billable_statuses: row.try_get("billable_statuses")?,
            policy: PolicyRow {
                requests_per_minute: row.try_get("requests_per_minute")?,
                burst_limit: row.try_get("burst_limit")?,
                algorithm: closed_text(row, "algorithm", Algorithm::parse)?,
                on_redis_down: closed_text(row, "on_redis_down", OnRedisDown::parse)?,
                strict: row.try_get("strict")?,
            },
            row_version: row.try_get("row_version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}
