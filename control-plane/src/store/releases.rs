//! `releases`: what went live, immutable. Nothing here updates or deletes.

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{After, StoreError, Transaction};

#[derive(Clone, Debug)]
pub struct ReleaseRow {
    pub id: Uuid,
    pub product_id: Uuid,
    pub number: i32,
    pub note: String,
    pub created_by: Uuid,
    pub created_at: Timestamp,
}

/// A release to be written.
#[derive(Debug)]
pub struct NewRelease<'a> {
    pub id: Uuid,
    pub product: Uuid,
    pub number: i32,
    pub compiled: &'a [u8],
    pub summary: &'a Value,
    pub note: &'a str,
    pub created_by: Uuid,
}

macro_rules! columns {
    () => {
        "r.id, r.product_id, r.number, r.note, r.created_by, r.created_at"
    };
}

/// Asked under the product's lock, so that two publishes never take the same number.
pub async fn next_number(tx: &Transaction<'_>, product: Uuid) -> Result<i32, StoreError> {
    let sql =
        "-- releases.next_number\nSELECT coalesce(max(number), 0) + 1 AS number FROM releases WHERE product_id = $1";
    Ok(tx.query_one_cached(sql, &[&product]).await?.try_get("number")?)
}

pub async fn insert(tx: &Transaction<'_>, new: &NewRelease<'_>) -> Result<ReleaseRow, StoreError> {
    let sql = concat!(
        "-- releases.insert\n\
         INSERT INTO releases AS r (id, product_id, number, compiled, summary, note, created_by) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING ",
        columns!()
    );
    let row = tx
        .query_one_cached(
            sql,
            &[&new.id, &new.product, &new.number, &new.compiled, &new.summary, &new.note, &new.created_by],
        )
        .await?;
    ReleaseRow::try_from(&row)
}

pub async fn get(
    tx: &Transaction<'_>,
    organization: Uuid,
    product: Uuid,
    number: i32,
) -> Result<Option<ReleaseRow>, StoreError> {
    let sql = concat!(
        "-- releases.get\nSELECT ",
        columns!(),
        " FROM releases r JOIN api_products p ON p.id = r.product_id \
          WHERE r.product_id = $1 AND p.organization_id = $2 AND r.number = $3"
    );
    tx.query_opt_cached(sql, &[&product, &organization, &number]).await?.as_ref().map(ReleaseRow::try_from).transpose()
}

/// What the release says, in readable form; it may be large, so it is read for one release at a time.
pub async fn summary(tx: &Transaction<'_>, id: Uuid) -> Result<Value, StoreError> {
    let sql = "-- releases.summary\nSELECT summary FROM releases WHERE id = $1";
    Ok(tx.query_one_cached(sql, &[&id]).await?.try_get("summary")?)
}

/// The bytes that gateways would be sent.
pub async fn compiled(tx: &Transaction<'_>, id: Uuid) -> Result<Vec<u8>, StoreError> {
    let sql = "-- releases.compiled\nSELECT compiled FROM releases WHERE id = $1";
    Ok(tx.query_one_cached(sql, &[&id]).await?.try_get("compiled")?)
}

pub async fn exist(tx: &Transaction<'_>, product: Uuid) -> Result<bool, StoreError> {
    let sql = "-- releases.exist\nSELECT EXISTS (SELECT FROM releases WHERE product_id = $1) AS found";
    Ok(tx.query_one_cached(sql, &[&product]).await?.try_get("found")?)
}

pub async fn list(
    tx: &Transaction<'_>,
    organization: Uuid,
    product: Uuid,
    after: Option<After>,
    limit: i64,
) -> Result<Vec<ReleaseRow>, StoreError> {
    let sql = concat!(
        "-- releases.list\nSELECT ",
        columns!(),
        " FROM releases r JOIN api_products p ON p.id = r.product_id \
          WHERE r.product_id = $1 AND p.organization_id = $2 \
          AND ($3::timestamptz IS NULL OR (r.created_at, r.id) > ($3, $4)) ORDER BY r.created_at, r.id LIMIT $5"
    );
    let (created_at, id) = After::split(after);
    let rows = tx.query_cached(sql, &[&product, &organization, &created_at, &id, &limit]).await?;
    rows.iter().map(ReleaseRow::try_from).collect()
}

impl TryFrom<&Row> for ReleaseRow {
    type Error = StoreError;
    fn try_from(row: &Row) -> Result<Self, StoreError> {
        Ok(ReleaseRow {
            id: row.try_get("id")?,
            product_id: row.try_get("product_id")?,
            number: row.try_get("number")?,
            note: row.try_get("note")?,
            created_by: row.try_get("created_by")?,
            created_at: row.try_get("created_at")?,
        })
    }
}
