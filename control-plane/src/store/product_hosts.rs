//! `product_hosts`: who claims which host, and whose claim is proved. `api_products.hosts` follows by trigger.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{StoreError, Transaction};

#[derive(Clone, Debug)]
pub struct HostRow {
    pub product_id: Uuid,
    pub host: String,
    pub challenge: String,
    pub verified_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

pub async fn insert(
    tx: &Transaction<'_>,
    organization: Uuid,
    product: Uuid,
    host: &str,
    challenge: &str,
) -> Result<HostRow, StoreError> {
    let sql = "-- product_hosts.insert\n\
        INSERT INTO product_hosts (product_id, host, challenge) \
        SELECT p.id, $3, $4 FROM api_products p WHERE p.id = $1 AND p.organization_id = $2 \
        RETURNING product_id, host, challenge, verified_at, created_at";
    HostRow::try_from(&tx.query_one_cached(sql, &[&product, &organization, &host, &challenge]).await?)
}

pub async fn get(
    tx: &Transaction<'_>,
    organization: Uuid,
    product: Uuid,
    host: &str,
) -> Result<Option<HostRow>, StoreError> {
    let sql = "-- product_hosts.get\n\
        SELECT h.product_id, h.host, h.challenge, h.verified_at, h.created_at \
        FROM product_hosts h JOIN api_products p ON p.id = h.product_id \
        WHERE h.product_id = $1 AND p.organization_id = $2 AND h.host = $3";
    tx.query_opt_cached(sql, &[&product, &organization, &host]).await?.as_ref().map(HostRow::try_from).transpose()
}

/// All of a product's claims: their number is limited when they are made.
pub async fn list(tx: &Transaction<'_>, organization: Uuid, product: Uuid) -> Result<Vec<HostRow>, StoreError> {
    let sql = "-- product_hosts.list\n\
        SELECT h.product_id, h.host, h.challenge, h.verified_at, h.created_at \
        FROM product_hosts h JOIN api_products p ON p.id = h.product_id \
        WHERE h.product_id = $1 AND p.organization_id = $2 ORDER BY h.host";
    tx.query_cached(sql, &[&product, &organization]).await?.iter().map(HostRow::try_from).collect()
}

/// Marks the claim as proved. A host that somebody else proved first is a conflict.
pub async fn verify(
    tx: &Transaction<'_>,
    organization: Uuid,
    product: Uuid,
    host: &str,
) -> Result<Option<HostRow>, StoreError> {
    let sql = "-- product_hosts.verify\n\
        UPDATE product_hosts h SET verified_at = now() FROM api_products p \
        WHERE p.id = h.product_id AND h.product_id = $1 AND p.organization_id = $2 AND h.host = $3 \
        RETURNING h.product_id, h.host, h.challenge, h.verified_at, h.created_at";
    tx.query_opt_cached(sql, &[&product, &organization, &host]).await?.as_ref().map(HostRow::try_from).transpose()
}

pub async fn delete(tx: &Transaction<'_>, organization: Uuid, product: Uuid, host: &str) -> Result<bool, StoreError> {
    let sql = "-- product_hosts.delete\n\
        DELETE FROM product_hosts h USING api_products p \
        WHERE p.id = h.product_id AND h.product_id = $1 AND p.organization_id = $2 AND h.host = $3";
    Ok(tx.execute_cached(sql, &[&product, &organization, &host]).await? == 1)
}

impl TryFrom<&Row> for HostRow {
    type Error = StoreError;
    fn try_from(row: &Row) -> Result<Self, StoreError> {
        Ok(HostRow {
            product_id: row.try_get("product_id")?,
            host: row.try_get("host")?,
            challenge: row.try_get("challenge")?,
            verified_at: row.try_get("verified_at")?,
            created_at: row.try_get("created_at")?,
        })
    }
}
