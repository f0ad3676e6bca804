//! What subscriptions have used of their quota in the period that runs, as `store::quota` counts it. Refuses to count itself.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::super::quota::{LATE, PERIODS, USED};
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
    /// In this period: a plan held for a part of it includes its part. `None`: no quota.
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
         s.period_id, s.period_start, s.period_end FROM subscriptions s JOIN api_products p ON p.id = s.product_id \
         WHERE s.period_start IS NOT NULL",
    );
    let bound = Bound { scope, filter };
    bound.push_subscription_conditions(&mut q);
    if let Some(After { created_at, id }) = after {
        let (at, id) = (q.bind(created_at), q.bind(id));
        q.push(&format!(" AND (s.created_at, s.id) > ({at}, {id})"));
    }
    let most = q.bind(rows);
    q.push(&format!(
        " ORDER BY s.created_at, s.id LIMIT {most}), {PERIODS}, {LATE}{COUNTS}{USED} ORDER BY b.created_at, b.id"
    ));
    q.rows(tx).await?.iter().map(QuotaRow::read).collect()
}

const COUNTS: &str = "
    SELECT b.id, b.created_at, b.status, b.product_id, p.name AS product_name, b.plan_id, n.name AS plan_name, b.organization_id,
        o.name AS organization_name, n.quota_mode, b.period_start, b.period_end, now() AS now,
        b.included AS included_requests, u.live::bigint AS used, u.test::bigint AS used_by_test_keys
    FROM b JOIN api_products p ON p.id = b.product_id JOIN plans n ON n.id = b.plan_id
    JOIN organizations o ON o.id = b.organization_id";

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
