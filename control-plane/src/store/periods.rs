//! Periods and ends of subscriptions that have come: found in batches, each row by one control plane at a time. Refuses to
//! know what a month is.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{StoreError, Transaction, Values};
use crate::domain::period::BillingPeriod;

/// A subscription whose period is over in its publisher's billing time, and locked.
#[derive(Clone, Debug)]
pub struct EndedPeriod {
    pub id: Uuid,
    /// The consumer's, in whose audit log it is read.
    pub organization_id: Uuid,
    pub period_id: i32,
    pub period_end: Timestamp,
    pub plan: Uuid,
    /// Waited for the period's end.
    pub next_plan: Option<Uuid>,
    /// Whose months these are.
    pub publisher: Uuid,
}

/// A subscription that has just ended.
#[derive(Clone, Copy, Debug)]
pub struct EndedSubscription {
    pub id: Uuid,
    pub organization_id: Uuid,
    pub cancelled_at: Timestamp,
}

/// Ends what was to end by now, `limit` at most. What another has locked is left to it, or to the next time.
pub async fn end_due(tx: &Transaction<'_>, limit: i64) -> Result<Vec<EndedSubscription>, StoreError> {
    let sql = "-- periods.end_due
        UPDATE subscriptions SET status = 'cancelled', cancelled_at = cancel_at, next_plan_id = NULL
        WHERE id IN (SELECT s.id FROM subscriptions s
            WHERE s.status <> 'cancelled' AND s.cancel_at <= now() + make_interval(secs => (
                SELECT coalesce(max(ahead_s), 0) FROM billing_clocks))
              AND s.cancel_at <= billing_now_of_product(s.product_id)
            ORDER BY s.cancel_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED)
        RETURNING id, organization_id, cancelled_at";
    let rows = tx.query_cached(sql, &[&limit]).await?;
    let read = |row: &Row| -> Result<EndedSubscription, StoreError> {
        Ok(EndedSubscription {
            id: row.try_get("id")?,
            organization_id: row.try_get("organization_id")?,
            cancelled_at: row.try_get("cancelled_at")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Subscriptions whose period is over, after the place `after`, `limit` at most. What another has locked is left out.
pub async fn lock_ended(
    tx: &Transaction<'_>,
    after: Option<(Timestamp, Uuid)>,
    limit: i64,
) -> Result<Vec<EndedPeriod>, StoreError> {
    let sql = "-- periods.lock_ended
        SELECT s.id, s.organization_id, s.period_id, s.period_end, s.plan_id, s.next_plan_id, p.organization_id AS publisher
        FROM subscriptions s JOIN api_products p ON p.id = s.product_id
        WHERE s.status <> 'cancelled' AND s.period_end <= now() + make_interval(secs => (
                SELECT coalesce(max(ahead_s), 0) FROM billing_clocks))
          AND s.period_end <= billing_now(p.organization_id)
          AND (s.cancel_at IS NULL OR s.cancel_at > billing_now(p.organization_id))
          AND ($1::timestamptz IS NULL OR (s.period_end, s.id) > ($1, $2))
        ORDER BY s.period_end, s.id LIMIT $3 FOR NO KEY UPDATE OF s SKIP LOCKED";
    let (end, id) = (after.map(|(end, _)| end), after.map(|(_, id)| id));
    tx.query_cached(sql, &[&end, &id, &limit]).await?.iter().map(EndedPeriod::read).collect()
}

/// The period that runs now; a plan that waited for it takes effect. Call it under the row's lock.
pub async fn advance(tx: &Transaction<'_>, id: Uuid, period: &BillingPeriod) -> Result<(), StoreError> {
    let sql = "-- periods.advance
        UPDATE subscriptions SET period_start = $2, period_end = $3, period_id = $4,
            plan_id = coalesce(next_plan_id, plan_id), next_plan_id = NULL
        WHERE id = $1 AND status <> 'cancelled'";
    let values: Values<'_> = &[&id, &period.starts_at, &period.ends_at, &period.id];
    StoreError::expect_one("periods.advance", tx.execute_cached(sql, values).await?)
}

impl EndedPeriod {
    fn read(row: &Row) -> Result<EndedPeriod, StoreError> {
        Ok(EndedPeriod {
            id: row.try_get("id")?,
            organization_id: row.try_get("organization_id")?,
            period_id: row.try_get("period_id")?,
            period_end: row.try_get("period_end")?,
            plan: row.try_get("plan_id")?,
            next_plan: row.try_get("next_plan_id")?,
            publisher: row.try_get("publisher")?,
        })
    }
}
