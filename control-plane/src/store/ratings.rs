//! What rating needs of a consumer's subscriptions to one publisher: the plans they held, the usage of a month, and what was billed
//! for it already. Reads only; rates nothing.

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::civil::Date;
use rust_decimal::Decimal;
use tokio_postgres::Row;
use uuid::Uuid;

use super::billing_months::MonthRow;
use super::{StoreError, Transaction, Values};

/// A plan as a subscription held it, in billing time.
#[derive(Clone, Debug)]
pub struct TermRow {
    pub subscription: Uuid,
    pub subscription_meter: i64,
    pub product_name: String,
    pub plan: Uuid,
    pub plan_meter: i64,
    pub plan_name: String,
    pub plan_version: i32,
    pub price: Decimal,
    pub currency: String,
    pub included: Option<i64>,
    pub overage: Option<Decimal>,
    pub from: Timestamp,
    pub until: Option<Timestamp>,
    pub free_until: Option<Timestamp>,
}

/// Billable requests of a subscription under a plan, from `at` (event time) to the next bound.
#[derive(Clone, Copy, Debug)]
pub struct UsageRow {
    pub subscription_meter: i64,
    pub plan_meter: i64,
    pub at: Timestamp,
    pub count: i64,
}

/// Who owes whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    pub consumer: Uuid,
    pub publisher: Uuid,
}

/// What was billed, by subscription.
#[derive(Clone, Debug, Default)]
pub struct Billed(HashMap<Uuid, Decimal>);

impl Billed {
    pub fn of(&self, subscription: Uuid) -> Decimal {
        self.0.get(&subscription).copied().unwrap_or_default()
    }
}

impl TermRow {
    fn read(row: &Row) -> Result<TermRow, StoreError> {
        Ok(TermRow {
            subscription: row.try_get("subscription_id")?,
            subscription_meter: row.try_get("subscription_meter_id")?,
            product_name: row.try_get("product_name")?,
            plan: row.try_get("plan_id")?,
            plan_meter: row.try_get("plan_meter_id")?,
            plan_name: row.try_get("plan_name")?,
            plan_version: row.try_get("plan_version")?,
            price: row.try_get("price")?,
            currency: row.try_get("currency")?,
            included: row.try_get("included_requests")?,
            overage: row.try_get("overage_price_per_1000")?,
            from: row.try_get("starts_at")?,
            until: row.try_get("ends_at")?,
            free_until: row.try_get("free_until")?,
        })
    }
}

/// The terms that touch the month, by subscription and time.
pub async fn terms(tx: &Transaction<'_>, pair: Pair, month: &MonthRow) -> Result<Vec<TermRow>, StoreError> {
    let sql = "-- ratings.terms
        SELECT t.subscription_id, s.meter_id AS subscription_meter_id, p.name AS product_name, t.plan_id,
            l.meter_id AS plan_meter_id, l.name AS plan_name, l.version AS plan_version, l.price,
            l.currency::text AS currency, l.included_requests, l.overage_price_per_1000, t.starts_at, t.ends_at, t.free_until
        FROM subscriptions s JOIN api_products p ON p.id = s.product_id JOIN subscription_terms t ON t.subscription_id = s.id
        JOIN plans l ON l.id = t.plan_id
        WHERE s.organization_id = $1 AND p.organization_id = $2 AND t.starts_at < $4 AND (t.ends_at IS NULL OR t.ends_at > $3)
        ORDER BY s.created_at, s.id, t.starts_at";
    let values: Values<'_> = &[&pair.consumer, &pair.publisher, &month.starts_at, &month.ends_at];
    tx.query_cached(sql, values).await?.iter().map(TermRow::read).collect()
}

/// Sums of the billing record between `bounds` (event time, ascending, the first is the month's own). Where the clock ended a month
/// inside a quarter of an hour, the marks say what of it belongs where.
pub async fn usage(
    tx: &Transaction<'_>,
    month: &MonthRow,
    subscriptions: &[i64],
    bounds: &[Timestamp],
) -> Result<Vec<UsageRow>, StoreError> {
    let sql = "-- ratings.usage
        WITH counted AS (
            SELECT u.subscription_meter_id, u.plan_meter_id, u.quarter_hour, u.billable_count
            FROM usage_quarter_hours u
            WHERE u.subscription_meter_id = ANY ($1) AND u.quarter_hour >= $2 AND u.quarter_hour < $3 AND u.billable_count > 0
            UNION ALL
            SELECT m.subscription_meter_id, m.plan_meter_id, m.quarter_hour, m.billable_count
            FROM billing_marks m WHERE m.organization_id = $4 AND m.month = $5 AND m.subscription_meter_id = ANY ($1)
            UNION ALL
            SELECT m.subscription_meter_id, m.plan_meter_id, m.quarter_hour, -m.billable_count
            FROM billing_marks m WHERE m.organization_id = $4 AND m.month = ($5::date - interval '1 month')::date
              AND m.subscription_meter_id = ANY ($1)
        )
        SELECT subscription_meter_id, plan_meter_id,
            ($6::timestamptz[])[greatest(width_bucket(quarter_hour, $6::timestamptz[]), 1)] AS at,
            sum(billable_count)::bigint AS count
        FROM counted GROUP BY 1, 2, 3 HAVING sum(billable_count) <> 0 ORDER BY 1, 2, 3";
    let values: Values<'_> =
        &[&subscriptions, &month.usage_from, &month.usage_until, &month.organization, &month.month, &bounds];
    let read = |row: &Row| -> Result<UsageRow, StoreError> {
        Ok(UsageRow {
            subscription_meter: row.try_get("subscription_meter_id")?,
            plan_meter: row.try_get("plan_meter_id")?,
            at: row.try_get("at")?,
            count: row.try_get("count")?,
        })
    };
    tx.query_cached(sql, values).await?.iter().map(read).collect()
}

/// What issued invoices have charged a pair's subscriptions for a month, on whichever invoice it stands.
pub async fn billed(tx: &Transaction<'_>, pair: Pair, month: Date) -> Result<Billed, StoreError> {
    let sql = "-- ratings.billed
        SELECT l.subscription_id, sum(l.amount) FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id
        WHERE i.consumer_organization_id = $1 AND i.publisher_organization_id = $2 AND i.status <> 'draft'
          AND l.month = $3 AND l.subscription_id IS NOT NULL GROUP BY 1";
    let rows = tx.query_cached(sql, &[&pair.consumer, &pair.publisher, &month]).await?;
    let found: Result<_, StoreError> = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect();
    found.map(Billed)
}

/// Consumers who may owe the publisher something for what was between two instants, and have no issued invoice of the month.
pub async fn owing(
    tx: &Transaction<'_>,
    month: &MonthRow,
    from: Timestamp,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Uuid>, StoreError> {
    let sql = "-- ratings.owing
        SELECT DISTINCT s.organization_id FROM subscriptions s
        JOIN api_products p ON p.id = s.product_id JOIN subscription_terms t ON t.subscription_id = s.id
        WHERE p.organization_id = $1 AND t.starts_at < $2 AND (t.ends_at IS NULL OR t.ends_at > $3)
          AND ($4::uuid IS NULL OR s.organization_id > $4)
          AND NOT EXISTS (SELECT FROM invoices i WHERE i.consumer_organization_id = s.organization_id
              AND i.publisher_organization_id = $1 AND i.month = $5 AND i.status <> 'draft')
        ORDER BY 1 LIMIT $6";
    let values: Values<'_> = &[&month.organization, &month.ends_at, &from, &after, &month.month, &limit];
    let rows = tx.query_cached(sql, values).await?;
    rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}

/// The currencies in which the pair's month was invoiced.
pub async fn issued_currencies(tx: &Transaction<'_>, pair: Pair, month: Date) -> Result<Vec<String>, StoreError> {
    let sql = "-- ratings.issued_currencies
        SELECT currency::text FROM invoices WHERE consumer_organization_id = $1 AND publisher_organization_id = $2
            AND month = $3 AND status <> 'draft'";
    let rows = tx.query_cached(sql, &[&pair.consumer, &pair.publisher, &month]).await?;
    rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}

/// The statements of this transaction may take as long as a large consumer's month needs: for work that nobody waits for.
pub async fn allow_time(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.batch_execute("SET LOCAL statement_timeout = '30s'").await
}

/// One at a time makes or changes what a consumer owes a publisher.
pub async fn lock_pair(tx: &Transaction<'_>, pair: Pair) -> Result<(), StoreError> {
    let sql = "-- ratings.lock_pair
        SELECT pg_advisory_xact_lock(hashtextextended('billing:' || $1::uuid::text || ':' || $2::uuid::text, 0))";
    tx.query_one_cached(sql, &[&pair.consumer, &pair.publisher]).await.map(|_| ())
}

/// Whether the consumer holds, or held, a subscription of the publisher's.
pub async fn are_partners(tx: &Transaction<'_>, pair: Pair) -> Result<bool, StoreError> {
    let sql = "-- ratings.are_partners
        SELECT EXISTS (SELECT FROM subscriptions s JOIN api_products p ON p.id = s.product_id
            WHERE s.organization_id = $1 AND p.organization_id = $2)";
    Ok(tx.query_one_cached(sql, &[&pair.consumer, &pair.publisher]).await?.try_get(0)?)
}

/// Whom a consumer has live subscriptions with, by name.
pub async fn publishers_of(
    tx: &Transaction<'_>,
    consumer: Uuid,
    limit: i64,
) -> Result<Vec<(Uuid, String)>, StoreError> {
    let sql = "-- ratings.publishers_of
        SELECT DISTINCT o.id, o.name FROM subscriptions s JOIN api_products p ON p.id = s.product_id
        JOIN organizations o ON o.id = p.organization_id JOIN subscription_terms t ON t.subscription_id = s.id
        WHERE s.organization_id = $1 AND (t.ends_at IS NULL OR t.ends_at > billing_now(o.id) - interval '31 days')
        ORDER BY o.name, o.id LIMIT $2";
    let rows = tx.query_cached(sql, &[&consumer, &limit]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
