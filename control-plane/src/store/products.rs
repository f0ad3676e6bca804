//! `api_products`: the draft settings of each product, its status and the pointer to its live release. Every statement but
//! `organization_of` is bound to the owning organization.

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::row::closed_text;
use super::{After, StoreError, Transaction};
use crate::domain::product::{Approval, Cors, ProductCaps, ProductStatus, ProductTerms, Visibility};

#[derive(Clone, Debug)]
pub struct ProductRow {
    pub id: Uuid,
    pub meter_id: i64,
    pub organization_id: Uuid,
    pub slug: String,
    pub name: String,
    pub description: String,
    pub category: Option<String>,
    pub visibility: Visibility,
    pub status: ProductStatus,
    pub approval: Approval,
    pub key_in_query: bool,
    pub body_bytes_max: i64,
    pub cors: Option<Cors>,
    pub caps: ProductCaps,
    pub hosts: Vec<String>,
    pub live_release_id: Option<Uuid>,
    pub live_release_number: Option<i32>,
    pub quarantine_reason: Option<String>,
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What a list is narrowed to; `None` takes everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProductFilter<'a> {
    pub status: Option<ProductStatus>,
    pub visibility: Option<Visibility>,
    pub search: Option<&'a str>,
}

/// How many rows of each kind keep a product from being deleted.
#[derive(Clone, Copy, Debug)]
pub struct ProductReferences {
    pub releases: i64,
    pub plans_sold: i64,
    pub subscriptions: i64,
}

macro_rules! columns {
    () => {
        "p.id, p.meter_id, p.organization_id, p.slug, p.name, p.description, p.category, p.visibility, p.status, p.approval, \
         p.key_in_query, p.body_bytes_max, p.cors, p.requests_in_flight_max, p.upstream_connections_max, p.hosts, p.live_release_id, \
         (SELECT r.number FROM releases r WHERE r.id = p.live_release_id) AS live_release_number, \
         p.quarantine_reason, p.version, p.created_at, p.updated_at"
    };
}

/// Whose product it is; the one question that is asked before the organization is known.
pub async fn organization_of(tx: &Transaction<'_>, id: Uuid) -> Result<Option<Uuid>, StoreError> {
    let sql = "-- products.organization_of\nSELECT organization_id FROM api_products WHERE id = $1";
    let row = tx.query_opt_cached(sql, &[&id]).await?;
    row.map(|row| row.try_get("organization_id").map_err(StoreError::from)).transpose()
}

pub async fn insert(
    tx: &Transaction<'_>,
    organization: Uuid,
    id: Uuid,
    terms: &ProductTerms,
) -> Result<ProductRow, StoreError> {
    let sql = concat!(
        "-- products.insert\n\
         INSERT INTO api_products AS p (id, organization_id, slug, name, description, category, visibility, approval, \
             key_in_query, body_bytes_max, cors) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING ",
        columns!()
    );
    let row = tx
        .query_one_cached(
            sql,
            &[
                &id,
                &organization,
                &terms.slug.as_str(),
                &terms.name.as_str(),
                &terms.description.as_str(),
                &terms.category.as_ref().map(|category| category.as_str()),
                &terms.visibility.as_str(),
                &terms.approval.as_str(),
                &terms.key_in_query,
                &terms.body_bytes_max,
                &terms.cors.as_ref().map(Json),
            ],
        )
        .await?;
    ProductRow::try_from(&row)
}

pub async fn count(tx: &Transaction<'_>, organization: Uuid) -> Result<i64, StoreError> {
    let sql = "-- products.count\nSELECT count(*) AS n FROM api_products WHERE organization_id = $1";
    Ok(tx.query_one_cached(sql, &[&organization]).await?.try_get("n")?)
}

pub async fn get(tx: &Transaction<'_>, organization: Uuid, id: Uuid) -> Result<Option<ProductRow>, StoreError> {
    let sql = concat!(
        "-- products.get\nSELECT ",
        columns!(),
        " FROM api_products p WHERE p.id = $1 AND p.organization_id = $2"
    );
    tx.query_opt_cached(sql, &[&id, &organization]).await?.as_ref().map(ProductRow::try_from).transpose()
}

/// As `get`, and keeps every other writer of the product waiting until the transaction ends.
pub async fn lock(tx: &Transaction<'_>, organization: Uuid, id: Uuid) -> Result<Option<ProductRow>, StoreError> {
    // Read by a statement of its own: one that had to wait would see the row of now, and of its releases those of when it began.
    let sql = "-- products.lock\nSELECT 1 FROM api_products WHERE id = $1 AND organization_id = $2 FOR NO KEY UPDATE";
    match tx.query_opt_cached(sql, &[&id, &organization]).await? {
        Some(_) => get(tx, organization, id).await,
        None => Ok(None),
    }
}

pub async fn list(
    tx: &Transaction<'_>,
    organization: Uuid,
    filter: ProductFilter<'_>,
    after: Option<After>,
    limit: i64,
) -> Result<Vec<ProductRow>, StoreError> {
    let sql = concat!(
        "-- products.list\nSELECT ",
        columns!(),
        " FROM api_products p WHERE p.organization_id = $1 \
          AND ($2::text IS NULL OR p.status = $2) AND ($3::text IS NULL OR p.visibility = $3) \
          AND ($4::text IS NULL OR strpos(lower(p.name), lower($4)) > 0 OR strpos(p.slug, lower($4)) > 0) \
          AND ($5::timestamptz IS NULL OR (p.created_at, p.id) > ($5, $6)) \
          ORDER BY p.created_at, p.id LIMIT $7"
    );
    let (created_at, after_id) = After::split(after);
    let rows = tx
        .query_cached(
            sql,
            &[
                &organization,
                &filter.status.map(ProductStatus::as_str),
                &filter.visibility.map(Visibility::as_str),
                &filter.search,
                &created_at,
                &after_id,
                &limit,
            ],
        )
        .await?;
    rows.iter().map(ProductRow::try_from).collect()
}

pub async fn update(
    tx: &Transaction<'_>,
    organization: Uuid,
    id: Uuid,
    terms: &ProductTerms,
) -> Result<ProductRow, StoreError> {
    let sql = concat!(
        "-- products.update\n\
         UPDATE api_products AS p SET slug = $3, name = $4, description = $5, category = $6, visibility = $7, approval = $8, \
             key_in_query = $9, body_bytes_max = $10, cors = $11 \
         WHERE p.id = $1 AND p.organization_id = $2 RETURNING ",
        columns!()
    );
    let row = tx
        .query_one_cached(
            sql,
            &[
                &id,
                &organization,
                &terms.slug.as_str(),
                &terms.name.as_str(),
                &terms.description.as_str(),
                &terms.category.as_ref().map(|category| category.as_str()),
                &terms.visibility.as_str(),
                &terms.approval.as_str(),
                &terms.key_in_query,
                &terms.body_bytes_max,
                &terms.cors.as_ref().map(Json),
            ],
        )
        .await?;
    ProductRow::try_from(&row)
}

/// Status and live release move in one statement, because the database demands that they agree. A fresh pointer also
/// ends a quarantine: it was about the release before.
pub async fn set_live(
    tx: &Transaction<'_>,
    organization: Uuid,
    id: Uuid,
    status: ProductStatus,
    release: Uuid,
) -> Result<ProductRow, StoreError> {
    let sql = concat!(
        "-- products.set_live\n\
         UPDATE api_products AS p SET status = $3, live_release_id = $4, quarantine_reason = NULL \
         WHERE p.id = $1 AND p.organization_id = $2 RETURNING ",
        columns!()
    );
    let row = tx.query_one_cached(sql, &[&id, &organization, &status.as_str(), &release]).await?;
    ProductRow::try_from(&row)
}

pub async fn set_status(
    tx: &Transaction<'_>,
    organization: Uuid,
    id: Uuid,
    status: ProductStatus,
) -> Result<ProductRow, StoreError> {
    let sql = concat!(
        "-- products.set_status\n\
         UPDATE api_products AS p SET status = $3 WHERE p.id = $1 AND p.organization_id = $2 RETURNING ",
        columns!()
    );
    let row = tx.query_one_cached(sql, &[&id, &organization, &status.as_str()]).await?;
    ProductRow::try_from(&row)
}

pub async fn set_caps(
    tx: &Transaction<'_>,
    organization: Uuid,
    id: Uuid,
    caps: ProductCaps,
) -> Result<ProductRow, StoreError> {
    let sql = concat!(
        "-- products.set_caps\n\
         UPDATE api_products AS p SET requests_in_flight_max = $3, upstream_connections_max = $4 \
         WHERE p.id = $1 AND p.organization_id = $2 RETURNING ",
        columns!()
    );
    let values = (&caps.requests_in_flight_max, &caps.upstream_connections_max);
    let row = tx.query_one_cached(sql, &[&id, &organization, values.0, values.1]).await?;
    ProductRow::try_from(&row)
}

pub async fn references(tx: &Transaction<'_>, organization: Uuid, id: Uuid) -> Result<ProductReferences, StoreError> {
    let sql = "-- products.references\n\
        SELECT (SELECT count(*) FROM releases r WHERE r.product_id = p.id) AS releases, \
               (SELECT count(*) FROM plans s WHERE s.product_id = p.id AND s.status <> 'draft') AS plans_sold, \
               (SELECT count(*) FROM subscriptions s WHERE s.product_id = p.id) AS subscriptions \
        FROM api_products p WHERE p.id = $1 AND p.organization_id = $2";
    let row = tx.query_one_cached(sql, &[&id, &organization]).await?;
    Ok(ProductReferences {
        releases: row.try_get("releases")?,
        plans_sold: row.try_get("plans_sold")?,
        subscriptions: row.try_get("subscriptions")?,
    })
}

/// Deletes a product that was never released, with its draft plans; its endpoints and hosts go by cascade.
pub async fn delete(tx: &Transaction<'_>, organization: Uuid, id: Uuid) -> Result<(), StoreError> {
    let plans = "-- products.delete_draft_plans\n\
        DELETE FROM plans s USING api_products p \
        WHERE s.product_id = p.id AND p.id = $1 AND p.organization_id = $2";
    tx.execute_cached(plans, &[&id, &organization]).await?;
    let sql = "-- products.delete\nDELETE FROM api_products WHERE id = $1 AND organization_id = $2";
    StoreError::expect_one("products.delete", tx.execute_cached(sql, &[&id, &organization]).await?)
}

impl TryFrom<&Row> for ProductRow {
    type Error = StoreError;
    fn try_from(row: &Row) -> Result<Self, StoreError> {
        Ok(ProductRow {
            id: row.try_get("id")?,
            meter_id: row.try_get("meter_id")?,
            organization_id: row.try_get("organization_id")?,
            slug: row.try_get("slug")?,
            name: row.try_get("name")?,
            description: row.try_get("description")?,
            category: row.try_get("category")?,
            visibility: closed_text(row, "visibility", Visibility::parse)?,
            status: closed_text(row, "status", ProductStatus::parse)?,
            approval: closed_text(row, "approval", Approval::parse)?,
            key_in_query: row.try_get("key_in_query")?,
            body_bytes_max: row.try_get("body_bytes_max")?,
            cors: row.try_get::<_, Option<Json<Cors>>>("cors")?.map(|Json(cors)| cors),
            caps: ProductCaps {
                requests_in_flight_max: row.try_get("requests_in_flight_max")?,
                upstream_connections_max: row.try_get("upstream_connections_max")?,
            },
            hosts: row.try_get("hosts")?,
            live_release_id: row.try_get("live_release_id")?,
            live_release_number: row.try_get("live_release_number")?,
            quarantine_reason: row.try_get("quarantine_reason")?,
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}
