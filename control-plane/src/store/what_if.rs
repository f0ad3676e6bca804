//! The last days' usage of a product's subscriptions, counted as another plan would: for what-if questions. Reads only.

use rust_decimal::Decimal;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{StoreError, Transaction};

/// One subscription's usage, and what it pays today.
#[derive(Clone, Debug)]
pub struct WhatIfRow {
    pub subscription: Uuid,
    pub organization_name: String,
    pub price: Decimal,
    pub included: Option<i64>,
    pub overage: Option<Decimal>,
    pub currency: String,
    /// Requests that cost money under today's plan.
    pub billable_now: i64,
    /// Requests that would under the classes asked for.
    pub billable_then: i64,
}

/// `classes`: the digits of the status classes that cost money. `limit` subscriptions after `after`.
pub async fn usage_of_product(
    tx: &Transaction<'_>,
    product: Uuid,
    days: i32,
    classes: &[i16],
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<WhatIfRow>, StoreError> {
    let sql = "-- what_if.usage_of_product
        SELECT s.id, o.name, l.price, l.included_requests, l.overage_price_per_1000, l.currency::text AS currency,
            u.billable_now, u.billable_then
        FROM subscriptions s JOIN organizations o ON o.id = s.organization_id JOIN plans l ON l.id = s.plan_id,
        LATERAL (
            SELECT coalesce(sum(q.billable_count), 0)::bigint AS billable_now,
                coalesce(sum(q.admitted_count - q.failed_count)
                    FILTER (WHERE k.environment = 'live' AND q.status_class = ANY ($3)), 0)::bigint AS billable_then
            FROM usage_quarter_hours q JOIN api_keys k ON k.meter_id = q.key_meter_id
            WHERE q.subscription_meter_id = s.meter_id AND q.quarter_hour >= now() - make_interval(days => $2)
        ) AS u
        WHERE s.product_id = $1 AND s.status IN ('active', 'past_due', 'suspended') AND ($4::uuid IS NULL OR s.id > $4)
        ORDER BY s.id LIMIT $5";
    let read = |row: &Row| -> Result<WhatIfRow, StoreError> {
        Ok(WhatIfRow {
            subscription: row.try_get(0)?,
            organization_name: row.try_get(1)?,
            price: row.try_get(2)?,
            included: row.try_get(3)?,
            overage: row.try_get(4)?,
            currency: row.try_get(5)?,
            billable_now: row.try_get(6)?,
            billable_then: row.try_get(7)?,
        })
    };
    tx.query_cached(sql, &[&product, &days, &classes, &after, &limit]).await?.iter().map(read).collect()
}
