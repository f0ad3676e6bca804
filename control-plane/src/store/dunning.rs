//! Subscriptions of pairs that have not paid: marked when an invoice falls due, freed when the last one that is due is paid.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::ratings::Pair;
use super::{StoreError, Transaction};

/// A pair with an invoice that is due and unpaid, where a subscription does not say so yet.
#[derive(Clone, Copy, Debug)]
pub struct Overdue {
    pub pair: Pair,
    /// The oldest such invoice.
    pub invoice: Uuid,
    pub due_at: Timestamp,
}

/// A subscription that was changed.
#[derive(Clone, Copy, Debug)]
pub struct Touched {
    pub id: Uuid,
    pub organization: Uuid,
}

pub async fn overdue(tx: &Transaction<'_>, limit: i64) -> Result<Vec<Overdue>, StoreError> {
    let sql = "-- dunning.overdue
        SELECT DISTINCT ON (i.consumer_organization_id, i.publisher_organization_id)
            i.consumer_organization_id, i.publisher_organization_id, i.id, i.due_at
        FROM invoices i
        WHERE i.status = 'issued' AND i.total > 0 AND i.due_at <= billing_now(i.publisher_organization_id) AND EXISTS (
            SELECT FROM subscriptions s JOIN api_products p ON p.id = s.product_id
            WHERE s.organization_id = i.consumer_organization_id AND p.organization_id = i.publisher_organization_id
              AND s.past_due_since IS NULL AND s.status IN ('active', 'suspended'))
        ORDER BY i.consumer_organization_id, i.publisher_organization_id, i.due_at, i.id LIMIT $1";
    let read = |row: &Row| -> Result<Overdue, StoreError> {
        Ok(Overdue {
            pair: Pair { consumer: row.try_get(0)?, publisher: row.try_get(1)? },
            invoice: row.try_get(2)?,
            due_at: row.try_get(3)?,
        })
    };
    tx.query_cached(sql, &[&limit]).await?.iter().map(read).collect()
}

/// From `refuse_from` on the gateways answer 402.
pub async fn mark(
    tx: &Transaction<'_>,
    pair: Pair,
    since: Timestamp,
    refuse_from: Timestamp,
) -> Result<Vec<Touched>, StoreError> {
    let sql = "-- dunning.mark
        UPDATE subscriptions s SET past_due_since = $3, refuse_unpaid_from = $4,
            status = CASE s.status WHEN 'active' THEN 'past_due' ELSE s.status END
        FROM api_products p
        WHERE p.id = s.product_id AND s.organization_id = $1 AND p.organization_id = $2 AND s.past_due_since IS NULL
          AND s.status IN ('active', 'suspended')
        RETURNING s.id, s.organization_id";
    let rows = tx.query_cached(sql, &[&pair.consumer, &pair.publisher, &since, &refuse_from]).await?;
    rows.iter().map(Touched::read).collect()
}

/// When nothing is due any more, the subscriptions are as before.
pub async fn clear(tx: &Transaction<'_>, pair: Pair) -> Result<Vec<Touched>, StoreError> {
    let sql = "-- dunning.clear
        UPDATE subscriptions s SET past_due_since = NULL, refuse_unpaid_from = NULL,
            status = CASE s.status WHEN 'past_due' THEN 'active' ELSE s.status END
        FROM api_products p
        WHERE p.id = s.product_id AND s.organization_id = $1 AND p.organization_id = $2 AND s.past_due_since IS NOT NULL
          AND s.status <> 'cancelled' AND NOT EXISTS (
            SELECT FROM invoices i WHERE i.consumer_organization_id = $1 AND i.publisher_organization_id = $2
              AND i.status = 'issued' AND i.total > 0 AND i.due_at <= billing_now($2))
        RETURNING s.id, s.organization_id";
    let rows = tx.query_cached(sql, &[&pair.consumer, &pair.publisher]).await?;
    rows.iter().map(Touched::read).collect()
}

impl Touched {
    fn read(row: &Row) -> Result<Touched, StoreError> {
        Ok(Touched { id: row.try_get(0)?, organization: row.try_get(1)? })
    }
}
