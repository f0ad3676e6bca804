//! What a subscription has used of a month, from the billing record: for putting back what Redis lost. Counts as the gateways do:
//! admitted requests of live keys, less those that failed by our own making.

use tokio_postgres::Row;

use super::{Store, StoreError};

/// A subscription's month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeriodOf {
    /// Its meter id.
    pub subscription: i64,
    /// YYYYMM.
    pub period: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedInPeriod {
    pub subscription: i64,
    pub period: i32,
    pub used: i64,
}

/// In any order; a subscription that there is not is left out. The month is that of the publisher's time zone; the present one is
/// as the subscription's row has it. Errors: `Unavailable` also where it took too long.
pub async fn used_in_periods(store: &Store, wanted: &[PeriodOf]) -> Result<Vec<UsedInPeriod>, StoreError> {
    let sql = "-- quota.used_in_periods
        SELECT w.subscription, w.period, (
            SELECT coalesce(sum(u.admitted_count - u.failed_count), 0)::bigint
            FROM usage_quarter_hours u JOIN api_keys k ON k.meter_id = u.key_meter_id AND k.environment = 'live'
            WHERE u.subscription_meter_id = w.subscription AND u.quarter_hour >= b.starts_at AND u.quarter_hour < b.ends_at)
        FROM unnest($1::bigint[], $2::int[]) AS w (subscription, period)
        JOIN subscriptions s ON s.meter_id = w.subscription
        JOIN api_products p ON p.id = s.product_id
        JOIN organizations o ON o.id = p.organization_id
        CROSS JOIN LATERAL (SELECT make_timestamp(w.period / 100, w.period % 100, 1, 0, 0, 0) AS first) AS m
        CROSS JOIN LATERAL (SELECT
            CASE WHEN s.period_id = w.period AND s.period_start IS NOT NULL THEN s.period_start
                 ELSE m.first AT TIME ZONE o.time_zone END AS starts_at,
            CASE WHEN s.period_id = w.period AND s.period_end IS NOT NULL THEN s.period_end
                 ELSE (m.first + interval '1 month') AT TIME ZONE o.time_zone END AS ends_at) AS b";
    let subscriptions: Vec<i64> = wanted.iter().map(|one| one.subscription).collect();
    let periods: Vec<i32> = wanted.iter().map(|one| one.period).collect();
    store
        .read("used_in_periods", |tx| {
            Box::pin(async move {
                let rows = tx.query_cached(sql, &[&subscriptions, &periods]).await?;
                rows.iter().map(read).collect()
            })
        })
        .await
}

fn read(row: &Row) -> Result<UsedInPeriod, StoreError> {
    Ok(UsedInPeriod { subscription: row.try_get(0)?, period: row.try_get(1)?, used: row.try_get(2)? })
}
