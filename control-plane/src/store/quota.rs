//! What subscriptions have used of their quota in a period, as the gateways count it: admitted requests of live keys, less those
//! that failed by our own making, and nothing of what was used under a plan without a quota. A period is the publisher's month
//! in the time of events, wherever the simulation clock has put its ends. Refuses to know what Redis says.

use tokio_postgres::Row;

use super::{Store, StoreError, Transaction, Values};

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

/// Subscriptions with usage that the older hours and days have still to take in: nearly always none.
pub(super) const LATE: &str = "late AS MATERIALIZED (
    SELECT DISTINCT subscription_meter_id FROM usage_dirty WHERE hour < date_trunc('hour', now(), 'UTC') - interval '2 hours')";

/// `u.live` and `u.test` of a row `b` with `meter_id`, `publisher`, `month`, `starts_at`, `ends_at` (event time, on quarters of an
/// hour) and `is_limited` (whether the present plan has a quota); `LATE` stands before it. What is older than two hours is read
/// from the hours, and whole days of UTC from the days, so that it is a few hundred rows a month and not thousands; all from the
/// billing record where those are late. Where the clock ended a month inside a quarter of an hour, the marks say what of it
/// belongs where.
pub(super) const USED: &str = "
    CROSS JOIN LATERAL (SELECT CASE WHEN EXISTS (SELECT FROM late WHERE late.subscription_meter_id = b.meter_id) THEN b.starts_at
            ELSE date_trunc('hour', now(), 'UTC') - interval '2 hours' END AS fresh,
        date_trunc('hour', b.starts_at + interval '1 hour' - interval '1 microsecond', 'UTC') AS first_hour) q0
    CROSS JOIN LATERAL (SELECT date_trunc('day', q0.first_hour + interval '1 day' - interval '1 microsecond', 'UTC') AS first_day,
        greatest(q0.first_hour, least(q0.fresh, date_trunc('hour', b.ends_at, 'UTC'))) AS last_hour) q1
    CROSS JOIN LATERAL (SELECT greatest(q1.first_day, date_trunc('day', q1.last_hour, 'UTC')) AS last_day) q2
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(y.used) FILTER (WHERE y.environment = 'live'), 0) + (
                SELECT coalesce(sum(CASE WHEN m.month = b.month THEN m.used_count ELSE -m.used_count END), 0)
                FROM billing_marks m LEFT JOIN plans l ON l.meter_id = m.plan_meter_id
                WHERE m.organization_id = b.publisher AND m.month IN (b.month, (b.month - interval '1 month')::date)
                  AND m.subscription_meter_id = b.meter_id
                  AND (NOT b.is_limited OR l.id IS NULL OR l.included_requests IS NOT NULL)) AS live,
            coalesce(sum(y.used) FILTER (WHERE y.environment = 'test'), 0) AS test
        FROM (SELECT x.used, (SELECT k.environment FROM api_keys k WHERE k.meter_id = x.key_meter_id) AS environment FROM (
                SELECT r.key_meter_id, r.plan_meter_id, sum(r.admitted_count - r.failed_count) AS used FROM usage_quarter_hours r
                WHERE r.subscription_meter_id = b.meter_id AND r.quarter_hour >= b.starts_at
                  AND r.quarter_hour < least(q0.first_hour, b.ends_at) GROUP BY 1, 2
                UNION ALL
                SELECT r.key_meter_id, r.plan_meter_id, sum(r.admitted_count - r.failed_count) FROM usage_hours r
                WHERE r.subscription_meter_id = b.meter_id AND r.hour >= q0.first_hour
                  AND r.hour < least(q1.first_day, q1.last_hour) GROUP BY 1, 2
                UNION ALL
                SELECT r.key_meter_id, r.plan_meter_id, sum(r.admitted_count - r.failed_count) FROM usage_days r
                WHERE r.subscription_meter_id = b.meter_id AND r.day >= (q1.first_day AT TIME ZONE 'UTC')::date
                  AND r.day < (q2.last_day AT TIME ZONE 'UTC')::date GROUP BY 1, 2
                UNION ALL
                SELECT r.key_meter_id, r.plan_meter_id, sum(r.admitted_count - r.failed_count) FROM usage_hours r
                WHERE r.subscription_meter_id = b.meter_id AND r.hour >= q2.last_day AND r.hour < q1.last_hour GROUP BY 1, 2
                UNION ALL
                SELECT r.key_meter_id, r.plan_meter_id, sum(r.admitted_count - r.failed_count) FROM usage_quarter_hours r
                WHERE r.subscription_meter_id = b.meter_id AND r.quarter_hour >= q1.last_hour
                  AND r.quarter_hour < b.ends_at GROUP BY 1, 2
            ) x LEFT JOIN plans l ON l.meter_id = x.plan_meter_id
            WHERE NOT b.is_limited OR l.id IS NULL OR l.included_requests IS NOT NULL
        ) y
    ) u";

/// `b`, as `USED` wants it, of the periods that run for the subscriptions of `page`: a relation before it with `id`, `meter_id`,
/// `product_id`, `plan_id`, `period_id`, `period_start`, `period_end`, and what else its reader needs. A month that nobody has made
/// yet runs from the subscription's own beginning. `included` is what the gateways hold the count against: a plan held for a part of
/// the period includes its part.
pub(super) const PERIODS: &str = "b AS MATERIALIZED (SELECT g.*, p.organization_id AS publisher, c.month,
            n.included_requests IS NOT NULL AS is_limited,
            CASE WHEN n.included_requests IS NOT NULL
                THEN coalesce(included_in_period(g.id, g.period_start, g.period_end), n.included_requests) END AS included,
            coalesce(m.usage_from, g.period_start - k.ahead) AS starts_at, coalesce(m.usage_until, g.period_end - k.ahead) AS ends_at
        FROM page g JOIN api_products p ON p.id = g.product_id JOIN plans n ON n.id = g.plan_id
        CROSS JOIN LATERAL (SELECT to_date(nullif(g.period_id, 0)::text, 'YYYYMM') AS month) c
        CROSS JOIN LATERAL (SELECT make_interval(secs => coalesce((
            SELECT t.ahead_s FROM billing_clocks t WHERE t.organization_id = p.organization_id), 0)) AS ahead) k
        LEFT JOIN billing_months m ON m.organization_id = p.organization_id AND m.month = c.month)";

/// In any order; a subscription that there is not is left out. Errors: `Unavailable` also where it took too long.
pub async fn used_in_periods(store: &Store, wanted: &[PeriodOf]) -> Result<Vec<UsedInPeriod>, StoreError> {
    let sql = &format!(
        "-- quota.used_in_periods
        WITH b AS MATERIALIZED (
            SELECT s.meter_id, w.period, o.id AS publisher, c.month, l.included_requests IS NOT NULL AS is_limited,
                coalesce(m.usage_from, c.month::timestamp AT TIME ZONE o.time_zone - k.ahead) AS starts_at,
                coalesce(m.usage_until, (c.month + interval '1 month') AT TIME ZONE o.time_zone - k.ahead) AS ends_at
            FROM unnest($1::bigint[], $2::int[]) AS w (subscription, period)
            JOIN subscriptions s ON s.meter_id = w.subscription
            JOIN plans l ON l.id = s.plan_id
            JOIN api_products p ON p.id = s.product_id
            JOIN organizations o ON o.id = p.organization_id
            CROSS JOIN LATERAL (SELECT make_date(w.period / 100, w.period % 100, 1) AS month) c
            CROSS JOIN LATERAL (SELECT make_interval(secs => coalesce((
                SELECT n.ahead_s FROM billing_clocks n WHERE n.organization_id = o.id), 0)) AS ahead) k
            LEFT JOIN billing_months m ON m.organization_id = o.id AND m.month = c.month),
        {LATE}
        SELECT b.meter_id, b.period, u.live::bigint
        FROM b {USED}"
    );
    let subscriptions: Vec<i64> = wanted.iter().map(|one| one.subscription).collect();
    let periods: Vec<i32> = wanted.iter().map(|one| one.period).collect();
    let read = |row: &Row| -> Result<UsedInPeriod, StoreError> {
        Ok(UsedInPeriod { subscription: row.try_get(0)?, period: row.try_get(1)?, used: row.try_get(2)? })
    };
    store
        .read("used_in_periods", |tx| {
            Box::pin(async move {
                let rows = tx.query_cached(sql, &[&subscriptions, &periods]).await?;
                rows.iter().map(read).collect()
            })
        })
        .await
}

/// The running periods of subscriptions whose plan has a quota, in the order of their meter ids.
pub async fn list_limited(tx: &Transaction<'_>, after: i64, limit: i64) -> Result<Vec<PeriodOf>, StoreError> {
    let sql = "-- quota.list_limited
        SELECT s.meter_id, s.period_id FROM subscriptions s JOIN plans l ON l.id = s.plan_id
        WHERE s.meter_id > $1 AND s.status <> 'cancelled' AND s.period_id > 0 AND l.included_requests IS NOT NULL
        ORDER BY s.meter_id LIMIT $2";
    let values: Values<'_> = &[&after, &limit];
    let read = |row: &Row| Ok(PeriodOf { subscription: row.try_get(0)?, period: row.try_get(1)? });
    tx.query_cached(sql, values).await?.iter().map(read).collect()
}
