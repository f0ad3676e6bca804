//! `budgets`: what a consumer means to spend with a publisher in a month; and how far subscriptions are with what they include.

use rust_decimal::Decimal;
use tokio_postgres::Row;
use uuid::Uuid;

use super::quota::{LATE, PERIODS, USED};
use super::ratings::Pair;
use super::{StoreError, Transaction, Values};

#[derive(Clone, Debug)]
pub struct BudgetRow {
    pub pair: Pair,
    pub publisher_slug: String,
    pub amount: Decimal,
    pub currency: String,
    pub version: i64,
}

/// A subscription with included requests, in its period that runs.
#[derive(Clone, Debug)]
pub struct QuotaUse {
    pub subscription: Uuid,
    pub pair: Pair,
    pub month: jiff::civil::Date,
    /// In this period: a plan held for a part of it includes its part.
    pub included: i64,
    /// What counts against it.
    pub used: i64,
}

macro_rules! columns {
    () => {
        "SELECT b.consumer_organization_id, b.publisher_organization_id, o.slug AS publisher_slug, b.amount, \
         b.currency::text AS currency, b.version FROM budgets b JOIN organizations o ON o.id = b.publisher_organization_id "
    };
}

pub async fn list(tx: &Transaction<'_>, consumer: Uuid) -> Result<Vec<BudgetRow>, StoreError> {
    let sql = concat!(
        "-- budgets.list\n",
        columns!(),
        "WHERE b.consumer_organization_id = $1 ORDER BY o.slug, b.currency LIMIT 1000"
    );
    tx.query_cached(sql, &[&consumer]).await?.iter().map(BudgetRow::read).collect()
}

/// Whether a subscription `s` was used within the last hour.
macro_rules! is_used {
    () => {
        "EXISTS (SELECT FROM usage_quarter_hours r \
         WHERE r.subscription_meter_id = s.meter_id AND r.quarter_hour > now() - interval '1 hour')"
    };
}

/// Which budgets are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those that were set within the last hour, or whose subscriptions were used or changed within it.
    Touched,
}

/// Budgets of everybody, after `after`, by pair.
pub async fn page(
    tx: &Transaction<'_>,
    which: Which,
    after: Option<&BudgetRow>,
    limit: i64,
) -> Result<Vec<BudgetRow>, StoreError> {
    let sql = concat!(
        "-- budgets.page\n",
        columns!(),
        "WHERE ($1::uuid IS NULL OR (b.consumer_organization_id, b.publisher_organization_id, b.currency::text) > ($1, $2, $3))
          AND ($5 OR b.updated_at > now() - interval '1 hour' OR EXISTS (
            SELECT FROM subscriptions s JOIN api_products p ON p.id = s.product_id
            WHERE s.organization_id = b.consumer_organization_id AND p.organization_id = b.publisher_organization_id
              AND (s.updated_at > now() - interval '1 hour' OR ",
        is_used!(),
        ")))
        ORDER BY b.consumer_organization_id, b.publisher_organization_id, b.currency::text LIMIT $4"
    );
    let all = which == Which::All;
    let (consumer, publisher) = (after.map(|row| row.pair.consumer), after.map(|row| row.pair.publisher));
    let currency = after.map(|row| row.currency.as_str());
    let values: Values<'_> = &[&consumer, &publisher, &currency, &limit, &all];
    tx.query_cached(sql, values).await?.iter().map(BudgetRow::read).collect()
}

pub async fn find(tx: &Transaction<'_>, pair: Pair, currency: &str) -> Result<Option<BudgetRow>, StoreError> {
    let sql = concat!(
        "-- budgets.find\n",
        columns!(),
        "WHERE b.consumer_organization_id = $1 AND b.publisher_organization_id = $2 AND b.currency = $3::text"
    );
    let found = tx.query_opt_cached(sql, &[&pair.consumer, &pair.publisher, &currency]).await?;
    found.as_ref().map(BudgetRow::read).transpose()
}

pub async fn set(tx: &Transaction<'_>, pair: Pair, amount: Decimal, currency: &str) -> Result<(), StoreError> {
    let sql = "-- budgets.set
        INSERT INTO budgets (consumer_organization_id, publisher_organization_id, amount, currency) VALUES ($1, $2, $3, $4::text)
        ON CONFLICT (consumer_organization_id, publisher_organization_id, currency) DO UPDATE SET amount = excluded.amount";
    tx.execute_cached(sql, &[&pair.consumer, &pair.publisher, &amount, &currency]).await.map(|_| ())
}

/// Whether there was one.
pub async fn remove(tx: &Transaction<'_>, pair: Pair, currency: &str) -> Result<bool, StoreError> {
    let sql = "-- budgets.remove
        DELETE FROM budgets WHERE consumer_organization_id = $1 AND publisher_organization_id = $2 AND currency = $3::text";
    Ok(tx.execute_cached(sql, &[&pair.consumer, &pair.publisher, &currency]).await? == 1)
}

/// Live subscriptions that were used within the last hour, with how far each is with the requests of its period, as its gateways
/// see it; `limit` of them after `after`.
pub async fn quota_use(tx: &Transaction<'_>, after: Option<Uuid>, limit: i64) -> Result<Vec<QuotaUse>, StoreError> {
    let sql = &format!(
        "-- budgets.quota_use
        WITH page AS MATERIALIZED (
            SELECT s.id, s.meter_id, s.organization_id, s.product_id, s.plan_id, s.period_id, s.period_start, s.period_end
            FROM subscriptions s JOIN plans l ON l.id = s.plan_id
            WHERE s.status IN ('active', 'past_due') AND s.period_id > 0 AND l.included_requests > 0
              AND ($1::uuid IS NULL OR s.id > $1)
              AND {is_used}
            ORDER BY s.id LIMIT $2),
        {PERIODS}, {LATE}
        SELECT b.id, b.organization_id, b.publisher, b.month, b.included, u.live::bigint FROM b {USED} ORDER BY b.id",
        is_used = is_used!()
    );
    let read = |row: &Row| -> Result<QuotaUse, StoreError> {
        Ok(QuotaUse {
            subscription: row.try_get(0)?,
            pair: Pair { consumer: row.try_get(1)?, publisher: row.try_get(2)? },
            month: row.try_get(3)?,
            included: row.try_get(4)?,
            used: row.try_get(5)?,
        })
    };
    tx.query_cached(sql, &[&after, &limit]).await?.iter().map(read).collect()
}

impl BudgetRow {
    fn read(row: &Row) -> Result<BudgetRow, StoreError> {
        Ok(BudgetRow {
            pair: Pair {
                consumer: row.try_get("consumer_organization_id")?,
                publisher: row.try_get("publisher_organization_id")?,
            },
            publisher_slug: row.try_get("publisher_slug")?,
            amount: row.try_get("amount")?,
            currency: row.try_get("currency")?,
            version: row.try_get("version")?,
        })
    }
}
