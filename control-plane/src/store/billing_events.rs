//! `billing_events`: the ledger, append-only. What happened is written once, whoever says it again. Prepaid credit is the sum of its
//! lines here, and nothing else.

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::ratings::Pair;
use super::{After, StoreError, Transaction, Values};

/// One line of the ledger, to be written.
#[derive(Clone, Debug)]
pub struct NewEvent<'a> {
    pub kind: &'a str,
    pub at: Timestamp,
    pub pair: Pair,
    pub subscription: Option<Uuid>,
    pub invoice: Option<Uuid>,
    /// With its currency.
    pub amount: Option<(Decimal, &'a str)>,
    pub details: Value,
    /// Says what happened, once.
    pub dedupe: String,
}

#[derive(Clone, Debug)]
pub struct EventRow {
    pub id: Uuid,
    pub kind: String,
    pub occurred_at: Timestamp,
    pub consumer: Uuid,
    pub publisher: Uuid,
    pub subscription: Option<Uuid>,
    pub invoice: Option<Uuid>,
    pub amount: Option<Decimal>,
    pub currency: Option<String>,
    pub details: Value,
    pub created_at: Timestamp,
}

/// What is left of prepaid credit with a publisher.
#[derive(Clone, Debug)]
pub struct CreditRow {
    pub publisher: Uuid,
    pub publisher_slug: String,
    pub publisher_name: String,
    pub currency: String,
    pub balance: Decimal,
}

/// Answers whether it is new.
pub async fn append(tx: &Transaction<'_>, event: &NewEvent<'_>) -> Result<bool, StoreError> {
    let sql = "-- billing_events.append
        INSERT INTO billing_events (id, occurred_at, kind, consumer_organization_id, publisher_organization_id, subscription_id,
            invoice_id, amount, currency, details, dedupe_key)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text, $10, $11) ON CONFLICT (dedupe_key) DO NOTHING";
    let values: Values<'_> = &[
        &Uuid::now_v7(),
        &event.at,
        &event.kind,
        &event.pair.consumer,
        &event.pair.publisher,
        &event.subscription,
        &event.invoice,
        &event.amount.map(|(amount, _)| amount),
        &event.amount.map(|(_, currency)| currency),
        &event.details,
        &event.dedupe,
    ];
    Ok(tx.execute_cached(sql, values).await? == 1)
}

/// Of either party, the oldest first. What the platform keeps is the publisher's business alone, and what a consumer means to spend the
/// consumer's. Each side has its index, read in order and no further than the page.
pub async fn list(
    tx: &Transaction<'_>,
    organization: Uuid,
    kind: Option<&str>,
    after: Option<After>,
    limit: i64,
) -> Result<Vec<EventRow>, StoreError> {
    let sql = "-- billing_events.list
        SELECT id, kind, occurred_at, consumer_organization_id, publisher_organization_id, subscription_id, invoice_id, amount,
            currency::text AS currency, details, created_at
        FROM ((
            SELECT * FROM billing_events
            WHERE consumer_organization_id = $1 AND (kind <> 'fee.charged' OR publisher_organization_id = $1)
              AND ($2::text IS NULL OR kind = $2) AND ($3::timestamptz IS NULL OR (created_at, id) > ($3, $4))
            ORDER BY created_at, id LIMIT $5
        ) UNION ALL (
            SELECT * FROM billing_events
            WHERE publisher_organization_id = $1 AND consumer_organization_id <> $1 AND kind <> 'alert.budget'
              AND ($2::text IS NULL OR kind = $2) AND ($3::timestamptz IS NULL OR (created_at, id) > ($3, $4))
            ORDER BY created_at, id LIMIT $5
        )) AS either ORDER BY created_at, id LIMIT $5";
    let (at, id) = After::split(after);
    tx.query_cached(sql, &[&organization, &kind, &at, &id, &limit]).await?.iter().map(EventRow::read).collect()
}

/// Prepaid credit that is left. Who spends it holds the pair's lock.
pub async fn credit(tx: &Transaction<'_>, pair: Pair, currency: &str) -> Result<Decimal, StoreError> {
    let sql = "-- billing_events.credit
        SELECT coalesce(sum(amount), 0) FROM billing_events WHERE consumer_organization_id = $1 AND publisher_organization_id = $2
            AND currency = $3::text AND kind LIKE 'credit.%'";
    Ok(tx.query_one_cached(sql, &[&pair.consumer, &pair.publisher, &currency]).await?.try_get(0)?)
}

/// A consumer's credit with everybody.
pub async fn credits_of(tx: &Transaction<'_>, consumer: Uuid) -> Result<Vec<CreditRow>, StoreError> {
    let sql = "-- billing_events.credits_of
        SELECT e.publisher_organization_id, o.slug, o.name, e.currency::text AS currency, sum(e.amount) AS balance
        FROM billing_events e JOIN organizations o ON o.id = e.publisher_organization_id
        WHERE e.consumer_organization_id = $1 AND e.kind LIKE 'credit.%'
        GROUP BY 1, 2, 3, 4 ORDER BY o.name, 1, 4 LIMIT 1000";
    let read = |row: &Row| -> Result<CreditRow, StoreError> {
        Ok(CreditRow {
            publisher: row.try_get(0)?,
            publisher_slug: row.try_get(1)?,
            publisher_name: row.try_get(2)?,
            currency: row.try_get(3)?,
            balance: row.try_get(4)?,
        })
    };
    tx.query_cached(sql, &[&consumer]).await?.iter().map(read).collect()
}

impl EventRow {
    fn read(row: &Row) -> Result<EventRow, StoreError> {
        Ok(EventRow {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            occurred_at: row.try_get("occurred_at")?,
            consumer: row.try_get("consumer_organization_id")?,
            publisher: row.try_get("publisher_organization_id")?,
            subscription: row.try_get("subscription_id")?,
            invoice: row.try_get("invoice_id")?,
            amount: row.try_get("amount")?,
            currency: row.try_get("currency")?,
            details: row.try_get("details")?,
            created_at: row.try_get("created_at")?,
        })
    }
}
