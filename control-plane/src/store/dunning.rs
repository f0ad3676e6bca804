//! Subscriptions of pairs that have not paid: marked when an invoice falls due, freed when the last one that is due is paid.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::ratings::Pair;
use super::{StoreError, Transaction};

/// An invoice that is due and unpaid.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub invoice: Uuid,
    pub at: Timestamp,
}

/// A subscription that was changed.
#[derive(Clone, Copy, Debug)]
pub struct Touched {
    pub id: Uuid,
    pub organization: Uuid,
}

/// What makes an invoice `i` one that is due and unpaid.
macro_rules! is_due {
    () => {
        "i.status = 'issued' AND i.total > 0 AND i.due_at <= billing_now(i.publisher_organization_id)"
    };
}

/// Pairs with a due invoice, where a subscription does not say so yet; of everybody or one publisher, `limit` of them after `after`.
pub async fn overdue(
    tx: &Transaction<'_>,
    only: Option<Uuid>,
    after: Option<Pair>,
    limit: i64,
) -> Result<Vec<Pair>, StoreError> {
    let sql = concat!(
        "-- dunning.overdue
        SELECT DISTINCT i.consumer_organization_id, i.publisher_organization_id FROM invoices i WHERE ",
        is_due!(),
        " AND ($1::uuid IS NULL OR i.publisher_organization_id = $1)
          AND ($2::uuid IS NULL OR (i.consumer_organization_id, i.publisher_organization_id) > ($2, $3)) AND EXISTS (
            SELECT FROM subscriptions s JOIN api_products p ON p.id = s.product_id
            WHERE s.organization_id = i.consumer_organization_id AND p.organization_id = i.publisher_organization_id
              AND s.past_due_since IS NULL AND s.status IN ('active', 'suspended'))
        ORDER BY 1, 2 LIMIT $4"
    );
    let (consumer, publisher) = (after.map(|pair| pair.consumer), after.map(|pair| pair.publisher));
    let rows = tx.query_cached(sql, &[&only, &consumer, &publisher, &limit]).await?;
    rows.iter().map(|row| Ok(Pair { consumer: row.try_get(0)?, publisher: row.try_get(1)? })).collect()
}

/// Of the pair's due invoices the one that was due first. It stays so while the caller holds the pair's lock.
pub async fn oldest_due(tx: &Transaction<'_>, pair: Pair) -> Result<Option<Due>, StoreError> {
    let sql = concat!(
        "-- dunning.oldest_due
        SELECT i.id, i.due_at FROM invoices i
        WHERE i.consumer_organization_id = $1 AND i.publisher_organization_id = $2 AND ",
        is_due!(),
        " ORDER BY i.due_at, i.id LIMIT 1"
    );
    let found = tx.query_opt_cached(sql, &[&pair.consumer, &pair.publisher]).await?;
    found.map(|row| Ok(Due { invoice: row.try_get(0)?, at: row.try_get(1)? })).transpose()
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
    let sql = concat!(
        "-- dunning.clear
        UPDATE subscriptions s SET past_due_since = NULL, refuse_unpaid_from = NULL,
            status = CASE s.status WHEN 'past_due' THEN 'active' ELSE s.status END
        FROM api_products p
        WHERE p.id = s.product_id AND s.organization_id = $1 AND p.organization_id = $2 AND s.past_due_since IS NOT NULL
          AND s.status <> 'cancelled' AND NOT EXISTS (
            SELECT FROM invoices i WHERE i.consumer_organization_id = $1 AND i.publisher_organization_id = $2 AND ",
        is_due!(),
        ")
        RETURNING s.id, s.organization_id"
    );
    let rows = tx.query_cached(sql, &[&pair.consumer, &pair.publisher]).await?;
    rows.iter().map(Touched::read).collect()
}

impl Touched {
    fn read(row: &Row) -> Result<Touched, StoreError> {
        Ok(Touched { id: row.try_get(0)?, organization: row.try_get(1)? })
    }
}
