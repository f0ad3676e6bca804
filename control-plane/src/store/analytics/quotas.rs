//! What subscriptions have used of their quota in the period that runs. Whole days that are long over are read from the
//! days' rollup, the others from the billing record, so that the sum is the billing record's.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::super::row::closed_text;
use super::super::{After, StoreError, Transaction};
use super::compose::Composed;
use super::source::Bound;
use crate::domain::analytics::{Filter, Scope};
use crate::domain::plan::QuotaMode;
use crate::domain::subscription::SubscriptionStatus;

#[derive(Clone, Debug)]
pub struct QuotaRow {
    pub id: Uuid,
    pub created_at: Timestamp,
    pub status: SubscriptionStatus,
    pub product_id: Uuid,
    pub product_name: String,
    pub plan_id: Uuid,
    pub plan_name: String,
    pub organization_id: Uuid,
    pub organization_name: String,
    /// `None`: no quota.
    pub included_requests: Option<i64>,
    pub quota_mode: QuotaMode,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    /// By live keys; test keys have their own.
    pub used: i64,
    pub used_by_test_keys: i64,
    /// When it was asked.
    pub now: Timestamp,
}

/// Of subscriptions that have a period; by the time they were made.
pub async fn list_quotas(
    tx: &Transaction<'_>,
    scope: Scope,
    filter: Filter,
    after: Option<After>,
    rows: i64,
) -> Result<Vec<QuotaRow>, StoreError> {
    let mut q = Composed::named("quotas");
    q.push(
        "WITH page AS MATERIALIZED (SELECT s.id, s.meter_id, s.created_at, s.status, s.product_id, s.plan_id, s.organization_id, \
         s.period_start, s.period_end FROM subscriptions s JOIN api_products p ON p.id = s.product_id \
         WHERE s.period_start IS NOT NULL",
    );
    let bound = Bound { scope, filter };
    bound.push_subscription_conditions(&mut q);
    if let Some(After { created_at, id }) = after {
        let (at, id) = (q.bind(created_at), q.bind(id));
        q.push(&format!(" AND (s.created_at, s.id) > ({at}, {id})"));
    }
    let most = q.bind(rows);
    q.push(&format!(" ORDER BY s.created_at, s.id LIMIT {most}){USED}"));
    q.rows(tx).await?.iter().map(QuotaRow::read).collect()
}

/// `first_day` to `last_day` (exclusive) are whole days of UTC within the period, the newest two left out: those may still
/// be made anew.
const USED: &str = ",
    bounds AS (SELECT g.*, (g.period_start + interval '1 day' - interval '1 microsecond') AT TIME ZONE 'UTC' AS first_end,
            least(g.period_end, now() - interval '1 day') AT TIME ZONE 'UTC' AS last_end FROM page g),
    days AS (SELECT b.*, date_trunc('day', b.first_end)::date AS first_day,
            greatest(date_trunc('day', b.first_end), date_trunc('day', b.last_end))::date AS last_day FROM bounds b)
    SELECT d.id, d.created_at, d.status, d.product_id, p.name AS product_name, d.plan_id, n.name AS plan_name, d.organization_id,
        o.name AS organization_name, n.included_requests, n.quota_mode, d.period_start, d.period_end, now() AS now,
        coalesce(u.live, 0)::bigint AS used, coalesce(u.test, 0)::bigint AS used_by_test_keys
    FROM days d JOIN api_products p ON p.id = d.product_id JOIN plans n ON n.id = d.plan_id
    JOIN organizations o ON o.id = d.organization_id
    CROSS JOIN LATERAL (
        SELECT sum(y.used) FILTER (WHERE y.environment = 'live') AS live, sum(y.used) FILTER (WHERE y.environment = 'test') AS test
        FROM (SELECT x.used, (SELECT k.environment FROM api_keys k WHERE k.meter_id = x.key_meter_id) AS environment FROM (
            SELECT r.key_meter_id, sum(r.admitted_count - r.failed_count) AS used FROM usage_days r
            WHERE r.subscription_meter_id = d.meter_id AND r.day >= d.first_day AND r.day < d.last_day GROUP BY 1
            UNION ALL
            SELECT r.key_meter_id, sum(r.admitted_count - r.failed_count) FROM usage_quarter_hours r
            WHERE r.subscription_meter_id = d.meter_id AND r.quarter_hour >= d.period_start
              AND r.quarter_hour < least(d.first_day::timestamp AT TIME ZONE 'UTC', d.period_end) GROUP BY 1
            UNION ALL
            SELECT r.key_meter_id, sum(r.admitted_count - r.failed_count) FROM usage_quarter_hours r
            WHERE r.subscription_meter_id = d.meter_id AND r.quarter_hour >= d.last_day::timestamp AT TIME ZONE 'UTC'
              AND r.quarter_hour < d.period_end GROUP BY 1
        ) x) y
    ) u ORDER BY d.created_at, d.id";

impl QuotaRow {
    fn read(row: &Row) -> Result<QuotaRow, StoreError> {
        Ok(QuotaRow {
            id: row.try_get("id")?,
            created_at: row.try_get("created_at")?,
            status: closed_text(row, "status", SubscriptionStatus::parse)?,
            product_id: row.try_get("product_id")?,
            product_name: row.try_get("product_name")?,
            plan_id: row.try_get("plan_id")?,
            plan_name: row.try_get("plan_name")?,
            organization_id: row.try_get("organization_id")?,
            organization_name: row.try_get("organization_name")?,
            included_requests: row.try_get("included_requests")?,
            quota_mode: closed_text(row, "quota_mode", QuotaMode::parse)?,
            period_start: row.try_get("period_start")?,
            period_end: row.try_get("period_end")?,
            used: row.try_get("used")?,
            used_by_test_keys: row.try_get("used_by_test_keys")?,
            now: row.try_get("now")?,
        })
    }
}
