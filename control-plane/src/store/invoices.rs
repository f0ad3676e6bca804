//! `invoices` and `invoice_lines`: drafts are written anew as often as need be; what is issued never changes, and the database sees to
//! it. Reads name the organization that asks, which is either party. Refuses to compute.

use jiff::Timestamp;
use jiff::civil::Date;
use rust_decimal::Decimal;
use tokio_postgres::Row;
use uuid::Uuid;

use super::billing_months::MonthRow;
use super::ratings::Pair;
use super::row::closed_text;
use super::{After, StoreError, Transaction, Values};
use crate::domain::invoice::{InvoiceStatus, Line, LineKind};

#[derive(Clone, Debug)]
pub struct InvoiceRow {
    pub id: Uuid,
    pub number: Option<String>,
    pub consumer: Uuid,
    pub consumer_name: String,
    pub consumer_slug: String,
    pub publisher: Uuid,
    pub publisher_name: String,
    pub publisher_slug: String,
    pub month: Date,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    pub time_zone: String,
    pub currency: String,
    pub status: InvoiceStatus,
    pub total: Decimal,
    pub held_back: Vec<String>,
    pub fee_percent: Decimal,
    pub fee: Decimal,
    pub issued_at: Option<Timestamp>,
    pub due_at: Option<Timestamp>,
    pub paid_at: Option<Timestamp>,
    pub voided_at: Option<Timestamp>,
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

pub type LineRow = Line<Decimal>;

/// Which list is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    Received(Uuid),
    Issued(Uuid),
    /// An operator's.
    All,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct InvoiceFilter {
    pub status: Option<InvoiceStatus>,
    pub month: Option<Date>,
}

/// What is set when an invoice is issued.
#[derive(Clone, Copy, Debug)]
pub struct Issue {
    pub total: Decimal,
    pub fee_percent: Decimal,
    pub fee: Decimal,
    pub at: Timestamp,
    pub due_at: Timestamp,
}

macro_rules! columns {
    () => {
        "SELECT i.id, i.number, i.consumer_organization_id, c.name AS consumer_name, c.slug AS consumer_slug, \
         i.publisher_organization_id, p.name AS publisher_name, p.slug AS publisher_slug, i.month, i.period_start, i.period_end, \
         i.time_zone, i.currency::text AS currency, i.status, i.total, i.held_back, i.fee_percent, i.fee, i.issued_at, i.due_at, \
         i.paid_at, i.voided_at, i.version, i.created_at, i.updated_at FROM invoices i \
         JOIN organizations c ON c.id = i.consumer_organization_id JOIN organizations p ON p.id = i.publisher_organization_id "
    };
}

pub async fn get(tx: &Transaction<'_>, id: Uuid) -> Result<Option<InvoiceRow>, StoreError> {
    let sql = concat!("-- invoices.get\n", columns!(), "WHERE i.id = $1");
    tx.query_opt_cached(sql, &[&id]).await?.as_ref().map(InvoiceRow::read).transpose()
}

/// As `get`, and keeps other writers waiting.
pub async fn lock(tx: &Transaction<'_>, id: Uuid) -> Result<Option<InvoiceRow>, StoreError> {
    let sql = concat!("-- invoices.lock\n", columns!(), "WHERE i.id = $1 FOR NO KEY UPDATE OF i");
    tx.query_opt_cached(sql, &[&id]).await?.as_ref().map(InvoiceRow::read).transpose()
}

pub async fn pair_of(tx: &Transaction<'_>, id: Uuid) -> Result<Option<Pair>, StoreError> {
    let sql = "-- invoices.pair_of
        SELECT consumer_organization_id, publisher_organization_id FROM invoices WHERE id = $1";
    let Some(row) = tx.query_opt_cached(sql, &[&id]).await? else { return Ok(None) };
    Ok(Some(Pair { consumer: row.try_get(0)?, publisher: row.try_get(1)? }))
}

pub async fn list(
    tx: &Transaction<'_>,
    side: Side,
    filter: InvoiceFilter,
    after: Option<After>,
    limit: i64,
) -> Result<Vec<InvoiceRow>, StoreError> {
    macro_rules! page {
        ($name:literal, $of:literal) => {
            concat!(
                "-- ",
                $name,
                "\n",
                columns!(),
                "WHERE ",
                $of,
                " AND ($2::text IS NULL OR i.status = $2) AND ($3::date IS NULL OR i.month = $3) \
                 AND ($4::timestamptz IS NULL OR (i.created_at, i.id) > ($4, $5)) ORDER BY i.created_at, i.id LIMIT $6"
            )
        };
    }
    let (sql, organization) = match side {
        Side::Received(organization) => {
            (page!("invoices.list_received", "i.consumer_organization_id = $1"), Some(organization))
        }
        Side::Issued(organization) => {
            (page!("invoices.list_issued", "i.publisher_organization_id = $1"), Some(organization))
        }
        Side::All => (page!("invoices.list_all", "$1::uuid IS NULL"), None),
    };
    let status = filter.status.map(InvoiceStatus::as_str);
    let (at, id) = After::split(after);
    let values: Values<'_> = &[&organization, &status, &filter.month, &at, &id, &limit];
    tx.query_cached(sql, values).await?.iter().map(InvoiceRow::read).collect()
}

pub async fn lines(tx: &Transaction<'_>, invoice: Uuid) -> Result<Vec<LineRow>, StoreError> {
    let sql = "-- invoices.lines
        SELECT kind, subscription_id, plan_id, month, description, quantity, unit_price, amount, period_start, period_end
        FROM invoice_lines WHERE invoice_id = $1 ORDER BY position";
    tx.query_cached(sql, &[&invoice]).await?.iter().map(LineRow::read).collect()
}

/// The draft of the pair's month; made, or emptied to be written anew. `None`: it was issued already.
pub async fn fresh_draft(
    tx: &Transaction<'_>,
    pair: Pair,
    month: &MonthRow,
    currency: &str,
) -> Result<Option<Uuid>, StoreError> {
    let sql = "-- invoices.make_draft
        INSERT INTO invoices (id, consumer_organization_id, publisher_organization_id, month, period_start, period_end, time_zone, currency)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text) ON CONFLICT DO NOTHING";
    let values: Values<'_> = &[
        &Uuid::now_v7(),
        &pair.consumer,
        &pair.publisher,
        &month.month,
        &month.starts_at,
        &month.ends_at,
        &month.time_zone,
        &currency,
    ];
    tx.execute_cached(sql, values).await?;
    let sql = "-- invoices.find_draft
        SELECT id FROM invoices WHERE consumer_organization_id = $1 AND publisher_organization_id = $2 AND month = $3
            AND currency = $4::text AND status = 'draft' FOR NO KEY UPDATE";
    let found = tx.query_opt_cached(sql, &[&pair.consumer, &pair.publisher, &month.month, &currency]).await?;
    let Some(row) = found else { return Ok(None) };
    let id: Uuid = row.try_get(0)?;
    tx.execute_cached("-- invoices.empty_draft\nDELETE FROM invoice_lines WHERE invoice_id = $1", &[&id]).await?;
    Ok(Some(id))
}

pub async fn add_line(tx: &Transaction<'_>, invoice: Uuid, position: i32, line: &LineRow) -> Result<(), StoreError> {
    let sql = "-- invoices.add_line
        INSERT INTO invoice_lines (id, invoice_id, position, kind, subscription_id, plan_id, month, description, quantity, unit_price,
            amount, period_start, period_end)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
    let values: Values<'_> = &[
        &Uuid::now_v7(),
        &invoice,
        &position,
        &line.kind.as_str(),
        &line.subscription,
        &line.plan,
        &line.month,
        &line.description,
        &line.quantity,
        &line.unit_price,
        &line.amount,
        &line.from,
        &line.until,
    ];
    StoreError::expect_one("invoices.add_line", tx.execute_cached(sql, values).await?)
}

/// Whether a draft says the same reasons already, and was written within the last hour.
pub async fn has_recent_draft(
    tx: &Transaction<'_>,
    pair: Pair,
    month: Date,
    reasons: &[String],
) -> Result<bool, StoreError> {
    let sql = "-- invoices.has_recent_draft
        SELECT EXISTS (SELECT FROM invoices WHERE consumer_organization_id = $1 AND publisher_organization_id = $2 AND month = $3
            AND status = 'draft' AND held_back = $4 AND updated_at > now() - interval '1 hour')";
    Ok(tx.query_one_cached(sql, &[&pair.consumer, &pair.publisher, &month, &reasons]).await?.try_get(0)?)
}

/// What keeps a draft from being issued, and what it would come to.
pub async fn hold_back(tx: &Transaction<'_>, id: Uuid, reasons: &[String], total: Decimal) -> Result<(), StoreError> {
    let sql =
        "-- invoices.hold_back\nUPDATE invoices SET held_back = $2, total = $3 WHERE id = $1 AND status = 'draft'";
    StoreError::expect_one("invoices.hold_back", tx.execute_cached(sql, &[&id, &reasons, &total]).await?)
}

/// Gives the publisher's next number and issues. Answers the number.
pub async fn issue(tx: &Transaction<'_>, id: Uuid, publisher: Uuid, issue: &Issue) -> Result<String, StoreError> {
    let sql = "-- invoices.next_number
        INSERT INTO invoice_numbers AS n (publisher_organization_id, last_sequence) VALUES ($1, 1)
        ON CONFLICT (publisher_organization_id) DO UPDATE SET last_sequence = n.last_sequence + 1 RETURNING last_sequence";
    let sequence: i64 = tx.query_one_cached(sql, &[&publisher]).await?.try_get(0)?;
    let number = format!("INV-{sequence:06}");
    let sql = "-- invoices.issue
        UPDATE invoices SET status = 'issued', number = $2, sequence = $3, held_back = '{}', total = $4, fee_percent = $5, fee = $6,
            issued_at = $7, due_at = $8 WHERE id = $1 AND status = 'draft'";
    let values: Values<'_> =
        &[&id, &number, &sequence, &issue.total, &issue.fee_percent, &issue.fee, &issue.at, &issue.due_at];
    StoreError::expect_one("invoices.issue", tx.execute_cached(sql, values).await?)?;
    Ok(number)
}

pub async fn pay(tx: &Transaction<'_>, id: Uuid, at: Timestamp) -> Result<(), StoreError> {
    let sql = "-- invoices.pay\nUPDATE invoices SET status = 'paid', paid_at = $2 WHERE id = $1 AND status = 'issued'";
    StoreError::expect_one("invoices.pay", tx.execute_cached(sql, &[&id, &at]).await?)
}

pub async fn void(tx: &Transaction<'_>, id: Uuid, at: Timestamp) -> Result<(), StoreError> {
    let sql =
        "-- invoices.void\nUPDATE invoices SET status = 'void', voided_at = $2 WHERE id = $1 AND status = 'issued'";
    StoreError::expect_one("invoices.void", tx.execute_cached(sql, &[&id, &at]).await?)
}

/// A draft that nothing stands on any more, where the pair owes nothing.
pub async fn drop_drafts(tx: &Transaction<'_>, pair: Pair, month: Date, keep: &[String]) -> Result<(), StoreError> {
    let sql = "-- invoices.drop_drafts
        DELETE FROM invoices WHERE consumer_organization_id = $1 AND publisher_organization_id = $2 AND month = $3
            AND status = 'draft' AND NOT currency::text = ANY ($4)";
    tx.execute_cached(sql, &[&pair.consumer, &pair.publisher, &month, &keep]).await.map(|_| ())
}

/// Issued invoices of a month or all, for whoever verifies them; by id.
pub async fn issued(
    tx: &Transaction<'_>,
    only: Option<Uuid>,
    month: Option<Date>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<InvoiceRow>, StoreError> {
    let sql = concat!(
        "-- invoices.issued\n",
        columns!(),
        "WHERE i.status <> 'draft' AND ($1::uuid IS NULL OR i.id = $1) AND ($2::date IS NULL OR i.month = $2) \
         AND ($3::uuid IS NULL OR i.id > $3) ORDER BY i.id LIMIT $4"
    );
    tx.query_cached(sql, &[&only, &month, &after, &limit]).await?.iter().map(InvoiceRow::read).collect()
}

/// Publishers whose numbers are not 1 to the last one given.
pub async fn number_gaps(tx: &Transaction<'_>) -> Result<Vec<Uuid>, StoreError> {
    let sql = "-- invoices.number_gaps
        SELECT n.publisher_organization_id FROM invoice_numbers n
        LEFT JOIN invoices i ON i.publisher_organization_id = n.publisher_organization_id AND i.sequence IS NOT NULL
        GROUP BY 1, n.last_sequence HAVING count(i.id) <> n.last_sequence OR max(i.sequence) <> n.last_sequence ORDER BY 1";
    let rows = tx.query_cached(sql, &[]).await?;
    rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}

/// What the ledger says that the invoice took from credit (below zero) or gave.
pub async fn credit_spent(tx: &Transaction<'_>, invoice: Uuid) -> Result<Decimal, StoreError> {
    let sql = "-- invoices.credit_spent
        SELECT coalesce(sum(amount), 0) FROM billing_events WHERE invoice_id = $1 AND kind IN ('credit.used', 'credit.kept')";
    Ok(tx.query_one_cached(sql, &[&invoice]).await?.try_get(0)?)
}

/// Whether the pair has an issued invoice of a later month.
pub async fn has_later(tx: &Transaction<'_>, pair: Pair, month: Date, currency: &str) -> Result<bool, StoreError> {
    let sql = "-- invoices.has_later
        SELECT EXISTS (SELECT FROM invoices WHERE consumer_organization_id = $1 AND publisher_organization_id = $2 AND month > $3
            AND currency = $4::text AND status <> 'draft')";
    Ok(tx.query_one_cached(sql, &[&pair.consumer, &pair.publisher, &month, &currency]).await?.try_get(0)?)
}

impl InvoiceRow {
    pub fn pair(&self) -> Pair {
        Pair { consumer: self.consumer, publisher: self.publisher }
    }

    fn read(row: &Row) -> Result<InvoiceRow, StoreError> {
        Ok(InvoiceRow {
            id: row.try_get("id")?,
            number: row.try_get("number")?,
            consumer: row.try_get("consumer_organization_id")?,
            consumer_name: row.try_get("consumer_name")?,
            consumer_slug: row.try_get("consumer_slug")?,
            publisher: row.try_get("publisher_organization_id")?,
            publisher_name: row.try_get("publisher_name")?,
            publisher_slug: row.try_get("publisher_slug")?,
            month: row.try_get("month")?,
            period_start: row.try_get("period_start")?,
            period_end: row.try_get("period_end")?,
            time_zone: row.try_get("time_zone")?,
            currency: row.try_get("currency")?,
            status: closed_text(row, "status", InvoiceStatus::parse)?,
            total: row.try_get("total")?,
            held_back: row.try_get("held_back")?,
            fee_percent: row.try_get("fee_percent")?,
            fee: row.try_get("fee")?,
            issued_at: row.try_get("issued_at")?,
            due_at: row.try_get("due_at")?,
            paid_at: row.try_get("paid_at")?,
            voided_at: row.try_get("voided_at")?,
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}

impl LineRow {
    fn read(row: &Row) -> Result<LineRow, StoreError> {
        Ok(LineRow {
            kind: closed_text(row, "kind", LineKind::parse)?,
            subscription: row.try_get("subscription_id")?,
            plan: row.try_get("plan_id")?,
            month: row.try_get("month")?,
            description: row.try_get("description")?,
            quantity: row.try_get("quantity")?,
            unit_price: row.try_get("unit_price")?,
            amount: row.try_get("amount")?,
            from: row.try_get("period_start")?,
            until: row.try_get("period_end")?,
        })
    }
}
