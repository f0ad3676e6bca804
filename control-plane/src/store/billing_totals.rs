//! The state of billing in numbers: what is held back, unpaid or warned of. Reads through small indexes only; names nobody.

use super::{StoreError, Transaction};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BillingTotals {
    /// Drafts of months that are over.
    pub held_back: i64,
    /// Seconds since the oldest of their months ended.
    pub held_back_s: i64,
    /// Of them, for want of a gateway's usage, for a difference in the audit, and for the hour of grace alone.
    pub held_back_by_gateways: i64,
    pub held_back_by_audit: i64,
    pub held_back_by_grace: i64,
    /// Invoices that are due and not paid.
    pub overdue: i64,
    /// Subscriptions that are past due, and those that gateways refuse for it.
    pub past_due: i64,
    pub refused_unpaid: i64,
    /// Warnings of the last day.
    pub budget_alerts: i64,
    pub quota_alerts: i64,
}

pub async fn find_billing_totals(tx: &Transaction<'_>) -> Result<BillingTotals, StoreError> {
    let sql = "-- find_billing_totals
        WITH held AS (
            SELECT period_end, EXISTS (SELECT FROM unnest(held_back) r WHERE r LIKE 'The rollups of %') AS by_audit,
                EXISTS (SELECT FROM unnest(held_back) r WHERE r NOT LIKE 'The rollups of %' AND r NOT LIKE 'usage may still arrive %')
                    AS by_gateway
            FROM invoices WHERE status = 'draft' AND cardinality(held_back) > 0)
        SELECT h.*, u.*, s.*, a.* FROM
            (SELECT count(*) AS held_back,
                coalesce(extract(epoch FROM greatest(now() - min(period_end), interval '0')), 0)::bigint AS held_back_s,
                count(*) FILTER (WHERE by_gateway) AS by_gateways, count(*) FILTER (WHERE by_audit) AS by_audit,
                count(*) FILTER (WHERE NOT by_gateway AND NOT by_audit) AS by_grace FROM held) h,
            (SELECT count(*) AS overdue FROM invoices
                WHERE status = 'issued' AND due_at <= billing_now(publisher_organization_id)) u,
            (SELECT count(*) AS past_due, count(*) FILTER (WHERE refuse_unpaid_from <= billing_now_of_product(product_id)) AS refused
                FROM subscriptions WHERE past_due_since IS NOT NULL) s,
            (SELECT count(*) FILTER (WHERE kind = 'alert.budget') AS budget, count(*) FILTER (WHERE kind = 'alert.quota') AS quota
                FROM billing_events WHERE kind LIKE 'alert.%' AND created_at > now() - interval '1 day') a";
    let row = tx.query_one_cached(sql, &[]).await?;
    Ok(BillingTotals {
        held_back: row.try_get("held_back")?,
        held_back_s: row.try_get("held_back_s")?,
        held_back_by_gateways: row.try_get("by_gateways")?,
        held_back_by_audit: row.try_get("by_audit")?,
        held_back_by_grace: row.try_get("by_grace")?,
        overdue: row.try_get("overdue")?,
        past_due: row.try_get("past_due")?,
        refused_unpaid: row.try_get("refused")?,
        budget_alerts: row.try_get("budget")?,
        quota_alerts: row.try_get("quota")?,
    })
}
